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
from ductwork.resources.ovs_guard import DEAF_TABLE

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
    # (device, itself) of isolated networks: their containers must not reach each other by way of the host either
    ("set", "isolated", "type ifname . ifname;"),
    # (subnet, device) that a router has a leg in
    ("set", "leg_nets4", "type ipv4_addr . ifname; flags interval;"),
    ("set", "leg_nets6", "type ipv6_addr . ifname; flags interval;"),
    # legs' devices
    ("set", "legs", "type ifname;"),
    # those of them that are in somebody else's LAN, and nothing but that
    ("set", "lan_legs", "type ifname;"),
    # (in, out) of legs: new connections pass
    ("set", "routed", "type ifname . ifname;"),
    # legs that what comes from another leg leaves with their address
    ("set", "masked_legs", "type ifname;"),
)

PORT_MAPS = ("ports", "ranges", "funnels")
_AT, _TO4, _TO6 = "inet_proto . inet_service", "ipv4_addr . inet_service", "ipv6_addr . inet_service"
_RANGES = "flags interval; counter;"

_PORT_SETS = (
    # (protocol, port) of whatever address of the host's → where it leads to. Counted are new connections
    ("map", "ports4", f"type {_AT} : {_TO4}; counter;"),
    ("map", "ports6", f"type {_AT} : {_TO6}; counter;"),
    # (address, protocol, port) → the same; these come first
    ("map", "ports_at4", f"type ipv4_addr . {_AT} : {_TO4}; counter;"),
    ("map", "ports_at6", f"type ipv6_addr . {_AT} : {_TO6}; counter;"),
    # (…, protocol, range) → the address whose same ports they lead to
    ("map", "ranges4", f"type {_AT} : ipv4_addr; {_RANGES}"),
    ("map", "ranges6", f"type {_AT} : ipv6_addr; {_RANGES}"),
    ("map", "ranges_at4", f"type ipv4_addr . {_AT} : ipv4_addr; {_RANGES}"),
    ("map", "ranges_at6", f"type ipv6_addr . {_AT} : ipv6_addr; {_RANGES}"),
    # (…, protocol, range) → the one port that all of them lead to
    ("map", "funnels4", f"type {_AT} : {_TO4}; {_RANGES}"),
    ("map", "funnels6", f"type {_AT} : {_TO6}; {_RANGES}"),
    ("map", "funnels_at4", f"type ipv4_addr . {_AT} : {_TO4}; {_RANGES}"),
    ("map", "funnels_at6", f"type ipv6_addr . {_AT} : {_TO6}; {_RANGES}"),
    # devices behind which there are containers with published ports
    ("set", "served", "type ifname;"),
    # devices, and bridges below them, by which no packet of the host's loopback may come in
    ("set", "no_loopback", "type ifname;"),
    # served devices that forward for the sake of the ports alone
    ("set", "closed", "type ifname;"),
    # (subnet, served device): replies do not come back through this host unless it is the source …
    ("set", "behind4", "type ipv4_addr . ifname; flags interval;"),
    ("set", "behind6", "type ipv6_addr . ifname; flags interval;"),
    # … nor do they from a single container, whose default route leads elsewhere: (address, served device)
    ("set", "elsewhere4", "type ipv4_addr . ifname;"),
    ("set", "elsewhere6", "type ipv6_addr . ifname;"),
    # … nor from a container to a neighbour: (subnet, served device)
    ("set", "beside4", "type ipv4_addr . ifname; flags interval;"),
    ("set", "beside6", "type ipv6_addr . ifname; flags interval;"),
)

