"""The contract suite, continued: links on a device of the host's (macvlan, ipvlan, VLAN), in containers too, and NICs lent to
them. The words that the fake kernel says are compared with the real one's where a person would read them."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
from conftest import sh
from machines import INNER_MAC, OTHER_MAC, SITE, WEB, Fake, Machine, Real, fresh, link, needs, pair, plug_in, read

from ductwork.ownership import ContainerReading, settle
from ductwork.resources import (
    HOST,
    Address,
    Create,
    Delete,
    IpvlanSpec,
    Key,
    Link,
    MacvlanSpec,
    NicSpec,
    OvsSpec,
    Owner,
    Port,
    Resource,
    Route,
    Update,
    VlanSpec,
)
from ductwork.resources.ovs import OvsBridge
from ductwork.resources.route import ANYWHERE

NIC, NIC_MAC, SECOND_NIC = "eth5", "02:00:00:00:05:05", "eth6"
BUSY = ["Device or resource busy"]


def owner(machine: Machine, interface: str = "eth1", device: str = "") -> Owner:
    return Owner("office", "site", "lan", WEB, interface, machine.cookie(), device, machine.home() if device else 0)


def macvlan(machine: Machine, name: str = "eth1", mode: str = "bridge", mac: str = INNER_MAC, parent: str = NIC) -> Link:
    return Link(WEB, name, "macvlan", mac, 1500, spec=MacvlanSpec(parent, mode), owner=owner(machine, name))


def ipvlan(machine: Machine, name: str = "eth1", mode: str = "l2", parent: str = NIC) -> Link:
    return Link(WEB, name, "ipvlan", NIC_MAC, 1500, spec=IpvlanSpec(parent, mode), owner=owner(machine, name))


@pytest.mark.parametrize("mode", ["bridge", "private", "vepa"])
def test_a_macvlan_is_born_in_its_container(machine: Machine, mode: str) -> None:
    machine.nic(NIC, NIC_MAC)
    wanted = macvlan(machine, mode=mode)
    down = replace(wanted, up=False)
    address = Address(WEB, "eth1", ip_address("10.1.0.2"), 24, owner=wanted.owner)
    default = Route(WEB, ANYWHERE[4], "eth1", ip_address("10.1.0.1"), owner=wanted.owner)
    assert machine.do(Create(down), netns=WEB) == [""]
    assert link(machine, WEB, "eth1") == down
    assert machine.do(Update(down, wanted), Create(address), Create(default), netns=WEB) == ["", "", ""]
    found = read(machine)
    assert (found[wanted.key], found[address.key].owner, found[default.key].owner) == (wanted, wanted.owner, wanted.owner)
    assert machine.do(Delete(found[wanted.key]), netns=WEB) == [""]
    assert not [key for key in read(machine) if key.netns]


def test_it_can_be_born_up(machine: Machine) -> None:
    machine.nic(NIC, NIC_MAC)
    wanted = macvlan(machine)
    assert machine.do(Create(wanted), netns=WEB) == [""]
    assert link(machine, WEB, "eth1") == wanted


def test_many_that_were_born_inside_go_at_once(machine: Machine) -> None:
    machine.nic(NIC, NIC_MAC)
    made = [macvlan(machine, f"eth{n}", mac=f"02:00:00:00:01:0{n}") for n in range(1, 5)]
    assert not any(machine.do(*map(Create, made), netns=WEB))
    found = read(machine)
    assert not any(machine.do(*(Delete(found[one.key]) for one in made), netns=WEB))
    assert not [key for key in read(machine) if key.netns]


def test_one_whose_container_has_started_anew_is_nobodys(machine: Machine) -> None:
    machine.nic(NIC, NIC_MAC)
    made = macvlan(machine)
    assert machine.do(Create(made), netns=WEB) == [""]
    host, inside = machine.raw(HOST), machine.raw(WEB)
    for container, cookie in ((WEB, machine.cookie() + 1), ("netns:db", machine.cookie())):
        found = settle(host, {container: ContainerReading(cookie, inside)})
        assert [r.owner for r in found.values() if r.key == made.key] == [None]


def test_one_that_cannot_be_leaves_nothing(machine: Machine) -> None:
    machine.nic(NIC, NIC_MAC)
    assert machine.do(Create(macvlan(machine)), netns=WEB) == [""]
    before = read(machine)
    assert machine.do(Create(macvlan(machine, mac=OTHER_MAC)), netns=WEB) == ["File exists"]
    assert machine.do(Create(macvlan(machine, "eth2", parent="gone")), netns=WEB) == ["No such device"]
    assert read(machine) == before


def test_the_host_may_have_a_link_of_its_name(machine: Machine) -> None:
    machine.nic("eth1", NIC_MAC)
    wanted = macvlan(machine, parent="eth1")
    assert machine.do(Create(wanted), netns=WEB) == [""]
    assert link(machine, WEB, "eth1") == wanted


def test_a_mac_is_had_once_on_a_parent(machine: Machine) -> None:
    machine.nic(NIC, NIC_MAC)
    first, twin = macvlan(machine), macvlan(machine, "eth2")
    parents = macvlan(machine, "eth3", mac=NIC_MAC)
    taken = ["Address already in use"]
    assert machine.do(Create(first), netns=WEB) == [""]
    assert machine.do(Create(twin), netns=WEB) == taken
    assert machine.do(Create(parents), netns=WEB) == taken
    down = replace(twin, up=False)
    assert [link(machine, WEB, name) for name in ("eth2", "eth3")] == [down, replace(parents, up=False)]
    assert machine.do(Update(down, twin), netns=WEB) == taken
    other = replace(down, mac=OTHER_MAC)
    assert machine.do(Update(down, other), Update(other, replace(other, up=True)), netns=WEB) == ["", ""]
    assert machine.do(Update(first, replace(first, mac=OTHER_MAC)), netns=WEB) == taken
    assert link(machine, WEB, "eth1") == first


def test_passthru_is_alone_and_has_its_parents_mac(machine: Machine) -> None:
    machine.nic(NIC, NIC_MAC)
    alone = macvlan(machine, mode="passthru")
    assert machine.do(Create(alone), netns=WEB) == [""]
    assert link(machine, WEB, "eth1") == replace(alone, mac=NIC_MAC)
    assert machine.do(Create(macvlan(machine, "eth2", mac=OTHER_MAC)), netns=WEB) == ["Invalid argument"]
    assert machine.do(Update(fresh(machine, alone), alone), netns=WEB) == [""]
    assert [link(machine, HOST, NIC).mac, link(machine, WEB, "eth1").mac] == [INNER_MAC, INNER_MAC]
    assert machine.do(Delete(fresh(machine, alone)), netns=WEB) == [""]
    assert machine.do(Create(macvlan(machine, mac=OTHER_MAC)), netns=WEB) == [""]
    assert machine.do(Create(macvlan(machine, "eth2", mode="passthru")), netns=WEB) == ["Invalid argument"]


def test_what_follows_the_parent(machine: Machine) -> None:
    nic = machine.nic(NIC, NIC_MAC)
    made = macvlan(machine)
    assert machine.do(Create(replace(made, mtu_bytes=1600)), netns=WEB) == ["Invalid argument"]
    assert machine.do(Create(made), netns=WEB) == [""]
    assert machine.do(Update(made, replace(made, mtu_bytes=1600)), netns=WEB) == ["Invalid argument"]
    small = replace(nic, mtu_bytes=1400)
    assert machine.do(Update(nic, small)) == [""]
    assert link(machine, WEB, "eth1") == replace(made, mtu_bytes=1400)
    assert machine.do(Update(small, replace(small, up=False, mac=OTHER_MAC))) == [""]
    assert link(machine, WEB, "eth1") == replace(made, mtu_bytes=1400)
    assert machine.do(Update(replace(small, up=False, mac=OTHER_MAC), nic)) == [""]
    assert link(machine, WEB, "eth1") == replace(made, mtu_bytes=1400)
    assert machine.do(Delete(fresh(machine, nic))) == [""]
    assert made.key not in read(machine)


def test_a_nic_has_one_taker(machine: Machine) -> None:
    machine.nic(NIC, NIC_MAC)
    machine.nic(SECOND_NIC, "02:00:00:00:06:06")
    bridge = Link(HOST, "dw-lan", "bridge", OTHER_MAC, 1500, owner=SITE)
    assert machine.do(Create(bridge), Create(Port(HOST, SECOND_NIC, bridge.name, SITE))) == ["", ""]
    assert machine.do(Create(macvlan(machine, parent=SECOND_NIC)), netns=WEB) == BUSY
    assert machine.do(Create(macvlan(machine)), netns=WEB) == [""]
    assert machine.do(Create(Port(HOST, NIC, bridge.name, SITE))) == BUSY


def test_on_the_host_a_macvlan_is_a_link_like_others(machine: Machine) -> None:
    machine.nic(NIC, NIC_MAC)
    ours = Link(HOST, "dw-host", "macvlan", INNER_MAC, 1500, spec=MacvlanSpec(NIC, "bridge"), owner=SITE)
    assert machine.do(Create(ours)) == [""]
    assert link(machine, HOST, ours.name) == ours
    assert machine.do(Delete(fresh(machine, ours))) == [""]
    assert ours.key not in read(machine)


@pytest.mark.netns
def test_on_the_host_a_parent_elsewhere_has_no_name(real: Real) -> None:
    """Its index is another link's here."""
    nic = real.nic(NIC, NIC_MAC)
    sh(real.switch, "ip", "link", "add", "link", NIC, "name", "theirs", "type", "macvlan", "mode", "vepa")
    sh(real.switch, "ip", "link", "set", "dev", "theirs", "netns", real.host)
    found = link(real, HOST, "theirs")
    assert found.peer_index == nic.peer_index
    assert found.spec == MacvlanSpec("", "vepa")


