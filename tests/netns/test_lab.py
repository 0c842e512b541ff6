"""The lab on a real kernel: what it builds, what it leaves behind, and what its probe sees."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest
from conftest import ping, run, sh
from example_files import EXAMPLES, skip_where_it_cannot_run
from ovs_host import missing as ovs_missing

from ductwork.app import lacking
from ductwork.errors import ApplyError, ConflictError
from ductwork.lab import build, namespaces, switches
from ductwork.lab.expect import expectations
from ductwork.lab.probe import Question, attempt, probe
from ductwork.lab.report import Style, as_text
from ductwork.lab.topology import HostNode, Topology, topology
from ductwork.netns import RUN_DIRECTORY
from ductwork.site.load import load_site
from ductwork.site.model import Attachment, Host, Nat, Network, Site

pytestmark = pytest.mark.netns

NAME = f"dwl-{os.getpid()}"
LAN = Network(
    "lan",
    "bridge",
    (ip_network("10.1.1.0/24"), ip_network("fd00:1::/64")),
    (ip_address("10.1.1.1"), ip_address("fd00:1::1")),
    nat=Nat("none"),
)


def plug(container: str, *addresses: str) -> Attachment:
    return Attachment(container, "alpha", "lan", "eth1", "02:00:00:00:00:01", tuple(map(ip_interface, addresses)))


def site(*attachments: Attachment) -> Site:
    hosts = {name: Host(name, ip_interface(f"10.99.0.{i}/24")) for i, name in enumerate(("alpha", "beta"), 1)}
    plugs = attachments or (plug("web", "10.1.1.2/24", "fd00:1::2/64"), plug("db", "10.1.1.3/24", "fd00:1::3/64"))
    return Site(NAME, hosts, {"lan": LAN}, plugs)


@pytest.fixture
def lab() -> Iterator[Topology]:
    try:
        yield topology(site())
    finally:
        build.down(NAME)


def nothing(_: HostNode) -> None:
    """An apply that changes nothing."""


def by_hand(lab: Topology) -> Callable[[HostNode], None]:
    """An apply of `nat: none`, typed in by hand; so that the lab is tested by something else than the engine."""

    def apply(host: HostNode) -> None:
        containers = [c for c in lab.containers if c.host == host.name]
        if not containers:
            return
        sh(host.netns, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        lines = ["link add name br0 type bridge", "link set dev br0 up", "address add 10.1.1.1/24 dev br0"]
        lines.append("address add fd00:1::1/64 dev br0 nodad")
        for number, container in enumerate(containers):
            lines.append(f"link add name p{number} type veth peer name eth1 netns {container.netns}")
            lines.append(f"link set dev p{number} master br0 up")
        namespaces.ip_batch(lines, host.netns)
        for number, container in enumerate(containers, 2):
            own = ["link set dev eth1 up", f"address add 10.1.1.{number}/24 dev eth1", "route add default via 10.1.1.1"]
            own += [f"address add fd00:1::{number}/64 dev eth1 nodad", "route add default via fd00:1::1"]
            namespaces.ip_batch(own, container.netns)

    return apply


def ours() -> list[str]:
    """Namespaces of this test's labs, by name alone: what the mark does not know is found too."""
    return sorted(p.name for p in Path("/run/netns").glob(f"lab-{NAME}*"))


def differing(lab: Topology) -> list[str]:
    results = attempt(expectations(lab, build.read_addresses(lab)))
    print(as_text(results, Style()))
    return [f"{r.pair.source.label} > {r.pair.address}" for r in results if r.differs]


# The probe.


@pytest.fixture
def pair(netns: Callable[[str], str]) -> tuple[str, str]:
    """Two namespaces on one wire: 10.9.0.1 and .2, fd09::1 and ::2."""
    one, two = netns("one"), netns("two")
    run("ip", "link", "add", "name", "w", "netns", one, "type", "veth", "peer", "name", "w", "netns", two)
    for number, name in enumerate((one, two), 1):
        lines = ["link set dev w up", f"address add 10.9.0.{number}/24 dev w", f"address add fd09::{number}/64 dev w nodad"]
        namespaces.ip_batch(lines, name)
    return one, two


