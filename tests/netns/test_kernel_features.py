"""What the kernel lacks, held against what `ip` can make here."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import inside, sh

from ductwork import netns as namespaces
from ductwork.backends import kernel
from ductwork.backends.kernel import missing

pytestmark = pytest.mark.netns

COMMANDS = {
    "vlan": "link add link far name it type vlan id 7",
    "macvlan": "link add link far name it type macvlan",
    "ipvlan": "link add link far name it type ipvlan",
    "vlan_filtering": "link add name it type bridge vlan_filtering 1",
    "ifb": "link add name it type ifb",
}
QUEUEING = {
    "tbf": ["qdisc add dev lo root tbf rate 1mbit burst 4kb limit 9kb"],
    "mirred": [
        "qdisc add dev lo ingress",
        "filter add dev lo parent ffff: protocol all u32 match u32 0 0 action mirred egress redirect dev lo",
    ],
}


@pytest.mark.parametrize("feature", COMMANDS)
def test_it_is_missing_where_ip_cannot_make_it(
    feature: str, netns: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ns = netns("host")
    sh(ns, "ip", "link", "add", "name", "near", "type", "veth", "peer", "name", "far")
    made = subprocess.run(["ip", "-n", ns, *COMMANDS[feature].split()], capture_output=True, check=False).returncode == 0
    monkeypatch.setattr(kernel, "_known", {})
    assert list(missing([feature])) == ([] if made else [feature])


@pytest.mark.parametrize("feature", QUEUEING)
def test_it_is_missing_where_tc_cannot_make_it(
    feature: str, netns: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ns = netns("host")
    commands = [["tc", "-n", ns, *command.split()] for command in QUEUEING[feature]]
    made = all(subprocess.run(command, capture_output=True, check=False).returncode == 0 for command in commands)
    monkeypatch.setattr(kernel, "_known", {})
    assert list(missing([feature])) == ([] if made else [feature])


def test_open_vswitch_is_there_where_its_module_is() -> None:
    assert (missing(["openvswitch"]) == {}) == Path("/sys/module/openvswitch").exists()


def test_all_at_once_and_each_by_itself_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    every = [*COMMANDS, *QUEUEING, "openvswitch"]
    monkeypatch.setattr(kernel, "_known", {})
    together = missing(every)
    assert all("kernel" in remedy for remedy in together.values())
    monkeypatch.setattr(kernel, "_known", {})
    assert {feature: remedy for each in every for feature, remedy in missing([each]).items()} == together


def test_the_callers_namespace_stays_as_it_is(netns: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "_known", {})

    def look() -> tuple[int, bool, int]:
        before = namespaces.cookie()
        return before, "macvlan" in missing(["macvlan"]), namespaces.cookie()

    ns = netns("host")
    before, _, after = inside(ns, look)
    assert before == after
    assert sh(ns, "ip", "-br", "link").split()[0] == "lo"
    assert len(sh(ns, "ip", "-br", "link").splitlines()) == 1
