"""Published ports: who connects from where x protocol x family x driver, with real sockets, and the address that the container
sees (contract 1.5)."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from conftest import inside, made_namespaces, ping, sh, until
from host import same, snapshot
from ovs_host import OvsHost, missing
from parent_hosts import Hosts

from talk import REFUSED, SILENCE, SILENT, ask, send_frame, served

pytestmark = pytest.mark.netns

PROTOCOLS = ("tcp", "udp", "sctp")
PORT, INNER = 8088, 80
LAN = {4: "192.168.1.10", 6: "fd00:1::10"}
"""Alpha's own address on the LAN."""
OTHER = {4: "192.168.1.9", 6: "fd00:1::9"}
BETA = {4: "192.168.1.11", 6: "fd00:1::11"}
STRANGER = {4: "10.2.2.2", 6: "fd00:b::2"}
LOOPBACK = {4: "127.0.0.1", 6: "::1"}

SITE = """
hosts:
  alpha: {{address: 192.168.1.10/24}}
  beta: {{address: 192.168.1.11/24}}
networks:
  pods: {{{network}}}
  side: {{driver: bridge, subnets: [10.2.2.0/24, "fd00:b::/64"]}}
{more}
attachments:
  - {{container: "netns:<web>", host: alpha, network: pods, address: [{web}]}}
  - {{container: "netns:<db>", host: alpha, network: pods, address: [{db}]}}
  - {{container: "netns:<stranger>", host: alpha, network: side, address: [10.2.2.2, "fd00:b::2"]}}
  - {{container: "netns:<far>", host: beta, network: {far}}}
ports:
  - {{host: alpha, listen: {port}, to: "netns:<web>:{inner}"}}
  - {{host: alpha, listen: {port}, to: "netns:<web>:{inner}", protocol: udp}}
  - {{host: alpha, listen: {port}, to: "netns:<web>:{inner}", protocol: sctp}}
"""
BEYOND = '  beyond: {driver: bridge, subnets: [10.3.3.0/24, "fd00:c::/64"]}'
FAR = 'beyond, address: [10.3.3.2, "fd00:c::2"]'
OWN = {"web": '10.1.1.2, "fd00:a::2"', "db": '10.1.1.3, "fd00:a::3"'}
ON_LAN = {"web": '192.168.1.21, "fd00:1::21"', "db": '192.168.1.22, "fd00:1::22"'}
SUBNETS = 'subnets: [10.1.1.0/24, "fd00:a::/64"]'
LAN_SUBNETS = 'subnets: [192.168.1.0/24, "fd00:1::/64"]'
GATEWAY = {4: "10.1.1.1", 6: "fd00:a::1"}
KEPT = {"other": OTHER, "host": LAN, "stranger": STRANGER, "remote": BETA}

Cells = dict[str, dict[int, str]]


@dataclass(frozen=True)
class Kind:
    """`seen`: who → the address that the container sees it have, by family. `dialled`: who → where it connects to, if not to
    the host's address on the LAN. `versions`: the families in which there is a port at all."""

    network: str
    seen: Cells
    web: str = OWN["web"]
    db: str = OWN["db"]
    more: str = BEYOND
    far: str = FAR
    dialled: Cells = field(default_factory=dict)
    versions: tuple[int, ...] = (4, 6)


def inside_seen_as(address: dict[int, str]) -> Cells:
    """The neighbour, the container itself, and the host by its loopback."""
    return {"neighbour": address, "itself": address, "loopback": address}


def all_seen_as(address: dict[int, str]) -> Cells:
    return dict.fromkeys(("other", "host", "loopback", "neighbour", "itself", "stranger", "remote"), address)


OWN_GATEWAY = KEPT | inside_seen_as(GATEWAY)
APART = KEPT | {"loopback": GATEWAY} | {key: {4: SILENT, 6: SILENT} for key in ("neighbour", "itself")}
HOST_ACCESS = {4: "192.168.1.20", 6: "fd00:1::20"}
ON_ACCESS = {"neighbour": HOST_ACCESS, "itself": HOST_ACCESS}
HOST_ADDRESSES = 'host_addresses: {alpha: [10.1.1.251, "fd00:a::251"], beta: [10.1.1.252, "fd00:a::252"]}'
SIDE = {4: "10.2.2.1", 6: "fd00:b::1"}


def on_parent(driver: str, version: int) -> Kind:
    """One family alone has the host's interface beside the containers'."""
    network = f'driver: {driver}, parent: eth0, {LAN_SUBNETS}, host_access: {{alpha: "{HOST_ACCESS[version]}"}}'
    far = 'pods, address: [192.168.1.31, "fd00:1::31"]'
    return Kind(network, all_seen_as(HOST_ACCESS), ON_LAN["web"], ON_LAN["db"], "", far, dialled=ON_ACCESS, versions=(version,))


