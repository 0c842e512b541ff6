"""Containers of an isolated network reach the gateway and the world behind it, and not each other, in whatever way they try."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import frames
import pytest
from conftest import ping, sh, until
from frames import ARP, BROADCAST, EXPERIMENT, IPV4, REQUEST, Ear, ethernet, udp4
from host import World, build_world
from lan import Lan
from test_antispoof import mac_of

pytestmark = pytest.mark.netns

SITE = """
networks:
  lan: {driver: bridge, subnets: [10.1.1.0/24, "fd00:1::/64"], isolated: true}
attachments:
  - {container: "netns:<web>", network: lan, address: [10.1.1.2, "fd00:1::2"]}
  - {container: "netns:<db>", network: lan, address: [10.1.1.3, "fd00:1::3"]}
"""
OPEN = SITE.replace(", isolated: true", "")
DB = ("10.1.1.3", "fd00:1::3")
GATEWAYS = ("10.1.1.1", "fd00:1::1")
OUTSIDE = ("192.0.2.2", "2001:db8::2")


@pytest.fixture
def world(netns: Callable[[str], str], tmp_path: Path) -> World:
    made = build_world(netns, tmp_path)
    made.uplink()
    return made


def usable(*namespaces: str) -> None:
    for ns in namespaces:
        assert until(lambda ns=ns: "tentative" not in sh(ns, "ip", "address"))


def by_the_gateway(ns: str, *addresses: str, gateways: tuple[str, ...] = GATEWAYS) -> None:
    """Routes of full length, by which a container sends its neighbour's packets to the gateway."""
    for address, gateway in zip(addresses, gateways, strict=False):
        sh(ns, "ip", "route", "replace", address, "via", gateway, "dev", "eth1")


def bridge_netfilter(ns: str, value: int) -> None:
    """With br_netfilter, what a bridge forwards goes by the host's rules for routed packets; Docker switches it on."""
    for name in ("iptables", "ip6tables"):
        sh(ns, "sysctl", "-qw", f"net.bridge.bridge-nf-call-{name}={value}")


@pytest.mark.parametrize("filtered", [0, 1], ids=["", "br_netfilter"])
def test_not_each_other_but_the_gateway(world: World, filtered: int) -> None:
    web, db = world.names["web"], world.names["db"]
    world.settle(OPEN)
    bridge_netfilter(world.host, filtered)
    usable(web, db)
    assert [ping(web, address) for address in (*DB, *GATEWAYS, *OUTSIDE)] == [True] * 6
    world.settle(SITE)
    assert [ping(web, address) for address in (*DB, *GATEWAYS, *OUTSIDE)] == [False] * 2 + [True] * 4
    by_the_gateway(web, *DB)
    assert [ping(web, address) for address in (*DB, *GATEWAYS, *OUTSIDE)] == [False] * 2 + [True] * 4
    by_the_gateway(db, "10.1.1.2", "fd00:1::2")
    assert [ping(web, address) for address in DB] == [False] * 2, "nor where both help"
    world.settle(OPEN)
    assert [ping(web, address) for address in DB] == [True] * 2


def test_nothing_of_each_other_is_heard(world: World) -> None:
    """Neither what is meant for everybody nor what is sent to the neighbour's, the bridge's or the port's MAC."""
    world.settle(SITE)
    web, db = world.names["web"], world.names["db"]
    usable(web, db)
    mac, other, bridge = mac_of(web), mac_of(db), mac_of(world.host, "dw-lan")
    [port] = [line.split()[1].rstrip(":") for line in sh(world.host, "bridge", "link").splitlines() if "dwdwn" in line][:1]
    port = port.partition("@")[0]
    tries = [
        ethernet(mac, BROADCAST, ARP, frames.arp(REQUEST, mac, "10.1.1.2", "10.1.1.3")),
        ethernet(mac, BROADCAST, EXPERIMENT, b"to everybody"),
        *(
            ethernet(mac, to, IPV4, udp4("10.1.1.2", "10.1.1.3", text=b"tried"))
            for to in (BROADCAST, other, bridge, mac_of(world.host, port))
        ),
    ]
    with Ear(db, "eth1") as ear:
        frames.send(web, "eth1", *tries)
        assert ping(web, "10.1.1.1")
        sh(world.host, "ping", "-c", "1", "-W", "1", "10.1.1.3")
        last = ethernet(mac_of(world.host, "dw-lan"), other, EXPERIMENT, b"last")
        frames.send(world.host, "dw-lan", last)
        ear.until(last)
        assert not [frame for frame in ear.heard if b"tried" in frame or frame in tries]
        assert not [frame for frame in ear.heard if frames.raw(mac) == frame[6:12]]


