"""Podman's containers: found and plugged in by way of its service, which comes and goes while they run on."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import podman_host
import pytest
from agent_process import AgentProcess
from conftest import ping, sh, until
from host import World, same
from podman_host import PodmanHost

from ductwork.errors import ContainerError
from ductwork.events import Event
from ductwork.runtimes import Sandbox
from ductwork.runtimes.docker_events import DockerEvents
from ductwork.runtimes.netns import NetnsRuntime
from ductwork.runtimes.podman import PodmanRuntime
from ductwork.runtimes.resolver import Resolver

pytestmark = [pytest.mark.netns, pytest.mark.docker]

SITE = """
networks: {lan: {driver: bridge, bridge: br0, subnet: 10.3.1.0/24}}
attachments:
  - {container: "podman:web", network: lan, address: 10.3.1.2}
  - {container: "podman:db", network: lan, address: 10.3.1.3}
"""
ALONE = ("--network", "none")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: a socket's has 107 characters."""
    missing = podman_host.missing()
    if missing and os.environ.get("CI") != "true":
        pytest.skip(missing)
    assert not missing
    path = Path(tempfile.mkdtemp(prefix="dwp-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def world(netns: Callable[[str], str], tmp_path: Path) -> World:
    return World(netns, tmp_path, netns("host"))


@pytest.fixture
def podman(world: World, folder: Path) -> Iterator[PodmanHost]:
    with PodmanHost(world.host, folder / "podman") as podman:
        yield podman


@pytest.fixture
def rootless(world: World, folder: Path) -> Iterator[PodmanHost]:
    with PodmanHost(world.host, folder / "rootless", rootless=True) as podman:
        yield podman


def inode_of(sandbox: Sandbox | None) -> int:
    """The inode of the namespace that `open` gives."""
    assert sandbox
    fd = sandbox.open()
    try:
        return os.fstat(fd).st_ino
    finally:
        os.close(fd)


def inode(podman: PodmanHost, name: str) -> int:
    return os.stat(f"/proc/{podman.pid(name)}/ns/net").st_ino


def test_modes_and_namespaces(world: World, podman: PodmanHost) -> None:
    """One by one, and as one of many; a pod's containers live in its infra container's namespace."""
    podman.run("alone", *ALONE)
    podman.run("own")
    podman.run("open", "--network", "host")
    podman.run("joined", "--network", "container:alone")
    podman.pod("pod", *ALONE)
    podman.run("member", "--pod", "pod")
    podman.run("paused", *ALONE)
    podman.podman("pause", "paused")
    podman.podman("create", "--name", "new", *ALONE, "busybox", "true")
    modes = {
        "alone": "none",
        "own": "bridge",
        "open": "host",
        "joined": "container:alone",
        "pod-infra": "none",
        "member": "container:pod-infra",
        "paused": "none",
        "new": None,
    }
    runtime = PodmanRuntime(podman.url)
    for found in (
        runtime.find([*modes, "nobody"]),
        {k: v for name in (*modes, "nobody") for k, v in runtime.find([name]).items()},
    ):
        assert {name: sandbox and sandbox.mode for name, sandbox in found.items()} == modes
        for name in set(modes) - {"new"}:
            sandbox = found[name]
            assert sandbox and (sandbox.runtime, sandbox.name) == ("podman", name)
            assert inode_of(sandbox) == inode(podman, name)
        assert inode_of(found["joined"]) == inode_of(found["alone"]) != inode_of(found["pod-infra"])
        assert inode_of(found["member"]) == inode_of(found["pod-infra"])
        assert inode_of(found["open"]) == os.stat(f"/run/netns/{world.host}").st_ino
    identity = podman.podman("inspect", "--format", "{{.Id}}", "alone")
    assert {name: its and its.name for name, its in runtime.find([identity, identity[:12], identity[:11]]).items()} == {
        identity: "alone",
        identity[:12]: "alone",
    }
    podman.podman("restart", "--time", "0", "alone")
    with pytest.raises(ContainerError, match="podman:alone is gone"):
        inode_of(found["alone"])
    podman.podman("rm", "--force", "--time", "0", "own")  # a plug-in has noted its address outside of the host's folder


def test_what_it_tells(podman: PodmanHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTAINER_HOST", podman.url)
    told: list[Event] = []
    events = DockerEvents(PodmanRuntime)

    def hears(*actions: str) -> bool:
        def heard() -> bool:
            told.extend(events.take())
            return {event.text for event in told} >= {f"podman:{action}" for action in actions}

        return until(heard)

    podman.run("web", *ALONE)
    assert hears("web: start"), told
    podman.podman("rename", "web", "other")
    assert hears("other: rename"), told
    podman.podman("kill", "other")
    assert hears("other: die"), told
    podman.podman("rm", "other")
    assert hears("other: remove"), told
    assert {event.text.partition(" ")[2] for event in told if event.started} == {"start", "rename"}
    podman.stop_service()
    with pytest.raises(ConnectionError):
        until(lambda: bool(events.take()))
    events.close()
    with pytest.raises(FileNotFoundError):
        DockerEvents(PodmanRuntime)


def test_no_service(podman: PodmanHost) -> None:
    """The container runs on, and is found when a service answers again."""
    podman.run("web", *ALONE)
    resolver = Resolver({"podman": lambda: PodmanRuntime(podman.url), "netns": NetnsRuntime})
    assert resolver.resolve(["podman:web"])["podman:web"]
    podman.stop_service()
    assert resolver.resolve(["podman:web", "web"]) == {"podman:web": None, "web": None}
    assert resolver.notes == [f"podman does not answer at {podman.url}: is it running?"]
    podman.start_service()
    assert inode_of(resolver.resolve(["web"])["web"]) == inode(podman, "web")


def test_a_name_that_two_runtimes_have(world: World, podman: PodmanHost) -> None:
    both = world.container("both")
    podman.run(both, *ALONE)
    resolver = Resolver({"podman": lambda: PodmanRuntime(podman.url), "netns": NetnsRuntime})
    assert all(resolver.resolve([f"podman:{both}", f"netns:{both}"]).values())
    with pytest.raises(ContainerError, match=f"podman:{both} and netns:{both}"):
        resolver.resolve([both])


def test_commands(world: World, podman: PodmanHost) -> None:
    """The printed ones reach into its containers, too."""
    podman.run("web", *ALONE)
    podman.run("guest", *ALONE)
    before, env, path = world.snapshot(), {"CONTAINER_HOST": podman.url}, world.write(SITE)
    sh(world.host, "sh", "-ec", world.cli("plan", path, "--format", "commands", env=env).out)
    world.cli("plan", path, "--exit-code", env=env)
    world.cli("apply", path, env=env)
    world.cli("attach", "podman:guest", "lan", "--address", "10.3.1.9", env=env)
    rows = json.loads(world.cli("ps", "--json", env=env).out)
    assert {(row["container"], row["runtime"], row["mode"], *row["addresses"]) for row in rows} == {
        ("podman:web", "podman", "none", "10.3.1.2/24"),
        ("podman:guest", "podman", "none", "10.3.1.9/24"),
    }
    assert podman.podman("exec", "web", "ping", "-c1", "-W2", "10.3.1.9")
    world.cli("detach", "podman:guest", "lan", env=env)
    world.cli("destroy", path, env=env)
    same(before, world.snapshot())
    assert "eth1" not in podman.podman("exec", "web", "ip", "link")


def test_the_agent(world: World, podman: PodmanHost) -> None:
    """The container is back with its address and its MAC, whatever is restarted; without a service, when there is one again."""

    def run() -> None:
        podman.run("web", *ALONE)

    def answers() -> bool:
        """This container, not one that dies just now."""
        address = ("exec", "web", "ip", "address")
        return until(lambda: "10.3.1.2/24" in podman.podman(*address)) and until(lambda: ping(world.host, "10.3.1.2"))

    def mac() -> str:
        return podman.podman("exec", "web", "cat", "/sys/class/net/eth1/address")

    path = world.write(SITE)
    with AgentProcess(world, path, "--resync", "3600", env={"CONTAINER_HOST": podman.url}) as agent:
        run()
        assert answers(), agent.log()
        podman.run("db", *ALONE)
        assert until(lambda: ping(world.host, "10.3.1.3")), "nobody but Podman tells of it"
        was = mac()
        podman.podman("restart", "--time", "0", "web")
        assert answers(), agent.log()
        podman.podman("rm", "--force", "--time", "0", "web")
        run()
        assert answers(), agent.log()
        assert mac() == was
        podman.stop_service()
        assert ping(world.host, "10.3.1.2", count=3), "what is plugged in stays"
        podman.podman("restart", "--time", "0", "web")
        podman.start_service()
        assert answers(), agent.log()
        assert mac() == was


def test_a_container_of_a_user(world: World, rootless: PodmanHost) -> None:
    """Root enters its namespace, though it belongs to a user namespace, and it has no control group of its own."""
    rootless.run("web", *ALONE)
    path, env = world.write(SITE), {"CONTAINER_HOST": rootless.url}
    world.cli("apply", path, env=env)
    assert ping(world.host, "10.3.1.2")
    world.cli("destroy", path, env=env)
    assert "eth1" not in rootless.podman("exec", "web", "ip", "link")
