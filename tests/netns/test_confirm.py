"""`apply --confirm` and `confirm`: a change that nobody confirms is taken back, by whatever it was ended.

The guard is the real one, a process of its own; it is waited for, so that none is left when a test ends.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import inside, sh, until
from host import World, build_world, same
from test_crash import dies, moments, nothing

from ductwork import guard
from ductwork.confirmation import Guard, is_due, now
from ductwork.engine import AttachRequest, Engine
from ductwork.errors import ApplyError, AwaitingError, DuctworkError, NothingToConfirmError, NothingToUndoError
from ductwork.journal import Awaiting
from ductwork.reconciler import Report

pytestmark = pytest.mark.netns

SITE = """
networks:
  lan: {driver: bridge, subnet: 10.1.1.0/24}
attachments:
  - {container: "netns:<web>", network: lan, address: 10.1.1.2, gateway: true}
"""
CHANGED = """
networks:
  lan: {driver: bridge, subnet: 10.1.0.0/16}
  side: {driver: bridge, subnet: 10.2.0.0/24, nat: none}
attachments:
  - {container: "netns:<web>", network: side, address: 10.2.0.2}
  - {container: "netns:<db>", network: lan, address: 10.1.1.3}
"""
WIDER = SITE.replace("10.1.1.0/24", "10.1.0.0/16")
LONG = 600
"""Seconds that no test waits for."""


class Guarded:
    """A host whose changes are guarded."""

    def __init__(self, world: World) -> None:
        self.world = world

    def guard(self, seconds: int) -> Guard:
        return guard.guard(seconds, self.world.state, None)

    def apply(self, text: str, seconds: int = LONG, gate: Callable[[str], None] = lambda _: None) -> Report:
        site = self.world.site(text)
        return self.world.engine(lambda engine: engine.apply(site, "", guard=self.guard(seconds)), gate)

    def confirm(self) -> None:
        self.world.engine(lambda engine: engine.confirm())

    def undo(self) -> Report:
        return self.world.engine(lambda engine: engine.undo())

    def told(self) -> dict[str, Any]:
        """What the journal tells of the change that awaits confirmation."""
        for file in self.world.run_directory.rglob("confirm.json"):
            with suppress(FileNotFoundError):  # the guard is just done with it
                found: dict[str, Any] = json.loads(file.read_text())
                return found
        return {}

    def waits(self) -> bool:
        return bool(list(self.world.run_directory.rglob("confirm.json")))

    def log(self) -> str:
        return "".join(file.read_text() for file in self.world.run_directory.rglob("guard.log"))

    def guards(self) -> list[int]:
        """The processes that guard this host."""
        mine = str(self.world.run_directory).encode()
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"ductwork.guard" in words and any(word.startswith(mine) for word in words):
                found.append(int(pid))
        return found

    def is_alone(self) -> bool:
        return until(lambda: not self.guards())


@pytest.fixture
def host(netns: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Guarded]:
    """Without iptables, whose programs take longer than all else."""
    monkeypatch.setattr("shutil.which", lambda _: None)
    made = Guarded(build_world(netns, tmp_path))
    made.world.uplink()
    made.world.eth0("web")
    yield made
    for pid in made.guards():
        os.kill(pid, signal.SIGKILL)
    assert made.is_alone()


def test_unconfirmed_it_is_taken_back(host: Guarded) -> None:
    host.world.apply(SITE)
    before = host.world.snapshot()
    assert host.apply(CHANGED, seconds=1).operations
    assert host.waits()
    assert host.is_alone()
    same(before, host.world.snapshot())
    assert not host.waits()
    assert "apply office was taken back: nobody confirmed it within 1 s" in host.log()
    with pytest.raises(NothingToConfirmError) as refused:
        host.confirm()
    assert "was taken back" in refused.value.hint
    with pytest.raises(NothingToUndoError):
        host.undo()


def test_a_guard_that_ends_late_leaves_the_next_ones_log(host: Guarded) -> None:
    host.apply(SITE)
    [late] = host.guards()
    os.kill(late, signal.SIGSTOP)
    host.confirm()
    host.apply(CHANGED)
    os.kill(late, signal.SIGCONT)
    assert until(lambda: late not in host.guards())
    assert list(host.world.run_directory.rglob("guard.log"))
    host.undo()
    assert host.is_alone()
    assert not list(host.world.run_directory.rglob("guard.log"))


def test_confirmed_it_stays(host: Guarded) -> None:
    before = host.world.snapshot()
    host.apply(SITE)
    applied = host.world.snapshot()
    assert len(host.guards()) == 1
    host.confirm()
    assert host.is_alone()
    same(applied, host.world.snapshot())
    assert not list(host.world.run_directory.rglob("guard.log"))
    with pytest.raises(NothingToConfirmError):
        host.confirm()
    host.undo()
    same(before, host.world.snapshot())


def test_the_time_begins_when_all_is_done(host: Guarded) -> None:
    ends: list[float] = []

    def gate(_: str) -> None:
        if not ends:
            ends.append(host.told()["deadline"])
            assert host.guards(), "the guard stands before the first send"
            time.sleep(0.3)

    host.apply(SITE, gate=gate)
    assert host.told()["deadline"] > ends[0] + 0.2
    assert host.told()["deadline"] <= now() + LONG


def test_a_change_that_takes_longer_than_its_time_is_awaited(host: Guarded) -> None:
    """The guard, which has waited for it, gives it its time all the same."""
    slept = False

    def gate(_: str) -> None:
        nonlocal slept
        if not slept:
            slept = True
            time.sleep(4)

    before = host.world.snapshot()
    assert host.apply(SITE, seconds=3, gate=gate).operations
    deadline = host.told()["deadline"]
    assert until(lambda: not host.waits())
    assert now() >= deadline
    assert "could not" not in host.log()
    assert host.is_alone()
    same(before, host.world.snapshot())


def test_killed_at_any_moment_it_is_taken_back(host: Guarded) -> None:
    """At once, without waiting for the time to pass."""
    host.world.apply(SITE)
    before = host.world.snapshot()
    site = host.world.site(CHANGED)
    for moment in moments(host.world, lambda engine: engine.apply(site, "", guard=host.guard(LONG)), nothing):
        assert host.is_alone(), moment
        same(before, host.world.snapshot())
        assert not host.waits()
    host.undo()
    same(before, host.world.snapshot())


def test_killed_before_anything_was_begun(host: Guarded) -> None:
    """The guard has nothing to take back; not the change before either."""
    host.world.apply(SITE)
    before = host.world.snapshot()
    site = host.world.site(CHANGED)

    def start(directory: str, token: str) -> None:
        host.guard(LONG).start(directory, token)
        os.kill(os.getpid(), signal.SIGKILL)

    assert dies(host.world, 1000, lambda engine: engine.apply(site, "", guard=Guard(LONG, start)))
    assert host.is_alone()
    assert not host.waits()
    same(before, host.world.snapshot())
    assert not host.log()


def test_killed_before_the_guard_stood(host: Guarded) -> None:
    site = host.world.site(SITE)

    def start(directory: str, token: str) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    assert dies(host.world, 1000, lambda engine: engine.apply(site, "", guard=Guard(LONG, start)))
    assert host.waits()
    assert host.world.apply(SITE).operations
    assert not host.waits()


def test_killed_with_its_guard_it_is_taken_back_by_hand(host: Guarded) -> None:
    before = host.world.snapshot()
    site = host.world.site(SITE)

    def work(engine: Engine) -> None:
        engine.apply(site, "", guard=Guard(LONG, lambda directory, token: None))

    assert dies(host.world, 8, work)
    with pytest.raises(AwaitingError, match="ended half-way"):
        host.world.apply(SITE)
    with pytest.raises(NothingToConfirmError, match="ended half-way"):
        host.confirm()
    host.undo()
    same(before, host.world.snapshot())
    host.world.settle(SITE)


def test_the_guard_is_killed_while_it_takes_back(host: Guarded) -> None:
    host.world.apply(SITE)
    before = host.world.snapshot()
    for moment in (1, 4, 9, 14):
        host.apply(CHANGED)
        (pid,) = host.guards()
        os.kill(pid, signal.SIGKILL)
        assert dies(host.world, moment, lambda engine: engine.take_back(lambda _: True))
        host.undo()
        same(before, host.world.snapshot())
        assert not host.waits()


def test_another_change_is_refused_meanwhile(host: Guarded) -> None:
    host.apply(SITE)
    before = host.world.snapshot()
    for work in (
        lambda: host.world.apply(CHANGED),
        lambda: host.apply(CHANGED),
        lambda: host.world.apply(SITE),
        host.world.destroy,
        lambda: host.world.destroy(None),
    ):
        with pytest.raises(AwaitingError, match=r"apply office by \S+ awaits confirmation for \d+ s more") as refused:
            work()
        assert "`ductwork confirm`" in refused.value.hint
        assert "`ductwork undo`" in refused.value.hint
    same(before, host.world.snapshot())
    host.confirm()
    assert host.world.apply(CHANGED).operations
    assert host.is_alone()


def test_a_guard_that_is_gone_is_told(host: Guarded) -> None:
    """After its time nothing is decided by itself."""
    host.apply(SITE, seconds=1)
    for pid in host.guards():
        os.kill(pid, signal.SIGKILL)
    assert until(lambda: now() > host.told()["deadline"])
    with pytest.raises(AwaitingError, match="was not confirmed in time, and its guard has not taken it back"):
        host.world.apply(SITE)
    host.confirm()
    assert not host.world.apply(SITE).operations


def test_whether_it_is_due_is_asked_under_the_lock(host: Guarded) -> None:
    """The guard may have waited for `apply`, which gave it more time."""
    host.apply(SITE)
    before = host.world.snapshot()
    assert host.world.engine(lambda engine: engine.take_back(lambda _: False)) is None
    same(before, host.world.snapshot())
    assert host.waits()


def test_a_process_that_nobody_has_waited_for_has_ended(host: Guarded) -> None:
    """Whoever started `apply` may be busy."""
    child = os.fork()
    if not child:
        signal.pause()
        os._exit(0)
    fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
    awaiting = Awaiting("", "apply office", "root", LONG, now() + LONG, child, int(fields[19]))
    assert not is_due(awaiting)
    os.kill(child, signal.SIGKILL)
    assert until(lambda: Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z")
    assert is_due(awaiting)
    os.waitpid(child, 0)
    assert is_due(awaiting)


def test_undo_does_not_wait(host: Guarded) -> None:
    host.world.apply(SITE)
    before = host.world.snapshot()
    host.apply(CHANGED)
    assert host.undo().title == "undo apply office"
    same(before, host.world.snapshot())
    assert host.is_alone()
    assert not host.waits()
    with pytest.raises(NothingToUndoError):
        host.undo()


def test_what_changes_nothing_awaits_nothing(host: Guarded) -> None:
    """And the change before can still be undone."""
    before = host.world.snapshot()
    host.world.apply(SITE)
    assert not host.apply(SITE).operations
    assert not host.waits()
    assert host.is_alone()
    host.undo()
    same(before, host.world.snapshot())


def test_what_fails_awaits_nothing(host: Guarded) -> None:
    host.world.apply(SITE)
    before = host.world.snapshot()

    def gate(_: str) -> None:
        """A bridge takes the second network's name while the first is being changed."""
        if "dw-side" not in sh(host.world.host, "ip", "-br", "link"):
            sh(host.world.host, "ip", "link", "add", "name", "dw-side", "type", "bridge")

    with pytest.raises(ApplyError, match="taken back"):
        host.apply(CHANGED, gate=gate)
    assert not host.waits()
    assert host.is_alone()
    sh(host.world.host, "ip", "link", "del", "dev", "dw-side")
    same(before, host.world.snapshot())


