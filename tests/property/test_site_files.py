"""Any two site files, one after the other, on any host: what the contract promises (section 4), against the fake kernel."""

from __future__ import annotations

import os

from fake_host import FakeHost, Snapshot
from hypothesis import HealthCheck, event, given, settings
from sites import World, host_of, sites, worlds

from ductwork.reconciler import Report
from ductwork.site.model import Site

settings.register_profile(
    "ductwork",
    deadline=None,
    report_multiple_bugs=False,
    derandomize=os.environ.get("CI") == "true",
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
settings.load_profile("ductwork")


def apply(host: FakeHost, site: Site) -> Report:
    with host.engine() as engine:
        return engine.apply(site, host_of(site))


def nothing_to_do(host: FakeHost, site: Site) -> bool:
    with host.engine() as engine:
        return not engine.plan(site, host_of(site)).plan.operations


def assert_same(one: Snapshot, other: Snapshot) -> None:
    """Equal, or what differs is told."""
    keys = dict.fromkeys((*one, *other))
    lines = [f"{key}:\n    {one.get(key)}\n    {other.get(key)}" for key in keys if one.get(key) != other.get(key)]
    assert not lines, "\n".join(lines)


@given(worlds, sites, sites)
@settings(max_examples=60)
def test_one_round_then_nothing_then_back_again(world: World, first: Site, second: Site) -> None:
    with world.build() as host:
        untouched = host.snapshot()
        for site in (first, second):
            before = host.snapshot()
            report = apply(host, site)
            event(f"{min(len(report.operations) // 10, 5)}0 or more operations")
            assert report.rounds <= 1, report.operations
            assert nothing_to_do(host, site)
            after = host.snapshot()
            if report.rounds:
                with host.engine() as engine:
                    assert engine.undo().rounds == 1
                assert_same(before, host.snapshot())
                apply(host, site)
                assert_same(after, host.snapshot())
        with host.engine() as engine:
            assert engine.destroy(site.name).rounds <= 1
        assert_same(untouched, host.snapshot())
