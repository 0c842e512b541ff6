"""What Open vSwitch 3.1 does with packets, on both data paths: what ductwork's handling of it rests on.

Where a fact has changed with a newer Open vSwitch or kernel, the handling may go. Linux 6.18 and 6.1 for `netdev`, 6.1 for
`system`, which this machine's kernel may lack (then only the VM has it).
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import frames
import ovs_host
import pytest
from conftest import inside, ping, sh, until
from frames import ARP, BROADCAST, EXPERIMENT, IPV4, Ear, ethernet, udp4
from ovs_host import OvsHost
from test_antispoof import NOBODY_MAC, Villain, dishonest, honest, mac_of

from ductwork.backends import kernel
from ductwork.resources import IPAddress
from ductwork.services.antispoof import link_local

pytestmark = pytest.mark.netns

MEBIBYTE = 1 << 20


class Switch:
    """A host with a bridge `ovs0`, and containers behind v1, v2, …: 10.1.1.2, fd00:1::2 and so on, MAC 02:00:00:00:00:02."""

    def __init__(self, ovs: OvsHost, datapath: str, make: Callable[[str], str]) -> None:
        self.ovs, self.host, self.datapath, self.make = ovs, ovs.netns, datapath, make
        ovs.vsctl("add-br", "ovs0", "--", "set", "Bridge", "ovs0", f"datapath_type={datapath}")
        sh(self.host, "ip", "link", "set", "dev", "ovs0", "up")

    def plug(self, number: int, *columns: str, tx: bool = False) -> str:
        """A container. `tx`: it leaves checksums to its interface."""
        ns, mac = self.make(f"c{number}"), f"02:00:00:00:00:{number:02}"
        peer = ["peer", "name", "eth1", "address", mac, "netns", ns]
        sh(self.host, "ip", "link", "add", "name", f"v{number}", "up", "type", "veth", *peer)
        sh(ns, "ip", "address", "add", f"10.1.1.{number}/24", "dev", "eth1")
        sh(ns, "ip", "address", "add", f"fd00:1::{number}/64", "dev", "eth1", "nodad")
        sh(ns, "ip", "link", "set", "dev", "eth1", "up")
        if not tx:
            sh(ns, "ethtool", "-K", "eth1", "tx", "off")
        self.ovs.vsctl("add-port", "ovs0", f"v{number}", *columns)
        return ns

    def link(self, name: str) -> Any:
        return json.loads(sh(self.host, "ip", "-d", "-j", "link", "show", "dev", name))[0]

    def dropped(self) -> int:
        """The frames that flows of ours have dropped; the kernel's data path tells after a while."""
        listed = self.ovs.ofctl("dump-flows", "ovs0", f"cookie={COOKIE:#x}/-1").splitlines()
        return sum(int(re.findall(r"n_packets=(\d+)", line)[0]) for line in listed if line.endswith("actions=drop"))

    def learnt(self) -> dict[str, str]:
        """MAC → the number of the port that it was learnt at, the bridge's own left out."""
        lines = map(str.split, self.ovs.appctl("fdb/show", "ovs0").splitlines()[1:])
        return {words[2]: words[0] for words in lines if words[0] != "LOCAL"}


@pytest.fixture(params=["netdev", "system"])
def switch(request: pytest.FixtureRequest, netns: Callable[[str], str], tmp_path: Path) -> Iterator[Switch]:
    missing = ovs_host.missing()
    if missing and os.environ.get("CI") != "true":
        pytest.skip(missing)
    assert not missing
    if request.param == "system" and kernel.missing(["openvswitch"]):
        pytest.skip("this kernel has no data path of Open vSwitch")
    with OvsHost(netns("host"), tmp_path / "ovs") as ovs:
        yield Switch(ovs, request.param, netns)


