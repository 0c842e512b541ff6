"""Firewalls of other people that stop what our networks forward: which rule does, and what would let our packets pass.

Invariant: nothing is changed. A rule counts where it drops whatever comes, or names a device or a subnet of ours; what it asks
for besides is not understood, and then it is none of our business (`ct state invalid drop`). A chain that accepts our packet
mark, or something that it names as ours, is taken to have been thought about. Rules of `iptables` that are nftables' are read
there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from pathlib import Path

from ductwork.backends.nftables import TABLE
from ductwork.backends.program import run
from ductwork.errors import MissingToolError
from ductwork.resources import IPNetwork
from ductwork.resources.iptables_rule import ACCEPT_MARK

_HOOKS = ("prerouting", "forward")
_OUR_PRIORITY = -10
"""Of the chain that marks our packets; what comes earlier sees no mark."""
_DEEPEST = 16
_LEGACY = {"iptables-legacy": Path("/proc/net/ip_tables_names"), "ip6tables-legacy": Path("/proc/net/ip6_tables_names")}
_LEGACY_CHAINS = (("raw", "PREROUTING"), ("filter", "FORWARD"))
_NOISE = re.compile(
    r'comment "[^"]*"|/\*.*?\*/|counter packets \d+ bytes \d+|log( prefix "[^"]*"| level \w+| flags \w+| group \d+)*|'
    r'-m comment --comment ("[^"]*"|\S+)'
)
_NFT_VERDICT = re.compile(r'(?:^|\s)(?:(accept|return)|(drop|reject\b.*|xt target "REJECT")|(?:jump|goto) (\S+))$')
_LEGACY_VERDICT = re.compile(r"(?:^|\s)-[jg] (?:(ACCEPT|RETURN)|((?:DROP|REJECT)\b.*)|(\S+))$")
_ADDRESS = re.compile(r"[0-9a-fA-F.:]*[.:][0-9a-fA-F.:]*(?:/\d+)?")
_DEVICE = re.compile(r'"([^"]+)"|-[io] (\S+)')
_MARK = re.compile(rf"{ACCEPT_MARK:#x}|{ACCEPT_MARK:#010x}")


@dataclass(frozen=True, slots=True)
class Chain:
    """`where`: as a person calls it; `rules`: as they are printed. `policy`, `priority`: of a base chain; `mend`: the command
    by which it would let our packets pass."""

    where: str
    rules: Sequence[str]
    policy: str = ""
    priority: int = 0
    mend: str = ""


@dataclass(frozen=True, slots=True)
class _Ours:
    devices: Sequence[str]
    subnets: Sequence[IPNetwork]

    def named_in(self, condition: str) -> bool:
        named = [one or other for one, other in _DEVICE.findall(condition)]
        if any(_matches(pattern, device) for pattern in named for device in self.devices):
            return True
        prefixes = (_prefix(word) for word in _ADDRESS.findall(condition))
        return any(p.version == s.version and p.overlaps(s) for p in prefixes if p for s in self.subnets)


def obstacles(devices: Sequence[str], subnets: Sequence[IPNetwork]) -> list[str]:
    """A line for each rule, or policy, that stops packets of ours. `devices`: those of the host that they come and go by."""
    ours = _Ours(devices, subnets)
    found: dict[str, None] = {}
    for base, chains in (*_nft(), *_legacy()) if devices else ():
        walk = _Walk(ours, chains)
        if not walk.settles(base) and base.policy == "drop":
            walk.found.append("policy drop")
        for rule in walk.found:
            mend = base.mend if base.priority > _OUR_PRIORITY else ""
            way_out = f"; it passes with: {mend}" if mend else ""
            found[
                f"{base.where}: `{rule}` stops packets of ductwork's networks, and no rule of ours can overrule it{way_out}"
            ] = None
    return list(found)


@dataclass(slots=True)
class _Walk:
    """One base chain, with the other chains of its table."""

    ours: _Ours
    chains: Mapping[str, Chain]
    found: list[str] = field(default_factory=list)

    def settles(self, chain: Chain, depth: int = 0) -> bool:
        """Whether what becomes of our packets is settled when the chain is at its end."""
        for rule in chain.rules:
            condition, verdict, target = _parsed(rule)
            concerns = not condition or self.ours.named_in(condition)
            if verdict == "accept" and (concerns or _MARK.search(condition)):
                return True
            if verdict == "drop" and concerns:
                self.found.append(rule)
                if not condition:
                    return True
            if verdict == "return" and not condition:
                return False
            inner = self.chains.get(target)
            if inner and concerns and depth < _DEEPEST and self.settles(inner, depth + 1):
                return True
        return False


def _parsed(rule: str) -> tuple[str, str, str]:
    """(condition, verdict, the chain that it goes to)."""
    plain = " ".join(_NOISE.sub("", rule).split())
    match = _NFT_VERDICT.search(plain) or _LEGACY_VERDICT.search(plain)
    if match is None:
        return plain, "", ""
    passes, stops, target = match.groups()
    verdict = passes.lower() if passes else "drop" if stops else "jump"
    return plain[: match.start()].strip(), verdict, target or ""


def _nft() -> Iterator[tuple[Chain, Mapping[str, Chain]]]:
    """Every base chain of others' in the hooks, and all chains of its table."""
    listing = _output(["nft", "-j", "list", "chains"])
    entries = [entry["chain"] for entry in json.loads(listing)["nftables"] if "chain" in entry] if listing else []
    bases = [
        c for c in entries if c.get("hook") in _HOOKS and c["family"] in ("ip", "ip6", "inet", "bridge") and c["table"] != TABLE
    ]
    for family, table in dict.fromkeys((base["family"], base["table"]) for base in bases):
        chains = dict(_chains_in(_output(["nft", "-t", "list", "table", family, table]), f"nftables {family} {table}"))
        for base in bases:
            if (base["family"], base["table"]) == (family, table) and base["name"] in chains:
                rules = chains[base["name"]].rules
                where, mend = (
                    f"nftables {family} {table}, chain {base['name']}",
                    _mend(family, table, base["name"], base["hook"]),
                )
                yield Chain(where, rules, base.get("policy", ""), base["prio"], mend), chains


