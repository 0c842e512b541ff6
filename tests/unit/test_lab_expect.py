"""Contract 1.7 as a table: who must reach whom (True), must not (False), and what is not judged (None)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from ductwork.lab.expect import Pair, expectations
from ductwork.lab.topology import topology
from ductwork.site.model import Attachment, Host, Nat, Network, Site, StaticRoute

ALPHA, BETA, OUTSIDE = "10.99.0.1", "10.99.0.2", "203.0.113.10"
OUTSIDE6 = "2001:db8:ffff::10"


def network(name: str, subnets: str, nat: str = "masquerade", **more: object) -> Network:
    """`subnets`: separated by blanks; the first address of each is the gateway, unless `internal` or `gateways` is given."""
    nets = tuple(ip_network(s) for s in subnets.split())
    gateways = () if more.get("internal") else tuple(n[1] for n in nets)
    mode = Nat("snat", ip_address(nat)) if nat[0].isdigit() else Nat(nat)  # type: ignore[arg-type]
    return replace(Network(name, "bridge", nets, gateways, nat=mode), **more)  # type: ignore[arg-type]


def plug(container: str, host: str, net: Network, addresses: str, number: int = 1, **more: object) -> Attachment:
    found = []
    for text in addresses.split():
        subnet = net.subnet_of(ip_address(text))
        found.append(ip_interface(f"{text}/{subnet.prefixlen if subnet else 32}"))
    attachment = Attachment(container, host, net.name, f"eth{number}", "02:00:00:00:00:01", tuple(found))
    return replace(attachment, **more)  # type: ignore[arg-type]


def site(networks: Iterable[Network], attachments: Iterable[Attachment], hosts: str = "alpha beta") -> Site:
    named = {name: Host(name, ip_interface(f"10.99.0.{i}/24")) for i, name in enumerate(hosts.split(), 1)}
    return Site("office", named, {n.name: n for n in networks}, tuple(attachments))


def pairs(of: Site) -> dict[tuple[str, str], Pair]:
    addresses = {(a.host, *a.id): a.addresses for a in of.attachments}
    return {(p.source.label, str(p.address)): p for p in expectations(topology(of), addresses)}


def one_bridge(nat: str, **more: object) -> Site:
    lan = network("lan", "10.1.1.0/24", nat, **more)
    return site([lan], [plug("netns:web", "alpha", lan, "10.1.1.2"), plug("netns:db", "alpha", lan, "10.1.1.3")])


def two_bridges(nat: str = "masquerade", other_host: str = "alpha", other_nat: str = "masquerade") -> Site:
    one, two = network("one", "10.1.1.0/24", nat), network("two", "10.1.2.0/24", other_nat)
    return site([one, two], [plug("web", "alpha", one, "10.1.1.2"), plug("db", other_host, two, "10.1.2.2")])


def vxlan(nat: str = "masquerade", host_addresses: str = "alpha beta", subnets: str = "10.1.1.0/24", **more: object) -> Site:
    own = {"alpha": (ip_address("10.1.1.251"),), "beta": (ip_address("10.1.1.252"),)}
    pods = network("pods", subnets, nat, host_addresses={h: own[h] for h in host_addresses.split()}, **more)
    return site([pods], [plug("web", "alpha", pods, "10.1.1.2"), plug("db", "beta", pods, "10.1.1.3")])


def two_homes(nat: str, first: bool | str | None = None, second: bool | None = None, **more: object) -> Site:
    """A container in two networks of alpha; the second's is `nat`."""
    one, two = network("one", "10.1.1.0/24"), network("two", "10.1.2.0/24", nat)
    asked = ip_address(first) if isinstance(first, str) else first
    app = [
        plug("app", "alpha", one, "10.1.1.2", gateway=asked, **more),
        plug("app", "alpha", two, "10.1.2.2", 2, gateway=second),
    ]
    return site([one, two], [*app, plug("db", "alpha", two, "10.1.2.3")])


def dual_stack(nat: str = "masquerade") -> Site:
    pods = network("pods", "10.1.1.0/24 fd00:1::/64", nat)
    both = plug("web", "alpha", pods, "10.1.1.2 fd00:1::2")
    return site([pods], [both, plug("old", "alpha", pods, "10.1.1.3"), plug("new", "alpha", pods, "fd00:1::4")])


def split_families() -> Site:
    """A container with IPv4 in one dual-stack network and IPv6 in another: each family leaves by its own."""
    one, two = (
        network("one", "10.1.1.0/24 fd00:1::/64", gateways=(ip_address("fd00:1::1"),)),
        network("two", "fd00:2::/64", "none"),
    )
    return site([one, two], [plug("app", "alpha", one, "10.1.1.2"), plug("app", "alpha", two, "fd00:2::2", 2)])


def on_the_lan() -> Site:
    lan = network("lan", "10.99.0.0/16", "none")
    return site([lan], [plug("web", "alpha", lan, "10.99.7.7")])


