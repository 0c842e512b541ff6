"""What a network needs of the host to be a network: its elements in our packet filter, and forwarding.

Invariant: pure functions. What two networks of a site both need (a table, a device's forwarding, its being lent) is the
same resource from both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from ipaddress import IPv6Network

from ductwork.drivers import Facts
from ductwork.resources import HOST, IPNetwork, IptablesRule, Link, NftElement, Owner, Resource, Sysctl
from ductwork.resources.base import SHARED
from ductwork.services.ruleset import TABLE, bridge_table, inet_table
from ductwork.site.model import Network

LOCAL_TABLE = 255
_DOCKER_BRIDGE = re.compile(r"docker0|docker_gwbridge|br-[0-9a-f]{12}")
_ALL_FORWARDING = "net/ipv6/conf/all/forwarding"
_HAS_FORCE_FORWARDING = "net/ipv6/conf/all/force_forwarding"
"""There since Linux 6.17."""
_LENT = {
    "lent4": ("net/ipv4/conf/{}/forwarding",),
    "lent6": ("net/ipv6/conf/{}/force_forwarding", _ALL_FORWARDING),
}
"""Set of the devices that forward because of us → what makes them."""


def network_elements(
    network: Network, bridge_ifname: str, owner: Owner, iptables: frozenset[str] = frozenset(), *, device: str = ""
) -> list[Resource]:
    """The table, and the elements that say how packets of `network`, on `bridge_ifname`, are filtered and translated.

    `iptables`: the families that have the program, and with it perhaps Docker's FORWARD policy. `device`: where the network's
    packets are routed by this host, the bridge itself or a VLAN on it; "": they are not. (An uplink's bridge is the host's own
    way into the world; what other networks send through it is on its way out, not to another network.)
    """
    found: list[Resource] = [inet_table(owner), *(IptablesRule(family, owner=owner) for family in sorted(iptables))]
    if network.isolated and device and (network.external or not network.apart):
        found.append(_element("isolated", (device, device), owner))
    if not network.isolated or network.apart:
        found.append(_element("flows", (bridge_ifname, bridge_ifname), owner))
    if not network.subnets or not device:
        return found
    found.append(_element("bridges", (device,), owner))
    if network.internal:
        found.append(_element("internal", (device,), owner))
    elif network.nat.mode != "none":
        found.append(_element("guarded", (device,), owner))
        for subnet in network.subnets:
            found += _translation(network, subnet, device, owner)
    return found


def gateway_guard(network: Network, vxlan_ifname: str, owner: Owner) -> list[Resource]:
    """What keeps the gateway addresses of a VXLAN, which each host's bridge holds, out of the tunnel `vxlan_ifname`."""
    legs = {address for addresses in network.legs.values() for address in addresses}
    gateways = [gateway for gateway in network.gateways if gateway not in legs]
    found: list[Resource] = [bridge_table(owner)] if gateways else []
    for gateway in gateways:
        part = str(gateway) if gateway.version == 4 else f"{int(gateway):#x}"
        found.append(NftElement("bridge", TABLE, f"gateway{gateway.version}", (vxlan_ifname, part), owner=owner))
    return found


def forwarding(
    network: Network, device: str, facts: Facts, owner: Owner, *, host: str = "", has_ipv6: bool = True
) -> list[Resource]:
    """Forwarding between `device`, which the network's packets are routed by, and the foreign devices they leave and come back
    by; for a router's leg of `host`, on the device alone.

    Both kernels' checks look at the device a packet comes in by alone (`ip_route_input_slow`, `ip6_forward`), so both sides
    need it. Devices that did not forward before are noted as lent. Never `ip_forward`: design.md, section 5. A device that is
    not to forward is told so, whatever it did before. `has_ipv6`: whether the device has (it takes an MTU of 1280).
    """
    versions = set() if network.internal or network.external else {gateway.version for gateway in network.gateways_held(host)}
    legs = {leg.version for leg in network.legs.get(host, ())}
    found: list[Resource] = leg_forwarding(device, legs - versions, facts, owner)
    if 4 in versions:
        found += ways_out(4, device, facts, owner)
    elif 4 not in legs:
        found.append(Sysctl(HOST, f"net/ipv4/conf/{device}/forwarding", "0", link=device, owner=owner))
    if 6 not in versions | legs and has_ipv6 and _HAS_FORCE_FORWARDING in facts.sysctls:
        found.append(Sysctl(HOST, f"net/ipv6/conf/{device}/force_forwarding", "0", link=device, owner=owner))
    if 6 in versions:
        found += ways_out(6, device, facts, owner)
    return found


def leg_forwarding(device: str, versions: Iterable[int], facts: Facts, owner: Owner) -> list[Resource]:
    """Of a router's leg in these families: from leg to leg, no other device is needed."""
    found: list[Resource] = []
    for version in sorted(versions):
        if version == 4:
            found += _switched_on(4, "net/ipv4/conf/{}/forwarding", device, facts, owner)
        elif facts.sysctls.get(_ALL_FORWARDING) == "0":
            if _HAS_FORCE_FORWARDING in facts.sysctls:
                found += _switched_on(6, "net/ipv6/conf/{}/force_forwarding", device, facts, owner)
            else:
                found += _forwarding_everywhere(facts, owner)
    return found


def ways_out(version: int, device: str, facts: Facts, owner: Owner) -> list[Resource]:
    """Forwarding of a family between `device` and the foreign devices, where these do not forward already."""
    if version == 4:
        return list(_forwarding(4, "net/ipv4/conf/{}/forwarding", device, facts, owner))
    if facts.sysctls.get(_ALL_FORWARDING) != "0":
        return []
    if _HAS_FORCE_FORWARDING in facts.sysctls:
        return list(_forwarding(6, "net/ipv6/conf/{}/force_forwarding", device, facts, owner))
    return list(_forwarding_everywhere(facts, owner))


