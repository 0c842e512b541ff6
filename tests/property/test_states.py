"""Random states, not only such as site files lead to: one round leads from any to any, and foreign things survive."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from hypothesis import given, settings
from hypothesis import strategies as st

from ductwork.backends.fake import FakeKernel
from ductwork.ownership import ContainerReading, settle
from ductwork.planner import Plan, plan
from ductwork.resources import (
    HOST,
    Address,
    Create,
    Key,
    Link,
    Operation,
    Owner,
    Port,
    Resource,
    Route,
    State,
    Sysctl,
    VethSpec,
)
from ductwork.resources.route import KERNEL_PROTOCOL

WEB = "netns:web"
BRIDGES = ("br0", "br1")
macs = st.integers(1, 3).map(lambda n: f"02:00:00:00:00:{n:02x}")
mtus = st.sampled_from([1400, 1500])


def mine(resource: Resource) -> bool:
    return resource.owner is not None


@st.composite
def addresses(draw: st.DrawFn, netns: str, link: str, owner: Owner, number: int) -> list[Resource]:
    """Addresses of a link, and routes by way of them. Two in one subnet: the second is the first one's secondary."""
    length = draw(st.sampled_from([16, 24]))
    hosts = draw(st.lists(st.sampled_from([1, 2, 3]), unique=True, max_size=2))
    found: list[Resource] = [Address(netns, link, ip_address(f"10.{number}.0.{host}"), length, owner=owner) for host in hosts]
    if draw(st.booleans()):
        found.append(Address(netns, link, ip_address(f"fd00:{number}::1"), 64, owner=owner))
    if hosts and draw(st.booleans()):
        source = draw(st.sampled_from([None, ip_address(f"10.{number}.0.{hosts[0]}")]))
        via = ip_address(f"10.{number}.0.9")
        found.append(Route(netns, ip_network(f"192.0.{number}.0/24"), link, via, source=source, owner=owner))
    if draw(st.booleans()):
        found.append(Route(netns, ip_network(f"198.51.{number}.0/24"), link, None, owner=owner))
    return found


@st.composite
def states(draw: st.DrawFn, cookie: int) -> dict[Key, Resource]:
    """What may be wanted on a host with one container, and be made there."""
    found: list[Resource] = []
    site = draw(st.sampled_from(["office", "office", "home"]))
    bridges = draw(st.lists(st.sampled_from(BRIDGES), unique=True))
    for number, name in enumerate(BRIDGES, 1):
        if name in bridges:
            owner = Owner(site, "site", name)
            found.append(Link(HOST, name, "bridge", draw(macs), draw(mtus), owner=owner))
            found += draw(addresses(HOST, name, owner, number))
    for number in draw(st.lists(st.sampled_from([3, 4]), unique=True)):
        outer, inner, mac, mtu = f"v{number}", f"eth{number}", draw(macs), draw(mtus)
        owner = Owner(site, "site", "net", WEB, inner, cookie)
        found.append(Link(HOST, outer, "veth", draw(macs), mtu, spec=VethSpec(WEB, inner, mac), owner=owner))
        found.append(Link(WEB, inner, "veth", mac, mtu, spec=VethSpec(HOST, outer), owner=owner))
        found += draw(addresses(WEB, inner, owner, number))
        if bridges:
            found.append(Port(HOST, outer, draw(st.sampled_from(bridges)), owner))
    return {resource.key: resource for resource in found}


def foreign_things() -> list[Resource]:
    return [
        Link(HOST, "eth0", "", "52:54:00:00:00:01", 1500),
        Address(HOST, "eth0", ip_address("10.99.0.1"), 24),
        Route(HOST, ip_network("0.0.0.0/0"), "eth0", ip_address("10.99.0.254"), protocol=3),
    ]


def observe(kernel: FakeKernel) -> dict[Key, Resource]:
    backend = kernel.links()
    [inside] = kernel.visit([(lambda: kernel.open_netns(WEB), lambda: backend.read(WEB, None))])
    assert not isinstance(inside, Exception)
    return settle(backend.read(HOST, None), {WEB: ContainerReading(kernel.containers[WEB], inside)})


def carry_out(kernel: FakeKernel, operations: tuple[Operation, ...]) -> None:
    refused = [f"{operation}: {error}" for operation in operations if (error := kernel.do(operation))]
    assert not refused, "\n".join(refused)


def lead(kernel: FakeKernel, desired: State) -> Plan:
    found = plan(desired, observe(kernel), mine)
    assert not found.conflicts
    carry_out(kernel, found.operations)
    again = plan(desired, observe(kernel), mine)
    assert again.operations == ()
    return found


def new_kernel() -> FakeKernel:
    kernel = FakeKernel()
    kernel.start(WEB)
    carry_out(kernel, tuple(map(Create, foreign_things())))
    return kernel


COOKIE = new_kernel().containers[WEB]


@given(states(COOKIE), states(COOKIE))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_one_round_leads_from_any_state_to_any(first: dict[Key, Resource], second: dict[Key, Resource]) -> None:
    kernel = new_kernel()
    untouched = dict(kernel.state)
    for desired in (first, second):
        lead(kernel, desired)
        there = observe(kernel)
        assert {key: r for key, r in there.items() if r.owner} == desired
    lead(kernel, {})
    assert kernel.state == untouched


@given(states(COOKIE), states(COOKIE), st.sampled_from(BRIDGES))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_what_others_put_on_our_bridge_comes_back_with_it(
    first: dict[Key, Resource], second: dict[Key, Resource], bridge: str
) -> None:
    kernel = new_kernel()
    lead(kernel, first)
    key = Key("link", HOST, (bridge,))
    theirs = Address(HOST, bridge, ip_address("192.168.9.1"), 24)
    stays = key in first and key in second
    if key in first:
        carry_out(kernel, (Create(theirs),))
    lead(kernel, second)
    assert (theirs.key in observe(kernel)) == stays


@given(states(COOKIE), states(COOKIE))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_what_a_plan_says_it_touches_is_all_that_changes(first: dict[Key, Resource], second: dict[Key, Resource]) -> None:
    """Undo rests on it: whatever differs afterwards was noted before."""
    kernel = new_kernel()
    lead(kernel, first)
    before = observe(kernel)
    touched = lead(kernel, second).before(before)
    after = observe(kernel)
    changed = {key for key in (*before, *after) if before.get(key) != after.get(key)}
    assert {key for key in changed if not _is_the_kernels(before.get(key) or after[key])} <= set(touched)


def _is_the_kernels(resource: Resource) -> bool:
    return isinstance(resource, Sysctl) or (isinstance(resource, Route) and resource.protocol == KERNEL_PROTOCOL)
