"""The model held against the kernel: the same random changes, one after the other, on both; what is read back is the same.

The fake kernel goes along: it must refuse what the real one refuses. Seeded, so that a failure comes again: the seed and the
steps that led there are told.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from machines import BRIDGE, SITE, WEB, Fake, Machine, Real, pair, read

from ductwork.kernel_model import predict
from ductwork.planner import changed_fields
from ductwork.resources import (
    HOST,
    Address,
    AddressDetails,
    Create,
    Delete,
    Key,
    Link,
    MacvlanSpec,
    Neighbour,
    NicSpec,
    Operation,
    Owner,
    Port,
    Resource,
    Route,
    Update,
    VxlanSpec,
)

pytestmark = pytest.mark.netns

STEPS = 150
TUNNEL = Link(HOST, "vx", "vxlan", "02:00:00:00:00:77", 1450, spec=VxlanSpec(9, 4789, None, ""), owner=SITE)
"""Neighbours are read where a tunnel of ours is."""
ADDRESSES = [("10.0.0.1", 24), ("10.0.0.2", 24), ("10.0.0.3", 24), ("10.2.0.1", 32), ("10.1.0.1", 24), ("fd00::1", 64)]
ADDRESSES += [("fd00::2", 64), ("fd01::1", 64)]
DESTINATIONS = ["0.0.0.0/0", "192.0.2.0/24", "198.51.100.0/24", "::/0", "fd99::/64"]

NIC, NIC_MAC = "n0", "02:00:00:00:05:00"
KEPT = (TUNNEL.key, Key("link", HOST, (NIC,)))
WEIGHTS = {"bridge": 2, "pair": 3, "port": 3, "address": 9, "route": 9, "neighbour": 2, "change": 7, "remove": 6}
WEIGHTS |= {"macvlan": 3, "lend": 2, "isolate": 1}

Step = Callable[[dict[Key, Resource]], Operation | None]
"""An operation out of what is there: each machine has indexes of its own."""


def steps(chance: random.Random, state: dict[Key, Resource], machine: Machine) -> Iterator[Step]:
    """Random changes, forever; many are such as the kernel refuses."""
    while True:
        links = [r for r in state.values() if isinstance(r, Link) and r != TUNNEL]
        netns = chance.choice([HOST, WEB])
        names = [link.name for link in links if link.netns == netns] or ["none"]
        kind = chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        if kind == "bridge":
            yield _create(replace(BRIDGE, name=chance.choice(["b0", "b1"]), mac=f"02:00:00:00:03:{chance.randrange(99):02x}"))
        elif kind == "pair":
            number = chance.randrange(3)
            yield _pair(machine, number, chance.random() < 0.5)
        elif kind == "port":
            yield _join(Port(HOST, chance.choice(names), chance.choice(["b0", "b1"]), SITE))
        elif kind == "address":
            address, length = chance.choice(ADDRESSES)
            details = chance.choice([None, None, AddressDetails(noprefixroute=chance.random() < 0.5, metric=7)])
            link, owner = chance.choice(names), None if details else SITE
            yield _create(Address(netns, link, ip_address(address), length, details=details, owner=owner))
        elif kind == "route":
            yield _route(chance, netns, chance.choice(names), chance.choice(names))
        elif kind == "macvlan":
            mode, mac = (
                chance.choice(["bridge", "private", "passthru"]),
                chance.choice(["02:00:00:00:05:01", "02:00:00:00:05:02"]),
            )
            name, up = chance.choice(["m0", "m1"]), chance.random() < 0.5
            yield _macvlan(machine, name, MacvlanSpec(NIC, mode), mac, up)
        elif kind == "lend":
            yield _lend(machine, chance.choice(["n1", "m0"]), chance.random() < 0.5)
        elif kind == "isolate":
            yield _isolate(chance.choice([key for key in state if key.kind == "port"] or [BRIDGE.key]))
        elif kind == "neighbour":
            address = ip_address(chance.choice(["10.0.0.9", "fd00::9"]))
            yield _create(Neighbour(HOST, chance.choice(names), address, "02:00:00:00:00:99", SITE))
        elif links and kind == "change":
            yield _change(chance, chance.choice(links).key)
        elif state:
            yield _remove(chance.choice([key for key in state if key not in KEPT] or [BRIDGE.key]))


def _create(resource: Resource) -> Step:
    return lambda state: Create(resource)


def _join(port: Port) -> Step:
    """Joining its own bridge again tells a port nothing new."""

    def join(state: dict[Key, Resource]) -> Operation | None:
        present = state.get(port.key)
        is_there = isinstance(present, Port) and present.bridge == port.bridge
        return None if is_there else Create(port)

    return join


def _pair(machine: Machine, number: int, is_inner: bool) -> Step:
    ends = pair(machine, f"v{number}", f"e{number}")
    inner = Create(ends[1])
    return lambda state: inner if is_inner and ends[1].key in state else Create(ends[0])


def _macvlan(machine: Machine, name: str, spec: MacvlanSpec, mac: str, up: bool) -> Step:
    owner = Owner("office", "site", "lan", WEB, name, machine.cookie())
    made = Link(WEB, name, "macvlan", mac, 1280, up=up, spec=spec, owner=owner)
    return lambda state: Create(made)


def _lend(machine: Machine, name: str, up: bool) -> Step:
    """What is on a NIC that is lent is another matter: drivers refuse it."""

    def lend(state: dict[Key, Resource]) -> Operation | None:
        nic = state.get(KEPT[1])
        if not isinstance(nic, Link) or any(isinstance(r, Link) and isinstance(r.spec, MacvlanSpec) for r in state.values()):
            return None
        owner = Owner("office", "site", "lan", WEB, name, machine.cookie(), NIC, machine.home())
        return Create(replace(nic, netns=WEB, name=name, up=up, spec=NicSpec(NIC), owner=owner))

    return lend


def _isolate(key: Key) -> Step:
    def isolate(state: dict[Key, Resource]) -> Operation | None:
        port = state.get(key)
        return Update(port, replace(port, isolated=not port.isolated)) if isinstance(port, Port) else None

    return isolate


def _route(chance: random.Random, netns: str, link: str, other: str) -> Step:
    to = ip_network(chance.choice(DESTINATIONS))
    via = chance.choice([None, "10.0.0.9", "10.1.0.9"] if to.version == 4 else [None, "fd00::9", "fd01::9"])
    source = chance.choice([None, None, "10.0.0.1", "10.0.0.2"]) if to.version == 4 else None
    route = Route(
        *(netns, to, link, ip_address(via) if via else None),
        metric=chance.choice([0, 7]) if to.version == 4 else 1024,
        source=ip_address(source) if source else None,
        owner=SITE,
    )
    replaces, moves = chance.random() < 0.4, chance.random() < 0.5

    def add_or_replace(state: dict[Key, Resource]) -> Operation:
        present = state.get(route.key)
        if not replaces or not isinstance(present, Route):
            return Create(route)
        return Update(present, replace(present, link=other) if moves else route)

    return add_or_replace


def _change(chance: random.Random, key: Key) -> Step:
    change: dict[str, object] = chance.choice(
        [
            *({"up": False}, {"up": True}, {"up": True}),
            {"mtu_bytes": chance.choice([1000, 1280, 1400])},
            {"mac": f"02:00:00:00:04:{chance.randrange(99):02x}"},
        ]
    )

    def change_link(state: dict[Key, Resource]) -> Operation | None:
        before = state[key]
        if "mac" in change and _is_passthru(before, state):
            return None
        after = replace(before, **change)  # type: ignore[type-var]
        return Update(before, after) if before != after else None

    return change_link


def _is_passthru(link: Resource, state: dict[Key, Resource]) -> bool:
    """When it goes, its parent gets the MAC back that it had before (macvlan_port_destroy), of which nothing tells."""
    specs = [r.spec for r in state.values() if isinstance(r, Link) and (r == link or link.key == KEPT[1])]
    return any(isinstance(spec, MacvlanSpec) and spec.mode == "passthru" for spec in specs)


def _remove(key: Key) -> Step:
    return lambda state: Delete(state[key]) if key in state else None


def comparable(state: dict[Key, Resource]) -> dict[Key, tuple[Resource, bool]]:
    """What takes part."""
    return {key: (_plain(r), isinstance(r, Address) and r.secondary) for key, r in state.items()}


def _plain(resource: Resource) -> Resource:
    """A port's owner is its link's; the real NIC is an end of a pair."""
    match resource:
        case Port():
            return replace(resource, owner=None)
        case Link(netns=netns, name=name) if (netns, name) == (HOST, NIC):
            return replace(resource, kind="", spec=None)
        case Link(spec=NicSpec()):
            return replace(resource, kind="")
    return resource


def assert_same(one: dict[Key, Resource], other: dict[Key, Resource], history: list[str]) -> None:
    first, second = comparable(one), comparable(other)
    different = [key for key in {**first, **second} if first.get(key) != second.get(key)]
    told = "\n".join(f"{key}:\n    expected {first.get(key)}\n    kernel   {second.get(key)}" for key in different)
    assert not different, told + "\nafter\n" + "\n".join(history[-12:])


@pytest.mark.parametrize("seed", range(12))
def test_predicted_and_real_are_the_same(netns: Callable[[str], str], seed: int) -> None:
    chance = random.Random(seed)
    real, fake = Real(netns), Fake()
    fake.kernel.containers[WEB] = real.cookie()  # the same marks on both
    try:
        assert real.do(Create(TUNNEL)) == fake.do(Create(TUNNEL)) == [""]
        for each in (real, fake):
            each.nic(NIC, NIC_MAC)
        state = read(real)
        history = [f"seed {seed}"]
        for _ in range(STEPS):
            step = next(steps(chance, state, real))
            operation, twin = step(state), step(read(fake))
            if operation is None or twin is None:
                assert operation is None and twin is None, history[-12:]
                continue
            [answer], [said] = (m.do(o, netns=o.target.netns) for m, o in ((real, operation), (fake, twin)))
            history.append(f"{_told(operation)}: {answer or 'done'} / {said or 'done'}")
            found = read(real)
            assert bool(answer) == bool(said), "\n".join(history[-12:])
            if not answer:
                assert_same(dict(predict(state, [operation])), found, history)
            assert_same(read(fake), found, history)
            state = found
    finally:
        real.backend.close()


def _told(operation: Operation) -> str:
    match operation:
        case Update(Link() as before, Link() as after):
            return f"update {after.key} {changed_fields(before, after)}: up {after.up}, mtu {after.mtu_bytes}"
        case Create(after) | Update(after=after):
            return f"{type(operation).__name__} {after}".replace(str(getattr(after, "owner", "")), "")
    return f"delete {operation.before.key}"
