"""Published ports beside those that others publish by rules of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import sh
from host import World
from test_publish import HOST, PORTS, SITE, outside_asks

from talk import SILENT, ask, served

pytestmark = pytest.mark.netns

THEIRS = f"""
table ip theirs {{
  chain in {{
    type nat hook prerouting priority dstnat;
    ip daddr {HOST} tcp dport 9001 dnat to 10.9.9.2:80
    ip daddr {HOST} tcp dport 9002 dnat to 10.2.2.2:80
  }}
  chain out {{
    type nat hook postrouting priority srcnat;
    ip daddr 10.9.9.2 masquerade
  }}
  chain marked {{
    type filter hook forward priority 0;
    ip daddr 10.9.9.2 meta mark != 0 drop
    ip saddr 10.9.9.2 meta mark != 0 drop
  }}
}}
"""


def test_what_others_publish_is_theirs(netns: Callable[[str], str], tmp_path: Path) -> None:
    """Neither does it open a network of ours without ports, nor is it marked or kept from being translated by them."""
    world = World(netns, tmp_path, netns("host"))
    _, _, away = map(world.container, ("web", "db", "away"))
    world.names["out"], guest = world.uplink(), netns("guest")
    sh(world.host, "ip", "link", "add", "name", "tap0", "type", "veth", "peer", "name", "eth0", "netns", guest)
    for ns, nic, number in ((world.host, "tap0", 1), (guest, "eth0", 2)):
        sh(ns, "ip", "address", "add", f"10.9.9.{number}/24", "dev", nic)
        sh(ns, "ip", "link", "set", "dev", nic, "up")
    sh(world.host, "sysctl", "-qw", "net.ipv4.conf.tap0.forwarding=1")
    text = SITE.replace("attachments:", "  other: {driver: bridge, subnet: 10.2.2.0/24}\nattachments:")
    world.settle(text + '  - {container: "netns:<away>", network: other, address: 10.2.2.2}\n' + PORTS)
    sh(world.host, "nft", THEIRS)
    with served((away, 80), (guest, 80)):
        assert outside_asks(world, 9001) == "10.9.9.1"
        assert ask(world.names["out"], HOST, 9002, "tcp", SILENT) == SILENT
        assert ask(world.names["web"], HOST, 9002, "tcp", SILENT) == SILENT


LAN = """
networks:
  lan: {driver: bridge, bridge: br0, uplink: eth5, subnet: 172.16.9.0/24}
attachments:
  - {container: "netns:<web>", network: lan, address: 172.16.9.2}
ports:
  - {listen: 9009, to: "netns:<web>:80"}
"""


def test_a_lan_in_which_the_host_has_no_address(netns: Callable[[str], str], tmp_path: Path) -> None:
    """Its ports cannot answer, which is said until the host has one."""
    world = World(netns, tmp_path, netns("host"))
    web, out = world.container("web"), world.uplink()
    sh(world.host, "ip", "link", "add", "eth5", "up", "type", "veth", "peer", "name", "lan5")
    sh(world.host, "ip", "link", "set", "dev", "lan5", "up")
    world.names["out"] = out
    told = "ports of network lan: the host has no address in 172.16.9.0/24"
    with served((web, 80)):
        assert [note for note in world.apply(LAN).notes if note.startswith(told)]
        assert [note for note in world.apply(LAN).notes if note.startswith(told)], "as long as it is so"
        assert ask(out, HOST, 9009, "tcp", SILENT) == SILENT
        sh(world.host, "ip", "address", "add", "172.16.9.1/24", "dev", "br0")
        assert not [note for note in world.apply(LAN).notes if note.startswith(told)]
        assert ask(out, HOST, 9009, "tcp") == "172.16.9.1"
