"""Docker's containers, beside Docker: real dockerds in hosts that are namespaces, judged by ping, wget and nc."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import docker_host
import pytest
from conftest import run, sh, until
from docker_host import DockerHost
from host import World, same, snapshot

from ductwork.engine import Engine
from ductwork.reconciler import Report
from ductwork.runtimes.docker import DockerRuntime
from ductwork.runtimes.netns import NetnsRuntime

pytestmark = [pytest.mark.netns, pytest.mark.docker]

EXAMPLE = Path(__file__).parents[2] / "examples" / "b5-docker.yaml"
INTERNET = "203.0.113.10"
SERVER = ("sh", "-c", "mkdir -p /www && hostname > /www/name && exec httpd -f -p 80 -h /www")


@dataclass
class Machine:
    """A host of the LAN with a dockerd of its own."""

    world: World
    docker: DockerHost
    address: str

    @property
    def ns(self) -> str:
        return self.world.host

    def engine(self, work: Callable[[Engine], Report]) -> Report:
        runtimes = {"netns": NetnsRuntime, "docker": lambda: DockerRuntime(self.docker.url)}
        return self.world.engine(work, runtimes=runtimes)

    def apply(self, text: str, host: str = "") -> Report:
        """In one round; a second time for nothing."""
        site = self.world.site(text)
        report = self.engine(lambda engine: engine.apply(site, host))
        assert report.rounds <= 1, report.operations
        assert not self.engine(lambda engine: engine.apply(site, host)).operations
        return report

    def destroy(self) -> Report:
        return self.engine(lambda engine: engine.destroy("office"))

    def inside(self, container: str, *argv: str) -> str:
        return self.docker.docker("exec", container, *argv)

    def answers(self, container: str, *argv: str) -> bool:
        done = subprocess.run(["docker", "-H", self.docker.url, "exec", container, *argv], capture_output=True, check=False)
        return done.returncode == 0

    def ping(self, container: str, address: str) -> bool:
        return self.answers(container, "ping", "-c", "1", "-W", "1", address)

    def fetch(self, container: str, url: str) -> str:
        return self.inside(container, "timeout", "3", "wget", "-O-", url)  # with -q, busybox 1.35 crashes

    def drops(self) -> bool:
        """Whether Docker drops what nobody accepts, and bridged frames have to pass there too."""
        policy = sh(self.ns, "iptables", "-S", "FORWARD").splitlines()[0]
        called = sh(self.ns, "sysctl", "-n", "net.bridge.bridge-nf-call-iptables").strip()
        return (policy, called) == ("-P FORWARD DROP", "1")

    def filters(self) -> list[str]:
        """All rules of all programs, without counters and comments."""
        saved = [sh(self.ns, *argv) for argv in (["iptables-save"], ["ip6tables-save"], ["nft", "-s", "list", "ruleset"])]
        lines = "\n".join(saved).splitlines()
        return [line.split(" [")[0] for line in lines if not line.startswith("#")]


class Lan:
    """A switch, and what is plugged into it: the machines, and `outside`, by which the internet is reached."""

    def __init__(self, clean: ExitStack, directory: Path) -> None:
        self._clean = clean
        self._directory = directory
        self.switch = self._namespace("lan")
        run("ip", "-n", self.switch, "link", "add", "name", "switch", "type", "bridge")
        run("ip", "-n", self.switch, "link", "set", "dev", "switch", "up")
        self.outside = self._plug("out", "10.99.0.10")
        sh(self.outside, "ip", "address", "add", f"{INTERNET}/32", "dev", "lo")

    def machine(self, name: str, address: str) -> Machine:
        ns = self._plug(name, address)
        sh(ns, "ip", "route", "add", "default", "via", "10.99.0.10")
        # Docker's policy is DROP only where it switched forwarding on itself.
        sh(ns, "sysctl", "-qw", "net.ipv4.ip_forward=0")
        directory = self._directory / name
        directory.mkdir()
        world = World(self._namespace, directory, ns)
        docker = DockerHost(ns, directory)
        self._clean.callback(docker.stop)
        return Machine(world, docker, address)

    def _namespace(self, name: str) -> str:
        full = f"dwd-{os.getpid()}-{name}"
        run("ip", "netns", "add", full)
        self._clean.callback(subprocess.run, ["ip", "netns", "del", full], check=False)
        run("ip", "-n", full, "link", "set", "dev", "lo", "up")
        return full

    def _plug(self, name: str, address: str) -> str:
        ns = self._namespace(name)
        port = ["name", name, "netns", self.switch]
        run("ip", "-n", ns, "link", "add", "name", "eth0", "type", "veth", "peer", *port)
        run("ip", "-n", self.switch, "link", "set", "dev", name, "master", "switch", "up")
        run("ip", "-n", ns, "link", "set", "dev", "eth0", "up")
        run("ip", "-n", ns, "address", "add", f"{address}/24", "dev", "eth0")
        return ns


@pytest.fixture(scope="module")
def lan() -> Iterator[Lan]:
    missing = docker_host.missing()
    if missing and os.environ.get("CI") != "true":
        pytest.skip(missing)
    assert not missing
    directory = Path(tempfile.mkdtemp(prefix="dwd-"))
    with ExitStack() as clean:
        clean.callback(shutil.rmtree, directory, ignore_errors=True)
        yield Lan(clean, directory)


@pytest.fixture(scope="module")
def hosts(lan: Lan) -> tuple[Machine, Machine]:
    """Two machines on which Docker runs before ductwork comes."""
    alpha, beta = lan.machine("alpha", "10.99.0.1"), lan.machine("beta", "10.99.0.2")
    for machine in (alpha, beta):
        machine.docker.start()
        assert machine.drops()
    return alpha, beta


@pytest.fixture
def pair(hosts: tuple[Machine, Machine]) -> Iterator[tuple[Machine, Machine]]:
    """The two machines, afterwards as they were."""
    before = [machine.filters() for machine in hosts]
    yield hosts
    for machine, filters in zip(hosts, before, strict=True):
        machine.destroy()
        containers = machine.docker.docker("ps", "-aq").split()
        if containers:
            machine.docker.docker("rm", "-f", *containers)
        same(filters, machine.filters())


@pytest.fixture
def alpha(pair: tuple[Machine, Machine]) -> Machine:
    return pair[0]


def defaults(machine: Machine, container: str) -> list[str]:
    """The container's default routes. (busybox's `ip route show default` shows all.)"""
    routes = machine.inside(container, "ip", "route").splitlines()
    return [route.strip() for route in routes if route.startswith("default")]


def links(ns: str) -> list[str]:
    return sorted(line.split()[0] for line in run("ip", "-n", ns, "-brief", "link").splitlines())


def test_vxlan_between_two_dockerds(lan: Lan, pair: tuple[Machine, Machine]) -> None:
    """The example, as it is, with a container of Docker's own network beside."""
    alpha, beta = pair
    alpha.docker.run("own", "-p", "8080:80", command=SERVER)
    before = [(machine.filters(), links(machine.ns)) for machine in pair]
    for machine, names in ((alpha, ("web", "api")), (beta, ("db", "cache"))):
        for name in names:
            machine.docker.run(name, "--net", "none", command=SERVER)
        machine.apply(EXAMPLE.read_text(), machine.ns.rpartition("-")[2])
        assert machine.drops(), "or this test shows nothing"
    for address in ("10.1.1.3", "10.1.1.4", "10.1.1.5", "10.1.1.1", "10.1.1.251", "10.1.1.252", "10.99.0.2", INTERNET):
        assert until(lambda to=address: alpha.ping("web", to), 3), address  # type: ignore[misc]
    assert beta.ping("cache", "10.1.1.2")
    assert alpha.fetch("web", "http://10.1.1.4/name") == beta.inside("db", "hostname")
    assert beta.answers("db", "sh", "-c", "nc -w 2 10.1.1.3 80 < /dev/null")
    assert (
        subprocess.run(
            ["ip", "netns", "exec", alpha.ns, "ping", "-qc1", "10.1.1.5"], capture_output=True, check=False
        ).returncode
        == 0
    )

    # Nothing comes in unasked, and networks of one host do not reach each other.
    sh(lan.outside, "ip", "route", "replace", "10.1.1.0/24", "via", alpha.address)
    assert "100% packet loss" in sh(lan.outside, "ping", "-c1", "-W1", "10.1.1.2", check=False)
    assert not alpha.ping("own", "10.1.1.2")

    # Docker's own goes on.
    assert alpha.ping("own", INTERNET)
    assert sh(lan.outside, "wget", "-T2", "-qO-", f"http://{alpha.address}:8080/name") == alpha.inside("own", "hostname") + "\n"

    rules = [line for line in sh(alpha.ns, "iptables", "-S", "DOCKER-USER").splitlines() if "ductwork" in line]
    assert len(rules) == 1
    for machine, (filters, there) in zip(pair, before, strict=True):
        machine.destroy()
        same(filters, machine.filters())
        assert links(machine.ns) == there
    assert alpha.ping("own", INTERNET)


