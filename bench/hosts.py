"""Network namespaces that stand for hosts and containers while something is measured.

Invariant: every namespace has a name that begins with `dwb-`, known in a mount namespace of the bench's own, so that it
goes when the bench ends, however it ends. The main thread alone moves between them; what it starts is born where it is.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator, Sequence

PREFIX = "dwb-"
FOLDER = "/run/netns"
_CLONE_NEWNS, _CLONE_NEWNET = 0x00020000, 0x40000000
_MS_REC, _MS_SLAVE = 1 << 14, 1 << 19
_libc = ctypes.CDLL(None, use_errno=True)


def run(*argv: str, feed: str | None = None) -> str:
    """A program's output; where it fails, its own words are the error."""
    done = subprocess.run(argv, input=feed, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: exit {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def seclude(*scratch: str) -> None:
    """Go into a mount namespace of our own, for good, with an empty tmpfs over each of the folders. Before any thread is
    started."""
    _checked(_libc.unshare(_CLONE_NEWNS), "unshare")
    _checked(_libc.mount(b"none", b"/", None, _MS_REC | _MS_SLAVE, None), "mount")
    for folder in scratch:
        os.makedirs(folder, exist_ok=True)
        _checked(_libc.mount(b"dwb", folder.encode(), b"tmpfs", 0, b"mode=755"), f"mount {folder}")


def path(netns: str) -> str:
    return f"{FOLDER}/{netns}"


def enter(fd: int) -> None:
    """Move the calling thread; a raw call, since the floor that others are compared with must not pay for more."""
    _checked(_libc.setns(fd, _CLONE_NEWNET), "setns")


def _checked(result: int, what: str) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


@contextlib.contextmanager
def inside(netns: str) -> Iterator[None]:
    """The calling thread is in `netns` meanwhile."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    there = os.open(path(netns), os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter(there)
        yield
    finally:
        enter(home)
        os.close(there)
        os.close(home)


@contextlib.contextmanager
def namespaces(names: Sequence[str]) -> Iterator[None]:
    """Make them, loopback up, and remove them at the end."""
    assert all(name.startswith(PREFIX) for name in names)
    try:
        run("ip", "-batch", "-", feed="".join(f"netns add {name}\n" for name in names))
        for name in names:
            with inside(name):
                run("ip", "link", "set", "dev", "lo", "up")
        yield
    finally:
        remove(names)


def remove(names: Sequence[str]) -> None:
    """One by one past errors: all that can go must go."""
    if names:
        feed = "".join(f"netns delete {name}\n" for name in names)
        subprocess.run(["ip", "-force", "-batch", "-"], input=feed.encode(), capture_output=True, check=False)


def reaches(container: str, address: str) -> bool:
    """Whether a ping from inside is answered."""
    ping = ["ip", "netns", "exec", container, "ping", "-c", "1", "-W", "2", address]
    return subprocess.run(ping, capture_output=True, check=False).returncode == 0
