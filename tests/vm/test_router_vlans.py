"""Scenario D4: a third host routes between VLAN 100 and VLAN 200, by tagged sub-interfaces of one NIC."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import run, sh, until
from host import same
from test_parents import captured, trunks
from test_routers import HOSTS, Stage, refused, ttl

pytestmark = pytest.mark.netns

VLANS = """
networks:
  v100: {DRIVER, vlan: 100, subnets: [172.16.10.0/24, "fd10::/64"]}
  v200: {DRIVER, vlan: 200, subnets: [172.16.20.0/24, "fd20::/64"]}
attachments:
  - {container: "netns:<a>", host: one, network: v100, address: [172.16.10.11, "fd10::11"]}
  - {container: "netns:<b>", host: two, network: v200, address: [172.16.20.12, "fd20::12"]}
"""
ROUTER = """
routers:
  - {name: gw, host: three, legs: {v100: [172.16.10.1, "fd10::1"], v200: [172.16.20.1, "fd20::1"]}}
"""
B = ("172.16.20.12", "fd20::12")
DRIVERS = {
    "macvlan": "driver: macvlan, parent: eth0",
    "bridge": "driver: bridge, bridge: br0, uplink: eth0",
}


@pytest.fixture
def stage(netns: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setattr(shutil, "which", lambda _: None)  # without iptables it is quicker
    made = Stage(netns, tmp_path)
    trunks(made.lans[0], 100, 200)
    return made


@pytest.mark.parametrize("driver", DRIVERS)
def test_between_two_vlans(stage: Stage, tmp_path: Path, driver: str) -> None:
    site = HOSTS + VLANS.replace("DRIVER", DRIVERS[driver])
    before = stage.snapshots()
    stage.settle(site)
    assert stage.reached("a", *B) == [False] * 2, "without the router nothing"
    stage.settle(site + ROUTER)
    three = stage.hosts["three"].host
    devices = [
        link for link in json.loads(sh(three, "ip", "-j", "-d", "link")) if link.get("linkinfo", {}).get("info_kind") == "vlan"
    ]
    assert {link["linkinfo"]["info_data"]["id"] for link in devices} == {100, 200}
    assert until(lambda: stage.reached("a", *B) == [True] * 2)
    with captured(stage.lans[0].switch, stage.lans[0].ports[2], tmp_path / "trunk") as frames:
        assert [ttl(stage.names["a"], address) for address in B] == [63, 63]
    for tag in ("vlan 100,", "vlan 200,"):
        assert any(tag in frame and "172.16.10.11 > 172.16.20.12" in frame for frame in frames), frames
    if driver == "macvlan":
        stage.settle(site + ROUTER.replace("}}", "}, allow: [[v100, v200]]}"))
        assert stage.reached("a", *B) == [True] * 2
        assert refused(stage.names["b"], "172.16.10.11") == "EHOSTUNREACH"
        assert refused(stage.names["b"], "fd10::11") == "EACCES"
    for world in stage.hosts.values():
        world.destroy()
    for was, now in zip(before, stage.snapshots(), strict=True):
        same(was, now)
    assert "eth0.100" not in run("ip", "-n", three, "link")
