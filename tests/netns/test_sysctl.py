"""Kernel parameters follow the thread that asks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import inside, sh

from ductwork.backends.sysctl import SysctlBackend
from ductwork.resources import HOST, Create, Delete, Sysctl, Update

pytestmark = pytest.mark.netns

FORWARD = "net/ipv4/conf/lo/forwarding"


def test_reads_and_writes_the_namespace_of_the_calling_thread(netns: Callable[[str], str]) -> None:
    ns, backend = netns("one"), SysctlBackend()
    here = Path("/proc/sys", FORWARD).read_text()
    wanted = Sysctl(HOST, FORWARD, "1")
    assert [o.error for o in inside(ns, lambda: backend.apply(HOST, [Create(wanted)]))] == [""]
    assert sh(ns, "cat", f"/proc/sys/{FORWARD}") == "1\n"
    assert inside(ns, lambda: backend.read_paths([FORWARD])) == {FORWARD: "1"}
    assert Path("/proc/sys", FORWARD).read_text() == here, "ours is another"

    inside(ns, lambda: backend.apply(HOST, [Update(wanted, Sysctl(HOST, FORWARD, "0"))]))
    assert sh(ns, "cat", f"/proc/sys/{FORWARD}") == "0\n"


def test_what_is_absent_is_left_out(netns: Callable[[str], str]) -> None:
    paths = [FORWARD, "net/ipv4/conf/nodev/forwarding", "no/such"]
    assert set(inside(netns("one"), lambda: SysctlBackend().read_paths(paths))) == {FORWARD}


def test_errors_are_told_and_the_rest_is_done(netns: Callable[[str], str]) -> None:
    ns = netns("one")
    operations = [
        Create(Sysctl(HOST, p, v)) for p, v in ((FORWARD, "many"), ("net/ipv4/conf/nodev/forwarding", "1"), (FORWARD, "1"))
    ]
    errors = [o.error for o in inside(ns, lambda: SysctlBackend().apply(HOST, operations))]
    assert errors == [
        "net/ipv4/conf/lo/forwarding = many: invalid argument",
        "net/ipv4/conf/nodev/forwarding = 1: no such file or directory",
        "",
    ]
    assert sh(ns, "cat", f"/proc/sys/{FORWARD}") == "1\n"


def test_a_name_with_dots_is_one_name(netns: Callable[[str], str]) -> None:
    ns = netns("one")
    sh(ns, "ip", "link", "add", "name", "eth0.100", "type", "bridge")
    wanted = Sysctl(HOST, "net/ipv4/conf/eth0.100/forwarding", "1")
    inside(ns, lambda: SysctlBackend().apply(HOST, [Create(wanted)]))
    assert sh(ns, "cat", f"/proc/sys/{wanted.path}") == "1\n"
    for argv in Sysctl(HOST, wanted.path, "0").create_argv(str):
        sh(ns, *argv)
    assert sh(ns, "cat", f"/proc/sys/{wanted.path}") == "0\n", "the printed command does the same"


def test_deletion_writes_nothing_and_the_gate_sees_each_write(netns: Callable[[str], str]) -> None:
    ns, calls = netns("one"), list[str]()
    backend = SysctlBackend(calls.append)
    off, on = Sysctl(HOST, FORWARD, "0"), Sysctl(HOST, FORWARD, "1")
    inside(ns, lambda: backend.apply(HOST, [Create(on), Delete(off)]))
    assert calls == ["before", "after"]
    assert sh(ns, "cat", f"/proc/sys/{FORWARD}") == "1\n"
