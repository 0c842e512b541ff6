"""Ports opened and closed by hand, ports that somebody holds, and connections from before."""

from __future__ import annotations

import json
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import docker_host
import pytest
from agent_process import AgentProcess
from conftest import inside, sh, until
from docker_host import DockerHost
from host import World, same, snapshot
from test_antispoof import mac_of

from ductwork.engine import AttachRequest
from ductwork.errors import ConflictError, DuctworkError
from ductwork.publishing import PublishRequest
from ductwork.reconciler import Report
from ductwork.site.values import listen, port_target
from talk import REFUSED, SILENCE, ask, send_frame, served

pytestmark = pytest.mark.netns

SITE = """
networks:
  lan: {driver: bridge, subnets: [10.1.1.0/24, "fd00:1::/64"]}
attachments:
  - {container: "netns:<web>", network: lan, address: [10.1.1.2, "fd00:1::2"]}
  - {container: "netns:<db>", network: lan, address: [10.1.1.3, "fd00:1::3"]}
"""
PORTS = 'ports:\n  - {listen: 8088, to: "netns:<web>:80"}\n  - {listen: 8088, to: "netns:<web>:80", protocol: udp}\n'
HOST, OUTSIDE = "192.0.2.1", "192.0.2.2"


@pytest.fixture
def world(netns: Callable[[str], str], tmp_path: Path) -> World:
    made = World(netns, tmp_path, netns("host"))
    for name in ("web", "db"):
        made.container(name)
    made.names["out"] = made.uplink()
    return made


def publish(world: World, where: str, to: str, protocol: str = "tcp", network: str = "") -> Report:
    request = PublishRequest(listen(where), port_target(world.fill(to)), protocol, network)  # type: ignore[arg-type]
    return world.engine(lambda engine: engine.publisher.publish(request))


def unpublish(world: World, where: str, protocol: str = "tcp") -> Report:
    return world.engine(lambda engine: engine.publisher.unpublish(listen(where), protocol))  # type: ignore[arg-type]


def listed(world: World) -> list[tuple[str, str, str, str]]:
    rows = json.loads(world.cli("ports", "--json").out)
    return [(row["listen"], row["protocol"], row["origin"], row["state"]) for row in rows]


def outside_asks(world: World, port: int = 8088, protocol: str = "tcp") -> str:
    return ask(world.names["out"], HOST, port, protocol)


def test_by_hand(world: World) -> None:
    """Opened, kept by `apply`, mended, closed; the second port of a network costs no look at the whole."""
    world.settle(SITE)
    before = snapshot(world.host)
    with served((world.names["web"], 80)):
        assert outside_asks(world) == REFUSED
        assert publish(world, "8088", "netns:<web>:80").rounds == 1
        assert outside_asks(world) == OUTSIDE
        assert [str(o.target.key.kind) for o in publish(world, "8089", "<web>:80").operations] == ["nft-element"] * 2
        assert not publish(world, "8089", "<web>:80").operations
        assert world.apply(SITE).operations == ()
        sh(world.host, "nft", "flush", "ruleset")
        world.settle(SITE)
        assert (outside_asks(world), outside_asks(world, 8089)) == (OUTSIDE, OUTSIDE)
        assert listed(world) == [("8088", "tcp", "publish", "published"), ("8089", "tcp", "publish", "published")]
        unpublish(world, "8088")
        assert (outside_asks(world), outside_asks(world, 8089)) == (REFUSED, OUTSIDE)
        unpublish(world, "8089")
    same(snapshot(world.host), before)
    assert listed(world) == []


def test_a_container_starts_anew(world: World) -> None:
    world.settle(SITE)
    publish(world, "8088", "<web>:80")
    world.kill("web")
    world.apply(SITE)
    assert listed(world) == [("8088", "tcp", "publish", "waiting")]
    world.container("web")
    site = world.site(SITE)
    report = world.engine(lambda engine: engine.plug_in(site, "", f"netns:{world.names['web']}"))
    assert report
    with served((world.names["web"], 80)):
        assert outside_asks(world) == OUTSIDE
    assert not world.apply(SITE).operations