KINDS = {
    "bridge": Kind(f"driver: bridge, {SUBNETS}", OWN_GATEWAY),
    "bridge without br_netfilter": Kind(f"driver: bridge, {SUBNETS}", OWN_GATEWAY),
    "bridge beside a FORWARD that drops": Kind(f"driver: bridge, {SUBNETS}", OWN_GATEWAY),
    "bridge, nat none": Kind(f"driver: bridge, {SUBNETS}, nat: none", OWN_GATEWAY),
    "bridge, snat": Kind(f"driver: bridge, {SUBNETS}, nat: {{snat: 192.168.1.10}}", OWN_GATEWAY),
    "bridge, isolated": Kind(f"driver: bridge, {SUBNETS}, isolated: true", APART),
    "bridge, isolated, without br_netfilter": Kind(f"driver: bridge, {SUBNETS}, isolated: true", APART),
    "bridge, gateway elsewhere": Kind(f"driver: bridge, {SUBNETS}", all_seen_as(GATEWAY), dialled={"itself": GATEWAY}),
    "bridge, IPv4 alone": Kind("driver: bridge, subnet: 10.1.1.0/24", OWN_GATEWAY, "10.1.1.2", "10.1.1.3", versions=(4,)),
    "uplink": Kind(
        f"driver: bridge, uplink: {{alpha: eth0, beta: eth0}}, {LAN_SUBNETS}",
        all_seen_as(LAN),
        ON_LAN["web"],
        ON_LAN["db"],
        "",
        'pods, address: [192.168.1.31, "fd00:1::31"]',
    ),
    "uplink without br_netfilter": Kind(
        f"driver: bridge, uplink: {{alpha: eth0, beta: eth0}}, {LAN_SUBNETS}",
        all_seen_as(LAN),
        ON_LAN["web"],
        ON_LAN["db"],
        "",
        'pods, address: [192.168.1.31, "fd00:1::31"]',
    ),
    "vxlan": Kind(
        f"driver: vxlan, vni: 42, {SUBNETS}, {HOST_ADDRESSES}",
        KEPT | inside_seen_as({4: "10.1.1.251", 6: "fd00:a::251"}),
        more="",
        far='pods, address: [10.1.1.4, "fd00:a::4"]',
    ),
    "vxlan, by the host's address in it": Kind(
        f"driver: vxlan, vni: 42, {SUBNETS}, {HOST_ADDRESSES}",
        {"remote": {4: "10.1.1.251", 6: "fd00:a::251"}},
        more="",
        far='pods, address: [10.1.1.4, "fd00:a::4"]',
        dialled={"remote": {4: "10.1.1.251", 6: "fd00:a::251"}},
    ),
    "macvlan": on_parent("macvlan", 4),
    "macvlan, IPv6": on_parent("macvlan", 6),
    "ovs": Kind(f'driver: ovs, datapath: netdev, ovsdb: {{alpha: "OVSDB"}}, {SUBNETS}', OWN_GATEWAY),
}


class Stage:
    """Two hosts on a LAN with one machine more; the port is alpha's."""

    def __init__(self, name: str, stack: ExitStack, directory: Path) -> None:
        self.kind = kind = KINDS[name]
        make = stack.enter_context(made_namespaces())
        self.hosts = hosts = Hosts(make, directory)
        self.alpha = hosts.alpha
        self.alpha.container("stranger")
        hosts.beta.names |= self.alpha.names
        text = SITE.format(network=kind.network, web=kind.web, db=kind.db, more=kind.more, far=kind.far, port=PORT, inner=INNER)
        if "OVSDB" in text:
            text = text.replace("OVSDB", stack.enter_context(OvsHost(self.alpha.host, directory / "ovs")).socket)
        if "elsewhere" in name:
            self.alpha.eth0("web")
            sh(self.alpha.names["web"], "ip", "-6", "route", "add", "default", "via", "fe80::1", "dev", "eth0")
        if "drops" in name:
            for program in ("iptables", "ip6tables"):
                sh(self.alpha.host, program, "-N", "DOCKER-USER")
                sh(self.alpha.host, program, "-A", "FORWARD", "-j", "DOCKER-USER")
                sh(self.alpha.host, program, "-P", "FORWARD", "DROP")
        if "without br_netfilter" in name:
            for family in ("iptables", "ip6tables"):
                sh(self.alpha.host, "sysctl", "-qw", f"net.bridge.bridge-nf-call-{family}=0")
        self.before = snapshot(self.alpha.host)
        self.notes = self.alpha.settle(text, host="alpha").notes
        hosts.beta.settle(text, host="beta")
        stack.enter_context(served((self.alpha.names["web"], INNER)))
        assert until(lambda: "tentative" not in sh(self.alpha.host, "ip", "address"))

    def ask(self, who: str, version: int, protocol: str, expected: str = "") -> str:
        names = {"neighbour": "db", "itself": "web", "remote": "far", "host": "alpha", "loopback": "alpha"}
        to = LOOPBACK if who == "loopback" else self.kind.dialled.get(who, LAN)
        return ask(self.hosts.ns(names.get(who, who)), to[version], PORT, protocol, expected)


@pytest.fixture(scope="module", params=KINDS)
def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    if request.param == "ovs" and missing():
        pytest.skip(missing())
    with ExitStack() as stack:
        yield Stage(request.param, stack, tmp_path_factory.mktemp("ports"))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("who", ["other", "host", "loopback", "neighbour", "itself", "stranger", "remote"])
