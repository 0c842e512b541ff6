"""Bridges and ports of Open vSwitch: made, read, changed and removed in a real database with a real switch."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import ovs_host
import pytest
from conftest import inside, ping, run, sh, until
from ovs_host import OvsHost

from ductwork.backends import kernel
from ductwork.backends.ovsdb.backend import OvsdbBackend
from ductwork.backends.ovsdb.client import Client
from ductwork.resources import HOST, Create, Delete, Operation, Owner, Resource, Update
from ductwork.resources.ovs import BRIDGE, MARK, PORT, OvsBridge, OvsPort

pytestmark = pytest.mark.netns

LAN = Owner("office", "site", "lan", "", "eth0")
WEB = Owner("office", "site", "lan", "netns:web", "eth1", 2**63)
MAC, OTHER_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"


class Host:
    """A host with Open vSwitch, and what its back end is told and tells."""

    def __init__(self, ovs: OvsHost, make: Callable[[str], str]) -> None:
        self.ovs = ovs
        self.ns = ovs.netns
        self.make = make
        self.gates: list[str] = []
        self.backend = OvsdbBackend(self.gates.append, [ovs.socket], wait_seconds=10)
        self.bridge = OvsBridge("ovs0", "netdev", owner=LAN, database=ovs.socket)

    def port(self, link: str, tag: int | None = None, **others: Any) -> OvsPort:
        return OvsPort(link, "ovs0", tag, **{"owner": WEB, "database": self.ovs.socket, **others})

    def errors(self, *operations: Operation) -> list[str]:
        outcomes = inside(self.ns, lambda: self.backend.apply(HOST, operations))
        assert [outcome.operation for outcome in outcomes] == list(operations)
        return [outcome.error for outcome in outcomes]

    def apply(self, *operations: Operation) -> None:
        assert self.errors(*operations) == [""] * len(operations)

    def read(self, links: frozenset[str] | None = None) -> list[Resource]:
        return inside(self.ns, lambda: self.backend.read(HOST, links))

    def ports(self) -> dict[str, OvsPort]:
        return {r.link: r for r in self.read() if isinstance(r, OvsPort)}

    def plug(self, link: str, address: str = "") -> str:
        """A container behind the link, with this address."""
        ns = self.make(link)
        self.cable(link, ns)
        if address:
            sh(ns, "ip", "address", "add", f"{address}/24", "dev", "eth1")
        return ns

    def cable(self, link: str, ns: str) -> None:
        peer = ["peer", "name", "eth1", "address", f"02:00:00:00:01:{int(link[1:]):02}", "netns", ns]
        sh(self.ns, "ip", "link", "add", "name", link, "up", "type", "veth", *peer)
        sh(ns, "ip", "link", "set", "dev", "eth1", "up")

    def links(self) -> dict[str, Any]:
        return {link["ifname"]: link for link in json.loads(sh(self.ns, "ip", "-d", "-j", "link"))}

    def get(self, table: str, row: str, column: str) -> str:
        return self.ovs.vsctl("get", table, row, column).strip()

    def rows(self) -> str:
        """All that an administrator has set, but for what changes by itself."""
        columns = {
            "Bridge": "name,datapath_type,other_config,external_ids,fail_mode",
            "Port": "name,tag,trunks,vlan_mode,protected,external_ids,other_config",
            "Interface": "name,type,mtu_request,mac,options,external_ids",
        }
        listed = (self.ovs.vsctl("-f", "csv", f"--columns={which}", "list", table) for table, which in columns.items())
        return "\n".join("\n".join(sorted(table.splitlines())) for table in listed)


@pytest.fixture
def host(netns: Callable[[str], str], tmp_path: Path) -> Iterator[Host]:
    missing = ovs_host.missing()
    if missing and os.environ.get("CI") != "true":
        pytest.skip(missing)
    assert not missing
    with OvsHost(netns("host"), tmp_path / "ovs") as ovs:
        yield Host(ovs, netns)


# made, read, changed, removed


def test_what_is_applied_is_read_back(host: Host) -> None:
    assert host.read() == []
    for link in ("v1", "v2", "v3"):
        host.plug(link)
    wanted = [
        replace(host.bridge, mac=MAC, mtu_bytes=1400),
        host.port("int0", 7, internal=True, mac=OTHER_MAC, mtu_bytes=1300),
        host.port("v1", 100),
        host.port("v2", trunks=(10, 4094), protected=True),
        host.port("v3", 5, trunks=(6,), vlan_mode="native-untagged", owner=LAN),
    ]
    host.apply(*map(Create, wanted))
    assert host.gates == ["before", "after"], "one transaction"
    assert host.read() == wanted
    assert all(r.owner for r in host.read())
    links = host.links()
    assert (links["ovs0"]["address"], links["ovs0"]["mtu"]) == (MAC, 1400)
    assert (links["int0"]["address"], links["int0"]["mtu"]) == (OTHER_MAC, 1300)
    assert links["v1"]["promiscuity"] == 1


def test_applying_twice_and_deleting_leave_nothing(host: Host) -> None:
    """Of a bridge in user space nothing stays behind: neither its device nor that of the data path (`ovs-netdev`)."""
    host.plug("v1")
    before, links = host.rows(), host.links()
    wanted = [host.bridge, host.port("v1", 100)]
    host.apply(*map(Create, wanted))
    once = host.rows()
    host.apply(*map(Create, wanted))
    assert host.rows() == once
    host.apply(*map(Delete, reversed(wanted)))
    assert host.rows() == before
    assert {n: link["flags"] for n, link in host.links().items()} == {n: link["flags"] for n, link in links.items()}
    sent = len(host.gates)
    host.apply(*map(Delete, reversed(wanted)))
    assert len(host.gates) == sent, "there was nothing to send"


def test_deleting_a_bridge_deletes_its_ports(host: Host) -> None:
    host.plug("v1")
    port = host.port("v1", 100)
    host.apply(Create(host.bridge), Create(port))
    host.apply(Delete(host.bridge))
    assert host.read() == []
    assert "v1" not in host.ovs.vsctl("list", "Interface")
    host.apply(Create(host.bridge), Create(port))
    host.apply(Delete(host.bridge), Delete(port))
    assert host.read() == []


@pytest.mark.parametrize(
    "changed",
    [
        {"tag": 200},
        {"tag": None},
        {"tag": None, "trunks": (7, 8)},
        {"protected": True},
        {"vlan_mode": "dot1q-tunnel"},
        {"owner": WEB._replace(cookie=7)},
    ],
    ids=str,
)
def test_ports_change_in_place_and_back(host: Host, changed: dict[str, Any]) -> None:
    host.plug("v1")
    port = host.port("v1", 100)
    host.apply(Create(host.bridge), Create(port))
    host.ovs.vsctl("set", "Port", "v1", "external_ids:theirs=1", "other_config:theirs=1")
    number, rows = host.get("Interface", "v1", "ofport"), host.rows()
    after = replace(port, **changed)
    host.apply(Update(port, after))
    assert host.read() == [host.bridge, after]
    assert host.ports()["v1"].owner == after.owner
    host.apply(Update(after, port))
    assert host.rows() == rows
    assert host.get("Interface", "v1", "ofport") == number, "it has stayed in the switch"


def test_bridges_change_in_place_and_back(host: Host) -> None:
    host.apply(Create(host.bridge))
    host.ovs.vsctl("set", "Bridge", "ovs0", "external_ids:theirs=1", "other_config:theirs=1")
    rows, chosen = host.rows(), host.links()["ovs0"]["address"]
    after = replace(host.bridge, mac=MAC, mtu_bytes=1280, owner=LAN._replace(interface="eth7"))
    host.apply(Update(host.bridge, after))
    assert host.read() == [after]
    assert [r.owner for r in host.read()] == [after.owner]
    link = host.links()["ovs0"]
    assert (link["address"], link["mtu"]) == (MAC, 1280)
    host.apply(Update(after, replace(after, mac=OTHER_MAC)))
    assert host.links()["ovs0"]["address"] == OTHER_MAC
    host.apply(Update(replace(after, mac=OTHER_MAC), host.bridge))
    assert host.rows() == rows
    assert host.links()["ovs0"]["address"] == chosen, "the one that Open vSwitch has made up"


def test_a_port_moves_to_another_bridge(host: Host) -> None:
    """Which is a replacement: it is in two transactions, or Open vSwitch would keep what it has."""
    host.plug("v1")
    other = replace(host.bridge, name="ovs1")
    port = host.port("v1", 100)
    host.apply(Create(host.bridge), Create(other), Create(port))
    host.gates.clear()
    moved = replace(port, bridge="ovs1")
    host.apply(Delete(port), Create(moved))
    assert host.gates == ["before", "after"] * 2
    assert host.read() == [host.bridge, other, moved]


def test_a_bridge_that_is_made_anew_has_nothing_of_the_old_one(host: Host) -> None:
    one, two = host.plug("v1", "10.0.0.1"), host.plug("v2", "10.0.0.2")
    ports = [host.port("v1"), host.port("v2")]
    wanted = [host.bridge, *ports]
    host.apply(*map(Create, wanted))
    host.ovs.ofctl("add-flow", "ovs0", "priority=1,actions=drop")
    assert not ping(one, "10.0.0.2")
    host.apply(Delete(host.bridge), *map(Create, wanted))
    assert host.read() == wanted
    assert until(lambda: ping(one, "10.0.0.2")), "the neighbour is asked for once in a second"
    assert ping(two, "10.0.0.1")


def test_reading_by_name(host: Host) -> None:
    for link in ("v1", "v2"):
        host.plug(link)
    ports = [host.port("v1", 100), host.port("v2")]
    bridge = replace(host.bridge, mtu_bytes=1300)
    host.apply(Create(bridge), *map(Create, ports))
    assert host.read(frozenset({"v1", "nothing"})) == ports[:1]
    assert host.read(frozenset({"ovs0", "v2"})) == [bridge, ports[1]]
    assert host.read(frozenset()) == []
    assert inside(host.ns, lambda: host.backend.read("netns:web", None)) == []


def test_more_than_a_few_in_one_transaction(host: Host) -> None:
    for number in range(20):
        sh(host.ns, "ip", "link", "add", "name", f"v{number:02}", "type", "veth", "peer", "name", f"w{number:02}")
    ports = [host.port(f"v{number:02}", number + 1) for number in range(20)]
    host.apply(Create(host.bridge), *map(Create, ports))
    assert host.read() == [host.bridge, *ports]
    host.apply(*map(Delete, ports))
    assert host.read() == [host.bridge]
    assert host.gates == ["before", "after"] * 2


# whose is it


def test_foreign_bridges_and_ports_are_seen_and_left_alone(host: Host) -> None:
    host.plug("v1")
    host.plug("v2")
    host.ovs.vsctl("add-br", "theirs", "--", "set", "Bridge", "theirs", "datapath_type=netdev", "external_ids:a=b")
    host.ovs.vsctl("add-port", "theirs", "v1", "tag=9", "--", "set", "Port", "v1", "external_ids:c=d")
    host.ovs.vsctl("add-bond", "theirs", "bond0", "v2", "nothing")
    pair = (("patch0", "patch1"), ("patch1", "patch0"))
    cabled = [["add-port", "theirs", a, "--", "set", "Interface", a, "type=patch", f"options:peer={b}"] for a, b in pair]
    host.ovs.vsctl(*cabled[0], "--", *cabled[1])
    before = host.rows()
    found = {str(r.key): r for r in host.read()}
    assert list(found) == ["ovs-bridge theirs", *(f"ovs-port {link}" for link in ("nothing", "patch0", "patch1", "v1", "v2"))]
    assert not any(r.owner for r in found.values())
    assert [r.link for r in found.values() if isinstance(r, OvsPort) and r.dead] == ["nothing"]
    host.apply(Create(host.bridge), Create(host.port("own", internal=True)))
    host.apply(Delete(host.bridge))
    assert host.rows() == before


def test_ours_on_a_foreign_bridge(host: Host) -> None:
    host.plug("v1")
    host.ovs.vsctl("add-br", "ovs0", "--", "set", "Bridge", "ovs0", "datapath_type=netdev")
    before = host.rows()
    port = host.port("v1", 100)
    host.apply(Create(port))
    assert host.read() == [replace(host.bridge, owner=None), port]
    host.apply(Delete(port))
    assert host.rows() == before


def test_a_copied_mark_proves_nothing(host: Host) -> None:
    for link in ("v1", "v2"):
        host.plug(link)
    host.apply(Create(host.bridge), Create(host.port("v1", 100)))
    mark = json.loads(host.get("Port", "v1", f"external_ids:{MARK}"))
    assert Owner.from_alias(mark, "v1", PORT) == WEB
    assert Owner.from_alias(mark, "v1", BRIDGE) is None
    host.ovs.vsctl("add-port", "ovs0", "v2", f'external_ids:{MARK}="{mark}"')
    assert (host.ports()["v1"].owner, host.ports()["v2"].owner) == (WEB, None)


@pytest.mark.parametrize("what", ["bridge", "port"])
def test_what_is_not_ours_any_more_is_not_touched(host: Host, what: str) -> None:
    """Somebody has made another under its name since we looked."""
    host.plug("v1")
    port = host.port("v1", 100)
    host.apply(Create(host.bridge), Create(port))
    host.ovs.vsctl("del-br", "ovs0")
    host.ovs.vsctl("add-br", "ovs0", "--", "set", "Bridge", "ovs0", "datapath_type=netdev")
    host.ovs.vsctl("add-port", "ovs0", "v1")
    before = host.rows()
    ours: OvsBridge | OvsPort = host.bridge if what == "bridge" else port
    for operation in (Delete(ours), Update(ours, ours)):
        assert host.errors(operation) == [f"{ours.key} is not ductwork's any more"]
    assert host.rows() == before


def test_what_is_in_the_way_stays(host: Host) -> None:
    host.plug("v1")
    host.ovs.vsctl("add-br", "ovs0", "--", "set", "Bridge", "ovs0", "datapath_type=netdev")
    host.ovs.vsctl("add-port", "ovs0", "v1")
    with suppress(AssertionError):  # dead
        host.ovs.vsctl("add-port", "ovs0", "nothing")
    before, gates = host.rows(), len(host.gates)
    assert host.errors(Create(host.bridge)) == ["there is ovs-bridge ovs0 already, and is not ductwork's"]
    for link in ("v1", "nothing"):
        assert host.errors(Create(host.port(link))) == [f"there is ovs-port {link} already, and is not ductwork's"]
    assert (host.rows(), len(host.gates)) == (before, gates), "nothing was sent"


# errors


def test_the_whole_fails_together(host: Host) -> None:
    """By what the database refuses, in its own words, and by what is found wrong before."""
    host.plug("v1")
    before = host.rows()
    operations = [Create(host.bridge), Create(host.port("v1", 100)), Create(host.port("int0", 5000, internal=True))]
    errors = host.errors(*operations)
    assert errors == [errors[0]] * 3
    assert "5000 is not in the valid range 0 to 4095" in errors[0]
    assert host.gates == ["before", "after"]
    operations[2] = Create(replace(host.port("int0", internal=True), bridge="nowhere"))
    assert host.errors(*operations) == ["there is no Open vSwitch bridge nowhere"] * 3
    assert host.errors(Update(host.port("v1"), host.port("v1", 5))) == ["there is no ovs-port v1 any more"]
    assert len(host.gates) == 2
    assert host.rows() == before


def test_what_the_switch_cannot_set_up_is_an_error_of_its_own(host: Host) -> None:
    """The database takes it; ovs-vswitchd complains afterwards. The rows stay, marked, and can be removed."""
    sh(host.ns, "ip", "link", "add", "name", "taken", "type", "bridge")
    ports = [host.port("nothing", 1), host.port("int0", internal=True), host.port("taken", internal=True)]
    assert host.errors(*map(Create, (host.bridge, *ports))) == [
        *("", "could not open network device nothing (No such device)"),
        *("", "could not open network device taken (Invalid argument)"),
    ]
    assert {link: port.dead for link, port in host.ports().items()} == {"nothing": True, "int0": False, "taken": True}
    host.apply(Delete(ports[2]))
    taken = replace(host.bridge, name="taken")
    assert host.errors(Create(taken)) == ["could not open network device taken (Invalid argument)"]
    host.apply(Delete(taken), Delete(host.bridge))
    assert host.read() == []
    assert host.links()["taken"]["linkinfo"]["info_kind"] == "bridge", "whose name it was"


def test_a_data_path_that_the_kernel_has_not(host: Host) -> None:
    if not kernel.missing(["openvswitch"]):
        pytest.skip("this kernel has Open vSwitch's data path")
    assert host.errors(Create(replace(host.bridge, datapath="system"))) == ["ovs-vswitchd could not set it up; see its log"]


def test_without_the_switch_nothing_is_written(host: Host) -> None:
    """It would stay for ever: ovs-vswitchd 3.1 makes a bridge's devices persistent in user space, and forgets those of a bridge
    that was deleted while it did not run."""
    host.apply(Create(host.bridge))
    host.ovs.kill_switch()
    before = host.rows()
    said = "ovs-vswitchd does not run"
    assert host.backend.available(host.ovs.socket) == f"{said}: systemctl start openvswitch-switch"
    assert host.errors(Create(host.port("v1")), Delete(host.bridge)) == [said] * 2
    assert host.rows() == before
    assert host.read() == [host.bridge], "what is written there is there"
    host.ovs.start_switch()
    assert host.backend.available(host.ovs.socket) == ""
    host.apply(Delete(host.bridge))
    assert set(host.links()) == {"lo"}


def test_a_switch_that_dies_meanwhile(host: Host) -> None:
    def kill(moment: str) -> None:
        if moment == "before":
            host.ovs.kill_switch()

    host.backend = OvsdbBackend(kill, [host.ovs.socket])
    assert host.errors(Create(host.bridge)) == ["ovs-vswitchd does not run, and has not done it"]
    host.ovs.start_switch()
    assert host.read() == [host.bridge]
    assert "ovs0" in host.links()


def test_without_the_database(host: Host) -> None:
    host.apply(Create(host.bridge))
    host.ovs.kill_database()
    said = f"ovsdb-server does not answer at {host.ovs.socket}: no such file or directory"
    assert host.backend.available(host.ovs.socket) == f"{said}: systemctl start openvswitch-switch"
    assert host.read() == []
    assert host.errors(Delete(host.bridge)) == [said]
    host.ovs.start_database()
    assert host.read() == [host.bridge]


def test_not_installed(host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("OVS_RUNDIR", str(tmp_path))
    assert OvsdbBackend().available() == "Open vSwitch is needed, and is not installed: apt install openvswitch-switch"
    assert OvsdbBackend().read(HOST, None) == []


def test_this_machines_own_database_is_where_ovs_vsctl_looks(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVS_RUNDIR", str(host.ovs.directory))
    host.backend = OvsdbBackend()
    host.apply(Create(replace(host.bridge, database="")))
    assert host.read() == [host.bridge]
    both = OvsdbBackend(databases=[host.ovs.socket])
    assert inside(host.ns, lambda: both.read(HOST, None)) == [host.bridge], "one database, under two addresses, read once"


# links that go


def test_a_port_whose_link_has_gone_is_dead(host: Host) -> None:
    """At once, whoever has made it."""
    two = host.plug("v2")
    port = host.port("v2")
    host.apply(Create(host.bridge))
    type_in(host, (Create(port),))
    assert not host.ports()["v2"].dead
    run("ip", "netns", "del", two)
    assert until(lambda: "v2" not in host.links())
    assert host.ports()["v2"].dead
    host.apply(Delete(port))
    assert host.read() == [host.bridge]


def test_a_port_whose_link_has_come_back_is_dead(host: Host) -> None:
    """Open vSwitch sends there, and hears nothing from it."""
    one, two = host.plug("v1", "10.0.0.1"), host.plug("v2", "10.0.0.2")
    ports = [host.port("v1"), host.port("v2")]
    host.apply(Create(host.bridge), *map(Create, ports))
    assert ping(one, "10.0.0.2")
    run("ip", "netns", "del", two)
    assert until(lambda: "v2" not in host.links())
    run("ip", "netns", "add", two)
    host.cable("v2", two)
    sh(two, "ip", "address", "add", "10.0.0.2/24", "dev", "eth1")
    assert not ping(one, "10.0.0.2"), "if it does now, dead ports need not be made anew"
    assert host.ports()["v2"].dead
    host.gates.clear()
    host.apply(Create(ports[1]))
    assert host.gates == ["before", "after"] * 2
    assert until(lambda: ping(one, "10.0.0.2")), "the neighbour is asked for once in a second"
    assert host.read() == [host.bridge, *ports]


def test_a_link_replaced_at_once(host: Host) -> None:
    """Before anybody has seen it go."""
    one, two = host.plug("v1", "10.0.0.1"), host.plug("v2", "10.0.0.2")
    host.apply(Create(host.bridge), *map(Create, (host.port("v1"), host.port("v2"))))
    lines = f"link del v2\nlink add name v2 up type veth peer name eth1 address 02:00:00:00:01:02 netns {two}\n"
    sh(host.ns, "sh", "-c", f"printf %s {shlex.quote(lines)} | ip -batch -")
    sh(two, "ip", "address", "add", "10.0.0.2/24", "dev", "eth1")
    sh(two, "ip", "link", "set", "dev", "eth1", "up")
    found = host.ports()["v2"]
    assert found.dead
    assert not ping(one, "10.0.0.2")
    host.apply(Delete(found), Create(host.port("v2")))
    assert until(lambda: ping(one, "10.0.0.2")), "the neighbour is asked for once in a second"


def test_a_killed_switch_takes_up_where_it_was(host: Host) -> None:
    """In user space nothing passes meanwhile. The devices stay, with their addresses."""
    one = host.plug("v1", "10.0.0.1")
    host.apply(Create(host.bridge), Create(host.port("v1")))
    sh(host.ns, "ip", "address", "add", "10.0.0.9/24", "dev", "ovs0")
    sh(host.ns, "ip", "link", "set", "dev", "ovs0", "up")
    assert ping(one, "10.0.0.9")
    before = host.read()
    host.ovs.kill_switch()
    assert host.read() == before
    host.ovs.start_switch()
    assert host.read() == before
    assert ping(one, "10.0.0.9")


# the commands of `plan --format commands`


def test_printed_commands_do_the_same(host: Host) -> None:
    for link in ("v1", "v2"):
        host.plug(link)
    created = [
        replace(host.bridge, mac=MAC, mtu_bytes=1400),
        host.port("int0", 7, internal=True, mac=OTHER_MAC, mtu_bytes=1300),
        host.port("v1", 100),
        host.port("v2", trunks=(10, 11), protected=True),
    ]
    changed = [
        replace(host.bridge, mac=OTHER_MAC, owner=LAN._replace(interface="eth7")),
        host.port("int0", internal=True),
        host.port("v1", trunks=(5,), vlan_mode="native-tagged"),
        host.port("v2", 9, owner=WEB._replace(cookie=1)),
    ]
    updates = [Update(before, after) for before, after in zip(created, changed, strict=True)]
    back = [Update(after, before) for before, after in zip(created, changed, strict=True)]
    deletes = [Delete(r) for r in reversed(created)]
    steps: list[list[Operation]] = [[*map(Create, created)], [*updates], [*back], [*deletes]]
    seen = []
    for do in (host.apply, lambda *operations: type_in(host, operations)):
        seen.append([])
        for operations in steps:
            do(*operations)
            seen[-1].append((host.read(), [r.owner for r in host.read()], without_our_notes(host.rows())))
    assert seen[0] == seen[1]
    assert [found for found, _, _ in seen[0]] == [created, changed, created, []]


def type_in(host: Host, operations: tuple[Operation, ...]) -> None:
    lines = [shlex.join(argv) for operation in operations for argv in operation.argv(lambda name: name)]
    assert len(lines) == len(operations)
    sh(host.ns, "sh", "-ec", "\n".join(lines))


def without_our_notes(rows: str) -> str:
    """The index of a port's link, which no command knows."""
    return re.sub(r', ductwork-ifindex="+\d+"+', "", rows)


# the connection


def test_by_tcp(host: Host) -> None:
    host.ovs.vsctl("set-manager", "ptcp:6640:127.0.0.1", "ptcp:6640:[::1]")
    for address in ("tcp:127.0.0.1:6640", "tcp:127.0.0.1", "tcp:[::1]:6640", "tcp:[::1]"):
        backend = OvsdbBackend()
        wanted = replace(host.bridge, database=address)
        assert until(lambda b=backend, a=address: inside(host.ns, lambda: b.available(a)) == "")
        outcomes = inside(host.ns, lambda b=backend, w=wanted: b.apply(HOST, [Create(w)]))
        assert [outcome.error for outcome in outcomes] == [""]
        found = inside(host.ns, lambda b=backend: b.read(HOST, None))
        assert [(r, r.database) for r in found if isinstance(r, OvsBridge)] == [(wanted, address)], "it knows where now"
        host.apply(Delete(host.bridge))


def test_the_database_is_told_that_it_is_empty(host: Host) -> None:
    with Client(host.ovs.socket) as client:
        client.transact([{"op": "delete", "table": "Open_vSwitch", "where": []}])
    assert host.errors(Create(host.bridge)) == ["the database of Open vSwitch is empty: ovs-vsctl init"]
    assert host.read() == []
