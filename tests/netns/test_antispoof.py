"""What a container sends in another's name goes nowhere, and is not learnt: real frames, from inside, made by hand."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import frames
import pytest
from conftest import ping, run, sh, until
from frames import ARP, BROADCAST, EXPERIMENT, IPV4, IPV6, REPLY, REQUEST, Ear, ethernet, icmp6, neighbour, tagged, udp4, udp6
from host import World, build_world, same
from lan import Lan

from ductwork.engine import AttachRequest
from ductwork.errors import DuctworkError
from ductwork.naming import host_ifname

pytestmark = pytest.mark.netns

SITE = """
networks:
  lan: {driver: bridge, subnets: [10.1.1.0/24, "fd00:1::/64"]}
attachments:
  - {container: "netns:<web>", network: lan, address: [10.1.1.2, "fd00:1::2"]}
  - {container: "netns:<db>", network: lan, address: [10.1.1.3, "fd00:1::3"]}
"""
GATEWAY4, GATEWAY6 = "10.1.1.1", "fd00:1::1"
OWN4, OWN6 = "10.1.1.2", "fd00:1::2"
DB4, DB6 = "10.1.1.3", "fd00:1::3"
NOBODY_MAC = "02:de:ad:be:ef:01"
GROUP6, GROUP6_MAC = "ff02::1", "33:33:00:00:00:01"
DISCOVER, OFFER = (68, 67), (67, 68)
SOLICIT, ADVERTISE, ROUTER_SOLICIT, ROUTER_ADVERT, REDIRECT = 135, 136, 133, 134, 137
NONCE, SOURCE_MAC, TARGET_MAC = 14, 1, 2
PADDED = bytes([frames.ICMPV6, 0, 1, 4, 0, 0, 0, 0])
"""Destination options: nothing but padding, and ICMPv6 behind it."""


@pytest.fixture
def world(netns: Callable[[str], str], tmp_path: Path) -> World:
    return build_world(netns, tmp_path)


@dataclass(frozen=True)
class Villain:
    """A container and what it knows of its victim."""

    world: World
    mac: str
    victim: str
    link_local: str

    def frame(self, kind: int, payload: bytes, source: str = "", destination: str = BROADCAST) -> bytes:
        return ethernet(source or self.mac, destination, kind, payload)

    def v6(self, payload: bytes, source: str = "") -> bytes:
        return self.frame(IPV6, payload, source, GROUP6_MAC)

    def arrives(self, sent: Mapping[str, bytes], name: str = "web") -> set[str]:
        """What of it gets to the victim. The last frame is the container's own right, and comes when all else has."""
        last = self.frame(EXPERIMENT, b"that was all")
        with Ear(self.world.names["db"], "eth1") as ear:
            frames.send(self.world.names[name], "eth1", *sent.values(), last)
            ear.until(last)
            return {what for what, frame in sent.items() if ear.has(frame)}


def mac_of(ns: str, ifname: str = "eth1") -> str:
    found: str = json.loads(sh(ns, "ip", "-j", "link", "show", "dev", ifname))[0]["address"]
    return found


def villain(world: World) -> Villain:
    """web, when all addresses are usable and everybody knows everybody."""
    web, db = world.names["web"], world.names["db"]
    for ns in (web, db):
        assert until(lambda ns=ns: "tentative" not in sh(ns, "ip", "address"))
    assert ping(web, DB4)
    assert ping(web, DB6)
    [local] = [
        a
        for a in json.loads(sh(web, "ip", "-j", "-6", "address", "show", "dev", "eth1"))[0]["addr_info"]
        if a["scope"] == "link"
    ]
    return Villain(world, mac_of(web), mac_of(db), local["local"])


def learnt(world: World) -> dict[str, str]:
    """MAC → the port that the bridge has it at."""
    entries = json.loads(run("bridge", "-n", world.host, "-j", "fdb", "show", "br", "dw-lan"))
    return {entry["mac"]: entry["ifname"] for entry in entries if "master" in entry}


