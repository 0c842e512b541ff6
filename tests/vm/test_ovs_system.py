"""Networks on Open vSwitch with the kernel's data path (`datapath: system`): the tests of tests/netns/test_ovs.py, on it."""

from __future__ import annotations

import pytest
import test_ovs
from conftest import ping, sh, until
from host import same, snapshot
from lan import streams
from test_crash import moments, nothing
from test_ovs import Switched as SwitchedInUserSpace
from test_ovs import test_two_hosts

__all__ = ["test_two_hosts"]

pytestmark = pytest.mark.netns


class Switched(SwitchedInUserSpace):
    """Where a site says `netdev`, `system` is meant."""

    def site(self, text: str = test_ovs.VLANS) -> str:
        return super().site(text.replace("datapath: netdev", "datapath: system"))


@pytest.fixture
def switched(in_user_space: SwitchedInUserSpace) -> Switched:
    return Switched(in_user_space.world, in_user_space.ovs, in_user_space.lan)


in_user_space = test_ovs.switched
STRIDE = 25


def test_killed_at_a_few_sends(switched: Switched) -> None:
    world = switched.world
    before = snapshot(world.host)
    site = world.site(switched.site())
    with streams(world.host, world.names["other"], "10.9.9.2") as found:
        for moment in moments(world, lambda engine: engine.apply(site, ""), nothing, stride=STRIDE):
            assert until(lambda: ping(world.names["other"], "10.9.9.2"), 10), f"unreachable after death {moment}"
            if moment % 2:
                world.settle(switched.site())
            world.destroy()
            assert switched.ovs.vsctl("list-br").split() == []
        with streams(world.names["one"], world.names["two"], "192.168.1.1") as between:
            assert world.ping("three", "192.168.1.4")
        world.destroy()
    assert [each.error for each in (*found, *between)] == ["", ""]
    assert until(lambda: "tentative" not in sh(world.host, "ip", "address"))
    same({"host": before}, {"host": snapshot(world.host)})
