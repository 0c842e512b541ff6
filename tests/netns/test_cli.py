"""The commands as a person or a script meets them: what they print, where, and with which exit code.

In this process but for two tests: `main` is called in the host's namespace, and 170 broken files cost no 170 interpreters.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import sh
from host import World, build_world, same
from in_process import Cli, command_line

from ductwork import journal
from ductwork.backends import kernel
from ductwork.cli import common, main

pytestmark = pytest.mark.netns

BROKEN = sorted((Path(__file__).parents[1] / "unit" / "broken_sites").glob("*.yaml"))
SITE = """
networks:
  lan: {driver: bridge, subnet: 10.1.1.0/24}
attachments:
  - {container: "netns:<web>", network: lan}
  - {container: "netns:<db>", network: lan, address: 10.1.1.3}
"""
HOSTS = SITE.replace("network: lan", "host: alpha, network: lan") + (
    "hosts: {alpha: {address: 192.0.2.1/24}, beta: {address: 192.0.2.9}}\n"
)


PS_KEYS = (
    *("container", "runtime", "mode", "interface", "ifindex", "host_interface", "bridge", "parent", "vlan", "mac"),
    *("addresses", "network"),
)
"""Contract, section 3."""


@pytest.fixture
def world(netns: Callable[[str], str], tmp_path: Path) -> World:
    return build_world(netns, tmp_path)


@pytest.fixture
def cli(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return command_line(world, monkeypatch, capsys)


# what goes well


def test_plan_shows_and_touches_nothing(world: World, cli: Cli) -> None:
    site = world.write(SITE)
    before = world.snapshot()
    text = cli("plan", site)
    assert "+ link dw-lan" in text.out
    assert "would be" in text.err
    commands = cli("plan", site, "--format", "commands").out
    assert "ip link add name dw-lan" in commands
    cli("plan", site, "--exit-code", code=3)
    same(before, world.snapshot())
    assert not world.state.exists()
    assert not world.remembered()


def test_plan_as_json(world: World, cli: Cli) -> None:
    site = world.write(SITE)
    told = json.loads(cli("plan", site, "--json").out)
    assert told["host"] == ""
    assert {frozenset(change) for change in told["changes"]} == {
        frozenset({"action", "resource", "before", "after", "commands"})
    }
    assert json.loads(cli("plan", site, "--format", "json").out) == told


def test_apply_and_destroy(world: World, cli: Cli) -> None:
    site = world.write(SITE)
    assert cli("apply", site).out.startswith("office: ")
    again = cli("apply", site)
    assert again.out == "office: nothing to do\n"
    assert not again.err
    assert cli("plan", site, "--exit-code").err == "nothing to do\n"
    assert "removed" in cli("destroy", site).out
    assert cli("destroy", site).out == "office destroyed: nothing to do\n"
    assert "nothing to do" in cli("destroy", "--all").out


def test_quiet_and_verbose(world: World, cli: Cli) -> None:
    site = world.write(SITE)
    quiet = cli("apply", site, "--quiet")
    assert not quiet.out + quiet.err
    loud = cli("destroy", site, "--verbose")
    assert "- link dw-lan" in loud.err
    assert "rounds" not in loud.err


def test_undo(world: World, cli: Cli) -> None:
    before = world.snapshot()
    assert "no change to undo" in cli("undo", code=1).err
    cli("apply", world.write(SITE))
    assert cli("undo").out.startswith("undo apply ")
    same(before, world.snapshot())
    cli("undo", code=1)


def test_what_waits_is_told(world: World, cli: Cli) -> None:
    world.kill("web")
    site = world.write(SITE.replace("netns:<db>", "docker:db"))
    assert f"waiting: netns:{world.names['web']} (not running)" in cli("plan", site).err
    done = cli("apply", site)
    assert f"waiting: netns:{world.names['web']} (not running)" in done.out
    assert "docker does not answer" in done.err


def test_ps(world: World, cli: Cli) -> None:
    assert json.loads(cli("ps", "--json").out) == []
    assert "nothing" in cli("ps").err
    cli("apply", world.write(SITE))
    rows = json.loads(cli("ps", "--json").out)
    assert {row["container"] for row in rows} == {f"netns:{name}" for name in world.names.values()}
    assert all(list(row) == list(PS_KEYS) for row in rows)
    assert "10.1.1.3/24" in cli("ps").out
    assert world.names["web"] not in cli("ps", world.names["db"]).out


def test_attach_and_detach(world: World, cli: Cli) -> None:
    api = f"netns:{world.container('api')}"
    cli("apply", world.write(SITE))
    assert "created" in cli("attach", api, "lan", "--address", "10.1.1.9", "--interface", "x0", "--mtu", "1400").out
    assert "10.1.1.9/24" in sh(world.names["api"], "ip", "address", "show", "dev", "x0")
    assert "belongs to" in cli("attach", f"netns:{world.names['web']}", "lan", "--address", "10.1.1.9", code=1).err
    assert "removed" in cli("detach", api, "lan").out
    sh(world.names["api"], "ip", "link", "add", "name", "eth1", "type", "bridge")
    assert "in the way" in cli("attach", api, "lan", "--interface", "eth1", "--address", "10.1.1.9", code=1).err
    cli("attach", f"netns:{world.names['web']}", "lan", "--address", "10.1.1.9")  # what was refused took no address
    assert "was not attached" in cli("detach", api, "lan", code=2).err


def test_schema_and_version(cli: Cli) -> None:
    assert "properties" in json.loads(cli("schema").out)
    assert cli("version").out.startswith("ductwork ")
    assert cli("--version").out == cli("version").out


# which host


def test_the_host_is_known_by_its_address(world: World, cli: Cli) -> None:
    world.uplink()
    site = world.write(HOSTS)
    assert json.loads(cli("plan", site, "--json").out)["host"] == "alpha"
    assert cli("apply", site).out.startswith("office on alpha: ")
    assert json.loads(cli("plan", site, "--json", "--host", "beta").out)["changes"][0]["action"] == "delete"


def test_the_host_is_known_by_the_machines_name(world: World, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common.socket, "gethostname", lambda: "beta.example.org")
    assert json.loads(cli("plan", world.write(HOSTS), "--json").out)["host"] == "beta"


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        (HOSTS, ["--host", "gamma"], "it has alpha, beta"),
        (HOSTS, [], "--host, one of alpha, beta"),
        (SITE, ["--host", "alpha"], "the file has no hosts"),
    ],
)
def test_the_host_is_unknown(world: World, cli: Cli, text: str, words: list[str], said: str) -> None:
    for command in ("plan", "apply"):
        assert said in cli(command, world.write(text), *words, code=2).err


# misuse: exit code 2, and nothing is touched


def misuses(web: str) -> Iterator[tuple[list[str], str]]:
    yield ["frobnicate"], "No such command"
    yield ["aplly"], "did you mean `apply`?"
    yield ["doctor"], "not in this version"
    yield ["apply"], "Missing argument"
    yield ["apply", "site.yaml", "--frobnicate"], "No such option"
    yield ["plan", "/nowhere/site.yaml"], "/nowhere/site.yaml"
    yield ["plan", "/etc"], "/etc"
    yield ["plan", "x.yaml", "--format", "xml"], "xml"
    yield ["destroy"], "takes a site file, or --all"
    yield ["destroy", "x.yaml", "--all"], "takes a site file, or --all"
    yield ["undo", "--store", "mysql://x"], "not a store"
    yield ["undo", "--store", "etcd://x:1"], "not etcd yet"
    yield ["undo", "--state", "/etc/passwd"], "is a file"
    yield ["attach", web, "nowhere"], "no network of that name"
    yield ["attach", web, "lan", "--address", "10.1.1.300"], "is no IP address"
    yield ["attach", web, "lan", "--address", "10.9.9.9"], "not in network lan"
    yield ["attach", web, "lan", "--address", "10.1.1.1"], "taken by the site file"
    yield ["attach", web, "lan", "--gateway", "10.1.1.7", "--no-gateway"], "exclude each other"
    yield ["attach", web, "lan", "--mtu", "7"], "68<=x<=65535"
    yield ["attach", web, "lan", "--interface", "a/b"], "no interface name"
    yield ["attach", web, "lan", "--interface", "sixteenletters-x"], "15 are the most"
    yield ["attach", "netns:a/b", "lan"], "has a `/`"
    yield ["attach", "dokcer:web", "lan"], "did you mean `docker`?"
    yield ["attach", web, "lan", "--mac", "01:00:00:00:00:01"], "of a single interface"
    yield ["attach", web, "lan", "--mac", "rubbish"], "no MAC address"
    yield ["detach", web, "lan"], "was not attached"


def test_misuse(world: World, cli: Cli) -> None:
    cli("apply", world.write(SITE))
    before = world.snapshot()
    for words, said in misuses(f"netns:{world.names['web']}"):
        assert said.lower() in cli(*words, code=2).err.lower(), words
    same(before, world.snapshot())


def test_every_broken_site(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused with each mistake's place and advice, before anything is even looked at."""

    def never(*_: Any) -> None:
        raise AssertionError("nothing may be opened for a broken file")

    monkeypatch.setattr("ductwork.cli.common.open_engine", never)
    assert len(BROKEN) > 150
    for file in BROKEN:
        for command in ("plan", "apply", "destroy"):
            told = cli(command, file, code=2)
            assert not told.out
            places = [line for line in told.err.splitlines() if line.startswith(f"{file}:") and not line.endswith("touched")]
            assert places, told.err
            assert all(part.isdigit() for line in places for part in line.removeprefix(f"{file}:").split(":")[:2]), told.err
            assert "nothing was touched" in told.err.splitlines()[-1]
            assert told.err.count("\n    ") >= len(places)