def sysctl_paths(facts: Facts) -> tuple[str, ...]:
    """Every path below /proc/sys that `forwarding` looks up in `facts.sysctls`, for these links and routes, a NIC that a
    bridge may give back included."""
    paths = [_ALL_FORWARDING, _HAS_FORCE_FORWARDING]
    paths += [f"net/ipv4/conf/{name}/forwarding" for name in (*facts.taken, *(link.name for link in _outward(facts, 4)))]
    paths += [f"net/ipv6/conf/{name}/force_forwarding" for name in (*facts.taken, *(link.name for link in _outward(facts, 6)))]
    paths += [f"net/ipv6/conf/{name}/accept_ra" for name in (*facts.taken, *(link.name for link in _foreign(facts)))]
    return tuple(paths)


def governor(path: str) -> str:
    """The switch whose writing resets a sysctl on all devices: `ip_forward` does that to their own forwarding, and dockerd
    writes it when it starts. "" where there is none."""
    return "net/ipv4/ip_forward" if path.startswith("net/ipv4/conf/") and path.endswith("/forwarding") else ""


def lent_paths(observed: Iterable[Resource]) -> Iterator[str]:
    """Every path below /proc/sys of which our elements say that it was 0 before us: what a lost journal would have said."""
    for resource in observed:
        if isinstance(resource, NftElement) and resource.set_name in _LENT:
            for path in _LENT[resource.set_name]:
                yield path.format(resource.parts[0].strip('"'))


def _element(set_name: str, parts: tuple[str, ...], owner: Owner, value: str = "") -> NftElement:
    return NftElement("inet", TABLE, set_name, parts, value, owner)


def _translation(network: Network, subnet: IPNetwork, bridge_ifname: str, owner: Owner) -> Iterator[NftElement]:
    """An address to translate to is of one family; the other one is masqueraded."""
    version, text = subnet.version, as_nft_prints(subnet)
    yield _element(f"local{version}", (text, bridge_ifname), owner)
    address = network.nat.snat_to
    if address is not None and address.version == version:
        yield _element(f"snat{version}", (text,), owner, str(address))
    else:
        yield _element(f"masquerade{version}", (text,), owner)


def as_nft_prints(subnet: IPNetwork) -> str:
    return str(subnet.network_address) if subnet.prefixlen == subnet.max_prefixlen else str(subnet)


def _forwarding(version: int, path: str, bridge_ifname: str, facts: Facts, owner: Owner) -> Iterator[Resource]:
    """`path` switches it on for one device, whose name goes in its place."""
    yield Sysctl(HOST, path.format(bridge_ifname), "1", link=bridge_ifname, owner=owner)
    for link in _outward(facts, version):
        value = facts.sysctls.get(path.format(link.name))
        if value is None:
            continue
        if value == "0":
            yield from _lent(version, link)
        yield Sysctl(HOST, path.format(link.name), "1", owner=owner)


def _switched_on(version: int, path: str, device: str, facts: Facts, owner: Owner) -> Iterator[Resource]:
    """On one device: ours, or the bridge that stands for a NIC, which is the host's own."""
    link, value = facts.links.get(device), facts.sysctls.get(path.format(device))
    if device not in facts.moved.values() or link is None or value is None:
        yield Sysctl(HOST, path.format(device), "1", link=device, owner=owner)
        return
    if value == "0":
        yield from _lent(version, link)
    yield Sysctl(HOST, path.format(device), "1", owner=owner)


def _forwarding_everywhere(facts: Facts, owner: Owner) -> Iterator[Resource]:
    """IPv6 before Linux 6.17: all devices or none. A device that forwards drops the routes it learnt from router
    advertisements, at once, unless told to go on listening: `accept_ra` 2."""
    for link in _foreign(facts):
        if facts.sysctls.get(f"net/ipv6/conf/{link.name}/accept_ra") == "1":
            yield Sysctl(HOST, f"net/ipv6/conf/{link.name}/accept_ra", "2", owner=owner)
    for link in _foreign(facts):
        yield from _lent(6, link)
    yield Sysctl(HOST, _ALL_FORWARDING, "1", owner=owner)


def _lent(version: int, link: Link) -> Iterator[NftElement]:
    """All sites' alike: an element has one owner, and each network and site would claim it anew."""
    yield _element(f"lent{version}", (link.name,), SHARED)
    if link.kind == "bridge":
        yield _element("lent_bridges", (link.name, link.name), SHARED)


def _outward(facts: Facts, version: int) -> list[Link]:
    """The foreign devices that a route leads out by: in any table, since policy rules send containers' packets through
    those of a VPN too."""
    used = {route.link for route in facts.routes if route.table != LOCAL_TABLE and _leads_out(route.to, version)}
    return [link for link in _foreign(facts) if link.name in used]


def _leads_out(to: IPNetwork, version: int) -> bool:
    """Every device has a link-local and a multicast route of IPv6."""
    return to.version == version and not (isinstance(to, IPv6Network) and (to.is_link_local or to.is_multicast))


def _foreign(facts: Facts) -> list[Link]:
    """Devices of the host that are neither ours nor Docker's, which sees to its own; by name. A NIC's bridge stands for it."""
    uplinks = {**facts.taken, **facts.moved}
    links = (link for link in facts.links.values() if link.netns == HOST and link.name != "lo" and link.name not in uplinks)
    others = (link for link in links if link.owner is None or link.name in uplinks.values())
    return sorted((link for link in others if not _DOCKER_BRIDGE.fullmatch(link.name)), key=lambda link: link.name)