def honest(it: Villain) -> dict[str, bytes]:
    """All that a container may send."""
    text = b"honest"
    return {
        "to the victim": it.frame(IPV4, udp4(OWN4, DB4, text=text), destination=it.victim),
        "to the gateway's address": it.frame(IPV4, udp4(OWN4, GATEWAY4, text=text)),
        "ARP request": it.frame(ARP, frames.arp(REQUEST, it.mac, OWN4, DB4)),
        "ARP announcement": it.frame(ARP, frames.arp(REPLY, it.mac, OWN4, OWN4)),
        "ARP probe": it.frame(ARP, frames.arp(REQUEST, it.mac, "0.0.0.0", OWN4)),
        "DHCP discover": it.frame(IPV4, udp4("0.0.0.0", "255.255.255.255", DISCOVER, text)),
        "IPv6": it.v6(udp6(OWN6, GROUP6, text=text)),
        "IPv6 from its link-local address": it.v6(udp6(it.link_local, GROUP6, text=text)),
        "detecting duplicates": it.v6(icmp6("::", GROUP6, SOLICIT, neighbour(OWN6))),
        "with a nonce": it.v6(icmp6("::", GROUP6, SOLICIT, neighbour(OWN6, NONCE, "01:02:03:04:05:06"))),
        "of its link-local address": it.v6(icmp6("::", GROUP6, SOLICIT, neighbour(it.link_local))),
        "solicitation": it.v6(icmp6(OWN6, GROUP6, SOLICIT, neighbour(DB6, SOURCE_MAC, it.mac))),
        "solicitation without its MAC": it.v6(icmp6(OWN6, GROUP6, SOLICIT, neighbour(DB6))),
        "advertisement": it.v6(icmp6(OWN6, GROUP6, ADVERTISE, neighbour(OWN6, TARGET_MAC, it.mac, 0x20))),
        "advertisement without its MAC": it.v6(icmp6(it.link_local, GROUP6, ADVERTISE, neighbour(OWN6))),
        "router solicitation": it.v6(icmp6("::", GROUP6, ROUTER_SOLICIT, bytes(4))),
        "another protocol": it.frame(EXPERIMENT, text),
    }


def dishonest(it: Villain) -> Iterator[tuple[str, bytes]]:
    """What it may not."""
    text = b"dishonest"
    fine = it.frame(IPV4, udp4(OWN4, DB4, text=text))
    for whose, mac in (("nobody's", NOBODY_MAC), ("the victim's", it.victim), ("a group's", GROUP6_MAC)):
        yield f"IPv4, {whose} MAC", it.frame(IPV4, udp4(OWN4, DB4, text=text), mac)
        yield f"IPv6, {whose} MAC", it.v6(udp6(OWN6, GROUP6, text=text), mac)
        yield f"ARP, {whose} MAC", it.frame(ARP, frames.arp(REQUEST, it.mac, OWN4, DB4), mac)
        yield f"another protocol, {whose} MAC", it.frame(EXPERIMENT, text, mac)
        yield f"DHCP discover, {whose} MAC", it.frame(IPV4, udp4("0.0.0.0", "255.255.255.255", DISCOVER, text), mac)
        yield f"ARP probe, {whose} MAC inside", it.frame(ARP, frames.arp(REQUEST, mac, "0.0.0.0", OWN4))
        yield f"ARP, {whose} MAC inside", it.frame(ARP, frames.arp(REPLY, mac, OWN4, OWN4))
        yield f"NA, {whose} MAC inside", it.v6(icmp6(OWN6, GROUP6, ADVERTISE, neighbour(OWN6, TARGET_MAC, mac, 0x20)))
        yield f"NS, {whose} MAC inside", it.v6(icmp6(OWN6, GROUP6, SOLICIT, neighbour(DB6, SOURCE_MAC, mac)))
    for address in (DB4, GATEWAY4, "192.0.2.7", "127.0.0.1", "0.0.0.0"):
        yield f"IPv4 from {address}", it.frame(IPV4, udp4(address, DB4, text=text))
        yield f"ARP reply from {address}", it.frame(ARP, frames.arp(REPLY, it.mac, address, DB4))
    yield "ARP request from the gateway", it.frame(ARP, frames.arp(REQUEST, it.mac, GATEWAY4, DB4))
    yield "DHCP offer", it.frame(IPV4, udp4(OWN4, "255.255.255.255", OFFER, text))
    yield "DHCPv6 reply", it.v6(udp6(it.link_local, GROUP6, (547, 546), text))
    for address in (DB6, GATEWAY6, "2001:db8::7", "fe80::1", "::"):
        yield f"IPv6 from {address}", it.v6(udp6(address, GROUP6, text=text))
        yield f"NA from {address}", it.v6(icmp6(address, GROUP6, ADVERTISE, neighbour(OWN6, TARGET_MAC, it.mac, 0x20)))
        if address != "::":
            yield f"NA of {address}", it.v6(icmp6(OWN6, GROUP6, ADVERTISE, neighbour(address, TARGET_MAC, it.mac, 0x20)))
            yield f"NA of {address}, no MAC", it.v6(icmp6(OWN6, GROUP6, ADVERTISE, neighbour(address, flags=0x20)))
            yield f"NS from {address}", it.v6(icmp6(address, GROUP6, SOLICIT, neighbour(DB6, SOURCE_MAC, it.mac)))
            yield f"detecting {address}", it.v6(icmp6("::", GROUP6, SOLICIT, neighbour(address)))
    two = neighbour(OWN6, TARGET_MAC, it.mac, 0x20) + struct.pack("!BB", TARGET_MAC, 1) + frames.raw(it.victim)
    yield "NA with two options", it.v6(icmp6(OWN6, GROUP6, ADVERTISE, two))
    yield "NA behind a header", it.v6(icmp6(OWN6, GROUP6, ADVERTISE, neighbour(DB6, TARGET_MAC, it.mac, 0x20), PADDED))
    yield "own NA behind a header", it.v6(icmp6(OWN6, GROUP6, ADVERTISE, neighbour(OWN6, TARGET_MAC, it.mac, 0x20), PADDED))
    yield "router advertisement", it.v6(icmp6(it.link_local, GROUP6, ROUTER_ADVERT, bytes(12)))
    yield "router advertisement behind a header", it.v6(icmp6(it.link_local, GROUP6, ROUTER_ADVERT, bytes(12), PADDED))
    yield "redirect", it.v6(icmp6(it.link_local, GROUP6, REDIRECT, bytes(36)))
    for vid in (0, 1, 5):
        yield f"VLAN {vid}", tagged(fine, vid)
        yield f"service VLAN {vid}", tagged(fine, vid, frames.SERVICE_VLAN)
    yield "two tags", tagged(tagged(fine, 5), 6)