BESIDE = """
networks:
  lan: {driver: bridge, subnet: 10.2.1.0/24}
attachments:
  - {container: "docker:web", network: lan, address: 10.2.1.2}
"""


def test_beside_dockers_own_interface(alpha: Machine) -> None:
    """The default route stays Docker's unless ours is asked for; then it is kept, and put back."""
    alpha.docker.run("web")
    routes = alpha.inside("web", "ip", "route")
    assert "default via 172.17.0.1 dev eth0" in routes
    alpha.apply(BESIDE)
    assert defaults(alpha, "web") == ["default via 172.17.0.1 dev eth0"]
    assert alpha.ping("web", "10.2.1.1")
    assert alpha.ping("web", INTERNET)
    alpha.apply(BESIDE.replace("10.2.1.2}", "10.2.1.2, gateway: true}"))
    ours, parked = defaults(alpha, "web")
    assert ours == "default via 10.2.1.1 dev eth1"
    assert parked.startswith("default via 172.17.0.1 dev eth0 ")
    assert " metric " in parked
    assert alpha.ping("web", INTERNET)
    alpha.destroy()
    assert alpha.inside("web", "ip", "route") == routes
    assert alpha.ping("web", INTERNET)


def test_the_printed_commands(alpha: Machine) -> None:
    """Typed on the host, they reach into Docker's containers too."""
    alpha.docker.run("web")
    text = BESIDE.replace("10.2.1.2}", "10.2.1.2, gateway: true}")
    path = alpha.world.write(text)
    env = {"DOCKER_HOST": alpha.docker.url}
    sh(alpha.ns, "sh", "-ec", alpha.world.cli("plan", path, "--format", "commands", env=env).out)
    alpha.world.cli("plan", path, "--exit-code", env=env)
    assert defaults(alpha, "web")[0] == "default via 10.2.1.1 dev eth1"
    assert alpha.ping("web", INTERNET)