def _mend(family: str, table: str, chain: str, hook: str) -> str:
    if family == "bridge" or hook != "forward":
        return ""
    if table == "firewalld":
        return "firewall-cmd --permanent --zone=trusted --add-interface=DEVICE, for each of ours, and firewall-cmd --reload"
    if (table, chain) == ("filter", "FORWARD") and family in ("ip", "ip6"):
        return _by_iptables("iptables" if family == "ip" else "ip6tables")
    return f"nft insert rule {family} {table} {chain} meta mark and {ACCEPT_MARK:#x} == {ACCEPT_MARK:#x} accept"


def _by_iptables(program: str) -> str:
    return f"{program} -I FORWARD -m mark --mark {ACCEPT_MARK:#x}/{ACCEPT_MARK:#x} -j ACCEPT"


def _chains_in(listing: str, where: str) -> Iterator[tuple[str, Chain]]:
    """Of `nft list table`: chains and their rules are indented by one and two tabulators; whatever is deeper goes on."""
    name, rules = "", list[str]()
    for line in listing.splitlines():
        if re.match(r"\tchain \S+ \{", line):
            name, rules = line.split()[1], []
        elif line == "\t}" and name:
            yield name, Chain(f"{where}, chain {name}", tuple(rules))
            name = ""
        elif name and line.startswith("\t\t") and not re.match(r"\t\t(type \w+ hook|policy )", line):
            rules.append(line.strip())


def _legacy() -> Iterator[tuple[Chain, Mapping[str, Chain]]]:
    """Only tables that are there: asking for others makes them."""
    for program, names in _LEGACY.items():
        try:
            present = names.read_text().split()
        except OSError:
            continue
        for table, base in _LEGACY_CHAINS:
            if table in present:
                chains = _legacy_chains(_output([program, "-w", "10", "-t", table, "-S"]), f"{program} {table}")
                if base in chains:
                    mend = _by_iptables(program) if base == "FORWARD" else ""
                    yield replace(chains[base], mend=mend), chains


def _legacy_chains(listing: str, where: str) -> dict[str, Chain]:
    rules: dict[str, list[str]] = {}
    policies: dict[str, str] = {}
    for line in listing.splitlines():
        option, name, *words = line.split(" ")
        rules.setdefault(name, [])
        if option == "-P":
            policies[name] = words[0].lower()
        elif option == "-A":
            rules[name].append(" ".join(words))
    return {name: Chain(f"{where}, chain {name}", its, policies.get(name, "")) for name, its in rules.items()}


def _matches(pattern: str, device: str) -> bool:
    """`dw*` is nft's wildcard, `dw+` that of iptables."""
    return pattern == device or (pattern[-1:] in ("*", "+") and device.startswith(pattern[:-1]))


def _prefix(word: str) -> IPNetwork | None:
    try:
        return ip_network(word, strict=False)
    except ValueError:
        return None


def _output(argv: Sequence[str]) -> str:
    """What a program prints; nothing where it is not installed or fails."""
    try:
        result = run(argv)
    except MissingToolError:
        return ""
    return "" if result.code else result.out
