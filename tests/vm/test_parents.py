"""VLANs of a NIC, and ipvlan (scenarios D1 to D3): what needs 802.1q and ipvlan of the kernel."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest
from conftest import ping, sh, until
from docker_host import DockerHost
from host import World, same
from lan import Lan
from parent_hosts import Hosts, link, planned, settled, type_in

from ductwork.engine import AttachRequest, Engine
from ductwork.errors import ConflictError
from ductwork.runtimes.docker import DockerRuntime
from ductwork.site.model import Site

pytestmark = pytest.mark.netns

TWO_VLANS = """
hosts: {alpha: {address: 192.168.1.10/24}, beta: {address: 192.168.1.11/24}}
networks:
  mac10: {driver: macvlan, parent: eth0, vlan: 100, subnet: 172.16.10.0/24, allocate: 172.16.10.100-172.16.10.200}
  mac20: {driver: macvlan, parent: eth0, vlan: 200, subnet: 172.16.10.0/24}
attachments:
  - {container: "docker:web10", host: alpha, network: mac10, address: 172.16.10.11}
  - {container: "docker:web20", host: alpha, network: mac20, address: 172.16.10.12}
  - {container: "docker:db10", host: beta, network: mac10, address: 172.16.10.13}
  - {container: "docker:db20", host: beta, network: mac20, address: 172.16.10.14}
