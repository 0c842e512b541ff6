"""Beside other people's firewalls: all flows of ours go on, or `apply` names the rule that stops them and what would let them
pass; and nothing of ours is left in them. (Docker itself: test_docker.py, and the last tests here.)"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from agent_process import AgentProcess
from conftest import ping, sh, until
from docker_host import DockerHost, missing
from host import same
from test_routers import HOSTS, Stage, usable

pytestmark = pytest.mark.netns

SITE = (
    HOSTS
    + """
networks:
  red: {driver: bridge, subnets: [10.1.1.0/24, "fd00:1::/64"]}
  blue: {driver: bridge, subnets: [10.1.2.0/24, "fd00:2::/64"]}
  pods: {driver: vxlan, vni: 42, subnets: [10.1.3.0/24, "fd00:3::/64"]}
  lan: {driver: bridge, bridge: br0, uplink: eth1, subnets: [172.16.1.0/24, "fd16:1::/64"]}
routers:
  - {name: gw, host: one, legs: {red: [10.1.1.254, "fd00:1::fe"], blue: [10.1.2.254, "fd00:2::fe"]}}
attachments:
  - {container: "netns:<a>", host: one, network: red, address: [10.1.1.2, "fd00:1::2"]}
  - {container: "netns:<c>", host: one, network: red, address: [10.1.1.3, "fd00:1::3"]}
  - {container: "netns:<e>", host: one, network: blue, address: [10.1.2.2, "fd00:2::2"]}
  - {container: "netns:<f>", host: one, network: pods, address: [10.1.3.2, "fd00:3::2"]}
  - {container: "netns:<g>", host: one, network: lan, address: [172.16.1.50, "fd16:1::50"]}
  - {container: "netns:<b>", host: two, network: pods, address: [10.1.3.3, "fd00:3::3"]}