def test_what_was_connected_is_not_any_more(world: World) -> None:
    """By way of the gateway, connections are known to the host's filter; those go first."""
    web, db = world.names["web"], world.names["db"]
    world.settle(OPEN)
    usable(web, db)
    by_the_gateway(web, *DB)
    by_the_gateway(db, "10.1.1.2", "fd00:1::2")
    sh(world.host, "sysctl", "-qw", "net.ipv4.conf.dw-lan.send_redirects=0", "net.ipv4.conf.all.send_redirects=0")
    with Ear(db, "eth1") as ear:
        sender = ["python3", "-c", _CHATTER]
        assert ping(web, DB[0])
        world.settle(SITE)
        sh(web, *sender, DB[0])
        last = ethernet(mac_of(world.host, "dw-lan"), mac_of(db), EXPERIMENT, b"last")
        frames.send(world.host, "dw-lan", last)
        ear.until(last)
        assert not [frame for frame in ear.heard if b"chatter" in frame]


_CHATTER = "import socket, sys; socket.socket(type=socket.SOCK_DGRAM).sendto(b'chatter', (sys.argv[1], 4001))"


VXLAN = """
hosts:
  alpha: {address: 192.168.1.1/24}
  beta: {address: 192.168.1.2/24}
networks:
  pods:
    driver: vxlan
    vni: 42
    subnet: 10.2.2.0/24
    isolated: true
    host_addresses: {alpha: 10.2.2.251, beta: 10.2.2.252}
attachments:
  - {container: "netns:<web>", host: alpha, network: pods, address: 10.2.2.2}
  - {container: "netns:<db>", host: alpha, network: pods, address: 10.2.2.3}
  - {container: "netns:<far>", host: beta, network: pods, address: 10.2.2.4}
"""


@dataclass
class Hosts:
    alpha: World
    beta: World


@pytest.fixture
def hosts(netns: Callable[[str], str], tmp_path: Path) -> Hosts:
    lan = Lan(netns)
    worlds = []
    for number, name in enumerate(("alpha", "beta"), 1):
        world = World(netns, tmp_path / name, netns(name))
        world.directory.mkdir()
        lan.plug_in(world.host)
        sh(world.host, "ip", "address", "add", f"192.168.1.{number}/24", "dev", "eth0")
        worlds.append(world)
    alpha, beta = worlds
    for name in ("web", "db"):
        alpha.container(name)
    beta.container("far")
    names = {**alpha.names, **beta.names}
    alpha.names, beta.names = dict(names), dict(names)
    assert until(lambda: ping(alpha.host, "192.168.1.2"))
    return Hosts(alpha, beta)


def apply(hosts: Hosts, text: str) -> None:
    hosts.alpha.settle(text, host="alpha")
    hosts.beta.settle(text, host="beta")


def test_across_hosts_too(hosts: Hosts) -> None:
    names = hosts.alpha.names
    web, far = names["web"], names["far"]
    apply(hosts, VXLAN.replace("    isolated: true\n", ""))
    assert [ping(web, f"10.2.2.{last}") for last in (3, 4, 1, 251)] == [True] * 4
    apply(hosts, VXLAN)
    assert [ping(web, f"10.2.2.{last}") for last in (3, 4, 1, 251)] == [False] * 2 + [True] * 2
    for ns, address in ((web, "10.2.2.4"), (far, "10.2.2.2")):
        by_the_gateway(ns, address, gateways=("10.2.2.1",))
    assert not ping(web, "10.2.2.4")
    with Ear(far, "eth1") as ear:
        ping(web, "10.2.2.4")
        assert ping(far, "10.2.2.1")
        assert not [frame for frame in ear.heard if frames.raw(mac_of(web)) == frame[6:12]]
