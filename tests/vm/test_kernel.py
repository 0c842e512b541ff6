"""The machine that this tier runs on: Debian's kernel, and in it one of each thing that the tier exists for."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import sh
from docker_host import DockerHost

LINKS = {
    "802.1q": ("link add link parent name made type vlan id 100", "vlan"),
    "a bridge that filters VLANs": ("link add name made type bridge vlan_filtering 1", "bridge"),
    "macvlan": ("link add link parent name made type macvlan mode bridge", "macvlan"),
    "ipvlan": ("link add link parent name made type ipvlan mode l3s", "ipvlan"),
    "ifb": ("link add name made type ifb", "ifb"),
    "dummy": ("link add name made type dummy", "dummy"),
    "wireguard": ("link add name made type wireguard", "wireguard"),
}


@pytest.fixture
def host(netns: Callable[[str], str]) -> str:
    """A namespace with a NIC `parent`."""
    ns = netns("host")
    sh(ns, "ip", "link", "add", "name", "parent", "type", "veth", "peer", "name", "far")
    return ns


def test_it_is_debians() -> None:
    assert os.uname().release.startswith("6.1.")
    assert "Debian" in os.uname().version


@pytest.mark.parametrize(("words", "kind"), LINKS.values(), ids=LINKS.keys())
def test_links(host: str, words: str, kind: str) -> None:
    sh(host, "ip", *words.split())
    (made,) = json.loads(sh(host, "ip", "-d", "-j", "link", "show", "dev", "made"))
    assert made["linkinfo"]["info_kind"] == kind


def test_a_filtering_bridge_has_vlans_per_port(host: str) -> None:
    sh(host, "ip", "link", "add", "name", "lan", "type", "bridge", "vlan_filtering", "1")
    sh(host, "ip", "link", "set", "dev", "parent", "master", "lan")
    sh(host, "bridge", "vlan", "add", "dev", "parent", "vid", "100", "pvid", "untagged")
    ports = json.loads(sh(host, "bridge", "-j", "vlan", "show"))
    assert [vlan["vlan"] for port in ports if port["ifname"] == "parent" for vlan in port["vlans"]] == [1, 100]


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


def test_the_data_path_of_open_vswitch(host: str) -> None:
    sh(host, "ovs-dpctl", "add-dp", "system@made")
    try:
        sh(host, "ovs-dpctl", "add-if", "system@made", "parent")
        assert "parent" in sh(host, "ovs-dpctl", "show", "system@made")
    finally:
        sh(host, "ovs-dpctl", "del-dp", "system@made")


def test_two_docker_engines(netns: Callable[[str], str], tmp_path: Path) -> None:
    with ExitStack() as stack:
        alpha, beta = (stack.enter_context(DockerHost(netns(name), tmp_path / name)) for name in ("alpha", "beta"))
        assert alpha.docker("info", "--format", "{{.ID}}") != beta.docker("info", "--format", "{{.ID}}")
        for engine in (alpha, beta):
            engine.run("web")
            assert "eth0" in engine.docker("exec", "web", "ip", "link")
