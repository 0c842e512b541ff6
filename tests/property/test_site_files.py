"""Any two site files, one after the other, on any host: what the contract promises (section 4), against the fake kernel."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

from fake_host import FakeHost, Killed, Snapshot
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from sites import CONTAINERS, NUMBERS, World, host_of, load, other_sites, sites, worlds

from ductwork.errors import ConflictError, NothingToUndoError
from ductwork.reconciler import Report
from ductwork.resources import NftElement, Resource, Route, Sysctl
from ductwork.resources.base import SHARED
from ductwork.site.model import Site

settings.register_profile(
    "ductwork",
    deadline=None,
    report_multiple_bugs=False,
    derandomize=os.environ.get("CI") == "true",
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
settings.load_profile("ductwork")

fractions = st.floats(0, 1, exclude_max=True)


def apply(host: FakeHost, site: Site) -> Report:
    with host.engine() as engine:
        return engine.apply(site, host_of(site))


def die(host: FakeHost, site: Site, after_sends: int) -> bool:
    """Apply, and be killed; False where all was done before."""
    host.sends_left = after_sends
    with suppress(Killed):
        apply(host, site)
    killed = host.sends_left is None
    host.sends_left = None
    return killed


def destroy(host: FakeHost, site: Site) -> None:
    with host.engine() as engine:
        assert engine.destroy(site.name).rounds <= 1


def assert_settled(host: FakeHost, site: Site) -> None:
    assert missing(host, site) == []


def missing(host: FakeHost, site: Site) -> list[Resource]:
    with host.engine() as engine:
        return [operation.target for operation in engine.plan(site, host_of(site)).plan.operations]


def assert_same(one: Snapshot, other: Snapshot) -> None:
    """Equal, or what differs is told."""
    keys = dict.fromkeys((*one, *other))
    lines = [f"{key}:\n    {one.get(key)}\n    {other.get(key)}" for key in keys if one.get(key) != other.get(key)]
    assert not lines, "\n".join(lines)


@given(worlds, sites, sites)
@settings(max_examples=25)
def test_one_round_then_nothing_then_back_again(world: World, first: Site, second: Site) -> None:
    with world.build() as host:
        untouched = host.snapshot()
        for site in (first, second):
            before = host.snapshot()
            report = apply(host, site)
            event(f"{min(len(report.operations) // 10, 5)}0 or more operations")
            assert report.rounds <= 1, report.operations
            assert_settled(host, site)
            after = host.snapshot()
            if report.rounds:
                with host.engine() as engine:
                    assert engine.undo().rounds == 1
                assert_same(before, host.snapshot())
                apply(host, site)
                assert_same(after, host.snapshot())
        destroy(host, second)
        assert_same(untouched, host.snapshot())


def test_undo_keeps_which_address_is_the_primary_one() -> None:
    """Of a host's own and a router's leg, where the first one goes."""
    document: dict[str, Any] = {
        "name": "office",
        "networks": {name: {"driver": "bridge", "subnets": [f"10.{NUMBERS[name]}.0.0/24"]} for name in ("pods", "lan")},
        "hosts": {"alpha": {"address": "10.99.0.1/24"}},
        "attachments": [{"container": "netns:web", "network": "pods", "host": "alpha", "address": "10.1.0.10"}],
        "routers": [{"name": "gw", "host": "alpha", "legs": {"pods": ["10.1.0.1"], "lan": ["10.2.0.1"]}}],
    }
    second = load(document)
    document["networks"]["pods"]["host_addresses"] = {"alpha": "10.1.0.251"}
    with World(("netns:web",), {}, False, False).build() as host:
        apply(host, load(document))
        before = host.snapshot()
        apply(host, second)
        with host.engine() as engine:
            engine.undo()
        assert_same(before, host.snapshot())


@given(worlds, sites, sites, fractions)
@settings(max_examples=25)
def test_the_next_apply_mends_a_crash(world: World, first: Site, second: Site, progress: float) -> None:
    with world.build() as host, world.build() as twin:
        untouched = host.snapshot()
        for its in (host, twin):
            apply(its, first)
        gates = twin.gates
        apply(twin, second)
        killed = die(host, second, int(progress * (twin.gates - gates)))
        event("killed half-way" if killed else "there was nothing to do")
        apply(host, second)
        assert_settled(host, second)
        assert_same(twin.snapshot(), host.snapshot())
        destroy(host, second)
        assert_same(untouched, host.snapshot())


@given(worlds, sites, fractions)
@settings(max_examples=25)
def test_undo_after_a_crash_leads_back(world: World, site: Site, progress: float) -> None:
    with world.build() as host, world.build() as twin:
        untouched = host.snapshot()
        apply(twin, site)
        die(host, site, int(progress * twin.gates))
        with host.engine() as engine, suppress(NothingToUndoError):
            engine.undo()
        assert_same(untouched, host.snapshot())


@given(worlds, sites, sites, st.lists(st.sampled_from(CONTAINERS), unique=True))
@settings(max_examples=25)
def test_containers_come_and_go(world: World, first: Site, second: Site, changing: list[str]) -> None:
    with world.build() as host:
        apply(host, first)
        for container in changing:
            if container in host.kernel.containers:
                host.kernel.stop(container)
            else:
                host.kernel.start(container)
        report = apply(host, second)
        assert report.rounds <= 1
        assert set(report.waiting) == {a.container for a in second.on(host_of(second))} - set(host.kernel.containers)
        assert_settled(host, second)
        destroy(host, second)
        assert not [r for r in host.kernel.state.values() if r.owner and not isinstance(r, Sysctl)]


@given(worlds, sites, sites)
@settings(max_examples=25)
def test_what_others_have_is_left_alone(world: World, first: Site, second: Site) -> None:
    """Not even for a moment: no operation is about anything foreign but the default routes and sysctls that we may."""
    with world.build() as host:
        foreign = set(host.kernel.state)
        for site in (first, second):
            for operation in apply(host, site).operations:
                target = operation.target
                lawful = isinstance(target, Sysctl) or (isinstance(target, Route) and target.is_default and target.netns)
                assert lawful or target.key not in foreign, operation


@given(worlds, sites, sites)
@settings(max_examples=25)
def test_the_same_is_planned_every_time(world: World, first: Site, second: Site) -> None:
    with world.build() as host, world.build() as twin:
        for its in (host, twin):
            apply(its, first)
        with host.engine() as engine, twin.engine() as other:
            plans = [each.plan(second, host_of(second)).plan for each in (engine, engine, other)]
        assert plans[0].operations == plans[1].operations == plans[2].operations


def is_a_way_out(resource: Resource) -> bool:
    """A default route, or what follows from it: whether a port's clients keep their addresses."""
    if isinstance(resource, NftElement):
        return resource.set_name in ("behind4", "behind6")
    return isinstance(resource, Route) and resource.is_default


@given(worlds, sites, other_sites)
@settings(max_examples=25)
def test_two_sites_on_one_host(world: World, office: Site, home: Site) -> None:
    """Either may be destroyed, and the other stays whole; where both want one interface, the later one is refused."""
    with world.build() as host:
        untouched = host.snapshot()
        apply(host, office)
        alone = host.snapshot()
        try:
            apply(host, home)
        except ConflictError:
            assert_same(alone, host.snapshot())
            return
        assert_settled(host, office)
        destroy(host, office)
        # What both shared is looked through by the next apply, which may also give a container another default route.
        assert [r for r in missing(host, home) if not (is_a_way_out(r) or r.owner == SHARED)] == []
        destroy(host, home)
        assert_same(untouched, host.snapshot())
