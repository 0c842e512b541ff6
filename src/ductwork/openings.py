"""What published ports need of a host besides their elements: that nobody else holds them, and that what was translated
before is looked up anew.

Invariant: looks before anything is touched; forgets connections when the change has been made, which is neither verified nor
undone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from ductwork.errors import ConflictError
from ductwork.resources import Create, Delete, Key, NftElement, Operation, Update
from ductwork.services import ports
from ductwork.services.ports import MAPS

_NAMED = 3


class Traffic(Protocol):
    """The host's own listeners, and the connections that pass through it."""

    def holders(self, elements: Sequence[NftElement]) -> dict[tuple[Key, int], str]:
        """Of ports that are about to be published, those that somebody listens on → who that is."""

    def forget(self, gone: Sequence[NftElement], made: Sequence[NftElement]) -> None:
        """Connections by ports that led elsewhere; datagrams that came for ports before they led anywhere."""


def refuse_held(operations: Iterable[Operation], traffic: Traffic) -> None:
    """Errors: `ConflictError`, with who holds a port."""
    new = [o.after for o in operations if isinstance(o, Create) and is_port(o.after)]
    held = traffic.holders([e for e in new if isinstance(e, NftElement)]) if new else {}
    if not held:
        return
    told = list(dict.fromkeys(f"port {called(key, port)} of this host is held by {who}" for (key, port), who in held.items()))
    more = f"; and {len(told) - _NAMED} more" if len(told) > _NAMED else ""
    hint = "choose another port for `listen`, or end what holds it"
    raise ConflictError("; ".join(told[:_NAMED]) + more + ": nothing was touched", hint)


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


def is_port(resource: object) -> bool:
    return isinstance(resource, NftElement) and resource.set_name in MAPS


def called(key: Key, port: int | None = None) -> str:
    """`8088/tcp`, or `192.0.2.1 8088/tcp`; `port`: which one is meant of a range."""
    *address, protocol, ports = map(str, key.ident[3:])
    return " ".join((*address, f"{port or ports}/{protocol}"))


def port_in_the_way(found: NftElement) -> str:
    """What is said of a port that leads elsewhere already."""
    whose = f"{found.owner.origin} {found.owner.site}, network {found.owner.network}" if found.owner else "nobody of ductwork's"
    return f"port {called(found.key)} leads to {found.value.replace(' . ', ' ')} already, and belongs to {whose}"


def translated(operations: Iterable[Operation]) -> Iterator[str]:
    """A note for each network of which connections to published ports will be this host's own."""
    made = (o.after for o in operations if isinstance(o, Create) and isinstance(o.after, NftElement))
    networks = dict.fromkeys(e.owner.network for e in made if e.set_name in ports.MASQUERADED and e.owner)
    for network in networks:
        yield (
            f"ports of network {network}: replies would not come back through this host, so its containers see this host's "
            "address as the client's"
        )
