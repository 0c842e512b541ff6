"""Hosts that route between networks (contract 1.4): who reaches whom by a router, and what is refused, with real packets."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import ovs_host
import pytest
from agent_process import AgentProcess
from conftest import inside, ping, sh, until
from host import World, build_world, same, snapshot
from lan import Lan
from ovs_host import OvsHost

from ductwork.errors import ConflictError
from talk import REFUSED, SILENCE, ask

pytestmark = pytest.mark.netns

NETWORKS = """
networks:
  red: {driver: bridge, subnets: [10.1.1.0/24, "fd00:1::/64"]}
  blue: {driver: bridge, subnets: [10.1.2.0/24, "fd00:2::/64"]}
  grey: {driver: bridge, subnets: [10.1.3.0/24, "fd00:3::/64"]}
attachments:
  - {container: "netns:<web>", network: red, address: [10.1.1.2, "fd00:1::2"]}
  - {container: "netns:<db>", network: blue, address: [10.1.2.2, "fd00:2::2"]}
  - {container: "netns:<old>", network: grey, address: [10.1.3.2, "fd00:3::2"]}
"""
ROUTER = """
routers:
  - {name: gw, legs: {red: [10.1.1.254, "fd00:1::fe"], blue: [10.1.2.254, "fd00:2::fe"]}OPTIONS}
