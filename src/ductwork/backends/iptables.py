"""Our one rule in Docker's DOCKER-USER chain, and at the end of FORWARD where that does not call it and drops by policy: by way
of the programs `iptables` and `ip6tables`.

Invariant: no rule and no chain but these is ever changed, and what others say in FORWARD goes before. Docker keeps a
DOCKER-USER chain that it finds and jumps to it, so it does not matter who of us comes first. Works with iptables-nft and with
iptables-legacy.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ductwork.backends.program import Result, run
from ductwork.errors import MissingToolError
from ductwork.resources import HOST, Delete, IptablesRule, Operation, Outcome, Resource
from ductwork.resources.base import SHARED
from ductwork.resources.iptables_rule import CHAIN, FORWARD

PROGRAMS = {"ip": "iptables", "ip6": "ip6tables"}
_MOST_COPIES = 16
"""Of our rule, where somebody restored saved rules on top of the present ones."""


class IptablesBackend:
    """Reads and changes IptablesRule. `programs`: family → the program to run; of other families nothing is read."""

    kinds: frozenset[type] = frozenset({IptablesRule})

    def __init__(self, gate: Callable[[str], None] = lambda _: None, programs: Mapping[str, str] = PROGRAMS) -> None:
        self._gate = gate
        self.programs = programs

    def read(self, netns: str, links: frozenset[str] | None) -> list[Resource]:
        """The rules that are there; none where the program is not installed."""
        if netns != HOST:
            return []
        return [rule for family in self.programs if (rule := self._found(IptablesRule(family, owner=SHARED)))]

    def apply(self, netns: str, operations: Sequence[Operation]) -> list[Outcome]:
        return [Outcome(operation, self._apply(operation)) for operation in operations]

    def _apply(self, operation: Operation) -> str:
        rule = operation.target
        assert isinstance(rule, IptablesRule)
        return self._delete(rule) if isinstance(operation, Delete) else self._create(rule)

    def _found(self, rule: IptablesRule) -> IptablesRule | None:
        try:
            lines = self._listing(rule, CHAIN), self._listing(rule, FORWARD)
        except MissingToolError:
            return None
        own = [["-A", chain, *rule.rule] in its for chain, its in zip((CHAIN, FORWARD), lines, strict=True)]
        return replace(rule, passes=self._is_reached(rule, lines[0]) and not _bars(rule, lines[1])) if any(own) else None

    def _program(self, rule: IptablesRule) -> str:
        return self.programs.get(rule.family, PROGRAMS[rule.family])

    def _listing(self, rule: IptablesRule, chain: str) -> list[list[str]]:
        listing = run([self._program(rule), "-w", "10", "-S", chain])
        return [shlex.split(line) for line in listing.out.splitlines()]

    @staticmethod
    def _is_reached(rule: IptablesRule, chain: Sequence[list[str]]) -> bool:
        """Docker before version 28 ends its chain with RETURN; nothing behind that counts."""
        ends = (["-A", CHAIN, *rule.rule], ["-A", CHAIN, "-j", "RETURN"])
        return next((words[-1] == "ACCEPT" for words in chain if words in ends), False)

    def _create(self, rule: IptablesRule) -> str:
        """What of it is lacking."""
        result = Result(0, "", "")
        if not self._is_reached(rule, self._listing(rule, CHAIN)):
            self._change(rule, "-N", CHAIN)  # exists already, where Docker has run
            result = self._change(rule, "-I", CHAIN, *rule.rule)
        if not result.code and _bars(rule, self._listing(rule, FORWARD)):
            result = self._change(rule, "-A", FORWARD, *rule.rule)
        return _words(result) if result.code else ""

    def _delete(self, rule: IptablesRule) -> str:
        try:
            for chain in (FORWARD, CHAIN):
                copies = self._listing(rule, chain).count(["-A", chain, *rule.rule])
                for _ in range(min(copies, _MOST_COPIES)):
                    result = self._change(rule, "-D", chain, *rule.rule)
            if self._found(rule):
                return _words(result)
        except MissingToolError:
            return ""
        # Refused where the chain holds somebody else's rule, or Docker's jump leads to it.
        if not self._change(rule, "-X", CHAIN).code:
            self._drop_empty_table(rule)
        return ""

    def _drop_empty_table(self, rule: IptablesRule) -> None:
        """iptables-nft makes the table `filter` for its first chain, and leaves it behind when the last one has gone."""
        try:
            if "nf_tables" not in run([self._program(rule), "--version"]).out:
                return
            listing = run(["nft", "-j", f"list table {rule.family} filter"])
            if listing.code or any({"metainfo", "table"}.isdisjoint(e) for e in json.loads(listing.out)["nftables"]):
                return
            self._gate("before")
            run(["nft", f"delete table {rule.family} filter"])
            self._gate("after")
        except MissingToolError:
            return  # an empty table does no harm

    def _change(self, rule: IptablesRule, *words: str) -> Result:
        self._gate("before")
        result = run([self._program(rule), "-w", "10", *words])
        self._gate("after")
        return result


def _bars(rule: IptablesRule, forward: Sequence[list[str]]) -> bool:
    """Whether FORWARD drops by policy what comes to its end, and our rule is neither there nor in a chain that it calls."""
    lets_pass = (["-A", FORWARD, "-j", CHAIN], ["-A", FORWARD, *rule.rule])
    return ["-P", FORWARD, "DROP"] in forward and not any(words in forward for words in lets_pass)


def _words(result: Result) -> str:
    """The program's complaint; it may be preceded by a warning that legacy tables are present."""
    lines = [line for line in result.err.splitlines() if line and not line.startswith("#")]
    return lines[0] if lines else f"exit code {result.code}"
