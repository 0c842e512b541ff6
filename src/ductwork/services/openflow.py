"""What a port of Open vSwitch lets in: the same as `antispoof.py` and `isolation.py` have the packet filter say for ports of a
Linux bridge, which Open vSwitch does not pass.

Invariant: pure. Flows drop, or go on past themselves to whatever the bridge's administrator has in the table, or NORMAL.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ductwork.drivers import View
from ductwork.naming import host_ifname
from ductwork.resources import IPAddress, OvsGuard, Owner
from ductwork.resources.ovs_guard import cookie_of
from ductwork.services.antispoof import link_local
from ductwork.services.isolation import had
from ductwork.site.model import Attachment, Network

_PASS = "load:1->NXM_NX_REG15[],resubmit(,0)"
_PEERS_TABLE = 253
"""The last one that a bridge's administrator may use as well. Nothing goes there but by our own flows."""
_FIND_PEER = f"load:1->NXM_NX_REG14[],resubmit(LOCAL,{_PEERS_TABLE}),resubmit(,0)"
_IS_PEER = "load:2->NXM_NX_REG14[]"
_NEVER = ("udp,tp_src=67,tp_dst=68", "udp6,tp_src=547,tp_dst=546", "icmp6,icmp_type=134", "icmp6,icmp_type=137")
"""A DHCP server's answers, router advertisements, redirects."""
_ASKING = ("131", "133", "143")
"""From the unspecified address: multicast reports and router solicitations (RFC 4861, RFC 3810)."""


def guard(
    network: Network, attachment: Attachment, view: View, bridge: str, owner: Owner, database: str, *, apart: bool
) -> Iterator[OvsGuard]:
    """The port's guard, unless the container may send what it likes to whom it likes. `apart`: not to what `peers` names."""
    flows: tuple[str, ...] = ()
    if apart:
        flows = (f"priority=65011,reg14=0,actions={_FIND_PEER}", "priority=65010,reg14=2,actions=drop")
    if attachment.spoofing != "allow":
        own = tuple(address.ip for address in view.addresses.get(attachment.id, ()))
        has_v6 = any(subnet.version == 6 for subnet in network.subnets)
        local = [link_local(attachment.mac)] if has_v6 else []
        free = {version for version in (4, 6) if not own} | ({6} if network.ipv6 == "slaac" else set())
        flows += tuple(_flows(attachment.mac, (*own, *local), free))
    if flows:
        yield OvsGuard(host_ifname(*attachment.id), bridge, cookie_of(flows), flows, owner, database)


def peers(isolated: Iterable[Network], view: View, bridge: str, owner: Owner, database: str) -> Iterator[OvsGuard]:
    """What the networks' containers have, once for all their ports: as the guard of the bridge's own, whose number stays."""
    found: set[str] = set()
    for network in isolated:
        for mac, addresses in had(network, view):
            found.add(f"dl_dst={mac}")
            found |= {f"ip,nw_dst={a.ip}" if a.version == 4 else f"ipv6,ipv6_dst={a.ip}" for a in addresses}
    if flows := tuple(f"table={_PEERS_TABLE},{match},actions={_IS_PEER}" for match in sorted(found)):
        yield OvsGuard(bridge, bridge, cookie_of(flows), flows, owner, database)


def _flows(mac: str, own: tuple[IPAddress, ...], free: set[int]) -> Iterator[str]:
    """`free`: the IP versions of which any source address may be used."""

    def flow(priority: int, match: str, action: str) -> str:
        return f"priority={priority},reg15=0,{match}actions={action}"

    sent = f"dl_src={mac},"
    yield flow(65009, "vlan_tci=0x1000/0x1000,", "drop")
    for kind in _NEVER:
        yield flow(65009, f"{kind},", "drop")
    yield flow(65008, f"arp,{sent}arp_op=1,arp_sha={mac},arp_spa=0.0.0.0,", _PASS)
    yield flow(65008, f"udp,{sent}nw_src=0.0.0.0,tp_src=68,tp_dst=67,", _PASS)
    for kind in _ASKING:
        yield flow(65008, f"icmp6,{sent}ipv6_src=::,icmp_type={kind},", _PASS)
    for address in own:
        if address.version == 4:
            yield flow(65008, f"arp,{sent}arp_sha={mac},arp_spa={address},", _PASS)
            yield flow(65008, f"ip,{sent}nw_src={address},", _PASS)
    own6 = [address for address in own if address.version == 6]
    for address in own6 if 6 not in free else ():
        for match in _neighbour_discovery(mac, address, own6):
            yield flow(65008, f"icmp6,{sent}{match}", _PASS)
        yield flow(65006, f"ipv6,{sent}ipv6_src={address},", _PASS)
    if 6 not in free:
        for kind in ("135", "136"):
            yield flow(65007, f"icmp6,icmp_type={kind},", "drop")
    for version, families in ((4, ("arp", "ip")), (6, ("ipv6",))):
        for family in families if version not in free else ():
            yield flow(65005, f"{family},", "drop")
    yield flow(65004, sent, _PASS)
    yield flow(65003, "", "drop")


def _neighbour_discovery(mac: str, address: IPAddress, own: Sequence[IPAddress]) -> Iterator[str]:
    """Asking for its own address and for others', and telling of its own (RFC 4861, sections 4.3 and 4.4)."""
    yield f"ipv6_src=::,icmp_type=135,icmp_code=0,nd_target={address},"
    for named in (mac, "00:00:00:00:00:00"):  # its own link-layer address, or no such option
        yield f"ipv6_src={address},icmp_type=135,icmp_code=0,nd_sll={named},"
        for target in own:
            yield f"ipv6_src={address},icmp_type=136,icmp_code=0,nd_target={target},nd_tll={named},"
