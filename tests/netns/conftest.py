"""Network namespaces as hosts: made for one test, and gone after it, whatever happened.

`from conftest import sh, ping, inside` gives the helpers; the fixture `netns` makes the namespaces.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import itertools
import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import pytest

from ductwork import netns as namespaces

if TYPE_CHECKING:
    from machines import Machine, Real

T = TypeVar("T")

_numbers = itertools.count()
_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET, _MS_BIND, _MNT_DETACH = 0x40000000, 4096, 2
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without root these tests are skipped on somebody's laptop; in CI they run, and fail."""
    if os.geteuid() == 0 or os.environ.get("CI") == "true":
        return
    for item in items:
        if item.get_closest_marker("netns"):
            item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.fixture
def netns() -> Iterator[Callable[[str], str]]:
    """A function that makes a namespace, its loopback up, and gives its name, which begins with `dwn-`."""
    with made_namespaces() as make:
        yield make


@contextmanager
def made_namespaces() -> Iterator[Callable[[str], str]]:
    """The same for as long as the context lasts."""
    made: list[str] = []

    def make(name: str) -> str:
        full = f"dwn-{os.getpid()}-{next(_numbers)}-{name}"
        made.append(full)
        add_netns(full)
        return full

    try:
        yield make
    finally:
        for full in reversed(made):
            del_netns(full)


def add_netns(name: str) -> None:
    """`ip netns add`, and its loopback up, without the two programs: thousands are made."""
    _prepare_netns()
    path = f"/run/netns/{name}"
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0))

    def born() -> None:
        _called(_libc.unshare, _CLONE_NEWNET)
        _called(_libc.mount, b"/proc/thread-self/ns/net", path.encode(), b"none", _MS_BIND, None)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asking:
            fcntl.ioctl(asking, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", _IFF_UP))

    with ThreadPoolExecutor(1) as thread:
        thread.submit(born).result()


@functools.cache
def _prepare_netns() -> None:
    """The first `ip netns add` makes the folder a mount that all see."""
    name = f"dwn-{os.getpid()}"
    run("ip", "netns", "add", name)
    del_netns(name)


def del_netns(name: str) -> None:
    """`ip netns del`; none is no error."""
    path = f"/run/netns/{name}"
    if os.path.exists(path):
        _called(_libc.umount2, path.encode(), _MNT_DETACH)
        os.unlink(path)


def _called(function: Callable[..., int], *arguments: object) -> None:
    if function(*arguments):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


IN_VM = os.environ.get("DUCTWORK_VM", "0") != "0"
_FAKE = [] if IN_VM else ["fake"]  # it is the same there, and slow


@pytest.fixture(params=[*_FAKE, pytest.param("kernel", marks=pytest.mark.netns)])
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """The fake kernel, and the real one."""
    from machines import Fake

    if request.param == "fake":
        yield Fake()
    else:
        yield request.getfixturevalue("real")


@pytest.fixture
def real(netns: Callable[[str], str]) -> Iterator[Real]:
    from machines import Real

    made = Real(netns)
    yield made
    made.backend.close()


def run(*argv: str, check: bool = True) -> str:
    """What the program wrote; with `check`, an AssertionError where it failed, with its complaint."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"{' '.join(argv)}: {done.stderr}"
    return done.stdout


def sh(ns: str, *argv: str, check: bool = True) -> str:
    """Run a program in a namespace; its /sys is this one's. (`ip netns exec` is a program more, which mounts another.)"""
    return inside(ns, lambda: run(*argv, check=check))


def ping(ns: str, address: str, count: int = 1) -> bool:
    """Whether a reply comes within a second. A refused neighbour or a drop is False alike."""
    argv = ["ping", "-n", "-c", str(count), "-W", "1", address]
    return inside(ns, lambda: subprocess.run(argv, capture_output=True, check=False)).returncode == 0


def inside(ns: str, work: Callable[[], T]) -> T:
    """Run Python in a namespace (in a thread of its own)."""
    fd = os.open(f"/run/netns/{ns}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return namespaces.inside(fd, work)
    finally:
        os.close(fd)


def until(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Whether `condition` comes true in time. (One work queue makes IPv6 addresses usable, in all namespaces.)"""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