ALLOCATED = """
networks:
  lan: {driver: bridge, subnet: 10.2.2.0/24}
attachments:
  - {container: "docker:first", network: lan}
  - {container: "docker:web", network: lan}
"""


def eth1(machine: Machine) -> list[str]:
    """MAC and addresses of the container web."""
    words = machine.inside("web", "ip", "address", "show", "dev", "eth1").split()
    return [words[at + 1] for at, word in enumerate(words) if word in ("link/ether", "inet")]


def test_restarted_and_made_anew(alpha: Machine) -> None:
    """C4: by the next apply a container has its own address and MAC again, whoever came in between."""
    alpha.docker.run("web", "--net", "none")
    alpha.apply(ALLOCATED.replace('  - {container: "docker:first", network: lan}\n', ""))
    was = eth1(alpha)
    assert len(was) == 2

    alpha.docker.docker("rm", "-f", "web")
    alpha.docker.run("first", "--net", "none")
    assert set(alpha.apply(ALLOCATED).waiting) == {"docker:web"}
    alpha.docker.run("web", "--net", "none")
    assert not alpha.apply(ALLOCATED).waiting
    assert eth1(alpha) == was

    alpha.docker.docker("stop", "-t", "0", "web")
    assert set(alpha.apply(ALLOCATED).waiting) == {"docker:web"}
    alpha.docker.docker("start", "web")
    alpha.apply(ALLOCATED)
    assert eth1(alpha) == was

    alpha.docker.docker("restart", "-t", "0", "web")
    alpha.apply(ALLOCATED)
    assert eth1(alpha) == was
    assert alpha.ping("web", "10.2.2.1")
    assert alpha.ping("first", was[1].partition("/")[0])