"""
SITE = NETWORKS + ROUTER.replace("OPTIONS", "")
WEB, DB, OLD = ("10.1.1.2", "fd00:1::2"), ("10.1.2.2", "fd00:2::2"), ("10.1.3.2", "fd00:3::2")
OUTSIDE = ("192.0.2.2", "2001:db8::2")


def site(options: str) -> str:
    return NETWORKS + ROUTER.replace("OPTIONS", f", {options}")


@pytest.fixture
def world(netns: Callable[[str], str], tmp_path: Path) -> World:
    """web, db and old, each in a network of its own, and a NIC with the world behind it."""
    made = build_world(netns, tmp_path)
    made.container("old")
    made.names["out"] = made.uplink()
    return made


def reached(ns: str, addresses: tuple[str, ...]) -> list[bool]:
    return [ping(ns, address) for address in addresses]


def usable(world: World) -> None:
    for ns in (world.host, *world.names.values()):
        assert until(lambda ns=ns: "tentative" not in sh(ns, "ip", "address"))  # type: ignore[misc]


def ttl(ns: str, address: str) -> int:
    """Of the answer to an echo, in IPv6 its hop limit."""
    answer = sh(ns, "ping", "-n", "-c1", "-W2", address)
    return int(re.search(r"ttl=(\d+)", answer)[1])  # type: ignore[index]


def source(client: str, server: str, target: str) -> str:
    """The address that a connection from `client` to `target` has where `server` sees it."""
    with inside(server, lambda: socket.create_server((target, 0), family=_family(target))) as listening:
        port = listening.getsockname()[1]
        listening.settimeout(5)
        with ThreadPoolExecutor(1) as pool:
            connected = pool.submit(inside, client, lambda: socket.create_connection((target, port), timeout=5).close())
            accepted, peer = listening.accept()
            accepted.close()
            connected.result()
    return str(peer[0])


def refused(client: str, target: str) -> str:
    """With which error a connection ends at once."""

    def connect() -> str:
        begun = time.monotonic()
        try:
            socket.create_connection((target, 9), timeout=10).close()
        except OSError as error:
            assert time.monotonic() - begun < 5, "a refusal is no time-out"
            return errno.errorcode.get(error.errno or 0, str(error))
        return ""

    return inside(client, connect)


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


ADMIN_PROHIBITED = ["EHOSTUNREACH", "EACCES"]
"""What TCP makes of it, in IPv4 and IPv6 (RFC 1812, 5.2.7.1; RFC 4443, 3.1)."""


def test_two_networks_of_one_host(world: World) -> None:
    before = world.snapshot()
    web, db, old = (world.names[name] for name in ("web", "db", "old"))
    world.settle(NETWORKS)
    usable(world)
    assert reached(web, DB) == [False] * 2, "without a router"
    without = world.snapshot()

    world.settle(SITE)
    usable(world)
    assert "default via 10.1.1.254 " in sh(web, "ip", "route"), "the leg is the gateway"
    assert reached(web, DB) == reached(db, WEB) == [True] * 2
    assert [ttl(web, address) for address in DB] == [63, 63]
    for address, own in zip(DB, WEB, strict=True):
        assert source(web, db, address) == own, "not translated, whatever leaves for the world"
    assert reached(web, OUTSIDE) == [True] * 2
    assert reached(web, OLD) == reached(old, WEB) == [False] * 2, "it has no leg"
    assert reached(web, ("10.1.1.254", "fd00:1::fe", "10.1.2.254", "fd00:2::fe")) == [True] * 4

    world.engine(lambda engine: engine.undo())
    usable(world)
    same(without, world.snapshot())
    world.settle(SITE)
    world.settle(NETWORKS)
    usable(world)
    assert reached(web, DB) == [False] * 2, "the router is gone"
    same(without, world.snapshot())
    world.settle(SITE)
    world.destroy()
    same(before, world.snapshot())


def test_new_connections_along_the_pairs_alone(world: World) -> None:
    web, db = world.names["web"], world.names["db"]
    world.settle(site("allow: [[red, blue]]"))
    usable(world)
    for address, own in zip(DB, WEB, strict=True):
        assert source(web, db, address) == own, "replies pass"
    assert reached(web, DB) == [True] * 2
    assert [ask(web, address, 9, "udp") for address in DB] == [REFUSED] * 2, "and so do ICMP's errors"
    assert reached(db, WEB) == [False] * 2
    assert [refused(db, address) for address in WEB] == ADMIN_PROHIBITED
    answer = sh(db, "ping", "-n", "-c1", "-W2", WEB[0], check=False)
    assert "From 10.1.2.254" in answer and "Packet filtered" in answer
    answer = sh(db, "ping", "-n", "-c1", "-W2", WEB[1], check=False)
    assert "From fd00:2::fe" in answer and "Administratively prohibited" in answer

    world.settle(site("allow: []"))
    assert reached(web, DB) == [False] * 2
    assert [refused(web, address) for address in DB] == ADMIN_PROHIBITED
    world.settle(SITE)
    assert reached(db, WEB) == [True] * 2


def test_masquerade_on_the_way_out_of_each_leg(world: World) -> None:
    web, db = world.names["web"], world.names["db"]
    world.settle(site("masquerade: true"))
    usable(world)
    assert [source(web, db, address) for address in DB] == ["10.1.2.254", "fd00:2::fe"]
    assert [source(db, web, address) for address in WEB] == ["10.1.1.254", "fd00:1::fe"]
    assert unasked(web, db) == 0, "what conntrack cannot place would keep its address"
    world.settle(SITE)
    assert unasked(web, db) == 1


def unasked(client: str, server: str) -> int:
    """How many answers to echoes arrive that nobody has asked for."""
    with inside(server, lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)) as ear:
        ear.settimeout(SILENCE)
        with inside(client, lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)) as mouth:
            mouth.sendto(bytes.fromhex("0000ffff00000000"), (DB[0], 0))
        with suppress(TimeoutError):
            return len([ear.recv(100)])
    return 0


def test_a_third_network_and_a_gateway_of_its_own(world: World) -> None:
    """The leg may be the gateway that the file names; where that is another address, it stays what it was."""
    dual = '{driver: bridge, subnets: [10.1.3.0/24, "fd00:3::/64"]}'
    named = SITE.replace(dual, "{driver: bridge, subnet: 10.1.3.0/24, gateway: 10.1.3.9}")
    named = named.replace('[10.1.3.2, "fd00:3::2"]', "10.1.3.2")
    for leg in ("10.1.3.9", "10.1.3.254"):
        world.settle(named.replace("legs: {", f"legs: {{grey: {leg}, "))
        usable(world)
        old = world.names["old"]
        assert "default via 10.1.3.9 " in sh(old, "ip", "route")
        assert reached(old, (WEB[0], DB[0], leg)) == [True] * 3


def test_a_family_without_legs_is_not_routed(world: World) -> None:
    world.settle(SITE.replace(', "fd00:1::fe"]', "]").replace(', "fd00:2::fe"]', "]"))
    usable(world)
    assert reached(world.names["web"], DB) == [True, False]


def test_an_isolated_network_reaches_its_router(world: World) -> None:
    world.container("two")
    more = '  - {container: "netns:<two>", network: red, address: [10.1.1.3, "fd00:1::3"]}\n'
    text = SITE.replace('"fd00:1::/64"]}', '"fd00:1::/64"], isolated: true}').replace("routers:", f"{more}routers:")
    world.settle(text)
    usable(world)
    web, db = world.names["web"], world.names["db"]
    assert reached(web, DB) == reached(db, WEB) == [True] * 2
    assert reached(web, ("10.1.1.3", "fd00:1::3")) == [False] * 2
    for address, leg in (("10.1.1.3", "10.1.1.254"), ("fd00:1::3", "fd00:1::fe")):
        sh(web, "ip", "route", "replace", address, "via", leg, "dev", "eth1")
    assert reached(web, ("10.1.1.3", "fd00:1::3")) == [False] * 2, "nor by way of the router"


def test_printed_commands_route(world: World) -> None:
    """Typed into a shell, they do the same, and `apply` finds nothing to do after them."""
    path = world.write(SITE)
    typed = world.cli("plan", path, "--format", "commands").out
    subprocess.run(["ip", "netns", "exec", world.host, "sh", "-e"], input=typed, text=True, check=True)
    usable(world)
    assert reached(world.names["web"], DB) == [True] * 2
    left = world.cli("plan", path, "--json").out
    assert '"changes": []' in left
    world.destroy()


def test_the_agent_mends_it(world: World) -> None:
    world.settle(SITE)
    usable(world)
    web = world.names["web"]
    with AgentProcess(world, world.write(SITE)):
        sh(world.host, "nft", "flush", "set", "inet", "ductwork", "routed")
        sh(world.host, "ip", "address", "delete", "10.1.1.254/24", "dev", "dw-red")
        assert until(lambda: reached(web, DB) == [True] * 2)


def test_a_refusal_names_the_way_out(world: World) -> None:
    sh(world.host, "ip", "link", "add", "name", "tap0", "type", "bridge")
    sh(world.host, "ip", "address", "add", "10.1.1.77/24", "dev", "tap0")
    before = world.snapshot()
    with pytest.raises(ConflictError, match=r"10\.1\.1\.77 on tap0"):
        world.apply(SITE)
    same(before, world.snapshot())


BEYOND = """
networks:
  lan: {driver: bridge, bridge: br0, uplink: eth0, subnets: [192.0.2.0/24, "2001:db8::/64"]}
  red: {driver: bridge, subnets: [10.1.1.0/24, "fd00:1::/64"], nat: none}
