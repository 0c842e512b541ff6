"""Who reaches whom (contract 1.7), with real packets, in both families."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_network

import pytest
from conftest import inside, ping, sh, until
from test_antispoof import mac_of

from ductwork.backends.iptables import IptablesBackend
from ductwork.backends.nftables import NftablesBackend
from ductwork.backends.sysctl import SysctlBackend
from ductwork.drivers import Facts
from ductwork.resources import HOST, Create, Delete, IptablesRule, Link, NftElement, Owner, Resource, Route, Sysctl, state
from ductwork.services import nat
from ductwork.site.model import Nat, Network

pytestmark = [pytest.mark.netns, pytest.mark.parametrize("family", [4, 6])]

OUTSIDE = {4: "192.0.2.2", 6: "2001:db8:1::2"}
HOST_OUTSIDE = {4: "192.0.2.1", 6: "2001:db8:1::1"}
LAN = {4: "198.51.100.2", 6: "2001:db8:2::2"}
HOST_LAN = {4: "198.51.100.1", 6: "2001:db8:2::1"}
EVERYWHERE = {4: "10.0.0.0/8", 6: "fd00::/16"}
MASQUERADE = Nat("masquerade")
SNAT = {4: "192.0.2.9", 6: "2001:db8:1::9"}


def address(network: int, number: int, family: int) -> str:
    return f"10.1.{network}.{number}" if family == 4 else f"fd00:{network}::{number}"


@dataclass
class World:
    """A host with two NICs, `outside` and `lan` behind them, which know the way to every network behind the host."""

    make: Callable[[str], str]
    family: int
    host: str = ""
    outside: str = ""
    lan: str = ""
    resources: list[Resource] = field(default_factory=list)

    def build(self) -> World:
        self.host, self.outside, self.lan = self.make("host"), self.make("out"), self.make("lan")
        for nic, other, far, near in (
            ("eth0", self.outside, OUTSIDE, HOST_OUTSIDE),
            ("eth1", self.lan, LAN, HOST_LAN),
        ):
            self.cable(nic, other, "eth0")
            self.give(self.host, nic, near[self.family])
            self.give(other, "eth0", far[self.family])
            sh(other, "ip", "route", "add", EVERYWHERE[self.family], "via", near[self.family])
            assert until(lambda ns=other, host=near[self.family]: ping(ns, host))
        for other, far, near in ((self.outside, LAN, HOST_OUTSIDE), (self.lan, OUTSIDE, HOST_LAN)):
            sh(other, "ip", "route", "add", f"{far[self.family]}/{self.bits}", "via", near[self.family])
        return self

    @property
    def bits(self) -> int:
        return 32 if self.family == 4 else 128

    def cable(self, nic: str, other: str, there: str) -> None:
        sh(self.host, "ip", "link", "add", "name", nic, "type", "veth", "peer", "name", there, "netns", other)
        sh(self.host, "ip", "link", "set", "dev", nic, "up")
        sh(other, "ip", "link", "set", "dev", there, "up")

    def give(self, ns: str, device: str, text: str, prefixlen: int = 0) -> None:
        length = prefixlen or (24 if self.family == 4 else 64)
        nodad = ["nodad"] if self.family == 6 else []
        sh(ns, "ip", "address", "add", f"{text}/{length}", "dev", device, *nodad)

    def bridge(self, name: str, *ports: str) -> None:
        sh(self.host, "ip", "link", "add", "name", name, "type", "bridge")
        sh(self.host, "ip", "link", "set", "dev", name, "up")
        for port in ports:
            sh(self.host, "ip", "link", "set", "dev", port, "master", name)

    def network(self, number: int, mode: Nat = MASQUERADE, containers: int = 1, internal: bool = False) -> list[str]:
        """A network as the bridge driver would make it; gives its containers."""
        subnet = f"10.1.{number}.0/24" if self.family == 4 else f"fd00:{number}::/64"
        gateway = address(number, 1, self.family)
        gateways = () if internal else (ip_address(gateway),)
        made = Network(f"net{number}", "bridge", (ip_network(subnet),), gateways, nat=mode, internal=internal)
        name = f"dw-net{number}"
        self.bridge(name)
        self.give(self.host, name, gateway)
        owner = Owner("office", "site", made.name)
        families = frozenset({"ip", "ip6"}) if shutil.which("iptables") else frozenset()
        wanted = nat.network_elements(made, name, owner, families, device=name)
        wanted += nat.forwarding(made, name, self.facts(), owner)
        self.apply(wanted)
        return [self.container(number, 2 + n) for n in range(containers)]

    def container(self, number: int, last: int) -> str:
        ns = self.make(f"c{number}-{last}")
        self.cable(f"v{number}-{last}", ns, "eth0")
        sh(self.host, "ip", "link", "set", "dev", f"v{number}-{last}", "master", f"dw-net{number}")
        self.give(ns, "eth0", address(number, last, self.family))
        sh(ns, "ip", "route", "add", "default", "via", address(number, 1, self.family))
        assert until(lambda: ping(ns, address(number, 1, self.family))), "a carrier is noticed up to a second later"
        return ns

    def facts(self) -> Facts:
        """As it was before the first network."""
        links = {name: Link(HOST, name, "", "", 1500) for name in ("eth0", "eth1")}
        if "br0" in sh(self.host, "ip", "link"):
            links["br0"] = Link(HOST, "br0", "bridge", "", 1500)
        routes = tuple(Route(HOST, ip_network(EVERYWHERE[self.family]), name) for name in links)
        known = Facts(links=links, routes=routes)
        former = inside(self.host, lambda: SysctlBackend().read_paths(nat.sysctl_paths(known)))
        lent = {r.path for r in self.resources if isinstance(r, Sysctl)}
        return replace(known, sysctls={path: "0" if path in lent else value for path, value in former.items()})

    def apply(self, wanted: list[Resource]) -> None:
        new = [r for r in state(wanted).values() if r not in self.resources]
        self.resources += new

        def work() -> None:
            for backend in (NftablesBackend(), IptablesBackend(), SysctlBackend()):
                mine = [Create(r) for r in new if type(r) in backend.kinds]
                assert [o.error for o in backend.apply(HOST, mine) if o.error] == []

        inside(self.host, work)

    def drop(self, unwanted: Callable[[Resource], bool]) -> None:
        def work() -> None:
            for backend in (NftablesBackend(), IptablesBackend()):
                mine = [Delete(r) for r in self.resources if type(r) in backend.kinds and unwanted(r)]
                assert [o.error for o in backend.apply(HOST, mine) if o.error] == []

        inside(self.host, work)

    def source(self, client: str, server: str, target: str) -> str:
        """The address that a connection from `client` has where `server` sees it."""
        listening = inside(server, lambda: socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True))
        port = listening.getsockname()[1]

        def connect() -> None:
            socket.create_connection((target, port), timeout=2).close()

        with listening, ThreadPoolExecutor(1) as pool:
            listening.settimeout(3)
            connected = pool.submit(inside, client, connect)
            accepted, peer = listening.accept()
            accepted.close()
            connected.result()
        return str(peer[0]).removeprefix("::ffff:")


@pytest.fixture
def make(netns: Callable[[str], str]) -> Callable[[str], str]:
    """Namespaces whose link-local addresses are usable at once: a tentative one asks for no neighbour."""

    def without_dad(name: str) -> str:
        ns = netns(name)
        sh(ns, "sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0")
        return ns

    return without_dad


@pytest.fixture
def world(make: Callable[[str], str], family: int) -> World:
    return World(make, family).build()


def test_masquerade(world: World, family: int) -> None:
    pod, neighbour = world.network(1, containers=2)
    assert ping(pod, OUTSIDE[family])
    assert ping(pod, LAN[family])
    assert world.source(pod, neighbour, address(1, 3, family)) == address(1, 2, family), "within, br_netfilter or not"
    assert world.source(pod, world.outside, OUTSIDE[family]) == HOST_OUTSIDE[family]
    assert world.source(pod, world.lan, LAN[family]) == HOST_LAN[family]


def test_snat(world: World, family: int) -> None:
    world.give(world.host, "eth0", SNAT[family])
    theirs = "add chain inet theirs post { type nat hook postrouting priority srcnat; }"
    generic = f'oifname "eth0" snat {"ip" if family == 4 else "ip6"} to {HOST_OUTSIDE[family]}'
    sh(world.host, "nft", f"add table inet theirs; {theirs}; add rule inet theirs post {generic}")
    pod, neighbour = world.network(1, Nat("snat", ip_address(SNAT[family])), containers=2)
    assert world.source(pod, neighbour, address(1, 3, family)) == address(1, 2, family), "within, br_netfilter or not"
    assert world.source(pod, world.outside, OUTSIDE[family]) == SNAT[family]


def test_snat_masquerades_the_other_family(world: World, family: int) -> None:
    (pod,) = world.network(1, Nat("snat", ip_address(SNAT[10 - family])))
    assert world.source(pod, world.outside, OUTSIDE[family]) == HOST_OUTSIDE[family]


def test_no_nat_reaches_both_ways_untranslated(world: World, family: int) -> None:
    (pod,) = world.network(1, Nat("none"))
    assert world.source(pod, world.outside, OUTSIDE[family]) == address(1, 2, family)
    assert world.source(world.outside, pod, address(1, 2, family)) == OUTSIDE[family]


def test_translated_networks_are_closed_from_outside(world: World, family: int) -> None:
    world.network(1)
    assert not ping(world.outside, address(1, 2, family))
    world.drop(lambda r: isinstance(r, NftElement) and r.set_name == "guarded")
    assert ping(world.outside, address(1, 2, family)), "it was the element that kept it closed"


def test_internal(world: World, family: int) -> None:
    first, _ = world.network(1, containers=2, internal=True)
    world.network(2)  # switches forwarding on
    sh(world.host, "sysctl", "-qw", "net.ipv4.conf.dw-net1.forwarding=1")
    sh(world.host, "sysctl", "-qw", "net.ipv6.conf.dw-net1.force_forwarding=1", check=False)
    assert ping(first, address(1, 3, family)), "neighbours"
    assert ping(first, address(1, 1, family)), "its own host"
    assert not ping(first, OUTSIDE[family])
    assert not ping(world.outside, address(1, 2, family))
    assert not stray_reply_arrives(first, world.outside, OUTSIDE[family], family), "not even one way"
    assert not stray_reply_arrives(world.outside, first, address(1, 2, family), family)
    world.drop(lambda r: isinstance(r, NftElement) and r.set_name == "internal")
    assert ping(first, OUTSIDE[family]), "it was the element that kept it closed"


@pytest.mark.parametrize("mode", ["masquerade", "none"])
def test_networks_do_not_reach_each_other(world: World, family: int, mode: str) -> None:
    (one,) = world.network(1, Nat(mode))  # type: ignore[arg-type]
    (two,) = world.network(2, Nat(mode))  # type: ignore[arg-type]
    assert not ping(one, address(2, 2, family))
    assert not ping(two, address(1, 2, family))
    flow = NftElement("inet", "ductwork", "flows", ("dw-net1", "dw-net2"), owner=Owner("office", "site", "router"))
    world.apply([flow])
    assert ping(one, address(2, 2, family)), "a flow lets new connections pass"
    assert not ping(two, address(1, 2, family)), "one way"


def test_lent_devices_do_not_forward_to_each_other(world: World, family: int) -> None:
    assert not ping(world.outside, LAN[family]), "as it was before us"
    (pod,) = world.network(1)
    assert not ping(world.outside, LAN[family])
    assert not ping(world.lan, OUTSIDE[family])
    assert ping(pod, LAN[family])
    world.drop(lambda r: isinstance(r, NftElement) and r.set_name.startswith("lent"))
    assert ping(world.outside, LAN[family]), "it was the elements that kept it so"


def test_a_router_stays_a_router(world: World, family: int) -> None:
    sh(world.host, "sysctl", "-qw", "net.ipv4.ip_forward=1" if family == 4 else "net.ipv6.conf.all.forwarding=1")
    assert ping(world.outside, LAN[family])
    (pod,) = world.network(1)
    assert ping(world.outside, LAN[family])
    assert ping(pod, LAN[family])


def test_foreign_bridge_still_bridges(world: World, family: int) -> None:
    """br_netfilter shows its frames to us as forwarded from itself to itself."""
    first, second = world.make("vm1"), world.make("vm2")
    world.cable("p1", first, "eth0")
    world.cable("p2", second, "eth0")
    world.bridge("br0", "p1", "p2")
    for last, ns in ((2, first), (3, second)):
        world.give(ns, "eth0", address(7, last, family))
    world.give(world.host, "br0", address(7, 1, family))
    world.network(1)
    lent = {r.parts for r in world.resources if isinstance(r, NftElement) and r.set_name == f"lent{family}"}
    assert ("br0",) in lent
    assert until(lambda: ping(first, address(7, 3, family)))
    world.drop(lambda r: isinstance(r, NftElement) and r.set_name == "lent_bridges")
    assert not ping(first, address(7, 3, family)), "it was the element that let it pass"


@pytest.mark.parametrize("variant", ["docker first", "docker last"])
def test_beside_docker(world: World, family: int, variant: str) -> None:
    """FORWARD drops by policy, and DOCKER-USER is called first."""
    if not shutil.which("iptables"):
        pytest.skip("no iptables")
    assert sh(world.host, "cat", "/proc/sys/net/bridge/bridge-nf-call-iptables").strip() == "1"
    program = "iptables" if family == 4 else "ip6tables"

    def docker() -> None:
        sh(world.host, program, "-N", "DOCKER-USER", check=False)
        sh(world.host, program, "-A", "FORWARD", "-j", "DOCKER-USER")
        sh(world.host, program, "-P", "FORWARD", "DROP")

    if variant == "docker first":
        docker()
    first, _ = world.network(1, containers=2)
    (other,) = world.network(2, Nat("none"))
    if variant == "docker last":
        docker()
    assert ping(first, address(1, 3, family)), "bridged frames"
    assert ping(first, OUTSIDE[family])
    assert ping(world.outside, address(2, 2, family))
    assert not ping(other, address(1, 2, family))
    world.drop(lambda r: isinstance(r, IptablesRule))
    assert not ping(first, address(1, 3, family)), "it was the rule that let them pass"
    assert not ping(first, OUTSIDE[family])


def test_foreign_traffic_is_not_touched(world: World, family: int) -> None:
    """Neither accepted nor marked: a drop by policy still catches it, an accept still lets it pass."""
    program = "iptables" if family == 4 else "ip6tables"
    sh(world.host, "sysctl", "-qw", "net.ipv4.ip_forward=1" if family == 4 else "net.ipv6.conf.all.forwarding=1")
    world.network(1)
    assert ping(world.outside, LAN[family])
    sh(world.host, program, "-A", "FORWARD", "-j", "DOCKER-USER")
    sh(world.host, program, "-P", "FORWARD", "DROP")
    assert not ping(world.outside, LAN[family])


def test_path_mtu_errors_come_through(world: World, family: int) -> None:
    """The ICMP error of a router behind the host reaches the container: a probe too big for `lan`'s far side is refused."""
    (pod,) = world.network(1)
    beyond = world.make("beyond")
    sh(world.lan, "ip", "link", "add", "name", "eth1", "mtu", "1300", "type", "veth", "peer", "name", "eth0", "netns", beyond)
    sh(world.lan, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    far, near = ("203.0.113.2", "203.0.113.1") if family == 4 else ("2001:db8:3::2", "2001:db8:3::1")
    for ns, device, text in ((world.lan, "eth1", near), (beyond, "eth0", far)):
        sh(ns, "ip", "link", "set", "dev", device, "up")
        world.give(ns, device, text)
    sh(beyond, "ip", "route", "add", "default", "via", near)
    sh(world.host, "ip", "route", "add", "default", "via", LAN[family])
    assert ping(pod, far)
    said = sh(pod, "ping", "-n", "-M", "do", "-s", "1400", "-c", "1", "-W", "1", far, check=False)
    assert "mtu" in said.lower()


def test_what_conntrack_cannot_place(world: World, family: int) -> None:
    """An echo reply that nobody asked for is `invalid`: as a bridged frame it passes, untranslated it does not get out."""
    first, second = world.network(1, containers=2)
    assert stray_reply_arrives(first, second, address(1, 3, family), family)
    assert not stray_reply_arrives(first, world.outside, OUTSIDE[family], family)
    world.drop(lambda r: isinstance(r, NftElement) and r.set_name in ("guarded", "flows"))
    assert stray_reply_arrives(first, world.outside, OUTSIDE[family], family), "it was the guard"
    assert not stray_reply_arrives(first, second, address(1, 3, family), family), "it was the flow"


def stray_reply_arrives(source: str, target: str, at: str, family: int) -> bool:
    kind, protocol = (socket.AF_INET, socket.IPPROTO_ICMP) if family == 4 else (socket.AF_INET6, socket.IPPROTO_ICMPV6)
    ping(source, at)  # neighbours are known
    message = bytes([0 if family == 4 else 129, 0]) + (b"\xa1\xe4" if family == 4 else b"\0\0") + b"\x12\x34\x4b\xe7"

    def send() -> None:
        with socket.socket(kind, socket.SOCK_RAW, protocol) as out:
            out.sendto(message, (at, 0))

    with inside(target, lambda: socket.socket(kind, socket.SOCK_RAW, protocol)) as listening:
        listening.settimeout(0.5)
        inside(source, send)
        try:
            while message[4:] not in listening.recv(2048):
                pass
        except TimeoutError:
            return False
        return True


@pytest.mark.parametrize("guarded_host", [0, 1])
def test_gateway_stays_out_of_the_tunnel(make: Callable[[str], str], family: int, guarded_host: int) -> None:
    """Both hosts' bridges hold the gateway; the guard of either host alone keeps the two apart."""
    hosts = [make("a"), make("b")]
    pod = make("pod")
    sh(hosts[0], "ip", "link", "add", "name", "eth0", "type", "veth", "peer", "name", "eth0", "netns", hosts[1])
    world = World(make, family, host=hosts[0])
    gateway = address(1, 1, family)
    for number, host in enumerate(hosts):
        sh(host, "ip", "address", "add", f"10.99.0.{number + 1}/24", "dev", "eth0")
        sh(host, "ip", "link", "set", "dev", "eth0", "up")
        world.host = host
        tunnel = ["id", "42", "dstport", "4789", "local", f"10.99.0.{number + 1}", "remote", f"10.99.0.{2 - number}"]
        sh(host, "ip", "link", "add", "name", "vx-pods", "type", "vxlan", *tunnel)
        world.bridge("dw-pods", "vx-pods")
        sh(host, "ip", "link", "set", "dev", "vx-pods", "up")
    world.host = hosts[0]
    world.cable("v1", pod, "eth0")
    sh(hosts[0], "ip", "link", "set", "dev", "v1", "master", "dw-pods")
    world.give(pod, "eth0", address(1, 2, family))
    world.give(hosts[1], "dw-pods", gateway)
    assert until(lambda: ping(pod, gateway)), "through the tunnel, without a guard"

    world.host = hosts[guarded_host]
    network = Network(
        "pods", "vxlan", (ip_network(f"{address(1, 0, family)}/{24 if family == 4 else 64}"),), (ip_address(gateway),)
    )
    world.apply(nat.gateway_guard(network, "vx-pods", Owner("office", "site", "pods")))
    for ns in (pod, hosts[1]):
        sh(ns, "ip", "neigh", "flush", "all")
    assert not ping(pod, gateway)
    assert address(1, 2, family) not in sh(hosts[1], "ip", "neigh"), "the question does not get there either"
    sh(pod, "ip", "neigh", "flush", "all")
    sh(hosts[1], "ping", "-n", "-c", "1", "-W", "1", "-I", gateway, address(1, 2, family), check=False)
    there = mac_of(hosts[1], "dw-pods")
    assert there not in sh(pod, "ip", "neigh"), "the gateway's own question teaches nobody its MAC"
    world.give(hosts[0], "dw-pods", gateway)
    assert until(lambda: ping(pod, gateway)), "its own host's bridge"
    assert there not in sh(pod, "ip", "neigh")
