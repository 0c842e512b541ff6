"""Open vSwitch's bridges and ports as values: keys, marks, comparison, and the commands that a person would type."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest

from ductwork.resources import HOST, Key, Owner, Resource
from ductwork.resources.ovs import BRIDGE, PORT, OvsBridge, OvsPort

LAN = Owner("office", "site", "lan", "", "eth0")
WEB = Owner("office", "site", "lan", "netns:web", "eth1", 77)
MARK = 'external_ids:ductwork="ductwork:office/site/lan//eth0/0#{}"'
BRIDGE_MARK = MARK.format(LAN.alias("ovs0", BRIDGE).rpartition("#")[2])
PORT_MARK = MARK.format(LAN.alias("eth0", PORT).rpartition("#")[2])
DATABASE = "tcp:127.0.0.1:6640"

BARE_BRIDGE, BARE_PORT = OvsBridge("ovs0"), OvsPort("v1", "ovs0")
FULL_BRIDGE = OvsBridge("ovs0", "netdev", "02:00:00:00:00:01", 1400, LAN, DATABASE)
FULL_PORT = OvsPort("v1", "ovs0", 5, (6, 7), "native-untagged", protected=True)
INTERNAL = OvsPort("int0", "ovs0", 7, internal=True, mac="02:00:00:00:00:02", mtu_bytes=1300)
UPLINK = OvsPort("eth0", "ovs0", owner=LAN)


def typed(commands: list[list[str]]) -> list[str]:
    return [" ".join(command) for command in commands]


def place(container: str) -> str:
    raise AssertionError("they are the host's")


@pytest.mark.parametrize(
    ("resource", "created", "deleted"),
    [
        (BARE_BRIDGE, "add-br ovs0", "del-br ovs0"),
        (
            FULL_BRIDGE,
            f'--db={DATABASE} add-br ovs0 -- set Bridge ovs0 datapath_type=netdev other_config:hwaddr="02:00:00:00:00:01" '
            f"{BRIDGE_MARK} -- set Interface ovs0 mtu_request=1400",
            f"--db={DATABASE} del-br ovs0",
        ),
        (BARE_PORT, "add-port ovs0 v1", "del-port ovs0 v1"),
        (
            FULL_PORT,
            "add-port ovs0 v1 -- set Port v1 tag=5 trunks=6,7 vlan_mode=native-untagged protected=true",
            "del-port ovs0 v1",
        ),
        (
            INTERNAL,
            "add-port ovs0 int0 -- set Port int0 tag=7 "
            '-- set Interface int0 type=internal mac="02:00:00:00:00:02" mtu_request=1300',
            "del-port ovs0 int0",
        ),
        (UPLINK, f"add-port ovs0 eth0 -- set Port eth0 {PORT_MARK}", "del-port ovs0 eth0"),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(value.key),
)
def test_commands(resource: Resource, created: str, deleted: str) -> None:
    assert typed(resource.create_argv(place)) == [f"ovs-vsctl {created}"]
    assert typed(resource.delete_argv(place)) == [f"ovs-vsctl {deleted}"]
    assert resource.update_argv(resource, place) == []


@pytest.mark.parametrize(
    ("before", "after", "typed_as"),
    [
        (
            BARE_BRIDGE,
            replace(FULL_BRIDGE, datapath="system"),
            f'--db={DATABASE} set Bridge ovs0 other_config:hwaddr="02:00:00:00:00:01" {BRIDGE_MARK} '
            "-- set Interface ovs0 mtu_request=1400",
        ),
        (
            FULL_BRIDGE,
            replace(BARE_BRIDGE, datapath="netdev"),
            "remove Bridge ovs0 other_config hwaddr -- remove Bridge ovs0 external_ids ductwork "
            "-- clear Interface ovs0 mtu_request",
        ),
        (FULL_BRIDGE, replace(FULL_BRIDGE, mtu_bytes=1500), f"--db={DATABASE} set Interface ovs0 mtu_request=1500"),
        (BARE_PORT, replace(BARE_PORT, tag=4094), "set Port v1 tag=4094"),
        (
            FULL_PORT,
            BARE_PORT,
            "clear Port v1 tag -- clear Port v1 trunks -- clear Port v1 vlan_mode -- set Port v1 protected=false",
        ),
        (INTERNAL, replace(INTERNAL, mac="", tag=8), "set Port int0 tag=8 -- clear Interface int0 mac"),
        (replace(UPLINK, owner=None), UPLINK, f"set Port eth0 {PORT_MARK}"),
    ],
)
def test_changes(before: Resource, after: Resource, typed_as: str) -> None:
    assert typed(after.update_argv(before, place)) == [f"ovs-vsctl {typed_as}"]


def test_marks_pass_a_shell() -> None:
    (command,) = replace(BARE_PORT, owner=WEB).create_argv(place)
    assert shlex.split(shlex.join(command)) == command
    assert command[-1] == f'external_ids:ductwork="{WEB.alias("v1", PORT)}"'


def test_what_they_are() -> None:
    assert (BARE_BRIDGE.key, BARE_PORT.key) == (Key("ovs-bridge", HOST, ("ovs0",)), Key("ovs-port", HOST, ("v1",)))
    assert BARE_BRIDGE.requires() == ()
    assert BARE_PORT.requires() == (Key("link", HOST, ("v1",)), BARE_BRIDGE.key)
    assert INTERNAL.requires() == (BARE_BRIDGE.key,), "it makes its link"
    assert [port.is_uplink for port in (UPLINK, BARE_PORT, replace(UPLINK, owner=WEB))] == [True, False, False]
    assert not (BARE_BRIDGE.collected or BARE_PORT.collected)


def test_a_mark_is_good_for_one_row() -> None:
    bridge, port = replace(BARE_BRIDGE, owner=LAN), OvsPort("ovs0", "ovs1", owner=LAN)
    assert bridge.mark != port.mark != ""
    assert Owner.from_alias(bridge.mark, "ovs0", BRIDGE) == LAN
    assert Owner.from_alias(bridge.mark, "ovs0", PORT) is None
    assert Owner.from_alias(port.mark, "ovs1", PORT) is None
    assert (BARE_BRIDGE.mark, BARE_PORT.mark) == ("", "")


def test_what_is_compared() -> None:
    """Not where the database is: one has several addresses. A port that does nothing is not what anybody wants."""
    assert replace(BARE_BRIDGE, database=DATABASE) == BARE_BRIDGE
    assert replace(BARE_PORT, database=DATABASE) == BARE_PORT
    assert replace(BARE_PORT, dead=True) != BARE_PORT
    assert {"dead", "bridge", "internal"} == BARE_PORT.replace
    assert {"datapath"} == BARE_BRIDGE.replace