attachments:
  - {container: "netns:<web>", network: red, address: [10.1.1.2, "fd00:1::2"]}
routers:
  - {name: gw, legs: {lan: [192.0.2.1, "2001:db8::1"], red: [10.1.1.254, "fd00:1::fe"]}ALLOW}
"""


def test_who_comes_from_beyond_a_leg_needs_its_pair(world: World) -> None:
    """Whoever has a route comes by an uplink, not its LAN alone: `nat: none` lets in nobody whom the router refuses."""
    out, far = world.names["out"], ("203.0.113.9", "2001:db8:9::9")
    for address, by, to in zip(far, ("192.0.2.1", "2001:db8::1"), ("10.1.1.0/24", "fd00:1::/64"), strict=True):
        sh(out, "ip", "address", "add", address, "dev", "lo")
        sh(out, "ip", "route", "add", to, "via", by, "src", address)
    world.settle(BEYOND.replace("ALLOW", ", allow: []"))
    usable(world)
    assert [refused(out, address) for address in WEB] == ADMIN_PROHIBITED
    assert reached(world.names["web"], far) == [True] * 2, "out it goes as without the router"
    world.settle(BEYOND.replace("ALLOW", ""))
    assert reached(out, WEB) == [True] * 2
    world.settle(BEYOND.replace("ALLOW", "").replace(", nat: none", ""))
    assert reached(out, WEB) == [False] * 2, "who allows a LAN does not let all the world into what is translated"


def test_what_comes_by_no_leg_is_not_the_routers_to_refuse(world: World) -> None:
    for to, by in (("10.1.1.0/24", "192.0.2.1"), ("fd00:1::/64", "2001:db8::1")):
        sh(world.names["out"], "ip", "route", "add", to, "via", by)
    world.settle(site("allow: []").replace('"fd00:1::/64"]}', '"fd00:1::/64"], nat: none}'))
    usable(world)
    assert reached(world.names["out"], WEB) == [True] * 2


def test_what_is_no_second_way(world: World) -> None:
    """A single address elsewhere, and a leg of our own that goes to another device."""
    sh(world.host, "ip", "address", "add", "10.1.1.77/32", "dev", "lo")
    world.settle(SITE)
    world.settle(SITE.replace("red", "rot"))


# A LAN or several, and VXLAN.

HOSTS = """
hosts: {one: {address: 192.168.1.1/24}, two: {address: 192.168.1.2/24}, three: {address: 192.168.1.3/24}}
"""


class Stage:
    """Three hosts, each with a NIC in two LANs: `eth0`, where their addresses are, and `eth1`. Containers a and c on host one,
    b and d on two; the machines lan0 and lan1."""

    def __init__(self, netns: Callable[[str], str], directory: Path) -> None:
        self.lans = Lan(netns), Lan(netns)
        self.hosts = {name: World(netns, directory / name, netns(name)) for name in ("one", "two", "three")}
        for number, world in enumerate(self.hosts.values(), 1):
            world.directory.mkdir()
            for nic, lan in zip(("eth0", "eth1"), self.lans, strict=True):
                lan.plug_in(world.host, nic)
            sh(world.host, "ip", "address", "add", f"192.168.1.{number}/24", "dev", "eth0")
        for name, host in (("a", "one"), ("c", "one"), ("b", "two"), ("d", "two")):
            self.hosts[host].container(name)
        self.names = {name: full for world in self.hosts.values() for name, full in world.names.items()}
        for world in self.hosts.values():
            world.names |= self.names
        self.machines = [lan.machine(f"lan{n}", f"172.16.{n}.9/24", f"fd16:{n}::9/64") for n, lan in enumerate(self.lans)]
        sh(self.machines[0], "ip", "address", "add", "192.168.1.9/24", "dev", "eth0")
        for world in self.hosts.values():
            assert until(lambda ns=world.host: "NO-CARRIER" not in sh(ns, "ip", "address"))  # type: ignore[misc]
            usable(world)

    def settle(self, text: str) -> None:
        for name, world in self.hosts.items():
            world.settle(text, host=name)
        usable(self.hosts["one"])
        usable(self.hosts["three"])

    def reached(self, name: str, *addresses: str) -> list[bool]:
        return reached(self.names[name], addresses)

    def snapshots(self) -> list[object]:
        """Of the hosts, and of the containers, which each of them knows."""
        return [snapshot(ns) for ns in (*(world.host for world in self.hosts.values()), *self.names.values())]


@pytest.fixture
def stage(netns: Callable[[str], str], tmp_path: Path) -> Stage:
    return Stage(netns, tmp_path)


LANS = (
    HOSTS
    + """