def test_what_is_in_the_way_is_told_before_a_guard_is_started(host: Guarded) -> None:
    sh(host.world.host, "ip", "link", "add", "name", "dw-lan", "type", "bridge")
    with pytest.raises(DuctworkError, match="in the way"):
        host.apply(SITE)
    assert not host.guards()
    assert not host.waits()


def test_without_a_guard_nothing_is_touched(host: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    before = host.world.snapshot()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ApplyError, match="no guard could be started"):
        host.apply(SITE)
    same(before, host.world.snapshot())
    assert not host.waits()


# an apply is one change, whatever it is made of


def containers(host: Guarded) -> list[str]:
    return [f"netns:{name}" for name in host.world.names.values()]


def attach(host: Guarded, name: str, interface: str = "eth7") -> Report:
    request = AttachRequest(f"netns:{host.world.names[name]}", "lan", interface=interface)
    return host.world.engine(lambda engine: engine.attach(request))


def start_anew(host: Guarded, name: str) -> None:
    """The kernel takes its time to remove what the old namespace had."""
    host.world.kill(name)
    assert until(lambda: "/attach/" not in sh(host.world.host, "ip", "link"))
    host.world.container(name)


def test_all_of_an_apply_is_taken_back(host: Guarded) -> None:
    """What was attached by hand is a transaction of its own, where its container was started anew. (Nothing of the dead one's
    port comes back.)"""
    host.world.apply(SITE)
    before = host.world.snapshot()
    attach(host, "db")
    start_anew(host, "db")
    assert {operation.target.netns for operation in host.apply(WIDER).operations} == {"", *containers(host)}
    host.undo()
    same(before, host.world.snapshot())


