"""Processes that end.

Invariant: a descriptor (pidfd) is held of each process that is asked for and runs, and of no other: what has ended, a zombie
too, is let go at once. Whatever has become of a PID since it was last asked for is told, another holder included: a look
that begins after that finds no process whose end would not be told.
"""

from __future__ import annotations

import os
import select
from collections.abc import Collection, Sequence
from typing import ClassVar

from ductwork.events import Event
from ductwork.runtimes.pid import PID, ended


class PidEvents:
    mask: ClassVar[int] = select.POLLIN

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._pidfds: dict[int, int] = {}
        self._gone: set[int] = set()
        """Asked for, and not there, which was told."""

    def fileno(self) -> int:
        return self._epoll.fileno()

    def close(self) -> None:
        for pid in list(self._pidfds):
            self._let_go(pid)
        self._epoll.close()

    def take(self) -> Sequence[Event]:
        readable = {fd for fd, _ in self._epoll.poll(0)}
        over = [pid for pid, fd in self._pidfds.items() if fd in readable]
        for pid in over:
            self._let_go(pid)
        self._gone.update(over)
        return [Event(f"pid:{pid} ended", f"pid:{pid}") for pid in over]

    def follow(self, containers: Collection[str]) -> Sequence[Event]:
        """A name without a runtime may be a PID."""
        names = (container.removeprefix("pid:") for container in containers)
        asked = {int(name) for name in names if PID.fullmatch(name)}
        for pid in self._pidfds.keys() - asked:
            self._let_go(pid)
        self._gone &= asked
        told = list(self.take())
        for pid in sorted(asked - self._pidfds.keys()):
            if self._watch(pid):
                self._gone.discard(pid)
                told.append(Event(f"pid:{pid} runs", f"pid:{pid}"))
            elif pid not in self._gone:
                self._gone.add(pid)
                told.append(Event(f"pid:{pid} is not there", f"pid:{pid}"))
        return told

    def _watch(self, pid: int) -> bool:
        """Not what is gone, a thread's number, or one too many: the next `follow` tries again."""
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return False
        try:
            runs = not ended(pidfd)
            if runs:
                self._epoll.register(pidfd, select.EPOLLIN)
                self._pidfds[pid] = pidfd
        finally:
            if pid not in self._pidfds:
                os.close(pidfd)
        return runs

    def _let_go(self, pid: int) -> None:
        """A closed descriptor leaves the epoll set with its last copy, and a child that was forked meanwhile may have one."""
        pidfd = self._pidfds.pop(pid)
        self._epoll.unregister(pidfd)
        os.close(pidfd)
