"""Desired and observed state → the operations that lead from one to the other.

Invariant: planning is pure, and one round suffices: what the kernel drops besides (`kernel_model`) is made again by the
same plan. Nothing that is not ours is changed, unless it says itself that it may be (`Sysctl`, `Route.displaces`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace

from ductwork.kernel_model import KernelModel
from ductwork.relocation import Relocation, is_taken_last, moves, relocate
from ductwork.resources import (
    HOST,
    KINDS,
    Address,
    Create,
    Delete,
    IptablesRule,
    IpvlanSpec,
    Key,
    Link,
    MacvlanSpec,
    NftElement,
    NftTable,
    Operation,
    OvsBridge,
    OvsGuard,
    OvsPort,
    OvsSpec,
    Port,
    Resource,
    Route,
    State,
    Sysctl,
    Update,
    VlanSpec,
    key_of,
)
from ductwork.resources.base import SHARED
from ductwork.resources.route import KERNEL_PROTOCOL

_RANK = {kind: rank for rank, kind in enumerate(KINDS)}

Mine = Callable[[Resource], bool]
"""Whether an observed resource belongs to whoever plans: only such is deleted or changed."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """What is wanted cannot be, because something that is not ours is in the way."""

    wanted: Resource
    found: Resource


@dataclass(frozen=True, slots=True)
class Plan:
    """`operations` in the order of doing. `conflicts`: nothing may be done while there are any. `kept`: what would have
    been removed, but others have joined it. `lost`: what goes with something else, also what is made again at once.
    `announcements`: addresses whose neighbours are told at the end."""

    operations: tuple[Operation, ...] = ()
    conflicts: tuple[Conflict, ...] = ()
    kept: tuple[Resource, ...] = ()
    lost: tuple[Resource, ...] = ()
    announcements: tuple[Address, ...] = ()

    def before(self, observed: State) -> dict[Key, Resource | None]:
        """What was there under each key that the plan touches: what undo leads back to."""
        moved = (o.before.key for o in self.operations if isinstance(o, Update))
        touched = (*map(key_of, self.operations), *moved, *(resource.key for resource in self.lost))
        return {key: observed.get(key) for key in touched}


def plan(desired: State, observed: State, mine: Mine) -> Plan:
    """The way from `observed` to `desired`."""
    deletions = {key for key, have in observed.items() if key not in desired and not have.collected and mine(have)}
    kept = _held(observed, deletions, mine)
    deletions -= {resource.key for resource in kept}
    relocation = relocate(moves(desired, observed, deletions), observed)
    desired = {**desired, **{r.key: r for r in (*relocation.arriving, *(update.after for update in relocation.routes))}}
    replaced, updates, conflicts = _compare(desired, observed, mine, relocation)
    deletions |= replaced | {address.key for address in relocation.leaving}
    deletions |= _collected(desired, observed, deletions)
    _pair_up(desired, observed, deletions)
    operations, lost = _order(desired, observed, deletions, updates, relocation)
    announced = tuple(_announced(desired, operations))
    return Plan(operations, tuple(conflicts), kept, lost, announced)


def _announced(desired: State, operations: Iterable[Operation]) -> Iterable[Address]:
    """The containers' addresses that neighbours may know another MAC of: new ones, and those of a link whose MAC changes."""
    made: set[Key] = set()
    links: set[tuple[str, str]] = set()
    for operation in operations:
        match operation:
            case Create(Address(netns=netns)) if netns:
                made.add(key_of(operation))
            case Update(Link(mac=former), Link(netns=netns, name=name, mac=mac)) if netns and former != mac:
                links.add((netns, name))
    return (
        address
        for key, address in desired.items()
        if isinstance(address, Address) and (key in made or (address.netns, address.link) in links)
    )


def changed_fields(before: Resource, after: Resource) -> frozenset[str]:
    """The names of the compared fields in which two resources of one key differ."""
    return frozenset(
        field.name
        for field in fields(after)  # type: ignore[arg-type]
        if field.compare and getattr(before, field.name) != getattr(after, field.name)
    )


