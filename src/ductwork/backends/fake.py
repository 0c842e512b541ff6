"""A strict kernel in memory: one host with its containers, read and changed by the back ends' protocol.

Invariant: it refuses what the real kernel refuses, goes on past errors as a netlink send does, and drops what the kernel
drops (`kernel_model`); the contract suite (tests/netns/test_backend_contract.py) holds it against the real back ends.

Inside, every resource stands as it was made: both ends of a veth pair know each other, owners are what the marks say. What
`read` gives is as raw as what is read from the kernel, so that `ownership.settle` has the same to do.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from ipaddress import IPv4Interface, IPv6Interface, ip_network
from typing import TypeVar

from ductwork.kernel_model import IPV6_MIN_MTU, KernelModel
from ductwork.resources import (
    HOST,
    KINDS,
    PROTOCOL,
    Address,
    Create,
    Delete,
    FdbEntry,
    IPAddress,
    IPInterface,
    IptablesRule,
    Key,
    Link,
    Neighbour,
    NftElement,
    NftTable,
    Operation,
    Outcome,
    Owner,
    Port,
    Resource,
    Route,
    Sysctl,
    Update,
    VethSpec,
    VxlanSpec,
)
from ductwork.resources.base import SHARED
from ductwork.resources.route import KERNEL_PROTOCOL

T = TypeVar("T")

NETLINK_KINDS: frozenset[type] = frozenset({Link, Port, Address, Route, Neighbour, FdbEntry})
FILTER_KINDS: frozenset[type] = frozenset({NftTable, NftElement, IptablesRule})
BRIDGE_PORTS = 1023
HOST_COOKIE = 1

_UNMARKED = Owner("")
_LINK_SYSCTLS = {
    "net/ipv4/conf/{}/forwarding": "0",
    "net/ipv6/conf/{}/accept_ra": "1",
    "net/ipv6/conf/{}/autoconf": "1",
    "net/ipv6/conf/{}/disable_ipv6": "0",
    "net/ipv6/conf/{}/force_forwarding": "0",
}
_HOST_SYSCTLS = {"net/ipv6/conf/all/forwarding": "0", "net/ipv6/conf/all/force_forwarding": "0"}
_TOLD = ("accept_ra", "autoconf", "disable_ipv6")
_SET = re.compile(r"add (?:set|map) \S+ \S+ (\S+) \{ (.*) \}")


class Refused(Exception):
    """The kernel's words."""


