"""A thousand hostile labels, with real Docker and the agent: nothing that the site does not allow, one clean line each."""

from __future__ import annotations

import http.client
import json
import random
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from agent_process import AgentProcess
from conftest import sh, until
from docker_host import DockerHost
from host import World, differences, same

pytestmark = [pytest.mark.netns, pytest.mark.docker]

SITE = """
labels: {lan: {addresses: [10.1.1.64/27, "fd00:1::100-fd00:1::1ff"], ports: [8000-8099, 5353/udp]}}
networks:
  lan: {driver: bridge, bridge: br0, subnets: [10.1.1.0/24, "fd00:1::/64"], gateways: [10.1.1.1, "fd00:1::1"]}
  secret: {driver: bridge, bridge: br9, subnet: 10.9.9.0/24, hosts: []}
attachments:
  - {container: "netns:<web>", network: lan, address: 10.1.1.70}
  - {container: "netns:<db>", network: secret, address: 10.9.9.2}
ports:
  - {listen: 8099, to: "netns:<web>:80"}
"""
VALUES = [
    *(
        "",
        " ",
        ",",
        ",,,",
        "lan,",
        "secret",
        "lan,secret",
        "LAN",
        "../../etc/passwd",
        "/proc/self/ns/net",
        "docker0",
        "br0",
        "lo",
    ),
    *(
        "\n",
        "lan\nsecret",
        "\x1b[2J\x1b[31mowned",
        "\r\nERROR forged line",
        "\u202etxt",
        "٣",
        "😀" * 40,
        "%s%s%n",
        "{0.__class__}",
    ),
    *("$(touch /tmp/labels-owned)", "`reboot`", "'; DROP TABLE lease; --"),
    *("a" * 900, "9" * 900, "x" * 60_000, "[" * 900),
    *("10.1.1.1", "10.1.1.70", "10.1.1.2", "10.1.1.255", "10.9.9.2"),
    *("0.0.0.0", "127.0.0.1", "224.0.0.1", "::", "fd00:1::1"),
    *("10.1.1.65/24", "10.1.1.65,10.1.1.65", "10.1.1.65,fe80::1"),
    *("fe80::1%eth0", "4294967295", "-1", "1e9", "0x0a010141"),
    *("true", "false", "null", "~", "seed:", "seed:\n", "ff:ff:ff:ff:ff:ff"),
    *("00:00:00:00:00:00", "00:16:3e:00:00:01", "U:x"),
    *("22", "1-65535", "8099:80", "127.0.0.1:8099:22", "0.0.0.0:8000-8099:1-100", "8000:80,[::]:8000:81", "5353"),
    *("10.1.1.2:53:53/udp", "[::1]:22", "8000/tcp/udp", ":8000", "8000:", "8000-7999", "-1:80", "eth0:8000:80", "65536"),
]
PORTS = VALUES[-16:]
KEYS = [
    *(
        "networks",
        "lan.address",
        "lan.interface",
        "lan.mac",
        "lan.gateway",
        "lan.ports",
        "secret.address",
        "secret.interface",
        "lan",
        "lan.",
        "",
    ),
    *("lan.routes", "lan.rate", "lan.spoofing", "lan.address.", ".."),
    *("lan/../secret.address", "networks.address", "Networks"),
    *("lan\n.address", "lan.\x1b[31m", "ліп.address", "x" * 500, "0", "%s.address", "lan.address "),
]
COMMANDS = [
    *(
        "br0",
        "br9 {} 10.9.9.7/24",
        "secret {} 10.9.9.7/24",
        "br0 web 10.1.1.70/24",
        "br0 {} 10.1.1.70/24",
        "br0 {} 10.1.1.1/24",
    ),
    *(
        "eth0 {} 10.1.1.65/24",
        "docker0 {} 10.1.1.65/24",
        "br0 {} 10.1.1.65/24 ; reboot",
        "br0 {} dhcp",
        "--direct-phys eth0 {} 0/0",
    ),
    *(
        "route {} add default via 10.1.1.1",
        "tc {} qdisc add",
        "br0 -l br9 {} 10.1.1.65/24",
        "mac:02:00:00:00:00:01 {} 10.1.1.65/24",
    ),
    *(
        "ovs9 {} 10.1.1.65/24",
        "br77 {} 10.1.1.65/24",
        "br0 {} 10.1.1.65/24 @4095",
        "br0 {} 10.1.1.65/24@10.9.9.1",
        "br0 {} 0/0",
    ),
    *(
        "br0 -i eth0 -i eth1 {} 10.1.1.65/24",
        "br0 {} 10.1.1.65/24 00:16:3e:00:00:01",
        "\x1b[31m {} \n",
        "@" * 900,
        "br0 " * 200,
    ),
]


class Api:
    """Docker's API, for labels that a command line cannot hold."""

    def __init__(self, path: str) -> None:
        self._path = path

    def post(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        connection = http.client.HTTPConnection("docker", timeout=60)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(self._path)
        connection.request("POST", path, json.dumps(body or {}), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        told = answer.read()
        connection.close()
        assert answer.status < 300, told
        return json.loads(told) if told else {}

    def run(self, name: str, labels: dict[str, str], variables: dict[str, str]) -> None:
        body = {
            "Image": "busybox",
            "Cmd": ["sleep", "3600"],
            "Labels": labels,
            "Env": [f"{key}={value}" for key, value in variables.items()],
            "HostConfig": {"NetworkMode": "none"},
        }
        self.post(f"/containers/create?name={name}", body)
        self.post(f"/containers/{name}/start")


@pytest.fixture
def world(netns: Callable[[str], str], tmp_path: Path) -> World:
    built = World(netns, tmp_path, netns("host"))
    built.container("web")
    built.container("db")
    return built


@pytest.fixture
def docker(world: World) -> Iterator[DockerHost]:
    with ExitStack() as running:
        short = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="dwl-")))
        yield running.enter_context(DockerHost(world.host, short))


