"""The contract suite, continued: what others have made, read with all it has, and written again on another link.

What `ip` tells of it before and after is the judge: for the bridge that a NIC becomes a port of, and back.
"""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from conftest import sh, until
from machines import OTHER_MAC, SITE, WEB, Machine, Real, link, plug_in, read

from ductwork.resources import (
    HOST,
    PROTOCOL,
    Address,
    AddressDetails,
    Create,
    Delete,
    Link,
    Resource,
    Route,
    RouteDetails,
    Update,
)
from ductwork.resources.route import ANY_LINK, KERNEL_PROTOCOL

NIC, NIC_MAC = "eth5", "02:00:00:00:05:05"
BRIDGE = Link(HOST, "dw-lan", "bridge", OTHER_MAC, 1500, owner=SITE)

IPV4 = [
    "10.0.0.1/24 broadcast 10.0.0.255",
    "10.0.0.2/24 label eth5:x valid_lft 1000 preferred_lft 500",
    "10.0.1.1 peer 10.0.2.1/24",
    "10.0.5.1/24 scope link noprefixroute",
    "10.0.6.1/24 metric 77",
    "169.254.3.3/16 scope link",
    "10.0.7.0/31",
    "10.0.8.1/32 broadcast 10.0.8.255 preferred_lft 0 valid_lft 900",
]
IPV6 = [
    "fd00::1/64 nodad",
    "fd01::1/64 valid_lft 900 preferred_lft 0",
    "fd02::1/64 noprefixroute",
    "fd03::1 peer fd03::2/128",
    "fd04::1/64 mngtmpaddr valid_lft 9000 preferred_lft 8000",
    "fd05::1/64 metric 99",
    "fd06::1/128",
    "fe80::77/64",
]
ROUTES_V4 = [
    "default via 10.0.0.254",
    "default via 10.0.0.253 metric 100 src 10.0.0.1 mtu lock 1400 advmss 1300 rtt 100ms window 1000 initcwnd 10",
    "192.0.2.0/24 dev eth5 scope link",
    "192.0.3.0/24 dev eth5 scope global tos 8 table 100",
    "192.0.4.0/24 via 99.0.0.1 dev eth5 onlink proto static table 1000 realms 3/4",
    "192.0.5.0/24 dev eth5 quickack 1 hoplimit 33 features ecn rto_min 300ms proto dhcp",
]
ROUTES_V6 = [
    "default via fd00::fe",
    "default via fd00::fd metric 50 pref high mtu lock 1400",
    "2001:db8:1::/64 dev eth5 metric 9 expires 500 proto ra",
    "2001:db8:2::/64 via fd00::5 dev eth5 src fd00::1 table 200 hoplimit 4",
    "2001:db8:4::/64 via fd99::1 dev eth5 onlink pref low",
    "2001:db8:5::/64 via fe80::1 dev eth5",
]
NOT_CARRIED = [
    "198.51.100.0/24 nexthop via 10.0.0.4 nexthop via 10.9.0.9",
    "198.51.101.0/24 dev eth5 congctl reno",
    "198.51.102.0/24 via inet6 fe80::1 dev eth5",
    "198.51.103.0/24 nhid 7",
    "2001:db8:6::/64 nexthop via fd00::4 nexthop via fd00::5",
    "2001:db8:7::/64 from 2001:db8:8::/64 via fd00::5 dev eth5",
]
_TIMES = ("valid_life_time", "preferred_life_time", "expires")


@pytest.fixture
def host(real: Real) -> Real:
    """With a NIC that has something of everything, and a bridge that has nothing."""
    real.nic(NIC, NIC_MAC)
    assert real.do(Create(BRIDGE)) == [""]
    for words in IPV4:
        sh(real.host, "ip", "address", "add", *words.split(), "dev", NIC)
    for words in IPV6:
        sh(real.host, "ip", "-6", "address", "add", *words.split(), "dev", NIC)
    assert until(lambda: "tentative" not in sh(real.host, "ip", "-6", "address", "show", "dev", NIC))
    return real