def test_all_of_an_apply_is_taken_back_where_its_end_fails(host: Guarded) -> None:
    host.world.apply(SITE)
    before = host.world.snapshot()
    attach(host, "db")
    start_anew(host, "db")
    sh(host.world.names["db"], "ip", "link", "add", "name", "eth7", "type", "bridge")
    with pytest.raises(DuctworkError, match="eth7"):
        host.apply(WIDER)
    sh(host.world.names["db"], "ip", "link", "del", "dev", "eth7")
    same(before, host.world.snapshot())
    assert not host.waits()
    assert host.is_alone()


def test_an_apply_without_a_guard_is_undone_as_a_whole_too(host: Guarded) -> None:
    host.world.apply(SITE)
    before = host.world.snapshot()
    attach(host, "db")
    start_anew(host, "db")
    host.world.apply(WIDER)
    host.undo()
    same(before, host.world.snapshot())


def test_an_attach_is_undone_by_itself(host: Guarded) -> None:
    host.world.apply(SITE)
    before = host.world.snapshot()
    attach(host, "db")
    host.undo()
    same(before, host.world.snapshot())
    with pytest.raises(NothingToUndoError):
        host.undo()


def test_what_is_attached_meanwhile_is_taken_back_too(host: Guarded) -> None:
    """Else its port would keep the bridge that is to go."""
    before = host.world.snapshot()
    host.apply(SITE)
    attach(host, "db")
    with pytest.raises(DuctworkError):
        attach(host, "web", "eth0")
    host.undo()
    same(before, host.world.snapshot())


