"""Kernel parameters follow the thread that asks."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import inside, sh

from ductwork.backends.sysctl import SysctlBackend
from ductwork.resources import HOST, Create, Delete, Sysctl, Update
from ductwork.resources.sysctl import promisc_path

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


def promisc(ns: str, link: str) -> bool:
    return "PROMISC" in sh(ns, "ip", "link", "show", "dev", link)


def test_promiscuity_is_read_and_set_like_one(netns: Callable[[str], str]) -> None:
    ns, calls = netns("one"), list[str]()
    backend = SysctlBackend(calls.append)
    for name in ("nic", "dw=1"):
        sh(ns, "ip", "link", "add", "name", name, "type", "bridge")
        sh(ns, "ip", "link", "set", "dev", name, "up", "multicast", "off")
        off, on = (Sysctl(HOST, promisc_path(name), value) for value in "01")
        flags = sh(ns, "ip", "link", "show", "dev", name).split("mtu")[0]
        assert inside(ns, lambda: backend.read_paths([off.path])) == {off.path: "0"}  # noqa: B023
        assert [o.error for o in inside(ns, lambda: backend.apply(HOST, [Update(off, on)]))] == [""]  # noqa: B023
        assert inside(ns, lambda: backend.read_paths([off.path])) == {off.path: "1"}  # noqa: B023
        assert promisc(ns, name)
        inside(ns, lambda: backend.apply(HOST, [Update(on, off)]))  # noqa: B023
        assert sh(ns, "ip", "link", "show", "dev", name).split("mtu")[0] == flags, "and nothing else"
        for wanted in (on, off):
            for argv in wanted.create_argv(str):
                sh(ns, *argv)
            assert promisc(ns, name) == (wanted == on), "the printed command does the same"
    assert calls == ["before", "after"] * 4


def test_a_listener_is_no_reason_to_call_a_link_promiscuous(netns: Callable[[str], str]) -> None:
    """tcpdump's is a count of its own: ours would be taken for there already, and go with it."""
    ns = netns("one")
    sh(ns, "ip", "link", "add", "name", "nic", "type", "bridge")
    sh(ns, "ip", "link", "set", "dev", "nic", "up")

    def listening() -> dict[str, str]:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as listener:
            listener.bind(("nic", 3))
            listener.setsockopt(263, 1, struct.pack("iHH8s", socket.if_nametoindex("nic"), 1, 0, b""))
            return SysctlBackend().read_paths([promisc_path("nic")])

    assert inside(ns, listening) == {promisc_path("nic"): "0"}


def test_the_promiscuity_of_what_is_not_there(netns: Callable[[str], str]) -> None:
    ns, path = netns("one"), promisc_path("nodev")
    assert inside(ns, lambda: SysctlBackend().read_paths([path])) == {}
    (outcome,) = inside(ns, lambda: SysctlBackend().apply(HOST, [Create(Sysctl(HOST, path, "1"))]))
    assert outcome.error == "link/nodev/promisc = 1: no such device"
