"""The one rule by which our packets pass the FORWARD chain of iptables, whose policy drops where Docker is or an administrator
wants it so: in Docker's own chain, and where that is not called, at the end of FORWARD."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from ductwork.resources.base import HOST, Argv, Key, Owner, Place, Resource

CHAIN = "DOCKER-USER"
FORWARD = "FORWARD"
COMMENT = "ductwork"
ACCEPT_MARK = 0x10000000
"""The packet-mark bit that our nft chain sets on what it accepts, and this rule looks for."""


@dataclass(frozen=True, slots=True)
class IptablesRule:
    """Accepts our packet mark in Docker's DOCKER-USER chain, which is made where Docker has not started yet; and at the end of
    FORWARD, behind whatever rules others have there, where its policy drops and it does not call that chain.

    `family`: `ip` or `ip6`. `passes`: whether it does; False: it is there, and packets do not reach it.
    """

    family: str
    passes: bool = True
    owner: Owner | None = field(default=None, compare=False)
    netns: str = HOST

    replace: ClassVar[frozenset[str]] = frozenset()
    collected: ClassVar[bool] = True

    @property
    def key(self) -> Key:
        return Key("iptables", self.netns, (self.family,))

    @property
    def program(self) -> str:
        return "iptables" if self.family == "ip" else "ip6tables"

    @property
    def rule(self) -> Argv:
        mark = f"{ACCEPT_MARK:#x}/{ACCEPT_MARK:#x}"
        return ["-m", "mark", "--mark", mark, "-m", "comment", "--comment", COMMENT, "-j", "ACCEPT"]

    def requires(self) -> tuple[Key, ...]:
        return ()

    def create_argv(self, place: Place) -> list[Argv]:
        """The chain is Docker's or ours; a rule that is there already is not put there twice."""
        run, rule = f"{self.program} -w", " ".join([CHAIN, *self.rule])
        last = " ".join([FORWARD, *self.rule])
        made = f"{run} -N {CHAIN} 2>/dev/null; {run} -C {rule} 2>/dev/null || {run} -I {rule}"
        called = f"{run} -C {FORWARD} -j {CHAIN} 2>/dev/null || {run} -C {last} 2>/dev/null"
        drops = f"{run} -S {FORWARD} 2>/dev/null | grep -qx -- '-P {FORWARD} DROP'"
        return [["sh", "-c", f"{made}; if {drops}; then {called} || {run} -A {last}; fi"]]

    def delete_argv(self, place: Place) -> list[Argv]:
        """The chain goes too, unless it holds another rule or is jumped to: then iptables refuses. After it the table, where
        iptables-nft has made it and left it empty."""
        run, rule = f"{self.program} -w", " ".join([CHAIN, *self.rule])
        table = f"table {self.family} filter"
        empty = f"{self.program} --version | grep -q nf_tables && ! nft list {table} | grep -q '^[[:space:]]'"
        drop = f"{run} -X {CHAIN} && {empty} && nft delete {table}"
        last = " ".join([FORWARD, *self.rule])
        end = f"if {run} -S {FORWARD} 2>/dev/null | grep -q -- '--comment {COMMENT} '; then {run} -D {last}; fi"
        return [["sh", "-c", f"{end}; {run} -D {rule} && {{ {drop} || true; }} 2>/dev/null"]]

    def update_argv(self, before: Resource, place: Place) -> list[Argv]:
        return self.create_argv(place)
