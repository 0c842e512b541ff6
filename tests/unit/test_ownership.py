"""Whose is what was read: proof lies on the host alone."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from ductwork.ownership import NOBODY, ContainerReading, settle
from ductwork.resources import (
    HOST,
    PROTOCOL,
    Address,
    IpvlanSpec,
    Key,
    Link,
    MacvlanSpec,
    Neighbour,
    NicSpec,
    OvsSpec,
    Owner,
    Port,
    Resource,
    Route,
    VethSpec,
    VlanSpec,
)
from ductwork.resources.ovs import OvsBridge

WEB, COOKIE = "netns:web", 77
OWNER = Owner("office", "site", "pods", WEB, "eth1", COOKIE)
OUTER = Link(HOST, "dwweb", "veth", "02:00:00:00:00:01", 1500, spec=VethSpec(WEB, "eth1"), owner=OWNER, index=5, peer_index=6)
INNER = Link(WEB, "eth1", "veth", "02:00:00:00:00:02", 1500, spec=VethSpec("", ""), index=6, peer_index=5)
DOCKERS = Link(WEB, "eth0", "veth", "02:00:00:00:00:03", 1500, spec=VethSpec("", ""), index=8, peer_index=7)
CLAIMED = Owner("")
"""What the reader gives for our protocol number: a claim."""


def settled(*inside: Resource, host: tuple[Resource, ...] = (OUTER,), cookie: int = COOKIE) -> dict[Key, Resource]:
    return settle(host, {WEB: ContainerReading(cookie, list(inside))})


def address(link: str, owner: Owner | None = CLAIMED, netns: str = WEB) -> Address:
    return Address(netns, link, ip_address("10.0.0.2"), 24, owner=owner)


def default(link: str, owner: Owner | None = CLAIMED, version: int = 4) -> Route:
    to = ip_network("0.0.0.0/0" if version == 4 else "::/0")
    return Route(WEB, to, link, None, protocol=PROTOCOL if owner else 3, owner=owner)


def test_the_peer_of_a_marked_link_is_ours_and_both_know_each_other() -> None:
    found = settled(INNER)
    assert found[INNER.key] == replace(INNER, owner=OWNER, spec=VethSpec(HOST, "dwweb"))
    assert found[OUTER.key] == replace(OUTER, spec=VethSpec(WEB, "eth1"))


@pytest.mark.parametrize(
    ("outer", "inner", "cookie"),
    [
        (OUTER, INNER, COOKIE + 1),
        (replace(OUTER, peer_index=9), INNER, COOKIE),
        (OUTER, replace(INNER, peer_index=9), COOKIE),
        (replace(OUTER, owner=OWNER._replace(container="netns:db")), INNER, COOKIE),
        (replace(OUTER, owner=None), INNER, COOKIE),
    ],
    ids=["started anew", "another peer", "an index that happens to be the same", "another container", "no mark"],
)
def test_anything_less_is_no_proof(outer: Link, inner: Link, cookie: int) -> None:
    assert settled(inner, address("eth1"), host=(outer,), cookie=cookie)[inner.key].owner is None
    assert settled(inner, address("eth1"), host=(outer,), cookie=cookie)[address("eth1").key].owner is None


def test_a_mark_whose_peer_has_left_names_none() -> None:
    """So that it differs from what is wanted, and is replaced."""
    assert settled()[OUTER.key] == replace(OUTER, spec=VethSpec(WEB, ""))


def test_a_container_that_was_not_read_proves_nothing() -> None:
    assert settle([OUTER], {}) == {OUTER.key: OUTER}


def test_our_number_on_our_link_is_ours_and_elsewhere_nobodys() -> None:
    found = settled(INNER, DOCKERS, address("eth1"), address("eth0"))
    assert [found[address(link).key].owner for link in ("eth1", "eth0")] == [OWNER, None]


def test_a_foreign_address_on_our_link_stays_foreign() -> None:
    assert settled(INNER, address("eth1", None))[address("eth1").key].owner is None


def test_a_parked_route_is_whose_default_route_is_there_of_its_family() -> None:
    parked = default("eth0", None).park(OWNER)
    parked = replace(parked, owner=CLAIMED)
    parked_v6 = replace(default("eth0", None, 6).park(OWNER), owner=CLAIMED)
    found = settled(INNER, DOCKERS, default("eth1"), parked, parked_v6)
    assert [found[parked.key].owner, found[parked_v6.key].owner] == [OWNER, NOBODY]


def test_on_the_host_our_number_on_a_foreign_link_is_nobodys() -> None:
    claimed = (
        address("eth0", NOBODY, HOST),
        Neighbour(HOST, "eth0", ip_address("10.0.0.9"), "02:00:00:00:00:09", NOBODY),
        Route(HOST, ip_network("10.8.0.0/24"), "eth0", owner=NOBODY),
    )
    assert {resource.owner for resource in settled(host=claimed).values()} == {None}


def test_the_hosts_way_to_a_container_is_its_attachments() -> None:
    """And one that leads to nobody, or to another network's, is its link's."""
    network = Owner("office", "site", "pods")
    way = Route(HOST, ip_network("10.0.0.2/32"), "dw-pods", owner=network)
    elsewhere = replace(way, owner=Owner("office", "site", "other"), metric=1)
    nobodys = replace(way, to=ip_network("10.0.0.9/32"))
    wide = replace(way, to=ip_network("10.0.0.2/31"))
    found = settled(INNER, address("eth1"), host=(OUTER, way, elsewhere, nobodys, wide))
    assert [found[r.key].owner for r in (way, elsewhere, nobodys, wide)] == [OWNER, elsewhere.owner, network, network]


# links that are born inside, and NICs lent

NIC = Link(HOST, "eth0", "", "02:00:00:00:00:09", 1500, index=2)
MACVLAN = Link(WEB, "eth1", "macvlan", "02:00:00:00:00:02", 1500, spec=MacvlanSpec("#2", "bridge"), owner=OWNER, index=9)
IPVLAN = replace(MACVLAN, kind="ipvlan", spec=IpvlanSpec("#2", "l2"))
LENT = replace(MACVLAN, kind="", spec=NicSpec("eth5"), owner=OWNER._replace(device="eth5"))


@pytest.mark.parametrize("link", [MACVLAN, IPVLAN], ids=["macvlan", "ipvlan"])
def test_one_whose_mark_names_this_container_is_ours_and_its_parent_has_a_name(link: Link) -> None:
    """That its parent is a device of the host's the reader has made sure of: else it gives none."""
    found = settled(link, address("eth1"), host=(NIC,))
    assert isinstance(link.spec, MacvlanSpec | IpvlanSpec)
    assert found[link.key] == replace(link, spec=replace(link.spec, parent="eth0"))
    assert found[address("eth1").key].owner == OWNER