class FakeKernel:
    """The state of all namespaces; also what visits them. `gate` is called as by the real back ends."""

    def __init__(self, gate: Callable[[str], None] = lambda _: None) -> None:
        self.gate = gate
        self.containers: dict[str, int] = {}
        self._model = KernelModel({})
        self._numbers = itertools.count(HOST_COOKIE + 1)
        self._here = HOST
        for path, value in _HOST_SYSCTLS.items():
            self._model.do(Create(Sysctl(HOST, path, value)))

    @property
    def state(self) -> dict[Key, Resource]:
        """All that there is, as it was made."""
        return self._model.state

    # containers

    def start(self, container: str) -> None:
        """A new namespace, with its loopback."""
        self.containers[container] = next(self._numbers)

    def stop(self, container: str) -> None:
        """The namespace goes, and with it the links in it and their other ends."""
        del self.containers[container]
        for key in [key for key in self.state if key.netns == container and key.kind == "link"]:
            if key in self.state:
                self._model.do(Delete(self.state[key]))
        for key in [key for key in self.state if key.netns == container]:
            del self.state[key]

    def open_netns(self, container: str) -> int:
        if container not in self.containers:
            raise OSError(2, f"{container} is not running")
        return self.containers[container]

    def cookie(self) -> int:
        return self.containers[self._here] if self._here else HOST_COOKIE

    def visit(self, places: Iterable[tuple[Callable[[], int], Callable[[], T]]]) -> list[T | Exception]:
        """As `netns.Visitor.visit`; descriptors are cookies here."""
        results: list[T | Exception] = []
        for open_netns, work in places:
            try:
                cookie = open_netns()
                self._here = next(name for name, its in self.containers.items() if its == cookie)
                results.append(work())
            except Exception as error:
                results.append(error)
            finally:
                self._here = HOST
        return results

    # back ends

    def links(self) -> FakeBackend:
        return FakeBackend(self, NETLINK_KINDS)

    def sysctls(self) -> FakeBackend:
        return FakeBackend(self, frozenset({Sysctl}))

    def filters(self) -> FakeBackend:
        return FakeBackend(self, FILTER_KINDS)

    def check_place(self, netns: str) -> None:
        """A thread sees the namespace that it is in, whatever name it gives it."""
        assert netns == self._here, f"{netns or 'the host'} was meant, and {self._here or 'the host'} would be met"

    # changing

    def do(self, operation: Operation) -> str:
        """Carry it out; the kernel's words where it refuses."""
        try:
            match operation:
                case Create(Link() as link):
                    self._create_link(link)
                case Create(after):
                    self._check(after)
                    self._refuse_existing(after)
                    self._model.do(operation)
                case Update(before, after):
                    self._update(before, after)
                case Delete(Sysctl()):
                    pass
                case Delete(before):
                    self._delete(before)
        except Refused as refused:
            return str(refused)
        return ""

    def undo_to(self, state: dict[Key, Resource]) -> None:
        """Back to a state as it was: a transaction has failed."""
        self._model = KernelModel(state)

    def _create_link(self, link: Link) -> None:
        present = self.state.get(link.key)
        if link.absorbed_by:
            if not present:
                raise Refused("No such device")
            self._model.do(Create(link))
            return
        if present:
            raise Refused("File exists")
        if isinstance(link.spec, VxlanSpec):
            self._check_vxlan(link, link.spec)
        if isinstance(link.spec, VethSpec):
            if link.spec.peer_netns not in self.containers:
                raise Refused(f"{link.spec.peer_netns} is not running")
            if Key("link", link.spec.peer_netns, (link.spec.peer_ifname,)) in self.state:
                raise Refused("File exists")
        self._model.do(Create(replace(link, index=next(self._numbers), peer_index=0, master_index=0)))
        self._put_sysctls(link)
        if isinstance(link.spec, VethSpec):
            peer = self._link(link.spec.peer_netns, link.spec.peer_ifname)
            self.state[peer.key] = replace(peer, index=next(self._numbers))
            self._put_sysctls(peer)

    def _put_sysctls(self, link: Link) -> None:
        for path, value in _LINK_SYSCTLS.items():
            sysctl = Sysctl(link.netns, path.format(link.name), value, link=link.name)
            if sysctl.key not in self.state and (link.mtu_bytes >= IPV6_MIN_MTU or not path.startswith("net/ipv6/")):
                self._model.do(Create(sysctl))

    def _check_vxlan(self, link: Link, spec: VxlanSpec) -> None:
        if spec.underlay:
            self._link(link.netns, spec.underlay)
        for other in self._all(Link, link.netns):
            theirs = other.spec
            if isinstance(theirs, VxlanSpec) and (theirs.vni, theirs.port, _family(theirs)) == (
                spec.vni,
                spec.port,
                _family(spec),
            ):
                raise Refused("File exists (A VXLAN device with the specified VNI already exists)")

    def _update(self, before: Resource, after: Resource) -> None:
        if isinstance(after, NftElement):  # one transaction's deletion and addition
            self._delete(before)
            self._check(after)
            self._model.do(Create(after))
            return
        present = self.state.get(after.key)
        if present is None and not isinstance(after, Route | Neighbour | FdbEntry | NftTable):
            raise Refused("No such device")
        self._check(after)
        if isinstance(after, Link) and isinstance(present, Link):
            if after.kind != "bridge":  # whose mark and VLANs are changed in place
                after = replace(after, spec=present.spec, owner=present.owner)
            after = replace(after, index=present.index)
            if after.mtu_bytes >= IPV6_MIN_MTU:
                self._put_sysctls(after)
        if isinstance(after, Sysctl) and isinstance(present, Sysctl):
            after = replace(after, link=present.link)
        self._model.do(Update(present, after) if present else Create(after))

    def _delete(self, before: Resource) -> None:
        """What is not there any more is gone, and a link of that name that was made since is another one."""
        present = self.state.get(before.key)
        if isinstance(before, Link) and isinstance(present, Link) and before.index not in (0, present.index):
            return
        if present is not None:
            self._model.do(Delete(present))

    def _refuse_existing(self, after: Resource) -> None:
        present = self.state.get(after.key)
        match after:
            case Address():
                if isinstance(present, Address) and present.prefixlen != after.prefixlen:
                    raise Refused("File exists")
            case Route():
                if present or any(route.key == after.key for route in self._kernel_routes(after.netns)):
                    raise Refused("File exists")
            case NftElement():
                if isinstance(present, NftElement) and present.value != after.value:
                    raise Refused("File exists")

    # what is refused

    def _check(self, after: Resource) -> None:
        match after:
            case Port():
                self._check_port(after)
            case Address():
                self._check_address(after)
            case Route():
                self._check_route(after)
            case Neighbour(address=other):
                if self._link(after.netns, after.link).mtu_bytes < IPV6_MIN_MTU and other.version == 6:
                    raise Refused("Invalid argument (IPv6 is disabled on this device)")
            case FdbEntry():
                if self._link(after.netns, after.link).kind != "vxlan":
                    raise Refused("Operation not supported")
            case Sysctl():
                if after.key not in self.state:
                    raise Refused(f"{after.path} = {after.value}: no such file or directory")
            case NftElement():
                self._check_element(after)

    def _check_port(self, port: Port) -> None:
        member, bridge = self._link(port.netns, port.link), self._link(port.netns, port.bridge)
        if bridge.kind != "bridge":
            raise Refused("Operation not supported")
        if member.kind == "bridge":
            raise Refused("Too many levels of symbolic links (Can not enslave a bridge to a bridge)")
        ports = sum(its.bridge == port.bridge and its.link != port.link for its in self._all(Port, port.netns))
        if ports >= BRIDGE_PORTS:
            raise Refused("Exchange full")

    def _check_address(self, address: Address) -> None:
        link = self._link(address.netns, address.link)
        if address.address.version == 6:
            if link.mtu_bytes < IPV6_MIN_MTU:
                raise Refused("No buffer space available")
            if self._sysctl(link.netns, f"net/ipv6/conf/{link.name}/disable_ipv6") == "1":
                raise Refused("Permission denied (IPv6 is disabled on this device)")

    def _check_route(self, route: Route) -> None:
        link = self._link(route.netns, route.link)
        if route.to.version == 6 and link.mtu_bytes < IPV6_MIN_MTU:
            raise Refused("No such device")
        if not link.up:
            raise Refused("Network is down (Nexthop device is not up)")
        if route.via and not route.is_parked and not self._reaches(route, route.via):
            words = ("Network is unreachable", "No route to host")[route.to.version == 6]
            raise Refused(f"{words} (Nexthop has invalid gateway)")
        if route.source and all(address.address != route.source for address in self._all(Address, route.netns)):
            raise Refused("Invalid argument (Invalid prefsrc address)")

    def _reaches(self, route: Route, via: IPAddress) -> bool:
        """Whether the next hop is in a subnet that the route's link is on."""
        if via.is_link_local:
            return True
        direct = (r for r in (*self._all(Route, route.netns), *self._kernel_routes(route.netns)) if r.via is None)
        return any(r.link == route.link and via in r.to for r in direct)

    def _check_element(self, element: NftElement) -> None:
        table = self.state.get(Key("nft-table", element.netns, (element.family, element.table)))
        sets = _sets(table.script) if isinstance(table, NftTable) else {}
        if element.set_name not in sets:
            raise Refused("No such file or directory")
        if "interval" not in sets[element.set_name]:
            return
        for other in self._all(NftElement, element.netns):
            if other.key != element.key and other.key.ident[:3] == element.key.ident[:3] and _overlap(element, other):
                raise Refused("conflicting intervals specified")

    # looking

    def _link(self, netns: str, name: str) -> Link:
        link = self.state.get(Key("link", netns, (name,)))
        if not isinstance(link, Link):
            raise Refused("No such device")
        return link

    def _sysctl(self, netns: str, path: str) -> str | None:
        found = self.state.get(Key("sysctl", netns, (path,)))
        return found.value if isinstance(found, Sysctl) else None

    def _all(self, kind: type[T], netns: str) -> Iterator[T]:
        return (resource for key, resource in self.state.items() if isinstance(resource, kind) and key.netns == netns)

    def _kernel_routes(self, netns: str) -> Iterator[Route]:
        """The subnets of the addresses of links that are up."""
        up = {link.name for link in self._all(Link, netns) if link.up}
        for address in self._all(Address, netns):
            subnet = _interface(address).network
            if address.link not in up or address.secondary or subnet.prefixlen == subnet.max_prefixlen:
                continue
            metric, source = (256, None) if subnet.version == 6 else (0, address.address)
            yield Route(netns, subnet, address.link, metric=metric, source=source, protocol=KERNEL_PROTOCOL)

    def read(self, netns: str, kinds: frozenset[type]) -> list[Resource]:
        """What a back end of these kinds reads, as raw as it reads it."""
        owners = {link.name: link.owner for link in self._all(Link, netns)} if netns == HOST else {}
        found = [_raw(r, owners) for key, r in self.state.items() if key.netns == netns and type(r) in kinds]
        if Route in kinds:
            found += self._kernel_routes(netns)
        if Link in kinds and netns != HOST:  # a container's links tell these along (IFLA_INET6_CONF)
            told = (r for r in self._all(Sysctl, netns) if r.path.startswith("net/ipv6/") and r.path.endswith(_TOLD))
            found += [replace(sysctl, owner=None) for sysctl in told]
        found.sort(key=lambda resource: KINDS.index(type(resource)))  # as one dump after the other
        return [self._with_indexes(r) if isinstance(r, Link) else r for r in found]

    def _with_indexes(self, raw: Link) -> Link:
        link = self._link(raw.netns, raw.name)
        if not isinstance(link.spec, VethSpec):
            return raw
        peer = self.state.get(Key("link", link.spec.peer_netns, (link.spec.peer_ifname,)))
        return replace(raw, peer_index=peer.index) if isinstance(peer, Link) else raw


