"""The constant tables and a network's elements, as values."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from ductwork.backends.netlink import nft_sets
from ductwork.drivers import Facts, View
from ductwork.naming import host_ifname
from ductwork.resources import HOST, IptablesRule, Link, NftElement, NftTable, Owner, Resource, Route, Sysctl
from ductwork.services import antispoof, nat, ports
from ductwork.services.ruleset import bridge_table, inet_table
from ductwork.site.load import load_text
from ductwork.site.model import Attachment, Nat, Network

OWNER = Owner("office", "site", "pods")
DUAL = Network(
    "pods",
    "bridge",
    (ip_network("10.1.1.0/24"), ip_network("fd00:1::/64")),
    (ip_address("10.1.1.1"), ip_address("fd00:1::1")),
    nat=Nat("masquerade"),
)


def elements(found: list[Resource]) -> dict[str, list[str]]:
    """Set name → its elements as nft reads them, comments left out."""
    sets: dict[str, list[str]] = {}
    for r in found:
        if isinstance(r, NftElement):
            sets.setdefault(r.set_name, []).append(r.key_text + (f" : {r.value}" if r.value else ""))
    return sets


@pytest.mark.parametrize("table", [inet_table(OWNER), bridge_table(OWNER)])
def test_script_and_digests_agree(table: NftTable) -> None:
    ordered: dict[str, list[str]] = {}
    for line in table.script.splitlines():
        if match := re.fullmatch(r'add rule \S+ \S+ (\S+) .* comment "(\w{10})"', line):
            ordered.setdefault(match[1], []).append(match[2])
    assert table.digests == tuple(sorted((chain, tuple(rules)) for chain, rules in ordered.items()))
    assert sum(map(len, ordered.values())) == table.script.count("add rule")
    assert all(len(set(rules)) == len(rules) for rules in ordered.values())


@pytest.mark.parametrize("table", [inet_table(OWNER), bridge_table(OWNER)])
def test_script_touches_only_its_own_table(table: NftTable) -> None:
    for line in table.script.splitlines():
        assert re.match(rf"(add (table|set|map|chain|rule)|flush table) {table.family} ductwork\b", line), line


def test_sets_used_are_declared() -> None:
    for table in (inet_table(OWNER), bridge_table(OWNER)):
        declared = set(re.findall(r"add (?:set|map) \S+ \S+ (\S+)", table.script))
        assert declared == set(re.findall(r"@(?!(?:ll|nh|th),)(\w+)", table.script))


@pytest.mark.parametrize("table", [inet_table(OWNER), bridge_table(OWNER)])
def test_the_codec_knows_the_sets(table: NftTable) -> None:
    """The sizes of the parts of keys and values, and which may be ranges, as the table declares them."""
    sizes = {"ifname": 16, "iifname": 16, "ether_addr": 6, "ipv4_addr": 4, "ipv6_addr": 16, "inet_proto": 1, "inet_service": 2}
    declared = {}
    for name, spec, more in re.findall(r"add (?:set|map) \S+ \S+ (\S+) \{ type(?:of)? ([^;]*);(.*) \}", table.script):
        sides = [[part.rpartition(",")[2] for part in side.split(" . ")] for side in spec.split(" : ")]
        in_bytes = [[sizes[part] if part in sizes else int(part) // 8 for part in side] for side in sides]
        declared[name] = (*in_bytes, "interval" in more)
    known = {}
    for name, layout in nft_sets.SETS[table.family].items():
        known[name] = (*([part.size for part in side] for side in layout[:2] if side), layout.intervals)
    assert declared == known
    maps = {name for name in declared if name.startswith(("ports", "ranges", "funnels"))}
    assert maps == (ports.MAPS if table.family == "inet" else set())


PLUGGED = Attachment("netns:web", "", "pods", "eth1", "02:00:00:00:0a:0b")
PORT = host_ifname("netns:web", "eth1")


@pytest.mark.parametrize(
    ("network", "addresses", "sets"),
    [
        (DUAL, ["10.1.1.2", "fd00:1::2"], {"checked": 1, "own_mac": 1, "own4": 1, "own6": 2}),
        (DUAL, ["10.1.1.2"], {"checked": 1, "own_mac": 1, "own4": 1, "own6": 1}),
        (replace(DUAL, subnets=DUAL.subnets[:1]), ["10.1.1.2"], {"checked": 1, "own_mac": 1, "own4": 1}),
        (replace(DUAL, ipv6="slaac"), ["10.1.1.2"], {"checked": 1, "own_mac": 1, "own4": 1, "any6": 1}),
        (DUAL, [], {"checked": 1, "own_mac": 1, "any4": 1, "any6": 1}),
        (Network("pods", "bridge"), [], {"checked": 1, "own_mac": 1, "any4": 1, "any6": 1}),
    ],
)
def test_what_a_container_may_send_from(network: Network, addresses: list[str], sets: dict[str, int]) -> None:
    owner = OWNER._replace(container="netns:web", interface="eth1", cookie=7)
    found = list(antispoof.elements(network, PLUGGED, map(ip_address, addresses), owner))
    assert Counter(r.set_name for r in found) == sets
    assert {r.parts[0] for r in found} == {PORT}
    assert {r.owner for r in found} == {OWNER}, "no more than a comment says"
    assert {r.key for r in found} <= {r.key for r in antispoof.perhaps(PORT, PLUGGED.mac, map(ip_address, addresses), owner)}


def test_what_is_allowed_to_spoof_is_not_looked_at() -> None:
    assert list(antispoof.elements(DUAL, replace(PLUGGED, spoofing="allow"), [], OWNER)) == []


def test_own_addresses_as_nft_has_them() -> None:
    addresses = [ip_address("10.1.1.2"), ip_address("fd00:1::2")]
    found = {r.set_name: r.key_text for r in antispoof.own_elements(PORT, PLUGGED.mac, addresses, OWNER)}
    assert found == {
        "checked": f'"{PORT}"',
        "own_mac": f'"{PORT}" . {PLUGGED.mac}',
        "own4": f'"{PORT}" . {PLUGGED.mac} . "10.1.1.2"',
        "own6": f'"{PORT}" . 0x0000020000000a0b . 0xfd000001000000000000000000000002',
    }
    assert str(antispoof.link_local(PLUGGED.mac)) == "fe80::ff:fe00:a0b"


def test_masquerade() -> None:
    assert elements(nat.network_elements(DUAL, "dw-pods", OWNER, device="dw-pods")) == {
        "flows": ['"dw-pods" . "dw-pods"'],
        "bridges": ['"dw-pods"'],
        "guarded": ['"dw-pods"'],
        "local4": ['10.1.1.0/24 . "dw-pods"'],
        "masquerade4": ["10.1.1.0/24"],
        "local6": ['fd00:1::/64 . "dw-pods"'],
        "masquerade6": ["fd00:1::/64"],
    }


def test_snat_masquerades_the_other_family() -> None:
    network = Network("pods", "bridge", DUAL.subnets, DUAL.gateways, nat=Nat("snat", ip_address("192.0.2.9")))
    found = elements(nat.network_elements(network, "dw-pods", OWNER, device="dw-pods"))
    assert found["snat4"] == ["10.1.1.0/24 : 192.0.2.9"]
    assert found["masquerade6"] == ["fd00:1::/64"]
    assert "masquerade4" not in found


def test_a_single_address_is_written_as_nft_prints_it() -> None:
    network = Network("pods", "bridge", (ip_network("10.1.1.7/32"),), nat=Nat("masquerade"))
    found = elements(nat.network_elements(network, "dw-pods", OWNER, device="dw-pods"))
    assert found["masquerade4"] == ['"10.1.1.7"']


@pytest.mark.parametrize(
    ("network", "device", "sets"),
    [
        (Network("pods", "bridge"), "dw-pods", {"flows"}),
        (Network("pods", "bridge", DUAL.subnets, internal=True), "dw-pods", {"flows", "bridges", "internal"}),
        (Network("pods", "bridge", DUAL.subnets, DUAL.gateways), "dw-pods", {"flows", "bridges"}),
        (Network("pods", "bridge", DUAL.subnets, DUAL.gateways), "", {"flows"}),
        (Network("pods", "bridge", isolated=True), "dw-pods", {"isolated"}),
        (Network("pods", "bridge", DUAL.subnets, DUAL.gateways, isolated=True), "dw-pods", {"isolated", "bridges"}),
        (Network("pods", "bridge", DUAL.subnets, isolated=True, external=True), "", {"flows"}),
    ],
)
def test_what_each_sort_of_network_is_in(network: Network, device: str, sets: set[str]) -> None:
    assert set(elements(nat.network_elements(network, "dw-pods", OWNER, device=device))) == sets


def test_iptables_only_where_it_is() -> None:
    for families in (frozenset[str](), frozenset({"ip"}), frozenset({"ip", "ip6"})):
        found = nat.network_elements(DUAL, "dw-pods", OWNER, families)
        assert {r.family for r in found if isinstance(r, IptablesRule)} == families


def test_gateway_guard() -> None:
    found = nat.gateway_guard(DUAL, "vx-pods", OWNER)
    assert [r.key.ident for r in found if isinstance(r, NftTable)] == [("bridge", "ductwork")]
    assert elements(found) == {
        "gateway4": ['"vx-pods" . "10.1.1.1"'],
        "gateway6": ['"vx-pods" . 0xfd000001000000000000000000000001'],
    }
    assert nat.gateway_guard(Network("pods", "vxlan"), "vx-pods", OWNER) == []


def facts(**sysctls: str) -> Facts:
    """eth0 with default routes, br0 with an IPv4 route, eth9 with none, docker0, and a bridge of ours."""
    names = {"lo": "", "eth0": "", "eth9": "", "br0": "bridge", "docker0": "bridge", "dw-pods": "bridge"}
    links = {n: Link(HOST, n, k, "", 1500, owner=OWNER if n == "dw-pods" else None) for n, k in names.items()}
    routes = [Route(HOST, ip_network("10.0.0.0/8"), n) for n in ("br0", "docker0", "dw-pods", "lo")]
    routes += [Route(HOST, ip_network(to), "eth0") for to in ("0.0.0.0/0", "::/0")]
    routes += [Route(HOST, ip_network("fe80::/64"), n) for n in links]
    routes += [Route(HOST, ip_network("192.0.2.1/32"), "eth9", table=nat.LOCAL_TABLE)]
    known = Facts(links=links, routes=tuple(routes))
    values = dict.fromkeys(nat.sysctl_paths(known), "0")
    values |= {name.replace("__", "/"): value for name, value in sysctls.items()}
    return Facts(links=links, routes=tuple(routes), sysctls={p: v for p, v in values.items() if v})


def written(found: list[Resource]) -> dict[str, str]:
    return {r.path: r.value for r in found if isinstance(r, Sysctl)}


def test_forwarding_per_device() -> None:
    found = nat.forwarding(DUAL, "dw-pods", facts(), OWNER)
    assert written(found) == {
        "net/ipv4/conf/dw-pods/forwarding": "1",
        "net/ipv4/conf/br0/forwarding": "1",
        "net/ipv4/conf/eth0/forwarding": "1",
        "net/ipv6/conf/dw-pods/force_forwarding": "1",
        "net/ipv6/conf/eth0/force_forwarding": "1",
    }
    assert {r.path: r.link for r in found if isinstance(r, Sysctl) and r.link} == {
        "net/ipv4/conf/dw-pods/forwarding": "dw-pods",
        "net/ipv6/conf/dw-pods/force_forwarding": "dw-pods",
    }
    assert elements(found) == {"lent4": ['"br0"', '"eth0"'], "lent_bridges": ['"br0" . "br0"'], "lent6": ['"eth0"']}


def test_a_device_that_forwards_already_is_not_lent() -> None:
    found = nat.forwarding(DUAL, "dw-pods", facts(net__ipv4__conf__eth0__forwarding="1"), OWNER)
    assert elements(found)["lent4"] == ['"br0"']


def test_a_host_that_forwards_ipv6_already_is_left_alone() -> None:
    found = nat.forwarding(DUAL, "dw-pods", facts(net__ipv6__conf__all__forwarding="1"), OWNER)
    assert not any("ipv6" in path for path in written(found))
    assert "lent6" not in elements(found)


def test_kernels_without_force_forwarding() -> None:
    found = nat.forwarding(
        DUAL, "dw-pods", facts(net__ipv6__conf__all__force_forwarding="", net__ipv6__conf__eth0__accept_ra="1"), OWNER
    )
    v6 = [(path, value) for path, value in written(found).items() if "ipv6" in path]
    assert v6 == [("net/ipv6/conf/eth0/accept_ra", "2"), ("net/ipv6/conf/all/forwarding", "1")]
    assert elements(found)["lent6"] == ['"br0"', '"eth0"', '"eth9"']


def test_networks_that_need_no_forwarding() -> None:
    for network in (
        Network("a", "bridge"),
        Network("b", "bridge", DUAL.subnets, DUAL.gateways, internal=True),
        Network("c", "bridge", DUAL.subnets),
    ):
        found = nat.forwarding(network, "dw-x", facts(), OWNER)
        assert {(r.link, r.value) for r in found if isinstance(r, Sysctl)} == {("dw-x", "0")}
        assert not [r for r in found if isinstance(r, NftElement)]


def test_two_networks_share_what_is_lent() -> None:
    both = [nat.forwarding(DUAL, f"dw-{name}", facts(), OWNER._replace(network=name)) for name in ("one", "two")]
    first, second = ([r for r in found if isinstance(r, NftElement)] for found in both)
    assert first == second


LAN_SITE = """
hosts: {{h: {{address: 192.0.2.1/24}}}}
networks:
  lan: {{{network}, subnet: 10.1.1.0/24}}
  pods: {{driver: bridge, subnet: 10.2.2.0/24}}
