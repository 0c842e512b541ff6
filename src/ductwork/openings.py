"""What published ports need of a host besides their elements: that nobody else holds them, and that what was translated
before is looked up anew.

Invariant: looks before anything is touched; forgets connections when the change has been made, which is neither verified nor
undone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from ipaddress import ip_network
from typing import Protocol

from ductwork.errors import ConflictError
from ductwork.resources import (
    HOST,
    Address,
    Create,
    Delete,
    Key,
    Link,
    NftElement,
    Operation,
    Resource,
    State,
    Update,
    VxlanSpec,
)
from ductwork.services import ports
from ductwork.services.ports import is_port

_NAMED = 3


class Traffic(Protocol):
    """The host's own listeners, and the connections that pass through it."""

    def holders(self, elements: Sequence[NftElement]) -> dict[tuple[Key, int], str]:
        """Of ports that are about to be published, those that somebody listens on → who that is."""

    def at_loopback(self, wanted: Callable[[str, int], bool]) -> dict[tuple[str, int], str]:
        """(protocol, port) → who takes what comes to ::1, of the ports that are wanted; "": the agent's relay."""

    def forget(self, gone: Sequence[NftElement], made: Sequence[NftElement]) -> None:
        """Connections by ports that led elsewhere; datagrams that came for ports before they led anywhere."""


def refuse_held(operations: Sequence[Operation], observed: State, traffic: Traffic) -> None:
    """Errors: `ConflictError`, with who holds a port."""
    _refuse_tunnels(operations, observed)
    new = [o.after for o in operations if isinstance(o, Create) and is_port(o.after)]
    if not new:
        return
    _refuse_overlapping(new, operations, observed)
    leaving = _leaving_tunnels(operations, observed)
    held = {at: who for at, who in traffic.holders(new).items() if (at[1], who) not in leaving}
    if not held:
        return
    told = list(dict.fromkeys(f"port {called(key, port)} of this host is held by {who}" for (key, port), who in held.items()))
    more = f"; and {len(told) - _NAMED} more" if len(told) > _NAMED else ""
    hint = "choose another port for `listen`, or end what holds it"
    raise ConflictError("; ".join(told[:_NAMED]) + more + ": nothing was touched", hint)


def _refuse_overlapping(new: Sequence[NftElement], operations: Sequence[Operation], observed: State) -> None:
    """A range beside what stays: of what is in one map the kernel refuses the newcomer, of what is in two it takes either."""
    changed = {o.before.key for o in operations if isinstance(o, Delete | Update)}
    stays = (r for key, r in observed.items() if is_port(r) and key not in changed)
    entries = sorted(
        ((*_span(e), is_new, e) for its, is_new in ((new, True), (stays, False)) for e in its), key=lambda it: it[:4]
    )
    widest: dict[tuple[tuple[str, ...], bool], tuple[int, NftElement]] = {}
    for place, first, last, is_new, element in entries:
        end, other = widest.get((place, not is_new), (0, element))
        if first <= end:
            message = port_in_the_way(other if is_new else element)
            raise ConflictError(f"{message}: nothing was touched", "choose another port, or close that one")
        if last > widest.get((place, is_new), (0, element))[0]:
            widest[place, is_new] = (last, element)


def _span(port: NftElement) -> tuple[tuple[str, ...], int, int]:
    """(the family, the address if there is one, and the protocol; the first and the last port)"""
    *where, numbers = port.parts
    first, _, last = numbers.partition("-")
    return (port.set_name[-1], *where), int(first), int(last or first)


def _refuse_tunnels(operations: Sequence[Operation], observed: State) -> None:
    """What comes for a VXLAN tunnel would be translated before it reaches the tunnel's socket, which is not there yet, or, of
    a device that is down, not there at all."""
    made = [o.after for o in operations if isinstance(o, Create | Update)]
    new_tunnels, new_ports = _tunnels(made), _datagram_ports(made)
    if not (new_tunnels or new_ports):
        return
    changed = {o.before.key for o in operations if isinstance(o, Delete | Update)}
    stays = [resource for key, resource in observed.items() if key not in changed]
    taken = [(tunnel, port) for tunnel in new_tunnels for port in (*new_ports, *_datagram_ports(stays))]
    held = [(tunnel, port) for tunnel in _tunnels(stays) for port in new_ports] if new_ports else []
    for (number, tunnel), (first, last, port) in (*taken, *held):
        if first <= number <= last:
            here = f"port {number}/udp of this host"
            message = f"{here} is held by {tunnel_of([tunnel], number)}"
            if tunnel.key not in observed:
                message = f"{here}, which {tunnel_of([tunnel], number)} needs, is published by {_whose(port)}"
            raise ConflictError(f"{message}: nothing was touched", "publish another port, or give the network another `port`")


