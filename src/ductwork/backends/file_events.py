"""Changes of one file, however it is written: in place, or by another one that takes its name."""

from __future__ import annotations

import select
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from inotify_simple import INotify, flags

from ductwork.events import Event


class FileEvents:
    """`path` need not be there; its folder must. (What is watched is the folder: an editor's new file is not the old one.)"""

    mask: ClassVar[int] = select.POLLIN

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inotify = INotify(nonblocking=True)
        try:
            self._inotify.add_watch(path.parent, flags.CLOSE_WRITE | flags.MOVED_TO | flags.CREATE)
        except BaseException:
            self._inotify.close()
            raise

    def fileno(self) -> int:
        return int(self._inotify.fileno())

    def close(self) -> None:
        self._inotify.close()

    def take(self) -> Sequence[Event]:
        changed = [event for event in self._inotify.read(timeout=0) if event.name == self._path.name]
        return [Event(f"{self._path} changed")] if changed else []
