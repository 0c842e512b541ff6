"""Whether anybody else has the addresses that a plan is about to give: asked on the wire before anything is touched.

Invariant: an address that nobody of ours had before is asked for, and waited for; one that the same attachment had before,
with the same MAC on the same wire, is given at once, announced and watched. What the wire cannot tell, the addresses of the
host and of ours on the same parent (which a parent and its macvlans never ask each other), is compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from ductwork.errors import AddressInUseError, ApplyError
from ductwork.goals import Vigilance
from ductwork.planner import Plan
from ductwork.relocation import uplinks
from ductwork.resources import (
    HOST,
    Address,
    Create,
    Delete,
    IpvlanSpec,
    Key,
    Link,
    MacvlanSpec,
    Probe,
    Resource,
    State,
    VlanSpec,
)

WINDOW_SECONDS = 0.2


class Watch(Protocol):
    """Hears from its making on (`backends/dad.py`)."""

    def start(self, probes: Iterable[Probe], held: bool = False, seconds: float = WINDOW_SECONDS) -> None: ...
    def conflicts(self, deadline: float) -> Mapping[Probe, str]: ...
    def unplugged(self) -> list[str]: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Wires:
    """What is behind the host's links. A wire is (NIC, VLAN), whether a bridge has taken the NIC over or not. `nics`: bridge →
    NIC."""

    state: State
    nics: Mapping[str, str]

    @classmethod
    def of(cls, state: State) -> Wires:
        return cls(state, {bridge: nic for nic, bridge in uplinks(state.values()).items()})

    def behind(self, link: str, vlan: int = 0) -> tuple[str, int]:
        device = None if vlan else self.state.get(Key("link", HOST, (link,)))
        if isinstance(device, Link) and isinstance(device.spec, VlanSpec):
            link, vlan = device.spec.parent, device.spec.vid
        return self.nics.get(link, link), vlan

    def known_as(self, probe: Probe) -> Probe:
        """As it is remembered, and recognised later."""
        nic, vlan = self.behind(probe.link, probe.vlan)
        return replace(probe, link=nic, vlan=vlan)


def in_use(given: Iterable[Resource], state: State) -> Iterator[tuple[Address, Probe]]:
    """Of what was given, and is there now: the addresses that others could have too, each as it is to be remembered."""
    wires, macs = Wires.of(state), _macs(link for link in state.values() if isinstance(link, Link))
    for address in given:
        if isinstance(address, Address) and address.probe and address.key in state:
            yield address, wires.known_as(_probe(address, macs))


class Lookout:
    """One change's look at the wire. `open_watch`: links → a watch on them."""

    def __init__(self, open_watch: Callable[[Sequence[str]], Watch]) -> None:
        self._open = open_watch
        self._watch: Watch | None = None

    def ask(self, found: Plan, state: State, vigilance: Vigilance) -> None:
        """Ask for all addresses of the plan at the same time. Errors: `AddressInUseError`: nothing was touched."""
        wanted = [o.after for o in found.operations if isinstance(o, Create) and isinstance(o.after, Address) and o.after.probe]
        if not wanted:
            return
        wires, macs = Wires.of(state), _macs(_links(found, state))
        gone = {o.target.key for o in found.operations if isinstance(o, Delete)}
        _refuse_the_hosts_own(wanted, state)
        _refuse_our_own(wanted, wires, gone)
        if not vigilance.enabled:
            return
        remade = {o.target.key for o in found.operations if isinstance(o, Create | Delete)}
        asked = {_audible(_probe(address, macs), wires, remade): address for address in wanted}
        known = [probe for probe, address in asked.items() if (address.key, wires.known_as(probe)) in vigilance.known]
        new = [probe for probe in asked if probe not in known]
        self._watch = self._open(list(dict.fromkeys(probe.link for probe in asked)))
        deadline = time.monotonic() + WINDOW_SECONDS
        self._watch.start(new)
        self._watch.start(known, held=True)
        if new:
            taken = self._watch.conflicts(deadline)
            if taken:
                self.close()
                _refuse({asked[probe]: (probe, mac) for probe, mac in taken.items()})

    def report(self) -> list[str]:
        """What the addresses that were given at once have met in the meantime. All is done by now: a link that went away with
        the change is no reason to fail."""
        if self._watch is None:
            return []
        try:
            met = self._watch.conflicts(time.monotonic())
            deaf = self._watch.unplugged()
        except ApplyError as error:
            return [str(error)]
        finally:
            self.close()
        said = [f"{mac}, behind {probe.link}, has {probe.address} too, which is ours: find it" for probe, mac in met.items()]
        return said + [f"{link} has no carrier: nobody could be asked whether our addresses are free" for link in deaf]

    def close(self) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None