def test_ifb(machine: Machine) -> None:
    needs(machine, "ifb")
    made = Link(HOST, "dw-egress", "ifb", INNER_MAC, 1500, owner=SITE)
    assert machine.do(Create(made)) == [""]
    assert link(machine, HOST, made.name) == made
    assert machine.do(Delete(fresh(machine, made))) == [""]


@pytest.mark.netns
class TestForgery:
    """What root in a container can do: it reads its cookie, and computes a mark of ours."""

    def test_a_device_of_the_containers_own_is_no_parent(self, real: Real) -> None:
        sh(real.web, "ip", "link", "add", "name", "mine", "type", "bridge")
        sh(real.web, "ip", "link", "add", "link", "mine", "name", "eth1", "type", "macvlan", "mode", "bridge")
        sh(real.web, "ip", "link", "set", "dev", "eth1", "alias", owner(real).alias("eth1", "macvlan"))
        found = link(real, WEB, "eth1")
        assert (found.owner, found.spec) == (None, MacvlanSpec("", "bridge"))

    def test_nor_is_one_of_a_third_namespace(self, real: Real) -> None:
        real.nic(NIC, NIC_MAC)
        assert real.do(Create(macvlan(real, "eth2")), netns=WEB) == [""]
        sh(real.switch, "ip", "link", "add", "link", NIC, "name", "eth1", "type", "macvlan", "mode", "bridge")
        sh(real.switch, "ip", "link", "set", "dev", "eth1", "netns", real.web)
        sh(real.web, "ip", "link", "set", "dev", "eth1", "alias", owner(real).alias("eth1", "macvlan"))
        found = link(real, WEB, "eth1")
        assert (found.owner, found.spec) == (None, MacvlanSpec("", "bridge"))

    @pytest.mark.parametrize("field", ["name", "kind", "cookie", "container", "cut"])
    def test_a_mark_that_is_not_this_links(self, real: Real, field: str) -> None:
        real.nic(NIC, NIC_MAC)
        assert real.do(Create(macvlan(real)), netns=WEB) == [""]
        mark = owner(real)
        forged = {
            "name": mark.alias("eth2", "macvlan"),
            "kind": mark.alias("eth1", "ipvlan"),
            "cookie": mark._replace(cookie=mark.cookie + 1).alias("eth1", "macvlan"),
            "container": mark._replace(container="netns:db").alias("eth1", "macvlan"),
            "cut": mark.alias("eth1", "macvlan")[:-1],
        }
        sh(real.web, "ip", "link", "set", "dev", "eth1", "alias", forged[field])
        assert link(real, WEB, "eth1") == replace(macvlan(real), owner=None)

    def test_our_own_end_of_a_pair_is_no_nic_whatever_its_mark_says(self, real: Real) -> None:
        host_end, inner, _ = plug_in(real)
        sh(real.web, "ip", "link", "set", "dev", "eth1", "alias", owner(real, device="eth9").alias("eth1", "veth"))
        found = read(real)
        assert (found[inner.key], found[host_end.key]) == (inner, host_end)

    def test_another_kind_of_link_claims_nothing(self, real: Real) -> None:
        sh(real.web, "ip", "link", "add", "name", "eth1", "type", "bridge")
        sh(real.web, "ip", "link", "set", "dev", "eth1", "alias", owner(real).alias("eth1", "bridge"))
        assert link(real, WEB, "eth1").owner is None