def test_who_connects(stage: Stage, who: str, version: int, protocol: str) -> None:
    if who not in stage.kind.seen:
        pytest.skip("the same as of the other kinds of this driver")
    expected = stage.kind.seen[who][version]
    if version not in stage.kind.versions or (who == "loopback" and version == 6):
        expected = REFUSED
    if expected == REFUSED and protocol == "sctp":
        pytest.skip("a kernel without SCTP has nobody to refuse it")
    if version not in stage.kind.versions and who in ("neighbour", "itself"):
        pytest.skip("no address of the host's that it could dial")
    assert stage.ask(who, version, protocol, expected) == expected


@pytest.mark.parametrize("version", [4, 6])
def test_beside_its_port(stage: Stage, version: int) -> None:
    """Nothing is changed for who does not come by the port: neighbours, and who has a route."""
    web, db = (
        dict(zip((4, 6), its.replace('"', "").split(", "), strict=False)).get(version)
        for its in (stage.kind.web, stage.kind.db)
    )
    if not web or not db:
        pytest.skip("no address of this family")
    among = SILENT if "isolated" in stage.kind.network else db
    assert ask(stage.alpha.names["db"], web, INNER, "tcp", among) == among
    if stage.kind.network in (KINDS["bridge"].network, KINDS["bridge, nat none"].network):
        sh(stage.hosts.other, "ip", "route", "replace", web, "via", LAN[version])
        afar = OTHER[version] if "nat: none" in stage.kind.network else SILENT
        assert ask(stage.hosts.other, web, INNER, "tcp", afar) == afar
        assert ask(stage.alpha.names["stranger"], OTHER[version], PORT, "tcp") == REFUSED, "another machine's port is its own"


def test_a_host_with_ports_on_a_parent_is_no_router(stage: Stage) -> None:
    """Neither for its containers nor for the LAN, although its interface beside them forwards."""
    if "parent" not in stage.kind.network:
        pytest.skip("others route")
    [version] = stage.kind.versions
    web, far = stage.kind.web.replace('"', "").split(", ")[version == 6], {4: "203.0.113.9", 6: "2001:db8:9::9"}[version]
    container, other = stage.alpha.names["web"], stage.hosts.other
    sh(other, "ip", "address", "add", far, "dev", "lo")
    sh(stage.alpha.host, "ip", "route", "add", far, "via", OTHER[version])
    sh(container, "ip", "route", "add", far, "via", HOST_ACCESS[version])
    assert not ping(container, far)
    sh(other, "ip", "route", "add", web, "via", LAN[version])
    assert not ping(other, web)
    sh(stage.alpha.host, "nft", "flush", "set", "inet", "ductwork", "closed")
    assert ping(container, far) and ping(other, web), "it was the set that refused"
    sh(stage.alpha.host, "ip", "route", "delete", far)


def test_what_is_said(stage: Stage) -> None:
    """Of whom the container does not see the client's address."""
    translated = stage.kind.seen.get("other") not in (OTHER, None)
    assert any("see this host's address" in note for note in stage.notes) == translated


def test_the_loopback_is_not_reached_from_the_wire(stage: Stage) -> None:
    """Although packets for it are let out and back in: a frame to the host, to 127.0.0.2, or as if from 127.0.0.1."""
    if 4 not in stage.kind.versions:
        pytest.skip("nothing of IPv4 is let out")
    device = served_device(stage)
    assert sh(stage.alpha.host, "cat", f"/proc/sys/net/ipv4/conf/{device}/route_localnet").strip() == "1"
    neighbour, own = stage.alpha.names["db"], stage.kind.db.partition(",")[0]
    with inside(stage.alpha.host, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as listening:
        listening.bind(("0.0.0.0", 7))
        listening.settimeout(SILENCE)
        mac = stage.hosts.mac("alpha", device)
        frames = [(own, "127.0.0.2"), ("127.0.0.1", stage.kind.dialled.get("neighbour", LAN)[4])]
        for source, to in frames:
            inside(neighbour, lambda source=source, to=to: send_frame("eth1", mac, source, to, 7))
        with pytest.raises(TimeoutError):
            listening.recv(100)
        sh(stage.alpha.host, "nft", "flush", "set", "inet", "ductwork", "no_loopback")
        inside(neighbour, lambda: send_frame("eth1", mac, *frames[0], 7))
        assert listening.recv(100) == b"loopback", "it was the set that kept them out"


def served_device(stage: Stage) -> str:
    [entry] = [
        e["set"]
        for e in json.loads(sh(stage.alpha.host, "nft", "-j", "list", "set", "inet", "ductwork", "served"))["nftables"]
        if "set" in e
    ]
    return str(entry["elem"][0]["elem"]["val"])


def test_nothing_is_left(stage: Stage) -> None:
    """The last test of a stage."""
    stage.alpha.destroy()
    assert until(lambda: "tentative" not in sh(stage.alpha.host, "ip", "address"))
    same(snapshot(stage.alpha.host), stage.before)
