"""Networks on Open vSwitch through the engine (scenarios A5, A6), with the data path in user space."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import ping, sh, until
from host import World, build_world, same, snapshot
from lan import Lan, streams
from ovs_host import OvsHost
from test_crash import dies

from ductwork.errors import DuctworkError

pytestmark = pytest.mark.netns

VLANS = """
networks:
  v100: {driver: ovs, datapath: netdev, ovsdb: "<db>", vlan: 100, subnet: 192.168.1.0/24, gateway: 192.168.1.254UPLINK}
  v200: {driver: ovs, datapath: netdev, ovsdb: "<db>", vlan: 200, subnet: 192.168.1.0/24, gateway: 192.168.1.254UPLINK}
attachments:
  - {container: "netns:<one>", network: v100, address: 192.168.1.1}
  - {container: "netns:<two>", network: v100, address: 192.168.1.2}
  - {container: "netns:<three>", network: v200, address: 192.168.1.3}
  - {container: "netns:<four>", network: v200, address: 192.168.1.4}
"""


@dataclass
class Switched:
    world: World
    ovs: OvsHost

    def site(self, text: str = VLANS, uplink: str = ", uplink: eth0") -> str:
        return text.replace("<db>", self.ovs.socket).replace("UPLINK", uplink)


@pytest.fixture
def switched(netns: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Switched]:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    world = build_world(netns, tmp_path)
    for name in ("one", "two", "three", "four"):
        world.container(name)
    lan = Lan(netns)
    lan.plug_in(world.host)
    sh(world.host, "ip", "address", "add", "10.9.9.2/24", "dev", "eth0")
    sh(world.host, "ip", "address", "add", "2001:db8:9::2/64", "dev", "eth0", "nodad")
    sh(world.host, "ip", "route", "add", "default", "via", "10.9.9.254")
    world.names["other"] = lan.machine("other", "10.9.9.9/24", "2001:db8:9::9/64")
    sh(world.names["other"], "ethtool", "-K", "eth0", "tx", "off")  # as what comes by a wire has its checksum
    with OvsHost(world.host, tmp_path / "ovs") as ovs:
        assert until(lambda: "tentative" not in sh(world.host, "ip", "address"))
        yield Switched(world, ovs)


def test_vlans_of_one_switch_and_its_uplink(switched: Switched) -> None:
    world = switched.world
    before = snapshot(world.host)
    world.settle(switched.site())
    assert world.ping("one", "192.168.1.2") and world.ping("three", "192.168.1.4")
    assert not world.ping("one", "192.168.1.3")
    assert ping(world.names["other"], "10.9.9.2"), "the host by its switch"
    with streams(world.host, world.names["other"], "10.9.9.2", "2001:db8:9::2") as found:
        world.destroy()
        world.apply(switched.site())
        world.engine(lambda engine: engine.undo())
    assert [each.error for each in found] == ["", ""]
    assert until(lambda: "tentative" not in sh(world.host, "ip", "address"))
    same({"host": before}, {"host": snapshot(world.host)})
    assert switched.ovs.vsctl("list-br").split() == []