def questions(netns_name: str, *addresses: str) -> set[Question]:
    return {Question(netns_name, ip_address(address)) for address in addresses}


def test_probe_tells_reachable_from_unreachable(pair: tuple[str, str]) -> None:
    one, two = pair
    reachable = questions(one, "10.9.0.2", "fd09::2") | questions(two, "10.9.0.1", "fd09::1")
    silent = questions(one, "10.9.0.3", "fd09::3", "192.0.2.1", "2001:db8::1")
    assert probe(reachable | silent) == reachable


def test_probe_stops_when_all_have_answered_and_waits_for_who_has_not(pair: tuple[str, str]) -> None:
    start = time.monotonic()
    probe(questions(pair[0], "10.9.0.2"))
    answered = time.monotonic()
    probe(questions(pair[0], "10.9.0.3"))
    assert time.monotonic() - answered > max(1.5, answered - start)


def test_probe_goes_one_way_at_a_time(pair: tuple[str, str]) -> None:
    one, two = pair
    sh(two, "nft", "add table inet t; add chain inet t in { type filter hook input priority 0; }")
    sh(two, "nft", "add rule inet t in icmp type echo-request drop; add rule inet t in icmpv6 type echo-request drop")
    there, back = questions(one, "10.9.0.2", "fd09::2"), questions(two, "10.9.0.1", "fd09::1")
    assert probe(there | back) == back


def test_probe_tries_again_what_was_lost(pair: tuple[str, str]) -> None:
    one, two = pair
    sh(two, "nft", "add table inet t; add chain inet t in { type filter hook input priority 0; }")
    sh(two, "nft", "add rule inet t in icmp type echo-request limit rate 1/second burst 1 packets drop")
    assert probe(questions(one, "10.9.0.2")) == questions(one, "10.9.0.2")


def test_probe_lets_the_namespaces_die(pair: tuple[str, str]) -> None:
    one, two = pair
    descriptors = len(os.listdir("/proc/self/fd"))
    probe(questions(one, "10.9.0.2", "fd09::2"))
    assert len(os.listdir("/proc/self/fd")) == descriptors
    run("ip", "netns", "del", one)
    assert _until(lambda: "w@" not in sh(two, "ip", "-o", "link")), "its veth goes with the namespace"


def test_probe_of_a_missing_namespace_is_an_error(pair: tuple[str, str]) -> None:
    with pytest.raises(OSError, match="dwl-nobody"):
        probe(questions(pair[0], "10.9.0.2") | questions("dwl-nobody", "10.9.0.2"))


def test_probe_of_a_thousand_pairs(pair: tuple[str, str]) -> None:
    many = [f"10.9.1.{n}/32" for n in range(1, 251)]
    namespaces.ip_batch((f"address add {a} dev w" for a in many), pair[1])
    namespaces.ip_batch(["route add 10.9.0.0/16 via 10.9.0.2"], pair[0])
    there = questions(pair[0], *(a.partition("/")[0] for a in many))
    silent = questions(pair[0], *(f"10.9.{net}.{n}" for net in (2, 3, 4) for n in range(1, 251)))
    assert probe(there | silent) == there