@pytest.mark.netns
def test_a_container_that_knows_no_number_for_the_host_gets_one(real: Real) -> None:
    real.nic(NIC, NIC_MAC)
    assert "nsid 0" not in sh(real.web, "ip", "netns", "list-id")
    assert real.do(Create(macvlan(real)), netns=WEB) == [""]
    assert link(real, WEB, "eth1").owner == owner(real)


# NICs lent to containers


def nic_inside(machine: Machine, nic: Link, name: str = "eth1") -> Link:
    mark = owner(machine, name, nic.name)
    return Link(WEB, name, nic.kind, nic.mac, 1400, spec=NicSpec(nic.name), owner=mark)


def test_a_nic_goes_into_a_container_and_comes_home(machine: Machine) -> None:
    nic = machine.nic(NIC, NIC_MAC)
    foreign = Address(HOST, NIC, ip_address("192.0.2.1"), 24)
    assert machine.do(Create(foreign)) == [""]
    lent = nic_inside(machine, nic)
    down = replace(lent, up=False)
    assert machine.do(Create(down), netns=WEB) == [""]
    assert link(machine, WEB, "eth1") == down
    assert not {nic.key, foreign.key} & set(read(machine))
    assert machine.do(Update(down, lent), netns=WEB) == [""]
    assert link(machine, WEB, "eth1") == lent
    ours = Address(WEB, "eth1", ip_address("10.1.0.2"), 24, owner=lent.owner)
    assert machine.do(Create(ours), netns=WEB) == [""]
    assert read(machine)[ours.key].owner == lent.owner
    assert machine.do(Delete(fresh(machine, lent)), netns=WEB) == [""]
    found = read(machine)
    assert found[nic.key] == replace(nic, mtu_bytes=1400, up=False)
    assert found.keys() == {nic.key}


