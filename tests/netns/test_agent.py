"""The agent: what others remove comes back, what starts is plugged in, and what is not ours is left alone."""

from __future__ import annotations

import fcntl
import json
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from agent_process import AgentProcess
from conftest import ping, sh, until
from host import World, build_world, differences, same

from ductwork.engine import AttachRequest

pytestmark = pytest.mark.netns

SITE = """
networks:
  lan: {driver: bridge, bridge: br0, subnets: [10.1.1.0/24, "fd00:1::/64"], gateways: [10.1.1.1, "fd00:1::1"]}
attachments:
  - {container: "netns:<web>", network: lan, address: [10.1.1.2, "fd00:1::2"]}
  - {container: "netns:<db>", network: lan, address: 10.1.1.3}
"""
PORT = "$(ip -br link | grep -o '^dw[^ @]*' | head -1)"
SOON = 20.0
"""Long for what takes a tenth of a second, short for what the next look at the whole (an hour later) would mend."""


@pytest.fixture
def world(netns: Callable[[str], str], tmp_path: Path) -> World:
    built = build_world(netns, tmp_path)
    built.uplink()
    return built


@pytest.fixture
def agent(world: World) -> Iterator[AgentProcess]:
    with AgentProcess(world, world.write(SITE), "--resync", "3600") as running:
        yield running


@pytest.mark.parametrize(
    "damage",
    [
        "ip link del dev br0",
        f"ip link del dev {PORT}",
        f"ip link set dev {PORT} nomaster",
        f"ip link set dev {PORT} down",
        f"ip link set dev {PORT} mtu 1300",
        "ip link set dev br0 down",
        "ip link set dev br0 address 02:00:00:00:00:77",
        "ip address del 10.1.1.1/24 dev br0",
        "ip -6 address del fd00:1::1/64 dev br0",
        "ip address flush dev br0",
        "nft flush ruleset",
        "nft delete table inet ductwork",
        "nft flush set bridge ductwork own4",
        "sysctl -qw net.ipv4.conf.br0.forwarding=0",
    ],
)
def test_what_is_removed_comes_back(world: World, agent: AgentProcess, damage: str) -> None:
    """By events alone."""
    before = world.snapshot()
    sh(world.host, "sh", "-ec", damage)
    assert until(lambda: not list(differences(before, world.snapshot())), SOON), agent.log()
    assert agent.said("mended")
    same(before, world.snapshot())
    assert world.ping("web", "10.1.1.3")


def test_what_nobody_tells_of_is_found_in_time(world: World) -> None:
    """Inside a container nothing of ours listens, which would keep its namespace alive."""
    with AgentProcess(world, world.write(SITE), "--resync", "1") as agent:
        before = world.snapshot()
        sh(world.names["web"], "ip", "address", "flush", "dev", "eth1")
        assert until(lambda: not list(differences(before, world.snapshot())), SOON), agent.log()


def test_a_container_that_starts_is_plugged_in(world: World, agent: AgentProcess) -> None:
    """Again and again, with the MAC that it had."""
    macs = set()
    for _ in range(3):
        macs.add(json.loads(sh(world.names["web"], "ip", "-j", "link", "show", "dev", "eth1"))[0]["address"])
        world.kill("web")
        world.container("web")
        assert until(lambda: ping(world.host, "10.1.1.2") and ping(world.host, "fd00:1::2"), SOON), agent.log()
        assert world.ping("db", "10.1.1.2")
    assert len(macs) == 1
    assert until(lambda: bool(agent.said("plugged in")), SOON)  # told after it answers; on a busy machine a look may be first


