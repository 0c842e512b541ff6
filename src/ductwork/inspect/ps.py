"""What ductwork has given to containers on this host."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ductwork.goals import Observation
from ductwork.resources import HOST, Address, Key, Link, Port, VethSpec


@dataclass(frozen=True, slots=True)
class Row:
    """One interface of one container; the fields are `ps --json`'s (contract, section 3)."""

    container: str
    runtime: str
    mode: str
    interface: str
    ifindex: int
    host_interface: str
    bridge: str
    parent: str
    vlan: int | None
    mac: str
    addresses: tuple[str, ...]
    network: str


def rows(observation: Observation, modes: dict[str, tuple[str, str]]) -> Iterator[Row]:
    """`modes`: container → (runtime, mode) as its runtime tells."""
    addresses: dict[Key, list[str]] = {}
    for resource in observation.state.values():
        if isinstance(resource, Address):
            link = Key("link", resource.netns, (resource.link,))
            addresses.setdefault(link, []).append(f"{resource.address}/{resource.prefixlen}")
    for outer in observation.state.values():
        if not (isinstance(outer, Link) and outer.netns == HOST and isinstance(outer.spec, VethSpec) and outer.owner):
            continue
        inner = observation.state.get(Key("link", outer.owner.container, (outer.spec.peer_ifname,)))
        port = observation.state.get(Key("port", HOST, (outer.name,)))
        runtime, mode = modes.get(outer.owner.container, (outer.owner.container.partition(":")[0], ""))
        yield Row(
            container=outer.owner.container,
            runtime=runtime,
            mode=mode,
            interface=outer.owner.interface,
            ifindex=inner.index if isinstance(inner, Link) else 0,
            host_interface=outer.name,
            bridge=port.bridge if isinstance(port, Port) else "",
            parent="",
            vlan=None,
            mac=inner.mac if isinstance(inner, Link) else "",
            addresses=tuple(addresses.get(inner.key, ())) if isinstance(inner, Link) else (),
            network=outer.owner.network,
        )
