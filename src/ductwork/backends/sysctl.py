"""Kernel parameters below /proc/sys, written as files.

Invariant: nothing is read that was not asked for. /proc/sys/net shows the namespace of the thread that opens it, so a thread
that has done setns reads and writes that of its container.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ductwork.resources import Delete, Operation, Outcome, Resource, Sysctl

ROOT = Path("/proc/sys")


class SysctlBackend:
    """Changes Sysctl. `read` finds nothing by itself: there are thousands, and none carries a mark."""

    kinds: frozenset[type] = frozenset({Sysctl})

    def __init__(self, gate: Callable[[str], None] = lambda _: None) -> None:
        self._gate = gate

    def read(self, netns: str, links: frozenset[str] | None) -> list[Resource]:
        return []

    def read_paths(self, paths: Iterable[str]) -> dict[str, str]:
        """The values of `paths` below /proc/sys; what this kernel or namespace has not is left out."""
        found = {}
        for path in paths:
            try:
                found[path] = _file(path).read_text().strip()
            except OSError:
                continue
        return found

    def apply(self, netns: str, operations: Sequence[Operation]) -> list[Outcome]:
        return [Outcome(operation, self._apply(operation)) for operation in operations]

    def _apply(self, operation: Operation) -> str:
        """A deletion does nothing: the parameter goes with its link, or its former value is written by an Update."""
        if isinstance(operation, Delete):
            return ""
        target = operation.target
        assert isinstance(target, Sysctl)
        self._gate("before")
        try:
            _file(target.path).write_text(target.value)
        except OSError as error:
            return f"{target.path} = {target.value}: {os.strerror(error.errno or 0).lower()}"
        finally:
            self._gate("after")
        return ""


def _file(path: str) -> Path:
    """A link may be called anything but `.`, `..` or what has a slash in it (dev_valid_name), so only we could climb out."""
    assert ".." not in path.split("/"), path
    return ROOT / path