def test_what_a_failed_take_back_left_is_taken_back_later(host: Guarded) -> None:
    """A change that was killed half-way, and whose undoing fails at first, is not forgotten."""
    before = host.world.snapshot()
    site = host.world.site(SITE)
    unguarded = Guard(LONG, lambda directory, token: None)
    assert dies(host.world, 9, lambda engine: engine.apply(site, "", guard=unguarded))
    done: list[str] = []

    def refuse(engine: Engine) -> None:
        reconciler: Any = engine._reconciler
        execute = reconciler._execute

        def fail_once(found: Any, observation: Any) -> Any:
            done.append("")
            outcomes = execute(found, observation)
            return [type(o)(o.operation, "no") for o in outcomes] if len(done) == 1 else outcomes

        reconciler._execute = fail_once
        engine.take_back(lambda _: True)

    with pytest.raises(ApplyError):
        host.world.engine(refuse)
    assert host.waits()
    host.undo()
    same(before, host.world.snapshot())


# as a program


def test_the_command_line(host: Guarded) -> None:
    site = host.world.write(SITE)
    before = host.world.snapshot()
    told = host.world.cli("apply", site, "--confirm", "60").out
    assert told.startswith("office: ")
    assert told.splitlines()[-1] == (
        f"to be confirmed within 60 s, or it is taken back: ip netns exec {host.world.host} ductwork confirm"
    )
    assert "more: nothing was touched" in host.world.cli("apply", site, code=1).err
    assert host.world.cli("confirm").out == "apply office: confirmed\n"
    assert "nothing awaits confirmation" in host.world.cli("confirm", code=1).err
    assert host.world.cli("apply", site, "--confirm", "60").out.splitlines()[-1].startswith("nothing was changed")
    host.world.cli("apply", site, "--confirm", "0", code=2)
    assert not host.world.cli("destroy", site, "--quiet").out
    assert not host.world.cli("apply", site, "--confirm", "60", "--quiet").out
    host.world.cli("undo")
    same(before, host.world.snapshot())
    assert host.is_alone()


