"""The machine that this tier runs on: Debian's kernel, and in it one of each thing that the tier exists for."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

import pytest
from conftest import sh

LINKS = {
    "vlan": "link add link parent name made type vlan id 100",
    "bridge": "link add name made type bridge vlan_filtering 1",
    "macvlan": "link add link parent name made type macvlan mode bridge",
    "ipvlan": "link add link parent name made type ipvlan mode l3s",
    "ifb": "link add name made type ifb",
    "dummy": "link add name made type dummy",
    "wireguard": "link add name made type wireguard",
}
"""Kind → what makes one."""


@pytest.fixture
def host(netns: Callable[[str], str]) -> str:
    """A namespace with a NIC `parent`."""
    ns = netns("host")
    sh(ns, "ip", "link", "add", "name", "parent", "type", "veth", "peer", "name", "far")
    return ns


def test_it_is_debians() -> None:
    assert os.uname().release.startswith("6.1.")
    assert "Debian" in os.uname().version


def test_links(host: str) -> None:
    for kind, words in LINKS.items():
        sh(host, "ip", *words.split())
        (made,) = json.loads(sh(host, "ip", "-d", "-j", "link", "show", "dev", "made"))
        assert made["linkinfo"]["info_kind"] == kind
        sh(host, "ip", "link", "del", "dev", "made")


def test_rates(host: str) -> None:
    """tbf on the one way; an ifb by ingress, u32 and mirred on the other; netem for those who test losses."""
    sh(host, "ip", "link", "add", "name", "back", "type", "ifb")
    for words in (
        "qdisc add dev parent root tbf rate 10mbit burst 32kbit latency 50ms",
        "qdisc add dev parent ingress",
        "filter add dev parent parent ffff: protocol all u32 match u32 0 0 action mirred egress redirect dev back",
        "qdisc add dev far root netem delay 1ms",
    ):
        sh(host, "tc", *words.split())
    assert {qdisc["kind"] for qdisc in json.loads(sh(host, "tc", "-j", "qdisc", "show"))} >= {"tbf", "ingress", "netem"}