def test_undo(world: World) -> None:
    """Of either, and what is remembered goes along."""
    world.settle(SITE)
    publish(world, "8088", "<web>:80")
    world.engine(lambda engine: engine.undo())
    assert listed(world) == []
    assert not world.apply(SITE).operations
    publish(world, "8088", "<web>:80")
    unpublish(world, "8088")
    world.engine(lambda engine: engine.undo())
    assert listed(world) == [("8088", "tcp", "publish", "published")]
    assert not world.apply(SITE).operations


def test_a_lost_store(world: World) -> None:
    """What it forgot stays open, and can be closed."""
    world.settle(SITE)
    publish(world, "127.0.0.1:8088", "<web>:80")
    for file in world.state.iterdir():
        file.unlink()
    world.apply(SITE)
    assert listed(world) == [("127.0.0.1:8088", "tcp", "publish", "published")]
    unpublish(world, "127.0.0.1:8088")
    assert listed(world) == []


RANGES = {
    "9000-9009": ("<web>:9000-9009", {9003: 9003}),
    "8000-8999": ("<web>:80", {8000: 80, 8999: 80}),
    "7000-7002": ("<web>:79-81", {7001: 80}),
}
"""Ports that lead to the same, to one, and to others: where, to what, which of them are tried and where each arrives."""


@pytest.mark.parametrize("where", RANGES)
@pytest.mark.parametrize("address", ["", f"{HOST}:"])
def test_ranges(world: World, where: str, address: str) -> None:
    """Opened as one, closed as one, by the kernel's marks where the store is lost; beside a port that a file has."""
    (to, tried), where = RANGES[where], address + where
    world.settle(SITE + PORTS.replace("8088", "6999"))
    before = snapshot(world.host)
    report = publish(world, where, to)
    elements = (3 if "7000" in where else 1) * (1 if address else 2)
    assert len([o for o in report.operations if o.target.key.kind == "nft-element"]) == elements
    with served(*((world.names["web"], inner) for inner in {80, *tried.values()})):
        assert {outside_asks(world, port) for port in (*tried, 6999)} == {OUTSIDE}
        assert {ask(world.host, HOST, port, "tcp") for port in tried} == {HOST}
    with pytest.raises(ConflictError, match=f"{where}/tcp is published already"):
        publish(world, f"{address}{min(tried)}", "<db>:80")
    assert [row for row in listed(world) if row[2] == "publish"] == [(where, "tcp", "publish", "published")]
    assert not world.apply(SITE + PORTS.replace("8088", "6999")).operations
    world.engine(lambda engine: engine.undo())
    same(snapshot(world.host), before)
    publish(world, where, to)
    for file in world.state.iterdir():
        file.unlink()
    world.apply(SITE + PORTS.replace("8088", "6999"))
    unpublish(world, where)
    same(snapshot(world.host), before)


def test_thousands(world: World) -> None:
    """All at once: as one range, and as ports of their own."""
    world.settle(SITE)
    before = snapshot(world.host)
    assert len(publish(world, "1-65535", "<web>:1-65535").operations) < 20
    assert "1-65535" in sh(world.host, "nft", "list", "map", "inet", "ductwork", "ranges4")
    unpublish(world, "1-65535")
    same(snapshot(world.host), before)
    publish(world, "10000-11999", "<web>:20000-21999")
    with served((world.names["web"], 21999)):
        assert outside_asks(world, 11999) == OUTSIDE
    unpublish(world, "10000-11999")
    same(snapshot(world.host), before)


def test_not_more_is_relayed_than_the_agent_has_room_for(world: World) -> None:
    world.settle(SITE)
    for where in ("1-65535", "[::1]:3000-6999", "[::1]:80"):
        publish(world, where, "<web>:80")
    publish(world, "5000", "<db>:80", "udp")
    relayed = world.engine(lambda engine: engine.publisher.relayed())
    assert {("tcp", 80), ("tcp", 3000), ("tcp", 6999), ("udp", 5000)} <= relayed.keys()
    assert len(relayed) == 4002, "the longest is left out"
    assert "4097 ports at `::1`" in world.cli("publish", "[::1]:2000-6096", f"{world.names['web']}:80", code=2).err