def test_a_lost_terminal_takes_back(host: Guarded) -> None:
    """A hang-up ends `apply`, but not its guard."""
    before = host.world.snapshot()
    process = host.world.start("apply", host.world.write(SITE), "--confirm", str(LONG))
    assert until(lambda: "dw-lan" in sh(host.world.host, "ip", "-br", "link") or process.poll() is not None)
    process.send_signal(signal.SIGHUP)
    process.communicate()
    if host.told().get("applied"):
        host.undo()  # it was quicker
    assert host.is_alone()
    same(before, host.world.snapshot())


def test_the_guard_is_a_session_of_its_own(host: Guarded) -> None:
    host.apply(SITE)
    (pid,) = host.guards()
    assert os.getsid(pid) == pid
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert os.readlink(f"/proc/{pid}/ns/net") == inside(host.world.host, lambda: os.readlink("/proc/thread-self/ns/net"))
    opened = {os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")}
    assert {Path(name).name for name in opened} == {"null", "guard.log"}
    assert "_sqlite3" in Path(f"/proc/{pid}/maps").read_text(), "what it needs to take back is there already"
    host.confirm()


def test_a_guard_stands_nowhere_else(host: Guarded) -> None:
    """In another namespace than that of the change it would take back nothing."""
    host.apply(SITE)
    (file,) = host.world.run_directory.rglob("confirm.json")
    start = guard.guard(LONG, host.world.state, None).start
    with pytest.raises(ApplyError, match="nothing awaits confirmation in this namespace"):
        inside(host.world.names["db"], lambda: start(str(file.parent), host.told()["token"]))
    with pytest.raises(ApplyError, match="nothing awaits confirmation in this namespace"):
        inside(host.world.host, lambda: start(str(file.parent), "another"))
    host.confirm()


def test_how_systemd_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """tests/vm/test_guard_service.py tries it."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///x")
    monkeypatch.setenv("OVS_RUNDIR", "/run/o")
    monkeypatch.setenv("SECRET", "x")
    argv = guard.systemd_argv(["python", "-m", "ductwork.guard", "/run/d/1", "token", "/s"], "token", "/lib")
    assert argv[0] == "systemd-run"
    assert argv[argv.index("--") + 1 :] == ["python", "-m", "ductwork.guard", "/run/d/1", "token", "/s"]
    assert {"--service-type=forking", "--collect", "--unit=ductwork-guard-token"} <= set(argv)
    assert {"--setenv=DOCKER_HOST=unix:///x", "--setenv=OVS_RUNDIR=/run/o", "--setenv=PYTHONPATH=/lib"} <= set(argv)
    assert "SECRET" not in str(argv)
