"""In which VLAN an attachment is, as `ps` tells it: of NICs and bridges that this machine's kernel may not have."""

from __future__ import annotations

import pytest

from ductwork.drivers import Facts
from ductwork.goals import Observation
from ductwork.inspect.ps import rows
from ductwork.resources import (
    HOST,
    IpvlanSpec,
    Link,
    MacvlanSpec,
    OvsPort,
    Owner,
    Port,
    PortVlans,
    Resource,
    VethSpec,
    VlanSpec,
)
from ductwork.resources import state as keyed

WEB = Owner("office", "site", "lan", "netns:web", "eth1")
MAC = "02:00:00:00:00:01"
NIC = Link(HOST, "eth0", "", MAC, 1500)
SUB = Link(HOST, "eth0.100", "vlan", MAC, 1500, spec=VlanSpec("eth0", 100), owner=Owner("office"))
PAIR = [
    Link(HOST, "dwweb", "veth", MAC, 1500, spec=VethSpec("netns:web", "eth1"), owner=WEB),
    Link("netns:web", "eth1", "veth", MAC, 1500, spec=VethSpec(HOST, "dwweb"), owner=WEB),
]


def of(*resources: Resource) -> tuple[str, str, int | None]:
    state = keyed([*resources])
    [row] = rows(Observation(state, Facts(state)), {})
    return row.bridge, row.parent, row.vlan


@pytest.mark.parametrize(("kind", "spec"), [("macvlan", MacvlanSpec), ("ipvlan", IpvlanSpec)])
def test_the_vlan_of_a_nic(kind: str, spec: type[MacvlanSpec | IpvlanSpec]) -> None:
    def on(parent: str) -> Link:
        return Link("netns:web", "eth1", kind, MAC, 1500, spec=spec(parent, "bridge"), owner=WEB)

    assert of(NIC, SUB, on("eth0.100")) == ("", "eth0", 100)
    assert of(NIC, on("eth0")) == ("", "eth0", None)


@pytest.mark.parametrize(
    ("port", "vlan"),
    [
        (Port(HOST, "dwweb", "br0", WEB), None),
        (Port(HOST, "dwweb", "br0", WEB, PortVlans(100)), 100),
        (Port(HOST, "dwweb", "br0", WEB, PortVlans(100, (200,))), None),
        (Port(HOST, "dwweb", "br0", WEB, PortVlans(0)), None),
        (OvsPort("dwweb", "br0", tag=100, owner=WEB), 100),
        (OvsPort("dwweb", "br0", trunks=(100, 200), owner=WEB), None),
        (OvsPort("dwweb", "br0", tag=100, vlan_mode="native-untagged", owner=WEB), None),
    ],
)
def test_the_vlan_of_an_access_port_and_of_no_trunk(port: Port | OvsPort, vlan: int | None) -> None:
    assert of(*PAIR, port) == ("br0", "", vlan)
    assert of(*PAIR) == ("", "", None)
