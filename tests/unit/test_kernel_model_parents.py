"""The kernel model's rules for links on a parent, NICs lent to containers, and ports of bridges that tell VLANs apart."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from ductwork.kernel_model import predict
from ductwork.resources import (
    HOST,
    Address,
    BridgeSpec,
    Create,
    Delete,
    IpvlanSpec,
    Key,
    Link,
    MacvlanSpec,
    NicSpec,
    Operation,
    OvsSpec,
    Port,
    PortVlans,
    Resource,
    Sysctl,
    Update,
    VlanSpec,
    state,
)
from ductwork.resources.ovs import OvsBridge

WEB = "netns:web"
NIC = Link(HOST, "eth0", "", "02:00:00:00:00:09", 1500)
VLAN = Link(HOST, "eth0.5", "vlan", "02:00:00:00:00:05", 1500, spec=VlanSpec("eth0", 5))
MACVLAN = Link(WEB, "eth1", "macvlan", "02:00:00:00:00:01", 1500, spec=MacvlanSpec("eth0", "bridge"))
ON_VLAN = replace(MACVLAN, name="eth2", spec=MacvlanSpec("eth0.5", "bridge"))
PASSTHRU = replace(MACVLAN, mac=NIC.mac, spec=MacvlanSpec("eth0", "passthru"))
IPVLAN = Link(WEB, "eth3", "ipvlan", NIC.mac, 1500, spec=IpvlanSpec("eth0", "l2"))
ADDRESS = Address(WEB, "eth2", ip_address("fd00::1"), 64)


def after(operation: Operation, *present: Resource) -> dict[Key, Resource]:
    return dict(predict(state(list(present)), [operation]))


def same(found: dict[Key, Resource], *wanted: Resource) -> bool:
    return found == state(list(wanted))


def test_what_is_on_a_parent_goes_with_it_wherever_it_is() -> None:
    assert same(after(Delete(NIC), NIC, VLAN, MACVLAN, ON_VLAN, IPVLAN, ADDRESS))


def test_a_parent_that_goes_down_takes_its_vlans_down_alone() -> None:
    down = replace(NIC, up=False)
    found = after(Update(NIC, down), NIC, VLAN, MACVLAN, ON_VLAN, IPVLAN)
    assert same(found, down, replace(VLAN, up=False), MACVLAN, ON_VLAN, IPVLAN)
    assert same(after(Update(down, NIC), down, replace(VLAN, up=False)), NIC, VLAN)


def test_a_smaller_mtu_goes_upwards_with_all_that_it_costs() -> None:
    small = replace(NIC, mtu_bytes=1000)
    found = after(Update(NIC, small), NIC, VLAN, MACVLAN, ON_VLAN, ADDRESS)
    assert same(found, *(replace(link, mtu_bytes=1000) for link in (NIC, VLAN, MACVLAN, ON_VLAN)))
    above = [replace(link, mtu_bytes=1000) for link in (VLAN, MACVLAN)]
    assert same(after(Update(small, NIC), small, *above), NIC, *above)


def test_ipvlans_have_their_parents_mac_and_one_mode() -> None:
    other = replace(NIC, mac="02:00:00:00:00:0a")
    assert same(after(Update(NIC, other), NIC, MACVLAN, IPVLAN), other, MACVLAN, replace(IPVLAN, mac=other.mac))
    second = replace(IPVLAN, name="eth4", mac="02:00:00:00:00:0b", spec=IpvlanSpec("eth0", "l3"))
    found = after(Create(second), NIC, IPVLAN)
    assert same(found, NIC, replace(IPVLAN, spec=second.spec), replace(second, mac=NIC.mac))


def test_a_passthru_macvlan_and_its_parent_have_one_mac() -> None:
    assert same(after(Create(replace(PASSTHRU, mac="02:00:00:00:00:0b")), NIC), NIC, PASSTHRU)
    new = "02:00:00:00:00:0c"
    for changed in (NIC, PASSTHRU):
        found = after(Update(changed, replace(changed, mac=new)), NIC, PASSTHRU)
        assert same(found, replace(NIC, mac=new), replace(PASSTHRU, mac=new))


def test_a_lent_nic_leaves_the_host_with_all_that_was_on_it_and_comes_back_down() -> None:
    lent = Link(WEB, "eth1", "", NIC.mac, 1400, spec=NicSpec("eth0"))
    on_it = Address(HOST, "eth0", ip_address("192.0.2.1"), 24)
    sysctl = Sysctl(HOST, "net/ipv4/conf/eth0/forwarding", "1", link="eth0")
    assert same(after(Create(lent), NIC, on_it, sysctl, Port(HOST, "eth0", "br")), lent)
    inside = Address(WEB, "eth1", ip_address("10.1.0.2"), 24)
    assert same(after(Delete(lent), lent, inside), replace(NIC, mtu_bytes=1400, up=False))


def test_the_device_of_a_switch_becomes_what_it_is_to_be_and_goes_with_it() -> None:
    switch = OvsBridge("ovs0")
    device = Link(HOST, "ovs0", "ovs", "02:00:00:00:00:0d", 1400, spec=OvsSpec())
    assert same(after(Create(device), switch, replace(device, up=False, mtu_bytes=1500)), switch, device)
    assert same(after(Delete(switch), switch, device))


@pytest.mark.parametrize("vlans", [None, PortVlans(7)])
def test_ports_have_vlans_where_their_bridge_tells_them_apart(vlans: PortVlans | None) -> None:
    plain = Link(HOST, "br", "bridge", "02:00:00:00:00:08", 1500)
    filtering = replace(plain, spec=BridgeSpec())
    port = Port(HOST, "eth0", "br", vlans=vlans)
    apart, together = replace(port, vlans=vlans or PortVlans()), replace(port, vlans=None)
    assert same(after(Create(port), NIC, filtering), NIC, filtering, apart)
    assert same(after(Create(port), NIC, plain), NIC, plain, together)
    assert same(after(Update(plain, filtering), NIC, plain, port), NIC, filtering, apart)
    assert same(after(Update(filtering, plain), NIC, filtering, port), NIC, plain, together)
