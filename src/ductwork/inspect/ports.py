"""What is published on this host, by whom, and whether it leads anywhere now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ductwork.requests import PortRow
from ductwork.resources import Address, Key, Link, NftElement, State
from ductwork.services import ports
from ductwork.site.model import PublishedPort


def rows(published: Iterable[tuple[str, PublishedPort]], state: State) -> Iterator[PortRow]:
    """`published`: (site, port), as it is remembered. What the kernel has besides is told by its marks."""
    there = {key: r for key, r in state.items() if isinstance(r, NftElement) and r.set_name in ports.MAPS}
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
            state="published" if found else "waiting",
            addresses=tuple(dict.fromkeys(element.value.partition(" . ")[0] for element in found)),
            connections=sum(element.packets for element in found),
        )
    yield from _others(there.values(), state)


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