def test_a_nic_is_not_moved_where_its_name_is_taken(machine: Machine) -> None:
    nic = machine.nic(NIC, NIC_MAC)
    machine.nic(SECOND_NIC, "02:00:00:00:06:06")
    assert machine.do(Create(macvlan(machine, parent=SECOND_NIC)), netns=WEB) == [""]
    before = read(machine)
    assert machine.do(Create(nic_inside(machine, nic)), netns=WEB) == ["File exists"]
    assert machine.do(Create(nic_inside(machine, replace(nic, name="gone"), "eth2")), netns=WEB) == ["No such device"]
    assert read(machine) == before


def test_nor_home_where_its_own_name_is_taken(machine: Machine) -> None:
    nic = machine.nic(NIC, NIC_MAC)
    lent = nic_inside(machine, nic)
    assert machine.do(Create(lent), netns=WEB) == [""]
    assert machine.do(Create(Link(HOST, NIC, "bridge", OTHER_MAC, 1500))) == [""]
    assert machine.do(Delete(fresh(machine, lent)), netns=WEB) == ["File exists"]
    assert link(machine, WEB, "eth1") == lent


def test_a_bridge_is_no_nic(machine: Machine) -> None:
    bridge = Link(HOST, NIC, "bridge", NIC_MAC, 1500)
    assert machine.do(Create(bridge)) == [""]
    [refused] = machine.do(Create(nic_inside(machine, fresh(machine, bridge))), netns=WEB)  # type: ignore[arg-type]
    assert refused.startswith("Invalid argument")
    assert read(machine) == {bridge.key: bridge}


def test_nics_among_many_links_that_go(machine: Machine) -> None:
    """They go home, not away."""
    nic = machine.nic(NIC, NIC_MAC)
    machine.nic(SECOND_NIC, "02:00:00:00:06:06")
    lent = nic_inside(machine, nic, "eth9")
    made = [macvlan(machine, f"eth{n}", mac=f"02:00:00:00:01:0{n}", parent=SECOND_NIC) for n in range(1, 4)]
    assert not any(machine.do(Create(lent), *map(Create, made), netns=WEB))
    found = read(machine)
    assert not any(machine.do(*(Delete(found[one.key]) for one in (*made, lent)), netns=WEB))
    assert {key.ident for key in read(machine)} == {(NIC,), (SECOND_NIC,)}


