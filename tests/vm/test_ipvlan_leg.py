"""Why no router has a leg in a network of ipvlans (ADR 12): what this kernel gives to an ipvlan interface of the host's."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from conftest import ping, run, sh

pytestmark = pytest.mark.netns

DB, WEB, LEG = ("10.1.2.2", "fd00:2::2"), ("172.16.10.50", "fd10::50"), ("172.16.10.1", "fd10::1")
SIDE = ("10.1.2.1", "fd00:2::1")
SEEN = """
table inet seen {
  set ways { type ifname . ifname; flags dynamic; size 99; }
  chain forward { type filter hook forward priority 0; meta l4proto { icmp, ipv6-icmp } add @ways { iifname . oifname }; }
}
"""


class Stage:
    """A host with an ipvlan `leg` on its NIC eth0, the container web on the same NIC, and db behind `todb`."""

    def __init__(self, make: Callable[[str], str], mode: str) -> None:
        self.host, self.web, self.db, wire = map(make, ("host", "web", "db", "wire"))
        for near, ns, far in (("eth0", wire, "eth0"), ("todb", self.db, "eth1")):
            run("ip", "link", "add", "name", near, "netns", self.host, "type", "veth", "peer", "name", far, "netns", ns)
            sh(ns, "ip", "link", "set", "dev", far, "up")
        sh(self.host, "ip", "link", "set", "dev", "eth0", "up")
        sh(self.host, "ip", "address", "add", "192.168.1.10/24", "dev", "eth0")
        on_nic = ("ip", "link", "add", "link", "eth0", "name")
        sh(self.host, *on_nic, "leg", "type", "ipvlan", "mode", mode)
        sh(self.host, *on_nic, "eth1", "netns", self.web, "type", "ipvlan", "mode", mode)
        for ns, nic, addresses, by in (
            (self.host, "leg", LEG, ()),
            (self.host, "todb", SIDE, ()),
            (self.web, "eth1", WEB, LEG),
            (self.db, "eth1", DB, SIDE),
        ):
            sh(ns, "ip", "link", "set", "dev", nic, "up")
            sh(ns, "ip", "address", "add", f"{addresses[0]}/24", "dev", nic)
            sh(ns, "ip", "address", "add", f"{addresses[1]}/64", "dev", nic, "nodad")
            for gateway in by:
                sh(ns, "ip", "route", "add", "default", "via", gateway)
        sh(self.host, "nft", SEEN)
        switches = ("net.ipv4.conf.leg.forwarding", "net.ipv4.conf.todb.forwarding", "net.ipv6.conf.all.forwarding")
        sh(self.host, "sysctl", "-qw", *(f"{switch}=1" for switch in switches))

    def answered(self) -> list[bool]:
        return [ping(self.web, address) for address in DB]

    def ways(self) -> set[tuple[str, ...]]:
        """(in, out) of what was forwarded."""
        listed = json.loads(sh(self.host, "nft", "-j", "list", "set", "inet", "seen", "ways"))["nftables"]
        [found] = [entry["set"] for entry in listed if "set" in entry]
        return {tuple(element["concat"]) for element in found["elem"]}


def test_what_is_not_for_the_leg_itself_comes_by_the_nic(netns: Callable[[str], str]) -> None:
    """And so it is the NIC, the host's own, that has to forward, and by which no filter knows the network."""
    stage = Stage(netns, "l2")
    assert [ping(stage.web, address) for address in LEG] == [True, True]
    assert stage.answered() == [False, True], "forwarding is the leg's, and not the NIC's; in IPv6 it is everybody's"
    sh(stage.host, "sysctl", "-qw", "net.ipv4.conf.eth0.forwarding=1")
    assert stage.answered() == [True, True]
    assert stage.ways() == {("eth0", "todb"), ("todb", "leg")}
    sh(stage.host, "sysctl", "-qw", "net.ipv4.conf.eth0.rp_filter=1")
    assert stage.answered() == [False, True], "the way back is another one"


def test_without_layer_2_nothing_that_they_send_is_forwarded(netns: Callable[[str], str]) -> None:
    """It is routed as if the host sent it: no chain `forward` sees it, so that nothing could be refused there. (In mode l3, the
    same was seen by hand.)"""
    stage = Stage(netns, "l3s")
    assert stage.answered()[1]
    assert stage.ways() == {("todb", "leg")}
