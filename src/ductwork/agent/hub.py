"""Where the agent tells what it does, and whoever wants to know hears it.

Invariant: telling never waits for anybody. A reader who is slow loses the oldest notices, and is told how many. No text is
longer than a person would read.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime

from ductwork.notices import Notice

log = logging.getLogger("ductwork.agent")

_KEPT = 1000
"""So many notices wait for a reader."""
_LONGEST_TEXT = 4000
"""Characters of each text of a notice: what a client sends wrongly is as long as it likes."""


class Reader:
    """`wake` is called, in the teller's thread, when there is something to take."""

    def __init__(self, wake: Callable[[], object]) -> None:
        self._wake = wake
        self._waiting: deque[Notice] = deque()
        self._lost = 0
        self._lock = threading.Lock()

    def put(self, notice: Notice) -> None:
        with self._lock:
            if len(self._waiting) == _KEPT:
                self._waiting.popleft()
                self._lost += 1
            self._waiting.append(notice)
        self._wake()

    def take(self) -> list[Notice]:
        """What has been told since, the oldest first."""
        with self._lock:
            found, lost = list(self._waiting), self._lost
            self._waiting.clear()
            self._lost = 0
        if lost:
            text = f"{lost} notices before this one are lost: they were read too slowly"
            found.insert(0, _stamped(Notice("lost", text, "warning", number=lost)))
        return found


class Hub:
    """`heed`: is called with every notice, in the teller's thread."""

    def __init__(self, heed: Callable[[Notice], None]) -> None:
        self._heed = heed
        self._readers: frozenset[Reader] = frozenset()
        self._lock = threading.Lock()

    def tell(self, notice: Notice) -> None:
        """Any thread may. What is for a debugger goes to the log alone."""
        stamped = _stamped(notice)
        log.log(logging.getLevelNamesMapping()[notice.level.upper()], "%s", stamped.message, extra={"notice": stamped})
        self._heed(stamped)
        if notice.level != "debug":
            for reader in self._readers:
                reader.put(stamped)

    @contextmanager
    def reader(self, wake: Callable[[], object]) -> Iterator[Reader]:
        reader = Reader(wake)
        with self._lock:
            self._readers |= {reader}
        try:
            yield reader
        finally:
            with self._lock:
                self._readers -= {reader}

    @property
    def readers(self) -> int:
        return len(self._readers)


def _stamped(notice: Notice) -> Notice:
    return replace(
        notice,
        time=datetime.now(UTC).isoformat(timespec="milliseconds"),
        message=_bounded(notice.message),
        container=_bounded(notice.container),
        cause=_bounded(notice.cause),
    )


def _bounded(text: str) -> str:
    more = len(text) - _LONGEST_TEXT
    return f"{text[:_LONGEST_TEXT]} … and {more} characters more" if more > 0 else text
