"""The commands by way of the agent: they say and do what they do without it, and the agent heeds what people did."""

from __future__ import annotations

import fcntl
import json
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from agent_process import AgentProcess
from conftest import ping, sh, until
from host import Done, World, build_world, same
from in_process import Cli, command_line

pytestmark = pytest.mark.netns

SITE = """
networks:
  lan: {driver: bridge, bridge: br0, subnets: [10.1.1.0/24, "fd00:1::/64"], gateways: [10.1.1.1, "fd00:1::1"]}
attachments:
  - {container: "netns:<web>", network: lan, address: [10.1.1.2, "fd00:1::2"]}
  - {container: "netns:<db>", network: lan, address: 10.1.1.3}
"""
OTHER = """
networks:
  idle: {driver: bridge, subnet: 10.9.9.0/24}
"""
BROKEN = SITE.replace("driver: bridge", "driver: brigde").replace("10.1.1.3}", "10.1.1.300}")
SOON = 30.0


@pytest.fixture
def world(netns: Callable[[str], str], tmp_path: Path) -> World:
    return build_world(netns, tmp_path)


@pytest.fixture
def cli(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return command_line(world, monkeypatch, capsys)


@pytest.fixture
def agent(world: World) -> Iterator[AgentProcess]:
    """Keeps `SITE`."""
    with AgentProcess(world, world.write(SITE), "--resync", "3600") as running:
        yield running


# either way


def session(world: World, cli: Cli) -> Iterator[tuple[tuple[str, ...], Done]]:
    """What a person may type, from a host without anything to one without anything."""
    site, broken = world.write(SITE), world.write(BROKEN, "broken")
    guest = f"netns:{world.names['guest']}"

    def run(*words: str | Path) -> tuple[tuple[str, ...], Done]:
        return tuple(map(str, words)), cli(*words, code=None)

    for options in ((), ("--json",), ("--format", "commands"), ("--exit-code",), ("--host", "nowhere")):
        yield run("plan", site, *options)
    for command in ("plan", "apply", "destroy"):
        yield run(command, broken)
    for command in ("apply", "undo", "undo", "apply"):
        yield run(command, *([site] if command == "apply" else []))
    yield run("apply", site, "--confirm", "60")
    yield run("apply", site, "--quiet")
    yield run("ps")
    yield run("ps", "--json")
    yield run("ps", guest)
    yield run("attach", guest, "lan", "--address", "10.1.1.9", "--mac", "seed:x")
    for words in (("lan", "--address", "10.1.1.2"), ("nowhere",), ("lan", "--interface", "a/b"), ("lan", "--gateway", "x")):
        yield run("attach", guest, *words)
    yield run("ps", world.names["guest"], "--json")
    yield run("detach", guest, "lan")
    yield run("detach", guest, "lan")
    yield run("confirm")
    yield run("destroy", site)
    yield run("apply", site, "--confirm", "60")
    yield run("apply", site)
    yield run("confirm")
    sh(world.host, "ip", "link", "add", "name", "dw-idle", "type", "bridge")
    used = OTHER + f'attachments: [{{container: "{guest}", network: idle}}]\n'
    yield run("apply", world.write(used, "idle"))
    sh(world.host, "ip", "link", "del", "dev", "dw-idle")
    yield run("destroy", site)
    yield run("destroy")
    yield run("undo", "--store", "mysql://x")


def plain(done: Done) -> tuple[int, str, str]:
    """Less what differs from one time to the next."""
    out = re.sub(r'"(ifindex|index|peer_index|cookie|home)": \d+', "", done.out)
    return done.code, out, re.sub(r"for \d+ s more", "", done.err)


def test_both_ways_say_the_same(world: World, cli: Cli) -> None:
    """Output, exit codes and what is left on the host, of the same commands in the same order."""
    world.container("guest")
    before = world.snapshot()
    with AgentProcess(world, world.write(OTHER, "kept"), "--resync", "3600"):
        assert "by the agent" in cli("ps", "--verbose").err
        by_agent = list(session(world, cli))
        assert "by the agent" in cli("ps", "--verbose").err
    same(before, world.snapshot())
    assert "without the agent" in cli("ps", "--verbose").err
    alone = list(session(world, cli))
    same(before, world.snapshot())
    codes = set()
    for (words, one), (_, other) in zip(by_agent, alone, strict=True):
        assert plain(one) == plain(other), words
        codes.add(one.code)
    assert codes == {0, 1, 2, 3}


def test_an_agent_with_another_memory_is_not_meant(world: World, cli: Cli, agent: AgentProcess) -> None:
    other = world.directory / "other"
    told = cli("ps", "--verbose", "--state", other).err
    assert f"without the agent (the agent here is version" in told and str(world.state) in told  # noqa: F541
    store = f"sqlite://{world.directory}/other.db"
    assert "without the agent" in cli("ps", "--verbose", "--store", store).err
    assert "by the agent" in cli("ps", "--verbose", "--state", f"{world.state}/../state").err


def test_another_agent_is_refused(world: World, agent: AgentProcess) -> None:
    done = world.cli("agent", "--site", world.write(SITE), code=1)
    assert "another agent keeps this host already" in done.err
    assert agent.socket.is_socket()


def test_a_dead_agents_socket_is_replaced(world: World, cli: Cli) -> None:
    path = world.write(SITE)
    with AgentProcess(world, path) as agent:
        agent.kill()
    assert agent.socket.is_socket()
    assert "without the agent" in cli("ps", "--verbose").err
    with AgentProcess(world, path) as agent:
        assert "by the agent" in cli("ps", "--verbose").err
    assert not agent.socket.exists()


def test_another_place_for_the_socket(world: World, cli: Cli) -> None:
    """What is in the way there is left alone; commands find it all the same."""
    path, place = world.write(SITE), world.directory / "mine.sock"
    place.write_text("somebody's")
    assert "is in the way" in world.cli("agent", "--site", path, "--socket", place, code=1).err
    assert place.read_text() == "somebody's"
    place.unlink()
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(place))
        theirs.listen()
        assert "somebody listens" in world.cli("agent", "--site", path, "--socket", place, code=1).err
    with AgentProcess(world, path, "--socket", place) as agent:
        assert place.is_socket() and agent.socket.is_symlink()
        assert "by the agent" in cli("ps", "--verbose").err
    assert not place.exists() and not agent.socket.is_symlink()