def _compare(
    desired: State, observed: State, mine: Mine, relocation: Relocation
) -> tuple[set[Key], dict[Key, Update], list[Conflict]]:
    """For what is wanted and there, but different: replace it, change it in place, or say that it is in the way."""
    deletions: set[Key] = set()
    moving = {update.after.key: update for update in relocation.routes}
    updates = dict(moving)
    conflicts: list[Conflict] = []
    for key, want in desired.items():
        have = observed.get(key)
        if have is None or have == want or key in moving:
            continue
        if not (mine(have) or _may_change(want, have)):
            conflicts.append(Conflict(want, have))
        elif changed_fields(have, want) & want.replace:
            deletions.add(key)
        else:
            updates[key] = Update(have, want)
    # A container that starts anew while it is attached has the other end of what is made for it anew.
    leaving = [c for c in conflicts if isinstance(c.found, Link) and c.found.absorbed_by in deletions]
    deletions.update(conflict.found.key for conflict in leaving)
    taken = [c for c in _addresses_elsewhere(desired, observed, mine) if c.found not in relocation.leaving]
    return deletions, updates, [conflict for conflict in conflicts if conflict not in leaving] + taken


def _addresses_elsewhere(desired: State, observed: State, mine: Mine) -> list[Conflict]:
    """An address that is wanted here, and that another, foreign link of the same namespace has."""
    foreign = {
        (have.netns, have.address): have
        for have in observed.values()
        if isinstance(have, Address) and have.key not in desired and not mine(have)
    }
    wanted = (want for key, want in desired.items() if isinstance(want, Address) and key not in observed)
    pairs = ((want, foreign.get((want.netns, want.address))) for want in wanted)
    return [Conflict(want, have) for want, have in pairs if have]


def _may_change(want: Resource, have: Resource) -> bool:
    """Whether it may take the place of something that is not its owner's: the former state of a foreign one is kept, or it is
    ours by its name. (Two sites that both want a container's default route would take it from each other for ever.)"""
    return isinstance(want, Sysctl | NftTable | IptablesRule) or (
        isinstance(want, Route) and want.displaces and have.owner is None
    )


def _held(observed: State, deletions: set[Key], mine: Mine) -> tuple[Resource, ...]:
    """A bridge that others' ports have joined stays, with all that its networks have on the host (contract 1.8), and so does a
    VLAN's device that others' links are on, with what their networks have."""
    bases: set[Key] = set()
    networks: set[tuple[str, str]] = set()
    for key, resource in observed.items():
        base = _base(resource)
        if base in deletions and key not in deletions and not mine(resource) and observed[base].owner:
            bases.add(base)
            if resource.owner and isinstance(resource, Link):
                networks.add(_network_of(resource))
    if not bases:
        return ()
    doomed = [r for key, r in observed.items() if key in deletions and r.owner and not r.owner.container]
    about = {resource.key: resource for resource in doomed if any(_is_about(resource, observed[base]) for base in bases)}
    networks |= {_network_of(resource) for resource in about.values() if resource.owner and resource.owner.network}
    return tuple(resource for resource in doomed if resource.key in about or _network_of(resource) in networks)


def _base(resource: Resource) -> Key | None:
    """The link that a port is plugged into, or that a link is on top of."""
    match resource:
        case Port() | OvsPort():
            return Key("link", resource.netns, (resource.bridge,))
        case Link(netns="", spec=VlanSpec(parent=parent)) | Link(spec=MacvlanSpec(parent=parent) | IpvlanSpec(parent=parent)):
            return Key("link", HOST, (parent,))
    return None


def _network_of(resource: Resource) -> tuple[str, str]:
    assert resource.owner
    return (resource.owner.site, resource.owner.network)


def _is_about(resource: Resource, base: Resource) -> bool:
    """Whether it is the bridge, on it, or tells the packet filter of it; of a VLAN's device, whether it is that."""
    if resource.key == base.key:
        return True
    if not isinstance(base, Link) or base.kind == "vlan":
        return False
    if resource.key == base.absorbed_by:
        return True
    return base.key in resource.requires() or (isinstance(resource, NftElement) and base.name in resource.parts)


