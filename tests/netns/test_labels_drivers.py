"""Labels with other runtimes and drivers than Docker on a bridge: plugged in at the start in both families, and back the same
after a restart and after the agent's."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import podman_host
import pytest
from agent_process import AgentProcess
from conftest import sh, until
from docker_host import DockerHost
from host import World
from lan import Lan
from ovs_host import OvsHost
from podman_host import PodmanHost
from test_runtimes import require

pytestmark = [pytest.mark.netns, pytest.mark.docker]

SUBNETS = 'subnets: [10.1.1.0/24, "fd00:1::/64"]'
RANGES = '[10.1.1.64/27, "fd00:1::100-fd00:1::1ff"]'
GIVEN = ("10.1.1.64", "fd00:1::100")
"""The first that labels are given."""
NETWORKS = {
    "bridge": "{driver: bridge, %s}",
    "macvlan": "{driver: macvlan, parent: nic1, %s, host_access: {alpha: 10.1.1.250}}",
    "vxlan": '{driver: vxlan, vni: 42, %s, host_addresses: {alpha: [10.1.1.251, "fd00:1::251"]}}',
    "ovs": "{driver: ovs, datapath: netdev, %s}",
}


class Containers(Protocol):
    """A runtime's, as its own program makes them."""

    url: str

    def run(self, name: str, *args: str) -> str: ...

    def pid(self, name: str) -> int: ...


class Place:
    def __init__(self, world: World, containers: Containers, environment: dict[str, str]) -> None:
        self.world = world
        self.containers = containers
        self.environment = environment

    def agent(self, network: str) -> AgentProcess:
        text = f"hosts: {{alpha: {{address: 192.0.2.1/24}}}}\nlabels: {{lan: {RANGES}}}\n"
        text += f"networks: {{lan: {network % SUBNETS}}}\n"
        return AgentProcess(self.world, self.world.write(text), "--resync", "3600", "--host", "alpha", env=self.environment)

    def inside(self, name: str, *argv: str) -> str:
        return sh(self.world.host, "nsenter", f"--net=/proc/{self.containers.pid(name)}/ns/net", *argv, check=False)

    def has(self, name: str) -> dict[str, Any]:
        """Interface → its MAC and global addresses."""
        return {
            link["ifname"]: (link["address"], *(each["local"] for each in link["addr_info"] if each["scope"] == "global"))
            for link in json.loads(self.inside(name, "ip", "-j", "address") or "[]")
            if link["ifname"] != "lo"
        }

    def reaches(self, name: str, *addresses: str) -> bool:
        return until(
            lambda: all(self.inside(name, "ping", "-c1", "-W1", address).find(" 0% ") > 0 for address in addresses), 20
        )


@pytest.fixture
def world(netns: Callable[[str], str], tmp_path: Path) -> World:
    world = World(netns, tmp_path, netns("alpha"))
    world.uplink()
    lan = Lan(netns)
    lan.plug_in(world.host, "nic1")
    return world


@pytest.fixture
def short() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="dwl-") as path:
        yield Path(path)


def comes_and_goes(place: Place, network: str, run: Callable[[str], object], restart: Callable[[str], object]) -> None:
    with place.agent(network) as agent:
        run("api")
        assert until(lambda: place.has("api").get("eth1", ())[1:] == GIVEN, 20), (place.has("api"), agent.log())
        before = place.has("api")
        run("db")
        assert place.reaches("db", *GIVEN), agent.log()
        restart("api")
        assert until(lambda: place.has("api") == before, 20), (place.has("api"), agent.log())
        assert place.reaches("db", *GIVEN), agent.log()
        agent.kill()
    restart("api")
    with place.agent(network) as agent:
        assert until(lambda: place.has("api") == before, 20), (place.has("api"), agent.log())
        assert place.reaches("db", *GIVEN), agent.log()
        assert not agent.said("gets nothing"), agent.log()


@pytest.mark.parametrize("driver", ["macvlan", "vxlan", "ovs"])
def test_docker(world: World, short: Path, driver: str) -> None:
    with ExitStack() as running:
        docker = running.enter_context(DockerHost(world.host, short / "docker"))
        ovs = running.enter_context(OvsHost(world.host, short / "ovs")) if driver == "ovs" else None
        place = Place(world, docker, {"DOCKER_HOST": docker.url, **(ovs.environment if ovs else {})})
        comes_and_goes(
            place,
            NETWORKS[driver],
            lambda name: docker.run(name, "--net=none", "--label=ductwork.networks=lan"),
            lambda name: docker.docker("restart", "--time", "0", name),
        )


def test_podman(world: World, short: Path) -> None:
    require(podman_host.missing())
    short.chmod(0o755)
    with PodmanHost(world.host, short / "podman") as podman:
        place = Place(world, podman, {"CONTAINER_HOST": podman.url})
        comes_and_goes(
            place,
            NETWORKS["bridge"],
            lambda name: podman.run(name, "--network=none", "--label=ductwork.networks=lan"),
            lambda name: podman.podman("restart", "--time", "0", name),
        )