def addresses(real: Real, name: str) -> list[Address]:
    return [r for r in read(real).values() if isinstance(r, Address) and r.link == name]


def told(real: Real, name: str) -> dict[str, Any]:
    """What `ip` tells of a link's addresses, less those of the kernel's making and what the clock changes."""
    [found] = json.loads(sh(real.host, "ip", "-d", "-j", "address", "show", "dev", name))
    return {
        f"{a['local']}": {k: v == 2**32 - 1 if k in _TIMES else "" if v == name else v for k, v in a.items()}
        for a in found["addr_info"]
        if "ff:fe00:" not in a["local"]
    }


def test_every_address_is_read_but_those_that_the_kernel_gives(host: Real) -> None:
    wanted = {words.split()[0].split("/")[0] for words in IPV4 + IPV6}
    assert {str(address.address) for address in addresses(host, NIC)} == wanted
    assert not addresses(host, "lo")
    details = {str(address.address): address.details for address in addresses(host, NIC)}
    assert details["10.0.0.1"] == AddressDetails(broadcast=ip_address("10.0.0.255"))
    assert details["10.0.1.1"] == AddressDetails(peer=ip_address("10.0.2.1"))
    assert details["169.254.3.3"] == AddressDetails(scope=253)
    labelled = details["10.0.0.2"]
    assert labelled
    assert labelled.label == "eth5:x"
    assert labelled.valid_seconds in range(900, 1001)
    assert details["fd02::1"] == AddressDetails(noprefixroute=True)


def test_addresses_go_to_another_link_and_back_as_they_are(host: Real) -> None:
    before = told(host, NIC)
    for here, there in ((NIC, BRIDGE.name), (BRIDGE.name, NIC)):
        moving = addresses(host, here)
        arriving = [Create(replace(address, link=there)) for address in moving]
        assert not any(host.do(*arriving, *map(Delete, moving)))
        assert not addresses(host, here)
        assert told(host, there) == before
    assert "tentative" not in sh(host.host, "ip", "-6", "address", "show", "dev", NIC)


def test_routes_go_to_another_link_and_back_as_they_are(host: Real) -> None:
    for version, routes in (("-4", ROUTES_V4), ("-6", ROUTES_V6)):
        for words in routes:
            sh(host.host, "ip", version, "route", "add", *words.split())
    assert not any(host.do(*(Create(replace(address, link=BRIDGE.name)) for address in addresses(host, NIC))))
    before = routes_told(host, NIC)
    assert len(before) == len(ROUTES_V4 + ROUTES_V6)
    for here, there in ((NIC, BRIDGE.name), (BRIDGE.name, NIC)):
        moving = [r for r in read(host).values() if isinstance(r, Route) and r.link == here and r.protocol != KERNEL_PROTOCOL]
        assert all(route.carried for route in moving)
        assert not any(host.do(*(Update(route, replace(route, link=there)) for route in moving)))
        assert not routes_told(host, here)
        assert routes_told(host, there) == before


def routes_told(real: Real, name: str) -> list[str]:
    """What `ip` tells of the routes by a link in all tables, less the kernel's, and whether the other end is up."""
    found = []
    for version in ("-4", "-6"):
        routes = json.loads(sh(real.host, "ip", "-d", "-j", version, "route", "show", "table", "all", "dev", name))
        for route in (r for r in routes if r.get("protocol") != "kernel" and r["type"] == "unicast"):
            plain = {k: k if k in _TIMES else v for k, v in route.items()}
            plain["flags"] = [flag for flag in route["flags"] if flag not in ("linkdown", "dead")]
            found.append(json.dumps(plain, sort_keys=True))
    return sorted(found)