networks:
  mac10: {driver: macvlan, parent: eth0, subnets: [172.16.0.0/24, "fd16:0::/64"]}
  mac20: {driver: macvlan, parent: eth1, subnets: [172.16.1.0/24, "fd16:1::/64"]}
attachments:
  - {container: "netns:<a>", host: one, network: mac10, address: [172.16.0.11, "fd16:0::11"]}
  - {container: "netns:<b>", host: two, network: mac20, address: [172.16.1.12, "fd16:1::12"]}
  - {container: "netns:<c>", host: one, network: mac20, address: [172.16.1.13, "fd16:1::13"]}
"""
)
LAN_ROUTER = """
routers:
  - {name: gw, host: three, legs: {mac10: [172.16.0.1, "fd16:0::1"], mac20: [172.16.1.1, "fd16:1::1"]}}
"""


@pytest.mark.parametrize("router", ["three", "one"])
def test_between_two_lans(stage: Stage, router: str) -> None:
    """Scenario D4, two NICs for two VLANs: by a third host, and by one that has containers of its own there."""
    before = stage.snapshots()
    stage.settle(LANS)
    assert stage.reached("a", "172.16.1.12", "fd16:1::12") == [False] * 2
    without = stage.snapshots()
    stage.settle(LANS + LAN_ROUTER.replace("three", router))
    assert stage.reached("a", "172.16.1.12", "fd16:1::12", "172.16.1.13", "fd16:1::13") == [True] * 4
    assert stage.reached("b", "172.16.0.11", "fd16:0::11") == [True] * 2
    assert [ttl(stage.names["a"], address) for address in ("172.16.1.12", "fd16:1::12")] == [63, 63]
    assert source(stage.names["a"], stage.names["b"], "172.16.1.12") == "172.16.0.11"
    assert reached(stage.hosts[router].host, ("172.16.0.11", "172.16.1.12", "172.16.1.13")) == [True] * 3
    sh(stage.names["a"], "ip", "route", "add", "172.16.0.9", "via", "172.16.0.1")
    assert ping(stage.names["a"], "172.16.0.9"), "within its own network it needs no pair"
    sh(stage.names["a"], "ip", "route", "delete", "172.16.0.9")
    assert not ping(stage.names["a"], "192.168.1.9"), "the router's other ways are not theirs"
    assert refused(stage.names["a"], "192.168.1.9") == "EHOSTUNREACH"
    stage.settle(LANS)
    for was, now in zip(without, stage.snapshots(), strict=True):
        same(was, now)
    stage.settle(LANS + LAN_ROUTER)
    for world in stage.hosts.values():
        world.destroy()
    for was, now in zip(before, stage.snapshots(), strict=True):
        same(was, now)


def test_nobody_comes_in_by_another_way(stage: Stage) -> None:
    """The router's host forwards everywhere, as one with Docker does: into the LAN of a leg it still lets legs alone."""
    stage.settle(LANS + LAN_ROUTER)
    three = stage.hosts["three"].host
    sh(three, "sysctl", "-qw", "net.ipv4.conf.eth0.forwarding=1")
    machine = stage.machines[0]
    sh(machine, "ip", "address", "delete", "172.16.0.9/24", "dev", "eth0")
    sh(machine, "ip", "route", "add", "172.16.1.0/24", "via", "192.168.1.3")
    assert refused(machine, "172.16.1.12") == "EHOSTUNREACH"
    sh(three, "nft", "flush", "set", "inet", "ductwork", "lan_legs")
    assert refused(machine, "172.16.1.12") != "EHOSTUNREACH", "it was the set that refused"