def test_what_is_its_own_passes(world: World) -> None:
    world.settle(SITE)
    sent = honest(villain(world))
    assert villain(world).arrives(sent) == set(sent)


def test_what_is_not_its_own_goes_nowhere(world: World) -> None:
    world.settle(SITE)
    it = villain(world)
    before = learnt(world)
    with Ear(world.host, "dw-lan") as host:
        assert it.arrives(dict(dishonest(it))) == set()
        host.until(it.frame(EXPERIMENT, b"that was all"))
        assert not [what for what, frame in dishonest(it) if host.has(frame)], "nor does it get to the host"
    assert {mac: port for mac, port in learnt(world).items() if port.startswith("dw")} == before
    assert before[it.victim] == host_ifname(f"netns:{world.names['db']}", "eth1")


@pytest.mark.parametrize("group", [0x00, 0x01, 0x02, 0x03, 0x0E])
def test_frames_for_the_bridge_itself_teach_it_nothing(world: World, group: int) -> None:
    """Spanning tree, LLDP and their like (IEEE 802.1D, table 7-10) do not all come by the packet filter."""
    world.settle(SITE)
    it = villain(world)
    before = learnt(world)
    destination = f"01:80:c2:00:00:{group:02x}"
    it.arrives({str(mac): it.frame(EXPERIMENT, b"", mac, destination) for mac in (NOBODY_MAC, it.victim)})
    assert learnt(world) == before


ALLOWED = SITE.replace('"fd00:1::2"]}', '"fd00:1::2"], spoofing: allow}')
ELSEWHERE = SITE.replace("10.1.1.2", "10.1.1.9").replace("fd00:1::2", "fd00:1::9")
FREE = """
networks:
  lan: {driver: bridge}
attachments:
  - {container: "netns:<web>", network: lan}
  - {container: "netns:<db>", network: lan}
"""


def elements(world: World) -> set[str]:
    """The ports that the sets of the bridge table name."""
    listed = json.loads(sh(world.host, "nft", "-j", "list", "table", "bridge", "ductwork"))["nftables"]
    values = [e["elem"]["val"] for entry in listed for e in entry.get("set", {}).get("elem", ())]
    return {value["concat"][0] if isinstance(value, dict) else value for value in values}


def port(world: World, name: str) -> str:
    return host_ifname(f"netns:{world.names[name]}", "eth1")


