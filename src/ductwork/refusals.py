"""Why nothing is touched: what is in the way or is not there, and containers that cannot be attached; and what is said beside
what is done.

Invariant: changes nothing, and but for `refuse_impossible` and `warnings` asks nobody; the words name what was found, whose it
is, and the next step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv6Address

from ductwork import desire
from ductwork.errors import ConflictError, ContainerError, MissingToolError
from ductwork.openings import Traffic, port_in_the_way, refuse_held, translated
from ductwork.planner import Plan
from ductwork.resources import (
    FLOOD_MAC,
    HOST,
    Address,
    Create,
    FdbEntry,
    IPAddress,
    Key,
    Link,
    NftElement,
    NicSpec,
    Operation,
    Port,
    Resource,
    State,
    Update,
    VethSpec,
    VxlanSpec,
)
from ductwork.resources.passing import Guest, Passing, Tunnel
from ductwork.runtimes import Sandbox
from ductwork.services.ports import is_port
from ductwork.system import Machine

_NAMED = 4
"""So many things in the way are named; the rest are like them."""


def has_its_own_network(sandbox: Sandbox) -> bool:
    return sandbox.mode != "host" and not sandbox.mode.startswith("container:")


def refuse_host_mode(running: Mapping[str, Sandbox]) -> None:
    for name, sandbox in running.items():
        if sandbox.mode == "host":
            raise ContainerError(
                f"{name} runs in the host's own network namespace (mode host)", "start it with another --network"
            )


def refuse_conflicts(found: Plan) -> None:
    if not found.conflicts:
        return
    sites = sorted({c.found.owner.site for c in found.conflicts if c.found.owner and c.found.owner.site})
    hint = "remove or rename what is in the way, or choose another name in the file"
    if sites:
        hint = (
            f"if this is site {sites[0]} under another name, write `name: {sites[0]}` in the file; else `ductwork destroy` "
            "that one first, or choose other names, addresses and interfaces (`interface:`)"
        )
    lines = [in_the_way(conflict.found) for conflict in found.conflicts]
    more = f"; and {len(lines) - _NAMED} more" if len(lines) > _NAMED else ""
    raise ConflictError("; ".join(lines[:_NAMED]) + more + ": nothing was touched", hint)


def refuse_impossible(found: Plan, observed: State, traffic: Traffic, machine: Machine) -> None:
    """Before anything is touched: a port that somebody holds, what this kernel has not. Errors: `ConflictError`,
    `MissingToolError`."""
    refuse_held(found.operations, observed, traffic)
    needs = {
        feature: o.after
        for o in reversed(found.operations)
        if isinstance(o, Create | Update)
        for feature in desire.needed_features(o.after)
    }
    missing = machine.missing(sorted(needs)) if needs else {}
    if missing:
        feature, told = next(iter(missing.items()))
        reason, _, remedy = told.partition(": ")
        owner = needs[feature].owner
        whose = f" of network {owner.network}" if owner and owner.network else f" of site {owner.site}" if owner else ""
        raise MissingToolError(f"{reason}, and {needs[feature].key}{whose} needs it: nothing was touched", remedy)


def in_the_way(found: Resource) -> str:
    if is_port(found):
        return port_in_the_way(found)
    owner = found.owner
    network = f", network {owner.network}" if owner and owner.network else ""
    whose = f"belongs to {owner.origin} {owner.site}{network}" if owner and owner.site else "is not ductwork's"
    return f"{found.key} is in the way: it exists and {whose}"


def unsettled(found: Plan) -> list[str]:
    if found.conflicts:
        return [in_the_way(conflict.found) for conflict in found.conflicts]
    return [f"{operation.target.key}: it does not stay as it was made" for operation in found.operations]


def warnings(operations: Sequence[Operation], machine: Machine, fetching: bool) -> Iterator[str]:
    """What becomes of NICs without us (`fetching`: we see to that), and what else names those that have become ports, which is
    not ours to change."""
    taken = {o.after.link for o in operations if isinstance(o, Create) and isinstance(o.after, Port) and o.after.is_uplink}
    for o in operations if not fetching else ():
        if isinstance(o, Create) and isinstance(o.after, Link) and isinstance(o.after.spec, NicSpec):
            home = f"when {o.after.netns} ends, {o.after.spec.device} comes back to the machine's first namespace"
            yield f"{home}, down and without its addresses, until `ductwork apply` or `destroy` sees to it"
    for nic, mentions in machine.mentions(sorted(taken)).items() if taken else ():
        yield from (f"{mention}: it names {nic}, whose addresses are elsewhere now" for mention in mentions)
    yield from translated(operations)


def passing(desired: Mapping[Key, Resource]) -> Passing:
    """What of our networks the host's packet filter sees."""
    sets = ("flows", "bridges", "lan_legs")
    elements = (r for r in desired.values() if isinstance(r, NftElement) and r.set_name in sets)
    devices = list(dict.fromkeys(element.parts[0] for element in elements))
    on_them = (r for r in desired.values() if isinstance(r, Address) and r.netns == HOST and r.link in devices)
    subnets = list(dict.fromkeys(address.subnet for address in on_them))
    return Passing(devices, subnets, list(_tunnels(desired)), list(_guests(desired)))


def _tunnels(desired: Mapping[Key, Resource]) -> Iterator[Tunnel]:
    """Through which somebody sends to us."""
    peers: dict[str, list[IPAddress]] = {}
    for entry in desired.values():
        if isinstance(entry, FdbEntry) and entry.mac == FLOOD_MAC:
            peers.setdefault(entry.link, []).append(entry.peer_vtep)
    for link in desired.values():
        if isinstance(link, Link) and isinstance(link.spec, VxlanSpec) and link.spec.local and link.name in peers:
            yield Tunnel(link.spec.underlay, link.spec.local, link.spec.port, peers[link.name])


def _guests(desired: Mapping[Key, Resource]) -> Iterator[Guest]:
    for address in desired.values():
        if isinstance(address, Address) and address.netns != HOST and isinstance(address.address, IPv6Address):
            link = desired.get(Key("link", address.netns, (address.link,)))
            end = link.spec.peer_ifname if isinstance(link, Link) and isinstance(link.spec, VethSpec) else ""
            port = desired.get(Key("port", HOST, (end,)))
            if isinstance(port, Port):
                yield Guest(port.bridge, address.address)
