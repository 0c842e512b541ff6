"""Address allocation: what the file names is never handed out, what is remembered stays, cost is that of the attachments."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ductwork.drivers import PerHost, PerHostAddress, macvlan
from ductwork.errors import AllocationError
from ductwork.ipam import Assignment, Holder, LeaseChange, assign, pools
from ductwork.resources import IPAddress
from ductwork.site.model import AddressRange, Attachment, Host, Nat, Network, Site, StaticRoute

Stored = dict[str, dict[Holder, tuple[IPAddress, ...]]]


def network(*subnets: str, name: str = "pods", gateways: tuple[str, ...] = (), **other: Any) -> Network:
    return Network(
        name,
        "bridge",
        tuple(ip_network(s) for s in subnets),
        tuple(ip_address(g) for g in gateways),
        **other,
    )


def span(first: str, last: str) -> AddressRange:
    return AddressRange(ip_address(first), ip_address(last))


def attachment(container: str, *addresses: str, on: str = "pods", **other: Any) -> Attachment:
    written = tuple(ip_interface(a) for a in addresses)
    return Attachment(container, other.pop("host", ""), on, "eth1", "02:00:00:00:00:01", written, **other)


def site(networks: list[Network], *attachments: Attachment, hosts: dict[str, Host] | None = None) -> Site:
    return Site("s", hosts or {}, {n.name: n for n in networks}, attachments)


def texts(assignment: Assignment) -> dict[str, list[str]]:
    return {key[0]: [str(a) for a in addresses] for key, addresses in assignment.addresses.items()}


def stored(before: Stored, assignment: Assignment) -> Stored:
    """As the store would have it; no address may have two holders after any of the changes."""
    after = {name: dict(leases) for name, leases in before.items()}
    for name, holder, addresses in assignment.changes:
        leases = after.setdefault(name, {})
        leases.pop(holder, None)
        assert not set(addresses) & {ip for theirs in leases.values() for ip in theirs}
        if addresses:
            leases[holder] = addresses
    return after


def lease(container: str, *addresses: str, host: str = "") -> dict[Holder, tuple[IPAddress, ...]]:
    return {(host, container, "eth1"): tuple(ip_address(a) for a in addresses)}


def test_written_remembered_and_new_addresses() -> None:
    pods = network("10.1.1.0/24", gateways=("10.1.1.1",))
    it = site([pods], attachment("web", "10.1.1.3/24"), attachment("db"), attachment("cache"))
    result = assign(it, "", {"pods": lease("cache", "10.1.1.9")})
    assert texts(result) == {"web": ["10.1.1.3/24"], "db": ["10.1.1.2/24"], "cache": ["10.1.1.9/24"]}
    assert result.changes == (LeaseChange("pods", ("", "db", "eth1"), (ip_address("10.1.1.2"),)),)


def test_one_address_per_subnet() -> None:
    pods = network("10.1.1.0/24", "fd00::/64", gateways=("10.1.1.1", "fd00::1"))
    assert texts(assign(site([pods], attachment("web")), "", {})) == {"web": ["10.1.1.2/24", "fd00::2/64"]}


def test_a_network_without_subnets_has_no_addresses() -> None:
    assert assign(site([network()], attachment("web")), "", {}) == Assignment({("web", "eth1"): ()})


def test_the_whole_subnet_is_used_and_not_one_address_more() -> None:
    pods = network("10.1.1.0/29", gateways=("10.1.1.1",))
    five = [attachment(f"c{n}") for n in range(5)]
    assert [a[0] for a in texts(assign(site([pods], *five), "", {})).values()] == [f"10.1.1.{n}/29" for n in range(2, 7)]
    with pytest.raises(AllocationError, match=r"c5 eth1: network pods has no address left in 10\.1\.1\.0-10\.1\.1\.7") as e:
        assign(site([pods], *five, attachment("c5")), "", {})
    assert "allocate" in e.value.hint


@pytest.mark.parametrize(
    ("subnet", "expected"),
    [
        ("10.0.0.0/31", ["10.0.0.0/31", "10.0.0.1/31"]),
        ("10.0.0.4/30", ["10.0.0.5/30", "10.0.0.6/30"]),
        ("fd00::/127", ["fd00::/127", "fd00::1/127"]),
        ("fd00::/126", ["fd00::2/126", "fd00::3/126"]),
    ],
)
def test_small_subnets(subnet: str, expected: list[str]) -> None:
    it = site([network(subnet)], attachment("a"), attachment("b"))
    assert [a[0] for a in texts(assign(it, "", {})).values()] == expected
    with pytest.raises(AllocationError):
        assign(site([network(subnet)], attachment("a"), attachment("b"), attachment("c")), "", {})


def test_what_the_file_names_is_never_handed_out() -> None:
    pods = network(
        "10.1.1.0/28",
        gateways=("10.1.1.1",),
        host_addresses={"alpha": (ip_address("10.1.1.2"),), "beta": (ip_address("10.1.1.3"),)},
        nat=Nat("snat", ip_address("10.1.1.4")),
    )
    hosts = {"alpha": Host("alpha", None), "beta": Host("beta", ip_interface("10.1.1.5/24"))}
    beyond = StaticRoute(ip_network("10.9.0.0/16"), ip_address("10.1.1.6"))
    elsewhere = attachment("db", "10.1.1.7/28", host="beta", routes=(beyond,), gateway=ip_address("10.1.1.8"))
    it = site([pods], attachment("web", host="alpha"), elsewhere, hosts=hosts)
    assert texts(assign(it, "alpha", {})) == {"web": ["10.1.1.9/28"]}


def test_addresses_of_other_holders_stay_theirs() -> None:
    leases = {"pods": lease("web", "10.1.1.1", host="beta") | lease("gone", "10.1.1.2", host="alpha")}
    it = site([network("10.1.1.0/24")], attachment("web", host="alpha"))
    assert texts(assign(it, "alpha", leases)) == {"web": ["10.1.1.3/24"]}


def test_allocate_per_host_else_for_all() -> None:
    ranges = {"": (span("10.1.1.100", "10.1.1.109"),), "beta": (span("10.1.1.20", "10.1.1.20"), span("10.1.1.30", "10.1.1.31"))}
    pods = network("10.1.1.0/24", allocate=ranges)
    beta = [attachment(f"c{n}", host="beta") for n in range(3)]
    it = site([pods], attachment("web", host="alpha"), *beta)
    assert texts(assign(it, "alpha", {})) == {"web": ["10.1.1.100/24"]}
    assert [a[0] for a in texts(assign(it, "beta", {})).values()] == ["10.1.1.20/24", "10.1.1.30/24", "10.1.1.31/24"]


def test_allocate_that_spans_everything_still_leaves_the_ends() -> None:
    pods = network("10.1.1.0/30", allocate={"": (span("10.1.1.0", "10.1.1.255"),)})
    it = site([pods], attachment("a"), attachment("b"))
    assert texts(assign(it, "", {})) == {"a": ["10.1.1.1/30"], "b": ["10.1.1.2/30"]}
    assert pools(pods, "") == {ip_network("10.1.1.0/30"): (span("10.1.1.0", "10.1.1.3"),)}


def test_overlapping_ranges_give_each_address_once() -> None:
    pods = network("10.1.1.0/24", allocate={"": (span("10.1.1.5", "10.1.1.6"), span("10.1.1.5", "10.1.1.7"))})
    it = site([pods], *(attachment(f"c{n}") for n in range(3)))
    assert sorted(a[0] for a in texts(assign(it, "", {})).values()) == ["10.1.1.5/24", "10.1.1.6/24", "10.1.1.7/24"]


def test_on_a_lan_nothing_is_allocated_unasked() -> None:
    lan = network("192.168.1.0/24", external=True)
    with pytest.raises(AllocationError, match="not ours") as caught:
        assign(site([lan], attachment("web")), "", {})
    assert "allocate" in caught.value.hint
    given_range = replace(lan, allocate={"": (span("192.168.1.200", "192.168.1.250"),)})
    assert texts(assign(site([given_range], attachment("web")), "", {})) == {"web": ["192.168.1.200/24"]}


def test_on_a_lan_each_subnet_is_asked_for() -> None:
    lan = network("192.168.1.0/24", "fd00::/64", external=True, allocate={"alpha": (span("fd00::8", "fd00::9"),)})
    assert texts(assign(site([lan], attachment("web", host="alpha")), "alpha", {})) == {"web": ["fd00::8/64"]}
    with pytest.raises(AllocationError, match="not ours"):
        assign(site([lan], attachment("web", host="beta")), "beta", {})


def test_the_hosts_own_interfaces_keep_their_addresses() -> None:
    options = macvlan.Options(
        parent=PerHost({"": "eth1"}),
        host_access=PerHostAddress({"alpha": ip_address("192.168.1.4"), "beta": ip_address("192.168.1.5")}),
    )
    ranges = {"alpha": (span("192.168.1.4", "192.168.1.6"),)}
    lan = network("192.168.1.0/24", external=True, allocate=ranges, options=options)
    assert texts(assign(site([lan], attachment("web", host="alpha")), "alpha", {})) == {"web": ["192.168.1.6/24"]}


def test_slaac_is_left_to_the_container() -> None:
    pods = network("10.1.1.0/24", "fd00::/64", ipv6="slaac")
    assert texts(assign(site([pods], attachment("web")), "", {})) == {"web": ["10.1.1.1/24"]}
    alone = network("fd00::/64", ipv6="slaac", external=True)
    assert texts(assign(site([alone], attachment("web")), "", {})) == {"web": []}


@pytest.mark.parametrize("remembered", ["::a01:107", "10.9.9.2", "10.1.1.1", "10.1.1.5", "10.1.1.0", "10.1.1.200"])
def test_a_remembered_address_that_no_longer_fits_is_replaced(remembered: str) -> None:
    pods = network("10.1.1.0/24", gateways=("10.1.1.1",), allocate={"": (span("10.1.1.0", "10.1.1.99"),)})
    it = site([pods], attachment("web"), attachment("db", "10.1.1.5/24"))
    result = assign(it, "", {"pods": lease("web", remembered)})
    assert texts(result)["web"] == ["10.1.1.2/24"]
    assert result.changes == (LeaseChange("pods", ("", "web", "eth1"), (ip_address("10.1.1.2"),)),)


def test_a_second_subnet_adds_an_address_and_keeps_the_first() -> None:
    pods = network("10.1.1.0/24", "fd00::/64")
    result = assign(site([pods], attachment("web")), "", {"pods": lease("web", "10.1.1.7")})
    assert texts(result) == {"web": ["10.1.1.7/24", "fd00::2/64"]}


def test_writing_an_address_gives_the_remembered_one_back_for_others() -> None:
    pods = network("10.1.1.0/30", gateways=("10.1.1.1",))
    it = site([pods], attachment("new"), attachment("web", "10.9.9.9/32"))
    before = {"pods": lease("web", "10.1.1.2")}
    result = assign(it, "", before)
    assert texts(result) == {"new": ["10.1.1.2/30"], "web": ["10.9.9.9/32"]}
    assert stored(before, result) == {"pods": lease("new", "10.1.1.2")}


def test_a_thousand_attachments_and_a_huge_range() -> None:
    """A range made into a list, or looked through from its start each time, would take for ever."""
    pods = network("10.0.0.0/8", "fd00::/16")
    it = site([pods], *(attachment(f"c{n}") for n in range(1000)))
    first = assign(it, "", {})
    again = assign(it, "", stored({}, first))
    assert len({ip for addresses in first.addresses.values() for ip in addresses}) == 2000
    assert again.addresses == first.addresses
    assert not again.changes


names = st.lists(st.sampled_from([f"c{n}" for n in range(9)]), unique=True, max_size=9)


@st.composite
def sites(draw: st.DrawFn) -> Site:
    """Small subnets, so that everything meets everything."""
    v4 = ip_network(("10.1.1.0", draw(st.integers(27, 29))))
    subnets = [str(v4)] + (["fd00::/124"] if draw(st.booleans()) else [])
    allocate = {}
    if draw(st.booleans()):
        first, last = sorted((draw(st.integers(0, v4.num_addresses - 1)), draw(st.integers(0, v4.num_addresses - 1))))
        allocate[draw(st.sampled_from(["", "alpha"]))] = (AddressRange(v4[first], v4[last]),)
    pods = network(*subnets, gateways=(str(v4[draw(st.integers(1, 5))]),), allocate=allocate)
    written = draw(st.lists(st.integers(1, v4.num_addresses - 2), unique=True, max_size=3))
    attachments = []
    for host in ("alpha", "beta"):
        for name in draw(names):
            own = bool(written) and draw(st.booleans())
            attachments.append(attachment(name, *([f"{v4[written.pop()]}/{v4.prefixlen}"] if own else []), host=host))
    return site([pods], *attachments, hosts={"alpha": Host("alpha"), "beta": Host("beta")})


def exhausted_or(it: Site, host: str, leases: Stored) -> Assignment | None:
    try:
        return assign(it, host, leases)
    except AllocationError:
        return None


@settings(max_examples=300, deadline=None)
@given(sites(), sites())
def test_no_address_is_ever_two_peoples(first: Site, second: Site) -> None:
    """Two files one after the other, both hosts, one store: unique addresses, in the subnet, none that the file names."""
    leases: Stored = {}
    for it in (first, second):
        present = {(a.host, *a.id) for a in it.attachments}
        leases = {n: {h: ips for h, ips in theirs.items() if h in present} for n, theirs in leases.items()}
        for host in it.hosts:
            result = exhausted_or(it, host, leases)
            if result is None:
                return
            leases = stored(leases, result)
            assert list(result.addresses) == [a.id for a in it.on(host)]
            for each in it.on(host):
                addresses = result.addresses[each.id]
                if each.addresses:
                    assert addresses == each.addresses
                    continue
                pods = it.networks["pods"]
                assert [a.network for a in addresses] == list(pods.subnets)
                for a in addresses:
                    assert a.ip not in pods.gateways and a.ip != a.network.network_address
                    assert a.version == 6 or a.ip != a.network.broadcast_address
            assert assign(it, host, leases) == Assignment(result.addresses)  # settled: the second time changes nothing
        everyone = [a.ip for host in it.hosts for its in assign(it, host, leases).addresses.values() for a in its]
        assert len(set(everyone)) == len(everyone)


@settings(max_examples=200, deadline=None)
@given(sites(), names)
def test_who_leaves_does_not_move_who_stays(it: Site, leaving: list[str]) -> None:
    before = exhausted_or(it, "alpha", {})
    if before is None:
        return
    fewer = replace(it, attachments=tuple(a for a in it.attachments if a.container not in leaving))
    after = assign(fewer, "alpha", stored({}, before))
    assert after.addresses == {key: before.addresses[key] for key in after.addresses}
    assert not after.changes