def _until(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


# Building and removing.


def test_up_builds_all_that_down_removes(lab: Topology) -> None:
    assert not build.is_up(lab)
    build.up(lab, nothing)
    assert build.is_up(lab)
    assert ours() == sorted(lab.namespaces())
    alpha = lab.hosts["alpha"].netns
    for address in ("10.99.0.2", "203.0.113.10", "2001:db8:ffff::10"):
        assert ping(alpha, address)
    assert build.down(NAME) == {}
    assert ours() == []
    assert not {"port0", "sw-eth0"} & {name for _, name in socket.if_nameindex()}


def test_an_address_is_waited_for_until_it_is_usable(pair: tuple[str, str]) -> None:
    assert _until(lambda: namespaces.wait_for_ipv6(pair, 0))
    sh(pair[0], "ip", "address", "add", "fd09::9/64", "dev", "w")  # duplicate address detection takes a second
    assert not namespaces.wait_for_ipv6(pair, 0)
    assert namespaces.wait_for_ipv6(pair, 20)
    assert "tentative" not in sh(pair[0], "ip", "-6", "address")


def test_forwarding_is_for_apply_to_set(lab: Topology) -> None:
    build.up(lab, nothing)
    assert sh(lab.hosts["alpha"].netns, "cat", "/proc/sys/net/ipv4/ip_forward").strip() == "0"
    assert sh(lab.router.netns, "cat", "/proc/sys/net/ipv4/ip_forward").strip() == "1"


def test_what_is_reached_is_what_the_file_asks(lab: Topology) -> None:
    build.up(lab, by_hand(lab))
    assert differing(lab) == []


def test_what_is_broken_shows(lab: Topology) -> None:
    build.up(lab, by_hand(lab))
    sh(lab.hosts["alpha"].netns, "sysctl", "-qw", "net.ipv4.ip_forward=0")
    broken = differing(lab)
    assert set(broken) == {
        *(f"{source} > {to}" for source in ("web", "db") for to in ("10.99.0.2", "203.0.113.10")),
        *(f"{source} > {to}" for source in ("beta", "outside") for to in ("10.1.1.2", "10.1.1.3")),
    }


def test_what_is_open_and_should_not_be_shows(lab: Topology) -> None:
    build.up(lab, by_hand(lab))
    closed = Site(NAME, lab.site.hosts, {"lan": Network("lan", "bridge", LAN.subnets, LAN.gateways)}, lab.site.attachments)
    object.__setattr__(closed.networks["lan"], "nat", Nat("masquerade"))
    assert "outside > 10.1.1.2" in differing(topology(closed))


def test_a_failure_half_way_leaves_nothing(lab: Topology) -> None:
    def refuse(host: HostNode) -> None:
        assert ours()
        if host.name == "beta":
            raise ApplyError("beta will not")

    with pytest.raises(ApplyError, match="beta will not"):
        build.up(lab, refuse)
    assert ours() == []


def test_all_failing_hosts_are_told(lab: Topology) -> None:
    def refuse(host: HostNode) -> None:
        raise ApplyError(f"{host.name} will not")

    with pytest.raises(ApplyError, match="alpha: alpha will not; beta: beta will not"):
        build.up(lab, refuse)
    assert ours() == []


def test_an_address_that_was_to_be_allocated_and_is_not_there(lab: Topology) -> None:
    with pytest.raises(ApplyError, match="late has no address of network lan"):
        build.up(topology(site(plug("late"))), nothing)
    assert ours() == []


def test_an_allocated_address_is_read_from_the_container(lab: Topology) -> None:
    found = topology(site(plug("web")))
    build.up(found, by_hand(found))
    assert build.read_addresses(found) == {
        ("alpha", "web", "eth1"): (ip_interface("10.1.1.2/24"), ip_interface("fd00:1::2/64"))
    }
    assert "10.1.1.2 via 10.99.0.1" in sh(found.router.netns, "ip", "route")


def test_what_a_crash_left_is_found_without_the_file_s_help(lab: Topology) -> None:
    namespaces.create([f"lab-{NAME}-c-long-gone", *lab.namespaces()[:2]], NAME, {})
    Path(f"/run/netns/lab-{NAME}-h-unmounted").touch()
    with pytest.raises(ConflictError, match="is up already"):
        build.up(lab, nothing)
    assert not build.is_up(lab)
    build.down(NAME)
    assert ours() == []


def test_down_goes_on_past_errors(lab: Topology, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> list[int]:
        raise OSError("no cookie")

    build.up(lab, nothing)
    monkeypatch.setattr(namespaces, "cookies", fail)
    with pytest.raises(ExceptionGroup, match="not removed wholly"):
        build.down(NAME)
    assert ours() == []


def test_another_s_namespace_is_left_alone(lab: Topology) -> None:
    foreign = lab.hosts["alpha"].netns
    run("ip", "netns", "add", foreign)
    try:
        with pytest.raises(ConflictError, match=f"a name that is taken: network namespace {foreign}"):
            build.up(lab, nothing)
        build.down(NAME)
        assert ours() == [foreign]
    finally:
        run("ip", "netns", "del", foreign)


def test_another_site_s_lab_is_left_alone(lab: Topology) -> None:
    longer = f"{NAME}-more"
    namespaces.create([f"lab-{longer}-switch"], longer, {})
    try:
        build.down(NAME)
        assert ours() == [f"lab-{longer}-switch"]
    finally:
        build.down(longer)


def test_processes_are_named_and_live(lab: Topology) -> None:
    build.up(lab, nothing)
    web = lab.container("alpha", "web").netns
    with subprocess.Popen(["ip", "netns", "exec", web, "sleep", "60"]) as process:
        try:
            assert _until(lambda: process.pid in namespaces.processes([web]).get(web, []))
            assert build.down(NAME) == {web: [process.pid]}
            assert ours() == []
            assert process.poll() is None
        finally:
            process.terminate()


# The whole, by the commands.

DUCTWORK = [str(Path(sys.executable).with_name("ductwork"))]


def ductwork(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    argv = [*DUCTWORK, *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def example(name: str, tmp_path: Path) -> Path:
    """An example under a name of this test's own, so that a lab that somebody has up here is not in the way."""
    path = tmp_path / f"{NAME}-{name}.yaml"
    path.write_text((Path(__file__).parents[2] / "examples" / f"{name}.yaml").read_text())
    return path


@pytest.mark.parametrize("name", [path.stem for path in EXAMPLES])
def test_every_example_does_what_it_says(name: str, tmp_path: Path) -> None:
    skip_where_it_cannot_run(name)
    done = ductwork("lab", "test", str(example(name, tmp_path)), "--json", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["ok"] is True
    assert {"from", "to", "expected", "actual"} <= set(found["pairs"][0])
    assert {pair["actual"] for pair in found["pairs"]} >= {True}
    assert ours() == []
    assert not [path for path in RUN_DIRECTORY.iterdir() if NAME in path.name]


@pytest.fixture
def standing(tmp_path: Path) -> Iterator[str]:
    """A lab that is up."""
    path = str(example("b2-nat-lan-internet", tmp_path))
    try:
        ductwork("lab", "up", path)
        yield path
    finally:
        ductwork("lab", "down", path)
        assert ours() == []


def test_a_lab_that_is_up_is_tested_and_stays(standing: str) -> None:
    assert "all 22 pairs" in ductwork("lab", "test", standing).stdout
    host = next(name for name in ours() if name.endswith("h-alpha"))
    sh(host, "nft", "flush", "ruleset")
    done = ductwork("lab", "test", standing, check=False)
    assert done.returncode == 3
    assert "outside → web (10.1.1.2) is reached, and should not be: nat: masquerade" in done.stdout
    assert host in ours()


def test_ports_are_tried(tmp_path: Path) -> None:
    """One that is closed shows, and so does one that is open and should not be."""
    path = str(example("e4-vxlan-port", tmp_path))
    try:
        ductwork("lab", "up", path)
        assert ductwork("lab", "test", path).returncode == 0
        host = next(name for name in ours() if name.endswith("h-alpha"))
        sh(host, "nft", "delete element inet ductwork ports4 { tcp . 8088 }")
        sh(host, "nft", "add element inet ductwork ports4 { tcp . 8089 : 10.1.1.2 . 80 }")
        done = ductwork("lab", "test", path, "--json", check=False)
        assert done.returncode == 3
        told = {(pair["port"], pair["expected"], pair["actual"]) for pair in json.loads(done.stdout)["pairs"] if "port" in pair}
        assert {("8088/tcp", True, False), ("8089/tcp", False, True)} <= told
    finally:
        ductwork("lab", "down", path)
        assert ours() == []


def test_exec_runs_in_a_machine_of_the_lab(standing: str) -> None:
    assert "1 received" in ductwork("lab", "exec", standing, "web", "--", "ping", "-c1", "10.1.1.3").stdout
    assert "10.99.0.2/24" in ductwork("lab", "exec", standing, "beta", "ip", "-br", "address").stdout
    assert ductwork("lab", "exec", standing, "netns:web", "--", "sh", "-c", "exit 7", check=False).returncode == 7
    lost = ductwork("lab", "exec", standing, "wep", "true", check=False)
    assert lost.returncode == 2
    assert "did you mean web" in lost.stderr


def test_down_takes_along_what_the_hosts_remember(standing: str) -> None:
    site_name = Path(standing).stem
    journals = [RUN_DIRECTORY / str(cookie) for cookie in namespaces.cookies(n for n in ours() if "-h-alpha" in n)]
    assert [journal for journal in journals if journal.exists()]
    build.state_directory(site_name).mkdir(exist_ok=True)
    ductwork("lab", "down", standing)
    assert not [journal for journal in journals if journal.exists()]
    assert not build.state_directory(site_name).exists()


def test_a_lab_is_up_once(standing: str) -> None:
    again = ductwork("lab", "up", standing, check=False)
    assert again.returncode == 1
    assert "is up already" in again.stderr


def test_a_lab_that_is_tested_goes_when_it_is_ended(tmp_path: Path) -> None:
    argv = [*DUCTWORK, "lab", "test", str(example("b2-nat-lan-internet", tmp_path))]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        assert _until(lambda: len(ours()) > 3)
        process.terminate()
        assert process.wait() == 128 + signal.SIGTERM
    assert ours() == []


# LANs, and Open vSwitch.

ON_A_LAN = """
hosts: {alpha: {address: 192.168.7.1/24}, beta: {address: 192.168.7.2/24}}
networks:
  lan:
    driver: bridge
    uplink: {alpha: eth0, beta: enp9s0f1np1234}
    subnets: [192.168.7.0/24, "fd00:7::/64"]
    gateways: [192.168.7.254, "fd00:7::fe"]
  far: {driver: macvlan, parent: eth1, mode: private, subnet: 192.168.8.0/24, gateway: 192.168.8.254}
  pods: {driver: vxlan, vni: 7, subnet: 10.5.0.0/24}
attachments:
  - {container: a, host: alpha, network: lan, address: [192.168.7.10, "fd00:7::10"]}
  - {container: b, host: beta, network: lan, address: [192.168.7.11, "fd00:7::11"]}
  - {container: c, host: alpha, network: far, address: 192.168.8.10}
  - {container: d, host: alpha, network: far, address: 192.168.8.11}
  - {container: e, host: beta, network: far, address: 192.168.8.12}
  - {container: pod, host: alpha, network: pods, address: 10.5.0.10}
  - {container: pud, host: beta, network: pods, address: 10.5.0.11}
"""
SWITCHED = """
hosts: {alpha: {address: 192.168.7.1/24}}
networks:
  lan: {driver: ovs, datapath: netdev, uplink: eth0, subnet: 192.168.7.0/24, gateway: 192.168.7.254}
attachments:
  - {container: web, host: alpha, network: lan, address: 192.168.7.10}
"""


def written(text: str, tmp_path: Path) -> str:
    path = tmp_path / f"{NAME}-own.yaml"
    path.write_text(text)
    return str(path)


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Has the lab of a text up; gives its file."""

    def go_up(text: str) -> str:
        ductwork("lab", "up", written(text, tmp_path))
        return str(tmp_path / f"{NAME}-own.yaml")

    try:
        yield go_up
    finally:
        ductwork("lab", "down", written(SWITCHED, tmp_path))
        assert ours() == []
        assert daemons() == []


def daemons() -> list[str]:
    """The processes of the labs of this test."""
    commands = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            commands.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return sorted(command.split()[0] for command in commands if f"lab-{NAME}" in command and command.startswith("ovs"))


def test_lans(tmp_path: Path) -> None:
    done = ductwork("lab", "test", written(ON_A_LAN, tmp_path), "--json", check=False)
    found = {(pair["from"], pair["address"]): pair["actual"] for pair in json.loads(done.stdout)["pairs"]}
    assert done.returncode == 0, done.stdout + done.stderr
    assert found["outside", "192.168.7.10"] and found["b", "203.0.113.10"] and found["b", "2001:db8:ffff::10"]
    assert found["lan-lan", "192.168.7.11"] and found["e", "192.168.8.10"]
    assert not found["c", "192.168.8.11"]
    assert not found["c", "192.168.7.11"]
    assert not found["alpha", "192.168.8.10"]


def test_a_lan_that_is_broken_shows(up: Callable[[str], str]) -> None:
    path = up(ON_A_LAN)
    switch = next(name for name in ours() if name.endswith("-switch"))
    sh(switch, "ip", "link", "set", "dev", "sw-eth1", "down")
    done = ductwork("lab", "test", path, check=False)
    assert done.returncode == 3
    assert "outside → c (192.168.8.10) is not reached, and should be: the LAN's gateway lets in" in done.stdout
    router = next(name for name in ours() if name.endswith("-router"))
    sh(switch, "ip", "link", "set", "dev", "sw-eth1", "up")
    sh(router, "ip", "rule", "flush")
    sh(router, "ip", "rule", "add", "lookup", "main")
    done = ductwork("lab", "test", path, check=False)
    assert done.returncode == 3
    assert "c → a (192.168.7.10) is reached, and should not be: networks do not reach each other" in done.stdout


def test_what_the_kernel_lacks_is_told_and_nothing_stays(tmp_path: Path) -> None:
    if not lacking(["vlan"]):
        pytest.skip("this kernel has 802.1q")
    done = ductwork("lab", "test", str(example("d3-macvlan-vlans", tmp_path)), check=False)
    assert done.returncode == 1
    assert "no gateway and no other machine on the LAN of mac10, mac20" in done.stderr
    assert "this kernel has no 802.1q" in done.stderr.splitlines()[-2]
    assert ours() == []


@pytest.fixture
def open_vswitch() -> None:
    if missing := ovs_missing():
        pytest.skip(missing)


@pytest.mark.usefixtures("open_vswitch")
def test_each_host_has_its_own_switch(up: Callable[[str], str]) -> None:
    path = up(SWITCHED)
    assert daemons() == ["ovs-vswitchd", "ovsdb-server"]
    assert ductwork("lab", "exec", path, "alpha", "--", "ovs-vsctl", "list-br").stdout.split() == ["ovs0"]
    assert ductwork("lab", "exec", path, "alpha", "--", *DUCTWORK, "plan", path, "--host", "alpha", "--exit-code", check=False)
    assert "all" in ductwork("lab", "test", path).stdout
    assert "still running" not in ductwork("lab", "down", path).stderr
    assert daemons() == []


ANSWER = "import socket; l = socket.create_server(('192.168.7.10', 80)); c, _ = l.accept(); c.sendall(c.recv(9))"
ASK = "import socket; c = socket.create_connection(('192.168.7.10', 80), 5); c.sendall(b'hello'); print(c.recv(9))"


@pytest.mark.usefixtures("open_vswitch")
@pytest.mark.parametrize("machine", ["lan-lan", "outside"])
def test_streams_pass_a_switch_in_user_space(up: Callable[[str], str], machine: str) -> None:
    path = up(SWITCHED)
    with subprocess.Popen([*DUCTWORK, "lab", "exec", path, "web", "--", sys.executable, "-c", ANSWER]) as server:
        try:
            web = next(name for name in ours() if name.endswith("-web"))
            assert _until(lambda: ":80 " in sh(web, "ss", "-ltn"))
            assert "hello" in ductwork("lab", "exec", path, machine, "--", sys.executable, "-c", ASK).stdout
        finally:
            server.kill()


@pytest.mark.usefixtures("open_vswitch")
def test_a_crash_leaves_no_switch_running(up: Callable[[str], str], tmp_path: Path) -> None:
    lab = topology(load_site(Path(written(SWITCHED, tmp_path))))
    build.build(lab)
    switches.start(lab, build.state_directory(lab.site.name))
    assert len(daemons()) == 2
    assert build.down(lab.site.name) == {}
    assert daemons() == []


def test_a_number_that_is_another_process_s_by_now(tmp_path: Path) -> None:
    directory = tmp_path / "ovs-0"
    directory.mkdir()
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            (directory / "ovs-vswitchd.pid").write_text(f"{process.pid}\n")
            (directory / "ovsdb-server.pid").write_text("")
            switches.stop(tmp_path)
            assert process.poll() is None
            assert not directory.exists()
        finally:
            process.kill()


def test_this_thread_stays_where_it_was(lab: Topology) -> None:
    before = os.stat("/proc/thread-self/ns/net").st_ino
    build.up(lab, nothing)
    assert os.stat("/proc/thread-self/ns/net").st_ino == before
    assert socket.if_nametoindex("lo") == 1