def test_what_cannot_be_written_again_says_so(host: Real) -> None:
    host.nic("eth6", "02:00:00:00:06:06")
    sh(host.host, "ip", "address", "add", "10.9.0.1/24", "dev", "eth6")
    sh(host.host, "ip", "nexthop", "add", "id", "7", "via", "10.0.0.6", "dev", NIC)
    for words in NOT_CARRIED:
        version = "-6" if words.startswith("2001") else "-4"
        sh(host.host, "ip", version, "route", "add", *words.split())
    found = {str(r.to): r for r in read(host).values() if isinstance(r, Route) and r.protocol != KERNEL_PROTOCOL}
    assert {words.split()[0]: found[words.split()[0]].carried for words in NOT_CARRIED} == dict.fromkeys(
        (words.split()[0] for words in NOT_CARRIED), False
    )
    assert found.pop("198.51.100.0/24").links == (NIC, "eth6")
    assert {found[words.split()[0]].links for words in NOT_CARRIED[1:]} == {(NIC,)}


def test_next_hop_objects_without_compatible_answers(host: Real) -> None:
    """With net.ipv4.nexthop_compat_mode=0 such a route tells no link."""
    sh(host.host, "ip", "nexthop", "add", "id", "7", "via", "10.0.0.6", "dev", NIC)
    sh(host.host, "ip", "route", "add", "198.51.103.0/24", "nhid", "7")
    sh(host.host, "sysctl", "-q", "-w", "net.ipv4.nexthop_compat_mode=0")
    [found] = [r for r in read(host).values() if isinstance(r, Route) and str(r.to) == "198.51.103.0/24"]
    assert (found.link, found.carried) == (ANY_LINK, False)


@pytest.mark.parametrize("version", [4, 6])
def test_two_routes_of_one_key_are_not_carried(host: Real, version: int) -> None:
    """A replacement would hit the first of them, whosever link that is on (seen on 6.18)."""
    host.nic("eth6", "02:00:00:00:06:06")
    to = {4: "192.0.2.0/24", 6: "2001:db8:1::/64"}[version]
    for word, name in (("add", NIC), ("append", "eth6")):
        sh(host.host, "ip", f"-{version}", "route", word, to, "dev", name, "metric", "5")
    [found] = [r for r in read(host).values() if isinstance(r, Route) and str(r.to) == to]
    assert (found.links, found.carried, found.owner) == ((NIC, "eth6"), False, None)


@pytest.mark.parametrize("word", ["append", "prepend"])
def test_a_route_of_ours_is_known_whatever_stands_beside_it(real: Real, word: str) -> None:
    _, inner, _ = plug_in(real)
    ours = Route(WEB, ip_network("192.0.2.0/24"), inner.name, owner=inner.owner)
    assert real.do(Create(ours), netns=WEB) == [""]
    sh(real.web, "ip", "link", "add", "name", "other", "up", "type", "bridge")
    sh(real.web, "ip", "route", word, "192.0.2.0/24", "dev", "other")
    found = read(real)[ours.key]
    assert (found, found.owner) == (ours, inner.owner)
    assert real.do(Delete(ours), netns=WEB) == [""]
    assert sh(real.web, "ip", "route", "show", "192.0.2.0/24").split()[:3] == ["192.0.2.0/24", "dev", "other"]


@pytest.mark.parametrize("version", [4, 6])
def test_a_subnets_route_moves_beside_that_of_another_nic(real: Real, version: int) -> None:
    """Two NICs in one subnet: each route goes with its own."""
    for name, mac in ((NIC, NIC_MAC), ("eth6", "02:00:00:00:06:06")):
        real.nic(name, mac)
    assert real.do(Create(BRIDGE)) == [""]
    to, metric = {4: ("192.0.2.0/24", "0"), 6: ("2001:db8:1::/64", "256")}[version]
    for word, name in (("add", "eth6"), ("append", NIC)):
        sh(real.host, "ip", f"-{version}", "route", word, to, "dev", name, "proto", "kernel", "metric", metric)
    routes = {r.link: r for r in real.raw(HOST) if isinstance(r, Route) and r.to == ip_network(to)}
    assert routes.keys() == {"eth6", NIC}
    assert real.do(Update(routes[NIC], replace(routes[NIC], link=BRIDGE.name))) == [""]
    assert {r.link for r in real.raw(HOST) if isinstance(r, Route) and r.to == ip_network(to)} == {"eth6", BRIDGE.name}