def test_allowed_is_allowed(world: World) -> None:
    world.settle(SITE)
    assert elements(world) == {port(world, "web"), port(world, "db")}
    world.settle(ALLOWED)
    assert elements(world) == {port(world, "db")}
    it = villain(world)
    sent = {what: frame for what, frame in dishonest(it) if "a group's" not in what}
    assert it.arrives(sent) == set(sent)
    world.settle(SITE)
    assert it.arrives(sent) == set()


def test_who_moves_takes_the_new_address_for_the_old(world: World) -> None:
    world.settle(SITE)
    it = villain(world)
    old, new = (it.frame(IPV4, udp4(address, DB4)) for address in (OWN4, "10.1.1.9"))
    assert it.arrives({"old": old, "new": new}) == {"old"}
    world.settle(ELSEWHERE)
    assert it.arrives({"old": old, "new": new}) == {"new"}
    assert ping(world.names["web"], DB6)


def test_without_addresses_the_mac_is_checked(world: World) -> None:
    world.settle(FREE)
    it = Villain(world, mac_of(world.names["web"]), mac_of(world.names["db"]), "fe80::1")
    mine = {
        "IPv4": it.frame(IPV4, udp4("192.0.2.7", DB4)),
        "ARP": it.frame(ARP, frames.arp(REPLY, it.mac, "192.0.2.7", DB4)),
        "IPv6": it.v6(udp6("2001:db8::7", GROUP6)),
        "NA": it.v6(icmp6("2001:db8::7", GROUP6, ADVERTISE, neighbour("2001:db8::7", TARGET_MAC, it.mac))),
    }
    others = {f"{what}, another's": frame[:6] + frames.raw(NOBODY_MAC) + frame[12:] for what, frame in mine.items()}
    others["ARP, another's inside"] = it.frame(ARP, frames.arp(REPLY, NOBODY_MAC, "192.0.2.7", DB4))
    assert it.arrives(mine | others) == set(mine)


def test_a_container_that_starts_anew(world: World) -> None:
    world.settle(SITE)
    world.kill("web")
    world.settle(SITE)
    assert elements(world) == {port(world, "db")}, "a dead one has nothing to send"
    world.container("web")
    world.settle(SITE)
    it = villain(world)
    assert it.arrives(dict(dishonest(it))) == set()
    world.kill("web")
    world.container("web")
    world.settle(SITE)
    assert villain(world).arrives(dict(dishonest(it))) == set()


def test_by_hand(world: World) -> None:
    """As a container of the file; what it has goes with it, also when it has died before."""
    world.settle(SITE)
    before = world.snapshot()
    name = f"netns:{world.container('third')}"
    third = host_ifname(name, "eth1")
    before["third"] = world.snapshot()["third"]

    def attach() -> None:
        world.engine(lambda engine: engine.attach(AttachRequest(name, "lan", "eth1")))

    attach()
    assert elements(world) == {port(world, "web"), port(world, "db"), third}
    it = villain(world)
    spoofed = it.frame(EXPERIMENT, b"spoofed", NOBODY_MAC)
    last = it.frame(EXPERIMENT, b"last", mac_of(world.names["third"]))
    with Ear(world.names["db"], "eth1") as ear:
        frames.send(world.names["third"], "eth1", spoofed, last)
        ear.until(last)
        assert not ear.has(spoofed)
    world.engine(lambda engine: engine.detach(name, "lan"))
    same(before, world.snapshot())
    attach()
    world.engine(lambda engine: engine.undo())
    same(before, world.snapshot())
    for take_away in (lambda: world.engine(lambda engine: engine.detach(name, "lan")), lambda: world.apply(SITE)):
        attach()
        world.kill("third")
        assert third in elements(world)
        take_away()
        assert elements(world) == {port(world, "web"), port(world, "db")}
        world.container("third")


def test_by_hand_with_another_address(world: World) -> None:
    """Also where the container has died with the old one."""
    world.settle(SITE)
    name = f"netns:{world.container('third')}"

    def allowed(address: str) -> list[str]:
        world.engine(lambda engine: engine.attach(AttachRequest(name, "lan", "eth1", (ip_address(address),))))
        listed = sh(world.host, "nft", "list", "set", "bridge", "ductwork", "own4")
        return re.findall(rf'"{host_ifname(name, "eth1")}" . \S+ . (\S+)', listed)

    assert allowed("10.1.1.7") == ["10.1.1.7"]
    assert allowed("10.1.1.8") == ["10.1.1.8"]
    world.kill("third")
    world.container("third")
    assert allowed("10.1.1.9") == ["10.1.1.9"]