def _collected(desired: State, observed: State, deletions: set[Key]) -> set[Key]:
    """Shared resources that nothing needs, neither what is wanted nor what stays."""
    shared = {key for key, resource in observed.items() if resource.collected and key not in desired}
    if not shared:
        return shared
    for resource in (*desired.values(), *(r for key, r in observed.items() if key not in deletions)):
        shared.difference_update(resource.requires())
    return shared


def _pair_up(desired: State, observed: State, deletions: set[Key]) -> None:
    """A veth pair goes as one: its host's end stands for both. A port of Open vSwitch would outlive its link,
    dead, and its flows the port, of no use to the next one."""
    for key in [key for key in deletions if key.kind == "link" and key.netns]:
        link = observed[key]
        assert isinstance(link, Link)
        if link.absorbed_by:
            deletions.add(link.absorbed_by)
    for want in desired.values():
        if isinstance(want, Link) and want.absorbed_by and want.key not in observed and want.absorbed_by in observed:
            deletions.add(want.absorbed_by)
    for have in observed.values():
        if isinstance(have, OvsPort) and have.owner and deletions.intersection(have.requires()):
            deletions.add(have.key)
    for have in observed.values():
        if isinstance(have, OvsGuard) and have.owner and deletions.intersection(have.requires()):
            deletions.add(have.key)


def _order(
    desired: State, observed: State, deletions: set[Key], updates: dict[Key, Update], relocation: Relocation
) -> tuple[tuple[Operation, ...], tuple[Resource, ...]]:
    """(the operations in order, what is lost by them)."""
    model = KernelModel(observed)
    doomed = [observed[key] for key in sorted((k for k in observed if k in deletions), key=lambda k: _delete_rank(observed[k]))]
    doomed = [resource for resource in doomed if not _goes_with_its_link(resource, deletions)]
    last = [r for r in doomed if _goes_last(r, relocation)]
    removed = [operation for operation in (Delete(r) for r in doomed if r not in last) if _done(operation, model)]
    late = [operation for operation in removed if _tells_what_was(operation.target)]
    changed: list[Operation] = []
    for _, update in sorted(updates.items(), key=lambda item: _rank(item[1])):
        if update.before.key in model.state and not is_taken_last(update.after, relocation.sources):
            changed.append(update)
            model.do(update)
    missing = [want for key, want in desired.items() if model.state.get(key) != want]
    missing = [want for want in missing if not is_taken_last(want, relocation.sources)]
    lost = _lost(observed, model)
    missing += (r for r in lost if r.key not in desired and _comes_back(r, desired, deletions, model))
    # By kind, the new before the changed: a default route that moves to a new link needs that link's address.
    made = [operation for resource in missing for operation in _made(resource, observed.get(resource.key), model)]
    for operation in made:
        model.do(operation)
    removed_last = [operation for operation in (Delete(resource) for resource in last) if _done(operation, model)]
    switched = [update for update in updates.values() if is_taken_last(update.after, relocation.sources)]
    operations: list[Operation] = [operation for operation in removed if operation not in late]
    operations += sorted([*made, *changed], key=_rank)
    operations += [*late, *removed_last, *switched]
    return tuple(_by_namespace(operations)), _lost(observed, model)


def _done(operation: Operation, model: KernelModel) -> bool:
    """Whether there was something to do it to."""
    present = operation.target.key in model.state
    model.do(operation)
    return present


def _lost(observed: State, model: KernelModel) -> tuple[Resource, ...]:
    return tuple(r for key, r in observed.items() if key not in model.state and not _is_the_kernels(r))


def _goes_last(resource: Resource, relocation: Relocation) -> bool:
    """What a relocation leaves: the addresses, the port, the bridge."""
    match resource:
        case Address():
            return resource in relocation.leaving
        case Port() if not resource.netns:
            return resource.is_uplink and resource.bridge in relocation.sources
        case OvsPort():
            return resource.is_uplink and resource.bridge in relocation.sources
        case OvsBridge():
            return resource.name in relocation.sources
        case Link() if not resource.netns:
            return resource.name in relocation.sources
    return False