_FORWARD = (
    # Before all else: what is established, too.
    "iifname . oifname @isolated drop",
    # What is published is reached through its port, from wherever; and its replies.
    "ct status dnat jump published",
    # Before any look at conntrack: of a connection bridged through a VXLAN it may have seen one half, and call it invalid.
    "iifname . oifname @flows goto allow",
    # Nothing can tell a bridged frame from a routed packet here but that it leaves by the bridge it came from.
    "iifname . oifname @lent_bridges accept",
    "ip saddr . iifname @leg_nets4 ip daddr . oifname @leg_nets4 goto routers",
    "ip6 saddr . iifname @leg_nets6 ip6 daddr . oifname @leg_nets6 goto routers",
    # By a LAN's leg may come whoever has a route: where the router refuses the LAN, nobody enters by it.
    "iifname @legs ip daddr . oifname @leg_nets4 iifname . oifname != @routed goto no_further",
    "iifname @legs ip6 daddr . oifname @leg_nets6 iifname . oifname != @routed goto no_further",
    "meta nfproto ipv4 iifname @lent4 oifname @lent4 drop",
    "meta nfproto ipv6 iifname @lent6 oifname @lent6 drop",
    "iifname @lan_legs goto no_further",
    "iifname != @bridges oifname @lan_legs goto no_further",
    "iifname @closed drop",
    "oifname @closed drop",
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

_PORTED = "meta l4proto { tcp, udp, sctp }"
"""Before any look at `th`, nft wants to know that there are ports."""

_PORTS = (
    # With route_localnet, which 127.0.0.1 needs for its ports, the kernel takes such packets from the wire too.
    _Chain(
        "loopback",
        "type filter hook prerouting priority raw; policy accept;",
        ("iifname @no_loopback ip saddr 127.0.0.0/8 drop", "iifname @no_loopback ip daddr 127.0.0.0/8 drop"),
    ),
    # The kernel cannot translate ::1: whoever listens there answers, or nobody does, at once.
    _Chain(
        "ports",
        "",
        (
            "fib daddr type != local return",
            "ip6 daddr ::1 return",
            *(f"{_PORTED} dnat ip to ip daddr . meta l4proto . th dport map @{kind}_at4" for kind in PORT_MAPS),
            *(f"{_PORTED} dnat ip6 to ip6 daddr . meta l4proto . th dport map @{kind}_at6" for kind in PORT_MAPS),
            *(f"{_PORTED} dnat ip to meta l4proto . th dport map @{kind}4" for kind in PORT_MAPS),
            *(f"{_PORTED} dnat ip6 to meta l4proto . th dport map @{kind}6" for kind in PORT_MAPS),
        ),
    ),
    # Ahead of everybody's dstnat, as below.
    # The kernel refuses 127.0.0.0/8 from the wire only behind this hook, when it would have been translated (Linux 6.18).
    _Chain(
        "ports_in",
        "type nat hook prerouting priority dstnat - 10; policy accept;",
        ("ip daddr 127.0.0.0/8 return", "jump ports"),
    ),
    _Chain("ports_out", "type nat hook output priority -110; policy accept;", ("jump ports",)),
    _Chain("published", "", ("oifname @served goto allow", "ct direction reply iifname @served goto allow")),
    # A connection to a published port keeps its source, whatever network that is in, unless replies would not come back.
    _Chain(
        "ports_source",
        "type nat hook postrouting priority srcnat - 20; policy accept;",
        ("ct status dnat oifname @served goto published_source",),
    ),
    _Chain(
        "published_source",
        "",
        (
            "ip saddr 127.0.0.0/8 masquerade",
            "ip saddr . oifname @beside4 masquerade",
            "ip6 saddr . oifname @beside6 masquerade",
            "ip daddr . oifname @behind4 masquerade",
            "ip6 daddr . oifname @behind6 masquerade",
            "ip daddr . oifname @elsewhere4 masquerade",
            "ip6 daddr . oifname @elsewhere6 masquerade",
            "snat ip to ip saddr",
            "snat ip6 to ip6 saddr",
        ),
    ),
)

_INET = (
    # Accepting ends our chain alone; the mark tells Docker's, which comes later and drops by policy.
    _Chain("allow", "", (f"meta mark set meta mark or {ACCEPT_MARK:#x} accept",)),
    # From leg to leg. A refusal is told, or every mistake would be a minute's wait.
    _Chain(
        "routers",
        "",
        (
            "oifname @masked_legs ct state invalid drop",
            "iifname . oifname @routed goto allow",
            "ct state established,related goto allow",
            "reject with icmpx admin-prohibited",
        ),
    ),
    _Chain("no_further", "", ("ct state established,related goto allow", "reject with icmpx admin-prohibited")),
    _Chain("forward", "type filter hook forward priority filter - 10; policy accept;", _FORWARD),
    # What goes from leg to leg has its own address, whatever its network does elsewhere.
    _Chain("masked", "", ("oifname @masked_legs masquerade",)),
    # Ahead of everybody's srcnat: at the same priority the order would be that of registration, so of chance.
    _Chain(
        "postrouting",
        "type nat hook postrouting priority srcnat - 10; policy accept;",
        (
            "ip saddr . oifname @local4 return",
            "ip6 saddr . oifname @local6 return",
            "ip saddr . iifname @leg_nets4 ip daddr . oifname @leg_nets4 goto masked",
            "ip6 saddr . iifname @leg_nets6 ip6 daddr . oifname @leg_nets6 goto masked",
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
    # ports of containers that may send nothing but what is their own
    ("set", "checked", "type ifname;"),
    # (port, MAC of the container behind it)
    ("set", "own_mac", "type ifname . ether_addr;"),
    # (port, MAC, address), in IPv6 as numbers
    ("set", "own4", "type ifname . ether_addr . ipv4_addr;"),
    ("set", "own6", "typeof iifname . @ll,48,48 . @nh,64,128;"),
    # checked ports behind which nobody knows the addresses of a family: their MAC alone is checked
    ("set", "any4", "type ifname;"),
    ("set", "any6", "type ifname;"),
    # ports of containers that share a LAN, or a tunnel to a router, and must not reach each other by it
    ("set", "apart", "type ifname;"),
    # what such containers have, on whatever hosts
    ("set", "peers_mac", "type ether_addr;"),
    ("set", "peers4", "type ipv4_addr;"),
    ("set", "peers6", "type ipv6_addr;"),
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


_OWN_SOURCE6 = "iifname . @ll,48,48 . @nh,64,128 @own6"
_OWN_TARGET6 = "iifname . @ll,48,48 . @th,64,128 @own6"
"""The target of a solicitation or advertisement: behind 8 octets of ICMPv6 header."""
_NO_OPTION, _ONE_OPTION = "ip6 length 24", "ip6 length 32"
"""Header and target; an option with a link-layer address: its type is in the 25th octet, its MAC from the 27th on."""

_BRIDGE = (
    # Before the bridge learns: neither a gateway's MAC behind the tunnel nor a foreign one at a container's port.
    _Chain(
        "prerouting",
        "type filter hook prerouting priority dstnat; policy accept;",
        ("iifname @apart jump apart", "iifname @checked goto frame", *_gateway_rules("iifname")),
    ),
    # The bridge keeps its own ports apart; these ways lead by another host's, and by a router that sends frames back.
    _Chain("apart", "", ("ether daddr @peers_mac drop", "ip daddr @peers4 drop", "ip6 daddr @peers6 drop")),
    # A container's port is an access port: what it tags would come out in another VLAN.
    _Chain(
        "frame",
        "",
        (
            "iifname . ether saddr != @own_mac drop",
            "ether type vmap { arp : goto frame_arp, ip : goto frame_ip4, ip6 : goto frame_ip6, 8021q : drop, 8021ad : drop }",
        ),
    ),
    # RFC 826; who probes for an address that it is about to take has none yet (RFC 5227).
    _Chain(
        "frame_arp",
        "",
        (
            "iifname . arp saddr ether . arp saddr ip @own4 accept",
            "iifname . arp saddr ether != @own_mac drop",
            "arp operation request arp saddr ip 0.0.0.0 accept",
            "iifname @any4 accept",
            "drop",
        ),
    ),
    # A container neither gives addresses away (RFC 2131) nor asks for one in any other way.
    _Chain(
        "frame_ip4",
        "",
        (
            "udp sport 67 udp dport 68 drop",
            "iifname . ether saddr . ip saddr @own4 accept",
            "ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept",
            "iifname @any4 accept",
            "drop",
        ),
    ),
    # Nor is it a router (RFC 6105) or a DHCP server (RFC 8415). Without an address it looks for groups and routers alone.
    _Chain(
        "frame_ip6",
        "",
        (
            "icmpv6 type { nd-router-advert, nd-redirect } drop",
            "udp sport 547 udp dport 546 drop",
            "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } goto frame_nd",
            f"{_OWN_SOURCE6} accept",
            "ip6 saddr :: icmpv6 type { nd-router-solicit, mld-listener-report, mld2-listener-report } accept",
            "iifname @any6 accept",
            "drop",
        ),
    ),
    # RFC 4861, sections 4.3 and 4.4: an option names the own MAC, for an own address. The length leaves room for one alone, and
    # for no header before it. Detecting a duplicate (RFC 4862, and its nonce, RFC 7527), one asks for an own address too.
    _Chain(
        "frame_nd",
        "",
        (
            "iifname @any6 accept",
            f"ip6 saddr :: icmpv6 type nd-neighbor-solicit {_OWN_TARGET6} accept",
            f"icmpv6 type nd-neighbor-solicit {_NO_OPTION} {_OWN_SOURCE6} accept",
            f"icmpv6 type nd-neighbor-solicit {_ONE_OPTION} @th,192,8 1 iifname . @th,208,48 . @nh,64,128 @own6 accept",
            f"icmpv6 type nd-neighbor-advert {_NO_OPTION} {_OWN_TARGET6} {_OWN_SOURCE6} accept",
            f"icmpv6 type nd-neighbor-advert {_ONE_OPTION} @th,192,8 2 iifname . @th,208,48 . @th,64,128 @own6 "
            f"{_OWN_SOURCE6} accept",
            "drop",
        ),
    ),
    # Forwarded frames and the host's own alike pass here, once per port they leave by.
    _Chain("postrouting", "type filter hook postrouting priority srcnat; policy accept;", _gateway_rules("oifname")),
)


def inet_table(owner: Owner) -> NftTable:
    """Forwarding and address translation of all networks of ours."""
    return _table("inet", _INET_SETS + _PORT_SETS, _INET + _PORTS, owner)


def bridge_table(owner: Owner) -> NftTable:
    """What keeps a container from sending what is not its own, and the gateway address that every host's bridge holds out of
    a VXLAN tunnel."""
    return _table("bridge", _BRIDGE_SETS, _BRIDGE, owner)


def deaf_table(owner: Owner) -> NftTable:
    """For the chains of Open vSwitch's ports (`resources/ovs_guard.py`): those are one for each, and none of the table's."""
    return NftTable("netdev", DEAF_TABLE, (), script=f"add table netdev {DEAF_TABLE}", owner=owner)


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
