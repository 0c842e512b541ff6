"""Duplicate addresses through the engine: what other sites here have, and what is taken for one's own."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from pathlib import Path

import pytest
from conftest import sh
from host import build_world
from lan import Lan
from ovs_host import OvsHost
from parent_hosts import Hosts

from ductwork.duplicates import Lookout
from ductwork.engine import AttachRequest
from ductwork.errors import AddressInUseError, ApplyError
from ductwork.goals import Vigilance
from ductwork.planner import plan
from ductwork.resources import Address, Probe

pytestmark = pytest.mark.netns

MACVLAN = """
networks: {lan: {driver: macvlan, parent: eth0, subnets: [192.168.1.0/24, "fd00:1::/64"]}}
attachments: [{container: "netns:<web>", network: lan, address: [192.168.1.50, "fd00:1::50"]}]
"""
PASSTHRU = MACVLAN.replace("eth0,", "eth0, mode: passthru,")
BRIDGE = MACVLAN.replace("macvlan, parent", "bridge, bridge: br0, uplink")
KINDS = pytest.mark.parametrize("text", [MACVLAN, PASSTHRU, BRIDGE], ids=["macvlan", "passthru", "bridge"])


@pytest.fixture
def hosts(netns: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hosts:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    return Hosts(netns, tmp_path)


def second_lan(hosts: Hosts, netns: Callable[[str], str]) -> str:
    """Behind alpha's `eth1`; gives the MAC of the machine there that has 192.168.1.50."""
    lan = Lan(netns)
    lan.plug_in(hosts.alpha.host, "eth1")
    hosts.alpha.names["elsewhere"] = lan.machine("elsewhere", "192.168.1.50/24")
    return hosts.mac("elsewhere", "eth0")


def make_room(hosts: Hosts, text: str) -> None:
    """Who has the parent to himself is not let onto the host's own NIC."""
    if "passthru" in text:
        sh(hosts.alpha.host, "ip", "address", "flush", "dev", "eth0")


def on_eth1(text: str) -> str:
    return text.replace("eth0", "eth1")


@pytest.mark.parametrize("address", ["192.168.1.50", "fd00:1::50"])
def test_another_site_has_it_on_the_same_nic(hosts: Hosts, netns: Callable[[str], str], address: str) -> None:
    """Neither hears the other's questions."""
    alpha = hosts.alpha
    second_lan(hosts, netns)
    other = MACVLAN.replace("<web>", "<db>").replace('[192.168.1.50, "fd00:1::50"]', f'"{address}"')
    alpha.settle(MACVLAN)
    with pytest.raises(AddressInUseError, match=f"{address}, for .*db, is in use here: .*web has it, on eth1, by site office"):
        alpha.apply(other, "shop")
    alpha.apply(other.replace("::50", "::51").replace(".50", ".51"), "shop")
    alpha.destroy("shop")
    on_another = alpha.site(on_eth1(other), "shop")
    alpha.engine(lambda engine: engine.apply(on_another, "", dad=False))


def test_the_containers_of_a_site_swap_their_addresses(hosts: Hosts) -> None:
    """What the plan takes away first is in nobody's way."""
    both = MACVLAN.replace("}]", '}, {container: "netns:<db>", network: lan, address: [192.168.1.51, "fd00:1::51"]}]')
    hosts.alpha.settle(both)
    hosts.alpha.settle(both.replace("<web>", "<was-db>").replace("<db>", "<web>").replace("<was-db>", "<db>"))
    hosts.alpha.settle(MACVLAN.replace("<web>", "<db>"))


@KINDS
def test_what_was_had_on_another_nic_is_asked_for(hosts: Hosts, netns: Callable[[str], str], text: str) -> None:
    alpha = hosts.alpha
    taken_by = second_lan(hosts, netns)
    text = text.replace(', "fd00:1::50"', "").replace(', "fd00:1::/64"', "")
    make_room(hosts, text)
    alpha.settle(text)
    alpha.destroy()
    with pytest.raises(AddressInUseError, match=f"is in use by {taken_by}, behind eth1"):
        alpha.apply(on_eth1(text))


@KINDS
def test_what_was_had_on_the_same_wire_is_not_asked_for(hosts: Hosts, text: str) -> None:
    """It is given at once, and who has it meanwhile is named."""
    alpha = hosts.alpha
    make_room(hosts, text)
    alpha.settle(text)
    alpha.kill("web")
    sh(hosts.other, "ip", "address", "add", "192.168.1.50/24", "dev", "eth0")
    alpha.container("web")
    assert any("192.168.1.50 too, which is ours" in note for note in alpha.apply(text).notes)


def test_what_another_container_had_with_the_same_mac_is_asked_for(hosts: Hosts) -> None:
    alpha = hosts.alpha
    make_room(hosts, PASSTHRU)
    alpha.settle(PASSTHRU)
    alpha.destroy()
    sh(hosts.other, "ip", "address", "add", "192.168.1.50/24", "dev", "eth0")
    with pytest.raises(AddressInUseError):
        alpha.apply(PASSTHRU.replace("<web>", "<db>"))


def test_who_asks_nobody_asks_nobody_for_what_was_attached_by_hand(hosts: Hosts) -> None:
    alpha = hosts.alpha
    network = alpha.site(MACVLAN.replace("<web>", "<db>"))
    request = AttachRequest(f"netns:{alpha.names['web']}", "lan", addresses=(ip_address("192.168.1.9"),))
    alpha.engine(lambda engine: engine.apply(network, ""))
    alpha.kill("web")
    assert alpha.engine(lambda engine: engine.attach(request)).waiting
    alpha.container("web")
    with pytest.raises(AddressInUseError):
        alpha.engine(lambda engine: engine.apply(network, ""))
    assert alpha.engine(lambda engine: engine.apply(network, "", dad=False)).operations


def test_a_bridge_that_another_takes_the_place_of(netns: Callable[[str], str], tmp_path: Path) -> None:
    """Open vSwitch makes a bridge of the same name: the wire is heard by the NIC, which stays."""
    world = build_world(netns, tmp_path)
    world.uplink()
    text = BRIDGE.replace("192.168.1", "192.0.2").replace("fd00:1:", "2001:db8:")
    with OvsHost(world.host, tmp_path / "ovs") as ovs:
        world.apply(text)
        switched = text.replace("bridge, bridge", f'ovs, datapath: netdev, ovsdb: "{ovs.socket}", bridge').replace("50", "51")
        for each in (switched, text):
            assert not [note for note in world.apply(each).notes if "duplicate" in note]
        world.destroy()


class Deafened:
    """A watch whose link goes down with the change."""

    def __init__(self) -> None:
        self.closed = False

    def start(self, probes: Iterable[Probe], held: bool = False, seconds: float = 0) -> None:
        pass

    def conflicts(self, deadline: float) -> dict[Probe, str]:
        raise ApplyError("eth0 is down", "up with it")

    def unplugged(self) -> list[str]:
        return []

    def close(self) -> None:
        self.closed = True


def test_a_link_that_goes_with_the_change_is_no_reason_to_fail() -> None:
    address = Address("web", "eth1", ip_address("192.0.2.5"), 24, probe=("eth0", 0))
    watch = Deafened()
    lookout = Lookout(lambda _: watch)
    known = frozenset({(address.key, Probe("eth0", address.address))})
    lookout.ask(plan({address.key: address}, {}, lambda _: True), {}, Vigilance(True, known))
    assert lookout.report() == ["eth0 is down"] and watch.closed
