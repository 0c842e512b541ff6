"""The contract suite, continued: what ports of bridges are told. VLANs need a bridge that tells them apart, which this
machine's kernel may lack; tests/vm runs the suite on one that has it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from conftest import sh
from machines import BRIDGE, OTHER_MAC, SITE, Machine, Real, fresh, link, needs, pair, plug_in, read

from ductwork.resources import HOST, BridgeSpec, Create, Delete, Key, Link, Port, PortVlans, Update

FILTERING = replace(BRIDGE, spec=BridgeSpec())
NIC = "eth5"
TRUNK = PortVlans(1, (10, 20, 21, 22, 4094))


def port(machine: Machine, name: str) -> Port:
    found = read(machine)[Key("port", HOST, (name,))]
    assert isinstance(found, Port)
    return found


def test_a_port_is_isolated_and_is_not(machine: Machine) -> None:
    host_end, _, plain = pair(machine)
    isolated = replace(plain, isolated=True)
    assert machine.do(Create(BRIDGE), Create(host_end), Create(isolated)) == ["", "", ""]
    assert port(machine, plain.link) == isolated
    assert machine.do(Update(isolated, plain)) == [""]
    assert port(machine, plain.link) == plain
    assert machine.do(Update(plain, isolated)) == [""]
    other = replace(BRIDGE, name="dw-other", mac="02:00:00:00:00:09")
    moved = replace(isolated, bridge=other.name)
    assert machine.do(Create(other), Update(isolated, moved)) == ["", ""]
    assert port(machine, plain.link) == moved
    assert machine.do(Update(moved, plain)) == [""]
    assert port(machine, plain.link) == plain


def test_a_nic_becomes_a_port(machine: Machine) -> None:
    """Ours, since the bridge's mark names it."""
    machine.nic(NIC, OTHER_MAC)
    machine.nic("eth6", "02:00:00:00:06:06")
    uplinked = replace(BRIDGE, owner=SITE._replace(interface=NIC))
    joined, beside = Port(HOST, NIC, BRIDGE.name, uplinked.owner), Port(HOST, "eth6", BRIDGE.name)
    assert machine.do(Create(uplinked), Create(replace(joined, isolated=True)), Create(beside)) == ["", "", ""]
    assert [port(machine, name) for name in (NIC, "eth6")] == [replace(joined, isolated=True), beside]
    assert machine.do(Delete(port(machine, NIC))) == [""]
    assert joined.key not in read(machine)


def test_a_bridge_is_marked_anew(machine: Machine) -> None:
    uplinked = replace(BRIDGE, owner=SITE._replace(interface=NIC))
    assert machine.do(Create(BRIDGE), Update(BRIDGE, uplinked)) == ["", ""]
    assert link(machine, HOST, BRIDGE.name) == uplinked
    assert machine.do(Update(uplinked, replace(BRIDGE, owner=None))) == [""]
    assert link(machine, HOST, BRIDGE.name) == replace(BRIDGE, owner=None)


def test_a_port_says_which_refused_it(machine: Machine) -> None:
    """What is fused with the creation of the link is told for both."""
    host_end, _, plain = pair(machine)
    assert machine.do(Create(BRIDGE), Create(replace(BRIDGE, name=host_end.name, mac=OTHER_MAC))) == ["", ""]
    answers = machine.do(Create(host_end), Create(replace(plain, isolated=True)))
    assert all(answers)


# VLANs


@pytest.mark.parametrize("spec", [BridgeSpec(), BridgeSpec(native=False), BridgeSpec(True, (10, 20)), BridgeSpec(False, (10,))])
def test_a_bridge_that_tells_vlans_apart(machine: Machine, spec: BridgeSpec) -> None:
    needs(machine, "vlan_filtering")
    wanted = replace(BRIDGE, spec=spec)
    assert machine.do(Create(wanted)) == [""]
    assert link(machine, HOST, BRIDGE.name) == wanted
    other = replace(BRIDGE, spec=BridgeSpec(True, (20, 30)))
    assert machine.do(Update(wanted, other)) == [""]
    assert link(machine, HOST, BRIDGE.name) == other
    assert machine.do(Update(other, BRIDGE)) == [""]
    assert link(machine, HOST, BRIDGE.name) == BRIDGE
    assert machine.do(Update(BRIDGE, FILTERING)) == [""]
    assert link(machine, HOST, BRIDGE.name) == FILTERING


