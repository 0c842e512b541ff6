"""What comes to the host for our networks, and firewalls of other people that stop it: other hosts' packets of a VXLAN, and
frames that a bridge hands to the packet filter, where it asks whether the host has a route to the sender.

Invariant: only what is certain is told. A rule is met, not met, or not understood; where one that is not understood may let the
packet pass, nothing is said of what follows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import IPv6Network, ip_network
from pathlib import Path

from ductwork.backends.firewall_chains import Chain, matches, parsed
from ductwork.resources import IPAddress
from ductwork.resources.passing import Guest, Tunnel

_DEEPEST = 16
_PASSES = ("", "")
"""It does, or may."""
_VALUE = r'(\{[^}]*\}|"[^"]*"|\S+)'
_NFT = re.compile(
    r"(?<!\S)(?P<key>iifname|iif|(?:udp|th) dport|(?:tcp|sctp|dccp|icmp|icmpv6) \w+|meta l4proto|ip protocol|ip6 nexthdr|"
    rf"meta nfproto|ip6? [sd]addr|ct stat(?:e|us)) (?P<not>!= )?(?P<value>{_VALUE})"
)
_IPTABLES = re.compile(
    r"(?<!\S)(?P<not>! )?(?P<key>-[pisd]|--dports?|--ctstate|--state) (?P<value>\S+)|-m (?:udp|multiport|conntrack|state)(?!\S)"
)
_KEYS = {
    "-p": "protocol",
    "meta l4proto": "protocol",
    "ip protocol": "protocol",
    "ip6 nexthdr": "protocol",
    "-i": "device",
    "iif": "device",
    "iifname": "device",
    "--dport": "port",
    "--dports": "port",
    "udp dport": "port",
    "th dport": "port",
    "--ctstate": "state",
    "--state": "state",
    "ct state": "state",
    "ct status": "status",
    "meta nfproto": "version",
    "-s": "source",
    "ip saddr": "source",
    "ip6 saddr": "source",
    "-d": "destination",
    "ip daddr": "destination",
    "ip6 daddr": "destination",
}
_OTHER_STATES = re.compile(r"ct state vmap \{(?![^}]*(new|untracked))[^}]*\}$")
_FORGED = re.compile(r"fib saddr \. (mark \. )?iif oif (missing|0)$|-m rpfilter (--validmark )?--invert$")
_BRIDGED = Path("/proc/sys/net/bridge/bridge-nf-call-ip6tables")
_ROUTES = Path("/proc/net/ipv6_route")


def shut_out(base: Chain, chains: Mapping[str, Chain], tunnels: Sequence[Tunnel]) -> Iterator[str]:
    """A line where other hosts' packets of a VXLAN are dropped."""
    for tunnel in tunnels:
        if base.hook not in ("prerouting", "input") or base.source[0] == "bridge" or tunnel.local.version not in base.versions:
            continue
        fate = _fate(base, chains, tunnel)
        if fate is None and base.policy == "drop":
            fate = (base.name, "policy drop")
        if fate and fate != _PASSES:
            name, rule = fate
            mend = _mend(base, chains, name, tunnel)
            what = f"stops packets of ductwork's networks that come by UDP port {tunnel.port}"
            way_out = f"; it passes with: {mend}" if mend else ""
            yield f"{base.where}: `{rule}` {what}, and no rule of ours can overrule it{way_out}"


def forged(base: Chain, guests: Sequence[Guest]) -> Iterator[str]:
    """A line for each bridge whose frames are taken for forged, by a rule of the base chain's own."""
    if base.hook != "prerouting" or 6 not in base.versions or base.source[0] == "bridge" or not _is_set(_BRIDGED):
        return
    stopping = [rule for rule in base.rules if _is_reverse_path(rule)]
    routes = _routes() if stopping else []
    lost = {guest.bridge: None for guest in guests if not _has_route(guest, routes)} if stopping else {}
    for rule in stopping[:1]:
        for bridge in lost:
            what = f"stops packets of ductwork's networks, IPv6 between ports of {bridge}, where the host has no IPv6 route"
            way_out = "with: an address there (`host_addresses`)"
            if base.source[-1] == "firewalld":
                way_out += ", or IPv6_rpfilter=no in firewalld.conf"
            yield f"{base.where}: `{rule}` {what}, and no rule of ours can overrule it; it passes {way_out}"


def _fate(chain: Chain, chains: Mapping[str, Chain], tunnel: Tunnel, depth: int = 0) -> tuple[str, str] | None:
    """The chain and its rule that drop the packet, `_PASSES`, or None where the chain ends without a verdict."""
    for rule in chain.rules:
        condition, verdict, target = parsed(rule)
        met = _met(condition, tunnel)
        if met is False or _OTHER_STATES.search(condition):
            continue
        if verdict == "accept" or (not verdict and re.search(r"\bvmap\b|queue", condition, re.IGNORECASE)):
            return _PASSES
        if verdict == "return":
            return None if met else _PASSES
        if verdict == "drop" and met:
            return chain.name, rule
        if "QUEUE" in target or depth == _DEEPEST:
            return _PASSES
        inner = chains.get(target)
        fate = _fate(inner, chains, tunnel, depth + 1) if inner else None
        if fate == _PASSES or (fate and met):
            return fate
        if inner and not fate and re.search(r"\bgoto |-g ", rule):
            return None if met else _PASSES
    return None