def test_a_tunnels_underlay_need_not_be_named(world: World) -> None:
    """The NIC that holds the host's address tells the MTU, and is not looked at for one container."""
    tunnel = "{driver: vxlan, vni: 42, subnet: 10.2.2.0/24, host_addresses: {alpha: 10.2.2.251}}"
    text = f"hosts: {{alpha: {{address: 192.0.2.1/24}}}}\nnetworks: {{pods: {tunnel}}}\nattachments:\n"
    text += '  - {container: "netns:<web>", host: alpha, network: pods, address: 10.2.2.2}\n'
    with AgentProcess(world, world.write(text), "--resync", "3600", "--host", "alpha") as agent:
        world.kill("web")
        world.container("web")
        assert until(lambda: ping(world.host, "10.2.2.2"), SOON), agent.log()
        assert "mtu 1450" in sh(world.names["web"], "ip", "link", "show", "dev", "eth1")
        assert until(lambda: agent.said("plugged in") != [], 2), agent.log()


def test_what_was_attached_by_hand_is_plugged_in(world: World, agent: AgentProcess) -> None:
    world.container("guest")
    request = AttachRequest("netns:" + world.names["guest"], "lan")
    world.engine(lambda engine: engine.attach(request))
    [address] = json.loads(sh(world.names["guest"], "ip", "-j", "-4", "address", "show", "dev", "eth1"))
    world.kill("guest")
    world.container("guest")
    assert until(lambda: ping(world.host, address["addr_info"][0]["local"]), SOON), agent.log()


def test_undo_is_about_what_a_person_did(world: World) -> None:
    """Not about what the agent has mended since."""
    before = world.snapshot()
    path = world.write(SITE)
    world.cli("apply", path)
    with AgentProcess(world, path, "--resync", "3600") as agent:
        sh(world.host, "ip", "link", "del", "dev", "br0")
        assert until(lambda: agent.said("mended") != [], SOON)
    world.cli("undo")
    same(before, world.snapshot())


def test_a_stop_leaves_everything(world: World) -> None:
    path = world.write(SITE)
    with AgentProcess(world, path):
        before = world.snapshot()
    same(before, world.snapshot())
    assert world.ping("web", "10.1.1.3")
    assert "0 changes" in (done := world.cli("apply", path).out) or "nothing" in done


def test_a_changed_file_is_applied(world: World, agent: AgentProcess) -> None:
    """One with mistakes is not, and says so; however it is written."""
    world.write(SITE.replace("10.1.1.3", "10.1.1.33"))
    assert until(lambda: ping(world.host, "10.1.1.33"), SOON), agent.log()
    assert not world.ping("web", "10.1.1.3")
    broken = world.write(SITE.replace("driver: bridge", "driver: brigde"))
    assert until(lambda: agent.said("is not heeded") != [], SOON)
    assert ping(world.host, "10.1.1.33")
    other = broken.with_suffix(".new")
    other.write_text(world.fill(SITE))
    other.rename(broken)
    assert until(lambda: ping(world.host, "10.1.1.3"), SOON), agent.log()


def test_others_things_are_left_alone(world: World, agent: AgentProcess) -> None:
    sh(world.host, "ip", "link", "add", "name", "theirs", "type", "bridge")
    sh(world.host, "ip", "address", "add", "172.20.0.1/24", "dev", "theirs")
    sh(world.host, "nft", "add", "table", "inet", "theirs")
    sh(world.host, "ip", "link", "del", "dev", "br0")
    assert until(lambda: world.ping("web", "10.1.1.3"), SOON), agent.log()
    assert "172.20.0.1" in sh(world.host, "ip", "address", "show", "dev", "theirs")
    assert "theirs" in sh(world.host, "nft", "list", "tables")


def test_no_endless_fight(world: World, agent: AgentProcess) -> None:
    """Somebody who removes the same thing again and again is told of, and has it removed most of the time."""

    def remove(until_said: str, seconds: float) -> int:
        times, deadline = 0, time.monotonic() + seconds
        while time.monotonic() < deadline and not (until_said and agent.said(until_said)):
            if "10.1.1.1/24" in sh(world.host, "ip", "address", "show", "dev", "br0"):
                sh(world.host, "ip", "address", "del", "10.1.1.1/24", "dev", "br0")
                times += 1
            time.sleep(0.02)
        return times

    remove("again and again", 60)
    assert agent.said("again and again")
    assert remove("", 4) <= 4
    assert until(lambda: ping(world.host, "10.1.1.2")), "it is not given up"


