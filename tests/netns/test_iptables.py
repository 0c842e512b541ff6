"""Our rule in Docker's chain, with iptables-nft and iptables-legacy."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest
from conftest import inside, sh

from ductwork.backends.iptables import IptablesBackend
from ductwork.resources import HOST, Create, Delete, IptablesRule, Operation

pytestmark = pytest.mark.netns

RULES = [IptablesRule("ip"), IptablesRule("ip6")]
LINE = "-A DOCKER-USER -m mark --mark 0x10000000/0x10000000 -m comment --comment ductwork -j ACCEPT"


class Host:
    def __init__(self, ns: str, variant: str, gate: Callable[[str], None] = lambda _: None) -> None:
        self.ns = ns
        self.programs = {"ip": f"iptables-{variant}", "ip6": f"ip6tables-{variant}"}
        self.backend = IptablesBackend(gate, self.programs)

    def run(self, family: str, *words: str, check: bool = True) -> list[str]:
        return sh(self.ns, self.programs[family], *words, check=check).splitlines()

    def apply(self, operations: list[Operation]) -> None:
        assert [o.error for o in inside(self.ns, lambda: self.backend.apply(HOST, operations))] == [""] * len(operations)

    def create(self) -> None:
        self.apply([Create(rule) for rule in RULES])

    def delete(self) -> None:
        self.apply([Delete(rule) for rule in RULES])

    def read(self) -> list[str]:
        found = inside(self.ns, lambda: self.backend.read(HOST, None))
        assert all(r.owner for r in found)
        return [r.family for r in found if isinstance(r, IptablesRule) and r.passes]

    def ruleset(self) -> str:
        return sh(self.ns, "nft", "list", "ruleset")


@pytest.fixture(params=["nft", "legacy"])
def host(netns: Callable[[str], str], request: pytest.FixtureRequest) -> Host:
    if not shutil.which(f"iptables-{request.param}"):
        pytest.skip(f"no iptables-{request.param}")
    return Host(netns("host"), request.param)


def test_create_twice_and_delete_twice_leave_nothing(host: Host) -> None:
    assert host.read() == []
    assert host.ruleset() == "", "reading makes nothing"
    host.create()
    host.create()
    assert host.read() == ["ip", "ip6"]
    for family in ("ip", "ip6"):
        assert host.run(family, "-S", "DOCKER-USER") == ["-N DOCKER-USER", LINE]
    host.delete()
    host.delete()
    assert host.read() == []
    assert host.ruleset() == ""
    assert "-N DOCKER-USER" not in host.run("ip", "-S")


@pytest.mark.parametrize("docker", ["first", "last"])
def test_docker_keeps_its_chain_and_its_jump(host: Host, docker: str) -> None:
    def start() -> None:
        host.run("ip", "-N", "DOCKER-USER", check=False)
        host.run("ip", "-A", "DOCKER-USER", "-j", "RETURN")
        host.run("ip", "-I", "FORWARD", "-j", "DOCKER-USER")

    if docker == "first":
        start()
        before = host.run("ip", "-S")
    host.create()
    if docker == "last":
        start()
    assert host.read() == ["ip", "ip6"]
    assert host.run("ip", "-S", "DOCKER-USER")[1] == LINE, "ahead of the RETURN"
    host.delete()
    assert host.run("ip", "-S", "DOCKER-USER") == ["-N DOCKER-USER", "-A DOCKER-USER -j RETURN"]
    if docker == "first":
        assert host.run("ip", "-S") == before


def test_a_chain_with_a_jump_stays_though_it_is_empty(host: Host) -> None:
    host.create()
    host.run("ip", "-I", "FORWARD", "-j", "DOCKER-USER")
    host.delete()
    assert "-A FORWARD -j DOCKER-USER" in host.run("ip", "-S")


def test_somebody_elses_rules_stay(host: Host) -> None:
    host.run("ip", "-N", "DOCKER-USER")
    host.run("ip", "-A", "DOCKER-USER", "-s", "192.0.2.0/24", "-j", "DROP")
    host.run("ip", "-N", "OTHER")
    before = host.run("ip", "-S")
    host.create()
    host.delete()
    assert host.run("ip", "-S") == before


def test_a_rule_behind_the_return_does_not_count(host: Host) -> None:
    host.create()
    host.run("ip", "-I", "DOCKER-USER", "-j", "RETURN")
    assert host.read() == ["ip6"]
    host.create()
    assert host.read() == ["ip", "ip6"]
    host.delete()
    assert host.run("ip", "-S", "DOCKER-USER") == ["-N DOCKER-USER", "-A DOCKER-USER -j RETURN"], "both copies gone"


def test_a_table_that_was_there_before_us_stays(netns: Callable[[str], str]) -> None:
    host = Host(netns("host"), "nft")
    sh(
        host.ns,
        "nft",
        "add table ip filter; add chain ip filter theirs; add table ip6 filter; add set ip6 filter s { type mark; }",
    )
    before = host.ruleset()
    host.create()
    host.delete()
    assert host.ruleset() == before


def test_legacy_leaves_the_tables_of_nft_alone(netns: Callable[[str], str]) -> None:
    host = Host(netns("host"), "legacy")
    sh(host.ns, "nft", "add table ip filter")
    host.create()
    host.delete()
    assert host.ruleset() == "table ip filter {\n}\n"


def test_containers_have_none(netns: Callable[[str], str]) -> None:
    host = Host(netns("host"), "nft")
    host.create()
    assert inside(host.ns, lambda: host.backend.read("web", None)) == []


def test_printed_commands_do_the_same(netns: Callable[[str], str]) -> None:
    ns, backend = netns("host"), IptablesBackend()
    for _ in range(2):
        for argv in [argv for rule in RULES for argv in rule.create_argv(str)]:
            sh(ns, *argv)
    assert len(inside(ns, lambda: backend.read(HOST, None))) == 2
    assert sh(ns, "iptables", "-S", "DOCKER-USER").splitlines() == ["-N DOCKER-USER", LINE]
    for argv in [argv for rule in RULES for argv in rule.delete_argv(str)]:
        sh(ns, *argv)
    assert "DOCKER-USER" not in sh(ns, "iptables", "-S")


def test_without_the_program_there_is_nothing(netns: Callable[[str], str]) -> None:
    backend = IptablesBackend(programs={"ip": "no-such-iptables", "ip6": "no-such-ip6tables"})
    assert inside(netns("host"), lambda: backend.read(HOST, None)) == []
    assert backend.apply(HOST, [Delete(RULES[0])])[0].error == ""


def test_gate_stands_around_each_change(netns: Callable[[str], str]) -> None:
    calls: list[str] = []
    host = Host(netns("host"), "nft", calls.append)
    host.read()
    assert calls == []
    host.create()
    assert calls == ["before", "after"] * 4, "a chain and a rule for each family"
