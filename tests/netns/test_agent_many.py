"""The agent where much happens: many containers at once by two Docker engines, and the same ones again and again."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from agent_process import AgentProcess
from conftest import ping, run, until
from docker_host import DockerHost
from host import World

pytestmark = pytest.mark.netns

NETWORK = "networks: {lan: {driver: bridge, bridge: br0, subnet: 10.4.1.0/24}}\nattachments:\n"
AT_ONCE = 8
BATCH = 10
SLOWLY = 60.0
"""On a busy machine."""


def site(containers: list[str]) -> str:
    lines = (f'  - {{container: "{name}", network: lan, address: 10.4.1.{n + 2}}}\n' for n, name in enumerate(containers))
    return NETWORK + "".join(lines)


@pytest.fixture
def engines(netns: Callable[[str], str], tmp_path: Path) -> Iterator[list[tuple[DockerHost, World, AgentProcess]]]:
    """Two hosts, each with a dockerd and an agent, their containers made and not started."""
    names = [f"c{number}" for number in range(AT_ONCE)]
    with ExitStack() as running:
        short = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="dwd-")))
        found = []
        for host in ("left", "right"):
            (tmp_path / host).mkdir()
            world = World(netns, tmp_path / host, netns(host))
            docker = running.enter_context(DockerHost(world.host, short / host))
            for name in names:
                docker.docker("create", "--name", name, "--network", "none", "busybox", "sleep", "3600")
            path = world.write(site([f"docker:{name}" for name in names]))
            agent = AgentProcess(world, path, "--resync", "3600", env={"DOCKER_HOST": docker.url})
            found.append((docker, world, running.enter_context(agent)))
        yield found


@pytest.mark.docker
def test_many_at_once(engines: list[tuple[DockerHost, World, AgentProcess]]) -> None:
    """All are plugged in, and the agents' memory stays small. (`script/bench --only agent`: 200 of them.)"""
    starts = [
        subprocess.Popen(["docker", "-H", docker.url, "start", f"c{number}"], stdout=subprocess.DEVNULL)
        for number in range(AT_ONCE)
        for docker, _, _ in engines
    ]
    assert [start.wait() for start in starts] == [0] * len(starts)
    for _, world, agent in engines:
        for number in range(AT_ONCE):
            assert until(lambda to=f"10.4.1.{number + 2}": ping(world.host, to), SLOWLY), agent.log()  # type: ignore[misc]  # noqa: B023
        assert agent.memory_kib() < 80 << 10


def test_again_and_again(netns: Callable[[str], str], tmp_path: Path) -> None:
    """Neither descriptors nor memory pile up, but for what Python keeps. (`script/bench --only agent-memory`: 10,000.)"""
    world = World(netns, tmp_path, netns("host"))
    names = [netns(f"c{number}") for number in range(BATCH)]
    with AgentProcess(world, world.write(site([f"netns:{name}" for name in names])), "--resync", "3600") as agent:

        def cycle() -> None:
            for name in names:
                run("ip", "netns", "del", name)
            assert until(lambda: _ports(world.host) == 0, SLOWLY), agent.log()
            for name in names:
                run("ip", "netns", "add", name)
            assert until(lambda: _ports(world.host) == BATCH, SLOWLY), agent.log()

        for _ in range(3):
            cycle()
        memory, descriptors = agent.memory_kib(), _descriptors(agent)
        for _ in range(20):
            cycle()
        assert agent.memory_kib() - memory < 8 << 10
        assert until(lambda: _descriptors(agent) <= descriptors), "of a look that has ended"


def _ports(host: str) -> int:
    return len(run("ip", "-n", host, "-brief", "link", "show", "master", "br0").splitlines())


def _descriptors(agent: AgentProcess) -> int:
    return len(list(Path(f"/proc/{agent.pid}/fd").iterdir()))