@pytest.mark.parametrize("vlans", [PortVlans(), PortVlans(100), TRUNK, PortVlans(0, (7, 8)), PortVlans(0)])
def test_a_port_is_born_in_its_vlans(machine: Machine, vlans: PortVlans) -> None:
    needs(machine, "vlan_filtering")
    host_end, _, plain = pair(machine)
    wanted = replace(plain, vlans=vlans)
    assert machine.do(Create(FILTERING), Create(host_end), Create(wanted)) == ["", "", ""]
    assert port(machine, plain.link) == wanted
    for then in (PortVlans(200), TRUNK, PortVlans(), PortVlans(100, (1, 10)), vlans):
        changed = replace(wanted, vlans=then)
        assert machine.do(Update(port(machine, plain.link), changed)) == [""]
        assert port(machine, plain.link) == changed


def test_a_nic_carries_the_trunk(machine: Machine) -> None:
    needs(machine, "vlan_filtering")
    machine.nic(NIC, OTHER_MAC)
    trunk = Port(HOST, NIC, BRIDGE.name, vlans=PortVlans(0, tuple(range(2, 4095))), isolated=True)
    assert machine.do(Create(FILTERING), Create(trunk)) == ["", ""]
    assert port(machine, NIC) == trunk


def test_ports_of_a_bridge_that_begins_and_ceases_to_tell_vlans_apart(machine: Machine) -> None:
    needs(machine, "vlan_filtering")
    _, _, plain = plug_in(machine)
    assert port(machine, plain.link).vlans is None
    in_vlan = replace(plain, vlans=PortVlans(100))
    assert machine.do(Update(BRIDGE, FILTERING)) == [""]
    assert port(machine, plain.link) == replace(plain, vlans=PortVlans())
    assert machine.do(Update(plain, in_vlan)) == [""]
    assert port(machine, plain.link) == in_vlan
    assert machine.do(Update(in_vlan, plain), Update(FILTERING, BRIDGE)) == ["", ""]
    assert port(machine, plain.link) == plain
    assert machine.do(Update(BRIDGE, FILTERING)) == [""]
    assert port(machine, plain.link) == replace(plain, vlans=PortVlans())


def test_a_port_goes_to_another_bridge_and_begins_anew(machine: Machine) -> None:
    needs(machine, "vlan_filtering")
    host_end, _, plain = pair(machine)
    other = replace(FILTERING, name="dw-other", mac="02:00:00:00:00:09")
    first, second = replace(plain, vlans=PortVlans(100)), replace(plain, bridge="dw-other", vlans=PortVlans(200, (5,)))
    assert machine.do(Create(FILTERING), Create(other), Create(host_end), Create(first)) == ["", "", "", ""]
    assert machine.do(Update(first, second)) == [""]
    assert port(machine, plain.link) == second


@pytest.mark.netns
class TestWhatOthersHaveSet:
    """Whatever it is, it differs from what is wanted, and is put right."""

    @pytest.mark.parametrize("words", ["5 pvid untagged", "5 untagged", "5 pvid", "5-9", "100"])
    def test_on_a_port(self, real: Real, words: str) -> None:
        needs(real, "vlan_filtering")
        host_end, _, plain = pair(real)
        wanted = replace(plain, vlans=PortVlans(100))
        assert real.do(Create(FILTERING), Create(host_end), Create(wanted)) == ["", "", ""]
        sh(real.host, "bridge", "vlan", "add", "vid", *words.split(), "dev", plain.link)
        found = port(real, plain.link)
        assert found != wanted
        assert real.do(Update(found, wanted)) == [""]
        assert port(real, plain.link) == wanted
        told = sh(real.host, "bridge", "vlan", "show", "dev", plain.link).split()
        assert told[-5:] == [plain.link, "100", "PVID", "Egress", "Untagged"]

    @pytest.mark.parametrize("words", ["5 pvid untagged", "5-9"])
    def test_on_the_bridge(self, real: Real, words: str) -> None:
        needs(real, "vlan_filtering")
        assert real.do(Create(FILTERING)) == [""]
        sh(real.host, "bridge", "vlan", "add", "vid", *words.split(), "dev", BRIDGE.name, "self")
        found = fresh(real, FILTERING)
        assert isinstance(found, Link)
        assert found != FILTERING
        assert real.do(Update(found, FILTERING)) == [""]
        assert link(real, HOST, BRIDGE.name) == FILTERING

    def test_some_links_alone_are_read_alike(self, real: Real) -> None:
        """What an attach looks at."""
        needs(real, "vlan_filtering")
        host_end, _, plain = pair(real)
        wanted = replace(plain, vlans=TRUNK)
        assert real.do(Create(FILTERING), Create(host_end), Create(wanted)) == ["", "", ""]
        some = real.some(frozenset({BRIDGE.name, host_end.name}))
        assert {r.key: r for r in some if isinstance(r, Port)} == {wanted.key: wanted}
        assert [r.spec for r in some if isinstance(r, Link) and r.kind == "bridge"] == [BridgeSpec()]