def hostile() -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """(labels, variables) of twenty containers that are refused for one reason, of ten for many, of one for hundreds."""
    random.seed(4)
    labels = [(key, value) for key in KEYS for value in VALUES if not (key == "networks" and value == "")]
    random.shuffle(labels)
    bad = [*(("lan.address", value) for value in VALUES[:14]), ("networks", "secret"), ("lan.mac", "00:16:3e:00:00:01")]
    for key, value in bad:
        yield {f"ductwork.{key}": value, "ductwork.networks": "lan" if key != "networks" else value}, {}
    for value in PORTS:
        yield {"ductwork.lan.ports": value}, {}
    for command in COMMANDS:
        yield {}, {"pipework_cmd": command.format("@CONTAINER_NAME@")}
    for start in range(0, 300, 30):
        yield {f"ductwork.{key}": value for key, value in labels[start : start + 30]}, {"a_pipework_cmd": "br9 x 10.9.9.9/24"}
    yield {f"ductwork.{key}{number}": value for number, (key, value) in enumerate(labels[300:1100])}, {}


def test_a_thousand_hostile_labels(world: World, docker: DockerHost) -> None:
    cases = list(hostile())
    assert sum(len(labels) + len(variables) for labels, variables in cases) >= 1000
    api = Api(f"{docker.workdir}/docker.sock")
    options = ("--resync", "5")
    with AgentProcess(world, world.write(SITE), *options, env={"DOCKER_HOST": docker.url}) as agent:
        before = world.snapshot()
        for number, (labels, variables) in enumerate(cases):
            api.run(f"bad{number}", labels, variables)
        api.run("good", {"ductwork.lan.address": "10.1.1.65", "ductwork.lan.ports": "8000:80,[::1]:8001"}, {})
        assert until(lambda: agent.said("docker:good plugged in") != [], 60), agent.log()
        assert until(lambda: len(agent.said("gets nothing by its labels")) == len(cases), 60), agent.log()
        docker.docker("rm", "--force", "good")
        assert until(lambda: not list(differences(before, world.snapshot())), 60), agent.log()
        for number in range(3):
            docker.docker("restart", "--time", "0", f"bad{number}")
        sh(world.host, "ip", "link", "del", "dev", "br9")
        assert until(lambda: len(agent.said("mended")) > 1)
        same(before | {"host": {}}, world.snapshot() | {"host": {}})
    lines = agent.log().splitlines()
    assert len([line for line in lines if "gets nothing" in line]) == len(cases), "one line each"
    for line in agent.lines():
        assert line.isprintable() and len(line) < 1000, line
    assert not Path("/tmp/labels-owned").exists()
    world.cli("apply", world.write(SITE), env={"DOCKER_HOST": docker.url})
    world.cli("destroy", world.write(SITE), env={"DOCKER_HOST": docker.url})


def test_containers_that_have_no_network_of_their_own(world: World, docker: DockerHost) -> None:
    """The host's, another container's: refused, and nobody else is hindered; also where it had been plugged in by its name."""
    environment = {"DOCKER_HOST": docker.url}
    with AgentProcess(world, world.write(SITE), "--resync", "3600", env=environment) as agent:
        before = world.snapshot()
        labels = ("--label", "ductwork.networks=lan")
        docker.run("c1", "--net=none", *labels)
        assert until(lambda: agent.said("docker:c1 plugged in") != []), agent.log()
        docker.docker("rm", "--force", "c1")
        docker.run("c1", "--net=host", *labels)
        docker.run("c2", "--net=none", *labels)
        assert until(lambda: agent.said("docker:c2 plugged in") != []), agent.log()
        docker.run("c3", "--net=container:c2", *labels)
        assert until(lambda: len(agent.said("gets nothing by its labels")) == 2), agent.log()
        assert "docker:c1 gets nothing by its labels: docker:c1 runs in the host's own network" in agent.log()
        docker.docker("rm", "--force", "c2", "c3")
        assert until(lambda: not list(differences(before, world.snapshot()))), agent.log()
    done = world.cli("apply", world.write(SITE), env=environment)
    assert "refused: docker:c1" in done.out


def test_two_that_want_the_same(world: World, docker: DockerHost) -> None:
    with AgentProcess(world, world.write(SITE), "--resync", "3600", env={"DOCKER_HOST": docker.url}) as agent:
        mac = ("--label", "ductwork.lan.mac=02:00:00:00:00:05")
        docker.run("c1", "--net=none", "--label", "ductwork.lan.address=10.1.1.65", *mac)
        assert until(lambda: agent.said("docker:c1 plugged in") != []), agent.log()
        before = world.snapshot()
        docker.run("c2", "--net=none", "--label", "ductwork.lan.address=10.1.1.65")
        docker.run("c3", "--net=none", "--label", "ductwork.lan.address=10.1.1.66", *mac)
        docker.run("c4", "--net=none", "--label", "ductwork.lan.interface=lo")
        assert until(lambda: len(agent.said("gets nothing by its labels")) == 3), agent.log()
        assert "10.1.1.65 belongs to docker:c1" in agent.log()
        assert "MAC 02:00:00:00:00:05 is docker:c1's" in agent.log()
        same(before, world.snapshot())
        docker.docker("rm", "--force", "c1")
        docker.docker("restart", "--time", "0", "c2")
        # when it starts, or by the look that c1's end has caused
        assert until(lambda: "docker:c2" in world.cli("ps", env={"DOCKER_HOST": docker.url}).out), agent.log()
