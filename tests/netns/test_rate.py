"""Limits hold for real streams, in both directions, and are read back, changed in place and taken away."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import inside, sh
from host import World, build_world, same

from ductwork.naming import host_ifname, ifb_ifname
from ductwork.resources import Delete, Link, Redirect, Shaper, Update

pytestmark = pytest.mark.netns

SITE = """
networks:
  lan: {driver: bridge, subnet: 10.1.1.0/24}
attachments:
  - {container: "netns:<web>", network: lan, address: 10.1.1.2, RATE}
  - {container: "netns:<db>", network: lan, address: 10.1.1.3}
"""
WEB, DB = "10.1.1.2", "10.1.1.3"
SECONDS = 1.0


def limited(limits: str) -> str:
    return SITE.replace(", RATE", f", rate: {limits}" if limits else "")


@pytest.fixture
def world(netns: Callable[[str], str], tmp_path: Path) -> World:
    return build_world(netns, tmp_path)


def megabits(world: World, sender: str, receiver: str, address: str) -> float:
    """What a TCP stream of a second has brought, per second between its first and its last octet."""
    listening = inside(world.names[receiver], lambda: socket.create_server((address, 0)))
    calling = inside(world.names[sender], socket.socket)
    with listening, calling:
        calling.connect(listening.getsockname())
        arriving, _ = listening.accept()
        pouring = threading.Thread(target=_pour, args=(calling,))
        pouring.start()
        with arriving:
            octets = len(arriving.recv(1))
            first = time.monotonic()
            while got := len(arriving.recv(1 << 20)):
                octets += got
                last = time.monotonic()
        pouring.join()
    return octets * 8 / (last - first) / 1e6


def _pour(sending: socket.socket) -> None:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        sending.send(bytes(1 << 16))
    sending.shutdown(socket.SHUT_WR)


def disciplines(world: World) -> str:
    return sh(world.host, "tc", "-s", "qdisc", "show")


@pytest.mark.parametrize("limit", [4, 50, 400])
def test_both_directions_are_limited(world: World, limit: int) -> None:
    """Generously: TCP looks for its rate, and a busy machine is late. Packets of 64 KiB (GSO) must not be lost in the bucket,
    nor may they get round it."""
    world.settle(limited(f"{{ingress: {limit}mbit, egress: {limit / 2}mbit}}"))
    assert limit * 0.75 < megabits(world, "db", "web", WEB) < limit * 1.25
    assert limit * 0.375 < megabits(world, "web", "db", DB) < limit * 0.625


def test_read_back_changed_and_taken_away(world: World) -> None:
    name = f"netns:{world.names['web']}"
    outer, through = host_ifname(name, "eth1"), ifb_ifname(name, "eth1")
    before = world.snapshot()
    world.settle(limited(""))
    without = world.snapshot()
    made = world.settle(limited("{ingress: 100mbit, egress: 20mbit}"))
    assert [type(o.target) for o in made.operations] == [Link, Shaper, Shaper, Redirect]
    shown = disciplines(world)
    assert re.search(rf"qdisc tbf d0c7: dev {outer} root refcnt \d rate 100Mbit burst 124Kb lat 50", shown)
    assert re.search(rf"qdisc tbf d0c7: dev {through} root refcnt \d rate 20Mbit burst 28Kb lat 50", shown)
    assert "inet6" not in sh(world.host, "ip", "address", "show", "dev", through)
    changed = world.settle(limited("{ingress: 1gbit, egress: 64kbit}"))
    assert [(type(o), type(o.target)) for o in changed.operations] == [(Update, Shaper)] * 2
    half = world.settle(limited("{ingress: 1gbit}"))
    assert {(type(o), type(o.target)) for o in half.operations} == {(Delete, Redirect), (Delete, Link)}
    world.settle(limited("{egress: 1gbit}"))
    world.settle(limited(""))
    same(without, world.snapshot())
    assert "qdisc" not in disciplines(world).replace("qdisc noqueue", "")
    world.destroy()
    same(before, world.snapshot())


def test_drift_is_mended(world: World) -> None:
    text = limited("{ingress: 100mbit, egress: 20mbit}")
    name = f"netns:{world.names['web']}"
    outer, through = host_ifname(name, "eth1"), ifb_ifname(name, "eth1")
    world.settle(text)
    wanted = world.snapshot()
    for damage in (
        ("tc", "qdisc", "del", "dev", outer, "root"),
        ("tc", "qdisc", "del", "dev", outer, "ingress"),
        ("tc", "qdisc", "del", "dev", through, "root"),
        ("tc", "filter", "del", "dev", outer, "parent", "ffff:"),
        (
            "tc",
            "qdisc",
            "change",
            "dev",
            outer,
            "root",
            "handle",
            "d0c7:",
            "tbf",
            "rate",
            "1gbit",
            "burst",
            "1mb",
            "limit",
            "9mb",
        ),
        ("ip", "link", "del", "dev", through),
        ("ip", "link", "set", "dev", through, "down"),
    ):
        sh(world.host, *damage)
        report = world.settle(text)
        assert report.operations, damage
        same(wanted, world.snapshot())
        assert megabits(world, "web", "db", DB) < 25
        assert 75 < megabits(world, "db", "web", WEB) < 125


def test_a_container_that_starts_anew_and_one_that_is_gone(world: World) -> None:
    text = limited("{ingress: 100mbit, egress: 20mbit}")
    before = world.snapshot()
    world.settle(text)
    world.kill("web")
    world.container("web")
    world.settle(text)
    assert megabits(world, "web", "db", DB) < 25
    world.kill("web")
    world.settle(text)
    assert "tbf" not in disciplines(world)
    assert "ifb" not in sh(world.host, "ip", "-d", "link")
    world.container("web")
    world.destroy()
    same(before, world.snapshot())


def test_the_printed_commands_do_the_same(world: World) -> None:
    """`ip` and `tc` make the same of them (the addresses' marks aside, which this iproute2 cannot write)."""
    path = world.write(limited("{ingress: 100mbit, egress: 20mbit}"))
    commands = world.cli("plan", path, "--format", "commands").out
    sh(world.host, "sh", "-ec", commands)
    typed = (
        disciplines(world),
        sh(world.host, "tc", "filter", "show", "dev", host_ifname(f"netns:{world.names['web']}", "eth1"), "ingress"),
    )
    assert megabits(world, "web", "db", DB) < 25
    again = world.cli("plan", path).out
    assert not [line for line in again.splitlines() if "limit" in line or "detour" in line or "ifb" in line]
    assert "mirred" in typed[1]


def test_what_others_have_made_is_in_the_way(world: World) -> None:
    """A root of somebody else's on our link is not replaced, and not removed."""
    world.settle(limited(""))
    outer = host_ifname(f"netns:{world.names['web']}", "eth1")
    sh(
        world.host,
        "tc",
        "qdisc",
        "add",
        "dev",
        outer,
        "root",
        "handle",
        "7:",
        "tbf",
        "rate",
        "1gbit",
        "burst",
        "1mb",
        "limit",
        "9mb",
    )
    assert not world.apply(limited("")).operations
    with pytest.raises(Exception, match="shaper"):
        world.apply(limited("{ingress: 100mbit}"))
    assert "qdisc tbf 7:" in disciplines(world)
