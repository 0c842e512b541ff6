"""What a plan does in which order, and what it leaves alone; tests/property has any state leading to any other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from ipaddress import ip_address, ip_network

import pytest

from ductwork import desire
from ductwork.goals import ApplySite, DestroySite
from ductwork.planner import Conflict, Plan, changed_fields, plan
from ductwork.resources import (
    HOST,
    PROTOCOL,
    Address,
    Create,
    Delete,
    IpvlanSpec,
    Key,
    Link,
    MacvlanSpec,
    NftElement,
    NftTable,
    Owner,
    Port,
    Resource,
    Route,
    Sysctl,
    Update,
    VethSpec,
    VlanSpec,
    VxlanSpec,
    state,
)
from ductwork.resources.base import SHARED
from ductwork.site.model import Site

WEB = "netns:web"
PODS = Owner("office", "site", "pods")
PLUG = Owner("office", "site", "pods", WEB, "eth1", 77)
BRIDGE = Link(HOST, "br", "bridge", "02:00:00:00:00:01", 1500, owner=PODS)
OUTER = Link(HOST, "v", "veth", "02:00:00:00:00:02", 1500, spec=VethSpec(WEB, "eth1", "02:00:00:00:00:03"), owner=PLUG)
INNER = Link(WEB, "eth1", "veth", "02:00:00:00:00:03", 1500, spec=VethSpec(HOST, "v"), owner=PLUG)
PORT = Port(HOST, "v", "br", PLUG)
INSIDE = Address(WEB, "eth1", ip_address("10.0.0.2"), 24, owner=PLUG)
GATEWAY = Address(HOST, "br", ip_address("10.0.0.1"), 24, owner=PODS)
ALL: list[Resource] = [BRIDGE, OUTER, INNER, PORT, GATEWAY, INSIDE]

TABLE = NftTable("inet", "ductwork", (("forward", ("1",)),), owner=SHARED)
FLOW = NftElement("inet", "ductwork", "flows", ("br", "br"), owner=PODS)


def is_ours(resource: Resource) -> bool:
    return resource.owner is not None


def way(desired: Iterable[Resource], observed: Iterable[Resource], mine: object = is_ours) -> Plan:
    assert callable(mine)
    return plan(state(list(desired)), state(list(observed)), mine)


def test_nothing_to_do() -> None:
    assert way(ALL, ALL) == Plan()


def test_the_host_first_then_container_by_container() -> None:
    assert way(reversed(ALL), []).operations == tuple(map(Create, [OUTER, BRIDGE, PORT, GATEWAY, INNER, INSIDE]))


def test_what_goes_with_a_link_is_not_deleted_by_itself_but_known_to_be_lost() -> None:
    found = way([], ALL)
    assert found.operations == (Delete(OUTER), Delete(BRIDGE))
    assert {resource.key for resource in found.lost} == {resource.key for resource in ALL}
    assert found.before(state(ALL)) == state(ALL)


def test_new_addresses_in_containers_are_announced() -> None:
    assert way(ALL, []).announcements == (INSIDE,)


def test_a_link_changes_in_place_and_what_that_costs_is_made_again() -> None:
    taller = replace(INNER, mac="02:00:00:00:00:33", mtu_bytes=1400)
    found = way([*ALL[:2], taller, *ALL[3:]], ALL)
    assert found.operations == (Update(INNER, taller),)
    assert changed_fields(INNER, taller) == {"mac", "mtu_bytes"}


def test_a_container_started_anew_gets_a_new_pair() -> None:
    """The old mark names another cookie; with the host's end goes the port, and the container's end comes as new."""
    stale = replace(OUTER, owner=PLUG._replace(cookie=76), spec=VethSpec(WEB, ""))
    found = way(ALL, [BRIDGE, stale, replace(PORT, owner=stale.owner), GATEWAY])
    assert found.operations == (Delete(stale), *map(Create, [OUTER, PORT, INNER, INSIDE]))


def test_a_pair_whose_inner_end_has_vanished_is_made_anew() -> None:
    found = way(ALL, [BRIDGE, OUTER, PORT, GATEWAY])
    assert found.operations == (Delete(OUTER), *map(Create, [OUTER, PORT, INNER, INSIDE]))


def test_foreign_things_are_left_alone() -> None:
    foreign = Link(HOST, "eth0", "", "52:54:00:00:00:01", 1500)
    theirs = Address(HOST, "br", ip_address("192.168.0.1"), 24)
    assert way(ALL, [*ALL, foreign, theirs]) == Plan()


@pytest.mark.parametrize("other", [None, Owner("home")], ids=["nobody's", "another site's"])
def test_what_is_in_the_way_is_a_conflict(other: Owner | None) -> None:
    theirs = replace(BRIDGE, owner=other)
    found = way([BRIDGE], [theirs], lambda r: r.owner is not None and r.owner.site == "office")
    assert found.conflicts == (Conflict(BRIDGE, theirs),)


def test_foreign_addresses_on_a_link_that_is_made_anew_come_back() -> None:
    theirs = Address(HOST, "vx", ip_address("192.168.0.1"), 24)
    subnets = Route(HOST, ip_network("192.168.0.0/24"), "vx", None, protocol=2, source=theirs.address)
    device = Link(HOST, "vx", "vxlan", "02:00:00:00:00:09", 1450, spec=VxlanSpec(7, 4789, None, ""), owner=PODS)
    other = replace(device, spec=VxlanSpec(8, 4789, None, ""))
    found = way([other], [device, theirs, subnets])
    assert found.operations == (Delete(device), Create(other), Create(theirs)), "the kernel makes the subnet's route itself"


def test_a_bridge_is_marked_anew_in_place() -> None:
    renamed = replace(BRIDGE, owner=PODS._replace(network="lan"))
    assert way([renamed], [BRIDGE]).operations == (Update(BRIDGE, renamed),)


def test_a_bridge_that_others_have_joined_stays_with_all_that_its_network_has() -> None:
    foreign = Port(HOST, "tap0", "br")
    found = way([], [*ALL, foreign, FLOW])
    assert found.operations == (Delete(OUTER),), "our own attachment leaves it"
    assert set(found.kept) == {BRIDGE, GATEWAY, FLOW}


def test_a_vlans_device_that_others_are_on_stays_by_itself() -> None:
    site = Owner("office")
    shared, other = (
        Link(HOST, f"eth0.{vid}", "vlan", "02:00:00:00:00:09", 1500, spec=VlanSpec("eth0", vid), owner=site) for vid in (7, 8)
    )
    beside = Link(HOST, "dw", "macvlan", "02:00:00:00:00:07", 1500, spec=MacvlanSpec("eth0.7", "bridge"), owner=PODS)
    held = Address(HOST, "dw", ip_address("10.0.0.250"), 32, owner=PODS)
    ours = replace(beside, netns=WEB, name="eth1", owner=PLUG)
    another = replace(beside, name="dw-2", owner=PODS._replace(network="two"))
    for_good = [shared, other, beside, held, ours, another]
    by_hand = replace(beside, netns="netns:late", name="eth1", owner=PLUG._replace(origin="attach"))

    def is_the_sites(resource: Resource) -> bool:
        return resource.owner is not None and resource.owner.origin == "site"

    found = way([], [*for_good, by_hand], is_the_sites)
    assert set(found.operations) == {Delete(ours), Delete(other), Delete(another)}
    assert set(found.kept) == {shared, beside, held}
    assert not way([], for_good, is_the_sites).kept
    inside = Link(WEB, "v", "vlan", "02:00:00:00:00:05", 1500, spec=VlanSpec("eth0.7", 9))
    assert not way([], [*for_good, inside], is_the_sites).kept, "a container's own link may be called so"


# secondaries, routes


def test_an_address_changed_within_its_subnet_takes_its_routes_along_and_back() -> None:
    beyond = Route(WEB, ip_network("10.7.0.0/16"), "eth1", ip_address("10.0.0.9"), owner=PLUG)
    other = replace(INSIDE, address=ip_address("10.0.0.3"))
    found = way([*ALL[:5], other, beyond], [*ALL, beyond])
    assert found.operations == (Delete(INSIDE), Create(other), Update(beyond, beyond)), "promote_secondaries"


def test_a_longer_prefix_is_another_address() -> None:
    longer = replace(GATEWAY, prefixlen=25)
    assert way([*ALL[:4], longer, INSIDE], ALL).operations == (Delete(GATEWAY), Create(longer))


def default(link: str, gateway: str, **more: object) -> Route:
    return Route(WEB, ip_network("0.0.0.0/0"), link, ip_address(gateway), **more)  # type: ignore[arg-type]


DOCKERS = default("eth0", "172.17.0.1", protocol=3)
ETH0 = Link(WEB, "eth0", "veth", "02:42:00:00:00:01", 1500, spec=VethSpec("", ""))
OURS = default("eth1", "10.0.0.1", displaces=True, owner=PLUG)


def test_a_foreign_default_route_is_parked_before_ours_takes_its_place() -> None:
    found = way([*ALL, OURS, DOCKERS.park(PLUG)], [*ALL, ETH0, DOCKERS])
    assert found.operations == (Create(DOCKERS.park(PLUG)), Update(DOCKERS, OURS))


def test_without_leave_to_displace_it_is_a_conflict() -> None:
    found = way([*ALL, replace(OURS, displaces=False)], [*ALL, ETH0, DOCKERS])
    assert [conflict.found for conflict in found.conflicts] == [DOCKERS]


def test_it_comes_back_and_is_forgotten_only_then() -> None:
    parked = DOCKERS.park(PLUG)
    observed = state([*ALL, ETH0, OURS, parked])
    desired = state([BRIDGE, GATEWAY])
    desired |= desire.unparked(desired, observed, is_ours)
    found = plan(desired, observed, is_ours)
    back = parked.unpark()
    assert back == DOCKERS
    assert found.operations == (Delete(OUTER), Create(back), Delete(parked))


def test_it_stays_parked_while_it_is_displaced() -> None:
    parked = DOCKERS.park(PLUG)
    observed = state([*ALL, ETH0, OURS, parked])
    assert desire.unparked(observed, observed, is_ours) == {}
    assert parked.protocol == PROTOCOL


# what is shared


def test_a_table_goes_with_the_last_that_needs_it() -> None:
    assert way([], [TABLE, FLOW]).operations == (Delete(FLOW), Delete(TABLE))


@pytest.mark.parametrize("other", [None, Owner("home", "site", "lan")], ids=["nobody's", "another site's"])
def test_a_table_stays_for_the_elements_of_others(other: Owner | None) -> None:
    theirs = replace(FLOW, parts=("x", "x"), owner=other)
    found = way([], [TABLE, FLOW, theirs], lambda r: r.owner == PODS)
    assert found.operations == (Delete(FLOW),)


def test_a_table_stays_for_elements_that_are_about_to_come() -> None:
    """As when an undo exchanges all elements, and knows nothing of the table, which did not change."""
    other = replace(FLOW, parts=("x", "x"))
    assert way([other], [TABLE, FLOW]).operations == (Delete(FLOW), Create(other))


def test_a_table_of_another_version_is_made_right_whoever_made_it() -> None:
    older = replace(TABLE, digests=(("forward", ("0",)),), owner=None)
    assert way([TABLE, FLOW], [older, FLOW]).operations == (Update(older, TABLE),)


def test_a_foreign_sysctl_may_be_changed_and_is_never_deleted() -> None:
    path = "net/ipv4/conf/eth0/forwarding"
    found = way([Sysctl(HOST, path, "1")], [Sysctl(HOST, path, "0")])
    assert found.operations == (Update(Sysctl(HOST, path, "0"), Sysctl(HOST, path, "1")),)
    assert way([], [Sysctl(HOST, path, "0")]) == Plan()


LENT = NftElement("inet", "ductwork", "lent4", ("eth0",), owner=SHARED)
HOMES = NftElement("inet", "ductwork", "bridges", ("dw-home",), owner=Owner("home", "site", "home"))


def test_what_two_sites_share_goes_with_the_second() -> None:
    office, home = ApplySite(Site("office"), "", "machine", {}), DestroySite("home")
    together = state([TABLE, LENT, FLOW, HOMES])
    found = plan({}, together, partial(office.mine, observed=together))
    assert found.operations == (Delete(FLOW),), "home may need what is lent"
    alone = state([TABLE, LENT, HOMES])
    found = plan({}, alone, partial(home.mine, observed=alone))
    assert set(found.operations[:2]) == {Delete(LENT), Delete(HOMES)}
    assert found.operations[2:] == (Delete(TABLE),)


def test_the_second_site_finds_what_is_shared_in_no_ones_way() -> None:
    together = state([TABLE, LENT, FLOW])
    home = ApplySite(Site("home"), "", "machine", {})
    wanted = state([TABLE, LENT, HOMES])
    assert plan(wanted, together, partial(home.mine, observed=together)).operations == (Create(HOMES),)


def test_keys_read_well() -> None:
    assert str(Key("route", WEB, ("0.0.0.0/0", 0, 254, 0))) == "route 0.0.0.0/0 0 254 0 in netns:web"


def test_what_leaves_a_device_of_the_hosts_leaves_first() -> None:
    """Another kind of link on the same device is refused as long as there is one of the former in any namespace."""
    parent = Link(HOST, "eth0", "", "02:00:00:00:00:09", 1500)
    beside = Link(HOST, "dw", "macvlan", "02:00:00:00:00:07", 1500, spec=MacvlanSpec("eth0", "bridge"), owner=PODS)
    inner = [
        Link(name, "eth1", "macvlan", "02:00:00:00:00:08", 1500, spec=MacvlanSpec("eth0", "bridge"), owner=PLUG)
        for name in (WEB, "netns:db")
    ]
    had = [beside, *inner]
    wanted = [replace(link, kind="ipvlan", mac=parent.mac, spec=IpvlanSpec("eth0", "l2")) for link in had]
    operations = way([parent, *wanted], [parent, *had]).operations
    told = [(type(operation), operation.target.netns) for operation in operations]
    assert told[:4] == [(Delete, WEB), (Delete, "netns:db"), (Delete, HOST), (Create, HOST)]
    assert not any(kind is Delete for kind, _ in told[4:])
