"""What the agent has given up, and that it does all of its work without; what hostile containers cannot make it do."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from agent_process import AgentProcess
from conftest import ping, sh, until
from host import World, build_world, same
from lan import Lan, streams

from ductwork.agent.privileges import KEPT

pytestmark = pytest.mark.netns

MASK = sum(1 << number for number in KEPT.values())
SITE = """
networks:
  lan: {driver: bridge, bridge: br0, uplink: nic1, subnet: 192.168.1.0/24}
  alone: {driver: bridge, bridge: br1, subnets: [10.1.1.0/24, "fd00:1::/64"]}
attachments:
  - {container: "netns:<web>", network: lan, address: 192.168.1.50}
  - {container: "netns:<db>", network: alone, address: [10.1.1.3, "fd00:1::3"], rate: {egress: 100mbit}}
"""


@pytest.fixture
def world(netns: Callable[[str], str], tmp_path: Path) -> World:
    """A host with a LAN, where another machine is, and containers."""
    made = build_world(netns, tmp_path)
    made.uplink()
    lan = Lan(netns)
    lan.plug_in(made.host, "nic1")
    made.names["other"] = lan.machine("other", "192.168.1.9/24")
    return made


def statuses(pid: int) -> Iterator[dict[str, str]]:
    """/proc/PID/status of each of its threads."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        lines = (task / "status").read_text().splitlines()
        yield {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_it_has_given_up_what_it_does_not_need(world: World) -> None:
    """Each thread has, for good, and what they start has no more; all of the work is done: a NIC taken over, addresses asked
    for, rules, drift."""
    with AgentProcess(world, world.write(SITE), "--resync", "3600") as agent:
        assert until(lambda: len(list(statuses(agent.pid))) > 1), "the thread that looks"
        for status in statuses(agent.pid):
            assert status["NoNewPrivs"] == "1"
            assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")} == {MASK}, status
            assert {int(status[name], 16) for name in ("CapInh", "CapAmb")} == {0}
        assert ping(world.names["other"], "192.168.1.50")
        sh(world.host, "nft", "flush", "ruleset")
        sh(world.host, "ip", "link", "del", "dev", "br1")
        assert until(lambda: ping(world.names["db"], "192.0.2.2")), agent.log()
        world.kill("web")
        world.container("web")
        assert until(lambda: ping(world.names["other"], "192.168.1.50")), agent.log()


def test_it_still_asks_a_lan(world: World) -> None:
    taken = world.write(SITE.replace("192.168.1.50", "192.168.1.9"))
    with AgentProcess(world, taken, "--resync", "3600") as agent:
        assert agent.said("192.168.1.9"), agent.log()
        assert not sh(world.names["web"], "ip", "-br", "link", "show", "type", "veth")


def test_another_agent_takes_over_in_place(world: World) -> None:
    """An upgrade: one stops, the next starts. Nothing is touched, so that no connection so much as stumbles."""
    path = world.write(SITE)
    with AgentProcess(world, path, "--resync", "3600"):
        pass
    assert until(lambda: "tentative" not in sh(world.host, "ip", "address"))
    time.sleep(2)  # what became of carriers is told a second late (net/core/link_watch.c), and more on a busy machine
    before = world.snapshot()
    monitor = subprocess.Popen(
        ["ip", "netns", "exec", world.host, "ip", "monitor", "link", "address", "route", "rule"],
        stdout=subprocess.PIPE,
        text=True,
    )
    with monitor, streams(world.names["other"], world.names["web"], "192.168.1.9") as found:
        for _ in range(2):
            with AgentProcess(world, path, "--resync", "3600") as agent:
                assert not agent.said("mended")
        monitor.terminate()
        told, _ = monitor.communicate()
    [stream] = found
    assert not stream.error and stream.beats > 20, stream
    assert "dw" not in told and "br0" not in told, told
    same(before, world.snapshot())


def test_what_a_container_mounts_leads_nowhere(world: World, tmp_path: Path) -> None:
    """A process in it that sees symbolic links in place of /proc/sys and /etc: the host's kernel is asked about a namespace, by
    nobody's paths but the host's."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "disable_ipv6").write_text("untouched")
    script = (
        "mount -t tmpfs none /mnt && mkdir -p /mnt/net/ipv6/conf/eth1 /mnt/net/ipv4/conf/eth1"
        f" && for n in disable_ipv6 accept_ra autoconf; do ln -s {victim}/disable_ipv6 /mnt/net/ipv6/conf/eth1/$n; done"
        f" && mount --bind /mnt /proc/sys && mount -t tmpfs own /run && ln -s {victim} /run/netns && exec sleep 3600"
    )
    argv = ["ip", "netns", "exec", world.names["db"], "unshare", "--mount", "--propagation", "private"]
    with subprocess.Popen([*argv, "sh", "-c", script]) as hostile:
        try:
            assert until(lambda: os.path.exists(f"/proc/{hostile.pid}/root/proc/sys/net/ipv6/conf/eth1/accept_ra"))
            text = SITE.replace("netns:<db>", f"pid:{hostile.pid}")
            with AgentProcess(world, world.write(text), "--resync", "3600"):
                assert ping(world.names["db"], "192.0.2.2")
                assert sh(world.names["db"], "cat", "/proc/sys/net/ipv6/conf/eth1/accept_ra").strip() == "0"
        finally:
            hostile.kill()
    assert (victim / "disable_ipv6").read_text() == "untouched"
