"""What the kernel refuses: the strictness of the fake kernel (`fake.py`).

Invariant: the words are the kernel's, and nothing is changed here. tests/netns/test_backend_contract.py holds both against
the real one.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_network
from typing import TypeVar

from ductwork.resources import (
    HOST,
    Address,
    FdbEntry,
    IPAddress,
    IPInterface,
    IpvlanSpec,
    Key,
    Link,
    MacvlanSpec,
    Neighbour,
    NftElement,
    NftTable,
    NicSpec,
    Port,
    Redirect,
    Resource,
    Route,
    Shaper,
    Sysctl,
    VethSpec,
    VlanSpec,
    VxlanSpec,
)
from ductwork.resources.route import DEFAULT_METRIC_V6, KERNEL_PROTOCOL

T = TypeVar("T")

IPV6_MIN_MTU = 1280
BRIDGE_PORTS = 1023
_KERNEL_METRIC_V6 = 256
_SET = re.compile(r"add (?:set|map) \S+ \S+ (\S+) \{ (.*) \}")


class Refused(Exception):
    """The kernel's words."""


@dataclass(frozen=True, slots=True)
class Rules:
    """As of one state; `containers`: the names of those that run."""

    state: Mapping[Key, Resource]
    containers: Container[str]

    # looking

    def link(self, netns: str, name: str) -> Link:
        link = self.state.get(Key("link", netns, (name,)))
        if not isinstance(link, Link):
            raise Refused("No such device")
        return link

    def all(self, kind: type[T], netns: str) -> Iterator[T]:
        return (resource for key, resource in self.state.items() if isinstance(resource, kind) and key.netns == netns)

    def kernel_routes(self, netns: str) -> Iterator[Route]:
        """The subnets of the addresses of links that are up."""
        up = {link.name for link in self.all(Link, netns) if link.up}
        for address in self.all(Address, netns):
            subnet = _interface(address).network
            if address.link not in up or address.secondary or subnet.prefixlen == subnet.max_prefixlen:
                continue
            if not address.makes_prefix_route:
                continue
            metric = address.details.metric if address.details else 0
            v6 = subnet.version == 6
            metric, source = (metric or _KERNEL_METRIC_V6, None) if v6 else (metric, address.address)
            yield Route(netns, subnet, address.link, metric=metric, source=source, protocol=KERNEL_PROTOCOL)

    def above(self, parent: str) -> list[Link]:
        """The macvlans and ipvlans on a device of the host's, wherever they are."""
        links = (resource for resource in self.state.values() if isinstance(resource, Link))
        return [link for link in links if isinstance(link.spec, MacvlanSpec | IpvlanSpec) and link.spec.parent == parent]

    def _sysctl(self, netns: str, path: str) -> str | None:
        found = self.state.get(Key("sysctl", netns, (path,)))
        return found.value if isinstance(found, Sysctl) else None

    # links

    def check_new_link(self, link: Link) -> None:
        if link.key in self.state:
            raise Refused("File exists")
        match link.spec:
            case VxlanSpec() as spec:
                self._check_vxlan(link, spec)
            case VethSpec() as spec:
                if spec.peer_netns not in self.containers:
                    raise Refused(f"{spec.peer_netns} is not running")
                if Key("link", spec.peer_netns, (spec.peer_ifname,)) in self.state:
                    raise Refused("File exists")
            case NicSpec(device=device):
                if self.link(HOST, device).kind == "bridge":
                    raise Refused("Invalid argument (The interface netns is immutable)")
            case VlanSpec() as spec:
                self._check_vlan(link, spec)
            case MacvlanSpec() | IpvlanSpec() as spec:
                self._check_on_parent(link, spec)
        if link.up:
            self._check_coming_up(link)

    def _check_vxlan(self, link: Link, spec: VxlanSpec) -> None:
        if spec.underlay:
            self.link(link.netns, spec.underlay)
        for other in self.all(Link, link.netns):
            if isinstance(other.spec, VxlanSpec) and _tunnel(other.spec) == _tunnel(spec):
                raise Refused("File exists (A VXLAN device with the specified VNI already exists)")

    def _check_vlan(self, link: Link, spec: VlanSpec) -> None:
        parent = self.link(HOST, spec.parent)
        if any(other.spec == spec for other in self.all(Link, HOST)):
            raise Refused("File exists (VLAN device already exists)")
        if link.mtu_bytes > parent.mtu_bytes:
            raise Refused("Invalid argument")

    def _check_on_parent(self, link: Link, spec: MacvlanSpec | IpvlanSpec) -> None:
        """A device hands its packets to one taker: its bridge, its macvlans or its ipvlans (netdev_rx_handler_register)."""
        parent, others = self.link(HOST, spec.parent), self.above(spec.parent)
        if self._is_port(spec.parent) or any(type(other.spec) is not type(spec) for other in others):
            raise Refused("Device or resource busy")
        if isinstance(spec, MacvlanSpec):
            modes = [spec.mode, *(other.spec.mode for other in others if isinstance(other.spec, MacvlanSpec))]
            if others and "passthru" in modes:
                raise Refused("Invalid argument")
            if link.mtu_bytes > parent.mtu_bytes:
                raise Refused("Invalid argument")

    def _is_port(self, name: str) -> bool:
        return any(Key(kind, HOST, (name,)) in self.state for kind in ("port", "ovs-port"))

    def check_changed_link(self, before: Link, after: Link) -> None:
        match after.spec:
            case MacvlanSpec(parent=parent):
                if after.mtu_bytes != before.mtu_bytes and after.mtu_bytes > self.link(HOST, parent).mtu_bytes:
                    raise Refused("Invalid argument")
                if after.mac != before.mac:
                    self._check_mac(after)
            case VlanSpec(parent=parent):
                if after.mtu_bytes > self.link(HOST, parent).mtu_bytes:
                    raise Refused("Numerical result out of range")
            case IpvlanSpec():
                if after.mac != before.mac:
                    raise Refused("Operation not supported")
        if after.up and not before.up:
            self._check_coming_up(after)

    def _check_coming_up(self, link: Link) -> None:
        match link.spec:
            case VlanSpec(parent=parent) if not self.link(HOST, parent).up:
                raise Refused("Network is down")
            case MacvlanSpec():
                self._check_mac(link)

    def _check_mac(self, link: Link) -> None:
        """A macvlan's MAC is not its parent's, nor that of another one that is up (macvlan_addr_busy)."""
        assert isinstance(link.spec, MacvlanSpec)
        if link.spec.mode == "passthru":
            return
        taken = {self.link(HOST, link.spec.parent).mac}
        taken |= {other.mac for other in self.above(link.spec.parent) if other.up and other.key != link.key}
        if link.mac in taken:
            raise Refused("Address already in use")

    def check_going(self, link: Link) -> None:
        if isinstance(link.spec, NicSpec) and Key("link", HOST, (link.spec.device,)) in self.state:
            raise Refused("File exists")

    # all else

    def check_existing(self, after: Resource) -> None:
        present = self.state.get(after.key)
        match after:
            case Address():
                if isinstance(present, Address) and present.prefixlen != after.prefixlen:
                    raise Refused("File exists")
            case Route():
                routes = (*self.all(Route, after.netns), *self.kernel_routes(after.netns))
                if any(known_by(route) == known_by(after) for route in routes):
                    raise Refused("File exists")
            case NftElement():
                if isinstance(present, NftElement) and present.value != after.value:
                    raise Refused("File exists")
            case Shaper() | Redirect() if present:
                raise Refused("File exists")

    def check(self, after: Resource) -> None:
        match after:
            case Port():
                self._check_port(after)
            case Address():
                self._check_address(after)
            case Route():
                self._check_route(after)
            case Neighbour(address=other):
                if self.link(after.netns, after.link).mtu_bytes < IPV6_MIN_MTU and other.version == 6:
                    raise Refused("Invalid argument (IPv6 is disabled on this device)")
            case FdbEntry():
                if self.link(after.netns, after.link).kind != "vxlan":
                    raise Refused("Operation not supported")
            case Shaper():
                self.link(after.netns, after.link)
            case Redirect():
                self.link(after.netns, after.link)
                self.link(after.netns, after.to)
            case Sysctl():
                if after.key not in self.state:
                    raise Refused(f"{after.path} = {after.value}: no such file or directory")
            case NftElement():
                self._check_element(after)

    def _check_port(self, port: Port) -> None:
        member, bridge = self.link(port.netns, port.link), self.link(port.netns, port.bridge)
        if bridge.kind != "bridge":
            raise Refused("Operation not supported")
        if member.kind == "bridge":
            raise Refused("Too many levels of symbolic links (Can not enslave a bridge to a bridge)")
        if port.netns == HOST and (self.above(port.link) or Key("ovs-port", HOST, (port.link,)) in self.state):
            raise Refused("Device or resource busy")
        ports = sum(its.bridge == port.bridge and its.link != port.link for its in self.all(Port, port.netns))
        if ports >= BRIDGE_PORTS:
            raise Refused("Exchange full")

    def _check_address(self, address: Address) -> None:
        link = self.link(address.netns, address.link)
        if address.address.version == 6:
            if link.mtu_bytes < IPV6_MIN_MTU:
                raise Refused("No buffer space available")
            if self._sysctl(link.netns, f"net/ipv6/conf/{link.name}/disable_ipv6") == "1":
                raise Refused("Permission denied (IPv6 is disabled on this device)")

    def _check_route(self, route: Route) -> None:
        link = self.link(route.netns, route.link)
        if route.to.version == 6 and link.mtu_bytes < IPV6_MIN_MTU:
            raise Refused("No such device")
        if not link.up:
            raise Refused("Network is down (Nexthop device is not up)")
        onlink = route.is_parked or (route.details is not None and route.details.onlink)
        if route.via and not onlink and not self._reaches(route, route.via):
            words = ("Network is unreachable", "No route to host")[route.to.version == 6]
            raise Refused(f"{words} (Nexthop has invalid gateway)")
        if route.source and all(address.address != route.source for address in self.all(Address, route.netns)):
            raise Refused("Invalid argument (Invalid prefsrc address)")

    def _reaches(self, route: Route, via: IPAddress) -> bool:
        """Whether the next hop is in a subnet that the route's link is on."""
        if via.is_link_local:
            return True
        direct = (r for r in (*self.all(Route, route.netns), *self.kernel_routes(route.netns)) if r.via is None)
        return any(r.link == route.link and via in r.to for r in direct)

    def _check_element(self, element: NftElement) -> None:
        table = self.state.get(Key("nft-table", element.netns, (element.family, element.table)))
        sets = _sets(table.script) if isinstance(table, NftTable) else {}
        if element.set_name not in sets:
            raise Refused("No such file or directory")
        if "interval" not in sets[element.set_name]:
            return
        for other in self.all(NftElement, element.netns):
            if other.key != element.key and other.key.ident[:3] == element.key.ident[:3] and _overlap(element, other):
                raise Refused("conflicting intervals specified")