# what people did


def test_what_was_destroyed_stays_so_until_it_is_applied(world: World, cli: Cli, agent: AgentProcess) -> None:
    told = cli("destroy", world.write(SITE))
    assert "note: the agent keeps office no longer, until" in told.err
    before = world.snapshot()
    world.kill("web")
    world.container("web")
    sh(world.host, "ip", "link", "add", "name", "br0", "type", "bridge")
    sh(world.host, "ip", "link", "del", "dev", "br0")
    time.sleep(2)
    same(before, world.snapshot())
    assert "created" in cli("apply", world.write(SITE)).out
    assert agent.said("keeps office again")
    sh(world.host, "ip", "link", "del", "dev", "br0")
    assert until(lambda: ping(world.host, "10.1.1.2"), SOON), agent.log()


def test_what_nobody_confirms_is_not_brought_again(world: World, cli: Cli) -> None:
    path = world.write(SITE)
    with AgentProcess(world, path, "--resync", "1") as agent:
        cli("destroy", path)
        before = world.snapshot()
        assert "keeps office again once it is confirmed" in cli("apply", path, "--confirm", "2").err
        assert until(lambda: "br0" not in sh(world.host, "ip", "link"), SOON), agent.log()
        time.sleep(3)
        same(before, world.snapshot())
        cli("apply", path, "--confirm", "60")
        assert not agent.said("keeps office again")
        cli("confirm")
        assert agent.said("keeps office again")
        sh(world.host, "ip", "link", "del", "dev", "br0")
        assert until(lambda: ping(world.host, "10.1.1.2"), SOON), agent.log()


