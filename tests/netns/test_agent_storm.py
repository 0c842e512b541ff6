"""The agent killed at random moments in a storm of containers that start and stop: after its next start there is all that the
file means for those that run, and nothing else. `DUCTWORK_KILLS` says how often, `DUCTWORK_SEED` repeats one.

Invariant: what is compared with is what `apply` makes of the same containers on the same host, without any agent.
"""

from __future__ import annotations

import os
import random
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from agent_process import AgentProcess
from conftest import sh, until
from docker_host import DockerHost
from host import World, differences, same
from lan import Lan
from ovs_host import OvsHost
from test_agent import unmarked

pytestmark = [pytest.mark.netns, pytest.mark.docker]

KILLS = int(os.environ.get("DUCTWORK_KILLS", "10"))
SEED = int(os.environ.get("DUCTWORK_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
SOON = 30.0
SITE = """
hosts: {alpha: {address: 192.0.2.1/24}, beta: {address: 192.0.2.2/24}}
networks:
  lan: {driver: bridge, subnets: [10.1.1.0/24, "fd00:1::/64"]}
  pods: {driver: vxlan, vni: 42, subnet: 10.2.2.0/24, host_addresses: {alpha: 10.2.2.251, beta: 10.2.2.252}}
  wire: {driver: macvlan, parent: nic1, subnet: 192.168.1.0/24, host_access: {alpha: 192.168.1.250}}
  switch: {driver: ovs, datapath: netdev, subnet: 10.3.3.0/24}
attachments:
  - {container: "netns:<web>", host: alpha, network: lan, address: [10.1.1.2, "fd00:1::2"], rate: {ingress: 100mbit}}
  - {container: "netns:<web>", host: alpha, network: pods, address: 10.2.2.2}
  - {container: "netns:<db>", host: alpha, network: pods, address: 10.2.2.3, gateway: true}
  - {container: "netns:<cap>", host: alpha, network: wire, address: 192.168.1.50}
  - {container: "netns:<port>", host: alpha, network: switch, address: 10.3.3.2}
  - {container: "docker:dock", host: alpha, network: lan, address: 10.1.1.4}
  - {container: "docker:dock", host: alpha, network: switch, address: 10.3.3.4}
  - {container: "netns:elsewhere", host: beta, network: pods, address: 10.2.2.9}
"""
DOCKER = "dock"
ALL = ("web", "db", "cap", "port", DOCKER)
SURVIVORS = (frozenset(ALL), frozenset({"web", "cap"}), frozenset({"db", "port", DOCKER}))
"""Who runs when it is compared."""


class Storm:
    """Containers of a host that start and stop; one thread at a time changes them."""

    def __init__(self, world: World, docker: DockerHost, ovs: OvsHost, chance: random.Random) -> None:
        self.world = world
        self.docker = docker
        self.ovs = ovs
        self.chance = chance
        self.running = set(ALL)
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def turn(self, name: str) -> None:
        """One that runs is stopped, another is started."""
        if name == DOCKER:
            self.docker.docker(*(["kill", name] if name in self.running else ["start", name]))
        elif name in self.running:
            self.world.kill(name)
        else:
            self.world.container(name)
        self.running ^= {name}

    def until_these_run(self, names: frozenset[str]) -> None:
        for name in self.running ^ names:
            self.turn(name)

    def blow(self) -> None:
        self._over.clear()
        self._thread = threading.Thread(target=self._blowing)
        self._thread.start()

    def end(self) -> None:
        if self._thread:
            self._over.set()
            self._thread.join()
            self._thread = None

    def _blowing(self) -> None:
        while not self._over.wait(self.chance.uniform(0, 0.05)):
            self.turn(self.chance.choice(ALL))

    def looks(self) -> dict[str, Any]:
        """All that there is on the host, in those that run, and in Open vSwitch."""
        found = self.world.snapshot()
        bridges = self.ovs.vsctl("list-br").split()
        flows = {name: sorted(self.ovs.ofctl("--names", "--no-stats", "dump-flows", name).splitlines()) for name in bridges}
        ports = {name: sorted(self.ovs.vsctl("list-ports", name).split()) for name in bridges}
        rows: dict[str, Any] = unmarked(found) | {"flows": flows, "ports": ports}
        if DOCKER in self.running:
            argv = ["nsenter", f"--net=/proc/{self.docker.pid(DOCKER)}/ns/net", "ip", "-br", "address"]
            shown = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
            rows[DOCKER] = sorted(line.split("@")[0] + line[line.rindex(" UP") :] for line in shown if " UP" in line)
        return rows


@pytest.fixture
def storm(netns: Callable[[str], str], tmp_path: Path) -> Iterator[Storm]:
    world = World(netns, tmp_path, netns("alpha"))
    for name in ALL:
        if name != DOCKER:
            world.container(name)
    world.uplink()
    lan = Lan(netns)
    lan.plug_in(world.host, "nic1")
    with ExitStack() as running:
        short = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="dws-")))
        docker = running.enter_context(DockerHost(world.host, short / "docker"))
        ovs = running.enter_context(OvsHost(world.host, short / "ovs"))
        docker.run(DOCKER, "--net=none")
        assert until(lambda: "tentative" not in sh(world.host, "ip", "address"))
        made = Storm(world, docker, ovs, random.Random(SEED))
        running.callback(made.end)
        yield made


def test_killed_in_a_storm(storm: Storm) -> None:
    print(f"DUCTWORK_SEED={SEED}")
    world, chance = storm.world, storm.chance
    environment = {"DOCKER_HOST": storm.docker.url, **storm.ovs.environment}
    path = world.write(SITE)
    before = storm.looks()
    settled = {}
    for names in SURVIVORS:
        storm.until_these_run(names)
        world.cli("apply", path, "--host", "alpha", env=environment)
        settled[names] = storm.looks()
    kills = 0
    while kills < KILLS:
        names = chance.choice(SURVIVORS)
        storm.until_these_run(names)
        with AgentProcess(world, path, "--host", "alpha", "--resync", "3600", env=environment) as agent:
            until(lambda names=names: settled[names] == storm.looks(), SOON)  # type: ignore[misc]
            found = list(differences(settled[names], storm.looks()))
            told = f"after {kills} kills, DUCTWORK_SEED={SEED}, of which {', '.join(sorted(names))} have survived:"
            assert not found, "\n".join([told, *found[:40], agent.log()])
            storm.blow()
            time.sleep(chance.uniform(0, 0.7))
            agent.kill()
        kills += 1
        while chance.random() < 0.5:
            killed_at_its_start(world, path, environment, chance.uniform(0.1, 1.2))
            kills += 1
        storm.end()
    storm.until_these_run(frozenset(ALL))
    world.cli("destroy", path, env=environment)
    same(before, storm.looks())


def killed_at_its_start(world: World, path: Path, environment: dict[str, str], seconds: float) -> None:
    """Wherever it has got to by then."""
    with world.start("agent", "--site", path, "--host", "alpha", env=environment, stderr=subprocess.DEVNULL) as process:
        time.sleep(seconds)
        process.kill()
