"""Namespaces that `ip netns` keeps: one name in a directory, one namespace.

Invariant: only what lies in the directory itself is opened, and only if it is a network namespace; a symbolic link may
lead to a process whose number somebody else has by now, so none is followed.
"""

from __future__ import annotations

import errno
import fcntl
import os
from functools import partial
from typing import ClassVar

from ductwork.errors import ContainerError
from ductwork.runtimes import Sandbox

_NS_GET_NSTYPE = 0xB703
"""ioctl_nsfs(2): the kind of namespace behind a descriptor; ENOTTY for whatever is none (kernel 4.11)."""
_CLONE_NEWNET = 0x40000000
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a FIFO in the way must not block
_FEW = 16
"""So many names are looked up one by one (5 µs each) rather than in a listing (0.4 ms with a thousand)."""


class NetnsRuntime:
    name: ClassVar[str] = "netns"

    def __init__(self, directory: str = "/run/netns") -> None:
        self._directory = directory

    def find(self, names: list[str]) -> dict[str, Sandbox | None]:
        if len(names) < _FEW:
            return {name: self._sandbox(name) for name in names if _is_entry(self._directory, name)}
        try:
            with os.scandir(self._directory) as entries:
                there = {entry.name for entry in entries}
        except FileNotFoundError:  # no namespace was made since the machine started
            return {}
        except OSError as error:
            raise ContainerError(f"{self._directory}: {error.strerror}", "run it as root, or with sudo") from error
        return {name: self._sandbox(name) for name in names if name in there}

    def _sandbox(self, name: str) -> Sandbox:
        return Sandbox(self.name, name, name, partial(_open, f"{self._directory}/{name}", name))


def _is_entry(directory: str, name: str) -> bool:
    return "/" not in name and name not in ("", ".", "..") and os.path.lexists(f"{directory}/{name}")


def _open(path: str, name: str) -> int:
    try:
        fd = os.open(path, _FLAGS)
    except FileNotFoundError:
        raise ContainerError(f"netns:{name} is gone", "`ip netns list` shows those that there are") from None
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise ContainerError(f"netns:{name}: {path}: {error.strerror}") from error
        hint = "name the process itself (pid:PID) or make the name with `ip netns attach NAME PID`"
        raise ContainerError(f"netns:{name}: {path} is a symbolic link, which is not followed", hint) from None
    if not _is_netns(fd):
        os.close(fd)
        hint = f"a leftover: `ip netns delete {name}` removes it"
        raise ContainerError(f"netns:{name}: {path} is no network namespace", hint)
    return fd


def _is_netns(fd: int) -> bool:
    try:
        return fcntl.ioctl(fd, _NS_GET_NSTYPE) == _CLONE_NEWNET
    except OSError:
        return False
