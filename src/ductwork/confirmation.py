"""A change that is taken back unless somebody confirms it in time.

Invariant: its guard stands before the first thing is touched, and whatever happens then (a failure, a kill, a connection that
is lost), either somebody has confirmed the whole change or the whole of it is taken back. All is done under the journal's
lock; one change at a time awaits confirmation.
"""

from __future__ import annotations

import math
import os
import pwd
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ductwork.errors import AwaitingError, NothingToConfirmError, NothingToUndoError, RollbackError
from ductwork.journal import Awaiting, Journal

if TYPE_CHECKING:
    from ductwork.reconciler import Report

LOG = "guard.log"
"""In the journal's directory: what the guard has done."""


@dataclass(frozen=True, slots=True)
class Guard:
    """`seconds`: how long it waits. `start`: brings it up, for the journal in a directory and the change of a token; it
    stands when this returns. `who` asks for it, "": whoever runs this process. Errors: `ApplyError`."""

    seconds: int
    start: Callable[[str, str], None]
    who: str = ""


class Confirmations:
    """`undo`: takes the last change back."""

    def __init__(self, journal: Journal, undo: Callable[[], Report]) -> None:
        self._journal = journal
        self._undo = undo

    @contextmanager
    def one_change(self, title: str, guard: Guard | None = None) -> Iterator[Callable[[], None]]:
        """Whatever is changed within is one change. Gives what is to be called before anything is touched.

        Errors: `AwaitingError`, `BusyError`; whatever is raised within, after all was taken back if there is a guard.
        """
        with self._journal.together():
            self._refuse_another()
            if guard is None:
                yield _nothing
                return
            try:
                yield lambda: self._arm(title, guard)
            except RollbackError:
                raise  # the guard goes on trying
            except BaseException:
                self.take_back(_always)
                raise
            self._expect(guard.seconds)

    def awaiting(self) -> Awaiting | None:
        return self._journal.awaiting()

    def confirm(self) -> Awaiting:
        """Keep the change. Errors: `NothingToConfirmError`."""
        with self._journal.lock():
            awaiting = self._journal.awaiting()
            if awaiting is None:
                raise NothingToConfirmError("nothing awaits confirmation here", self._last_words())
            if not awaiting.applied:  # who applies has the lock until it is
                raise NothingToConfirmError(
                    f"{awaiting.title} by {awaiting.who} ended half-way, and is taken back",
                    "`ductwork undo` takes it back at once",
                )
            self._journal.await_confirmation(None)
            return awaiting

    def take_back(self, due: Callable[[Awaiting], bool]) -> Report | None:
        """Undo the change that awaits confirmation if it is `due`. None: it is not, or nothing of it was begun."""
        with self._journal.lock():
            awaiting = self._journal.awaiting()
            if awaiting is None or not due(awaiting):
                return None
            try:
                return self._undo()
            except NothingToUndoError:
                return None

    def _arm(self, title: str, guard: Guard) -> None:
        pid = os.getpid()
        token = os.urandom(8).hex()
        awaiting = Awaiting(token, title, guard.who or _who(), guard.seconds, now() + guard.seconds, pid, _started(pid) or 0)
        self._journal.await_confirmation(awaiting)
        guard.start(os.path.abspath(self._journal.directory), token)

    def _expect(self, seconds: int) -> None:
        """All is done, and whoever is to confirm it has all the time from now on; unless there was nothing to do."""
        awaiting = self._journal.awaiting()
        if awaiting is None:
            return
        if self._journal.last_change() is None:
            self._journal.await_confirmation(None)
        else:
            self._journal.await_confirmation(replace(awaiting, deadline=now() + seconds, applied=True))

    def _refuse_another(self) -> None:
        awaiting = self._journal.awaiting()
        if awaiting is None:
            return
        if not awaiting.applied and self._journal.last_change() is None:
            self._journal.await_confirmation(None)  # killed before it began
            return
        hint = "`ductwork confirm` keeps it, `ductwork undo` takes it back; then try again"
        left = math.ceil(awaiting.deadline - now())
        if not awaiting.applied:
            told, hint = "ended half-way, and is taken back by its guard", "`ductwork undo` takes it back at once"
        elif left > 0:
            told = f"awaits confirmation for {left} s more"
        else:
            told = "was not confirmed in time, and its guard has not taken it back yet"
        raise AwaitingError(f"{awaiting.title} by {awaiting.who} {told}: nothing was touched", hint)

    def _last_words(self) -> str:
        try:
            with open(f"{self._journal.directory}/{LOG}", encoding="utf-8") as file:
                lines = file.read().splitlines()
        except FileNotFoundError:
            lines = []
        return f"its guard's last words: {lines[-1]}" if lines else "`ductwork apply --confirm SECONDS` makes such a change"


def is_due(awaiting: Awaiting) -> bool:
    """Whether to take it back: its time is over, or who made it was killed half-way."""
    return now() >= awaiting.deadline or (not awaiting.applied and _started(awaiting.pid) != awaiting.started)


def now() -> float:
    """Seconds since boot; those in which the machine slept count."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _always(awaiting: Awaiting) -> bool:
    return True


def _nothing() -> None:
    """Nobody guards it."""


def _started(pid: int) -> int | None:
    """When a process began, in clock ticks since boot (field 22 of proc_pid_stat(5)): tells it from the next one with its
    number. None: it has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()  # the program's name may hold blanks and parentheses
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def _who() -> str:
    try:
        return os.environ.get("SUDO_USER") or pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"user {os.getuid()}"
