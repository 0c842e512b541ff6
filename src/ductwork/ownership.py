"""Whose is what was read: settled when all of the host's links are known.

Invariant: the proof is on the host, where containers cannot write. A link in a container is ours if it is the peer of a marked
link of the host whose mark names this container and its namespace's cookie. One that was born there (macvlan, ipvlan) is
ours if its mark names them and the device that it is on is the host's. A mark inside a container proves nothing else, but for
a NIC that was the host's: its mark is all there is, and it proves that much only that a container which forges one can have
a link of its own taken away. An address or a route in a container is ours if it carries our protocol number and is on a
link of ours; a route of the host's to such an address is whose the address is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from ductwork.resources import (
    HOST,
    Address,
    IpvlanSpec,
    Key,
    Link,
    MacvlanSpec,
    Neighbour,
    NicSpec,
    OvsDeaf,
    OvsGuard,
    OvsSpec,
    Owner,
    Port,
    Resource,
    Route,
    VethSpec,
    VlanSpec,
)

NOBODY = Owner("")
"""Carries our protocol number, but nobody claims it: a parked route whose attachment is gone."""


@dataclass(frozen=True, slots=True)
class ContainerReading:
    """What was read in one container's namespace."""

    cookie: int
    resources: list[Resource]


@dataclass(frozen=True, slots=True)
class _HostLinks:
    """`names`: index → name. `marked`: index → the host's ends of pairs of ours. `peers`: the same index → the other end."""

    names: dict[int, str] = field(default_factory=dict)
    marked: dict[int, Link] = field(default_factory=dict)
    peers: dict[int, Link] = field(default_factory=dict)


def settle(host: Iterable[Resource], containers: Mapping[str, ContainerReading]) -> dict[Key, Resource]:
    """Everything that was read, each thing with its proven owner."""
    state: dict[Key, Resource] = {}
    links = _settle_host(host, state)
    for name, reading in containers.items():
        _settle_container(name, reading, links, state)
    for index, link in links.marked.items():
        assert link.owner
        if link.owner.container in containers:
            peer = links.peers.get(index)
            spec = VethSpec(link.owner.container, peer.name, peer.mac) if peer else VethSpec(link.owner.container, "")
            state[link.key] = replace(link, spec=spec)
    _settle_ways(state)
    return state


def _settle_host(host: Iterable[Resource], state: dict[Key, Resource]) -> _HostLinks:
    links = _HostLinks()
    switches: list[Resource] = []
    guards: list[OvsGuard | OvsDeaf] = []
    unclaimed: list[Address | Route | Neighbour] = []
    for resource in host:
        key = resource.key
        state[key] = resource
        if isinstance(resource, Link):
            links.names[resource.index] = resource.name
            if isinstance(resource.spec, VethSpec) and resource.owner:
                links.marked[resource.index] = resource
        elif isinstance(resource, Address | Route | Neighbour) and resource.owner == NOBODY:
            unclaimed.append(resource)
        elif key.kind == "ovs-bridge":
            switches.append(resource)
        elif isinstance(resource, OvsGuard | OvsDeaf):
            guards.append(resource)
    for bridge in [r for r in state.values() if isinstance(r, Link) and r.kind == "bridge" and r.owner]:
        _settle_uplink(bridge, state)
    owners = {name: owner for switch in switches for name, owner in _settle_device(switch, state)}
    for resource in unclaimed:
        state[resource.key] = replace(resource, owner=owners.get(resource.link))
    for guard in guards:
        kind = "ovs-bridge" if isinstance(guard, OvsGuard) and guard.is_of_bridge else "ovs-port"
        holder = state.get(Key(kind, HOST, (guard.link,)))
        state[guard.key] = replace(guard, owner=holder.owner if holder and holder.owner else NOBODY)
    return links


def _settle_uplink(bridge: Link, state: dict[Key, Resource]) -> None:
    """The port of the NIC that the bridge's mark names is the bridge's owner's."""
    assert bridge.owner
    if bridge.owner.container or not bridge.owner.interface:
        return
    port = state.get(Key("port", HOST, (bridge.owner.interface,)))
    if isinstance(port, Port) and port.bridge == bridge.name and port.owner is None:
        state[port.key] = replace(port, owner=bridge.owner)


def _settle_device(switch: Resource, state: dict[Key, Resource]) -> Iterable[tuple[str, Owner]]:
    """An Open vSwitch bridge's own device is its owner's, whatever the data path makes of it."""
    name = str(switch.key.ident[0])
    device = state.get(Key("link", HOST, (name,)))
    if isinstance(device, Link):
        state[device.key] = replace(device, kind="ovs", spec=OvsSpec(), owner=switch.owner)
    return [(name, switch.owner)] if switch.owner else []


def _settle_ways(state: dict[Key, Resource]) -> None:
    """A way of the host's to one container of a network (`host_access`) is that attachment's: it goes with it."""
    ways = [r for r in state.values() if isinstance(r, Route) and r.netns == HOST and r.owner and r.is_to_one]
    if not ways:
        return
    inside = [r for r in state.values() if isinstance(r, Address) and r.netns != HOST and r.owner]
    holders = {(r.owner.site, r.owner.network, r.address): r.owner for r in inside if r.owner}
    for way in ways:
        assert way.owner
        owner = holders.get((way.owner.site, way.owner.network, way.to.network_address), way.owner)
        state[way.key] = replace(way, owner=owner)


def _settle_container(name: str, reading: ContainerReading, links: _HostLinks, state: dict[Key, Resource]) -> None:
    owners: dict[str, Owner] = {}
    defaults: dict[int, Owner] = {}
    parked: list[Route] = []
    for resource in reading.resources:
        settled = resource
        if isinstance(resource, Link):
            settled = _settle_link(name, reading.cookie, resource, links)
            if settled.owner:
                owners[settled.name] = settled.owner
        elif isinstance(resource, Address | Route | Port) and resource.owner is not None:
            if isinstance(resource, Route) and resource.is_parked:
                parked.append(resource)
                continue
            settled = replace(resource, owner=owners.get(resource.link))
            if isinstance(settled, Route) and settled.is_default and settled.owner:
                defaults[settled.to.version] = settled.owner
        state[settled.key] = settled
    for route in parked:
        state[route.key] = replace(route, owner=defaults.get(route.to.version, NOBODY))


def _settle_link(container: str, cookie: int, link: Link, links: _HostLinks) -> Link:
    outer = links.marked.get(link.peer_index) if link.kind == "veth" else None
    if outer and outer.owner and _is_peer(outer, link, container):
        is_same = outer.owner.cookie == cookie
        if is_same:
            links.peers[outer.index] = link
        return replace(link, spec=VethSpec(HOST, outer.name), owner=outer.owner if is_same else None)
    match link.spec:
        case MacvlanSpec(parent=parent) | IpvlanSpec(parent=parent) | VlanSpec(parent=parent):
            owner = _proven(link.owner, container, cookie) if parent else None
            named = links.names.get(int(parent[1:]), parent) if parent.startswith("#") else parent
            return replace(link, spec=replace(link.spec, parent=named), owner=owner)
        case NicSpec():
            return replace(link, owner=_proven(link.owner, container, cookie))
    return link


def _proven(claimed: Owner | None, container: str, cookie: int) -> Owner | None:
    """A mark that names the container and the very namespace that it is in."""
    return claimed if claimed and (claimed.container, claimed.cookie) == (container, cookie) else None


def _is_peer(outer: Link, inner: Link, container: str) -> bool:
    assert outer.owner
    return outer.peer_index == inner.index and outer.owner.container == container
