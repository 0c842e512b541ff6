"""One suite for both: what the fake kernel says is what the real one says, each kind made, read, changed and removed."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from conftest import sh
from machines import (
    BRIDGE,
    INNER_MAC,
    OTHER_MAC,
    SITE,
    WEB,
    Machine,
    Real,
    fresh,
    pair,
    plug_in,
    read,
)

from ductwork.backends.netlink import backend as netlink
from ductwork.backends.netlink.decode_link import GROUP_BASE
from ductwork.resources import (
    FLOOD_MAC,
    HOST,
    Address,
    Create,
    Delete,
    FdbEntry,
    Key,
    Link,
    Neighbour,
    Port,
    Route,
    Update,
    VethSpec,
    VxlanSpec,
)


def test_a_bridge(machine: Machine) -> None:
    assert machine.do(Create(BRIDGE)) == [""]
    assert read(machine) == {BRIDGE.key: BRIDGE}
    changed = replace(BRIDGE, mac=OTHER_MAC, mtu_bytes=1400, up=False)
    assert machine.do(Update(fresh(machine, BRIDGE), changed)) == [""]
    assert read(machine) == {BRIDGE.key: changed}
    assert machine.do(Delete(fresh(machine, BRIDGE))) == [""]
    assert read(machine) == {}


def test_a_pair_is_born_a_port_and_its_inner_end_down(machine: Machine) -> None:
    host_end, container_end, port = pair(machine)
    assert machine.do(Create(BRIDGE), Create(host_end), Create(port)) == ["", "", ""]
    down = replace(container_end, up=False)
    assert read(machine) == {r.key: r for r in (BRIDGE, host_end, port, down)}
    assert machine.do(Create(container_end), netns=WEB) == [""]
    assert read(machine)[container_end.key] == container_end


@pytest.mark.parametrize("end", [0, 1], ids=["host's end", "container's end"])
def test_either_end_takes_the_other_along(machine: Machine, end: int) -> None:
    doomed = plug_in(machine)[end]
    assert machine.do(Delete(fresh(machine, doomed)), netns=doomed.netns) == [""]
    assert read(machine) == {BRIDGE.key: BRIDGE}


def test_a_bridge_leaves_its_ports_behind(machine: Machine) -> None:
    host_end, container_end, _ = plug_in(machine)
    assert machine.do(Delete(fresh(machine, BRIDGE))) == [""]
    assert read(machine) == {r.key: r for r in (host_end, container_end)}


def test_a_bridge_keeps_its_mtu_whatever_its_ports_have(machine: Machine) -> None:
    """The kernel sets a bridge's MTU to the least of its ports', unless it was told one (br_mtu_auto_adjust)."""
    _, _, port = plug_in(machine)
    assert read(machine)[BRIDGE.key] == BRIDGE
    assert machine.do(Delete(port)) == [""]
    assert read(machine)[BRIDGE.key] == BRIDGE


def test_ports_move(machine: Machine) -> None:
    _, _, port = plug_in(machine)
    other = replace(BRIDGE, name="dw-other", mac="02:00:00:00:00:09")
    moved = replace(port, bridge=other.name)
    assert machine.do(Create(other), Update(port, moved)) == ["", ""]
    assert read(machine)[port.key] == moved
    assert machine.do(Delete(moved)) == [""]
    assert port.key not in read(machine)


@pytest.mark.parametrize(("address", "length"), [("10.1.0.2", 24), ("10.1.0.1", 32), ("fd00::2", 64)])
def test_addresses(machine: Machine, address: str, length: int) -> None:
    _, inner, _ = plug_in(machine)
    wanted = Address(WEB, inner.name, ip_address(address), length, owner=inner.owner)
    assert machine.do(Create(wanted), Create(wanted), netns=WEB) == ["", ""]
    found = read(machine)[wanted.key]
    assert (found, found.owner) == (wanted, inner.owner)
    assert machine.do(Delete(wanted), Delete(wanted), netns=WEB) == ["", ""]
    assert wanted.key not in read(machine)


@pytest.mark.parametrize(("subnet", "metric"), [("10.1.0.0/24", 0), ("fd00::/64", 1024)])
def test_routes(machine: Machine, subnet: str, metric: int) -> None:
    _, inner, _ = plug_in(machine)
    net = ip_network(subnet)
    address = Address(WEB, inner.name, net[2], net.prefixlen, owner=inner.owner)
    default = Route(WEB, ip_network("0.0.0.0/0" if net.version == 4 else "::/0"), inner.name, net[1], metric, owner=inner.owner)
    direct = Route(
        WEB, ip_network("192.0.2.0/24" if net.version == 4 else "fd99::/64"), inner.name, None, metric, owner=inner.owner
    )
    assert machine.do(Create(address), Create(default), Create(direct), netns=WEB) == ["", "", ""]
    found = read(machine)
    assert [(found[r.key], found[r.key].owner) for r in (default, direct)] == [(default, inner.owner), (direct, inner.owner)]
    elsewhere = replace(default, via=net[9])
    assert machine.do(Update(default, elsewhere), netns=WEB) == [""]
    assert read(machine)[default.key] == elsewhere
    parked = replace(elsewhere, via=ip_address("192.0.2.7") if net.version == 4 else net[9]).park(inner.owner or SITE)
    assert machine.do(Create(parked), netns=WEB) == [""]
    assert read(machine)[parked.key] == parked
    for doomed in (elsewhere, direct, parked):
        assert machine.do(Delete(doomed), Delete(doomed), netns=WEB) == ["", ""]
    assert not [r for r in read(machine).values() if isinstance(r, Route)]


def test_tunnels(machine: Machine) -> None:
    _, inner, _ = plug_in(machine)
    spec = VxlanSpec(42, 4789, ip_address("10.99.0.1"), BRIDGE.name)
    tunnel = Link(HOST, "vx-pods", "vxlan", "02:00:00:00:00:05", 1450, spec=spec, owner=SITE)
    flood = [FdbEntry(HOST, tunnel.name, FLOOD_MAC, ip_address(f"10.99.0.{n}"), SITE) for n in (2, 3)]
    known = FdbEntry(HOST, tunnel.name, INNER_MAC, ip_address("10.99.0.2"), SITE)
    neighbour = Neighbour(HOST, BRIDGE.name, ip_address("10.1.0.7"), INNER_MAC, SITE)
    made = [tunnel, *flood, known, neighbour]
    assert machine.do(*map(Create, made)) == [""] * 5
    assert {key: r for key, r in read(machine).items() if r in made} == {r.key: r for r in made}
    twin = replace(tunnel, name="vx-twin", mac="02:00:00:00:00:06")
    assert "File exists" in machine.do(Create(twin))[0]
    moved = replace(known, peer_vtep=ip_address("10.99.0.3"))
    changed = replace(neighbour, mac=OTHER_MAC)
    assert machine.do(Update(known, moved), Update(neighbour, changed)) == ["", ""]
    assert (read(machine)[known.key], read(machine)[neighbour.key]) == (moved, changed)
    for doomed in (moved, *flood, changed):
        assert machine.do(Delete(doomed), Delete(doomed)) == ["", ""]
    assert not [r for r in read(machine).values() if isinstance(r, FdbEntry | Neighbour)]
    assert machine.do(Delete(fresh(machine, tunnel))) == [""]
    assert inner.key in read(machine)


def test_what_is_refused_is_told_and_the_rest_is_done(machine: Machine) -> None:
    _, inner, _ = plug_in(machine)
    small = Link(HOST, "dw-small", "bridge", "02:00:00:00:00:07", 1000, owner=SITE)
    host_end, _, _ = pair(machine, "dwtoo", "eth9")
    gone = replace(host_end, name="dwgone", spec=VethSpec("netns:gone", "eth1", INNER_MAC))
    operations = [
        Create(BRIDGE),
        Create(small),
        Create(Port(HOST, "dwweb", "dw-none", SITE)),
        Create(Address(HOST, "dw-none", ip_address("10.9.0.1"), 24, owner=SITE)),
        Create(Address(HOST, small.name, ip_address("fd09::1"), 64, owner=SITE)),
        Create(Route(HOST, ip_network("10.8.0.0/24"), BRIDGE.name, ip_address("10.7.0.1"), owner=SITE)),
        Create(gone),
        Create(host_end),
    ]
    refused = [bool(answer) for answer in machine.do(*operations)]
    assert refused == [True, False, True, True, True, True, True, False]
    found = read(machine)
    assert {small.key, host_end.key} <= set(found)
    assert gone.key not in found
    route = Route(WEB, ip_network("0.0.0.0/0"), inner.name, ip_address("10.1.0.1"), owner=inner.owner)
    down = replace(route, link="eth9", via=None)
    absent = Create(replace(inner, name="eth7", spec=VethSpec(HOST, "dwseven")))
    assert all(machine.do(Create(route), Create(down), absent, netns=WEB))


def test_a_pair_whose_inner_name_is_taken_is_not_made(machine: Machine) -> None:
    plug_in(machine)
    second, _, _ = pair(machine, "dwsecond", "eth1")
    before = read(machine)
    assert "File exists" in machine.do(Create(second))[0]
    assert read(machine) == before


@pytest.mark.parametrize("name", ["n", "m", "dev", "type", "up"])
def test_names_that_are_words_of_ip(machine: Machine, name: str) -> None:
    host_end, container_end, _ = plug_in(machine, f"h{name}", name)
    assert {host_end.key, container_end.key} <= set(read(machine))
    assert machine.do(Delete(fresh(machine, host_end))) == [""]
    assert container_end.key not in read(machine)


def test_many_links_go_at_once(machine: Machine) -> None:
    bridges = [replace(BRIDGE, name=f"dw-{n}", mac=f"02:00:00:00:01:{n:02x}") for n in range(5)]
    stays = replace(BRIDGE, name="dw-stays", owner=None, mac="02:00:00:00:02:00")
    assert not any(machine.do(*map(Create, [*bridges, stays])))
    found = read(machine)
    assert not any(machine.do(*(Delete(found[bridge.key]) for bridge in bridges)))
    assert read(machine) == {stays.key: stays}
    assert not any(machine.do(*(Delete(found[bridge.key]) for bridge in bridges)))


@pytest.mark.netns
def test_a_foreign_link_in_the_same_group_is_spared(real: Real, monkeypatch: pytest.MonkeyPatch) -> None:
    bridges = [replace(BRIDGE, name=f"dw-{n}", mac=f"02:00:00:00:01:{n:02x}") for n in range(4)]
    assert not any(real.do(*map(Create, bridges)))
    sh(real.host, "ip", "link", "add", "name", "theirs", "type", "bridge")
    sh(real.host, "ip", "link", "set", "dev", "theirs", "group", str(GROUP_BASE + 7))
    found = read(real)
    monkeypatch.setattr(netlink.secrets, "randbelow", lambda _: 7)
    assert not any(real.do(*(Delete(found[bridge.key]) for bridge in bridges)))
    assert [key.ident for key in read(real)] == [("theirs",)]


@pytest.mark.netns
def test_a_forged_alias_is_nobodys(real: Real) -> None:
    """A mark holds for one name and kind, and on the host alone."""
    _, inner, _ = plug_in(real)
    alias = SITE.alias(BRIDGE.name, "bridge")
    sh(real.host, "ip", "link", "add", "name", "copy", "type", "bridge")
    sh(real.host, "ip", "link", "set", "dev", "copy", "alias", alias)
    sh(real.web, "ip", "link", "add", "name", BRIDGE.name, "type", "bridge")
    sh(real.web, "ip", "link", "set", "dev", BRIDGE.name, "alias", alias)
    found = read(real)
    assert [found[Key("link", ns, (name,))].owner for ns, name in ((HOST, "copy"), (WEB, BRIDGE.name))] == [None, None]
    assert found[inner.key].owner == inner.owner


@pytest.mark.netns
def test_a_link_that_took_the_name_is_not_touched(real: Real) -> None:
    """Our requests name indexes: what follows a refused creation cannot hit the link that is in the way."""
    sh(real.host, "ip", "link", "add", "name", BRIDGE.name, "type", "bridge")
    before = sh(real.host, "ip", "-d", "link", "show", "dev", BRIDGE.name)
    address = Address(HOST, BRIDGE.name, ip_address("10.1.0.1"), 24, owner=SITE)
    assert all(real.do(Create(BRIDGE), Create(address)))
    assert sh(real.host, "ip", "-d", "link", "show", "dev", BRIDGE.name) == before