def test_a_container_on_the_hosts_network(alpha: Machine) -> None:
    alpha.docker.run("web", "--net", "host")
    before = snapshot(alpha.ns)
    path = alpha.world.write(BESIDE)
    done = alpha.world.cli("apply", path, code=1, env={"DOCKER_HOST": alpha.docker.url})
    assert done.out == ""
    assert "docker:web runs in the host's own network namespace" in done.err
    assert "--network" in done.err
    same(before, snapshot(alpha.ns))


DUAL = """
networks:
  lan: {driver: bridge, subnets: [10.2.3.0/24, "fd00:23::/64"]}
attachments:
  - {container: "docker:web", network: lan, address: [10.2.3.2, "fd00:23::2"]}
  - {container: "docker:db", network: lan, address: [10.2.3.3, "fd00:23::3"]}
"""


def test_ipv6_where_docker_has_switched_it_off(alpha: Machine) -> None:
    alpha.docker.run("web")
    alpha.docker.run("db", "--net", "none", command=SERVER)
    assert alpha.inside("web", "cat", "/proc/sys/net/ipv6/conf/default/disable_ipv6") == "1"
    alpha.apply(DUAL)
    assert alpha.ping("web", "fd00:23::3")
    assert alpha.ping("db", "fd00:23::1")
    assert alpha.fetch("web", "http://[fd00:23::3]/name") == alpha.inside("db", "hostname")
    assert alpha.inside("web", "cat", "/proc/sys/net/ipv6/conf/eth0/disable_ipv6") == "1", "not ours"


LATER = """
networks:
  lan: {driver: bridge, subnet: 10.2.4.0/24}
attachments:
  - {container: "netns:<pod>", network: lan, address: 10.2.4.2}
  - {container: "netns:<two>", network: lan, address: 10.2.4.3}
  - {container: "docker:web", network: lan, address: 10.2.4.4}
"""


def test_docker_starts_after_ductwork(lan: Lan) -> None:
    gamma = lan.machine("gamma", "10.99.0.3")
    gamma.world.container("pod")
    gamma.world.container("two")
    assert not gamma.drops()
    report = gamma.apply(LATER)
    assert set(report.waiting) == {"docker:web"}
    assert gamma.world.ping("pod", INTERNET)

    def judge() -> None:
        assert gamma.drops()
        for address in (INTERNET, "10.2.4.1", "10.2.4.3", "10.2.4.4"):
            assert gamma.world.ping("pod", address), address
        assert gamma.ping("web", INTERNET)
        assert gamma.ping("own", INTERNET)
        fetched = sh(lan.outside, "wget", "-T2", "-qO-", f"http://{gamma.address}:8080/name")
        assert fetched == gamma.inside("own", "hostname") + "\n"

    gamma.docker.start()
    gamma.docker.run("web", "--net", "none")
    gamma.docker.run("own", "-p", "8080:80", command=SERVER)
    assert gamma.world.ping("pod", INTERNET), "before the next apply, too"
    gamma.apply(LATER)
    judge()

    gamma.docker.restart()
    for name in ("web", "own"):
        gamma.docker.docker("start", name)
    gamma.apply(LATER)
    judge()

    gamma.destroy()
    assert not [line for line in gamma.filters() if "ductwork" in line]
    assert gamma.drops()


def test_forwarding_that_docker_needs_by_now_stays(lan: Lan) -> None:
    """Docker switches `ip_forward` on, and with it every device, when it starts; the last of ours must not take that away."""
    host = lan.machine("delta", "10.99.0.4")
    host.world.container("late")
    text = BESIDE.replace("docker:web", "netns:<late>")
    site = host.world.site(text)
    host.world.engine(lambda engine: engine.apply(site, ""))
    sh(host.ns, "sysctl", "-qw", "net.ipv4.ip_forward=1")
    host.world.engine(lambda engine: engine.destroy("office"))
    assert sh(host.ns, "sysctl", "-n", "net.ipv4.conf.eth0.forwarding").strip() == "1"