def test_killed_at_any_time_nothing_is_missing_after_the_next_start(world: World) -> None:
    """While containers come and go."""
    path = world.write(SITE)
    with AgentProcess(world, path):
        settled = unmarked(world.snapshot())
    for moment in (0, 0.01, 0.03):
        with AgentProcess(world, path) as agent:
            world.kill("web")
            world.container("web")
            time.sleep(moment)
            agent.kill()
        with AgentProcess(world, path) as agent:
            until(lambda: settled == unmarked(world.snapshot()), SOON)
            same(settled, unmarked(world.snapshot()))


def unmarked(value: Any) -> Any:
    """A snapshot less what differs where a container was made anew: its cookie in the mark, and its number."""
    if isinstance(value, dict):
        return {key: unmarked(its) for key, its in value.items() if key not in ("ifalias", "link_netnsid")}
    return [unmarked(its) for its in value] if isinstance(value, list) else value


def test_it_waits_without_doing_anything(world: World, agent: AgentProcess) -> None:
    """Nobody's events are its own: idle, it takes no time. (On a busy machine a tick more is charged to it now and then.)"""
    time.sleep(1)

    def is_idle() -> bool:
        before = ticks(agent.pid)
        time.sleep(3)
        return ticks(agent.pid) - before <= 3  # of 300

    assert any(is_idle() for _ in range(3))


def ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_bad_words_are_refused(world: World) -> None:
    done = world.cli("agent", "--site", world.directory / "none.yaml", code=None)
    assert done.code == 2 and "none.yaml" in done.err


# what would end it


def test_a_kernel_that_refuses_does_not_end_it(world: World, agent: AgentProcess) -> None:
    """What the journal meets is no `DuctworkError`; here a directory in the place of its lock."""
    (lock,) = world.run_directory.rglob("lock")
    lock.rename(lock.with_name("away"))
    lock.mkdir()
    world.kill("web")
    world.container("web")
    assert until(lambda: agent.said("Is a directory") != []), agent.log()
    lock.rmdir()
    assert until(lambda: world.ping("db", "10.1.1.2")), agent.log()


def test_systemd_is_told_while_a_person_changes_something(world: World) -> None:
    """A container that starts waits for its turn, for as long as somebody else has the journal's lock."""
    world.container("guest")
    with listening() as (address, told):
        env = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"}
        with AgentProcess(world, world.write(SITE), "--resync", "3600", env=env) as agent:
            (lock,) = world.run_directory.rglob("lock")
            with lock.open() as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                with world.start("attach", f"netns:{world.names['guest']}", "lan", "--address", "10.1.1.9") as attaching:
                    time.sleep(3)  # it has the turn
                    world.kill("web")
                    world.container("web")
                    time.sleep(2)  # the loop has heard, and wants the turn
                    before = told.count(b"WATCHDOG=1")
                    assert until(lambda: told.count(b"WATCHDOG=1") > before + 5), agent.log()
                    assert attaching.poll() is None
                    fcntl.flock(file, fcntl.LOCK_UN)
                    assert attaching.wait(SOON) == 0
            assert until(lambda: world.ping("db", "10.1.1.2")), agent.log()


@contextmanager
def listening() -> Iterator[tuple[str, list[bytes]]]:
    """(a socket as systemd's, what it is told)."""
    told: list[bytes] = []
    with tempfile.TemporaryDirectory(prefix="dwn-") as short, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"{short}/notify")

        def listen() -> None:
            while text := systemd.recv(1000):
                told.append(text)

        thread = threading.Thread(target=listen)
        thread.start()
        try:
            yield f"{short}/notify", told
        finally:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
                last.sendto(b"", f"{short}/notify")
            thread.join()
