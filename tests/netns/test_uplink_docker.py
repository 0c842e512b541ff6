"""Real Docker on the LAN (scenarios A1, A9, A11): two hosts on a switch, each with its dockerd, and another machine."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import ping, sh, until
from docker_host import DockerHost
from host import World, same
from lan import Lan

pytestmark = pytest.mark.netns

SITE = """
hosts:
  alpha: {address: 192.168.1.2/24}
  beta: {address: 192.168.1.3/24}
networks:
  lan: {driver: bridge, bridge: br0, uplink: eth0, subnet: 192.168.1.0/24, gateway: 192.168.1.254}
attachments:
  - {container: "docker:test1", host: alpha, network: lan, address: 192.168.1.150, gateway: true}
  - {container: "docker:test2", host: beta, network: lan, address: 192.168.1.151, gateway: true}
"""


@dataclass
class Office:
    lan: Lan
    hosts: dict[str, World]
    dockers: dict[str, DockerHost]
    visitor: str


@pytest.fixture
def office(netns: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Office]:
    lan = Lan(netns)
    hosts, dockers = {}, {}
    with ExitStack() as running:
        short = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="dwd-")))  # a socket's path has 107 characters
        for number, name in enumerate(("alpha", "beta"), 2):
            world = World(netns, tmp_path / name, netns(name))
            world.directory.mkdir()
            lan.plug_in(world.host)
            sh(world.host, "ip", "address", "add", f"192.168.1.{number}/24", "dev", "eth0")
            sh(world.host, "ip", "route", "add", "default", "via", "192.168.1.254")
            hosts[name] = world
            dockers[name] = running.enter_context(DockerHost(world.host, short / name))
        yield Office(lan, hosts, dockers, lan.machine("visitor", "192.168.1.9/24"))


def apply(office: Office, name: str) -> None:
    world = office.hosts[name]
    world.cli("apply", world.write(SITE), "--host", name, env={"DOCKER_HOST": office.dockers[name].url})


def test_containers_on_the_lan(office: Office) -> None:
    """A web server at the container's own address, from another machine and from the other host's container."""
    before = {name: {"host": world.snapshot()["host"]} for name, world in office.hosts.items()}
    for number, name in enumerate(office.dockers, 1):
        serve = "mkdir -p /www && echo hello >/www/index.html && exec httpd -f -p 80 -h /www"
        office.dockers[name].run(f"test{number}", "--net=none", command=("sh", "-c", serve))
        apply(office, name)
    for address in ("192.168.1.150", "192.168.1.151"):
        assert until(lambda address=address: ping(office.visitor, address))
        assert until(
            lambda address=address: "hello" in sh(office.visitor, "busybox", "wget", "-qO-", f"http://{address}/", check=False)
        )
    inside = office.dockers["alpha"].docker
    assert "hello" in inside("exec", "test1", "wget", "-qO-", "http://192.168.1.151/")
    assert " 0% packet loss" in inside("exec", "test1", "ping", "-c1", "-W1", "192.168.1.9"), "to the LAN"
    macs = {json.loads(inside("exec", "test1", "cat", "/sys/class/net/eth1/address").join('""'))}
    assert macs <= {entry["mac"] for entry in json.loads(sh(office.lan.switch, "bridge", "-j", "fdb", "show", "br", "lan"))}
    for name, world in office.hosts.items():
        office.dockers[name].docker("rm", "-f", *office.dockers[name].docker("ps", "-aq").split())
        world.cli("destroy", world.write(SITE), env={"DOCKER_HOST": office.dockers[name].url})
        assert until(lambda world=world: "tentative" not in sh(world.host, "ip", "address"))
        same(before[name], {"host": world.snapshot()["host"]})


def test_docker_on_our_bridge(office: Office) -> None:
    """`dockerd -b br0`: its containers are on the LAN; the bridge stays although it is ours, and goes when they have."""
    world = office.hosts["alpha"]
    office.dockers["alpha"].stop()
    before = {"host": world.snapshot()["host"]}
    apply(office, "alpha")
    options = ["--bridge", "br0", "--fixed-cidr", "192.168.1.224/28", "--default-gateway", "192.168.1.254", "--iptables=false"]
    with DockerHost(world.host, office.dockers["alpha"].workdir / "again", *options) as docker:
        docker.run("plain")
        address = docker.inspect("plain")["NetworkSettings"]["IPAddress"]
        assert until(lambda address=address: ping(office.visitor, address))
        done = world.cli("destroy", world.write(SITE))
        assert "kept: bridge br0" in done.out
        assert ping(office.visitor, address) and ping(office.visitor, "192.168.1.2")
    world.cli("destroy", world.write(SITE))
    assert until(lambda: "tentative" not in sh(world.host, "ip", "address"))
    same(before, {"host": world.snapshot()["host"]})
