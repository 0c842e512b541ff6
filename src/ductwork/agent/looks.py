"""Looking at the whole, in a thread of its own.

Invariant: it changes nothing; what it has found may be outdated when it is read, so that it decides no more than whether to
apply. The thread has an engine of its own, since an engine is used in the thread that made it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from ductwork.agent.keeping import Figures
from ductwork.engine import Engine
from ductwork.errors import DuctworkError
from ductwork.inspect.ps import rows
from ductwork.site.model import Site


@dataclass(frozen=True, slots=True)
class Found:
    """`differs`: something is to be done, or could not be looked at. `why`: what led to the look. `figures`: None, where it
    could not be looked at."""

    differs: bool
    why: str
    figures: Figures | None = None


class Looks:
    """`build`: makes the thread's engine, in the thread."""

    def __init__(self, build: Callable[[], Engine]) -> None:
        self._build = build
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="look")
        self._engine: Engine | None = None
        self._under_way: Future[Found] | None = None
        self.busy = False
        self._ended = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def __enter__(self) -> Looks:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.submit(self._close).result()
        self._thread.shutdown()
        os.close(self._ended)

    def fileno(self) -> int:
        """Can be read when a look has ended."""
        return self._ended

    def begin(self, site: Site, host: str, why: str) -> None:
        assert not self.busy
        self.busy = True
        self._under_way = self._thread.submit(self._look, site, host, why)

    def take(self) -> Found | None:
        """What the look has found, once; None: it goes on, or there is none. Errors: what is none of a person's."""
        try:
            os.eventfd_read(self._ended)
        except BlockingIOError:
            return None
        assert self._under_way
        self.busy = False
        return self._under_way.result()

    def _look(self, site: Site, host: str, why: str) -> Found:
        try:
            self._engine = self._engine or self._build()
            preview = self._engine.plan(site, host)
            attached = sum(1 for _ in rows(preview.observation, {}))
            figures = Figures(attached, preview.observation.waiting, self._engine.free_addresses(site, host))
            return Found(bool(preview.plan.operations) or preview.unsure, why, figures)
        except (DuctworkError, OSError) as error:
            return Found(True, f"{why}: {error}")
        finally:
            os.eventfd_write(self._ended, 1)

    def _close(self) -> None:
        if self._engine:
            self._engine.close()
