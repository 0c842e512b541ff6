"""The kernel model's rules, one by one; tests/netns/test_kernel_model.py holds them against the kernel."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from ductwork.kernel_model import predict
from ductwork.resources import (
    HOST,
    Address,
    Create,
    Delete,
    Key,
    Link,
    Neighbour,
    NftElement,
    NftTable,
    Operation,
    Port,
    Resource,
    Route,
    Sysctl,
    Update,
    VethSpec,
    VxlanSpec,
    state,
)

WEB = "netns:web"
BRIDGE = Link(HOST, "br", "bridge", "02:00:00:00:00:01", 1500)
OUTER = Link(HOST, "v", "veth", "02:00:00:00:00:02", 1500, spec=VethSpec(WEB, "eth1", "02:00:00:00:00:03"))
INNER = Link(WEB, "eth1", "veth", "02:00:00:00:00:03", 1500, spec=VethSpec(HOST, "v"))
PORT = Port(HOST, "v", "br")


def address(text: str, link: Link = BRIDGE, *, secondary: bool = False) -> Address:
    own, _, length = text.partition("/")
    return Address(link.netns, link.name, ip_address(own), int(length), secondary=secondary)


def route(to: str, via: str | None = None, link: Link = BRIDGE, source: str | None = None) -> Route:
    return Route(
        link.netns, ip_network(to), link.name, ip_address(via) if via else None, source=ip_address(source) if source else None
    )


V4, V6 = address("10.0.0.1/24"), address("fd00::1/64")
BEYOND_V4, BEYOND_V6 = route("192.0.2.0/24", "10.0.0.9"), route("fd99::/64", "fd00::9")
KNOWN_V4, KNOWN_V6 = (Neighbour(HOST, "br", ip_address(ip), "02:00:00:00:00:09") for ip in ("10.0.0.9", "fd00::9"))
SYSCTL_V4 = Sysctl(HOST, "net/ipv4/conf/br/forwarding", "1", link="br")
SYSCTL_V6 = Sysctl(HOST, "net/ipv6/conf/br/accept_ra", "0", link="br")
ON_BRIDGE = [V4, V6, BEYOND_V4, BEYOND_V6, KNOWN_V4, KNOWN_V6, SYSCTL_V4, SYSCTL_V6]
EVERYTHING: list[Resource] = [BRIDGE, OUTER, INNER, PORT, *ON_BRIDGE]


def lost(operation: Operation, present: Iterable[Resource] = EVERYTHING) -> set[Key]:
    """What goes besides what was asked for."""
    before = state(list(present))
    after = predict(before, [operation])
    return set(before) - set(after) - {operation.target.key}


def keys(*resources: Resource) -> set[Key]:
    return {resource.key for resource in resources}


def test_a_bridge_takes_all_that_is_on_it_but_not_its_ports_links() -> None:
    assert lost(Delete(BRIDGE)) == keys(PORT, *ON_BRIDGE)


@pytest.mark.parametrize(("end", "other"), [(OUTER, INNER), (INNER, OUTER)])
def test_a_pair_goes_as_one(end: Link, other: Link) -> None:
    assert lost(Delete(end)) == keys(other, PORT)


def test_a_tunnel_goes_with_its_underlay() -> None:
    tunnel = Link(HOST, "vx", "vxlan", "02:00:00:00:00:04", 1450, spec=VxlanSpec(1, 4789, None, "br"))
    assert lost(Delete(BRIDGE), [BRIDGE, tunnel, Port(HOST, "vx", "other")]) == keys(tunnel, Port(HOST, "vx", "other"))


def test_making_the_hosts_end_makes_the_other_down_and_making_that_puts_it_up() -> None:
    made = predict({}, [Create(OUTER)])
    assert made == state([OUTER, replace(INNER, up=False)])
    assert predict(made, [Create(INNER)]) == state([OUTER, INNER])


def test_a_link_that_goes_down_loses_routes_neighbours_and_ipv6_addresses() -> None:
    assert lost(Update(BRIDGE, replace(BRIDGE, up=False))) == keys(V6, BEYOND_V4, BEYOND_V6, KNOWN_V4, KNOWN_V6)


def test_a_link_with_less_than_1280_octets_loses_ipv6() -> None:
    assert lost(Update(BRIDGE, replace(BRIDGE, mtu_bytes=1279))) == keys(V6, BEYOND_V6, KNOWN_V6, SYSCTL_V6)
    assert lost(Update(BRIDGE, replace(BRIDGE, mtu_bytes=1280))) == set()


def test_a_link_with_a_new_mac_loses_its_neighbours() -> None:
    assert lost(Update(BRIDGE, replace(BRIDGE, mac="02:00:00:00:00:08"))) == keys(KNOWN_V4, KNOWN_V6)


def test_the_last_ipv4_address_takes_routes_and_neighbours_along() -> None:
    assert lost(Delete(V4)) == keys(BEYOND_V4, KNOWN_V4)
    other = address("10.5.0.1/24")
    assert lost(Delete(V4), [*EVERYTHING, other]) == set()


def test_an_ipv6_address_goes_alone() -> None:
    assert lost(Delete(V6)) == set()


def test_a_primary_takes_its_secondaries_along() -> None:
    second, elsewhere = address("10.0.0.2/24", secondary=True), address("10.0.0.3/32")
    assert lost(Delete(V4), [BRIDGE, V4, second, elsewhere]) == keys(second)
    assert lost(Delete(second), [BRIDGE, V4, second, elsewhere]) == set()


def test_the_second_address_of_a_subnet_is_a_secondary() -> None:
    made = predict(state([BRIDGE]), [Create(V4), Create(address("10.0.0.2/24")), Create(address("10.0.0.1/24"))])
    assert [a.secondary for a in made.values() if isinstance(a, Address)] == [False, True]


def test_a_route_dies_with_the_last_holder_of_its_source_on_whatever_link() -> None:
    other = replace(BRIDGE, name="other", mac="02:00:00:00:00:05")
    using = route("192.0.2.0/24", None, other, source="10.0.0.1")
    assert using.key in lost(Delete(V4), [BRIDGE, V4, other, using])
    assert using.key in lost(Delete(BRIDGE), [BRIDGE, V4, other, using])
    assert lost(Delete(V4), [BRIDGE, V4, other, using, address("10.0.0.1/24", other)]) == set()


def test_a_route_that_has_moved_stays_when_its_old_link_goes() -> None:
    other = replace(BRIDGE, name="other", mac="02:00:00:00:00:05")
    moved = replace(BEYOND_V4, link="other")
    after = predict(state([BRIDGE, other, BEYOND_V4]), [Update(BEYOND_V4, moved), Delete(BRIDGE)])
    assert after == state([other, moved])


def test_a_table_takes_its_elements_along() -> None:
    table = NftTable("inet", "ductwork", ())
    element, foreign = NftElement("inet", "ductwork", "flows", ("a", "b")), NftElement("inet", "other", "flows", ("a", "b"))
    assert lost(Delete(table), [table, element, foreign]) == keys(element)
