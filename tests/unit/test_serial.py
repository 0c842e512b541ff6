"""Records as JSON and back."""

from __future__ import annotations

import json
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest

from ductwork import serial
from ductwork.drivers.registry import option_types
from ductwork.resources import (
    FLOOD_MAC,
    HOST,
    KINDS,
    Address,
    FdbEntry,
    IptablesRule,
    Key,
    Link,
    Neighbour,
    NftElement,
    NftTable,
    OvsBridge,
    OvsDeaf,
    OvsGuard,
    OvsPort,
    Owner,
    Port,
    Redirect,
    Route,
    Shaper,
    Sysctl,
    VethSpec,
    VxlanSpec,
)
from ductwork.site.load import load_text

OWNER = Owner("office", "site", "pods", "netns:web", "eth1", 2**63)
RESOURCES: list[Any] = [
    Link(HOST, "br", "bridge", "02:00:00:00:00:01", 1500, owner=OWNER, index=7),
    Link(HOST, "v", "veth", "02:00:00:00:00:01", 1500, spec=VethSpec("netns:web", "eth1", "02:00:00:00:00:02"), up=False),
    Link(HOST, "vx", "vxlan", "02:00:00:00:00:01", 1450, spec=VxlanSpec(1, 4789, ip_address("fd00::1"), "eth0")),
    Port(HOST, "v", "br", OWNER),
    OvsBridge("ovs0", "netdev", "02:00:00:00:00:01", 1500, OWNER, "unix:/run/db.sock"),
    OvsPort("v", "ovs0", 100, (100, 200), protected=True, dead=True, owner=OWNER, database="tcp:127.0.0.1:6640"),
    OvsGuard("v", "ovs0", 0x6477 << 48 | 3, ("priority=1,actions=drop",), OWNER, "unix:/run/db.sock"),
    OvsDeaf("v", OWNER),
    Shaper(HOST, "v", 100_000_000, 126_976, OWNER),
    Redirect(HOST, "v", "di", OWNER),
    Address("netns:web", "eth1", ip_address("10.0.0.1"), 24, nodad=False, secondary=True, owner=OWNER),
    Route("netns:web", ip_network("::/0"), "eth1", ip_address("fd00::1"), metric=4_200_000_000, displaces=True),
    Neighbour(HOST, "br", ip_address("fd00::9"), "02:00:00:00:00:09", OWNER),
    FdbEntry(HOST, "vx", FLOOD_MAC, ip_address("10.99.0.2"), OWNER),
    NftTable("inet", "ductwork", (("forward", ("a", "b")), ("nat", ())), script="add table", owner=OWNER),
    NftElement("inet", "ductwork", "local4", ("10.0.0.0/24", "br"), "value", OWNER),
    IptablesRule("ip6", owner=OWNER),
    Sysctl(HOST, "net/ipv4/conf/br/forwarding", "1", link="br"),
]
SITE = """
hosts: {alpha: {address: 10.99.0.1/24}, beta: {address: 10.99.0.2/24}}
networks:
  pods: {driver: vxlan, vni: 7, subnets: [10.1.0.0/24, "fd00:1::/64"], nat: {snat: 10.99.0.1}, mtu: 1400, underlay: eth0,
         host_addresses: {alpha: 10.1.0.251}, allocate: {alpha: 10.1.0.10-10.1.0.20}}
  lan: {driver: bridge, bridge: br-lan, internal: true, hosts: [beta]}
attachments:
  - {container: "netns:web", host: alpha, network: pods, address: [10.1.0.2, "fd00:1::2"], gateway: 10.1.0.1,
     routes: [{to: 10.7.0.0/16, via: 10.1.0.9}], mac: "02:00:00:00:00:01"}
"""


def there_and_back(value: object) -> object:
    return serial.decode(json.loads(json.dumps(serial.encode(value))))


def test_every_kind_is_here() -> None:
    assert {type(resource) for resource in RESOURCES} == set(KINDS)


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda resource: type(resource).__name__)
def test_resources_with_all_their_fields(resource: object) -> None:
    """Equality leaves owners and indexes out; `repr` does not."""
    assert repr(there_and_back(resource)) == repr(resource)
    assert there_and_back(resource) == resource


def test_a_sites_records() -> None:
    site = load_text(SITE)
    assert {type(network.options) for network in site.networks.values()} <= set(option_types().values())
    for record in (*site.networks.values(), *site.attachments):
        assert there_and_back(record) == record


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 0, "text", "", ()),
        (ip_address("10.0.0.1"), (ip_network("fd00::/64"), ip_interface("10.0.0.1/24"))),
        Key("fdb", HOST, ("vx", "02:00:00:00:00:01")),
        Key("route", "netns:web", ("0.0.0.0/0", 0, 254, 0)),
        {"": 1, "eth0": (OWNER, None)},
    ],
    ids=repr,
)
def test_values(value: object) -> None:
    assert there_and_back(value) == value
    assert type(there_and_back(value)) is type(value)


@pytest.mark.parametrize("broken", [{"": "Unknown"}, {"": "Port", "colour": "red"}, {"": "IPv4Address", "of": "x"}, {"of": 1}])
def test_what_is_none_of_ours_is_told(broken: object) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        serial.decode(broken)