def tcp(server: str, client: str, address: str) -> bool:
    """Whether a mebibyte gets through by TCP, within a few seconds."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listening = inside(server, lambda: socket.create_server((address, 5001), family=family))
    got = bytearray()

    def receive() -> None:
        with suppress(OSError), listening:
            listening.settimeout(3)
            with listening.accept()[0] as opened:
                opened.settimeout(3)
                while data := opened.recv(MEBIBYTE):
                    got.extend(data)

    receiver = threading.Thread(target=receive)
    receiver.start()
    with suppress(OSError), inside(client, lambda: socket.socket(family)) as opened:
        opened.settimeout(3)
        opened.connect((address, 5001))
        opened.sendall(bytes(MEBIBYTE))
    receiver.join()
    return len(got) == MEBIBYTE


def test_the_bridges_device(switch: Switch) -> None:
    device = switch.link("ovs0")
    assert device["linkinfo"]["info_kind"] == ("tun" if switch.datapath == "netdev" else "openvswitch")
    assert device["mtu"] == 1500
    switch.plug(2)
    port = switch.link("v2")
    if switch.datapath == "netdev":
        assert "PROMISC" in port["flags"], "by SIOCSIFFLAGS"
        assert "master" not in port
    else:
        assert "PROMISC" not in port["flags"]
        assert port["master"] == "ovs-system"
        assert port["linkinfo"]["info_slave_kind"] == "openvswitch"
    assert port["promiscuity"] == 1
    sh(switch.host, "ip", "link", "set", "dev", "v2", "mtu", "1400")
    assert until(lambda: switch.link("ovs0")["mtu"] == 1400), "it has the smallest of its ports"
    switch.ovs.vsctl("set", "Interface", "ovs0", "mtu_request=1450")
    assert switch.link("ovs0")["mtu"] == 1450
    switch.ovs.vsctl("del-port", "v2")
    port = switch.link("v2")
    assert ("PROMISC" in port["flags"], port["promiscuity"]) == (False, 0)


def test_checksums_that_are_left_to_the_interface(switch: Switch) -> None:
    """In user space a frame goes on as it is, its checksum not yet made, and a segment of 64 KiB not at all. It is the sender's
    own end that decides; what the host's end says is of no use."""
    one, two = switch.plug(2, tx=True), switch.plug(3, tx=True)
    assert ping(one, "10.1.1.3")
    works = switch.datapath == "system"
    assert tcp(one, two, "10.1.1.2") == works
    for link in ("v2", "v3"):
        sh(switch.host, "ethtool", "-K", link, "tx", "off")
    assert tcp(one, two, "10.1.1.2") == works
    sh(one, "ethtool", "-K", "eth1", "tx", "off")
    assert tcp(one, two, "10.1.1.2") == works, "both ends send: data or acknowledgements"
    sh(two, "ethtool", "-K", "eth1", "tx", "off")
    assert tcp(one, two, "10.1.1.2")
    assert tcp(one, two, "fd00:1::2")
    sh(switch.host, "ip", "address", "add", "10.1.1.1/24", "dev", "ovs0")
    assert tcp(switch.host, one, "10.1.1.1"), "the bridge's own device makes checksums"
    assert tcp(one, switch.host, "10.1.1.2")


def test_protected_ports(switch: Switch) -> None:
    one, two = switch.plug(2, "protected=true"), switch.plug(3, "protected=true")
    switch.plug(4)
    sh(switch.host, "ip", "address", "add", "10.1.1.1/24", "dev", "ovs0")
    assert [ping(one, f"10.1.1.{n}") for n in (3, 4, 1)] == [False, True, True]
    sh(switch.host, "sysctl", "-qw", "net.ipv4.ip_forward=1")
    sh(one, "ip", "route", "add", "10.1.1.3", "via", "10.1.1.1")
    sh(two, "ip", "route", "add", "10.1.1.2", "via", "10.1.1.1")
    assert ping(one, "10.1.1.3"), "by way of the host that holds the gateway"


