"""Limits at a port of Open vSwitch's data path in user space: for what a container is sent; for what it sends, none."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import sh
from host import World, build_world, same
from ovs_host import OvsHost
from test_rate import disciplines, megabits

from ductwork.errors import SiteError
from ductwork.naming import host_ifname
from ductwork.resources import Create, Delete, Shaper, Update

pytestmark = pytest.mark.netns

SITE = """
networks:
  lan: {driver: ovs, datapath: netdev, ovsdb: "<ovsdb>", subnet: 10.1.1.0/24}
attachments:
  - {container: "netns:<web>", network: lan, address: 10.1.1.2RATE}
  - {container: "netns:<db>", network: lan, address: 10.1.1.3}
"""
WEB, DB = "10.1.1.2", "10.1.1.3"


@pytest.fixture
def world(netns: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A host whose switch is known as the container `ovsdb`, so that a site file is filled in at once."""
    monkeypatch.setattr("shutil.which", lambda _: None)
    made = build_world(netns, tmp_path)
    with OvsHost(made.host, tmp_path / "ovs") as ovs:
        made.names["ovsdb"] = ovs.socket
        yield made


def limited(limits: str = "") -> str:
    return SITE.replace("RATE", f", rate: {limits}" if limits else "")


@pytest.mark.parametrize("limit", [4, 50])
def test_what_a_container_is_sent_is_limited(world: World, limit: int) -> None:
    """And that alone. (As generously as in `test_rate`.)"""
    world.settle(limited(f"{{ingress: {limit}mbit}}"))
    assert limit * 0.75 < megabits(world, "db", "web", WEB) < limit * 1.25
    assert megabits(world, "web", "db", DB) > limit * 1.25


def test_read_back_changed_in_place_and_taken_away(world: World) -> None:
    before = world.snapshot()
    outer = host_ifname(f"netns:{world.names['web']}", "eth1")
    world.settle(limited())
    without = world.snapshot()
    made = world.settle(limited("{ingress: 100mbit}"))
    assert [(type(o), type(o.target)) for o in made.operations] == [(Create, Shaper)]
    assert re.search(rf"qdisc tbf d0c7: dev {outer} root refcnt \d rate 100Mbit burst 124Kb lat 50", disciplines(world))
    changed = world.settle(limited("{ingress: 5mbit}"))
    assert [(type(o), type(o.target)) for o in changed.operations] == [(Update, Shaper)]
    assert f"qdisc tbf d0c7: dev {outer} root refcnt" in disciplines(world) and "rate 5Mbit" in disciplines(world)
    assert 3.75 < megabits(world, "db", "web", WEB) < 6.25
    sh(world.host, "tc", "qdisc", "del", "dev", outer, "root")
    mended = world.settle(limited("{ingress: 5mbit}"))
    assert [type(o.target) for o in mended.operations] == [Shaper]
    gone = world.settle(limited())
    assert [(type(o), type(o.target)) for o in gone.operations] == [(Delete, Shaper)]
    same(without, world.snapshot())
    world.destroy()
    same(before, world.snapshot())


def test_what_it_sends_is_refused_before_anything_is_touched(world: World) -> None:
    """The switch hears a frame before a detour could take it."""
    before = world.snapshot()
    for limits in ("{egress: 20mbit}", "{ingress: 100mbit, egress: 20mbit}"):
        with pytest.raises(SiteError) as caught:
            world.apply(limited(limits))
        [problem] = caught.value.problems
        assert problem.message.startswith(f"`rate: egress` of netns:{world.names['web']}: a switch in user space hears")
        assert problem.hint == "delete it, or write `datapath: system`"
    same(before, world.snapshot())
