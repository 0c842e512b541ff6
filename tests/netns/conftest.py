"""Network namespaces as hosts: made for one test, and gone after it, whatever happened.

`from conftest import sh, ping, inside` gives the helpers; the fixture `netns` makes the namespaces.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import pytest

from ductwork import netns as namespaces

if TYPE_CHECKING:
    from machines import Machine, Real

T = TypeVar("T")

_numbers = itertools.count()


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
        run("ip", "netns", "add", full)
        made.append(full)
        run("ip", "-n", full, "link", "set", "dev", "lo", "up")
        return full

    try:
        yield make
    finally:
        for full in reversed(made):
            subprocess.run(["ip", "netns", "del", full], check=False)


@pytest.fixture(params=["fake", pytest.param("kernel", marks=pytest.mark.netns)])
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
    """Run a program in a namespace."""
    return run("ip", "netns", "exec", ns, *argv, check=check)


def ping(ns: str, address: str, count: int = 1) -> bool:
    """Whether a reply comes within a second. A refused neighbour or a drop is False alike."""
    argv = ["ip", "netns", "exec", ns, "ping", "-n", "-c", str(count), "-W", "1", address]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


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