class FakeBackend:
    """One of the fake kernel's back ends: reads and changes `kinds`. That of the packet filter is one transaction per call,
    as nft is."""

    def __init__(self, kernel: FakeKernel, kinds: frozenset[type]) -> None:
        self.kinds = kinds
        self._kernel = kernel
        self._is_transaction = kinds == FILTER_KINDS

    def read(self, netns: str, links: frozenset[str] | None) -> list[Resource]:
        self._kernel.check_place(netns)
        found = [] if Sysctl in self.kinds else self._kernel.read(netns, self.kinds)
        return found if links is None else [r for r in found if isinstance(r, Link | Port) and r.key.ident[0] in links]

    def look_up(self, elements: Iterable[NftElement]) -> list[NftElement]:
        found = (self._kernel.state.get(element.key) for element in elements)
        return [element for element in found if isinstance(element, NftElement)]

    def read_paths(self, paths: Iterable[str]) -> dict[str, str]:
        """The sysctls of the namespace that is being visited."""
        here = next((name for name, its in self._kernel.containers.items() if its == self._kernel.cookie()), HOST)
        keys = {path: Key("sysctl", here, (path,)) for path in paths}
        found = {path: self._kernel.state.get(key) for path, key in keys.items()}
        return {path: sysctl.value for path, sysctl in found.items() if isinstance(sysctl, Sysctl)}

    def apply(self, netns: str, operations: Sequence[Operation]) -> list[Outcome]:
        self._kernel.check_place(netns)
        assert all(type(operation.target) in self.kinds and operation.target.netns == netns for operation in operations)
        if self._is_transaction:
            return self._commit(operations)
        return [self._send([operation])[0] for operation in operations]

    def _send(self, operations: Sequence[Operation]) -> list[Outcome]:
        """Each send holds as little as can be, so that a test can die after every single one."""
        self._kernel.gate("before")
        outcomes = [Outcome(operation, self._kernel.do(operation)) for operation in operations]
        self._kernel.gate("after")
        return outcomes

    def _commit(self, operations: Sequence[Operation]) -> list[Outcome]:
        before = dict(self._kernel.state)
        outcomes = self._send(operations)
        error = next((outcome.error for outcome in outcomes if outcome.error), "")
        if not error:
            return outcomes
        self._kernel.undo_to(before)
        return [Outcome(operation, error) for operation in operations]

    def announce(self, netns: str, addresses: Sequence[Address]) -> None:
        """Nobody listens; but an address that is announced is there."""
        self._kernel.check_place(netns)
        assert all(address.key in self._kernel.state for address in addresses)