_RANGE = re.compile("([0-9]+)-([0-9]+)")


def known_by(route: Route) -> tuple[object, ...]:
    """What no two routes may have alike, unless one is appended."""
    metric = route.metric or (DEFAULT_METRIC_V6 if route.to.version == 6 else 0)
    return (route.to, metric, route.table, route.tos)


def _interface(address: Address) -> IPInterface:
    """The address, or the peer's, with its subnet."""
    kind = IPv4Interface if address.address.version == 4 else IPv6Interface
    peer = address.details.peer if address.details else None
    return kind((int(peer or address.address), address.prefixlen))


def _tunnel(spec: VxlanSpec) -> tuple[int, int, int]:
    return (spec.vni, spec.port, spec.local.version if spec.local else 4)


def _sets(script: str) -> dict[str, str]:
    """The sets that a table's script declares: name → what it says of them."""
    return {match[1]: match[2] for match in map(_SET.fullmatch, script.splitlines()) if match}


def _overlap(one: NftElement, other: NftElement) -> bool:
    """Whether two elements of an interval set have something in common: in their subnets or ranges, all else being equal."""
    return all(map(_meet, one.parts, other.parts))


def _meet(one: str, other: str) -> bool:
    ranges = [_RANGE.fullmatch(part) for part in (one, other)]
    if ranges[0] and ranges[1]:
        return int(ranges[0][1]) <= int(ranges[1][2]) and int(ranges[1][1]) <= int(ranges[0][2])
    if "/" not in one + other:
        return one == other
    mine, theirs = ip_network(one), ip_network(other)
    return mine.version == theirs.version and mine.overlaps(theirs)
