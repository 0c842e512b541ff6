"""Beside a real firewalld: what it stops is named, and passes with what is said; published ports pass at once."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from agent_process import AgentProcess
from conftest import ping, sh, until
from firewalld_host import FirewalldHost, missing
from test_firewalls import SITE, Scene

from talk import ask, served

pytestmark = pytest.mark.netns

PORTS = 'ports: [{host: one, listen: 8088, to: "netns:<a>:80"}]\n'
DEVICES = ("dw-red", "dw-blue", "dw-pods", "br0")


@pytest.fixture
def scene(netns: Callable[[str], str], tmp_path: Path) -> Scene:
    lacking = missing()
    if lacking and os.environ.get("CI") != "true":
        pytest.skip(lacking)
    assert not lacking
    return Scene(netns, tmp_path, "nft", SITE + PORTS)


def test_firewalld_comes_reloads_and_goes(scene: Scene, tmp_path: Path) -> None:
    one, outside = scene.one, scene.machines[0]

    def ports() -> list[str]:
        asked = [ask(outside, address, 8088, "tcp") for address in ("192.168.1.1", "fd01::1")]
        return [*asked, ask(one.host, "127.0.0.1", 8088, "tcp"), ask(scene.names["e"], "192.168.1.1", 8088, "tcp")]

    expected = ["192.168.1.9", "fd01::9", "10.1.1.254", "10.1.2.2"]
    scene.apply()
    ours = sh(one.host, "nft", "-s", "list", "table", "inet", "ductwork")
    with served((scene.names["a"], 80)), FirewalldHost(one.host, tmp_path) as firewalld:
        assert not ping(scene.names["a"], "10.1.2.2") and not ping(scene.names["a"], "192.168.1.9")
        assert ports() == expected
        stopped, shut_out, forged = sorted(scene.apply())
        assert "inet firewalld, chain filter_FORWARD" in stopped
        assert "--permanent --zone=trusted --add-interface=DEVICE" in stopped
        assert "inet firewalld, chain filter_INPUT" in shut_out and "UDP port 4789" in shut_out
        assert "--permanent --zone=public --add-port=4789/udp" in shut_out
        assert "inet firewalld, chain filter_PREROUTING" in forged and "ports of br0" in forged and "host_addresses" in forged
        firewalld.cmd("--permanent", "--zone=trusted", *(f"--add-interface={device}" for device in DEVICES))
        firewalld.cmd("--permanent", "--add-port=4789/udp")
        firewalld.cmd("--reload")
        assert scene.lost() == ["to a LAN: fd16:1::9"], "its IPv6_rpfilter: the host has no IPv6 address on that LAN"
        assert ports() == expected
        assert scene.apply() == [forged]
        assert sh(one.host, "nft", "-s", "list", "table", "inet", "ductwork") == ours
        sh(one.host, "ip", "-6", "route", "add", "fd16:1::/64", "dev", "br0")
        assert scene.lost() == [] and scene.apply() == []
    assert scene.lost() == []


@pytest.mark.parametrize("backend", ["nftables", "iptables"])
def test_the_agent_beside_firewalld(scene: Scene, tmp_path: Path, backend: str) -> None:
    """It starts, reloads and stops: what the agent keeps is not touched, and nothing is made again and again."""
    one, outside = scene.one, scene.machines[0]
    scene.apply()
    ours = sh(one.host, "nft", "-s", "list", "table", "inet", "ductwork")

    def works() -> bool:
        return [ask(outside, a, 8088, "tcp") for a in ("192.168.1.1", "fd01::1")] == ["192.168.1.9", "fd01::9"]

    path = one.write(scene.site)
    with AgentProcess(one, path, "--host", "one") as agent, served((scene.names["a"], 80)):
        with FirewalldHost(one.host, tmp_path, backend) as firewalld:
            assert until(works)
            firewalld.cmd("--permanent", "--zone=trusted", *(f"--add-interface={device}" for device in DEVICES))
            firewalld.cmd("--permanent", "--add-port=4789/udp")
            for _ in range(2):
                firewalld.cmd("--reload")
                assert until(works)
                assert scene.lost() in ([], ["to a LAN: fd16:1::9"])
            assert sh(one.host, "nft", "-s", "list", "table", "inet", "ductwork") == ours
            time.sleep(7)
            before = agent.log()
            time.sleep(3)
            assert agent.log() == before and len(agent.said("mended")) <= 3, "nobody changes anything any more"
        assert until(works) and until(lambda: not scene.lost())
        assert sh(one.host, "nft", "-s", "list", "table", "inet", "ductwork") == ours