@pytest.mark.parametrize(
    "link",
    [
        replace(MACVLAN, owner=OWNER._replace(cookie=COOKIE + 1)),
        replace(MACVLAN, owner=OWNER._replace(container="netns:db")),
        replace(MACVLAN, owner=None),
        replace(MACVLAN, spec=MacvlanSpec("", "bridge")),
        replace(LENT, owner=OWNER._replace(cookie=COOKIE + 1)),
        replace(LENT, owner=OWNER._replace(container="netns:db")),
    ],
    ids=["started anew", "another container", "no mark", "a parent that is not the host's", "a NIC before", "another's NIC"],
)
def test_no_other_mark_inside_is_a_proof(link: Link) -> None:
    found = settled(link, address("eth1"), host=(NIC,))
    assert [found[key].owner for key in (link.key, address("eth1").key)] == [None, None]


def test_a_lent_nic_is_ours_by_its_mark() -> None:
    found = settled(LENT, address("eth1"), host=(NIC,))
    assert (found[LENT.key], found[address("eth1").key].owner) == (LENT, LENT.owner)


def test_a_parent_that_was_not_read_keeps_its_number() -> None:
    """Where some of the host's links alone were looked at; it is the host's all the same."""
    assert settled(MACVLAN, host=())[MACVLAN.key] == MACVLAN


def test_a_mark_cannot_make_a_nic_of_our_own_end_of_a_pair() -> None:
    forged = replace(INNER, spec=NicSpec("eth9"), owner=OWNER._replace(device="eth9"))
    found = settled(forged)
    assert (found[INNER.key], found[OUTER.key]) == (replace(INNER, owner=OWNER, spec=VethSpec(HOST, "dwweb")), OUTER)


def test_a_vlan_device_in_a_container_is_never_ours() -> None:
    link = replace(MACVLAN, kind="vlan", spec=VlanSpec("#2", 5), owner=None)
    assert settled(link, host=(NIC,))[link.key] == replace(link, spec=VlanSpec("eth0", 5))


@pytest.mark.parametrize("order", [1, -1], ids=["the bridge first", "the port first"])
def test_the_port_of_the_nic_that_a_bridge_has_taken_over_is_the_bridges(order: int) -> None:
    bridge = Link(HOST, "br0", "bridge", "02:00:00:00:00:08", 1500, owner=Owner("office", "site", "lan", interface="eth0"))
    ports = [Port(HOST, "eth0", "br0"), Port(HOST, "eth1", "br0")]
    found = settled(host=tuple([bridge, *ports][::order]))
    assert [found[port.key].owner for port in ports] == [bridge.owner, None]
    elsewhere = replace(ports[0], bridge="br1")
    assert settled(host=(bridge, elsewhere))[elsewhere.key].owner is None
    plain = replace(bridge, owner=OWNER._replace(interface="eth0"))
    assert settled(host=(plain, ports[0]))[ports[0].key].owner is None


def test_the_device_of_a_switch_is_the_switchs_and_so_is_what_is_on_it() -> None:
    switch = OvsBridge("ovs0", owner=Owner("office", "site", "lan"))
    raw = Link(HOST, "ovs0", "openvswitch", "02:00:00:00:00:08", 1500)
    on_it, beside = address("ovs0", NOBODY, HOST), address("eth0", NOBODY, HOST)
    found = settled(host=(raw, on_it, beside, switch))
    assert found[raw.key] == replace(raw, kind="ovs", spec=OvsSpec(), owner=switch.owner)
    assert [found[each.key].owner for each in (on_it, beside)] == [switch.owner, None]
    foreign = settled(host=(raw, on_it, replace(switch, owner=None)))
    assert (foreign[raw.key], foreign[on_it.key].owner) == (replace(raw, kind="ovs", spec=OvsSpec()), None)
    assert settled(host=(raw,))[raw.key] == raw