def test_into_its_lan_a_host_sends_what_its_own_networks_send(stage: Stage) -> None:
    """A network that is no leg's: as it goes to the world, and ICMP's errors come back."""
    pods = '  pods: {driver: bridge, subnets: [10.1.1.0/24, "fd00:1::/64"]}\nattachments:'
    more = '  - {container: "netns:<e>", host: three, network: pods, address: [10.1.1.2, "fd00:1::2"]}\n'
    own = stage.hosts["three"].container("e")
    stage.hosts["three"].settle(LANS.replace("attachments:", pods) + more + LAN_ROUTER, host="three")
    usable(stage.hosts["three"])
    assert reached(own, ("172.16.0.9", "fd16:0::9")) == [True] * 2
    assert [ask(own, address, 9, "udp") for address in ("172.16.0.9", "fd16:0::9")] == [REFUSED] * 2


UPLINKS = (
    HOSTS
    + """
networks:
  lan: {driver: bridge, bridge: br0, uplink: eth0, subnet: 192.168.1.0/24}
  pods: {driver: bridge, subnet: 10.1.1.0/24, nat: none}
attachments:
  - {container: "netns:<a>", host: one, network: lan, address: 192.168.1.50}
  - {container: "netns:<c>", host: one, network: pods, address: 10.1.1.2}
  - {container: "netns:<b>", host: two, network: lan, address: 192.168.1.51}
routers:
  - {name: gw, host: one, legs: {lan: 192.168.1.1, pods: 10.1.1.1}, allow: [[pods, lan]]}
"""
)