def _made(want: Resource, had: Resource | None, model: KernelModel) -> list[Operation]:
    """A route on a link that stays may still be there although the model takes it for lost: with promote_secondaries, which
    systemd sets, an address outlives the primary of its subnet. Replacing one does for both. A link that is born in a
    container comes up when its sysctls are set."""
    stays = isinstance(had, Route) and all(required in model.state for required in had.requires())
    if had is not None and stays:
        return [Update(had, want)]
    present = model.state.get(want.key)
    if isinstance(want, Link) and isinstance(present, Link) and not want.absorbed_by:
        return [Update(present, want)]
    if isinstance(want, Link) and want.commands_enter and want.up:
        down = replace(want, up=False)
        return [Create(down), Update(down, want)]
    return [Create(want)]


def _rank(operation: Operation) -> tuple[int, int]:
    """By kind; but a container's link, there and down, has its sysctls set before it comes up, and a NIC joins its bridge when
    that has its addresses, so that there is no moment without them. Routes by a gateway follow the others: one of those may be
    the way to it, and the kernel takes no route to a gateway that is not on the same link (fib_check_nh)."""
    target = operation.target
    if isinstance(operation, Create) and isinstance(target, Link) and target.absorbed_by:
        return (_RANK[Sysctl], 1)
    if isinstance(operation, Update) and isinstance(target, Link) and target.commands_enter and target.up:
        return (_RANK[Sysctl], 1)
    if isinstance(target, Port | OvsPort) and target.is_uplink and not target.netns:
        return (_RANK[Address], 1)
    return (_RANK[type(target)], int(isinstance(target, Route) and target.via is not None))


def _delete_rank(resource: Resource) -> tuple[int, int]:
    """Links go last among what they carry, a bridge's ports before the bridge."""
    bridge_last = isinstance(resource, Link) and resource.kind in ("bridge", "ovs")
    return (-_RANK[type(resource)], int(bridge_last))


def _goes_with_its_link(resource: Resource, deletions: set[Key]) -> bool:
    """Whether deleting the link that it is on removes it; a port goes with its member or with its bridge, one of Open vSwitch's
    with its bridge alone."""
    if isinstance(resource, OvsPort | OvsGuard) or (isinstance(resource, Link) and isinstance(resource.spec, OvsSpec)):
        return any(required.kind == "ovs-bridge" and required in deletions for required in resource.requires())
    return any(required.kind == "link" and required in deletions for required in resource.requires())


def _comes_back(resource: Resource, desired: State, deletions: set[Key], model: KernelModel) -> bool:
    """Whether nobody wanted to lose it: a foreign address, route or port on something of ours that is made anew."""
    if resource.key in deletions or isinstance(resource, Link | Sysctl):
        return False
    return all(required in model.state or required in desired for required in resource.requires())


def _tells_what_was(resource: Resource) -> bool:
    """It goes when what it tells of is back in its place, since nothing else may know: a parked route; which devices forward
    because of us (and until they do no more, what is forwarded is filtered)."""
    return resource.owner == SHARED or (isinstance(resource, Route) and resource.is_parked)


def _is_the_kernels(resource: Resource) -> bool:
    """A subnet's route, which comes with the address."""
    return isinstance(resource, Route) and resource.protocol == KERNEL_PROTOCOL


def _by_namespace(operations: list[Operation]) -> list[Operation]:
    """First what containers have of devices of the host's comes back or goes: another kind of link, or another taker, may
    follow on the same device. Then the host, then container by container: one visit for each, in the order it had."""
    leaving: dict[str, list[Operation]] = {}
    groups: dict[str, list[Operation]] = {HOST: []}
    for operation in operations:
        (leaving if _frees_a_device(operation) else groups).setdefault(operation.target.netns, []).append(operation)
    return [operation for group in (*leaving.values(), *groups.values()) for operation in group]


def _frees_a_device(operation: Operation) -> bool:
    return isinstance(operation, Delete) and isinstance(operation.target, Link) and operation.target.commands_enter