@pytest.mark.netns
def test_a_nic_keeps_its_index_where_it_can(real: Real) -> None:
    nic = real.nic(NIC, NIC_MAC)
    lent = nic_inside(real, nic)
    assert real.do(Create(lent), netns=WEB) == [""]
    assert link(real, WEB, "eth1").index == nic.index
    assert real.do(Delete(fresh(real, lent)), netns=WEB) == [""]
    assert "alias" not in sh(real.host, "ip", "-d", "link", "show", "dev", NIC)
    sh(real.web, "ip", "link", "add", "name", "other", "index", str(nic.index), "type", "bridge")
    assert read(real).keys() >= {nic.key}
    assert real.do(Create(lent), netns=WEB) == [""]
    assert link(real, WEB, "eth1").index not in (0, nic.index)


@pytest.mark.netns
def test_one_that_the_kernel_sent_home_gets_its_name_back(real: Real) -> None:
    """When a namespace dies, its NICs go to the initial one under the names that they had in it, marks and all
    (default_device_exit_net); this one is put there by hand."""
    nic = real.nic(NIC, NIC_MAC)
    mark = owner(real, device=NIC)
    for words in (("down",), ("name", "eth1")):
        sh(real.host, "ip", "link", "set", "dev", NIC, *words)
    sh(real.host, "ip", "link", "set", "dev", "eth1", "alias", mark.alias("eth1", "veth"))
    stranded = link(real, HOST, "eth1")
    assert (stranded.spec, stranded.owner) == (NicSpec(NIC), mark)
    another = mark._replace(home=mark.home + 1).alias("eth1", "veth")
    sh(real.host, "ip", "link", "set", "dev", "eth1", "alias", another)
    assert link(real, HOST, "eth1").owner is None
    sh(real.host, "ip", "link", "set", "dev", "eth1", "alias", mark.alias("eth1", "veth"))
    assert real.do(Delete(stranded)) == [""]
    assert read(real) == {nic.key: replace(nic, up=False)}


def test_a_container_that_dies_sends_a_real_nic_home() -> None:
    """The fake kernel's, as in the test above; one that is virtual dies too."""
    machine = Fake()
    nic = machine.nic(NIC, NIC_MAC)
    virtual = Link(HOST, SECOND_NIC, "ifb", OTHER_MAC, 1500)
    assert not machine.kernel.do(Create(virtual))
    lent = [nic_inside(machine, each, name) for each, name in ((nic, "eth1"), (virtual, "eth2"))]
    assert machine.do(*map(Create, lent), netns=WEB) == ["", ""]
    machine.kernel.stop(WEB)
    [stranded] = settle(machine.raw(HOST), {}).values()
    assert stranded == replace(lent[0], netns=HOST, up=False)
    assert machine.do(Delete(stranded)) == [""]
    assert settle(machine.raw(HOST), {}) == {nic.key: replace(nic, mtu_bytes=1400, up=False)}


# the devices of switches


def test_a_switchs_own_device(machine: Machine) -> None:
    """Open vSwitch's data path of user space makes it a tap device, which is made by hand here; the kernel's another kind."""
    switch = OvsBridge("ovs0", owner=SITE)
    if isinstance(machine, Real):
        sh(machine.host, "ip", "tuntap", "add", "dev", switch.name, "mode", "tap")
    else:
        assert isinstance(machine, Fake)
        assert not machine.kernel.do(Create(switch))
    wanted = Link(HOST, switch.name, "ovs", OTHER_MAC, 1400, spec=OvsSpec(), owner=SITE)
    address = Address(HOST, switch.name, ip_address("10.1.0.1"), 24, owner=SITE)
    assert machine.do(Create(wanted), Create(address)) == ["", ""]

    def found() -> dict[Key, Resource]:
        return settle([*machine.raw(HOST), switch], {})

    assert (found()[wanted.key], found()[address.key].owner) == (wanted, SITE)
    changed = replace(wanted, mtu_bytes=1300, up=False)
    assert machine.do(Update(found()[wanted.key], changed)) == [""]
    assert found()[wanted.key] == changed
    assert machine.do(Delete(found()[wanted.key])) == [""]
    assert found()[wanted.key] == changed, "it goes with its switch"


def test_a_switch_that_has_made_nothing(machine: Machine) -> None:
    wanted = Link(HOST, "ovs0", "ovs", OTHER_MAC, 1400, spec=OvsSpec(), owner=SITE)
    assert machine.do(Create(wanted)) == ["No such device"]


# what this machine's kernel may lack


