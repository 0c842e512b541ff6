"""What else names a NIC: policy rules, the packet filter's rules, and sockets bound to it. Each as a line for a person.

Invariant: what the programs print is shown, not understood; a name counts where it stands for a device. Our own table and
rules are left out.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from ductwork.backends.nftables import TABLES
from ductwork.backends.program import run
from ductwork.errors import MissingToolError
from ductwork.resources import PROTOCOL

_FILTERS = ("iptables-save", "ip6tables-save", "iptables-legacy-save", "ip6tables-legacy-save")
_BY_IPTABLES = "(nf_tables)"
"""In the head of what iptables-save prints, where its rules are nftables'."""
_DEVICE_OPTIONS = frozenset({"-i", "-o", "--physdev-in", "--physdev-out"})
_QUOTED = re.compile(r'"([^"]*)"')
_COMMENT = re.compile(r'comment "[^"]*"')
_PROCESS = re.compile(r'\("([^"]*)",pid=(\d+)')
_BOUND = re.compile(r"%([^%\s:]+):\S+$")
_LOCAL = 4
"""The column of `ss` that tells where a socket is bound."""
_PACKET_SOCKETS = frozenset({"p_raw", "p_dgr"})

Line = tuple[str, str]
"""(the device that is named, perhaps with a wildcard; what a person reads)."""


def mentions(nics: Sequence[str]) -> Mapping[str, list[str]]:
    """NIC → the lines that name it. Each program is run once, whatever the number of NICs: some 50 ms, not for each look."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for lines in (_policy_rules, _filter_rules, _sockets):
        for device, line in lines():
            for nic in nics:
                if _matches(device, nic) and line not in found[nic]:
                    found[nic].append(line)
    return found


def _matches(device: str, nic: str) -> bool:
    """`eth*` is nft's wildcard, `eth+` that of iptables; alone they mean any device, and name none."""
    return device == nic or (len(device) > 1 and device[-1] in "*+" and nic.startswith(device[:-1]))


def _policy_rules() -> Iterator[Line]:
    for option, family in (("-4", ""), ("-6", "IPv6 ")):
        for line in _output(["ip", option, "rule", "show"]):
            words = line.split()
            pairs = list(pairwise(words))
            if ("proto", str(PROTOCOL)) not in pairs:
                told = f"{family}policy rule {' '.join(words)}"
                yield from ((device, told) for what, device in pairs if what in ("iif", "oif"))


def _filter_rules() -> Iterator[Line]:
    """Rules that iptables keeps in nftables are shown in its own words, not a second time in nft's."""
    shown: set[tuple[str, str]] = set()
    for program in _FILTERS:
        lines = _output([program])
        family = "ip6" if program.startswith("ip6") else "ip"
        if lines and _BY_IPTABLES in lines[0]:
            shown.update((family, line[1:]) for line in lines if line.startswith("*"))
        yield from _iptables_rules(lines, "ip6tables" if family == "ip6" else "iptables")
    yield from _nft_rules(shown.union(TABLES))


def _iptables_rules(lines: Sequence[str], program: str) -> Iterator[Line]:
    table = ""
    for line in lines:
        if line.startswith("*"):
            table = line[1:]
        named = (device for option, device in pairwise(line.split()) if option in _DEVICE_OPTIONS)
        yield from ((device, f"{program} {table}: {line}") for device in named)


def _nft_rules(left_out: set[tuple[str, str]]) -> Iterator[Line]:
    """A device's name stands in quotation marks, but in a flow table's list before nft 1.0.7."""
    table = inner = ""
    for line in _output(["nft", "list", "ruleset"]):
        words = line.split()
        if line.startswith("table "):
            table, inner = " ".join(words[1:3]), ""
        elif words[-1:] == ["{"] and line.startswith("\t") and not line.startswith("\t\t"):
            inner = " ".join(words[:-1])
        if tuple(table.split()) in left_out:
            continue
        devices = _QUOTED.findall(_COMMENT.sub("", line))
        if "devices" in words:
            devices += (word.strip(",;") for word in words[words.index("devices") :])
        for device in devices:
            yield device, f"nftables {table}, {inner}: {' '.join(words)}"


def _sockets() -> Iterator[Line]:
    for line in _output(["ss", "-H", "-a", "-n", "-p", "-t", "-u", "-w", "-0"]):
        words = line.split()
        if len(words) <= _LOCAL:
            continue
        local = words[_LOCAL]
        bound = _BOUND.search(local)
        device = bound[1] if bound else local.rpartition(":")[2] if words[0] in _PACKET_SOCKETS else ""
        if device:
            who = ", ".join(f"{name} (pid {pid})" for name, pid in dict.fromkeys(_PROCESS.findall(line)))
            kind = "packet" if words[0] in _PACKET_SOCKETS else words[0]
            yield device, f"{kind} socket {local}" + (f" of {who}" if who else "")


def _output(argv: Sequence[str]) -> list[str]:
    """The lines that a program prints; none where it is not installed or fails."""
    try:
        result = run(argv)
    except MissingToolError:
        return []
    return [line for line in result.out.splitlines() if line.strip()] if not result.code else []