def test_what_was_undone_stays_so_until_the_file_changes(world: World, cli: Cli) -> None:
    before = world.snapshot()
    path = world.write(SITE)
    cli("apply", path)
    with AgentProcess(world, path, "--resync", "1") as agent:
        assert "the agent keeps office no longer" in cli("undo").err
        time.sleep(3)
        same(before, world.snapshot())
        world.write(SITE.replace("10.1.1.3", "10.1.1.33"))
        assert until(lambda: ping(world.host, "10.1.1.33"), SOON), agent.log()
        cli("destroy", path)
        assert "no longer" not in cli("undo").err, "what is undone is the destroying: there is something to keep again"
        sh(world.host, "ip", "link", "del", "dev", "br0")
        assert until(lambda: ping(world.host, "10.1.1.2"), SOON), agent.log()


def test_the_file_wins(world: World, cli: Cli, agent: AgentProcess) -> None:
    other = world.write("name: office\n" + SITE.replace("10.1.1.3", "10.1.1.33"), "elsewhere")
    assert "note: the agent keeps office as" in cli("apply", other).err
    assert until(lambda: ping(world.host, "10.1.1.3"), SOON), agent.log()
    assert not cli("apply", world.write("# the same, in other words\n" + SITE)).err


def test_other_sites_are_of_no_concern(world: World, cli: Cli, agent: AgentProcess) -> None:
    world.container("guest")
    other = world.write(OTHER + 'attachments: [{container: "netns:<guest>", network: idle}]', "other")
    assert not cli("apply", other).err
    assert not cli("undo").err
    assert not cli("destroy", other).err
    sh(world.host, "ip", "link", "del", "dev", "br0")
    assert until(lambda: ping(world.host, "10.1.1.2"), SOON), agent.log()


def test_interrupted_the_truth_is_told(world: World, agent: AgentProcess) -> None:
    """The agent goes on with what it has begun."""
    world.container("guest")
    (lock,) = world.run_directory.rglob("lock")
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with started(world, "attach", f"netns:{world.names['guest']}", "lan", "--address", "10.1.1.9") as process:
            time.sleep(4)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the agent completes what it has begun" in err
    assert until(lambda: ping(world.host, "10.1.1.9"), SOON), agent.log()


# what is told


def test_events(world: World, agent: AgentProcess) -> None:
    with (
        started(world, "events", "--json") as process,
        started(world, "events") as text,
        started(world, "events", "--quiet") as few,
    ):
        assert text.stdout and few.stdout
        assert until(lambda: _followers(world) == 3), sh(world.host, "ss", "-xa")
        sh(world.host, "ip", "address", "del", "10.1.1.1/24", "dev", "br0")
        assert "address br0 10.1.1.1" in str(next_of(process, "mended")["resources"])
        plugged = None
        while not plugged or plugged["kind"] == "mended":  # on a busy machine a look may see it first
            world.kill("web")
            world.container("web")
            plugged = next_of(process, "plugged-in", "mended")
        assert plugged["container"] == f"netns:{world.names['web']}"
        assert isinstance(plugged["seconds"], float)
        world.write(BROKEN)
        notice = next_of(process, "site-refused")
        assert notice["code"] == "site" and notice["message"] in agent.lines()
        while "is not heeded" not in (line := text.stdout.readline()):
            assert line
        assert "is not heeded" in few.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        agent.__exit__(None, None, None)
        assert text.wait(30) == 1 and "the agent has ended" in text.stderr.read()  # type: ignore[union-attr]


@contextmanager
def started(world: World, *words: str) -> Iterator[subprocess.Popen[str]]:
    with world.start(*words) as process:
        try:
            yield process
        finally:
            process.kill()


def next_of(process: subprocess.Popen[str], *kinds: str) -> dict[str, Any]:
    """The next notice of one of these kinds."""
    assert process.stdout
    for line in process.stdout:
        notice: dict[str, Any] = json.loads(line)
        if notice["kind"] in kinds:
            return notice
    raise AssertionError("the agent has ended")


def _followers(world: World) -> int:
    """Who has connected to the agent (ss(8) tells of both ends)."""
    return sh(world.host, "ss", "-xH", "state", "connected").count(str(world.run_directory))


def test_events_of_an_agent_with_another_memory(world: World, cli: Cli, agent: AgentProcess) -> None:
    assert "keeps its memory in" in cli("events", "--state", world.directory / "other", code=1).err


def test_events_without_an_agent(world: World, cli: Cli) -> None:
    assert "no agent tells what it does here" in cli("events", code=1).err
