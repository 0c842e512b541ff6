"""A NIC's rarer belongings when it becomes a bridge's port: they go along and come back, or are named before anything moves."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import sh, until
from host import World, build_world, same, snapshot
from lan import Lan

pytestmark = pytest.mark.netns

SITE = """
networks:
  lan: {driver: bridge, bridge: br0, uplink: eth0, subnets: [192.168.1.0/24, "2001:db8:1::/64"]}
attachments:
  - {container: "netns:<web>", network: lan, address: [192.168.1.150, "2001:db8:1::150"]}
"""


@pytest.fixture
def world(netns: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A host on a LAN by `eth0`, with an address of each family, and `other` beside it."""
    monkeypatch.setattr(shutil, "which", lambda _: None)
    made = build_world(netns, tmp_path)
    lan = Lan(netns)
    lan.plug_in(made.host)
    made.names["other"] = lan.machine("other", "192.168.1.9/24", "2001:db8:1::9/64")
    ip(made, "address add 192.168.1.2/24 dev eth0", "address add 2001:db8:1::2/64 dev eth0 nodad")
    return made


def ip(world: World, *commands: str) -> None:
    for command in commands:
        sh(world.host, "ip", *command.split())
    assert until(lambda: "tentative" not in sh(world.host, "ip", "address"))


def test_a_gateway_that_a_route_alone_makes_known(world: World) -> None:
    """As cloud providers have it: the host's address has no subnet."""
    ip(world, "address flush dev eth0 scope global", "address add 192.168.1.2/32 dev eth0")
    ip(world, "address add 2001:db8:1::2/128 dev eth0 nodad")
    ip(world, "route add 192.168.1.9 dev eth0 scope link", "route add default via 192.168.1.9")
    ip(world, "-6 route add 2001:db8:1::9 dev eth0", "-6 route add default via 2001:db8:1::9")
    before = snapshot(world.host)
    world.settle(SITE)
    assert "via 192.168.1.9 dev br0" in sh(world.host, "ip", "route", "show", "default")
    assert "via 2001:db8:1::9 dev br0" in sh(world.host, "ip", "-6", "route", "show", "default")
    world.destroy()
    same(before, snapshot(world.host))