def _links(found: Plan, state: State) -> Iterable[Link]:
    yield from (resource for resource in state.values() if isinstance(resource, Link))
    yield from (o.target for o in found.operations if isinstance(o.target, Link))


def _macs(links: Iterable[Link]) -> dict[tuple[str, str], str]:
    return {(link.netns, link.name): link.mac for link in links}


def _probe(address: Address, macs: Mapping[tuple[str, str], str]) -> Probe:
    assert address.probe is not None
    link, vlan = address.probe
    return Probe(link, address.address, vlan, macs.get((address.netns, address.link), ""))


def _refuse_the_hosts_own(wanted: Sequence[Address], state: State) -> None:
    own = {r.address: r.link for r in state.values() if isinstance(r, Address) and r.netns == HOST}
    for address in wanted:
        if address.address in own and address.netns != HOST:
            message = f"{address.address}, for {address.netns}, is this host's own, on {own[address.address]}"
            raise AddressInUseError(f"{message}: nothing was touched", "give the container another address")


def _refuse_our_own(wanted: Sequence[Address], wires: Wires, gone: set[Key]) -> None:
    """What other containers have on the same parent, of any site. `gone`: what the plan deletes."""
    there = {(wire, r.address): r for wire, r in _on_parents(wires) if not gone & {r.key, *r.requires()}}
    for address in wanted:
        assert address.probe is not None
        other = there.get((wires.behind(*address.probe), address.address))
        if other is not None and other.key != address.key:
            whose = f"{other.netns} has it, on {other.link}" + (f", by site {other.owner.site}" if other.owner else "")
            message = f"{address.address}, for {address.netns or 'this host'}, is in use here: {whose}"
            raise AddressInUseError(f"{message}: nothing was touched", "choose another address for one of the two")


def _on_parents(wires: Wires) -> Iterator[tuple[tuple[str, int], Address]]:
    """(wire, address) of containers' macvlan and ipvlan interfaces."""
    for address in wires.state.values():
        if isinstance(address, Address) and address.netns != HOST:
            link = wires.state.get(address.requires()[0])
            if isinstance(link, Link) and isinstance(link.spec, MacvlanSpec | IpvlanSpec):
                yield wires.behind(link.spec.parent), address


def _audible(probe: Probe, wires: Wires, remade: set[Key]) -> Probe:
    """A bridge that is about to go, or to be another one of that name, would take the watch along: its NIC stays."""
    return wires.known_as(probe) if Key("link", HOST, (probe.link,)) in remade else probe


def _refuse(taken: Mapping[Address, tuple[Probe, str]]) -> None:
    said = [
        f"{address.address}, for {address.netns or 'this host'}, is in use by {mac}, behind {probe.link}"
        + (f", VLAN {probe.vlan}" if probe.vlan else "")
        for address, (probe, mac) in taken.items()
    ]
    listed = "; ".join(said[:4]) + (f"; and {len(said) - 4} more" if len(said) > 4 else "")
    raise AddressInUseError(
        f"{listed}: nothing was touched", "choose another address, or take that machine off it; --no-dad asks nobody"
    )