attachments: [{{container: web, host: h, network: lan, address: 10.1.1.2}}]
{router}
"""
LEGS = "routers: [{name: gw, host: h, legs: {lan: 10.1.1.1, pods: 10.2.2.1}}]"
VLAN, PARENT = "driver: bridge, uplink: eth0, vlan: 7", "driver: macvlan, parent: eth0"


@pytest.mark.parametrize(
    ("network", "router", "device", "by", "closed"),
    [
        ("driver: bridge", "", "dw-lan", ["dw-lan"], False),
        ("driver: bridge, uplink: eth0", "", "dw-lan", ["dw-lan"], False),
        (f"{VLAN}, host_addresses: {{h: 10.1.1.9}}", "", "dw-lan.7", ["dw-lan.7", "dw-lan"], True),
        (VLAN, LEGS, "dw-lan.7", ["dw-lan.7", "dw-lan"], False),
        (f"{PARENT}, host_access: {{h: 10.1.1.9}}", "", "dw-lan", ["dw-lan"], True),
        (PARENT, LEGS, "dw-lan", ["dw-lan"], False),
    ],
)
def test_what_a_network_with_ports_needs(network: str, router: str, device: str, by: list[str], closed: bool) -> None:
    """A frame of a VLAN may be seen as coming by the bridge too; what forwards for ports alone is closed to all else."""
    site = load_text(LAN_SITE.format(network=network, router=router), "office.yaml")
    plugged_into = "eth0" if network.startswith(PARENT) else "dw-lan"
    found = list(ports.network_resources(site.networks["lan"], plugged_into, View(site, "h", "h", facts())))
    sets = elements(found)
    assert sets["served"] == [f'"{device}"'] and sets["no_loopback"] == [f'"{name}"' for name in by]
    assert sets.get("closed", []) == ([f'"{device}"'] if closed else [])
    assert [r.key.ident for r in found if isinstance(r, NftTable)] == [("inet", "ductwork")], "where nothing else needs it, too"


def test_a_lans_gateway_does_not_bring_replies_back() -> None:
    """Its neighbours answer each other, whoever routes."""
    held = replace(DUAL, legs={"h": DUAL.gateways})
    assert ports.holds_gateway(held, 4, "h") and not ports.holds_gateway(replace(held, external=True), 4, "h")