def test_the_hosts_own_address_as_a_leg(stage: Stage) -> None:
    """The NIC brings it along to its bridge, and takes it back."""
    before = stage.snapshots()
    stage.settle(UPLINKS)
    machine = stage.machines[0]
    sh(machine, "ip", "route", "add", "10.1.1.0/24", "via", "192.168.1.1")
    assert "default via 192.168.1.1 " in sh(stage.names["b"], "ip", "route"), "on another host, too"
    assert stage.reached("c", "192.168.1.9", "192.168.1.51", "192.168.1.50") == [True] * 3
    assert source(stage.names["c"], stage.names["b"], "192.168.1.51") == "10.1.1.2"
    assert refused(machine, "10.1.1.2") == refused(stage.names["b"], "10.1.1.2") == "EHOSTUNREACH"
    stage.settle(UPLINKS.replace(", allow: [[pods, lan]]", ""))
    assert ping(machine, "10.1.1.2") and stage.reached("b", "10.1.1.2") == [True]

    sh(machine, "ip", "address", "add", "203.0.113.9/32", "dev", "lo")
    sh(stage.hosts["one"].host, "ip", "route", "add", "203.0.113.0/24", "via", "192.168.1.9")
    stage.settle(UPLINKS.replace(", nat: none", ""))
    assert source(stage.names["c"], machine, "203.0.113.9") == "192.168.1.1", "what goes further, goes as it does without"
    assert source(stage.names["c"], machine, "192.168.1.9") == "10.1.1.2"
    sh(stage.hosts["one"].host, "ip", "route", "delete", "203.0.113.0/24")
    for world in stage.hosts.values():
        world.destroy()
    for was, now in zip(before, stage.snapshots(), strict=True):
        same(was, now)


TUNNEL = (
    HOSTS
    + """
networks:
  pods: {driver: vxlan, vni: 42, subnets: [10.1.1.0/24, "fd00:1::/64"]OPTIONS}
  blue: {driver: bridge, subnets: [10.1.2.0/24, "fd00:2::/64"]}
attachments:
  - {container: "netns:<a>", host: one, network: pods, address: [10.1.1.2, "fd00:1::2"]}
  - {container: "netns:<b>", host: two, network: pods, address: [10.1.1.3, "fd00:1::3"]}
  - {container: "netns:<d>", host: two, network: pods, address: [10.1.1.4, "fd00:1::4"]}
  - {container: "netns:<c>", host: one, network: blue, address: [10.1.2.2, "fd00:2::2"]}
routers:
  - {name: gw, host: one, legs: {pods: [10.1.1.254, "fd00:1::fe"], blue: [10.1.2.254, "fd00:2::fe"]}}
"""
)


@pytest.mark.parametrize("isolated", [False, True], ids=["", "isolated"])
def test_through_a_tunnel(stage: Stage, isolated: bool) -> None:
    before = stage.snapshots()
    stage.settle(TUNNEL.replace("OPTIONS", ", isolated: true" if isolated else ""))
    usable(stage.hosts["two"])
    assert "10.1.1.254" not in sh(stage.hosts["two"].host, "ip", "address"), "the leg is on one host alone"
    assert stage.reached("b", "10.1.2.2", "fd00:2::2") == stage.reached("a", "10.1.2.2", "fd00:2::2") == [True] * 2
    assert stage.reached("c", "10.1.1.3", "fd00:1::3") == [True] * 2
    among = [stage.reached("b", *its) for its in (("10.1.1.2", "fd00:1::2"), ("10.1.1.4", "fd00:1::4"))]
    assert among == [[not isolated] * 2] * 2
    for world in stage.hosts.values():
        world.destroy()
    for was, now in zip(before, stage.snapshots(), strict=True):
        same(was, now)


