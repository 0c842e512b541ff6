"""NICs that the agent fetches back from containers that die: virtual ones, which would die with them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from agent_process import AgentProcess
from conftest import ping, sh, until
from docker_host import DockerHost
from host import World, differences, same
from lent_nic import build_lender

pytestmark = pytest.mark.netns

SITE = """
networks:
  direct: {driver: phys, device: nic7, subnet: 192.168.7.0/24}
  lan: {driver: bridge, bridge: br0, subnet: 10.1.1.0/24, internal: true}
attachments:
  - {container: "netns:<web>", network: direct, interface: lan0, address: 192.168.7.2}
  - {container: "netns:<web>", network: lan, address: 10.1.1.2}
  - {container: "netns:<db>", network: lan, address: 10.1.1.3}
"""


@pytest.fixture
def world(netns: Callable[[str], str], tmp_path: Path) -> World:
    return build_lender(netns, tmp_path)


def nic(world: World) -> dict[str, Any]:
    """All that is on it, at home."""
    found = {what: [e for e in its if "nic7" in str(e)] for what, its in world.snapshot()["host"].items() if what != "sysctls"}
    return found | {"sysctls": {k: v for k, v in world.snapshot()["host"]["sysctls"].items() if "/nic7/" in k}}


def is_home(world: World) -> bool:
    return " nic7@" in sh(world.host, "ip", "link")


def held(agent: AgentProcess) -> int:
    """How many namespaces besides its own it has open."""
    own = os.stat(f"/proc/{agent.pid}/ns/net")
    found = 0
    for fd in Path(f"/proc/{agent.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            its = os.stat(fd)
            found += its.st_dev == own.st_dev and its.st_ino != own.st_ino
    return found


def test_it_comes_back_as_it_was_and_goes_again(world: World) -> None:
    before = nic(world)
    with AgentProcess(world, world.write(SITE), "--resync", "3600") as agent:
        for _ in range(2):
            assert until(lambda: ping(world.names["other"], "192.168.7.2")), agent.log()
            assert not is_home(world) and held(agent) == 1
            world.kill("web")
            until(lambda: is_home(world) and not list(differences(before, nic(world))))
            same(before, nic(world))
            assert until(lambda: held(agent) == 0)
            assert not ping(world.names["other"], "192.168.7.2") and not world.ping("db", "10.1.1.2")
            assert ping(world.names["other"], "192.168.7.1")
            world.container("web")


def test_a_container_that_is_there_again_at_once(world: World) -> None:
    """Before anything could be fetched; it may have had its new namespace for a while."""
    with AgentProcess(world, world.write(SITE), "--resync", "3600") as agent:
        for _ in range(10):
            world.kill("web")
            world.container("web")
            assert until(lambda: ping(world.names["other"], "192.168.7.2")), agent.log()
        assert until(lambda: held(agent) == 1)
        assert until(lambda: world.ping("db", "10.1.1.2")), agent.log()


def test_found_in_the_way_at_home(world: World) -> None:
    """Somebody has taken its name. The dead say nothing all the same, and it comes back when it can."""
    before = nic(world)
    with AgentProcess(world, world.write(SITE), "--resync", "1") as agent:
        sh(world.host, "ip", "link", "add", "name", "nic7", "type", "bridge")
        world.kill("web")
        assert until(lambda: not ping(world.names["other"], "192.168.7.2")), agent.log()
        assert until(lambda: agent.said("another link has its name") != []), agent.log()
        assert not world.ping("db", "10.1.1.2")
        sh(world.host, "ip", "link", "del", "dev", "nic7")
        assert until(lambda: is_home(world) and not list(differences(before, nic(world)))), agent.log()
        assert until(lambda: held(agent) == 0)


def test_an_agent_that_is_started_later_holds_on_too(world: World) -> None:
    before, path = nic(world), world.write(SITE)
    with AgentProcess(world, path, "--resync", "3600"):
        pass
    with AgentProcess(world, path, "--resync", "3600") as agent:
        assert held(agent) == 1
        world.kill("web")
        assert until(lambda: is_home(world) and not list(differences(before, nic(world)))), agent.log()


def test_lent_by_a_command(world: World) -> None:
    """Which the agent carries out, or another process: it is held all the same."""
    before = nic(world)
    network = "{driver: phys, device: nic7, subnet: 192.168.7.0/24, hosts: [alpha]}"
    path = world.write(f"hosts: {{alpha: {{}}}}\nnetworks: {{direct: {network}}}\n")
    with AgentProcess(world, path, "--host", "alpha", "--resync", "3600") as agent:
        container = f"netns:{world.names['web']}"
        world.cli("attach", container, "direct", "--address", "192.168.7.2")
        assert until(lambda: held(agent) == 1), agent.log()
        world.kill("web")
        assert until(lambda: is_home(world) and not list(differences(before, nic(world)))), agent.log()
        world.container("web")
        assert until(lambda: ping(world.names["other"], "192.168.7.2")), agent.log()
        world.cli("detach", container, "direct")
        assert until(lambda: held(agent) == 0 and not list(differences(before, nic(world)))), agent.log()


def test_one_that_has_died_is_told_of(world: World) -> None:
    """While nobody held on: there is nothing to come back, and all else goes on."""
    path = world.write(SITE)
    with AgentProcess(world, path, "--resync", "3600") as agent:
        agent.kill()
    world.kill("web")
    assert until(lambda: "nic7" not in sh(world.host, "ip", "link"))
    with AgentProcess(world, path, "--resync", "3600") as agent:
        assert "10.1.1.3" in sh(world.names["db"], "ip", "address")
        assert agent.said("nic7 is gone"), agent.log()
    world.destroy()
    assert "lent.json" not in world.remembered()


@pytest.fixture
def docker(world: World) -> Iterator[DockerHost]:
    with ExitStack() as running:
        short = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="dwp-")))
        yield running.enter_context(DockerHost(world.host, short))


@pytest.mark.docker
def test_from_docker(world: World, docker: DockerHost) -> None:
    """Also where Docker itself has a network in the container, and where its daemon is away."""
    docker.run("router")
    before = nic(world)
    path = world.write(SITE.replace("netns:<web>", "docker:router"))
    with AgentProcess(world, path, "--resync", "1", env={"DOCKER_HOST": docker.url}) as agent:
        for again in ("restart", "kill"):
            assert until(lambda: ping(world.names["other"], "192.168.7.2")), agent.log()
            docker.docker(again, "router")
        assert until(lambda: is_home(world) and not list(differences(before, nic(world)))), agent.log()
        docker.docker("start", "router")
        assert until(lambda: ping(world.names["other"], "192.168.7.2")), agent.log()
        docker.restart()
        assert until(lambda: is_home(world) and not list(differences(before, nic(world)))), agent.log()