def test_vlan_devices(machine: Machine) -> None:
    needs(machine, "vlan")
    nic = machine.nic(NIC, NIC_MAC)
    made = Link(HOST, f"{NIC}.100", "vlan", INNER_MAC, 1500, spec=VlanSpec(NIC, 100), owner=SITE)
    assert machine.do(Create(made)) == [""]
    assert link(machine, HOST, made.name) == made
    assert machine.do(Create(replace(made, name="twin"))) != [""]
    assert machine.do(Create(replace(made, name="big", spec=VlanSpec(NIC, 200), mtu_bytes=1600))) == ["Invalid argument"]
    assert machine.do(Update(made, replace(made, mtu_bytes=1600))) == ["Numerical result out of range"]
    above = macvlan(machine, mac=OTHER_MAC, parent=made.name)
    assert machine.do(Create(above), netns=WEB) == [""]
    assert link(machine, WEB, "eth1") == above
    down = replace(nic, up=False, mtu_bytes=1400)
    assert machine.do(Update(nic, down)) == [""]
    assert link(machine, HOST, made.name) == replace(made, up=False, mtu_bytes=1400)
    shut = replace(made, up=False, mtu_bytes=1400)
    assert machine.do(Update(shut, replace(shut, up=True))) == ["Network is down"]
    assert machine.do(Create(replace(made, name="second", spec=VlanSpec(NIC, 300), mtu_bytes=1400))) == ["Network is down"]
    assert machine.do(Update(down, nic)) == [""]
    assert link(machine, HOST, made.name) == replace(made, mtu_bytes=1400)
    assert machine.do(Delete(fresh(machine, made))) == [""]
    assert read(machine).keys() == {nic.key}


@pytest.mark.parametrize("mode", ["l2", "l3", "l3s"])
def test_an_ipvlan_is_born_in_its_container(machine: Machine, mode: str) -> None:
    needs(machine, "ipvlan")
    machine.nic(NIC, NIC_MAC)
    wanted = ipvlan(machine, mode=mode)
    assert machine.do(Create(replace(wanted, up=False)), netns=WEB) == [""]
    assert link(machine, WEB, "eth1") == replace(wanted, up=False)
    assert machine.do(Update(replace(wanted, up=False), wanted), netns=WEB) == [""]
    assert link(machine, WEB, "eth1") == wanted
    [refused] = machine.do(Update(wanted, replace(wanted, mac=OTHER_MAC)), netns=WEB)
    assert refused
    assert machine.do(Delete(fresh(machine, wanted)), netns=WEB) == [""]
    assert wanted.key not in read(machine)


def test_ipvlans_of_one_parent_have_one_mode_and_its_mac(machine: Machine) -> None:
    needs(machine, "ipvlan")
    nic = machine.nic(NIC, NIC_MAC)
    first, second = ipvlan(machine), ipvlan(machine, "eth2", "l3")
    assert machine.do(Create(first), Create(second), netns=WEB) == ["", ""]
    assert link(machine, WEB, "eth1") == replace(first, spec=IpvlanSpec(NIC, "l3"))
    assert machine.do(Update(nic, replace(nic, mac=OTHER_MAC))) == [""]
    assert {link(machine, WEB, name).mac for name in ("eth1", "eth2")} == {OTHER_MAC}


def test_ipvlan_and_macvlan_do_not_share_a_parent(machine: Machine) -> None:
    needs(machine, "ipvlan")
    machine.nic(NIC, NIC_MAC)
    machine.nic(SECOND_NIC, "02:00:00:00:06:06")
    assert machine.do(Create(ipvlan(machine)), netns=WEB) == [""]
    assert machine.do(Create(macvlan(machine, "eth2")), netns=WEB) == BUSY
    assert machine.do(Create(macvlan(machine, "eth2", parent=SECOND_NIC)), netns=WEB) == [""]
    assert machine.do(Create(ipvlan(machine, "eth3", parent=SECOND_NIC)), netns=WEB) == BUSY
    bridge = Link(HOST, "dw-lan", "bridge", OTHER_MAC, 1500, owner=SITE)
    assert machine.do(Create(bridge), Create(Port(HOST, NIC, bridge.name, SITE))) == ["", *BUSY]


def test_pairs_are_still_pairs_beside_them(machine: Machine) -> None:
    machine.nic(NIC, NIC_MAC)
    host_end, inner, port = plug_in(machine, "dwweb", "eth2")
    assert machine.do(Create(macvlan(machine)), netns=WEB) == [""]
    found = read(machine)
    assert [found[r.key] for r in (host_end, inner, port)] == [host_end, inner, port]
    assert pair(machine, "dwweb", "eth2")[0] == host_end
    assert Key("link", WEB, ("eth1",)) in found