@pytest.mark.parametrize("options", ["", ", masquerade: true", ", allow: [[mac20, mac10]]"])
@pytest.mark.parametrize("host", ["three", "one"])
def test_the_lab_judges_it_alike(tmp_path: Path, host: str, options: str) -> None:
    """What contract 1.7 and 1.4 say, tried between all pairs (tests/netns/test_lab.py tries the examples)."""
    text = LANS + LAN_ROUTER.replace("three", host).replace("}}", f"}}{options}}}")
    assert judged(tmp_path, text)["a", "172.16.1.12"] == ("allow" not in options)


def test_the_lab_judges_uplinks_and_tunnels_alike(tmp_path: Path) -> None:
    found = judged(tmp_path, UPLINKS)
    assert found["c", "192.168.1.51"] and not found["b", "10.1.1.2"]
    assert judged(tmp_path, TUNNEL.replace("OPTIONS", ", isolated: true"))["b", "10.1.2.2"]


def judged(tmp_path: Path, text: str) -> dict[tuple[str, str], bool]:
    """(from, address) → whether it was reached; all as expected."""
    path = tmp_path / f"routers-{os.getpid()}.yaml"
    path.write_text(re.sub("<(.)>", r"\1", text))
    argv = [sys.executable, "-m", "ductwork", "lab", "test", str(path), "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    pairs = json.loads(done.stdout)["pairs"]
    assert [pair for pair in pairs if pair["expected"] != pair["actual"]] == []
    assert done.returncode == 0
    return {(pair["from"], pair["address"]): pair["actual"] for pair in pairs}


def test_a_tunnel_with_a_gateway_on_every_host(stage: Stage) -> None:
    """Named in the file, it is not the leg: what is to go by the router needs a route."""
    text = TUNNEL.replace("OPTIONS", ', gateways: [10.1.1.1, "fd00:1::1"]')
    by_leg = "routes: [{to: 10.1.2.0/24, via: 10.1.1.254}]"
    stage.settle(text.replace('<b>", host: two, network: pods,', f'<b>", host: two, network: pods, {by_leg},'))
    assert "default via 10.1.1.1 " in sh(stage.names["b"], "ip", "route")
    assert stage.reached("b", "10.1.1.1", "10.1.1.254", "10.1.2.2") == [True] * 3
    assert stage.reached("a", "10.1.2.2") == [True], "its gateway is on the router's host"
    assert stage.reached("d", "10.1.2.2") == [False]


OPEN_VSWITCH = """
networks:
  red: {driver: ovs, datapath: netdev, ovsdb: "DB", subnets: [10.1.1.0/24, "fd00:1::/64"]}
  blue: {driver: ovs, bridge: ovs1, datapath: netdev, ovsdb: "DB", subnets: [10.1.2.0/24, "fd00:2::/64"]}
attachments:
  - {container: "netns:<web>", network: red, address: [10.1.1.2, "fd00:1::2"]}
  - {container: "netns:<db>", network: blue, address: [10.1.2.2, "fd00:2::2"]}
"""


def test_between_bridges_of_open_vswitch(netns: Callable[[str], str], tmp_path: Path) -> None:
    lacking = ovs_host.missing()
    if lacking and os.environ.get("CI") != "true":
        pytest.skip(lacking)
    assert not lacking
    world = World(netns, tmp_path, netns("host"))
    web, db = map(world.container, ("web", "db"))
    with OvsHost(world.host, tmp_path / "ovs") as ovs:
        networks, before = OPEN_VSWITCH.replace("DB", ovs.socket), world.snapshot()
        world.settle(networks + ROUTER.replace("OPTIONS", ", allow: [[red, blue]]"))
        usable(world)
        assert reached(web, DB) == [True] * 2 and [ttl(web, address) for address in DB] == [63, 63]
        assert [source(web, db, address) for address in DB] == list(WEB)
        assert [refused(db, address) for address in WEB] == ADMIN_PROHIBITED
        world.settle(networks)
        assert reached(web, DB) == [False] * 2
        world.destroy()
        same(before, world.snapshot())