def test_vlans_across_two_hosts(switch: Switch, tmp_path: Path) -> None:
    """A trunk between two switches: who has the same tag hears each other, and the wire carries it."""
    with OvsHost(switch.make("other"), tmp_path / "other") as ovs:
        other = Switch(ovs, switch.datapath, switch.make)
        sh(switch.host, "ip", "link", "add", "eth0", "up", "type", "veth", "peer", "name", "eth0", "netns", other.host)
        sh(other.host, "ip", "link", "set", "dev", "eth0", "up")
        for each in (switch, other):
            each.ovs.vsctl("add-port", "ovs0", "eth0")
        one, two = switch.plug(2, "tag=100"), switch.plug(3, "tag=200")
        three, four = other.plug(4, "tag=100"), other.plug(5, "tag=200")
        argv = ["ip", "netns", "exec", other.host, "tcpdump", "--immediate-mode", "-lneq", "-i", "eth0", "vlan", "and", "arp"]
        wire = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        with wire, Ear(four, "eth1") as ear:
            assert wire.stdout and wire.stderr
            assert any("listening on" in line for line in wire.stderr)
            assert ping(one, "10.1.1.4")
            assert "vlan 100" in wire.stdout.readline()
            wire.kill()
            assert [ping(one, "10.1.1.3"), ping(one, "10.1.1.5")] == [False, False], "on the same host, on the other"
            assert ping(two, "10.1.1.5")
            last = ethernet(mac_of(two), BROADCAST, EXPERIMENT, b"that was all")
            frames.send(two, "eth1", last)
            ear.until(last)
            sources = {frame[6:12].hex(":") for frame in ear.heard}
        assert mac_of(two) in sources
        assert not sources & {mac_of(one), mac_of(three)}, "what they ask for by ARP, too"


DROP = """
table netdev heard {{
  chain from_ports {{
    type filter hook ingress devices = {{ {} }} priority 0; policy accept;
    counter drop
  }}
}}
"""


def filtered(switch: Switch, *links: str) -> None:
    sh(switch.host, "nft", DROP.format(", ".join(links)))


def test_what_the_kernel_hears_of_a_port(switch: Switch) -> None:
    """In user space the switch is a listener like tcpdump, and the kernel deals with each frame as well: it answers ARP for all
    addresses of the host, whatever the VLAN, and takes what is sent to them. An ingress hook comes after the listeners, and
    before all else (net/core/dev.c, __netif_receive_skb_core); the kernel's data path is behind that hook, and takes all."""
    ns = switch.plug(2, "tag=100")
    sh(switch.host, "ip", "address", "add", "10.1.1.1/24", "dev", "ovs0")
    other_vlan = ethernet(
        "02:00:00:00:00:02", BROADCAST, ARP, frames.arp(frames.REQUEST, "02:00:00:00:00:02", "10.1.1.2", "10.1.1.1")
    )
    last = ethernet("02:00:00:00:00:02", BROADCAST, EXPERIMENT, b"last")

    def answered() -> bool:
        """Nobody has the address in VLAN 100."""
        with Ear(ns, "eth1") as ear:
            frames.send(ns, "eth1", other_vlan)
            with suppress(TimeoutError):
                ear.until(last, seconds=0.3)
            return any(frame[:6] == frames.raw("02:00:00:00:00:02") and frame[12:14] == b"\x08\x06" for frame in ear.heard)

    assert answered() == (switch.datapath == "netdev")
    switch.ovs.vsctl("clear", "Port", "v2", "tag")
    assert ping(ns, "10.1.1.1")
    if switch.datapath == "netdev":
        switch.ovs.vsctl("set", "Port", "v2", "tag=100")
        filtered(switch, "v2")
        assert not answered()
        switch.ovs.vsctl("clear", "Port", "v2", "tag")
        sh(ns, "ip", "neigh", "flush", "all")
        assert ping(ns, "10.1.1.1"), "the switch hears all the same"
    else:
        filtered(switch, "v2")
        assert not ping(ns, "10.1.1.1"), "the switch is behind the hook"