@pytest.mark.parametrize(
    ("theirs", "mine"), [("8000-8999", "8088"), ("8088", "8088-8089"), (f"{HOST}:8088", f"{HOST}:8000-8100")]
)
def test_another_sites(world: World, theirs: str, mine: str) -> None:
    """A port is refused that another site's file has, however either is written."""
    world.settle(SITE + f'ports:\n  - {{listen: "{theirs}", to: "netns:<web>:80"}}\n')
    before = snapshot(world.host)
    other = """
networks: {other: {driver: bridge, subnet: 10.7.7.0/24}}
attachments: [{container: "netns:<db>", network: other}]
ports: [{listen: "MINE", to: "netns:<db>:80"}]
"""
    with pytest.raises(ConflictError, match="is published already by site office"):
        world.apply(other.replace("MINE", mine), "others")
    same(snapshot(world.host), before)


def test_detached_and_destroyed(world: World) -> None:
    before = snapshot(world.host)
    world.settle(SITE)
    world.container("guest")
    guest = f"netns:{world.names['guest']}"
    world.engine(lambda engine: engine.attach(AttachRequest(guest, "lan")))
    publish(world, "8088", "<guest>:80")
    publish(world, "8089", "<web>:80")
    assert not world.apply(SITE).operations
    world.engine(lambda engine: engine.detach(guest, "lan"))
    assert listed(world) == [("8089", "tcp", "publish", "published")]
    world.destroy()
    same(snapshot(world.host), before)
    assert listed(world) == []


@pytest.mark.parametrize(
    ("where", "to", "said"),
    [
        ("8088", "<db>:80", "site office"),
        ("9001", "<db>:80", "published already"),
        ("9000-9001", "<web>:80", "published already"),
        ("7000", "nobody:80", "not running"),
        ("7000", "<web>:80@side", "in network"),
        ("[2001:db8::1]:7000", "<only4>:80", "IPv4 alone"),
        ("0.0.0.0:8088", "<db>:80", "site office"),
        ("[::]:9001", "<db>:80", "published already by `ductwork publish`"),
        ("8090", "<db>:80", "site office"),
        ("7000", "<apart>:80", "internal"),
    ],
)
def test_refused(world: World, where: str, to: str, said: str) -> None:
    for name in ("only4", "apart", "gone"):
        world.container(name)
    world.kill("gone")
    text = SITE.replace("attachments:", "  four: {driver: bridge, subnet: 10.4.4.0/24}\nattachments:")
    shut = "  shut: {driver: bridge, subnet: 10.5.5.0/24, internal: true, host_addresses: {h: 10.5.5.9}}\n"
    text = text.replace("networks:\n", "hosts:\n  h: {address: 192.0.2.1/24}\nnetworks:\n" + shut).replace(
        "network: ", "host: h, network: "
    )
    text += '  - {container: "netns:<only4>", host: h, network: four, address: 10.4.4.2}\n'
    text += '  - {container: "netns:<apart>", host: h, network: shut, address: 10.5.5.2}\n'
    text += '  - {container: "netns:<gone>", host: h, network: lan, address: 10.1.1.9}\n'
    waiting = '  - {listen: 8090, to: "netns:<gone>:80"}\n'
    world.settle(text + (PORTS + waiting).replace("{listen", "{host: h, listen"), host="h")
    publish(world, "9001", "<web>:80")
    before = snapshot(world.host)
    target, _, network = to.partition("@")
    with pytest.raises(DuctworkError, match=said):
        publish(world, where, target, network=network)
    same(snapshot(world.host), before)


@pytest.mark.parametrize("where", ["8088", "0.0.0.0:8088", "8000-8999"])
def test_a_file_does_not_take_what_was_opened_by_hand(world: World, where: str) -> None:
    world.settle(SITE)
    publish(world, "8088", "<web>:80")
    before = snapshot(world.host)
    text = SITE + f'ports:\n  - {{listen: "{where}", to: "netns:<db>:80"}}\n'
    with pytest.raises(ConflictError, match="8088/tcp is published already by `ductwork publish`"):
        world.apply(text)
    site = world.site(text)
    with pytest.raises(ConflictError, match="published already"):
        world.engine(lambda engine: engine.plan(site, ""))
    same(snapshot(world.host), before)
    unpublish(world, "8088")
    world.settle(text)


