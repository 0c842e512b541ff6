"""Two real Docker engines on one LAN by untagged macvlan (scenarios D1, D2): one file, chosen MACs, and a second network on
the NIC, which Docker itself refuses."""

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
  alpha: {address: 192.168.1.10/24}
  beta: {address: 192.168.1.11/24}
networks:
  lan:
    driver: macvlan
    parent: {alpha: eth0, beta: eth0}
    subnet: 192.168.1.0/24
    gateway: 192.168.1.254
    allocate: {alpha: 192.168.1.160/28, beta: 192.168.1.176/28}
  more: {driver: macvlan, parent: eth0, subnet: 172.16.5.0/24}
attachments:
  - {container: "docker:web", host: alpha, network: lan, mac: "02:00:00:00:00:a1"}
  - {container: "docker:db", host: beta, network: lan, address: 192.168.1.151, mac: "02:00:00:00:00:b1"}
  - {container: "docker:web", host: alpha, network: more, address: 172.16.5.2, mac: "02:00:00:00:00:a2"}
  - {container: "docker:db", host: beta, network: more, address: 172.16.5.3, mac: "02:00:00:00:00:b2"}
"""
WEB, DB, MORE_WEB, MORE_DB = "192.168.1.160", "192.168.1.151", "172.16.5.2", "172.16.5.3"
VISITOR = "192.168.1.9"
SERVE = "mkdir -p /www && hostname >/www/index.html && exec httpd -f -p 80 -h /www"


@dataclass
class Engine:
    """A host on the LAN, its dockerd, and the one container that serves its name by HTTP."""

    name: str
    world: World
    docker: DockerHost
    container: str

    def ductwork(self, command: str, *words: str) -> str:
        """What it told, notes included: a container that is not found is one."""
        done = self.world.cli(command, self.world.write(SITE), *words, env={"DOCKER_HOST": self.docker.url})
        return done.out + done.err

    def inside(self, *command: str) -> str:
        return self.docker.docker("exec", self.container, *command)

    def macs(self) -> list[str]:
        return self.inside("cat", "/sys/class/net/eth1/address", "/sys/class/net/eth2/address").split()

    def asks(self, *addresses: str) -> dict[str, str]:
        """Address → what its web server tells the container, where it answers a ping too."""
        each = "ping -c1 -W1 $0 >/dev/null && wget -qO- http://$0/ || echo"
        found = self.inside("sh", "-c", f"for to in {' '.join(addresses)}; do sh -c '{each}' $to; done")
        return dict(zip(addresses, found.splitlines(), strict=True))


@dataclass
class Office:
    lan: Lan
    alpha: Engine
    beta: Engine
    visitor: str

    @property
    def engines(self) -> tuple[Engine, Engine]:
        return self.alpha, self.beta

    def visits(self, address: str) -> str:
        """What the other machine is told, if it gets there by ping and by HTTP."""
        if not ping(self.visitor, address):
            return ""
        return sh(self.visitor, "busybox", "wget", "-qO-", f"http://{address}/", check=False).strip()

    def learnt(self) -> dict[str, str]:
        """MAC → the switch's port that it was learnt at."""
        entries = json.loads(sh(self.lan.switch, "bridge", "-j", "fdb", "show", "br", "lan"))
        return {entry["mac"]: entry["ifname"] for entry in entries if entry.get("state") != "permanent"}


@pytest.fixture
def office(netns: Callable[[str], str], tmp_path: Path) -> Iterator[Office]:
    lan = Lan(netns)
    engines = []
    with ExitStack() as running:
        short = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="dwd-")))  # a socket's path has 107 characters
        for number, name, container in ((10, "alpha", "web"), (11, "beta", "db")):
            world = World(netns, tmp_path / name, netns(name))
            world.directory.mkdir()
            lan.plug_in(world.host)
            sh(world.host, "ip", "address", "add", f"192.168.1.{number}/24", "dev", "eth0")
            docker = running.enter_context(DockerHost(world.host, short / name))
            docker.run(container, "--network=none", f"--hostname={container}", command=("sh", "-c", SERVE))
            engines.append(Engine(name, world, docker, container))
        visitor = lan.machine("visitor", f"{VISITOR}/24", "172.16.5.9/24")
        assert until(lambda: all("tentative" not in sh(each.world.host, "ip", "address") for each in engines))
        yield Office(lan, *engines, visitor)


def test_two_engines_on_one_lan(office: Office) -> None:
    """Each container from the other engine's and from another machine, in both networks, by ping and HTTP."""
    alpha, beta = office.engines
    before = {each.name: {"host": each.world.snapshot()["host"]} for each in office.engines}
    for each in office.engines:
        told = each.ductwork("apply", "--host", each.name)
        assert "nothing" in each.ductwork("apply", "--host", each.name), told
    assert alpha.macs() == ["02:00:00:00:00:a1", "02:00:00:00:00:a2"]
    assert beta.macs() == ["02:00:00:00:00:b1", "02:00:00:00:00:b2"]
    assert alpha.asks(DB, MORE_DB) == {DB: "db", MORE_DB: "db"}
    assert beta.asks(WEB, MORE_WEB) == {WEB: "web", MORE_WEB: "web"}, "the first is allocated, of alpha's own range"
    assert [office.visits(address) for address in (WEB, MORE_WEB, DB, MORE_DB)] == ["web", "web", "db", "db"]
    assert " 0% packet loss" in alpha.inside("ping", "-c1", "-W1", VISITOR), "to the LAN"
    chosen = {mac: port for mac, port in office.learnt().items() if mac.startswith("02:00:00:00:00")}
    assert chosen == {f"02:00:00:00:00:{host}{n}": office.lan.ports["ab".index(host)] for host in "ab" for n in (1, 2)}
    # A container of beta's that starts anew is plugged in as before, and alpha gives nobody what it has.
    beta.docker.docker("restart", "-t0", "db")
    beta.ductwork("apply", "--host", "beta")
    assert beta.macs() == ["02:00:00:00:00:b1", "02:00:00:00:00:b2"]
    assert until(lambda: alpha.asks(DB, MORE_DB) == {DB: "db", MORE_DB: "db"})
    refused = alpha.world.cli(
        *("apply", alpha.world.write(SITE.replace(', mac: "02:00:00:00:00:a1"', f", address: {VISITOR}"))),
        *("--host", "alpha"),
        code=None,
        env={"DOCKER_HOST": alpha.docker.url},
    )
    assert refused.code and f"{VISITOR}, for docker:web, is in use by" in refused.err
    for each in office.engines:
        each.ductwork("destroy")
        assert until(lambda each=each: "tentative" not in sh(each.world.host, "ip", "address"))
        same(before[each.name], {"host": each.world.snapshot()["host"]})
        assert each.inside("ls", "/sys/class/net") == "lo"
    assert not office.visits(WEB)
