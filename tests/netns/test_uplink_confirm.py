"""A NIC that becomes a bridge's port on approval (scenario A2): nobody approves, and all goes back with no connection broken.

The guard is the real one, a process of its own, as in `test_confirm`; the NIC has all that one in `test_uplink` has.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
import test_uplink
from conftest import until
from host import World, same
from lan import Stream, streams
from test_confirm import Guarded
from test_crash import dies
from test_uplink import HOSTS_OWN, SITE, on, settled

pytestmark = pytest.mark.netns

world = test_uplink.world
DEATHS = 4
"""Spread over the sends of an apply; `test_uplink` dies at each, without a guard, which takes half a second to start."""


@pytest.fixture
def host(world: World) -> Iterator[Guarded]:
    made = Guarded(world)
    yield made
    for pid in made.guards():
        os.kill(pid, signal.SIGKILL)
    assert made.is_alone()


def unbroken(found: list[Stream]) -> None:
    assert [each.error for each in found] == [""] * len(HOSTS_OWN)
    assert all(each.beats > 20 for each in found)
    print("longest stalls:", [f"{each.stall_seconds * 1000:.0f} ms" for each in found])


def test_streams_live_on_when_nobody_confirms(host: Guarded) -> None:
    """By the NIC, by the bridge while it awaits confirmation, and by the NIC again."""
    before = settled(host.world)
    with streams(host.world.host, host.world.names["other"], *HOSTS_OWN) as found:
        host.apply(SITE, seconds=3)
        assert host.waits()
        assert on(host.world.host, "br0") and not on(host.world.host, "eth0"), "meanwhile the host goes by the bridge"
        assert all(host.world.ping("other", address) for address in HOSTS_OWN)
        assert until(lambda: not host.waits()) and host.is_alone()
        assert not host.world.engine(lambda engine: engine.destroy("office")).operations, "the guard has left nothing"
    unbroken(found)
    assert "apply office was taken back: nobody confirmed it within 3 s" in host.log()
    same(before, settled(host.world))


def test_streams_live_on_when_apply_is_killed(host: Guarded) -> None:
    """Its guard takes back at once what it got done."""
    before = settled(host.world)
    site = host.world.site(SITE)
    sends: list[str] = []
    host.world.apply(SITE, gate=sends.append)
    host.world.destroy()
    same(before, settled(host.world))
    with streams(host.world.host, host.world.names["other"], *HOSTS_OWN) as found:
        for moment in {1 + number * (len(sends) - 1) // (DEATHS - 1) for number in range(DEATHS)}:
            assert dies(host.world, moment, lambda engine: engine.apply(site, "", guard=host.guard(600)))
            assert host.is_alone(), moment
            assert not host.waits()
            assert all(host.world.ping("other", address) for address in HOSTS_OWN), f"unreachable after death {moment}"
            same(before, settled(host.world))
    unbroken(found)


def test_streams_live_on_when_it_is_confirmed(host: Guarded) -> None:
    """And what was confirmed stays until it is undone."""
    before = settled(host.world)
    with streams(host.world.host, host.world.names["other"], *HOSTS_OWN) as found:
        host.apply(SITE)
        host.confirm()
        assert host.is_alone()
        assert on(host.world.host, "br0") and not on(host.world.host, "eth0")
        host.undo()
    unbroken(found)
    same(before, settled(host.world))