def test_an_uplink(switch: Switch) -> None:
    """Its MAC is the bridge's, by whose device its addresses answer while they are still its own. In user space the kernel
    answers twice, for the NIC and for the bridge, until it does not hear the NIC. What the NIC puts together (GRO) is too
    long there."""
    lan, mac = switch.make("lan"), "02:00:00:00:05:01"
    sh(switch.host, "ip", "link", "add", "name", "eth0", "address", mac, "type", "veth", "peer", "name", "eth0", "netns", lan)
    for ns, number in ((switch.host, 1), (lan, 2)):
        sh(ns, "ip", "address", "add", f"192.0.2.{number}/24", "dev", "eth0")
        sh(ns, "ip", "link", "set", "dev", "eth0", "up")
    sh(switch.host, "ip", "route", "add", "default", "via", "192.0.2.2")
    sh(lan, "ethtool", "-K", "eth0", "tx", "off")  # as what comes by a wire has its checksum
    assert ping(lan, "192.0.2.1")
    switch.ovs.vsctl("set", "Bridge", "ovs0", f'other_config:hwaddr="{mac}"', "--", "add-port", "ovs0", "eth0")
    assert switch.link("ovs0")["address"] == mac
    assert "192.0.2.1" in sh(switch.host, "ip", "address", "show", "dev", "eth0")
    assert "default via 192.0.2.2 dev eth0" in sh(switch.host, "ip", "route")
    assert ping(lan, "192.0.2.1"), "by the bridge's device, which is up"
    sh(switch.host, "ip", "link", "set", "dev", "ovs0", "down")
    assert ping(lan, "192.0.2.1") == (switch.datapath == "netdev")
    sh(switch.host, "ip", "link", "set", "dev", "ovs0", "up")
    sh(switch.host, "ip", "address", "add", "192.0.2.1/24", "dev", "ovs0", "noprefixroute")
    sh(switch.host, "ip", "route", "replace", "192.0.2.0/24", "dev", "ovs0")
    sh(switch.host, "ip", "address", "del", "192.0.2.1/24", "dev", "eth0")
    sh(lan, "ip", "neigh", "flush", "all")
    assert until(lambda: ping(lan, "192.0.2.1"))
    assert ("DUP!" in sh(lan, "ping", "-c", "3", "-i", "0.2", "192.0.2.1")) == (switch.datapath == "netdev")
    if switch.datapath == "netdev":
        filtered(switch, "eth0")
    assert "DUP!" not in sh(lan, "ping", "-c", "3", "-i", "0.2", "192.0.2.1")
    assert tcp(switch.host, lan, "192.0.2.1")
    sh(switch.host, "ethtool", "-K", "eth0", "gro", "on")
    if switch.datapath == "netdev":
        tcp(switch.host, lan, "192.0.2.1")
        assert "eth0: Dropped packet: Too big. GRO/TSO enabled?" in switch.ovs.log()
    else:
        assert tcp(switch.host, lan, "192.0.2.1")


# what a container may not send


PASS = "load:1->NXM_NX_REG15[],resubmit(,0)"
"""Once more through the table, past our flows: on to whatever the bridge's administrator has there, or NORMAL."""
COOKIE = 0x6477 << 48


