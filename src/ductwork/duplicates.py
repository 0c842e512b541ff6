"""Whether anybody else has the addresses that a plan is about to give: asked on the wire before anything is touched.

Invariant: an address that nobody of ours had before is asked for, and waited for; one that the same attachment had before,
with the same MAC, is given at once, announced and watched. What the wire cannot tell, the host's own addresses (which a parent
and its macvlans never ask each other), is compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from ductwork.errors import AddressInUseError
from ductwork.goals import Vigilance
from ductwork.planner import Plan
from ductwork.resources import HOST, Address, Create, Link, Probe, State

WINDOW_SECONDS = 0.2


class Watch(Protocol):
    """Hears from its making on (`backends/dad.py`)."""

    def start(self, probes: Iterable[Probe], held: bool = False, seconds: float = WINDOW_SECONDS) -> None: ...
    def conflicts(self, deadline: float) -> Mapping[Probe, str]: ...
    def unplugged(self) -> list[str]: ...
    def close(self) -> None: ...


class Lookout:
    """One change's look at the wire. `open_watch`: links → a watch on them."""

    def __init__(self, open_watch: Callable[[Sequence[str]], Watch]) -> None:
        self._open = open_watch
        self._watch: Watch | None = None

    def ask(self, found: Plan, state: State, vigilance: Vigilance) -> None:
        """Ask for all addresses of the plan at the same time. Errors: `AddressInUseError`: nothing was touched."""
        macs = {(link.netns, link.name): link.mac for link in _links(found, state)}
        wanted = [o.after for o in found.operations if isinstance(o, Create) and isinstance(o.after, Address) and o.after.probe]
        if not wanted:
            return
        _refuse_the_hosts_own(wanted, state)
        if not vigilance.enabled:
            return
        asked = {_probe(address, macs): address for address in wanted}
        known = [probe for probe in asked if (probe.mac, probe.address) in vigilance.known]
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
        """What the addresses that were given at once have met in the meantime."""
        if self._watch is None:
            return []
        met = self._watch.conflicts(time.monotonic())
        deaf = self._watch.unplugged()
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
