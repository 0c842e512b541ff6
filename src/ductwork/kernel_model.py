"""What the kernel does besides what it is asked: a pure model, used by the planner and by the fake kernel.

Invariant: `KernelModel.do` changes a state as the kernel would; a differential test holds it against the real one
(tests/netns/test_kernel_model.py, Linux 6.18).

    veth's host end made    the other end is there, down; making that one is putting it up
    link deleted            its peer, ports, addresses, routes, neighbours, entries and own sysctls go; a port of Open vSwitch
                            is dead
    NIC lent to a container it is gone from the host, with all that was on it; it comes back down
    link taken down         its routes, neighbours and IPv6 addresses go; VLAN devices on it go down, and come up with it
    link's MTU below 1280   all that is IPv6 on it goes (addrconf_ifdown), its sysctls too
    disable_ipv6 set        its IPv6 addresses and routes go
    link's MAC changed      its neighbours go, permanent ones too (neigh_changeaddr); a passthru macvlan and its parent have
                            one MAC, so have all ipvlans and theirs
    link's MTU lowered      those of VLAN devices and macvlans on it are lowered too
    ipvlan made             all others on its parent take on its mode (ipvlan_set_port_mode)
    bridge's VLANs          a port that was told nothing is in VLAN 1; it has none where the bridge does not tell them apart
    IPv4 address deleted    the secondaries of its subnet go (promote_secondaries 0); with the last holder of an address, the
                            routes that have it as their source, on any link (fib_sync_down_addr); with the link's last
                            address, its IPv4 routes and neighbours (fib_disable_ip)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import IPv4Interface

from ductwork.resources import (
    HOST,
    Address,
    BridgeSpec,
    Create,
    Delete,
    IPAddress,
    IpvlanSpec,
    Key,
    Link,
    MacvlanSpec,
    Neighbour,
    NftTable,
    NicSpec,
    Operation,
    OvsBridge,
    OvsPort,
    Port,
    PortVlans,
    Resource,
    Route,
    State,
    Sysctl,
    Update,
    VethSpec,
    VlanSpec,
)

IPV6_MIN_MTU = 1280
"""RFC 8200, section 5: a link of less has no IPv6."""


class KernelModel:
    """A state that changes. `state` is a copy of what it was made from."""

    def __init__(self, state: State) -> None:
        self.state: dict[Key, Resource] = dict(state)
        self._dependents: dict[Key, set[Key]] = {}
        self._local: dict[tuple[str, IPAddress], set[Key]] = {}
        for resource in state.values():
            self._index(resource)

    def do(self, operation: Operation) -> None:
        match operation:
            case Create(Link() as link):
                self._create_link(link)
            case Create(after):
                self._put(after)
            case Delete(before):
                self._remove(before)
            case Update(before, after):
                self._update(before, after)
        if isinstance(operation.target, Sysctl) and not isinstance(operation, Delete):
            self._after_sysctl(operation.target)

    def dependents(self, key: Key) -> Iterable[Resource]:
        """What requires `key` and is there."""
        found = (self.state.get(dependent) for dependent in self._dependents.get(key, ()))
        return [resource for resource in found if resource is not None and key in resource.requires()]

    def _index(self, resource: Resource) -> None:
        key = resource.key
        for required in resource.requires():
            self._dependents.setdefault(required, set()).add(key)
        local = _local_address(resource)
        if local:
            self._local.setdefault((resource.netns, local), set()).add(resource.key)

    def _put(self, resource: Resource) -> None:
        if isinstance(resource, Address) and resource.address.version == 4:
            present = self.state.get(resource.key)
            secondary = present.secondary if isinstance(present, Address) else bool(self._same_subnet(resource))
            resource = replace(resource, secondary=secondary)
        if isinstance(resource, Port):
            bridge = self.state.get(Key("link", resource.netns, (resource.bridge,)))
            resource = _on_bridge(resource, bridge) if isinstance(bridge, Link) else resource
        self.state[resource.key] = resource
        self._index(resource)

    def _create_link(self, link: Link) -> None:
        present = self.state.get(link.key)
        match link.spec:
            case NicSpec(device=device):
                self._remove_key(Key("link", HOST, (device,)))
            case IpvlanSpec() as spec:
                link = self._on_parent(link, spec)
            case MacvlanSpec(mode="passthru", parent=parent):
                above = self.state.get(Key("link", HOST, (parent,)))
                link = replace(link, mac=above.mac) if isinstance(above, Link) else link
            case VethSpec() if link.absorbed_by and isinstance(present, Link):
                link = replace(present, up=present.up or link.up)
        self._put(link)
        if isinstance(link.spec, VethSpec) and not link.netns:
            self._put(_peer(link, link.spec))

    def _on_parent(self, link: Link, spec: IpvlanSpec) -> Link:
        parent = self.state.get(Key("link", HOST, (spec.parent,)))
        if not isinstance(parent, Link):
            return link
        for other in self.dependents(parent.key):
            if isinstance(other, Link) and isinstance(other.spec, IpvlanSpec):
                self._put(replace(other, spec=replace(other.spec, mode=spec.mode)))
        return replace(link, mac=parent.mac)

    def _remove(self, resource: Resource) -> None:
        removed = self.state.pop(resource.key, None)
        if removed is None:
            return
        if isinstance(removed, Link):
            self._remove_with_link(removed)
            if isinstance(removed.spec, NicSpec):
                self._put(replace(removed, netns=HOST, name=removed.spec.device, up=False, spec=None, owner=None))
        elif isinstance(removed, Address) and removed.address.version == 4:
            self._after_address(removed)
        elif isinstance(removed, NftTable):
            for element in self.dependents(removed.key):
                if element.key.ident[:2] == removed.key.ident:
                    self.state.pop(element.key)
        elif isinstance(removed, OvsBridge):
            for dependent in self.dependents(removed.key):
                self._remove(dependent)

    def _remove_with_link(self, link: Link) -> None:
        if link.absorbed_by:
            self._remove_key(link.absorbed_by)
        for dependent in self.dependents(link.key):
            if isinstance(dependent, OvsPort):
                self.state[dependent.key] = replace(dependent, dead=True)
                continue
            self.state.pop(dependent.key, None)
            if isinstance(dependent, Link):
                self._remove_with_link(dependent)
            elif isinstance(dependent, Address) and not dependent.secondary:
                self._forget_source(dependent)  # fib_del_ifaddr passes over the secondaries of a dead device

    def _remove_key(self, key: Key) -> None:
        resource = self.state.get(key)
        if resource is not None:
            self._remove(resource)

    def _after_address(self, gone: Address) -> None:
        dying = [gone]
        if not gone.secondary:
            dying += self._same_subnet(gone)
        for address in dying:
            self.state.pop(address.key, None)
            self._forget_source(address)
        on_link = self.dependents(Key("link", gone.netns, (gone.link,)))
        if any(isinstance(r, Address) and r.address.version == 4 for r in on_link):
            return
        for resource in on_link:
            if (isinstance(resource, Route) and resource.to.version == 4) or (
                isinstance(resource, Neighbour) and resource.address.version == 4
            ):
                self.state.pop(resource.key)

    def _forget_source(self, gone: Address) -> None:
        """Routes cannot have a source that no link holds. (IPv6 ones lose their source instead; we give them none.)"""
        if gone.address.version == 6:
            return
        found = [self.state[key] for key in self._local.get((gone.netns, gone.address), ()) if key in self.state]
        using = [r for r in found if _local_address(r) == gone.address]
        if not any(isinstance(r, Address) for r in using):
            for route in using:
                self.state.pop(route.key)

    def _same_subnet(self, address: Address) -> list[Address]:
        subnet = IPv4Interface((int(address.address), address.prefixlen)).network
        neighbours = self.dependents(Key("link", address.netns, (address.link,)))
        return [
            other
            for other in neighbours
            if isinstance(other, Address)
            and other.prefixlen == address.prefixlen
            and other.address in subnet
            and other.key != address.key
        ]

    def _after_sysctl(self, sysctl: Sysctl) -> None:
        match sysctl.path.split("/"):
            case ["net", "ipv6", "conf", name, "disable_ipv6"] if sysctl.value == "1":
                for dependent in self.dependents(Key("link", sysctl.netns, (name,))):
                    if _dies_without_ipv6(dependent):
                        self.state.pop(dependent.key, None)

    def _update(self, before: Resource, after: Resource) -> None:
        if before.key != after.key:
            self.state.pop(before.key, None)
        self._put(after)
        if not isinstance(before, Link) or not isinstance(after, Link):
            return
        for dependent in self.dependents(after.key):
            if _dies_by(before, after, dependent):
                self.state.pop(dependent.key, None)
            elif isinstance(dependent, Port):
                self._put(dependent)
            elif isinstance(dependent, Link):
                follows = _following(before, after, dependent)
                if follows != dependent:
                    self._update(dependent, follows)
        if isinstance(after.spec, MacvlanSpec) and after.spec.mode == "passthru" and before.mac != after.mac:
            parent = self.state.get(Key("link", HOST, (after.spec.parent,)))
            if isinstance(parent, Link) and parent.mac != after.mac:
                self._update(parent, replace(parent, mac=after.mac))


def _dies_without_ipv6(resource: Resource) -> bool:
    match resource:
        case Address(address=own):
            return own.version == 6
        case Route(to=to):
            return to.version == 6
    return False


def _on_bridge(port: Port, bridge: Link) -> Port:
    """A port as its bridge has it."""
    vlans = (port.vlans or PortVlans()) if isinstance(bridge.spec, BridgeSpec) else None
    return port if vlans == port.vlans else replace(port, vlans=vlans)


def _following(before: Link, after: Link, above: Link) -> Link:
    """What a change of its parent makes of a link."""
    match above.spec:
        case VlanSpec():
            up = after.up if before.up != after.up else above.up
            return replace(above, up=up, mtu_bytes=min(above.mtu_bytes, after.mtu_bytes))
        case MacvlanSpec(mode=mode):
            mac = after.mac if mode == "passthru" else above.mac
            return replace(above, mac=mac, mtu_bytes=min(above.mtu_bytes, after.mtu_bytes))
        case IpvlanSpec():
            return replace(above, mac=after.mac)
    return above


def _local_address(resource: Resource) -> IPAddress | None:
    """The address that a resource holds, or that a route has as its source."""
    match resource:
        case Address(address=own):
            return own
        case Route(source=source):
            return source
    return None


def _peer(link: Link, spec: VethSpec) -> Link:
    """The other end, which cannot be born up."""
    back = VethSpec(link.netns, link.name)
    return replace(link, netns=spec.peer_netns, name=spec.peer_ifname, mac=spec.peer_mac, up=False, spec=back, index=0)


def _dies_by(before: Link, after: Link, dependent: Resource) -> bool:
    """Whether a change of its link costs a resource its life."""
    down = before.up and not after.up
    loses_v6 = after.mtu_bytes < IPV6_MIN_MTU <= before.mtu_bytes
    match dependent:
        case Address(address=own):
            return own.version == 6 and (down or loses_v6)
        case Route(to=to):
            return down or (loses_v6 and to.version == 6)
        case Neighbour(address=other):
            return down or before.mac != after.mac or (loses_v6 and other.version == 6)
        case Sysctl(path=path):
            return loses_v6 and path.startswith("net/ipv6/")
    return False


def predict(state: State, operations: Iterable[Operation]) -> Mapping[Key, Resource]:
    """The state after the operations."""
    model = KernelModel(state)
    for operation in operations:
        model.do(operation)
    return model.state