def _leaving_tunnels(operations: Sequence[Operation], observed: State) -> set[tuple[int, str]]:
    """(port, whose tunnel) of those that the same change removes, but where another one stays on the port."""
    gone = {o.before.key: o.before for o in operations if isinstance(o, Delete)}
    leaving = _tunnels(gone.values())
    stays = {number for number, _ in _tunnels(r for key, r in observed.items() if key not in gone)} if leaving else set()
    return {(number, tunnel_of([tunnel], number)) for number, tunnel in leaving if number not in stays}


def tunnel_of(resources: Iterable[Resource], port: int) -> str:
    """Whose VXLAN tunnel has a port, or ""."""
    for number, link in _tunnels(resources):
        if number == port:
            owner = link.owner
            return f"the tunnel {link.name}" + (f" of site {owner.site}, network {owner.network}" if owner else "")
    return ""


def _tunnels(resources: Iterable[Resource]) -> list[tuple[int, Link]]:
    return [(r.spec.port, r) for r in resources if isinstance(r, Link) and isinstance(r.spec, VxlanSpec)]


def _datagram_ports(resources: Iterable[Resource]) -> list[tuple[int, int, NftElement]]:
    found = []
    for resource in resources:
        if is_port(resource) and resource.parts[-2] == "udp":
            _, first, last = _span(resource)
            found.append((first, last, resource))
    return found


def forget_stale(operations: Iterable[Operation], traffic: Traffic, *, just_read: bool) -> None:
    """`just_read`: what is deleted was looked up a moment ago, so that its counter tells whether anybody came by it."""
    gone: list[NftElement] = []
    made: dict[NftElement, None] = {}
    for operation in operations:
        if is_port(operation.target):
            before = operation.before if isinstance(operation, Delete | Update) else None
            if isinstance(before, NftElement) and (before.packets or not just_read):
                gone.append(before)
            if isinstance(operation, Create | Update) and isinstance(operation.after, NftElement):
                made[operation.after] = None
    if gone or made:
        traffic.forget([element for element in gone if element not in made], list(made))


def called(key: Key, port: int | None = None) -> str:
    """`8088/tcp`, or `192.0.2.1 8088/tcp`; `port`: which one is meant of a range."""
    *address, protocol, ports = map(str, key.ident[3:])
    return " ".join((*address, f"{port or ports}/{protocol}"))


def port_in_the_way(found: NftElement) -> str:
    """What is said of a port that leads elsewhere already."""
    return f"port {called(found.key)} leads to {found.value.replace(' . ', ' ')} already, and belongs to {_whose(found)}"


def _whose(port: NftElement) -> str:
    owner = port.owner
    return f"{owner.origin} {owner.site}, network {owner.network}" if owner else "nobody of ductwork's"


def translated(operations: Iterable[Operation]) -> Iterator[str]:
    """A note for each network of which connections to published ports will be this host's own."""
    made = (o.after for o in operations if isinstance(o, Create) and isinstance(o.after, NftElement))
    networks = dict.fromkeys(e.owner.network for e in made if e.set_name in ports.MASQUERADED and e.owner)
    for network in networks:
        yield (
            f"ports of network {network}: replies would not come back through this host, so its containers see this host's "
            "address as the client's"
        )


def unanswered(desired: Iterable[Resource], observed: State) -> Iterator[str]:
    """A note for each subnet of a LAN that published ports lead to and the host has no address in. `observed`: all of it."""
    resources = list(desired)
    led = {(r.owner.network, r.set_name[-1]) for r in resources if is_port(r) and r.owner}
    held = [r for r in (*resources, *observed.values()) if isinstance(r, Address) and r.netns == HOST]
    for element in resources:
        if isinstance(element, NftElement) and element.set_name in ("behind4", "behind6") and element.owner:
            subnet, network = ip_network(element.parts[0]), element.owner.network
            if (network, element.set_name[-1]) in led and not any(a.address in subnet for a in held):
                way = "unless a route of the host's leads there"
                yield f"ports of network {network}: the host has no address in {subnet}, so they cannot answer, {way}"