def same_subnets() -> Site:
    one = network("one", "10.1.1.0/24")
    two = network("two", "10.1.1.0/24", "none", gateways=(ip_address("10.1.1.9"),))
    return site([one, two], [plug("web", "alpha", one, "10.1.1.2"), plug("db", "beta", two, "10.1.1.3")])


ONE_HOST = site([n := network("lan", "10.1.1.0/24", "none")], [plug("web", "", n, "10.1.1.2")], hosts="")
VIA_OTHER = {"routes": (StaticRoute(ip_network("203.0.113.0/24"), ip_address("10.1.1.9")),)}
VIA_GATEWAY = {"gateway": False, "routes": (StaticRoute(ip_network("203.0.113.0/24"), ip_address("10.1.1.1")),)}


def routed(**more: object) -> Site:
    lan = network("lan", "10.1.1.0/24")
    return site([lan], [plug("web", "alpha", lan, "10.1.1.2", **more)])


TABLE: list[tuple[str, Site, str, str, bool | None]] = [
    ("one network, one host", one_bridge("none"), "web", "10.1.1.3", True),
    ("its gateway", one_bridge("none"), "web", "10.1.1.1", True),
    ("the host to its container", one_bridge("masquerade"), "alpha", "10.1.1.2", True),
    ("own host's underlay", one_bridge("masquerade"), "web", ALPHA, True),
    ("own host's underlay, without NAT", one_bridge("none"), "web", ALPHA, True),
    ("the underlay in the network's own subnet", on_the_lan(), "web", BETA, None),
    ("masquerade: LAN", one_bridge("masquerade"), "web", BETA, True),
    ("masquerade: outside", one_bridge("masquerade"), "web", OUTSIDE, True),
    ("masquerade: not in from the LAN", one_bridge("masquerade"), "beta", "10.1.1.2", False),
    ("masquerade: not in from outside", one_bridge("masquerade"), "outside", "10.1.1.2", False),
    ("snat: outside", one_bridge("10.99.0.50"), "web", OUTSIDE, True),
    ("snat: not in", one_bridge("10.99.0.50"), "outside", "10.1.1.2", False),
    ("snat: to its own address, which is the host's", one_bridge("10.99.0.50"), "beta", "10.99.0.50", True),
    ("none: out", one_bridge("none"), "web", OUTSIDE, True),
    ("none: in", one_bridge("none"), "outside", "10.1.1.2", True),
    ("none: in from the LAN", one_bridge("none"), "beta", "10.1.1.2", True),
    ("none without gateway: out", one_bridge("none", gateways=()), "web", OUTSIDE, False),
    ("none without gateway: in", one_bridge("none", gateways=()), "outside", "10.1.1.2", False),
    ("no gateway: own host", one_bridge("none", gateways=()), "web", ALPHA, False),
    ("no gateway: own host to it", one_bridge("none", gateways=()), "alpha", "10.1.1.2", False),
    ("internal: among themselves", one_bridge("none", internal=True), "web", "10.1.1.3", True),
    ("internal: out", one_bridge("none", internal=True), "web", OUTSIDE, False),
    ("internal: in", one_bridge("none", internal=True), "outside", "10.1.1.2", False),
    ("internal: own host", one_bridge("none", internal=True), "alpha", "10.1.1.2", False),
    ("isolated: among themselves", one_bridge("none", isolated=True), "web", "10.1.1.3", False),
    ("isolated: the gateway", one_bridge("none", isolated=True), "web", "10.1.1.1", True),
    ("isolated: own host to it", one_bridge("none", isolated=True), "alpha", "10.1.1.2", True),
    ("isolated: out", one_bridge("none", isolated=True), "web", OUTSIDE, True),
    ("isolated VXLAN: among themselves", vxlan(isolated=True), "web", "10.1.1.3", False),
    ("isolated VXLAN: own host's own address", vxlan(isolated=True), "web", "10.1.1.251", True),
    ("isolated VXLAN: another host's", vxlan(isolated=True), "web", "10.1.1.252", False),
    ("isolated VXLAN: from another host", vxlan(isolated=True), "beta", "10.1.1.2", False),
    ("isolated VXLAN: from its own host", vxlan(isolated=True), "alpha", "10.1.1.2", True),
    ("hosts", one_bridge("none"), "alpha", BETA, True),
    ("host to outside", one_bridge("none"), "alpha", OUTSIDE, True),
    ("outside to host", one_bridge("none"), "outside", ALPHA, True),
    ("outside to a host's address in a network", one_bridge("none"), "outside", "10.1.1.1", None),
    ("a file without hosts: out", ONE_HOST, "web", OUTSIDE, True),
    ("a file without hosts: host", ONE_HOST, "host", "10.1.1.2", True),
    ("two networks, one host", two_bridges(), "web", "10.1.2.2", False),
    ("two networks, one host, no NAT", two_bridges("none", other_nat="none"), "web", "10.1.2.2", False),
    ("the other network's gateway", two_bridges(), "web", "10.1.2.1", None),
    ("two networks, two hosts: NAT keeps out", two_bridges("none", "beta"), "web", "10.1.2.2", False),
    ("two networks, two hosts: out and in", two_bridges("masquerade", "beta", "none"), "web", "10.1.2.2", True),
    ("two networks, two hosts: none both", two_bridges("none", "beta", "none"), "db", "10.1.1.2", True),
    ("same subnet, other network", same_subnets(), "web", "10.1.1.3", False),
    ("same subnet, other network: its host", same_subnets(), "alpha", "10.1.1.3", False),
    ("vxlan: other host", vxlan(), "web", "10.1.1.3", True),
    ("vxlan: the other host's own address", vxlan(), "web", "10.1.1.252", True),
    ("vxlan: own gateway, which both hosts hold", vxlan(), "web", "10.1.1.1", True),
    ("vxlan: host with an address of its own", vxlan(), "alpha", "10.1.1.3", True),
    ("vxlan: hosts in the network", vxlan(), "alpha", "10.1.1.252", True),
    ("vxlan: host with the gateway alone", vxlan(host_addresses=""), "alpha", "10.1.1.3", False),
    ("vxlan: own container, gateway alone", vxlan(host_addresses=""), "alpha", "10.1.1.2", True),
    ("vxlan: to a host that has no own address", vxlan(host_addresses="beta"), "beta", "10.1.1.251", None),
    ("vxlan: other host's underlay", vxlan(), "web", BETA, True),
    ("vxlan none: reply another way", vxlan("none"), "web", BETA, None),
    ("vxlan none: in", vxlan("none"), "outside", "10.1.1.3", True),
    ("two homes: in the second", two_homes("none"), "app", "10.1.2.3", True),
    ("two homes: first is the default", two_homes("none"), "app", OUTSIDE, True),
    ("two homes: reply by the other", two_homes("none"), "outside", "10.1.2.2", None),
    ("two homes: from the second into the first", two_homes("none"), "db", "10.1.1.2", False),
    ("two homes: no gateway asked", two_homes("none", False, False), "app", OUTSIDE, False),
    ("two homes: it cannot answer", two_homes("none", False, False), "outside", "10.1.2.2", False),
    ("two homes: second asked for", two_homes("none", None, True), "outside", "10.1.2.2", True),
    ("two homes: both asked for", two_homes("none", True, True), "app", OUTSIDE, None),
    ("gateway: somebody else", two_homes("none", "10.1.1.9"), "app", OUTSIDE, None),
    ("gateway: the network's, by address", two_homes("none", "10.1.1.1"), "app", OUTSIDE, True),
    ("route by somebody else", routed(**VIA_OTHER), "web", OUTSIDE, None),
    ("route by the gateway", routed(**VIA_GATEWAY), "web", OUTSIDE, True),
    ("route by the gateway: nothing else", routed(**VIA_GATEWAY), "web", BETA, False),
    ("IPv6: among themselves", dual_stack(), "web", "fd00:1::4", True),
    ("IPv6: out", dual_stack(), "new", OUTSIDE6, True),
    ("IPv6: in", dual_stack(), "outside", "fd00:1::2", False),
    ("IPv6 none: in", dual_stack("none"), "outside", "fd00:1::2", True),
    ("families leave by different networks", split_families(), "outside", "fd00:2::2", True),
    ("IPv4 alone, to IPv6", dual_stack(), "old", "fd00:1::2", None),
    ("IPv6 alone, to IPv4", dual_stack(), "new", OUTSIDE, None),
    ("snat of the other family", dual_stack("10.99.0.50"), "web", OUTSIDE6, None),
    ("snat of the other family: not in", dual_stack("10.99.0.50"), "outside", "fd00:1::2", False),
]