def test_the_loopbacks_port_is_not_reached_from_the_wire(world: World) -> None:
    """A frame to 127.0.0.1, by a device that nothing is served on."""
    world.settle(SITE + 'ports:\n  - {listen: "127.0.0.1:8088", to: "netns:<web>:7", protocol: udp}\n')
    mac = mac_of(world.host, "eth0")
    with inside(world.names["web"], lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as opened:
        opened.bind(("0.0.0.0", 7))
        opened.settimeout(SILENCE)
        inside(world.names["out"], lambda: send_frame("eth0", mac, OUTSIDE, "127.0.0.1", 8088))
        with pytest.raises(TimeoutError):
            opened.recv(100)
        with inside(world.host, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as client:
            client.sendto(b"host", ("127.0.0.1", 8088))
            assert opened.recv(100) == b"host"


@contextmanager
def listening(ns: str, kind: int, address: str) -> Iterator[None]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with inside(ns, lambda: socket.socket(family, kind)) as opened:
        opened.bind((address, 8088))
        if kind == socket.SOCK_STREAM:
            opened.listen()
        yield


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["tcp", "udp"])
@pytest.mark.parametrize("address", ["0.0.0.0", "127.0.0.1", HOST, "::", "2001:db8::1"])
def test_held_by_a_process(world: World, kind: int, address: str) -> None:
    """Refused before anything is changed, the process named; what is open already is no reason to refuse it."""
    before = snapshot(world.host)
    with listening(world.host, kind, address):
        with pytest.raises(ConflictError, match=r"port 8088/(tcp|udp) of this host is held by py\S+ \(process \d+\)"):
            world.apply(SITE + PORTS)
        site = world.site(SITE + PORTS)
        with pytest.raises(ConflictError, match="held by"):
            world.engine(lambda engine: engine.plan(site, ""))
        same(snapshot(world.host), before)
    world.settle(SITE + PORTS)
    with listening(world.host, kind, address):
        assert not world.apply(SITE + PORTS).operations


def test_one_address_comes_before_all(world: World) -> None:
    """Of each family; all other addresses of the host lead where the port without one does."""
    before = SITE + 'ports:\n  - {listen: 8088, to: "netns:<web>:80"}\n'
    more = "".join(f'  - {{listen: "{where}:8088", to: "netns:<db>:80"}}\n' for where in (HOST, "[2001:db8::1]"))
    world.settle(before + more)
    with served((world.names["db"], 80)):
        assert [ask(world.names["out"], to, 8088, "tcp") for to in (HOST, "2001:db8::1")] == [OUTSIDE, "2001:db8::2"]
        assert ask(world.host, "127.0.0.1", 8088, "tcp") == REFUSED
        world.settle(before)
        assert [ask(world.names["out"], to, 8088, "tcp") for to in (HOST, "2001:db8::1")] == [REFUSED] * 2


def test_not_held(world: World) -> None:
    """Another protocol's, another address's, and ::1's of what is not open there."""
    with listening(world.host, socket.SOCK_DGRAM, "0.0.0.0"), listening(world.host, socket.SOCK_DGRAM, "::1"):
        world.settle(SITE + 'ports:\n  - {listen: 8088, to: "netns:<web>:80"}\n')
    with listening(world.host, socket.SOCK_STREAM, "127.0.0.1"), listening(world.host, socket.SOCK_STREAM, "::1"):
        world.settle(SITE + f'ports:\n  - {{listen: "{HOST}:8088", to: "netns:<web>:80"}}\n')


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["tcp", "udp"])
@pytest.mark.parametrize("where", ["8088", "[::1]:8088", "[::1]:8000-8099"])
def test_held_at_loopback(world: World, kind: int, where: str) -> None:
    """Where the agent would relay, somebody listens: refused, in a file and by hand. Who came later is no reason."""
    world.settle(SITE)
    before = snapshot(world.host)
    protocol = "tcp" if kind == socket.SOCK_STREAM else "udp"
    text = SITE + f'ports:\n  - {{listen: "{where}", to: "netns:<web>:80", protocol: {protocol}}}\n'
    with listening(world.host, kind, "::1"):
        said = rf"port 8088/{protocol} of this host is held by py\S+ \(process \d+\), at ::1"
        with pytest.raises(ConflictError, match=said):
            world.apply(text)
        with pytest.raises(ConflictError, match=said):
            publish(world, where, "<web>:80", protocol)
        same(snapshot(world.host), before)
    publish(world, where, "<web>:80", protocol)
    with listening(world.host, kind, "::1"):
        assert not publish(world, where, "<web>:80", protocol).operations
        unpublish(world, where, protocol)
    world.settle(text)
    with listening(world.host, kind, "::1"):
        assert not world.apply(text).operations


