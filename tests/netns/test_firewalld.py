"""Beside a real firewalld: what it stops is named, and passes with what is said; published ports pass at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ping, sh
from firewalld_host import FirewalldHost, missing
from test_firewalls import SITE, Scene

from talk import ask, served

pytestmark = pytest.mark.netns

PORTS = 'ports: [{host: one, listen: 8088, to: "netns:<a>:80"}]\n'
DEVICES = ("dw-red", "dw-blue", "dw-pods", "br0")


def test_firewalld_comes_reloads_and_goes(netns: Callable[[str], str], tmp_path: Path) -> None:
    lacking = missing()
    if lacking and os.environ.get("CI") != "true":
        pytest.skip(lacking)
    assert not lacking
    scene = Scene(netns, tmp_path, "nft", SITE + PORTS)
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
        [note] = scene.apply()
        assert "inet firewalld, chain filter_FORWARD" in note and "--permanent --zone=trusted --add-interface=DEVICE" in note
        firewalld.cmd("--permanent", "--zone=trusted", *(f"--add-interface={device}" for device in DEVICES))
        firewalld.cmd("--permanent", "--add-port=4789/udp")
        firewalld.cmd("--reload")
        assert scene.lost() == ["to a LAN: fd16:1::9"], "its IPv6_rpfilter: the host has no IPv6 address on that LAN"
        assert ports() == expected
        assert scene.apply() == []
        assert sh(one.host, "nft", "-s", "list", "table", "inet", "ductwork") == ours
    assert scene.lost() == []
