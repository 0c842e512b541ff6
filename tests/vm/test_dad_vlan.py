"""Duplicate addresses in VLANs whose other machines have real sub-interfaces, and beside a bridge that filters."""

from __future__ import annotations

import json
from collections.abc import Callable
from ipaddress import ip_address

import pytest
from conftest import inside, sh, until

from ductwork.backends.dad import probe
from ductwork.resources import Probe

pytestmark = pytest.mark.netns

V4, V6 = ip_address("10.0.0.5"), ip_address("2001:db8::12:3456")
FREE4, FREE6 = ip_address("10.0.0.6"), ip_address("2001:db8::12:3457")
HOLDER = "02:00:00:00:ab:02"


@pytest.fixture
def host(netns: Callable[[str], str]) -> str:
    """A host whose NIC `eth0` ends at another machine, which has both addresses in VLAN 100 alone."""
    ns, holder = netns("host"), netns("holder")
    sh(ns, "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "address", HOLDER, "netns", holder)
    sub_interface(holder, 100)
    sh(holder, "sysctl", "-qw", "net.ipv4.conf.all.arp_ignore=1")  # else it answers for them untagged as well
    sh(ns, "ip", "link", "set", "dev", "eth0", "up")
    for address in (V4, V6):
        sh(holder, "ip", "address", "add", str(address), "dev", "eth0.100", *(["nodad"] if address.version == 6 else []))
    assert until(lambda: state(ns, "eth0") == "UP" and state(holder, "eth0.100") == "UP")
    return ns


def sub_interface(ns: str, vlan: int) -> str:
    name = f"eth0.{vlan}"
    sh(ns, "ip", "link", "set", "dev", "eth0", "up")
    sh(ns, "ip", "link", "add", "link", "eth0", "name", name, "type", "vlan", "id", str(vlan))
    sh(ns, "ip", "link", "set", "dev", name, "up")
    return name


def state(ns: str, device: str) -> str:
    return str(json.loads(sh(ns, "ip", "-j", "link", "show", "dev", device))[0]["operstate"])


def found(ns: str, device: str, vlan: int) -> set[str]:
    """The addresses in use by the holder; nobody else may be named."""
    conflicts = inside(ns, lambda: probe([Probe(device, a, vlan) for a in (V4, V6, FREE4, FREE6)], 2.0))
    assert set(conflicts.values()) <= {HOLDER}
    return {str(asked.address) for asked in conflicts}


def test_before_there_is_a_sub_interface(host: str) -> None:
    assert found(host, "eth0", 100) == {str(V4), str(V6)}
    assert found(host, "eth0", 200) == found(host, "eth0", 0) == set()


@pytest.mark.parametrize("ipv6", ["0", "1"], ids=["with IPv6", "without IPv6"])
def test_where_there_is_one(host: str, ipv6: str) -> None:
    """Asked by it, or by its parent with the tag."""
    own, other = sub_interface(host, 100), sub_interface(host, 200)
    for device in ("eth0", own, other):
        sh(host, "sysctl", "-qw", f"net/ipv6/conf/{device}/disable_ipv6={ipv6}")
    assert until(lambda: state(host, own) == state(host, other) == "UP")
    assert found(host, "eth0", 100) == found(host, own, 0) == {str(V4), str(V6)}
    assert found(host, "eth0", 200) == found(host, other, 0) == found(host, "eth0", 0) == set()


def test_a_port_of_a_filtering_bridge_knows_tags_that_the_bridge_does_not(host: str) -> None:
    sh(host, "ip", "link", "add", "name", "br0", "type", "bridge", "vlan_filtering", "1")
    sh(host, "ip", "link", "set", "dev", "br0", "up")
    sh(host, "ip", "link", "set", "dev", "eth0", "master", "br0")
    assert until(lambda: state(host, "br0") == "UP")
    assert found(host, "eth0", 100) == {str(V4), str(V6)}
    assert found(host, "br0", 100) == set(), "which is why the NIC is asked"
    for device, self in (("eth0", []), ("br0", ["self"])):
        sh(host, "bridge", "vlan", "add", "dev", device, "vid", "100", *self)
    assert found(host, "br0", 100) == {str(V4), str(V6)}
