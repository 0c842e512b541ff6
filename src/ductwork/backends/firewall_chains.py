"""What other people's packet filters have: their base chains, in nftables and in iptables-legacy, and what a rule says.

Invariant: nothing is changed; what cannot be read is not there. Rules of `iptables` that are nftables' are read there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ductwork.backends.nftables import TABLE
from ductwork.backends.program import run
from ductwork.errors import MissingToolError

_HOOKS = ("prerouting", "forward", "input")
_VERSIONS = {"ip": (4,), "ip6": (6,)}
_LEGACY = {"iptables-legacy": Path("/proc/net/ip_tables_names"), "ip6tables-legacy": Path("/proc/net/ip6_tables_names")}
_LEGACY_CHAINS = (("raw", "PREROUTING"), ("filter", "FORWARD"), ("filter", "INPUT"))
_NOISE = re.compile(
    r'comment "[^"]*"|/\*.*?\*/|counter( packets \d+ bytes \d+)?(?!\S)|log( prefix "[^"]*"| level \w+| flags \w+| group \d+)*|'
    r'-m comment --comment ("[^"]*"|\S+)'
)
_NFT_VERDICT = re.compile(r'(?:^|\s)(?:(accept|return)|(drop|reject\b.*|xt target "REJECT")|(?:jump|goto) (\S+))$')
_LEGACY_VERDICT = re.compile(r"(?:^|\s)-[jg] (?:(ACCEPT|RETURN)|((?:DROP|REJECT)\b.*)|(\S+))$")


@dataclass(frozen=True, slots=True)
class Chain:
    """`where`: as a person calls it; `rules`: as they are printed. Of a base chain: `policy`, `priority`, `hook`, the IP
    `versions` that it sees, and `source`: nft's family and table, or the program."""

    where: str
    name: str
    rules: Sequence[str]
    policy: str = ""
    priority: int = 0
    hook: str = ""
    versions: Sequence[int] = (4, 6)
    source: Sequence[str] = ()


def parsed(rule: str) -> tuple[str, str, str]:
    """(condition, verdict, the chain that it goes to)."""
    plain = " ".join(_NOISE.sub("", rule).split())
    match = _NFT_VERDICT.search(plain) or _LEGACY_VERDICT.search(plain)
    if match is None:
        return plain, "", ""
    passes, stops, target = match.groups()
    verdict = passes.lower() if passes else "drop" if stops else "jump"
    return plain[: match.start()].strip(), verdict, target or ""


def matches(pattern: str, device: str) -> bool:
    """`dw*` is nft's wildcard, `dw+` that of iptables."""
    return pattern == device or (pattern[-1:] in ("*", "+") and device.startswith(pattern[:-1]))


def bases() -> Iterator[tuple[Chain, Mapping[str, Chain]]]:
    """Every base chain of others' in the hooks, and all chains of its table."""
    yield from _nft()
    yield from _legacy()


def _nft() -> Iterator[tuple[Chain, Mapping[str, Chain]]]:
    listing = _output(["nft", "-j", "list", "chains"])
    entries = [entry["chain"] for entry in json.loads(listing)["nftables"] if "chain" in entry] if listing else []
    found = [
        c for c in entries if c.get("hook") in _HOOKS and c["family"] in ("ip", "ip6", "inet", "bridge") and c["table"] != TABLE
    ]
    for family, table in dict.fromkeys((base["family"], base["table"]) for base in found):
        chains = dict(_chains_in(_output(["nft", "-s", "-t", "list", "table", family, table]), f"nftables {family} {table}"))
        for base in found:
            if (base["family"], base["table"]) == (family, table) and base["name"] in chains:
                yield (
                    replace(
                        chains[base["name"]],
                        policy=base.get("policy", ""),
                        priority=base["prio"],
                        hook=base["hook"],
                        versions=_VERSIONS.get(family, (4, 6)),
                        source=(family, table),
                    ),
                    chains,
                )


def _chains_in(listing: str, where: str) -> Iterator[tuple[str, Chain]]:
    """Of `nft list table`: chains and their rules are indented by one and two tabulators; whatever is deeper goes on."""
    name, rules = "", list[str]()
    for line in listing.splitlines():
        if re.match(r"\tchain \S+ \{", line):
            name, rules = line.split()[1], []
        elif line == "\t}" and name:
            yield name, Chain(f"{where}, chain {name}", name, tuple(rules))
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
                    versions = (6,) if program.startswith("ip6") else (4,)
                    yield replace(chains[base], hook=base.lower(), versions=versions, source=(program,)), chains


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
    return {name: Chain(f"{where}, chain {name}", name, its, policies.get(name, "")) for name, its in rules.items()}


def _output(argv: Sequence[str]) -> str:
    """What a program prints; nothing where it is not installed or fails."""
    try:
        result = run(argv)
    except MissingToolError:
        return ""
    return "" if result.code else result.out
