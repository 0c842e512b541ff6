"""`ps` lists every attachment of ours, of each driver, in letters that can be copied."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import sh
from host import World, build_world
from lan import Lan
from ovs_host import OvsHost
from ovs_host import missing as ovs_missing
from test_cli import Cli, cli

from ductwork.backends.kernel import missing
from ductwork.backends.nic import NicReader
from ductwork.naming import host_ifname
from ductwork.resources import NicFacts

__all__ = ["cli"]  # the fixture

pytestmark = pytest.mark.netns

MAC, ADDRESS = "02:ab:cd:00:01:00", "fd00:cd:1234:100::5"
PLUGGED = f"""
networks:
  lan: {{driver: bridge, subnet: "fd00:cd:1234:100::/64"}}
attachments:
  - {{container: "netns:<web>", network: lan, address: "{ADDRESS}", mac: "{MAC}"}}
"""
ON_NICS = f"""
networks:
  mac: {{driver: macvlan, parent: eth0, subnet: 192.168.1.0/24, host_access: 192.168.1.250}}
  ip: {{driver: ipvlan, parent: eth1, subnet: 192.168.2.0/24}}
  direct: {{driver: phys, device: eth2, subnet: 192.168.3.0/24}}
  lan: {{driver: bridge, subnet: 192.168.4.0/24}}
attachments:
  - {{container: "netns:<web>", network: mac, interface: eth1, address: 192.168.1.50, mac: "{MAC}"}}
  - {{container: "netns:<web>", network: ip, interface: eth2, address: 192.168.2.50}}
  - {{container: "netns:<web>", network: direct, interface: eth3, address: 192.168.3.50}}
  - {{container: "netns:<web>", network: lan, interface: eth4, address: 192.168.4.50, rate: {{egress: 10mbit}}}}
"""
SWITCHED = """
networks:
  tagged: {driver: ovs, bridge: ovs0, datapath: netdev, ovsdb: "<ovsdb>", vlan: 100, uplink: eth0}
attachments:
  - {container: "netns:<web>", network: tagged}
"""


@pytest.fixture
def world(netns: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    return build_world(netns, tmp_path)


@pytest.fixture
def hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ends of pairs are taken for NICs that can be lent."""
    read = NicReader.read

    def told(self: NicReader, names: list[str]) -> dict[str, NicFacts]:
        return {name: replace(known, virtual=False) for name, known in read(self, names).items()}

    monkeypatch.setattr(NicReader, "read", told)


def listed(cli: Cli) -> dict[str, dict[str, Any]]:
    """By network."""
    rows = json.loads(cli("ps", "--json").out)
    found = {row["network"]: row for row in rows}
    assert len(found) == len(rows)
    return found


def test_no_mac_and_no_address_has_an_emoji(world: World, cli: Cli) -> None:
    cli("apply", world.write(PLUGGED))
    assert {MAC, f"{ADDRESS}/64"} <= set(cli("ps").out.split())


def test_whoever_has_nothing_of_ours_is_named(world: World, cli: Cli) -> None:
    cli("apply", world.write(PLUGGED))
    assert cli("ps", "nobody").err == "nothing of ductwork's is in nobody\n"


@pytest.mark.usefixtures("hardware")
def test_what_has_no_pair_is_listed(world: World, cli: Cli, netns: Callable[[str], str]) -> None:
    lan = Lan(netns)
    for nic in ("eth0", "eth1", "eth2"):
        lan.plug_in(world.host, nic)
    without = ("network: ip,", "driver: ipvlan") if missing(["ipvlan"]) else ()
    text = "\n".join(line for line in ON_NICS.splitlines() if not any(words in line for words in without))
    cli("apply", world.write(text))
    found = listed(cli)
    wanted = {"mac": ["", "", "eth0", None], "ip": ["", "", "eth1", None], "direct": ["", "", "", None]}
    wanted["lan"] = [host_ifname(f"netns:{world.names['web']}", "eth4"), "dw-lan", "", None]
    if without:
        del wanted["ip"]
    shown = {name: [row[key] for key in ("host_interface", "bridge", "parent", "vlan")] for name, row in found.items()}
    assert shown == wanted
    inside = {link["ifname"]: link for link in json.loads(sh(world.names["web"], "ip", "-j", "link"))}
    for number, name in enumerate(("mac", "ip", "direct", "lan"), start=1):
        if name in wanted:
            row, link = found[name], inside[f"eth{number}"]
            assert (row["container"], row["runtime"]) == (f"netns:{world.names['web']}", "netns")
            assert (row["interface"], row["ifindex"], row["mac"]) == (f"eth{number}", link["ifindex"], link["address"])
            assert row["addresses"] == [f"192.168.{number}.50/24"]
    assert "eth0" in cli("ps").out.split()


@pytest.mark.skipif(bool(ovs_missing()), reason=ovs_missing())
def test_a_port_of_open_vswitch_tells_its_bridge_and_vlan(
    world: World, cli: Cli, netns: Callable[[str], str], tmp_path: Path
) -> None:
    Lan(netns).plug_in(world.host)
    with OvsHost(world.host, tmp_path / "ovs") as ovs:
        cli("apply", world.write(SWITCHED.replace("<ovsdb>", ovs.socket)))
        row = listed(cli)["tagged"]
        assert (row["bridge"], row["vlan"], row["parent"]) == ("ovs0", 100, "")
        assert "100" in cli("ps").out.split()
        cli("destroy", "--all")
