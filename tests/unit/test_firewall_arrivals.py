"""Which rules stop other hosts' packets of a VXLAN for certain."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from ductwork.backends.firewall_arrivals import shut_out
from ductwork.backends.firewall_chains import Chain
from ductwork.resources.passing import Tunnel

TUNNEL = Tunnel("eth0", ip_address("10.99.0.1"), 4789, (ip_address("10.99.0.2"), ip_address("10.99.0.3")))


def told(*rules: str, policy: str = "accept", **others: tuple[str, ...]) -> list[str]:
    chains = {name: Chain(f"chain {name}", name, its) for name, its in others.items()}
    base = Chain("chain came", "came", rules, policy, hook="input", source=("inet", "guard"))
    return list(shut_out(base, chains | {"came": base}, [TUNNEL]))


DROPPED = [
    ("drop",),
    ("udp dport 4789 counter drop",),
    ("udp dport { 53, 4000-5000 } counter packets 0 bytes 0 drop",),
    ("ip saddr 10.99.0.0/24 drop",),
    ('iifname "eth*" ct state new log prefix "x" drop',),
    ('iifname != "lo" reject with icmpx admin-prohibited',),
    ("ct state { established, related } accept", "tcp dport 22 accept", "ip6 saddr ::1 accept", "drop"),
    ("ct status dnat accept", "meta mark 0x1 drop", "drop"),
    ("ct state vmap { invalid : drop, established : accept, related : accept }", "drop"),
    ("udp dport != 4790 drop",),
    ("jump more",),
    ("goto more", "accept"),
    ("ip saddr 10.99.0.7 goto nowhere", "drop"),
    ("-p tcp -m tcp --dport 22 -j ACCEPT", "-p udp -m udp --dport 4000:5000 -j DROP"),
    (
        "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "! -i eth0 -j ACCEPT",
        "-j REJECT --reject-with icmp-x",
    ),
    ("-p udp -m multiport --dports 53,4789 -j DROP",),
]
SILENT = [
    ("udp dport 4789 accept", "drop"),
    ("udp dport @open accept", "drop"),
    ("meta mark 0x1 accept", "drop"),
    ("ip saddr 10.99.0.2 drop",),
    ("ip saddr 10.99.0.2 accept", "drop"),
    ("udp dport vmap { 4789 : accept }", "drop"),
    ("ct state vmap { new : jump more, established : accept }", "drop"),
    ("iifname . ip saddr @friends accept", "drop"),
    ("limit rate 5/second accept", "drop"),
    ("meta mark 0x1 return", "drop"),
    ("meta mark 0x1 goto nowhere", "drop"),
    ("queue to 0", "drop"),
    ("-j NFQUEUE --queue-num 0", "-j DROP"),
    ("-m set --match-set friends src -j ACCEPT", "-j DROP"),
    ("ct state invalid drop",),
    ("meta nfproto ipv6 drop",),
    ('iifname "eth7" drop',),
    ("tcp dport != 22 drop",),
    ("udp dport != 4789 drop",),
    ("return", "drop"),
]


@pytest.mark.parametrize("rules", DROPPED)
def test_what_is_dropped_is_told(rules: tuple[str, ...]) -> None:
    [line] = told(*rules, more=("tcp dport 22 accept", "drop"), nowhere=("return",))
    assert "UDP port 4789" in line and "nft insert rule inet guard came udp dport 4789 accept" in line


@pytest.mark.parametrize("rules", SILENT)
def test_what_may_pass_is_not_told(rules: tuple[str, ...]) -> None:
    assert told(*rules, more=("accept",), nowhere=("counter packets 0 bytes 0",)) == []


def test_a_policy() -> None:
    assert "`policy drop`" in told("tcp dport 22 accept", policy="drop")[0]
    assert told("udp dport 4789 accept", policy="drop") == []
