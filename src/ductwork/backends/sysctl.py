"""Kernel parameters below /proc/sys, written as files.

Invariant: nothing is read that was not asked for. /proc/sys/net shows the namespace of the thread that opens it, so a thread
that has done setns reads and writes that of its container.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence

from ductwork.resources import Delete, Operation, Outcome, Resource, Sysctl

ROOT = "/proc/sys"
_LONGEST = 4096
"""Octets: no parameter of the network is longer than a page."""


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
                found[path] = _read(path)
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
            _write(target.path, target.value)
        except OSError as error:
            return f"{target.path} = {target.value}: {os.strerror(error.errno or 0).lower()}"
        finally:
            self._gate("after")
        return ""


def _read(path: str) -> str:
    fd = os.open(_file(path), os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, _LONGEST).decode().strip()
    finally:
        os.close(fd)


def _write(path: str, value: str) -> None:
    """One write: the kernel takes a value whole or not at all. By system calls, since attaching waits for three of them."""
    fd = os.open(_file(path), os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def _file(path: str) -> str:
    """A link may be called anything but `.`, `..` or what has a slash in it (dev_valid_name), so only we could climb out."""
    assert ".." not in path.split("/"), path
    return f"{ROOT}/{path}"
