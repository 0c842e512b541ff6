"""The packet filter's constant part: what our nftables tables consist of, as text and as digests.

Invariant: nothing in here depends on a site. Sets and maps have the meaning that stands beside them; whoever wants a
packet treated adds an element (`nat.py`) and never a rule. Traffic that neither comes from nor goes to a bridge of ours is
neither accepted, marked nor dropped, but for one thing: a host whose forwarding we switched on does not become a router
between its own devices. Written for nft 1.0.6 and kernel 6.1 (no `destroy`, no `icmpv6 taddr`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from ductwork.resources import NftTable, Owner
from ductwork.resources.iptables_rule import ACCEPT_MARK

TABLE = "ductwork"


@dataclass(frozen=True, slots=True)
class _Chain:
    name: str
    hook: str
    rules: tuple[str, ...]


_INET_SETS = (
    # bridges of ours that are IP networks, none with an uplink (through that one the host itself reaches the world)
    ("set", "bridges", "type ifname;"),
    # (in, out): new connections pass. A bridge with itself: its own frames, which br_netfilter sends through `forward`
    ("set", "flows", "type ifname . ifname;"),
    # bridges that nothing is forwarded into or out of
    ("set", "internal", "type ifname;"),
    # bridges of translated networks: new connections from inside only
    ("set", "guarded", "type ifname;"),
    # (subnet, bridge): what stays in the network is not translated
    ("set", "local4", "type ipv4_addr . ifname; flags interval;"),
    ("set", "local6", "type ipv6_addr . ifname; flags interval;"),
    # subnet: leaves with the address of the device it leaves by, or with the one given here
    ("set", "masquerade4", "type ipv4_addr; flags interval;"),
    ("set", "masquerade6", "type ipv6_addr; flags interval;"),
    ("map", "snat4", "type ipv4_addr : ipv4_addr; flags interval;"),
    ("map", "snat6", "type ipv6_addr : ipv6_addr; flags interval;"),
    # foreign devices that forward only because of us; by family, since a host may be a router for one of them
    ("set", "lent4", "type ifname;"),
    ("set", "lent6", "type ifname;"),
    # (device, itself) of lent bridges: frames between their ports are none of our business
    ("set", "lent_bridges", "type ifname . ifname;"),
)

_FORWARD = (
    # Nothing can tell a bridged frame from a routed packet here but that it leaves by the bridge it came from.
    "iifname . oifname @lent_bridges accept",
    "meta nfproto ipv4 iifname @lent4 oifname @lent4 drop",
    "meta nfproto ipv6 iifname @lent6 oifname @lent6 drop",
    # Before any look at conntrack: of a connection bridged through a VXLAN it may have seen one half, and call it invalid.
    "iifname . oifname @flows goto allow",
    # Before the established ones, so that a network that becomes internal loses its connections.
    "iifname @internal drop",
    "oifname @internal drop",
    # Replies, and the ICMP errors that path MTU discovery lives on. (What leaves for abroad passes below in any state.)
    "oifname @bridges ct state established,related goto allow",
    "iifname @bridges oifname @bridges drop",
    "oifname @guarded drop",
    # What conntrack cannot place is not translated either, and would leave with an address that leads nowhere.
    "iifname @guarded ct state invalid drop",
    "iifname @bridges goto allow",
    "oifname @bridges goto allow",
)

_INET = (
    # Accepting ends our chain alone; the mark tells Docker's, which comes later and drops by policy.
    _Chain("allow", "", (f"meta mark set meta mark or {ACCEPT_MARK:#x} accept",)),
    _Chain("forward", "type filter hook forward priority filter - 10; policy accept;", _FORWARD),
    # Ahead of everybody's srcnat: at the same priority the order would be that of registration, so of chance.
    _Chain(
        "postrouting",
        "type nat hook postrouting priority srcnat - 10; policy accept;",
        (
            "ip saddr . oifname @local4 return",
            "ip6 saddr . oifname @local6 return",
            "snat ip to ip saddr map @snat4",
            "snat ip6 to ip6 saddr map @snat6",
            "ip saddr @masquerade4 masquerade",
            "ip6 saddr @masquerade6 masquerade",
        ),
    ),
)

_BRIDGE_SETS = (
    # (VXLAN device, gateway address that each host's own bridge holds)
    ("set", "gateway4", "type ifname . ipv4_addr;"),
    # The same, the address as a number: nft lets raw payload be compared with nothing else.
    ("set", "gateway6", "typeof iifname . @nh,384,128;"),
)


def _gateway_rules(device: str) -> tuple[str, ...]:
    """Drop ARP and neighbour discovery for and from a gateway on `device` (RFC 826; RFC 4861, sections 4.3 and 4.4).

    The target address of a solicitation or advertisement follows 40 octets of IPv6 and 8 of ICMPv6 header.
    """
    discovery = "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert }"
    return (
        f"{device} . arp saddr ip @gateway4 drop",
        f"{device} . arp daddr ip @gateway4 drop",
        f"{discovery} {device} . @nh,64,128 @gateway6 drop",
        f"{discovery} {device} . @nh,384,128 @gateway6 drop",
    )


_BRIDGE = (
    # Before the bridge learns: a gateway's MAC must not be seen behind the tunnel.
    _Chain("prerouting", "type filter hook prerouting priority dstnat; policy accept;", _gateway_rules("iifname")),
    # Forwarded frames and the host's own alike pass here, once per port they leave by.
    _Chain("postrouting", "type filter hook postrouting priority srcnat; policy accept;", _gateway_rules("oifname")),
)


def inet_table(owner: Owner) -> NftTable:
    """Forwarding and address translation of all networks of ours."""
    return _table("inet", _INET_SETS, _INET, owner)


def bridge_table(owner: Owner) -> NftTable:
    """What keeps the gateway address that every host's bridge holds out of a VXLAN tunnel."""
    return _table("bridge", _BRIDGE_SETS, _BRIDGE, owner)


def _table(family: str, sets: tuple[tuple[str, str, str], ...], chains: tuple[_Chain, ...], owner: Owner) -> NftTable:
    """`flush table` empties every chain, those of other versions too, and leaves the sets' elements where they are; `add`
    is content with what exists. One run of nft is one transaction, so that no packet sees a chain half filled."""
    table = f"{family} {TABLE}"
    lines = [f"add table {table}", f"flush table {table}"]
    lines += [f"add {word} {table} {name} {{ {spec} }}" for word, name, spec in sets]
    lines += [f"add chain {table} {chain.name}" + (f" {{ {chain.hook} }}" if chain.hook else "") for chain in chains]
    for chain in chains:
        lines += [f'add rule {table} {chain.name} {rule} comment "{_digest(rule)}"' for rule in chain.rules]
    digests = tuple(sorted((chain.name, tuple(map(_digest, chain.rules))) for chain in chains))
    return NftTable(family, TABLE, digests, script="\n".join(lines), owner=owner)


def _digest(rule: str) -> str:
    return hashlib.blake2b(rule.encode(), digest_size=5).hexdigest()