# what goes wrong: exit code 1


def test_in_the_way_is_told(world: World, cli: Cli) -> None:
    sh(world.host, "ip", "link", "add", "name", "dw-lan", "type", "bridge")
    before = world.snapshot()
    told = cli("apply", world.write(SITE), code=1).err
    assert told.startswith("ductwork: error: link dw-lan is in the way")
    assert "nothing was touched\n  remove or rename" in told
    same(before, world.snapshot())


@pytest.mark.parametrize("command", ["plan", "apply"])
def test_what_the_kernel_lacks_is_told_with_what_needs_it(
    command: str, world: World, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.uplink()
    before = world.snapshot()
    monkeypatch.setitem(kernel._known, "vlan", False)
    tagged = SITE.replace("driver: bridge", "driver: macvlan, parent: eth0, vlan: 100, allocate: 10.1.1.0/25")
    told = cli(command, world.write(tagged), code=1).err
    assert "this kernel has no 802.1q (vlan), and link eth0.100 of site office needs it: nothing was touched" in told
    assert "\n  `modprobe 8021q`" in told
    monkeypatch.setitem(kernel._known, "tbf", False)
    site = world.write(SITE.replace("network: lan}", "network: lan, rate: {ingress: 1mbit}}"))
    told = cli(command, site, code=1).err
    assert "this kernel has no token buckets, and " in told and " of network lan needs it: nothing was touched" in told
    same(before, world.snapshot())


def test_a_store_that_cannot_be_written_is_told_first(world: World, cli: Cli) -> None:
    before = world.snapshot()
    assert "--state DIR" in cli("apply", world.write(SITE), "--state", "/proc/nowhere", code=1).err
    same(before, world.snapshot())


def test_a_damaged_store_is_told(world: World, cli: Cli) -> None:
    cli("apply", world.write(SITE))
    for file in world.state.iterdir():
        file.write_bytes(b"rubbish" * 1000)
    assert "is damaged" in cli("apply", world.write(SITE), code=1).err


def test_who_is_busy_is_told(world: World, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_LOCK_SECONDS", 0.1)
    cli("apply", world.write(SITE))
    (lock,) = world.run_directory.rglob("lock")
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "fuser" in cli("apply", world.write(SITE), code=1).err


def test_a_defect_is_told_without_a_traceback(world: World, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def defect(*_: Any) -> None:
        raise RuntimeError("oh")

    monkeypatch.setattr("ductwork.cli.common.open_engine", defect)
    assert "internal error: RuntimeError: oh" in cli("apply", world.write(SITE), code=1).err
    monkeypatch.setattr(sys, "argv", ["ductwork", "apply", str(world.write(SITE)), "--verbose"])
    with pytest.raises(RuntimeError):
        main.main()


def test_whoever_is_not_root_is_told(world: World, cli: Cli) -> None:
    """In a child that gives up root; all that it imports has been imported before."""
    site = world.write(SITE)
    cli("plan", site)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(writing, 2)
        sys.stderr = os.fdopen(2, "w", closefd=False)
        os.chmod(site, 0o644)
        os.setgid(65534)
        os.setuid(65534)
        code = 99
        try:
            main._show(_refused(lambda: common.open_engine(world.state)))
            sys.stderr.flush()
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with os.fdopen(reading) as told:
        assert "needs root" in told.read()


def _refused(work: Callable[[], object]) -> Any:
    try:
        work()
    except main.DuctworkError as error:
        return error
    raise AssertionError("not refused")


# as a program


def test_the_program_itself(world: World) -> None:
    assert world.cli("version").out.startswith("ductwork ")
    broken = world.cli("apply", BROKEN[0], code=2)
    assert f"{BROKEN[0]}:" in broken.err
    assert not world.run_directory.exists()
    assert not world.state.exists()