def flows(port: str, mac: str, own: list[IPAddress]) -> Iterator[str]:
    """Those that let pass what nftables' chain `frame` does (services/ruleset.py), from this port, and drop all else."""

    def flow(priority: int, match: str, action: str) -> str:
        return f"cookie={COOKIE:#x},table=0,priority={priority},in_port={port},reg15=0,{match},actions={action}"

    yield flow(65009, "vlan_tci=0x1000/0x1000", "drop")
    for kind in ("udp,tp_src=67,tp_dst=68", "udp6,tp_src=547,tp_dst=546", "icmp6,icmp_type=134", "icmp6,icmp_type=137"):
        yield flow(65009, kind, "drop")
    sent = f"dl_src={mac}"
    yield flow(65008, f"arp,{sent},arp_op=1,arp_sha={mac},arp_spa=0.0.0.0", PASS)
    yield flow(65008, f"udp,{sent},nw_src=0.0.0.0,tp_src=68,tp_dst=67", PASS)
    for kind in (131, 133, 143):
        yield flow(65008, f"icmp6,{sent},ipv6_src=::,icmp_type={kind}", PASS)
    own4 = [address for address in own if address.version == 4]
    own6 = [address for address in own if address.version == 6]
    for address in own4:
        yield flow(65008, f"arp,{sent},arp_sha={mac},arp_spa={address}", PASS)
        yield flow(65008, f"ip,{sent},nw_src={address}", PASS)
    for address in own6:
        yield flow(65008, f"icmp6,{sent},ipv6_src=::,icmp_type=135,icmp_code=0,nd_target={address}", PASS)
        for named in (mac, "00:00:00:00:00:00"):  # its own, or no option
            yield flow(65008, f"icmp6,{sent},ipv6_src={address},icmp_type=135,icmp_code=0,nd_sll={named}", PASS)
            for target in own6:
                told = f"icmp_type=136,icmp_code=0,nd_target={target},nd_tll={named}"
                yield flow(65008, f"icmp6,{sent},ipv6_src={address},{told}", PASS)
        yield flow(65006, f"ipv6,{sent},ipv6_src={address}", PASS)
    for kind in (135, 136):
        yield flow(65007, f"icmp6,icmp_type={kind}", "drop")
    for family in ("arp", "ip", "ipv6"):
        yield flow(65005, family, "drop")
    yield flow(65004, sent, PASS)
    yield flow(65003, "", "drop").replace(",,", ",")


def guard(switch: Switch, number: int) -> None:
    mac = f"02:00:00:00:00:{number:02}"
    own = [ip_address(f"10.1.1.{number}"), ip_address(f"fd00:1::{number}"), link_local(mac)]
    listed = "\n".join(flows(f"v{number}", mac, own))
    switch.ovs.ofctl("--bundle", "add-flows", "ovs0", "-", feed=listed + "\n")


def villain(mac: str, victim: str, local: str) -> Villain:
    return Villain(None, mac, victim, local)  # type: ignore[arg-type]


def arrives(sent: dict[str, bytes], source: str, target: str, settled: Callable[[set[str]], bool]) -> set[str]:
    """What of it has got to the target when `settled` says so of it. The switch keeps no order: what it knows already overtakes
    what it has to think about."""
    mac = mac_of(source)
    with Ear(target, "eth1") as ear:
        frames.send(source, "eth1", *sent.values())
        for number in range(200):
            last = ethernet(mac, BROADCAST, EXPERIMENT, f"last {number}".encode())
            frames.send(source, "eth1", last)
            ear.until(last)
            found = {what for what, frame in sent.items() if ear.has(frame)}
            if settled(found):
                break
            time.sleep(0.05)
        return found


def test_flows_against_spoofing(switch: Switch) -> None:
    """What is not its own is neither forwarded nor learnt, and what is its own passes. (Open vSwitch looks behind extension
    headers, where nftables 1.0.6 does not: an honest advertisement passes there too.)"""
    one, two = switch.plug(2), switch.plug(3)
    mine, victim = "02:00:00:00:00:02", "02:00:00:00:00:03"
    it = villain(mine, victim, str(link_local(mine)))
    bad = {what: frame for what, frame in dishonest(it) if what != "own NA behind a header"}
    free = {"ARP": bad["ARP, nobody's MAC"]}
    assert arrives(free, one, two, lambda found: found == set(free)) == set(free)
    assert until(lambda: set(switch.learnt()) >= {mine, NOBODY_MAC}), "without the flows"
    switch.ovs.appctl("fdb/flush", "ovs0")
    guard(switch, 2)
    assert ping(one, "10.1.1.3")
    before, dropped = switch.learnt(), switch.dropped()
    with Ear(switch.host, "ovs0") as host:
        assert arrives(bad, one, two, lambda _: switch.dropped() - dropped >= len(bad)) == set()
        assert switch.dropped() - dropped >= len(bad)
        last = ethernet(mine, BROADCAST, EXPERIMENT, b"that was all")
        frames.send(one, "eth1", last)
        host.until(last)
        assert not [what for what, frame in bad.items() if host.has(frame)], "nor by the bridge's device"
    assert switch.learnt() == before
    good = honest(it)
    assert arrives(good, one, two, lambda found: found == set(good)) == set(good)
    assert ping(one, "fd00:1::3")
    assert ping(two, "10.1.1.2")


