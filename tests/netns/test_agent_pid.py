"""The agent and processes as containers: it is told of their ends, and holds no more of them than it has to."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from agent_process import AgentProcess
from conftest import sh, until
from host import World, build_world

from ductwork.runtimes.pid_events import PidEvents

pytestmark = pytest.mark.netns

SOON = 20.0
SITE = """
networks:
  lan: {driver: bridge, subnet: 10.1.1.0/24}
attachments:
  - {container: "netns:<db>", network: lan, address: 10.1.1.3}
"""


def with_process(pid: int) -> str:
    return f'{SITE}  - {{container: "pid:{pid}", network: lan, address: 10.1.1.2}}'


@pytest.fixture
def world(netns: Callable[[str], str], tmp_path: Path) -> World:
    return build_world(netns, tmp_path)


@contextmanager
def process(ns: str) -> Iterator[subprocess.Popen[bytes]]:
    """In a namespace that outlives it: neither a link nor a mount tells that it has ended."""
    with subprocess.Popen(["nsenter", f"--net=/run/netns/{ns}", "sleep", "60"]) as started:
        try:
            yield started
        finally:
            started.kill()


def pidfds(pid: int) -> list[int]:
    """The processes that one has descriptors of."""
    found = []
    for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
        with suppress(FileNotFoundError):  # the listing's own, or closed meanwhile
            found += [int(line.split()[1]) for line in entry.read_text().splitlines() if line.startswith("Pid:")]
    return found


def plugged_in(world: World) -> bool:
    return "10.1.1.2/24" in sh(world.names["web"], "ip", "-br", "address")


@pytest.mark.parametrize("how", ["at the start", "by the file", "by attach"])
@pytest.mark.parametrize("reaped", [True, False], ids=["reaped", "zombie"])
def test_the_end_of_a_process_is_noticed(world: World, how: str, reaped: bool) -> None:
    """As that of other containers, and its descriptor is closed."""
    with process(world.names["web"]) as web:
        path = world.write(with_process(web.pid) if how == "at the start" else SITE)
        with AgentProcess(world, path, "--resync", "3600") as agent:
            if how == "by the file":
                world.write(with_process(web.pid))
            elif how == "by attach":
                world.cli("attach", f"pid:{web.pid}", "lan", "--address", "10.1.1.2")
            assert until(lambda: plugged_in(world) and pidfds(agent.pid) == [web.pid], SOON), agent.log()
            web.kill()
            if reaped:
                web.wait()
            assert until(lambda: bool(agent.said(f"pid:{web.pid} is waiting")), SOON), agent.log()
            assert until(lambda: pidfds(agent.pid) == [], SOON)
            time.sleep(1)
            assert len(agent.said(f"pid:{web.pid}")) < 5, "a zombie, which is always readable, is not told again and again"


@pytest.mark.parametrize("how", ["by the file", "by detach"])
def test_what_is_not_attached_is_not_held(world: World, how: str) -> None:
    with process(world.names["web"]) as web, process(world.names["db"]) as db:
        path = world.write(with_process(web.pid) if how == "by the file" else SITE)
        with AgentProcess(world, path, "--resync", "3600") as agent:
            world.cli("attach", f"pid:{db.pid}", "lan")
            if how == "by detach":
                world.cli("attach", f"pid:{web.pid}", "lan")
            assert until(lambda: sorted(pidfds(agent.pid)) == sorted([web.pid, db.pid]), SOON), agent.log()
            if how == "by the file":
                world.write(SITE)
            else:
                world.cli("detach", f"pid:{web.pid}", "lan")
            assert until(lambda: pidfds(agent.pid) == [db.pid], SOON), agent.log()
            before = len(os.listdir(f"/proc/{agent.pid}/fd"))
            for _ in range(5):
                world.cli("attach", f"pid:{web.pid}", "lan")
                assert until(lambda: web.pid in pidfds(agent.pid), SOON)
                world.cli("detach", f"pid:{web.pid}", "lan")
                assert until(lambda: pidfds(agent.pid) == [db.pid], SOON)
            assert until(lambda: len(os.listdir(f"/proc/{agent.pid}/fd")) <= before, SOON)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as started:
        yield started
        started.kill()


@pytest.fixture
def events() -> Iterator[PidEvents]:
    with closing(PidEvents()) as made:
        yield made


def test_whatever_has_become_of_a_pid_is_told_once(events: PidEvents, sleeper: subprocess.Popen[bytes]) -> None:
    names = {f"pid:{sleeper.pid}", "netns:web", "web"}
    assert [event.text for event in events.follow(names)] == [f"pid:{sleeper.pid} runs"]
    assert not events.follow(names) and not events.take()
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)  # a zombie from now on
    assert [(e.container, e.started) for e in events.follow(names)] == [(f"pid:{sleeper.pid}", False)]
    assert not events.follow(names) and not events.take()


def test_nobody_has_a_pid(events: PidEvents) -> None:
    """A name alone may be one too."""
    with subprocess.Popen(["true"]) as brief:
        name = str(brief.pid)
    assert [event.text for event in events.follow({name})] == [f"pid:{name} is not there"]
    assert not events.follow({name})
    assert not events.follow(set())
    assert events.follow({name}), "it is asked for anew"


def test_no_descriptor_is_left(sleeper: subprocess.Popen[bytes]) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    with closing(PidEvents()) as events:
        for _ in range(3):
            events.follow({f"pid:{sleeper.pid}"})
            assert pidfds(os.getpid()) == [sleeper.pid]
            events.follow(set())
            assert pidfds(os.getpid()) == []
        events.follow({f"pid:{sleeper.pid}"})
    assert sorted(os.listdir("/proc/self/fd")) == before