VXLAN = """
networks:
  tunnel: {driver: vxlan, vni: 7, subnet: 10.7.7.0/24, host_addresses: {h: 10.7.7.5, other: 10.7.7.6}, hosts: [h]}
hosts:
  h: {address: 192.0.2.1/24}
  other: {address: 192.0.2.2/24}
"""


@pytest.mark.parametrize("where", ["4789", "4000-4999", f"{HOST}:4789"])
def test_a_tunnel_beside_a_port(world: World, where: str) -> None:
    """Of another site's, or opened by hand: what comes for the tunnel would be translated."""
    text = SITE + f'ports:\n  - {{listen: "{where}", to: "netns:<web>:80", protocol: udp}}\n'
    world.settle(text)
    before = snapshot(world.host)
    with pytest.raises(ConflictError, match=r"4789/udp .* vx-tunnel of site other.* needs, is published by site office"):
        world.apply(VXLAN, "other", "h")
    same(snapshot(world.host), before)
    world.settle(SITE)
    publish(world, where, "<web>:80", "udp")
    with pytest.raises(ConflictError, match=r"4789/udp .* published by publish office, network lan"):
        world.apply(VXLAN, "other", "h")
    unpublish(world, where, "udp")
    world.apply(VXLAN, "other", "h")
    before = snapshot(world.host)
    held = "4789/udp of this host is held by the tunnel vx-tunnel of site other, network tunnel"
    with pytest.raises(ConflictError, match=held):
        world.apply(text)
    with pytest.raises(ConflictError, match=held):
        publish(world, where, "<web>:80", "udp")
    same(snapshot(world.host), before)
    publish(world, "8088", "<web>:80", "udp")
    with pytest.raises(ConflictError, match=held):  # without a look at the whole host
        publish(world, where, "<web>:80", "udp")
    publish(world, where, "<web>:80", "tcp")
    world.destroy("other")


def test_a_tunnel_makes_way_for_a_port(world: World) -> None:
    """In one step, where the file drops the one and publishes the other; not while another tunnel stays on the port."""
    hosts = VXLAN[VXLAN.index("hosts:\n  h:") :]
    site = SITE.replace("container:", "host: h, container:")
    pods = "  pods: {driver: vxlan, vni: 8, hosts: [h]}\n"
    port = 'ports:\n  - {host: h, listen: 4789, to: "netns:<web>:80", protocol: udp}\n'
    world.settle(site.replace("attachments:", pods + "attachments:") + hosts, host="h")
    world.apply(VXLAN, "other", "h")
    with pytest.raises(ConflictError, match="4789/udp of this host is held by the tunnel vx-tunnel"):
        world.apply(site + hosts + port, host="h")
    world.destroy("other")
    world.settle(site + hosts + port, host="h")
    assert "vx-" not in sh(world.host, "ip", "link")