def test_flows_leave_others_flows_in_force(switch: Switch) -> None:
    one = switch.plug(2)
    switch.plug(3)
    switch.plug(4)
    switch.ovs.ofctl("add-flow", "ovs0", "priority=100,ip,nw_dst=10.1.1.3,actions=drop")
    guard(switch, 2)
    assert [ping(one, "10.1.1.3"), ping(one, "10.1.1.4")] == [False, True]
    ours = f"cookie={COOKIE:#x}/-1"
    assert switch.ovs.ofctl("dump-flows", "ovs0", ours).count("cookie=0x6477000000000000") > 10
    switch.ovs.ofctl("del-flows", "ovs0", ours)
    assert "cookie=0x6477" not in switch.ovs.ofctl("dump-flows", "ovs0")
    assert "nw_dst=10.1.1.3" in switch.ovs.ofctl("dump-flows", "ovs0")


SPOOFED = {"spoofed": ethernet("02:00:00:00:00:02", BROADCAST, IPV4, udp4("10.1.1.9", "10.1.1.3"))}


def spoofed_arrives(switch: Switch, one: str, two: str) -> bool:
    dropped = switch.dropped()
    return bool(arrives(SPOOFED, one, two, lambda found: bool(found) or switch.dropped() > dropped))


def test_flows_do_not_outlive_the_switch(switch: Switch) -> None:
    """ovs-vswitchd has them in its memory alone: started anew it forwards as if there had been none (fail_mode standalone)."""
    one, two = switch.plug(2), switch.plug(3)
    guard(switch, 2)
    assert not spoofed_arrives(switch, one, two)
    switch.ovs.kill_switch()
    switch.ovs.start_switch()
    assert "cookie=0x6477" not in switch.ovs.ofctl("dump-flows", "ovs0")
    assert until(lambda: ping(one, "10.1.1.3"))
    assert spoofed_arrives(switch, one, two)


def test_a_flow_belongs_to_a_port_number(switch: Switch) -> None:
    """A port that is made anew has another number, unless it asks for one. So flows can be there before their port."""
    one, two = switch.plug(2), switch.plug(3)
    guard(switch, 2)
    number = switch.ovs.vsctl("get", "Interface", "v2", "ofport").strip()
    switch.ovs.vsctl("del-port", "v2")
    switch.ovs.vsctl("add-port", "ovs0", "v2")
    assert switch.ovs.vsctl("get", "Interface", "v2", "ofport").strip() != number
    assert re.search(rf"in_port={number}\b", switch.ovs.ofctl("--names", "dump-flows", "ovs0")), "of nobody's"
    switch.ovs.vsctl("del-port", "v2")
    mac = "02:00:00:00:00:02"
    switch.ovs.ofctl("del-flows", "ovs0", f"cookie={COOKIE:#x}/-1")
    listed = "\n".join(flows("40000", mac, [ip_address("10.1.1.2")]))
    switch.ovs.ofctl("--bundle", "add-flows", "ovs0", "-", feed=listed + "\n")
    switch.ovs.vsctl("add-port", "ovs0", "v2", "--", "set", "Interface", "v2", "ofport_request=40000")
    assert not spoofed_arrives(switch, one, two)
    assert until(lambda: ping(one, "10.1.1.3"))
    switch.ovs.kill_switch()
    switch.ovs.start_switch()
    assert switch.ovs.vsctl("get", "Interface", "v2", "ofport").strip() == "40000"