def test_a_dead_one_leaves_with_its_site(world: World) -> None:
    before = world.snapshot()
    world.settle(SITE)
    name = f"netns:{world.container('third')}"
    world.engine(lambda engine: engine.attach(AttachRequest(name, "lan", "eth1")))
    world.kill("third")
    world.destroy()
    same(before, world.snapshot())


def test_undo_brings_nothing_of_a_dead_one_back(world: World) -> None:
    world.settle(SITE)
    world.settle(ELSEWHERE)
    world.kill("web")
    assert until(lambda: port(world, "web") not in sh(world.host, "ip", "link"))
    world.engine(lambda engine: engine.undo())
    assert "10.1.1.2" not in sh(world.host, "nft", "list", "set", "bridge", "ductwork", "own4")
    world.settle(SITE)
    assert elements(world) == {port(world, "db")}


def test_by_hand_where_the_filter_is_gone(world: World) -> None:
    """Nothing is plugged in unchecked."""
    world.settle(SITE)
    name = f"netns:{world.container('third')}"
    sh(world.host, "nft", "flush", "ruleset")
    before = world.snapshot()
    with pytest.raises(DuctworkError, match="table bridge ductwork has no set checked any more"):
        world.engine(lambda engine: engine.attach(AttachRequest(name, "lan", "eth1")))
    same(before, world.snapshot())
    world.settle(SITE)
    world.engine(lambda engine: engine.attach(AttachRequest(name, "lan", "eth1")))


def test_one_of_two_sites_leaves(world: World) -> None:
    """The other one's containers are still checked, and whoever is attached to it."""
    other = (
        'networks: {lan2: {driver: bridge, subnet: 10.2.2.0/24}}\nattachments: [{container: "netns:<third>", network: lan2}]'
    )
    world.container("third")
    world.settle(SITE)
    world.settle(other, "other")
    world.destroy("office")
    assert elements(world) == {port(world, "third")}
    world.kill("third")
    world.settle(other, "other")
    world.engine(lambda engine: engine.attach(AttachRequest(f"netns:{world.names['web']}", "lan2", "eth1")))
    assert elements(world) == {port(world, "web")}


UPLINKED = """
networks:
  lan: {driver: bridge, bridge: dw-lan, uplink: eth0, subnet: 192.168.1.0/24, gateway: 192.168.1.254}
attachments:
  - {container: "netns:<web>", network: lan, address: 192.168.1.150}
  - {container: "netns:<db>", network: lan, address: 192.168.1.151}
"""


def test_on_the_real_lan(world: World, netns: Callable[[str], str]) -> None:
    """Neither the machines of the LAN nor its switch see anything of it."""
    lan = Lan(netns)
    lan.plug_in(world.host)
    world.names["db"], db = lan.machine("other", "192.168.1.9/24"), world.names["db"]
    world.names["db2"] = db
    world.apply(UPLINKED.replace("<db>", "<db2>"))
    web, other = world.names["web"], world.names["db"]
    assert until(lambda: ping(web, "192.168.1.9"))
    it = Villain(world, mac_of(web), mac_of(other, "eth0"), "fe80::1")
    before = switch_learnt(lan)
    bad = {
        "MAC": it.frame(EXPERIMENT, b"bad", NOBODY_MAC),
        "address": it.frame(IPV4, udp4("192.168.1.254", "192.168.1.9")),
        "ARP": it.frame(ARP, frames.arp(REPLY, it.mac, "192.168.1.254", "192.168.1.9")),
        "VLAN": tagged(it.frame(IPV4, udp4("192.168.1.150", "192.168.1.9")), 5),
    }
    last = it.frame(EXPERIMENT, b"last")
    with Ear(other, "eth0") as ear:
        frames.send(web, "eth1", *bad.values(), last)
        ear.until(last)
        assert not [what for what, frame in bad.items() if ear.has(frame)]
    assert switch_learnt(lan) == before


def switch_learnt(lan: Lan) -> set[str]:
    return {e["mac"] for e in json.loads(run("bridge", "-n", lan.switch, "-j", "fdb", "show", "br", "lan", "dynamic"))}