def _raw(resource: Resource, owners: dict[str, Owner | None]) -> Resource:
    """As it is read: marks that lie on a link prove whose it is; those inside containers do not."""
    match resource:
        case Link(spec=VethSpec()):
            owner = resource.owner if resource.netns == HOST else None
            spec = VethSpec(owner.container, owner.interface) if owner else VethSpec("", "")
            return replace(resource, owner=owner, spec=spec)
        case Link() if resource.netns != HOST:
            return replace(resource, owner=None)
        case Port() | FdbEntry():
            return replace(resource, owner=owners.get(resource.link))
        case Route():
            return replace(resource, owner=_claimed(resource.link, owners) if resource.protocol == PROTOCOL else None)
        case Address() | Neighbour():
            return replace(resource, owner=_claimed(resource.link, owners) if resource.owner else None)
        case NftTable():
            return replace(resource, script="", owner=SHARED)
        case IptablesRule():
            return replace(resource, owner=SHARED)
    return resource


def _claimed(link: str, owners: dict[str, Owner | None]) -> Owner:
    return owners.get(link) or _UNMARKED


def _interface(address: Address) -> IPInterface:
    kind = IPv4Interface if address.address.version == 4 else IPv6Interface
    return kind((int(address.address), address.prefixlen))


def _family(spec: VxlanSpec) -> int:
    return spec.local.version if spec.local else 4


def _sets(script: str) -> dict[str, str]:
    """The sets that a table's script declares: name → what it says of them."""
    return {match[1]: match[2] for match in map(_SET.fullmatch, script.splitlines()) if match}


def _overlap(one: NftElement, other: NftElement) -> bool:
    """Whether two elements of an interval set have something in common: in their subnets, all else being equal."""
    mine, theirs = ip_network(one.parts[0]), ip_network(other.parts[0])
    return one.parts[1:] == other.parts[1:] and mine.version == theirs.version and mine.overlaps(theirs)
