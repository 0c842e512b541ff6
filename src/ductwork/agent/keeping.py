"""What the agent keeps, shared by its loop and by those who carry out what people ask it for.

Invariant: the loop changes nothing of its own accord while a person's change is under way, nor mends what a person has taken
away: then the agent rests, until that site is applied again, its file changes, or the agent starts anew.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from ductwork.engine import Engine
from ductwork.errors import DuctworkError
from ductwork.notices import Notice
from ductwork.requests import Apply, Confirm, Destroy, Request, Undo
from ductwork.resources import IPNetwork
from ductwork.site.model import Site


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the agent keeps true: a site's part on `host`. `dad`: whether to ask for addresses that are new here."""

    site: Site
    host: str
    dad: bool = True


@dataclass(frozen=True, slots=True)
class Figures:
    """What the last look has found. `waiting`: container → why; `free`: (network, subnet) → addresses that are nobody's."""

    attachments: int = 0
    waiting: Mapping[str, str] = field(default_factory=dict)
    free: Mapping[tuple[str, IPNetwork], int] = field(default_factory=dict)


class Keeping:
    """`file`: the site file as it is now; `file_name`: what it is called. `turn` is held by whoever changes something."""

    def __init__(self, wishes: Wishes, file: Callable[[], Site], file_name: str, tell: Callable[[Notice], None]) -> None:
        self.turn = threading.Lock()
        self.wishes = wishes
        self.figures = Figures()
        self.rests = False
        self._changed = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._unconfirmed = False
        """Whether it keeps the site again once the change that awaits confirmation is confirmed."""
        self._file = file
        self._file_name = file_name
        self._tell = tell

    def fileno(self) -> int:
        """Can be read when somebody has changed something by request, until `take`."""
        return self._changed

    def take(self) -> None:
        os.eventfd_read(self._changed)

    def keep(self, wishes: Wishes) -> None:
        """From now on this, also where the agent rested. For who has the turn."""
        self.wishes = wishes
        self._resume()

    def wanted(self) -> Site:
        """What a container is plugged into: while the agent rests, what was attached by hand alone."""
        return replace(self.wishes.site, attachments=(), labels={}) if self.rests else self.wishes.site

    @contextmanager
    def change(self, request: Request[Any], site: Site | None, engine: Engine) -> Iterator[list[str]]:
        """Around what a person asks for (`front.local.Around`)."""
        notes: list[str] = []
        with self.turn:
            try:
                yield notes
            finally:
                os.eventfd_write(self._changed, 1)
            name = self.wishes.site.name
            if isinstance(request, Apply):
                self._unconfirmed = False  # else it would have been refused: nothing awaits any more
            match request:
                case Confirm():
                    if self._unconfirmed:
                        self._resume()
                case Destroy() if site is None or site.name == name:
                    self._rest(notes)
                case Undo():
                    self._undone(notes, engine)
                case Apply(host=host) if site and site.name == name:
                    self._applied(notes, awaiting=bool(request.confirm_seconds and engine.awaiting()))
                    if site != self._kept() or host not in ("", self.wishes.host):
                        notes.append(
                            f"the agent keeps {name} as {self._file_name} says: what differs from it is taken back at its next "
                            "look; write it there"
                        )

    def _applied(self, notes: list[str], *, awaiting: bool) -> None:
        """What nobody confirms is taken back by its guard, and must not be brought again by us then."""
        if awaiting and self.rests:
            self._unconfirmed = True
            notes.append(f"the agent keeps {self.wishes.site.name} again once it is confirmed")
        else:
            self._resume()

    def _undone(self, notes: list[str], engine: Engine) -> None:
        """What a person has undone would be mended at once; where it is now as the file says, there is nothing to mend."""
        try:
            differs = bool(engine.plan(self.wishes.site, self.wishes.host).plan.operations)
        except DuctworkError:
            differs = True
        if differs:
            self._rest(notes)
        else:
            self._resume()

    def _kept(self) -> Site:
        try:
            return self._file()
        except DuctworkError:
            return self.wishes.site

    def _rest(self, notes: list[str]) -> None:
        name = self.wishes.site.name
        text = f"the agent keeps {name} no longer, until it is applied again, its file changes or the agent is started anew"
        notes.append(text)
        self._unconfirmed = False
        if not self.rests:
            self.rests = True
            self._tell(Notice("rests", text))

    def _resume(self) -> None:
        self._unconfirmed = False
        if self.rests:
            self.rests = False
            self._tell(Notice("resumed", f"keeps {self.wishes.site.name} again"))