@pytest.mark.parametrize(("of", "source", "address", "expected"), [row[1:] for row in TABLE], ids=[r[0] for r in TABLE])
def test_pair(of: Site, source: str, address: str, expected: bool | None) -> None:
    found = pairs(of)
    assert source in {s for s, _ in found}
    pair = found.get((source, address))
    assert (pair.expected if pair else None) is expected, pair


def test_a_gateway_that_all_hosts_hold_is_judged_for_the_own_host_alone() -> None:
    lab = topology(vxlan())
    addresses = {(a.host, *a.id): a.addresses for a in lab.site.attachments}
    to_gateway = [p for p in expectations(lab, addresses) if str(p.address) == "10.1.1.1"]
    assert {(p.source.label, p.target.label) for p in to_gateway} == {("web", "alpha"), ("db", "beta")}


def test_no_pair_asks_a_machine_about_itself() -> None:
    assert not [p for p in pairs(dual_stack()).values() if p.source == p.target]


@pytest.mark.parametrize(
    ("of", "source", "address", "rule"),
    [
        (one_bridge("none", internal=True), "outside", "10.1.1.2", "internal"),
        (one_bridge("none"), "web", "10.1.1.3", "containers of one network"),
        (one_bridge("none"), "web", "10.1.1.1", "containers reach a host"),
        (one_bridge("masquerade"), "web", OUTSIDE, "nat: masquerade"),
    ],
)
def test_a_verdict_gives_its_rule(of: Site, source: str, address: str, rule: str) -> None:
    assert pairs(of)[source, address].rule.startswith(rule)
