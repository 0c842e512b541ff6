"""Containers of an isolated network reach the gateway and the world behind it, and not each other, in whatever way they try."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import frames
import pytest
from conftest import inside, ping, sh, until
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
    for ns, address in ((web, DB[0]), (db, "10.1.1.2")):
        by_the_gateway(ns, address)
        sh(ns, "sysctl", "-qw", "net.ipv4.conf.eth1.accept_redirects=0", "net.ipv4.conf.all.accept_redirects=0")
    caller, listener = (inside(ns, partial(socket.socket, type=socket.SOCK_DGRAM)) for ns in (web, db))
    with caller, listener:
        listener.bind((DB[0], 4001))
        for end in (caller, listener):
            end.settimeout(10)
        caller.sendto(b"before", (DB[0], 4001))
        heard, back = listener.recvfrom(99)
        listener.sendto(b"and back", back)
        assert (heard, caller.recv(99)) == (b"before", b"and back")
        world.settle(SITE)
        caller.sendto(b"after", (DB[0], 4001))
        host = inside(world.host, partial(socket.socket, type=socket.SOCK_DGRAM))
        with host:
            host.sendto(b"last", (DB[0], 4001))
        assert listener.recv(99) == b"last"


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
    lan: Lan
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
    return Hosts(lan, alpha, beta)


def apply(hosts: Hosts, text: str) -> None:
    hosts.alpha.settle(text, host="alpha")
    hosts.beta.settle(text, host="beta")


@pytest.mark.parametrize("filtered", [0, 1], ids=["", "br_netfilter"])
def test_across_hosts_too(hosts: Hosts, filtered: int) -> None:
    names = hosts.alpha.names
    web, far = names["web"], names["far"]
    for world in (hosts.alpha, hosts.beta):
        bridge_netfilter(world.host, filtered)
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


UPLINKED = """
hosts:
  alpha: {address: 192.168.1.1/24}
  beta: {address: 192.168.1.2/24}
networks:
  lan:
    driver: bridge
    bridge: br0
    uplink: eth0
    subnets: [192.168.1.0/24, "fd00:1::/64"]
    gateways: [192.168.1.254, "fd00:1::fe"]
    isolated: true
attachments:
  - {container: "netns:<web>", host: alpha, network: lan, address: [192.168.1.150, "fd00:1::150"]}
  - {container: "netns:<db>", host: alpha, network: lan, address: [192.168.1.151, "fd00:1::151"]}
  - {container: "netns:<far>", host: beta, network: lan, address: [192.168.1.152, "fd00:1::152"]}
"""


@pytest.mark.parametrize("filtered", [0, 1], ids=["", "br_netfilter"])
def test_on_a_lan(hosts: Hosts, filtered: int) -> None:
    """Whose gateway is another machine, which sends back what it is sent for its own subnet."""
    names = hosts.alpha.names
    web, db, far = names["web"], names["db"], names["far"]
    gateway = hosts.lan.machine("gateway", "192.168.1.254/24", "fd00:1::fe/64")
    sh(
        gateway,
        "sysctl",
        "-qw",
        "net.ipv4.ip_forward=1",
        "net.ipv6.conf.all.forwarding=1",
        "net.ipv4.conf.eth0.send_redirects=0",
    )
    for world in (hosts.alpha, hosts.beta):
        bridge_netfilter(world.host, filtered)
        sh(world.host, "sysctl", "-qw", "net.ipv4.ip_forward=1")
    everybody = ("192.168.1.151", "fd00:1::151", "192.168.1.152", "fd00:1::152", "192.168.1.254", "fd00:1::fe")
    apply(hosts, UPLINKED.replace("    isolated: true\n", ""))
    usable(web, db, far)
    assert [until(lambda to=to: ping(web, to)) for to in everybody] == [True] * 6
    apply(hosts, UPLINKED)
    assert [ping(web, to) for to in everybody] == [False] * 4 + [True] * 2
    for ns, others in ((web, everybody[:4]), (far, ("192.168.1.150", "fd00:1::150"))):
        ways = ("192.168.1.254", "fd00:1::fe") * 2
        by_the_gateway(ns, *others, gateways=ways)
    assert [ping(web, to) for to in everybody] == [False] * 4 + [True] * 2
    by_the_gateway(web, *everybody[:4], gateways=("192.168.1.1", "fd00:1::fe") * 2)
    assert [ping(web, to) for to in everybody] == [False] * 4 + [True] * 2, "nor by its own host"
    with Ear(far, "eth1") as ear:
        for to in everybody[:4]:
            ping(web, to)
        mac = mac_of(web)
        frames.send(web, "eth1", ethernet(mac, mac_of(far), EXPERIMENT, b"by its MAC"))
        last = ethernet(mac_of(gateway, "eth0"), mac_of(far), EXPERIMENT, b"last")
        frames.send(web, "eth1", ethernet(mac, mac_of(gateway, "eth0"), EXPERIMENT, b"may pass"))
        assert ping(web, "192.168.1.254")
        frames.send(gateway, "eth0", last)
        ear.until(last)
        assert not [frame for frame in ear.heard if frames.raw(mac) == frame[6:12] and not frame[0] & 1]
    hosts.alpha.destroy()
    hosts.beta.destroy()
    assert "peers" not in sh(hosts.alpha.host, "nft", "list", "ruleset")
