"""Scenario A8 with real Docker: containers that restart, are made anew, or whose daemon restarts are back on the network with
the same address and the same MAC, on each kind of it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from agent_process import AgentProcess
from conftest import ping, sh, until
from docker_host import DockerHost
from host import World
from lan import Lan
from ovs_host import OvsHost

pytestmark = [pytest.mark.netns, pytest.mark.docker]

LAN = "subnet: 192.168.1.0/24, gateway: 192.168.1.254"
NETWORKS = {
    "uplink": f"{{driver: bridge, bridge: br0, uplink: eth0, {LAN}}}",
    "ovs": f"{{driver: ovs, datapath: netdev, uplink: eth0, {LAN}}}",
    "macvlan": f"{{driver: macvlan, parent: eth0, {LAN}}}",
    "vxlan": "{driver: vxlan, vni: 42, underlay: eth0, subnet: 192.168.77.0/24, gateway: 192.168.77.1}",
}
SITE = """
hosts: {{alpha: {{address: 192.168.1.2/24}}, beta: {{address: 192.168.1.3/24}}}}
networks: {{net: {network}}}
attachments:
  - {{container: "docker:web", host: alpha, network: net, address: {address}}}
"""


class Place:
    """The host alpha with its dockerd and its agent; `asks`: the namespace that asks whether the container is there."""

    def __init__(self, world: World, docker: DockerHost, address: str, asks: str) -> None:
        self.world = world
        self.docker = docker
        self.address = address
        self.asks = asks

    def run(self) -> None:
        self.docker.run("web", "--net=none")

    def answers(self) -> bool:
        return until(lambda: ping(self.asks, self.address))

    def mac(self) -> str:
        return self.docker.docker("exec", "web", "cat", "/sys/class/net/eth1/address")


@pytest.fixture(params=list(NETWORKS))
def place(request: pytest.FixtureRequest, netns: Callable[[str], str], tmp_path: Path) -> Iterator[Place]:
    lan = Lan(netns)
    world = World(netns, tmp_path, netns("alpha"))
    lan.plug_in(world.host)
    sh(world.host, "ip", "address", "add", "192.168.1.2/24", "dev", "eth0")
    sh(world.host, "ip", "route", "add", "default", "via", "192.168.1.254")
    visitor = lan.machine("visitor", "192.168.1.9/24")
    overlay = request.param == "vxlan"
    address = "192.168.77.50" if overlay else "192.168.1.50"
    text = SITE.format(network=NETWORKS[request.param], address=address)
    with ExitStack() as running:
        short = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="dwd-")))
        docker = running.enter_context(DockerHost(world.host, short / "docker"))
        environment = {"DOCKER_HOST": docker.url}
        if request.param == "ovs":
            sh(visitor, "ethtool", "-K", "eth0", "tx", "off")
            environment |= running.enter_context(OvsHost(world.host, short / "ovs")).environment
        options = ("--host", "alpha", "--resync", "3600")
        running.enter_context(AgentProcess(world, world.write(text), *options, env=environment))
        place = Place(world, docker, address, world.host if overlay else visitor)
        place.run()
        yield place


def test_it_comes_back(place: Place) -> None:
    assert place.answers()
    mac = place.mac()
    place.docker.docker("restart", "--time", "0", "web")
    assert place.answers()
    assert place.mac() == mac
    place.docker.docker("rm", "--force", "web")
    place.run()
    assert place.answers()
    assert place.mac() == mac
    place.docker.restart()
    assert not ping(place.asks, place.address)
    place.docker.docker("start", "web")
    assert place.answers()
    assert place.mac() == mac
