"""A NIC becomes its bridge's port: what the host has on it moves to the bridge, and back when the bridge goes.

Invariant: pure and symmetric. While a bridge has taken a NIC over, foreign addresses and routes of either belong on the
bridge, else on the NIC; the bridge's mark names its NIC, so that going back needs no journal. Addresses are made where they
belong before they go from where they were, and routes are replaced in between, so that there is a way at every moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from ductwork.drivers import Facts
from ductwork.resources import HOST, Address, Key, Link, OvsPort, Port, Resource, Route, State, Sysctl, Update
from ductwork.resources.route import KERNEL_PROTOCOL
from ductwork.services.uplink import no_ipv6_path

OnLink = TypeVar("OnLink", Address, Route)


@dataclass(frozen=True, slots=True)
class Relocation:
    """`arriving`: addresses on the links that they move to. `routes`: each with what it becomes. `leaving`: addresses on the
    links that they move from, which go last. `sources`: those links."""

    arriving: tuple[Address, ...] = ()
    routes: tuple[Update, ...] = ()
    leaving: tuple[Address, ...] = ()
    sources: frozenset[str] = field(default_factory=frozenset)


def uplinks(state: Iterable[Resource]) -> dict[str, str]:
    """NIC → the bridge that has taken it over, by the ports of ours that are uplinks."""
    return {port.link: port.bridge for port in state if isinstance(port, Port | OvsPort) and not port.netns and port.is_uplink}


def moves(desired: State, observed: State, deletions: set[Key]) -> dict[str, str]:
    """Link → the link that what is on it belongs on."""
    wanted = uplinks(desired.values())
    present = uplinks(observed.values())
    found = dict(wanted)
    for nic, bridge in present.items():
        kept = not deletions & {Key("port", HOST, (nic,)), Key("ovs-port", HOST, (nic,)), Key("link", HOST, (bridge,))}
        if nic in wanted:
            if wanted[nic] != bridge:
                found[bridge] = wanted[nic]
        elif not kept:
            found[bridge] = nic
    return found


def relocate(moved: Mapping[str, str], observed: State) -> Relocation:
    """What is where it does not belong. Ours stays: it goes with its link, or is desired elsewhere."""
    if not moved:
        return Relocation()
    here = [r for r in observed.values() if isinstance(r, Address | Route) and not r.netns and not r.owner and r.link in moved]
    leaving = [r for r in here if isinstance(r, Address)]
    made = {(address.link, address.subnet) for address in leaving if address.makes_prefix_route}
    routes = [r for r in here if isinstance(r, Route) and not (_is_kernels(r) and (r.link, r.to) in made)]
    return Relocation(
        tuple(replace(address, link=moved[address.link]) for address in leaving),
        tuple(Update(route, replace(route, link=moved[route.link])) for route in routes),
        tuple(leaving),
        frozenset(moved),
    )


def is_taken_last(resource: Resource, sources: frozenset[str]) -> bool:
    """Whether a change of it would take addresses from a link before they are elsewhere: a NIC that has become a port is to
    have no IPv6 of its own, not even a link-local address."""
    return isinstance(resource, Sysctl) and resource.value == "1" and resource.path in map(no_ipv6_path, sources)


def facts_after(known: Facts, wanted: Mapping[str, str], given_up: Mapping[str, str]) -> Facts:
    """What drivers are to know: the host as it will be. `wanted`: NIC → the bridge that it is to be a port of; `given_up`:
    bridge → the NIC that it gives back."""
    moved = {**wanted, **{bridge: wanted.get(nic, nic) for bridge, nic in given_up.items()}}
    if not moved:
        return known
    links = dict(known.links)
    for nic, bridge in wanted.items():
        if bridge not in links and nic in links:
            links[bridge] = Link(HOST, bridge, "bridge", links[nic].mac, links[nic].mtu_bytes)
    # A NIC that goes from one bridge of ours to another is nobody's port as far as the other's driver is concerned.
    links.update({nic: replace(links[nic], master_index=0) for nic in given_up.values() if nic in wanted and nic in links})
    sysctls = dict(known.sysctls)
    for path, value in known.sysctls.items():
        device = path.split("/")[3] if path.startswith("net/") and path.count("/") == 4 else ""
        if device in moved:
            sysctls.setdefault(path.replace(f"/{device}/", f"/{moved[device]}/"), value)
    return replace(
        known,
        links=links,
        addresses=tuple(_relocated(address, moved) for address in known.addresses),
        routes=tuple(_relocated(route, moved) for route in known.routes),
        sysctls=sysctls,
        moved=wanted,
        taken={nic: bridge for nic, bridge in known.taken.items() if bridge not in given_up},
    )


def _relocated(resource: OnLink, moved: Mapping[str, str]) -> OnLink:
    """A route that cannot be carried stays, for the driver to see."""
    stays = isinstance(resource, Route) and not resource.carried
    return resource if stays or resource.owner or resource.link not in moved else replace(resource, link=moved[resource.link])


def _is_kernels(route: Route) -> bool:
    return route.protocol == KERNEL_PROTOCOL and route.via is None
