"""What is read from the fake kernel (`fake.py`): as raw as from the real one.

Invariant: marks that lie on a link of the host prove whose it is; those inside containers are claims. `ownership.settle` has
the same to do with this as with what netlink tells.
"""

from __future__ import annotations

from dataclasses import replace

from ductwork.backends.fake_rules import Rules
from ductwork.resources import (
    HOST,
    KINDS,
    MAIN_TABLE,
    PROTOCOL,
    Address,
    AddressDetails,
    FdbEntry,
    IptablesRule,
    IpvlanSpec,
    Key,
    Link,
    MacvlanSpec,
    Neighbour,
    NftTable,
    NicSpec,
    OvsSpec,
    Owner,
    Port,
    Redirect,
    Resource,
    Route,
    RouteDetails,
    Shaper,
    Sysctl,
    VethSpec,
    VlanSpec,
)
from ductwork.resources.base import SHARED

_UNMARKED = Owner("")
_TOLD = ("accept_ra", "autoconf", "disable_ipv6")


def read(rules: Rules, netns: str, kinds: frozenset[type]) -> list[Resource]:
    """What a back end of these kinds reads."""
    owners = {link.name: link.owner for link in rules.all(Link, netns)} if netns == HOST else {}
    found = [_raw(r, rules, owners) for key, r in rules.state.items() if key.netns == netns and type(r) in kinds]
    if Route in kinds:
        found += rules.kernel_routes(netns)
    if netns != HOST:
        found = [r for r in found if not isinstance(r, Route) or r.table == MAIN_TABLE]
    if Link in kinds and netns != HOST:  # a container's links tell these along (IFLA_INET6_CONF)
        told = (r for r in rules.all(Sysctl, netns) if r.path.startswith("net/ipv6/") and r.path.endswith(_TOLD))
        found += [replace(sysctl, owner=None) for sysctl in told]
    found.sort(key=lambda resource: KINDS.index(type(resource)))  # as one dump after the other
    return found


def _raw(resource: Resource, rules: Rules, owners: dict[str, Owner | None]) -> Resource:
    match resource:
        case Link():
            return _raw_link(resource, rules)
        case Port() | Shaper() | FdbEntry():
            return replace(resource, owner=owners.get(resource.link))
        case Redirect(link=link, to=to):
            led = Key("link", HOST, (to,)) in rules.state
            return replace(resource, to=to if led else "", owner=owners.get(link))
        case Route():
            owner = _claimed(resource.link, owners) if resource.protocol == PROTOCOL else None
            return replace(resource, owner=owner, details=None if owner else resource.details or RouteDetails())
        case Address():
            owner = _claimed(resource.link, owners) if resource.owner else None
            return replace(resource, owner=owner, details=None if owner else resource.details or AddressDetails())
        case Neighbour():
            return replace(resource, owner=_claimed(resource.link, owners) if resource.owner else None)
        case NftTable():
            return replace(resource, script="", owner=SHARED)
        case IptablesRule():
            return replace(resource, owner=SHARED)
    return resource


def _claimed(link: str, owners: dict[str, Owner | None]) -> Owner:
    return owners.get(link) or _UNMARKED


def _raw_link(link: Link, rules: Rules) -> Link:
    is_host = link.netns == HOST
    match link.spec:
        case VethSpec() as spec:
            peer = rules.state.get(Key("link", spec.peer_netns, (spec.peer_ifname,)))
            owner = link.owner if is_host else None
            seen = VethSpec(owner.container, owner.interface) if owner else VethSpec("", "")
            peer_index = peer.index if isinstance(peer, Link) else link.peer_index
            return replace(link, owner=owner, spec=seen, peer_index=peer_index)
        case VlanSpec() | MacvlanSpec() | IpvlanSpec() as spec:
            parent = rules.link(HOST, spec.parent)
            named = spec if is_host else replace(spec, parent=f"#{parent.index}")
            owner = link.owner if is_host or link.is_born_inside else None
            return replace(link, owner=owner, spec=named, peer_index=parent.index)
        case NicSpec():
            is_marked = link.owner is not None and link.owner.device
            return link if is_marked else replace(link, owner=None, spec=None)
        case OvsSpec():
            return replace(link, kind="openvswitch", owner=None, spec=None)
    return link if is_host else replace(link, owner=None)