"""
)
FLOWS = {
    "within a network": ("a", "10.1.1.3", "fd00:1::3"),
    "by a router": ("a", "10.1.2.2", "fd00:2::2"),
    "out, translated": ("a", "192.168.1.9", "fd01::9"),
    "through a tunnel": ("f", "10.1.3.3", "fd00:3::3"),
    "to a LAN": ("g", "172.16.1.9", "fd16:1::9"),
}
"""What of them is forwarded on host one: between the ports of bridges too, with br_netfilter."""


class Scene(Stage):
    """`variant`: which iptables the host has."""

    def __init__(self, netns: Callable[[str], str], directory: Path, variant: str, site: str = SITE) -> None:
        super().__init__(netns, directory)
        self.variant, self.site = variant, site
        self.one = self.hosts["one"]
        for name in ("e", "f", "g"):
            self.names[name] = self.one.container(name)
        for world in self.hosts.values():
            world.names |= self.names
        for ns, number in ((self.one.host, 1), (self.machines[0], 9)):
            sh(ns, "ip", "address", "add", f"fd01::{number}/64", "dev", "eth0", "nodad")
        for name in ("iptables", "ip6tables"):
            sh(self.one.host, "sysctl", "-qw", f"net.bridge.bridge-nf-call-{name}=1")
        self.programs = directory / "bin"
        self.programs.mkdir()
        for name in ("iptables", "ip6tables"):
            (self.programs / name).symlink_to(shutil.which(f"{name}-{variant}") or "")
        self.env = {"PATH": f"{self.programs}:/usr/sbin:/usr/bin:/sbin:/bin"}
        self.hosts["two"].settle(site, host="two")

    def iptables(self, *rules: str, family: str = "") -> None:
        for rule in rules:
            for program in [family] if family else ["iptables", "ip6tables"]:
                sh(self.one.host, str(self.programs / program), *rule.split())

    def apply(self) -> list[str]:
        """The notes. A second time changes nothing."""
        path = self.one.write(self.site)
        self.one.cli("apply", path, "--host", "one", env=self.env)
        done = self.one.cli("apply", path, "--host", "one", env=self.env)
        assert "nothing to do" in done.out + done.err
        usable(self.one)
        return [line for line in done.err.splitlines() if "stops packets" in line]

    def destroy(self) -> None:
        self.one.cli("destroy", self.one.write(self.site), env=self.env)

    def lost(self) -> list[str]:
        """What of the flows does not arrive, of a family by itself."""
        tried = {(flow, to): (self.names[name], to) for flow, (name, *targets) in FLOWS.items() for to in targets}
        return [f"{flow}: {to}" for (flow, to), (ns, _) in tried.items() if not (ping(ns, to) or ping(ns, to))]

    def filters(self) -> list[str]:
        """All rules of all programs, without counters and comments."""
        saving = ([f"{program}-{kind}-save"] for program in ("iptables", "ip6tables") for kind in ("nft", "legacy"))
        saved = [sh(self.one.host, *argv) for argv in (*saving, ["nft", "-s", "list", "ruleset"])]
        lines = "\n".join(saved).splitlines()
        # A table of iptables-legacy that somebody has looked into is there, empty.
        nothing = ("COMMIT", "*filter", "*raw", "*nat", ":INPUT ACCEPT", ":FORWARD ACCEPT", ":OUTPUT ACCEPT")
        plain = (line.split(" [")[0] for line in lines if line and not line.startswith("#"))
        return [line for line in plain if line not in nothing]


@pytest.fixture
def scene(netns: Callable[[str], str], tmp_path: Path, request: pytest.FixtureRequest) -> Scene:
    """By iptables-nft, or what a test has as parameter."""
    variant = getattr(request, "param", "nft")
    if not shutil.which(f"iptables-{variant}"):
        pytest.skip(f"no iptables-{variant}")
    return Scene(netns, tmp_path, variant)


either_iptables = pytest.mark.parametrize("scene", ["nft", "legacy"], indirect=True)
legacy_iptables = pytest.mark.parametrize("scene", ["legacy"], indirect=True)


def docker28(scene: Scene) -> None:
    """What Docker 28 has for one container with a published port, as `iptables-save` shows it (moby's `iptabler`)."""
    scene.iptables("-N DOCKER", "-N DOCKER-BRIDGE", "-N DOCKER-CT", "-N DOCKER-FORWARD", "-N DOCKER-ISOLATION-STAGE-1")
    scene.iptables("-N DOCKER-USER") if "DOCKER-USER" not in "".join(scene.filters()) else None
    scene.iptables("-P FORWARD DROP", "-I FORWARD -j DOCKER-FORWARD", "-I FORWARD -j DOCKER-USER")
    scene.iptables("-A DOCKER ! -i docker0 -o docker0 -j DROP", "-A DOCKER-BRIDGE -o docker0 -j DOCKER")
    scene.iptables("-A DOCKER-CT -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")
    scene.iptables("-A DOCKER-FORWARD -j DOCKER-CT", "-A DOCKER-FORWARD -j DOCKER-ISOLATION-STAGE-1")
    scene.iptables("-A DOCKER-FORWARD -j DOCKER-BRIDGE", "-A DOCKER-FORWARD -i docker0 -j ACCEPT")
    scene.iptables("-t raw -A PREROUTING -d 172.17.0.2/32 ! -i docker0 -j DROP", family="iptables")
    scene.iptables("-t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE", family="iptables")


@either_iptables
@pytest.mark.parametrize("first", ["docker", "ductwork"])
def test_docker_28(scene: Scene, first: str) -> None:
    if first == "docker":
        docker28(scene)
        before = scene.filters()
    assert scene.apply() == []
    if first == "ductwork":
        docker28(scene)
        assert scene.lost() == [], "without another apply"
        assert scene.apply() == []
    assert scene.lost() == []
    scene.destroy()
    assert not [line for line in scene.filters() if "ductwork" in line]
    if first == "docker":
        same(before, scene.filters())


@either_iptables
def test_a_policy_without_docker(scene: Scene) -> None:
    """ADR 11: the rule stands at the end of FORWARD, so that whatever an administrator says there goes before."""
    scene.iptables(
        "-P FORWARD DROP", "-A FORWARD -s 203.0.113.0/24 -j DROP".replace("203.0.113.0/24", "::/127"), family="ip6tables"
    )
    scene.iptables("-P FORWARD DROP", "-A FORWARD -d 203.0.113.0/24 -j DROP", family="iptables")
    before = scene.filters()
    assert scene.apply() == []
    assert scene.lost() == []
    last = sh(scene.one.host, str(scene.programs / "iptables"), "-S", "FORWARD").splitlines()
    assert last[0] == "-P FORWARD DROP" and "203.0.113.0" in last[1] and "ductwork" in last[2] and len(last) == 3
    scene.destroy()
    same(before, scene.filters())


@legacy_iptables
def test_a_policy_that_comes_later(scene: Scene) -> None:
    before = scene.filters()
    scene.apply()
    scene.iptables("-P FORWARD DROP")
    assert scene.lost(), "or this test shows nothing"
    scene.apply()
    assert scene.lost() == []
    scene.iptables("-F FORWARD")
    scene.apply()
    assert scene.lost() == []
    scene.iptables("-P FORWARD ACCEPT")
    scene.destroy()
    left = [line for line in scene.filters() if line not in before]
    assert not [line for line in left if "ductwork" in line or "DOCKER" in line]


def test_printed_commands_overcome_a_policy(scene: Scene) -> None:
    scene.iptables("-P FORWARD DROP")
    typed = scene.one.cli("plan", scene.one.write(SITE), "--host", "one", "--format", "commands", env=scene.env).out
    argv = ["ip", "netns", "exec", scene.one.host, "env", f"PATH={scene.env['PATH']}", "sh", "-e"]
    subprocess.run(argv, input=typed, text=True, check=True)
    assert scene.apply() == []
    assert scene.lost() == []
    scene.destroy()
    assert not [line for line in scene.filters() if "ductwork" in line]


ADMINISTRATORS = {
    "the end of FORWARD": ["iptables -A FORWARD -j REJECT", "ip6tables -A FORWARD -j REJECT"],
    "a chain of its own": [
        "nft add table inet guard",
        "nft add chain inet guard ways { type filter hook forward priority 0; policy drop; }",
        "nft add rule inet guard ways ct state established accept",
    ],
    "a subnet of ours": [
        "nft add table ip guard",
        "nft add chain ip guard ways { type filter hook forward priority 5; }",
        "nft add rule ip guard ways ip daddr 10.1.0.0/16 counter drop",
    ],
    "a device of ours": [
        "nft add table inet guard",
        "nft add chain inet guard ways { type filter hook forward priority 5; }",
        "nft add chain inet guard more",
        'nft add rule inet guard more log prefix "x" reject with icmpx admin-prohibited',
        'nft add rule inet guard ways iifname "dw-*" jump more',
    ],
}


@pytest.mark.parametrize(
    ("scene", "what"), [*(("nft", what) for what in ADMINISTRATORS), ("legacy", "the end of FORWARD")], indirect=["scene"]
)
def test_an_administrators_own_drop(scene: Scene, what: str) -> None:
    """It is named, and so is what would let our packets pass; which is true, too."""
    for command in ADMINISTRATORS[what]:
        program, *words = command.split()
        sh(scene.one.host, str(scene.programs / program) if program != "nft" else program, *words)
    notes = scene.apply()
    assert notes and scene.lost()
    assert all("chain FORWARD" in note or "guard, chain ways" in note for note in notes), notes
    mended = [match[1] for note in notes if (match := re.search(r"it passes with: (.*)", note))]
    assert len(mended) == len(notes), notes
    for command in mended:
        sh(scene.one.host, *command.split())
    assert scene.lost() == []
    assert scene.apply() == []


@pytest.mark.parametrize(
    "rule",
    [
        "inet guard ways ct state invalid drop",
        "inet guard ways ip daddr 203.0.113.0/24 drop",
        'inet guard ways iifname "eth7" drop',
    ],
)
def test_what_is_not_about_us_is_not_told(scene: Scene, rule: str) -> None:
    sh(scene.one.host, "nft", "add table inet guard; add chain inet guard ways { type filter hook forward priority 5; }")
    sh(scene.one.host, "nft", f"add rule {rule}")
    assert scene.apply() == []


ARRIVALS = {
    "the end of INPUT": ["iptables -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT", "iptables -A INPUT -j REJECT"],
    "a policy": [
        "iptables -A INPUT -i lo -j ACCEPT",
        "iptables -A INPUT -p tcp --dport 22 -j ACCEPT",
        "iptables -P INPUT DROP",
    ],
    "a table of its own": [
        "nft add table inet guard",
        "nft add chain inet guard came { type filter hook input priority 0; policy drop; }",
        "nft add rule inet guard came ct state vmap { established : accept, related : accept, invalid : drop }",
        "nft add rule inet guard came meta l4proto { icmp, ipv6-icmp } accept",
    ],
}


@pytest.mark.parametrize(("scene", "what"), [*(("nft", w) for w in ARRIVALS), ("legacy", "a policy")], indirect=["scene"])
def test_a_drop_of_what_arrives_by_a_tunnel(scene: Scene, what: str) -> None:
    for command in ARRIVALS[what]:
        program, *words = command.split()
        sh(scene.one.host, str(scene.programs / program) if program != "nft" else program, *words)
    [note] = scene.apply()
    assert "UDP port 4789" in note and ("chain INPUT" in note or "guard, chain came" in note), note
    assert [line for line in scene.lost() if "tunnel" in line], "or the note is false"
    sh(scene.one.host, *note.split("it passes with: ")[1].split())
    assert not [line for line in scene.lost() if "tunnel" in line]
    assert scene.apply() == []


def test_the_whole_ruleset_flushed(scene: Scene) -> None:
    """By hand, with Docker's rules; `apply` brings back what is ours, and `destroy` leaves nothing of it."""
    docker28(scene)
    scene.apply()
    sh(scene.one.host, "nft", "flush", "ruleset")
    scene.apply()
    assert scene.lost() == []
    scene.iptables("-P FORWARD DROP")
    scene.apply()
    assert scene.lost() == []
    scene.destroy()
    assert not [line for line in scene.filters() if "ductwork" in line]


def test_the_agent_after_a_flush(scene: Scene) -> None:
    scene.apply()
    with AgentProcess(scene.one, scene.one.write(SITE), "--host", "one"):
        sh(scene.one.host, "nft", "flush", "ruleset")
        scene.iptables("-P FORWARD DROP")
        assert until(lambda: "ductwork" in sh(scene.one.host, "iptables", "-S") and not scene.lost())


@pytest.fixture
def docker(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Iterator[DockerHost]:
    """On host one, with the same iptables; its policy is DROP only where it switched forwarding on itself."""
    lacking = missing()
    if lacking and os.environ.get("CI") != "true":
        pytest.skip(lacking)
    assert not lacking
    monkeypatch.setenv("PATH", scene.env["PATH"])
    sh(scene.one.host, "sysctl", "-qw", "net.ipv4.ip_forward=0")
    with tempfile.TemporaryDirectory(prefix="dwd-") as short:
        made = DockerHost(scene.one.host, Path(short))
        try:
            yield made
        finally:
            made.stop()


def serves(scene: Scene, docker: DockerHost) -> bool:
    """Whether Docker's container has its published port, and a way out."""
    fetched = sh(scene.machines[0], "wget", "-T2", "-t3", "-qO-", "http://192.168.1.1:8080/name", check=False)
    return "own" in fetched and " 0% packet loss" in docker.docker("exec", "own", "ping", "-c1", "-W2", "192.168.1.9")


@pytest.mark.docker
@either_iptables
@pytest.mark.parametrize("first", ["docker", "ductwork"])
def test_docker_itself(scene: Scene, docker: DockerHost, first: str) -> None:
    """Started before or after, and again in between: everybody's packets pass."""
    serve = ("sh", "-c", "mkdir -p /www && echo own > /www/name && exec httpd -f -p 80 -h /www")
    if first == "ductwork":
        assert scene.apply() == []
    docker.start()
    docker.run("own", "-p", "8080:80", command=serve)
    if first == "docker":
        assert serves(scene, docker)
        before = scene.filters()
        assert scene.apply() == []
    policy = sh(scene.one.host, str(scene.programs / "iptables"), "-S", "FORWARD").splitlines()[0]
    assert policy == "-P FORWARD DROP", "or this test shows nothing"
    assert scene.lost() == [] and serves(scene, docker)

    docker.restart()
    docker.docker("start", "own")
    assert until(lambda: serves(scene, docker))
    assert scene.lost() == [], "without another apply"
    assert scene.apply() == []
    assert scene.lost() == []

    scene.destroy()
    assert serves(scene, docker)
    assert not [line for line in scene.filters() if "ductwork" in line]
    if first == "docker":
        same(sorted(before), sorted(scene.filters()))
