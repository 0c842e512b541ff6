"""What is published on this host, by whom, and whether it leads anywhere now."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator

from ductwork.requests import PortRow
from ductwork.resources import Address, Key, Link, NftElement, State
from ductwork.services import ports
from ductwork.site.model import PublishedPort

Relayed = Callable[[Callable[[str, int], bool]], Container[tuple[str, int]]]
"""(protocol, port) of what the agent relays at ::1, of the ports that are wanted."""


def rows(published: Iterable[tuple[str, PublishedPort]], state: State, relayed: Relayed) -> Iterator[PortRow]:
    """`published`: (site, port), as it is remembered. What the kernel has besides is told by its marks."""
    published = list(published)
    at_loopback = [port for _, port in published if port.address == ports.LOOPBACK6]
    by_relay = relayed(ports.covering(at_loopback)) if at_loopback else ()
    there = {key: r for key, r in state.items() if ports.is_port(r)}
    for site, port in published:
        found = [there.pop(key) for key in ports.keys(port) if key in there and _is_whose(there[key], site, port.origin)]
        last = port.to if port.to_one else port.to + port.last - port.first
        yield PortRow(
            listen=port.listen,
            protocol=port.protocol,
            container=port.container,
            port=str(port.to) if last == port.to else f"{port.to}-{last}",
            network=port.network,
            site=site,
            origin=port.origin,
            state="published" if found else _without_element(port, state, by_relay),
            addresses=tuple(dict.fromkeys(element.value.partition(" . ")[0] for element in found)),
            connections=sum(element.packets for element in found),
        )
    yield from _others(there.values(), state)


def _without_element(port: PublishedPort, state: State, by_relay: Container[tuple[str, int]]) -> str:
    """At ::1 it is the agent that answers, for a container that runs."""
    if port.address != ports.LOOPBACK6 or Key("link", port.container, (port.interface,)) not in state:
        return "waiting"
    served = all((port.protocol, number) in by_relay for number in range(port.first, port.last + 1))
    return "relayed" if served else "needs the agent"


def _is_whose(element: NftElement, site: str, origin: str) -> bool:
    return element.owner is not None and (element.owner.site, element.owner.origin) == (site, origin)


def _others(elements: Iterable[NftElement], state: State) -> Iterator[PortRow]:
    """Of which nothing is remembered."""
    holders: dict[str, str] = {}
    for resource in state.values():
        if isinstance(resource, Address) and resource.netns:
            link = state.get(Key("link", resource.netns, (resource.link,)))
            if isinstance(link, Link) and link.owner:
                holders[str(resource.address)] = link.owner.container
    for element in elements:
        *where, protocol, number = element.parts
        address, _, port = element.value.partition(" . ")
        host = f"[{where[0]}]:" if where and ":" in where[0] else f"{where[0]}:" if where else ""
        owner = element.owner
        yield PortRow(
            listen=f"{host}{number}",
            protocol=protocol,
            container=holders.get(address, ""),
            port=port or number,
            network=owner.network if owner else "",
            site=owner.site if owner else "",
            origin=owner.origin if owner else "",
            state="published",
            addresses=(address,),
            connections=element.packets,
        )
