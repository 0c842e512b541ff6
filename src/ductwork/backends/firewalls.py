"""Firewalls of other people that stop what our networks forward, or what comes to the host for them: which rule does, and what
would let our packets pass.

Invariant: nothing is changed. Of what is forwarded, a rule counts where it drops whatever comes, or names a device or a subnet
of ours; what it asks for besides is not understood, and then it is none of our business (`ct state invalid drop`). A chain that
accepts our packet mark, or something that it names as ours, is taken to have been thought about.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network

from ductwork.backends.firewall_arrivals import forged, shut_out
from ductwork.backends.firewall_chains import Chain, bases, matches, parsed
from ductwork.resources import IPNetwork
from ductwork.resources.iptables_rule import ACCEPT_MARK
from ductwork.resources.passing import Passing

_OUR_PRIORITY = -10
"""Of the chain that marks our packets; what comes earlier sees no mark."""
_DEEPEST = 16
_ADDRESS = re.compile(r"[0-9a-fA-F.:]*[.:][0-9a-fA-F.:]*(?:/\d+)?")
_DEVICE = re.compile(r'"([^"]+)"|-[io] (\S+)')
_MARK = re.compile(rf"{ACCEPT_MARK:#x}|{ACCEPT_MARK:#010x}")


@dataclass(frozen=True, slots=True)
class _Ours:
    devices: Sequence[str]
    subnets: Sequence[IPNetwork]

    def named_in(self, condition: str) -> bool:
        named = [one or other for one, other in _DEVICE.findall(condition)]
        if any(matches(pattern, device) for pattern in named for device in self.devices):
            return True
        prefixes = (_prefix(word) for word in _ADDRESS.findall(condition))
        return any(p.version == s.version and p.overlaps(s) for p in prefixes if p for s in self.subnets)


def obstacles(passing: Passing) -> list[str]:
    """A line for each rule, or policy, that stops packets of ours."""
    found: dict[str, None] = {}
    for base, chains in bases() if passing.devices or passing.tunnels else ():
        found |= dict.fromkeys((*_not_forwarded(base, chains, passing), *shut_out(base, chains, passing.tunnels)))
        found |= dict.fromkeys(forged(base, passing.guests))
    return list(found)


def _not_forwarded(base: Chain, chains: Mapping[str, Chain], passing: Passing) -> list[str]:
    if not passing.devices or base.hook == "input":
        return []
    walk = _Walk(_Ours(passing.devices, passing.subnets), chains)
    if not walk.settles(base) and base.policy == "drop":
        walk.found.append("policy drop")
    mend = _mend(base) if base.priority > _OUR_PRIORITY else ""
    way_out = f"; it passes with: {mend}" if mend else ""
    told = "stops packets of ductwork's networks, and no rule of ours can overrule it"
    return [f"{base.where}: `{rule}` {told}{way_out}" for rule in walk.found]


@dataclass(slots=True)
class _Walk:
    """One base chain, with the other chains of its table."""

    ours: _Ours
    chains: Mapping[str, Chain]
    found: list[str] = field(default_factory=list)

    def settles(self, chain: Chain, depth: int = 0) -> bool:
        """Whether what becomes of our packets is settled when the chain is at its end."""
        for rule in chain.rules:
            condition, verdict, target = parsed(rule)
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


def _mend(base: Chain) -> str:
    """The command by which it would let our packets pass."""
    if base.hook != "forward" or base.source[0] == "bridge":
        return ""
    if len(base.source) == 1:
        return _by_iptables(base.source[0])
    family, table = base.source
    if table == "firewalld":
        return "firewall-cmd --permanent --zone=trusted --add-interface=DEVICE, for each of ours, and firewall-cmd --reload"
    if (table, base.name) == ("filter", "FORWARD") and family in ("ip", "ip6"):
        return _by_iptables("iptables" if family == "ip" else "ip6tables")
    return f"nft insert rule {family} {table} {base.name} meta mark and {ACCEPT_MARK:#x} == {ACCEPT_MARK:#x} accept"


def _by_iptables(program: str) -> str:
    return f"{program} -I FORWARD -m mark --mark {ACCEPT_MARK:#x}/{ACCEPT_MARK:#x} -j ACCEPT"


def _prefix(word: str) -> IPNetwork | None:
    try:
        return ip_network(word, strict=False)
    except ValueError:
        return None
