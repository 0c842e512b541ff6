"""Namespaces that appear below /run/netns, or vanish.

Invariant: a name counts from when a namespace is mounted on it. (`ip netns add` makes the file first, and mounts then: inotify
would tell too early. The kernel tells of mounts by POLLPRI on /proc/self/mountinfo: proc_pid_mountinfo(5).)
"""

from __future__ import annotations

import os
import select
from collections.abc import Sequence
from contextlib import suppress
from typing import ClassVar

from ductwork.events import Event


class NetnsEvents:
    mask: ClassVar[int] = select.POLLPRI

    def __init__(self, directory: str = "/run/netns") -> None:
        self._directory = directory
        self._mounts = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        self._known = self._there()

    def fileno(self) -> int:
        return self._mounts

    def close(self) -> None:
        os.close(self._mounts)

    def take(self) -> Sequence[Event]:
        before, self._known = self._known, self._there()
        new = [name for name in self._known if self._known[name] != before.get(name)]
        gone = [name for name in before if name not in self._known]
        return [
            *(Event(f"netns:{name} appeared", f"netns:{name}", started=True) for name in new),
            *(Event(f"netns:{name} vanished", f"netns:{name}") for name in gone),
        ]

    def _there(self) -> dict[str, tuple[int, int]]:
        """Name → what tells its namespace from others, also from the next one that is given the same inode: the time when it
        was first seen. A file that no namespace is mounted on lies on the directory's own device."""
        found = {}
        with suppress(FileNotFoundError):  # no namespace was made since the machine started
            own = os.stat(self._directory).st_dev
            with os.scandir(self._directory) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):  # it has vanished meanwhile
                        its = entry.stat(follow_symlinks=False)
                        if its.st_dev != own:
                            found[entry.name] = (its.st_ino, its.st_ctime_ns)
        return found