"""


def trunks(lan: Lan, *vlans: int) -> None:
    """The switch tells VLANs apart; every port carries these, tagged, and VLAN 1 as it is."""
    sh(lan.switch, "ip", "link", "set", "dev", "lan", "type", "bridge", "vlan_filtering", "1")
    for port in lan.ports:
        for vlan in vlans:
            sh(lan.switch, "bridge", "vlan", "add", "dev", port, "vid", str(vlan))


@contextmanager
def captured(ns: str, device: str, file: Path) -> Iterator[list[str]]:
    """All frames that pass, one line each, there at the end. (Without immediate mode those of the last second are in a block
    that the kernel has not handed over, and die with tcpdump.)"""
    argv = ["ip", "netns", "exec", ns, "tcpdump", "--immediate-mode", "-U", "-i", device, "-w", str(file)]
    lines: list[str] = []
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        assert "listening on" in process.stderr.readline()
        try:
            yield lines
            time.sleep(0.5)
        finally:
            process.terminate()
            process.communicate()
    shown = subprocess.run(["tcpdump", "-r", str(file), "-nn", "-e"], capture_output=True, text=True, check=True)
    lines += shown.stdout.splitlines()


class DockerMachine:
    """A host on the LAN with a dockerd of its own."""

    def __init__(self, world: World, docker: DockerHost) -> None:
        self.world, self.docker = world, docker

    def engine(self, work: Callable[[Engine], object]) -> object:
        return self.world.engine(work, runtimes={"docker": lambda: DockerRuntime(self.docker.url)})

    def apply(self, site: Site, host: str) -> None:
        def twice(engine: Engine) -> None:
            assert engine.apply(site, host).rounds == 1
            assert not engine.apply(site, host).operations

        self.engine(twice)

    def ping(self, container: str, address: str) -> bool:
        argv = ["docker", "-H", self.docker.url, "exec", container, "ping", "-c", "1", "-W", "2", address]
        return subprocess.run(argv, capture_output=True, check=False).returncode == 0


def test_docker_on_a_trunk(netns: Callable[[str], str], tmp_path: Path) -> None:
    """Two engines, two VLANs. The same subnet in both: what keeps them apart is the tag alone. (A socket's path is short, and
    so is this test's name.)"""
    lan = Lan(netns)
    with ExitStack() as stack:
        machines = {}
        for number, name in enumerate(("alpha", "beta")):
            world = World(netns, tmp_path / name, netns(name))
            world.directory.mkdir()
            lan.plug_in(world.host)
            sh(world.host, "ip", "address", "add", f"192.168.1.{10 + number}/24", "dev", "eth0")
            docker = stack.enter_context(DockerHost(world.host, world.directory))
            for container in {"alpha": ("web10", "web20"), "beta": ("db10", "db20")}[name]:
                docker.run(container, "--network", "none")
            machines[name] = DockerMachine(world, docker)
        trunks(lan, 100, 200)
        alpha, beta = machines["alpha"], machines["beta"]
        before = [settled(machine.world)["host"] for machine in (alpha, beta)]
        site = alpha.world.site(TWO_VLANS)
        for name, machine in machines.items():
            machine.apply(site, name)
            assert "PROMISC" in sh(machine.world.host, "ip", "link", "show", "dev", "eth0")
        with captured(lan.switch, lan.ports[0], tmp_path / "trunk") as frames:
            assert alpha.ping("web10", "172.16.10.13") and beta.ping("db20", "172.16.10.12")
            assert not alpha.ping("web10", "172.16.10.14") and not alpha.ping("web10", "172.16.10.12")
            assert not beta.ping("db10", "172.16.10.12")
        of_10 = [line for line in frames if "172.16.10.11" in line or "172.16.10.13" in line]
        of_20 = [line for line in frames if "172.16.10.12 > " in line or "> 172.16.10.12" in line]
        assert of_10 and all("vlan 100," in line for line in of_10), of_10
        assert of_20 and all("vlan 200," in line for line in of_20), of_20
        for machine in (alpha, beta):
            machine.engine(lambda engine: engine.destroy("office"))
        for was, machine in zip(before, (alpha, beta), strict=True):
            same(was, settled(machine.world)["host"])


@pytest.fixture
def hosts(netns: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hosts:
    """`other` is in VLAN 100 too, by a sub-interface of its own."""
    monkeypatch.setattr(shutil, "which", lambda _: None)
    made = Hosts(netns, tmp_path)
    trunks(made.lan, 100, 200)
    sh(made.other, "ip", "link", "add", "link", "eth0", "name", "eth0.100", "type", "vlan", "id", "100")
    sh(made.other, "ip", "address", "add", "172.16.10.9/24", "dev", "eth0.100")
    sh(made.other, "ip", "address", "add", "fd00:10::9/64", "dev", "eth0.100", "nodad")
    sh(made.other, "ip", "link", "set", "dev", "eth0.100", "up")
    return made


SHARED = """
networks:
  first: {driver: macvlan, parent: eth0, vlan: 100, subnets: [172.16.10.0/24, "fd00:10::/64"], host_access: 172.16.10.250}
  second: {driver: macvlan, parent: eth0, vlan: 100, subnet: 172.16.11.0/24, promisc: false}
attachments:
  - {container: "netns:<web>", network: first, address: [172.16.10.50, "fd00:10::50"]}
  - {container: "netns:<db>", network: second, address: 172.16.11.51}
"""
FIRST, SECOND = ("\n".join(line for line in SHARED.splitlines() if word not in line) for word in ("second", "first"))


def test_a_sub_interface_is_made_shared_and_removed_with_the_last(hosts: Hosts) -> None:
    alpha = hosts.alpha
    before = settled(alpha)
    alpha.settle(SHARED)
    made = link(alpha.host, "eth0.100")
    assert made["linkinfo"]["info_data"]["id"] == 100 and made["ifalias"].startswith("ductwork:office/site//")
    assert hosts.ping("other", "172.16.10.50") and hosts.ping("other", "fd00:10::50")
    assert hosts.ping("alpha", "172.16.10.50") and hosts.ping("web", "172.16.10.250")
    for text in (SECOND, FIRST, SHARED):
        alpha.settle(text)
        assert link(alpha.host, "eth0.100")["ifindex"] == made["ifindex"]
    alpha.engine(lambda engine: engine.undo())
    alpha.destroy()
    same(before, settled(alpha))


def test_the_printed_commands_do_the_same(hosts: Hosts) -> None:
    alpha = hosts.alpha
    before = settled(alpha)
    for text in (SHARED, IPVLAN.format(mode="l3")):
        site = alpha.site(text)
        commands = planned(alpha, lambda engine, site=site: engine.plan(site, ""))  # type: ignore[misc]
        alpha.apply(text)
        applied = settled(alpha)
        alpha.engine(lambda engine: engine.undo())
        same(before, settled(alpha))
        type_in(alpha, commands)
        same(applied, settled(alpha))
        alpha.apply(text)
        alpha.destroy()
        sh(alpha.host, "ip", "link", "set", "dev", "eth0", "promisc", "off")


def test_a_sub_interface_of_somebody_elses_is_used_and_left(hosts: Hosts) -> None:
    alpha = hosts.alpha
    sh(alpha.host, "ip", "link", "add", "link", "eth0", "name", "eth0.100", "mtu", "1400", "type", "vlan", "id", "100")
    sh(alpha.host, "ip", "link", "set", "dev", "eth0.100", "up")
    before = settled(alpha)
    alpha.settle(SHARED)
    assert hosts.ping("other", "172.16.10.50") and link(hosts.ns("web"), "eth1")["mtu"] == 1400
    alpha.destroy()
    same(before, settled(alpha))
    sh(alpha.host, "ip", "link", "set", "dev", "eth0.100", "down")
    sh(alpha.host, "ip", "link", "set", "dev", "eth0.100", "name", "v100", "up")
    before = settled(alpha)
    with pytest.raises(ConflictError, match=r"VLAN 100 of eth0 is on v100 already: nothing was touched"):
        alpha.apply(SHARED)
    same(before, settled(alpha))


IPVLAN = """
networks:
  lan: {{driver: ipvlan, mode: {mode}, parent: eth0, vlan: 100, subnets: [172.16.10.0/24, "fd00:10::/64"],
    host_access: 172.16.10.250}}
attachments:
  - {{container: "netns:<web>", network: lan, address: [172.16.10.50, "fd00:10::50"]}}
  - {{container: "netns:<db>", network: lan, address: [172.16.10.51, "fd00:10::51"]}}
"""


def test_ipvlan_on_a_vlan(hosts: Hosts) -> None:
    alpha = hosts.alpha
    before = settled(alpha)
    alpha.settle(IPVLAN.format(mode="l2"))
    for name, address in (
        ("web", "172.16.10.51"),
        ("web", "172.16.10.9"),
        ("other", "172.16.10.50"),
        ("alpha", "172.16.10.50"),
    ):
        assert hosts.ping(name, address), (name, address)
    for name, address in (("web", "fd00:10::51"), ("web", "fd00:10::9"), ("other", "fd00:10::50")):
        assert hosts.ping(name, address), (name, address)
    assert hosts.ping("web", "172.16.10.250") and not hosts.ping("other", "172.16.10.250"), "the host has no way to the VLAN"
    assert hosts.mac("web", "eth1") == hosts.mac("alpha", "eth0") == hosts.mac("db", "eth1")
    alpha.engine(lambda engine: engine.undo())
    same(before, settled(alpha))
    alpha.settle(IPVLAN.format(mode="l2"))
    alpha.destroy()
    same(before, settled(alpha))


def test_ipvlan_of_two_hosts(hosts: Hosts) -> None:
    """On the NIC itself, whose LAN the hosts are in."""
    text = """
hosts: {alpha: {address: 192.168.1.10/24}, beta: {address: 192.168.1.11/24}}
networks: {lan: {driver: ipvlan, parent: eth0, subnet: 192.168.1.0/24}}
attachments:
  - {container: "netns:<web>", host: alpha, network: lan, address: 192.168.1.50}
  - {container: "netns:<far>", host: beta, network: lan, address: 192.168.1.52}
"""
    hosts.settle(text)
    assert hosts.ping("web", "192.168.1.52") and hosts.ping("far", "192.168.1.10") and hosts.ping("other", "192.168.1.50")
    assert not hosts.ping("alpha", "192.168.1.50"), "its own, it does not reach"


@pytest.mark.parametrize("mode", ["l3", "l3s"])
def test_without_layer_2_the_host_routes(hosts: Hosts, mode: str) -> None:
    """The LAN has a route to the host for the containers' subnet, and the host's own routes take them out."""
    text = f"""
networks:
  pods: {{driver: ipvlan, mode: {mode}, parent: eth0, subnets: [10.7.0.0/24, "fd00:7::/64"], host_access: 10.7.0.250}}
attachments:
  - {{container: "netns:<web>", network: pods, address: [10.7.0.50, "fd00:7::50"]}}
  - {{container: "netns:<db>", network: pods, address: [10.7.0.51, "fd00:7::51"]}}
"""
    alpha = hosts.alpha
    sh(hosts.other, "ip", "route", "add", "10.7.0.0/24", "via", "192.168.1.10")
    sh(hosts.other, "ip", "-6", "route", "add", "fd00:7::/64", "via", "fd00:1::10")
    before = settled(alpha)
    alpha.settle(text)
    assert sh(hosts.ns("web"), "ip", "route", "show", "default").startswith("default dev eth1")
    for name, address in (("web", "10.7.0.51"), ("web", "192.168.1.9"), ("other", "10.7.0.50"), ("web", "192.168.1.11")):
        expected = address != "192.168.1.11"  # beta has no route back
        assert hosts.ping(name, address) == expected, (name, address)
    for name, address in (("web", "fd00:7::51"), ("web", "fd00:1::9"), ("other", "fd00:7::50")):
        assert hosts.ping(name, address), (name, address)
    assert hosts.ping("alpha", "10.7.0.50") and hosts.ping("web", "10.7.0.250")
    alpha.destroy()
    same(before, settled(alpha))


def test_one_mode_and_one_kind_for_each_parent(hosts: Hosts) -> None:
    """What the kernel would do: change the mode of the one that is there; refuse the other kind with nothing but EBUSY."""
    alpha = hosts.alpha
    text = """
networks: {{lan: {{driver: {}, parent: eth0, subnet: 10.7.0.0/24}}}}
attachments: [{{container: "netns:<web>", network: lan, address: 10.7.0.50}}]
"""
    made = ("ip", "link", "add", "link", "eth0", "name", "theirs", "type")
    for kind, wanted, message in (
        (("ipvlan", "mode", "l3"), "ipvlan, mode: l2", "theirs is an ipvlan on eth0 of mode l3"),
        (("ipvlan", "mode", "l3"), "macvlan", "a device carries either macvlan or ipvlan"),
        (("macvlan",), "ipvlan", "a device carries either macvlan or ipvlan"),
    ):
        sh(alpha.host, *made, *kind)
        before = settled(alpha)
        with pytest.raises(ConflictError, match=message):
            alpha.apply(text.format(wanted))
        same(before, settled(alpha))
        sh(alpha.host, "ip", "link", "del", "dev", "theirs")


def test_from_one_kind_to_the_other_at_once(hosts: Hosts) -> None:
    """Both have containers and the host's own interface on one device, which takes one kind."""
    alpha = hosts.alpha
    before = settled(alpha)
    ipvlan = IPVLAN.format(mode="l2")
    macvlan = ipvlan.replace("ipvlan, mode: l2", "macvlan")
    for text in (ipvlan, macvlan, IPVLAN.format(mode="l3"), ipvlan):
        alpha.settle(text)
        assert hosts.ping("web", "172.16.10.51") and hosts.ping("alpha", "172.16.10.51")
    alpha.destroy()
    same(before, settled(alpha))


def test_attached_by_hand_to_a_vlan(hosts: Hosts) -> None:
    alpha = hosts.alpha
    alpha.container("late")
    alpha.settle(SHARED)
    applied = settled(alpha)
    late = f"netns:{alpha.names['late']}"
    alpha.engine(lambda engine: engine.attach(AttachRequest(late, "second", addresses=(ip_address("172.16.11.60"),))))
    assert ping(alpha.names["late"], "172.16.11.51")
    assert not alpha.apply(SHARED).operations
    alpha.engine(lambda engine: engine.detach(late, "second"))
    same(applied, settled(alpha))
    [found] = json.loads(sh(alpha.host, "ip", "-j", "-d", "link", "show", "dev", "eth0.100"))
    assert found["promiscuity"] == 0 and until(lambda: hosts.ping("other", "172.16.10.50"))
    alpha.engine(lambda engine: engine.attach(AttachRequest(late, "second", addresses=(ip_address("172.16.11.60"),))))
    report = alpha.destroy()
    assert [r.key.ident for r in report.kept] == [("eth0.100",)], "what it hangs on stays, and no more"
    assert link(alpha.names["late"], "eth1")["linkinfo"]["info_kind"] == "macvlan"
    alpha.destroy(None)
    assert "eth0.100" not in sh(alpha.host, "ip", "link")