class Client:
    """Datagrams from one and the same port."""

    def __init__(self, ns: str) -> None:
        self.socket = inside(ns, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.socket.settimeout(2)
        self.socket.connect((HOST, 8088))

    def ask(self) -> str:
        try:
            self.socket.send(b"?")
            return self.socket.recv(100).decode()
        except ConnectionRefusedError:
            return REFUSED


def test_datagrams_from_before(world: World) -> None:
    """A flow that began before its port was opened, moved or closed follows at once."""
    world.settle(SITE)
    client = Client(world.names["out"])
    with served((world.names["web"], 80), (world.names["db"], 81)):
        assert client.ask() == REFUSED
        world.settle(SITE + PORTS)
        assert client.ask() == OUTSIDE
        flows = sh(world.host, "cat", "/proc/net/nf_conntrack")
        assert "dst=192.0.2.1" in flows and "src=10.1.1.2" in flows
        world.settle(SITE + PORTS.replace("<web>:80", "<db>:81"))
        assert client.ask() == OUTSIDE
        assert "src=10.1.1.2 " not in sh(world.host, "cat", "/proc/net/nf_conntrack")
        world.settle(SITE)
        assert client.ask() == REFUSED
        assert sh(world.host, "cat", "/proc/sys/net/ipv4/conf/dw-lan/route_localnet").strip() == "0"


def test_a_connection_ends_with_its_port(world: World) -> None:
    world.settle(SITE)
    publish(world, "8088", "<web>:80")
    with inside(world.names["web"], lambda: socket.create_server(("10.1.1.2", 80))) as server:
        client = inside(world.names["out"], lambda: socket.create_connection((HOST, 8088), 5))
        accepted, _ = server.accept()
        with client, accepted:
            client.sendall(b"there")
            assert accepted.recv(10) == b"there"
            unpublish(world, "8088")
            client.sendall(b"gone")
            with pytest.raises(ConnectionResetError):
                client.recv(10)


def test_the_agent_relays(world: World) -> None:
    """At ::1, which the kernel cannot translate; without it, and for who does not run, the connection is refused at once."""
    world.container("only4")
    text = SITE.replace("attachments:", "  four: {driver: bridge, subnet: 10.4.4.0/24}\nattachments:") + PORTS
    text = text.replace("ports:", '  - {container: "netns:<only4>", network: four, address: 10.4.4.2}\nports:')
    text += '  - {listen: "[::1]:8090", to: "netns:<only4>:80"}\n'
    text += '  - {listen: 8093, to: "netns:<web>:81"}\n  - {listen: "[::1]:8093", to: "netns:<only4>:80"}\n'
    text += '  - {listen: 20000-20999, to: "netns:<web>:80"}\n'
    text += '  - {listen: "[::1]:8094", to: "netns:<web>:80"}\n  - {listen: "8094-8095", to: "netns:<only4>:80"}\n'
    site = world.write(text)

    def state(listen: str) -> set[str]:
        return {row[3] for row in listed(world) if row[0] == listen}

    def relayed(port: int, protocol: str = "tcp") -> str:
        return ask(world.host, "::1", port, protocol)

    with served((world.names["web"], 80), (world.names["only4"], 80)):
        with AgentProcess(world, site, through=("prlimit", "--nofile=256:4096")):
            assert until(lambda: relayed(8088) == "fd00:1::1")
            assert until(lambda: relayed(20999) == "fd00:1::1"), "a socket each"
            assert relayed(8088, "udp") == "fd00:1::1"
            assert relayed(8090) == "10.4.4.1"
            assert ask(world.names["out"], "2001:db8::1", 8090, "tcp") == REFUSED, "of ::1 alone"
            assert (relayed(8093), relayed(8094), relayed(8095)) == ("10.4.4.1", "fd00:1::1", "10.4.4.1"), "::1's come first"
            assert state("[::1]:8090") == {"relayed"}
            assert not publish(world, "[::1]:8096", "<web>:80").operations
            assert until(lambda: state("[::1]:8096") == {"relayed"})
            unpublish(world, "[::1]:8096")
            publish(world, "8091", "<db>:80")
            assert until(lambda: relayed(8091) == REFUSED and "::1]:8091" in sh(world.host, "ss", "-Hltn"))
            with served((world.names["db"], 80)):
                assert relayed(8091) == "fd00:1::1"
            unpublish(world, "8091")
            assert until(lambda: "::1]:8091" not in sh(world.host, "ss", "-Hltn"))
            assert relayed(8088) == "fd00:1::1"
        assert (relayed(8088), relayed(8090)) == (REFUSED, REFUSED)
        assert state("[::1]:8090") == {"needs the agent"}
        world.kill("only4")
        assert state("[::1]:8090") == {"waiting"}


def test_what_is_relayed_is_whole(world: World) -> None:
    """Megabytes both ways, and either side may end first."""
    site = world.write(SITE + PORTS)
    sent = bytes(range(256)) * 8192
    server = inside(world.names["web"], lambda: socket.socket(socket.AF_INET6))
    with AgentProcess(world, site), server:
        server.bind(("::", 80))
        server.listen()
        assert until(lambda: "::1]:8088" in sh(world.host, "ss", "-Hltn"))
        client = inside(world.host, lambda: socket.create_connection(("::1", 8088), 5))
        accepted, _ = server.accept()
        with client, accepted:
            writer = threading.Thread(target=lambda: (client.sendall(sent), client.shutdown(socket.SHUT_WR)))
            writer.start()
            assert whole(accepted) == sent
            writer.join()
            accepted.sendall(b"after your end")
            accepted.shutdown(socket.SHUT_WR)
            assert whole(client) == b"after your end"


def whole(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.docker
@pytest.mark.parametrize("proxy", ["true", "false"])
def test_held_by_docker(world: World, proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose container it is, whether or not Docker relays by a process."""
    if docker_host.missing():
        pytest.skip(docker_host.missing())
    with (
        tempfile.TemporaryDirectory(prefix="dwp-") as directory,  # a socket's path is of 107 characters at most
        DockerHost(world.host, Path(directory), f"--userland-proxy={proxy}") as docker,
    ):
        docker.run("theirs", "-p", "8088:80")
        monkeypatch.setenv("DOCKER_HOST", docker.url)
        before = snapshot(world.host)
        with pytest.raises(ConflictError, match="port 8088/tcp of this host is held by Docker, for its container theirs"):
            world.apply(SITE + PORTS)
        same(snapshot(world.host), before)
        assert docker.inspect("theirs")["State"]["Running"]


def test_of_whom_replies_go_another_way(world: World) -> None:
    """A container with a default route of its own, as a runtime leaves it: the host stands for its clients. `apply` leaves that
    as it is, and with the last port it goes."""
    world.settle(SITE)
    before = snapshot(world.host)
    world.container("guest")
    world.eth0("guest")
    guest = f"netns:{world.names['guest']}"
    world.engine(lambda engine: engine.attach(AttachRequest(guest, "lan")))
    attached = snapshot(world.host)
    publish(world, "8088", "<web>:80")
    publish(world, "8089", "<guest>:80")
    publish(world, "8090", "<guest>:80")
    assert not world.apply(SITE).operations
    with served((world.names["guest"], 80)):
        assert outside_asks(world, 8089) == "10.1.1.1"
        sh(world.host, "nft", "flush", "set", "inet", "ductwork", "elsewhere4")
        world.settle(SITE)
        unpublish(world, "8089")
        assert (outside_asks(world, 8089), outside_asks(world, 8090)) == (REFUSED, "10.1.1.1")
    unpublish(world, "8090")
    assert not world.apply(SITE).operations
    unpublish(world, "8088")
    same(snapshot(world.host), attached)
    publish(world, "8089", "<guest>:80")
    world.engine(lambda engine: engine.detach(guest, "lan"))
    same(snapshot(world.host), before)


def test_one_of_the_file_whose_replies_go_another_way_starts_anew(world: World) -> None:
    """The agent plugs it in by itself."""
    world.eth0("web")
    world.settle(SITE + PORTS)
    world.kill("web")
    world.container("web")
    world.eth0("web")
    site = world.site(SITE + PORTS)
    assert world.engine(lambda engine: engine.plug_in(site, "", f"netns:{world.names['web']}"))
    assert not world.apply(SITE + PORTS).operations
    with served((world.names["web"], 80)):
        assert outside_asks(world) == "10.1.1.1"
