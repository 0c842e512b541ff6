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
    Create,
    Delete,
    Key,
    Link,
    Neighbour,
    Operation,
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

Step = Callable[[dict[Key, Resource]], Operation | None]
"""An operation out of what is there: each machine has indexes of its own."""


def steps(chance: random.Random, state: dict[Key, Resource], machine: Machine) -> Iterator[Step]:
    """Random changes, forever; many are such as the kernel refuses."""
    while True:
        links = [r for r in state.values() if isinstance(r, Link) and r != TUNNEL]
        netns = chance.choice([HOST, WEB])
        names = [link.name for link in links if link.netns == netns] or ["none"]
        kind = chance.choices(
            ["bridge", "pair", "port", "address", "route", "neighbour", "change", "remove"], [2, 3, 3, 9, 9, 2, 7, 6]
        )[0]
        if kind == "bridge":
            yield _create(replace(BRIDGE, name=chance.choice(["b0", "b1"]), mac=f"02:00:00:00:03:{chance.randrange(99):02x}"))
        elif kind == "pair":
            number = chance.randrange(3)
            yield _pair(machine, number, chance.random() < 0.5)
        elif kind == "port":
            yield _create(Port(HOST, chance.choice(names), chance.choice(["b0", "b1"]), SITE))
        elif kind == "address":
            address, length = chance.choice(ADDRESSES)
            yield _create(Address(netns, chance.choice(names), ip_address(address), length, owner=SITE))
        elif kind == "route":
            yield _route(chance, netns, chance.choice(names))
        elif kind == "neighbour":
            address = ip_address(chance.choice(["10.0.0.9", "fd00::9"]))
            yield _create(Neighbour(HOST, chance.choice(names), address, "02:00:00:00:00:99", SITE))
        elif links and kind == "change":
            yield _change(chance, chance.choice(links).key)
        elif state:
            yield _remove(chance.choice([key for key in state if key != TUNNEL.key] or [BRIDGE.key]))


def _create(resource: Resource) -> Step:
    return lambda state: Create(resource)


def _pair(machine: Machine, number: int, is_inner: bool) -> Step:
    ends = pair(machine, f"v{number}", f"e{number}")
    inner = Create(ends[1])
    return lambda state: inner if is_inner and ends[1].key in state else Create(ends[0])


def _route(chance: random.Random, netns: str, link: str) -> Step:
    to = ip_network(chance.choice(DESTINATIONS))
    via = chance.choice([None, "10.0.0.9", "10.1.0.9"] if to.version == 4 else [None, "fd00::9", "fd01::9"])
    source = chance.choice([None, None, "10.0.0.1", "10.0.0.2"]) if to.version == 4 else None
    route = Route(
        *(netns, to, link, ip_address(via) if via else None),
        metric=chance.choice([0, 7]) if to.version == 4 else 1024,
        source=ip_address(source) if source else None,
        owner=SITE,
    )
    replaces = chance.random() < 0.4
    return lambda state: Update(state[route.key], route) if replaces and route.key in state else Create(route)


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
        after = replace(before, **change)  # type: ignore[type-var]
        return Update(before, after) if before != after else None

    return change_link


def _remove(key: Key) -> Step:
    return lambda state: Delete(state[key]) if key in state else None


def comparable(state: dict[Key, Resource]) -> dict[Key, tuple[Resource, bool]]:
    """What takes part: a port's owner is its link's."""
    ports_plain = ((key, replace(r, owner=None) if isinstance(r, Port) else r) for key, r in state.items())
    return {key: (r, isinstance(r, Address) and r.secondary) for key, r in ports_plain}


def assert_same(one: dict[Key, Resource], other: dict[Key, Resource], history: list[str]) -> None:
    first, second = comparable(one), comparable(other)
    different = [key for key in {**first, **second} if first.get(key) != second.get(key)]
    told = "\n".join(f"{key}:\n    expected {first.get(key)}\n    kernel   {second.get(key)}" for key in different)
    assert not different, told + "\nafter\n" + "\n".join(history[-12:])


@pytest.mark.parametrize("seed", range(10))
def test_predicted_and_real_are_the_same(netns: Callable[[str], str], seed: int) -> None:
    chance = random.Random(seed)
    real, fake = Real(netns), Fake()
    fake.kernel.containers[WEB] = real.cookie()  # the same marks on both
    try:
        assert real.do(Create(TUNNEL)) == fake.do(Create(TUNNEL)) == [""]
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
