"""Whose is what was read: settled when both ends of each veth pair are known.

Invariant: the proof is on the host, where containers cannot write: a link in a container is ours if it is the peer of a
marked link of the host whose mark names this container and its namespace's cookie. An address or a route in it is ours if
it carries our protocol number and is on such a link. A mark inside a container proves nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ductwork.resources import HOST, Address, Key, Link, Neighbour, Owner, Port, Resource, Route, VethSpec

NOBODY = Owner("")
"""Carries our protocol number, but nobody claims it: a parked route whose attachment is gone."""


@dataclass(frozen=True, slots=True)
class ContainerReading:
    """What was read in one container's namespace."""

    cookie: int
    resources: list[Resource]


def settle(host: Iterable[Resource], containers: Mapping[str, ContainerReading]) -> dict[Key, Resource]:
    """Everything that was read, each thing with its proven owner."""
    state: dict[Key, Resource] = {}
    marked: dict[int, Link] = {}
    for resource in host:
        if isinstance(resource, Address | Route | Neighbour) and resource.owner == NOBODY:
            resource = replace(resource, owner=None)  # noqa: PLW2901
        state[resource.key] = resource
        if isinstance(resource, Link) and isinstance(resource.spec, VethSpec) and resource.owner:
            marked[resource.index] = resource
    peers: dict[int, Link] = {}
    for name, reading in containers.items():
        _settle_container(name, reading, marked, peers, state)
    for index, link in marked.items():
        assert link.owner
        if link.owner.container in containers:
            peer = peers.get(index)
            spec = VethSpec(link.owner.container, peer.name, peer.mac) if peer else VethSpec(link.owner.container, "")
            state[link.key] = replace(link, spec=spec)
    return state


def _settle_container(
    name: str, reading: ContainerReading, marked: Mapping[int, Link], peers: dict[int, Link], state: dict[Key, Resource]
) -> None:
    owners: dict[str, Owner] = {}
    defaults: dict[int, Owner] = {}
    parked: list[Route] = []
    for resource in reading.resources:
        settled = resource
        if isinstance(resource, Link):
            outer = marked.get(resource.peer_index) if resource.kind == "veth" else None
            if outer and outer.owner and _is_peer(outer, resource, name):
                settled = replace(resource, spec=VethSpec(HOST, outer.name))
                if outer.owner.cookie == reading.cookie:
                    owners[resource.name] = outer.owner
                    peers[outer.index] = resource
                    settled = replace(settled, owner=outer.owner)
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


def _is_peer(outer: Link, inner: Link, container: str) -> bool:
    assert outer.owner
    return outer.peer_index == inner.index and outer.owner.container == container
