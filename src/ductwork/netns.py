"""Network namespaces: their identity, and running code inside them.

Invariant: the calling thread never leaves its own namespace; a visitor thread goes in its place and comes home after each
round. A namespace's inode is reused as soon as it is gone; its cookie never is (SO_NETNS_COOKIE, kernel 5.14).
"""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from ductwork.errors import MissingToolError

T = TypeVar("T")

NAMED_DIRECTORY = Path("/run/netns")
"""Where `ip netns` keeps names."""
OWN = "/proc/thread-self/ns/net"
_CLONE_NEWNET = 0x40000000
_SO_NETNS_COOKIE = 71
_libc = ctypes.CDLL(None, use_errno=True)


def cookie() -> int:
    """The cookie of the calling thread's namespace."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        return cookie_of(probe)


def cookie_of(opened: socket.socket) -> int:
    """The cookie of the namespace that a socket was opened in."""
    return int.from_bytes(opened.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), "little")


def open_own() -> int:
    """A descriptor of the calling thread's namespace."""
    return os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)


def inside(fd: int, work: Callable[[], T]) -> T:
    """Run `work` in a thread of its own that is in the namespace of `fd`, and give what it returns or raises.

    Programs that it starts, sockets that it opens and /proc/sys/net below it are that namespace's.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="netns") as pool:
        return pool.submit(_entered, fd, work).result()


class Visitor:
    """A thread that goes into namespaces one after the other; it starts in the namespace of whoever makes it."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="visitor")
        self._home = open_own()

    def visit(self, places: Iterable[tuple[Callable[[], int], Callable[[], T]]]) -> list[T | Exception]:
        """For each (open, work): open the namespace, run `work` in it; errors are given in place of results."""
        return self._pool.submit(self._round, list(places)).result()

    def close(self) -> None:
        self._pool.shutdown()
        os.close(self._home)

    def _round(self, places: list[tuple[Callable[[], int], Callable[[], T]]]) -> list[T | Exception]:
        results: list[T | Exception] = []
        try:
            for open_netns, work in places:
                try:
                    fd = open_netns()
                    try:
                        _enter(fd)
                    finally:
                        os.close(fd)
                    results.append(work())
                except Exception as error:
                    results.append(error)
        finally:
            _enter(self._home)
        return results


def _entered(fd: int, work: Callable[[], T]) -> T:
    _enter(fd)
    return work()


def _enter(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET):
        code = ctypes.get_errno()
        if code == 1:
            raise MissingToolError("entering a network namespace needs root (CAP_SYS_ADMIN)", "run it as root, or with sudo")
        raise OSError(code, os.strerror(code))
