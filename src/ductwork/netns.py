"""Network namespaces: their identity, and running code inside them.

Invariant: whoever goes into another namespace is home again before anything else happens (`Visitor`, docs/adr/0006), or is a
thread that ends there (`inside`). A namespace's inode is reused as soon as it is gone; its cookie never is (SO_NETNS_COOKIE,
kernel 5.14).
"""

from __future__ import annotations

import ctypes
import itertools
import os
import socket
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from ductwork.errors import MissingToolError

T = TypeVar("T")

NAMED_DIRECTORY = Path("/run/netns")
"""Where `ip netns` keeps names."""
RUN_DIRECTORY = Path(os.environ.get("DUCTWORK_RUN", "/run/ductwork"))
"""What lives as long as the kernel's state, in a folder for each host namespace, called by its cookie; the environment variable
is for tests and labs."""
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
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            _enter(fd)
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="netns")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def all_places() -> list[str]:
    """A path of every namespace but the caller's that has a name or a process in it."""
    own = identity(OWN)
    return [place for its, place in _by_identity().items() if its != own]


def all_identities() -> frozenset[tuple[int, int]]:
    """Of every namespace that has a name or a process in it."""
    return frozenset(_by_identity())


def _by_identity() -> dict[tuple[int, int], str]:
    found: dict[tuple[int, int], str] = {}
    of_processes = (f"/proc/{name}/ns/net" for name in os.listdir("/proc") if name.isdecimal())
    for place in itertools.chain(map(str, NAMED_DIRECTORY.glob("*")), of_processes):
        its = identity(place)
        if its is not None:
            found.setdefault(its, place)
    return found


def identity(place: str | Path) -> tuple[int, int] | None:
    """What tells one namespace from all others that are there now; None: no such place, or not to be looked at."""
    try:
        found = os.stat(place)
    except OSError:
        return None
    return found.st_dev, found.st_ino


class Visitor:
    """Goes into namespaces one after the other and comes home: to the namespace of the thread that made it, which is the one
    that must use it."""

    def __init__(self) -> None:
        self._home = open_own()

    def visit(self, places: Iterable[tuple[Callable[[], int], Callable[[], T]]]) -> list[T | Exception]:
        """For each (open, work): open the namespace, run `work` in it; errors are given in place of results."""
        try:
            return [_visited(open_netns, work) for open_netns, work in places]
        finally:
            _enter(self._home)

    def close(self) -> None:
        os.close(self._home)


def _visited(open_netns: Callable[[], int], work: Callable[[], T]) -> T | Exception:
    try:
        fd = open_netns()
        try:
            _enter(fd)
        finally:
            os.close(fd)
        return work()
    except Exception as error:
        return error


def _enter(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET):
        code = ctypes.get_errno()
        if code == 1:
            raise MissingToolError("entering a network namespace needs root (CAP_SYS_ADMIN)", "run it as root, or with sudo")
        raise OSError(code, os.strerror(code))