# the fake kernel too


def test_a_foreign_address_is_carried(machine: Machine) -> None:
    machine.nic(NIC, NIC_MAC)
    details = AddressDetails(broadcast=ip_address("192.0.2.255"), label="eth5:x", noprefixroute=True, metric=7)
    here = Address(HOST, NIC, ip_address("192.0.2.1"), 24, details=details)
    there = replace(here, link=BRIDGE.name)
    assert machine.do(Create(BRIDGE), Create(here)) == ["", ""]
    assert details_of(machine, here) == details
    assert machine.do(Create(there), Delete(here)) == ["", ""]
    assert details_of(machine, there) == details
    assert here.key not in read(machine)


def details_of(machine: Machine, resource: Resource) -> object:
    found = read(machine)[resource.key]
    assert isinstance(found, Address | Route)
    return found.details


def test_ours_has_no_details_and_is_as_we_make_it(machine: Machine) -> None:
    assert machine.do(Create(BRIDGE)) == [""]
    address = Address(HOST, BRIDGE.name, ip_address("192.0.2.1"), 24, owner=SITE)
    route = Route(HOST, ip_network("198.51.100.0/24"), BRIDGE.name, ip_address("192.0.2.9"), owner=SITE)
    assert machine.do(Create(address), Create(route)) == ["", ""]
    assert [details_of(machine, r) for r in (address, route)] == [None, None]


@pytest.mark.parametrize("table", [254, 100, 1000])
def test_a_foreign_route_is_carried(machine: Machine, table: int) -> None:
    machine.nic(NIC, NIC_MAC)
    address = Address(HOST, NIC, ip_address("192.0.2.1"), 24, details=AddressDetails())
    details = RouteDetails(metrics=((2, 1400),), onlink=True)
    via = ip_address("203.0.113.1")
    here = Route(HOST, ip_network("198.51.100.0/24"), NIC, via, 5, table, protocol=4, details=details)
    there = replace(here, link=BRIDGE.name)
    assert machine.do(Create(BRIDGE), Create(address), Create(here)) == ["", "", ""]
    assert read(machine)[here.key] == here
    assert details_of(machine, here) == details
    assert machine.do(Update(here, there)) == [""]
    assert (read(machine)[there.key], details_of(machine, there)) == (there, details)
    assert machine.do(Delete(there)) == [""]
    assert there.key not in read(machine)


def test_a_route_that_becomes_another_comes_before_the_old_one_goes(machine: Machine) -> None:
    machine.nic(NIC, NIC_MAC)
    assert machine.do(Create(BRIDGE)) == [""]
    here = Route(HOST, ip_network("198.51.100.0/24"), NIC, metric=5, protocol=4, details=RouteDetails(scope=253))
    other = replace(here, metric=9, link=BRIDGE.name)
    assert machine.do(Create(here), Update(here, other)) == ["", ""]
    found = read(machine)
    assert (found.get(here.key), found[other.key]) == (None, other)


def test_a_route_has_its_key_alone_whoever_made_the_other(machine: Machine) -> None:
    machine.nic(NIC, NIC_MAC)
    address = Address(HOST, NIC, ip_address("192.0.2.1"), 24, details=AddressDetails())
    ours = Route(HOST, ip_network("192.0.2.0/24"), BRIDGE.name, owner=SITE)
    assert machine.do(Create(BRIDGE), Create(address), Create(ours)) == ["", "", "File exists"]


def test_in_a_container_other_tables_are_not_read(machine: Machine) -> None:
    _, inner, _ = plug_in(machine)
    assert link(machine, WEB, inner.name).up
    aside = Route(WEB, ip_network("198.51.100.0/24"), inner.name, table=100, protocol=PROTOCOL, owner=inner.owner)
    assert machine.do(Create(aside), netns=WEB) == [""]
    assert aside.key not in read(machine)