def _met(condition: str, tunnel: Tunnel) -> bool | None:
    """Whether a packet of the tunnel meets it; None: not understood."""
    is_understood = True
    for phrase in (*_NFT.finditer(condition), *_IPTABLES.finditer(condition)):
        if not phrase["key"]:
            continue
        if phrase["key"].startswith("ip") and phrase["key"].split()[0] != ("ip" if tunnel.local.version == 4 else "ip6"):
            return False
        if phrase["key"] not in _KEYS:
            return False  # another protocol's field
        met = _CHECKS[_KEYS[phrase["key"]]](_values(phrase["value"]), tunnel)
        if met is None:
            is_understood = False
        elif met == bool(phrase["not"]):
            return False
    rest = _IPTABLES.sub("", _NFT.sub("", condition)).strip()
    return True if is_understood and not rest else None


def _values(text: str) -> list[str]:
    return [word.strip().strip('"') for word in text.strip("{} ").split(",")]


def _one_of(*meant: str, never: Sequence[str] = ()) -> Callable[[list[str], Tunnel], bool | None]:
    """`never`: what else is understood, and is not so."""

    def check(values: list[str], tunnel: Tunnel) -> bool | None:
        if any(value.lower() in meant for value in values):
            return True
        return False if all(value.lower() in never for value in values) else None

    return check


def _device(values: list[str], tunnel: Tunnel) -> bool | None:
    if any(value.startswith(("@", "vmap", ".")) for value in values):
        return None
    if not tunnel.underlay:
        return False if values == ["lo"] else None
    return any(matches(value, tunnel.underlay) for value in values)


def _port(values: list[str], tunnel: Tunnel) -> bool | None:
    ranges = [re.fullmatch(r"(\d+)(?:[-:](\d+))?", value) for value in values]
    if not all(ranges):
        return None
    return any(int(r[1]) <= tunnel.port <= int(r[2] or r[1]) for r in ranges if r)


def _version(values: list[str], tunnel: Tunnel) -> bool | None:
    return values == [f"ipv{tunnel.local.version}"]


def _within(values: list[str], addresses: Sequence[IPAddress]) -> bool | None:
    """True: all of them; False: none."""
    try:
        networks = [ip_network(value, strict=False) for value in values]
    except ValueError:
        return None
    inside = [any(address in network for network in networks) for address in addresses]
    return None if not inside or any(inside) != all(inside) else inside[0]


_PROTOCOLS = ("tcp", "icmp", "ipv6-icmp", "icmpv6", "sctp", "dccp", "esp", "ah", "gre", "igmp", "ospf", "vrrp", "2", "6", "1")
_CHECKS: Mapping[str, Callable[[list[str], Tunnel], bool | None]] = {
    "protocol": _one_of("udp", "17", never=_PROTOCOLS),
    "device": _device,
    "port": _port,
    "state": _one_of("new", never=("established", "related", "invalid")),
    "status": _one_of(never=("dnat", "snat")),
    "version": _version,
    "source": lambda values, tunnel: _within(values, tunnel.peers),
    "destination": lambda values, tunnel: _within(values, [tunnel.local]),
}


def _mend(base: Chain, chains: Mapping[str, Chain], chain: str, tunnel: Tunnel) -> str:
    """The command by which the tunnel's packets would pass."""
    if base.hook != "input":
        return ""
    if any(name.endswith("INPUT_ZONES") for name in chains):
        zone = re.fullmatch(r"(?:filter_)?IN_([^_]+)", chain)
        of_zone = f" --zone={zone[1]}" if zone else ""
        return f"firewall-cmd --permanent{of_zone} --add-port={tunnel.port}/udp, and firewall-cmd --reload"
    if len(base.source) == 2 and (base.source[1], base.name) != ("filter", "INPUT"):
        return f"nft insert rule {' '.join(base.source)} {base.name} udp dport {tunnel.port} accept"
    program = base.source[0] if len(base.source) == 1 else "iptables" if tunnel.local.version == 4 else "ip6tables"
    return f"{program} -I INPUT -p udp --dport {tunnel.port} -j ACCEPT"


def _is_reverse_path(rule: str) -> bool:
    condition, verdict, _ = parsed(rule)
    return verdict == "drop" and bool(_FORGED.fullmatch(condition.removeprefix("meta nfproto ipv6 ")))


def _is_set(path: Path) -> bool:
    try:
        return path.read_text().strip() != "0"
    except OSError:
        return False


def _routes() -> list[tuple[str, IPv6Network]]:
    """The host's (device, prefix)."""
    lines = [line.split() for line in _ROUTES.read_text().splitlines()] if _ROUTES.exists() else []
    return [(words[9], IPv6Network((bytes.fromhex(words[0]), int(words[1], 16)))) for words in lines]


def _has_route(guest: Guest, routes: Sequence[tuple[str, IPv6Network]]) -> bool:
    return any(device == guest.bridge and guest.address in network for device, network in routes)
