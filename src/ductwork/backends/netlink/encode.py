"""Operations → netlink requests. Links are named by index alone, so that a request can never hit a foreign namesake."""

from __future__ import annotations

import struct

from ductwork.backends.netlink.decode import IFF_UP
from ductwork.backends.netlink.wire import (
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Message,
    attribute,
    nested,
    text,
    u32,
)
from ductwork.resources import (
    FLOOD_MAC,
    PROTOCOL,
    Address,
    FdbEntry,
    IPAddress,
    Link,
    Neighbour,
    Route,
    VxlanSpec,
)

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
AF_BRIDGE = 7

_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBi")
_RTMSG = struct.Struct("=BBBBBBBBI")
_NDMSG = struct.Struct("=BxxxiHBB")
_CACHEINFO = struct.Struct("=IIII")
_FOREVER = 0xFFFFFFFF
_IFA_F_NODAD = 0x02
_RTN_UNICAST = 1
_SCOPE_UNIVERSE, _SCOPE_LINK = 0, 253
_RTNH_F_ONLINK = 4
_NUD_PERMANENT, _NUD_NONE = 0x80, 0
_NTF_USE, _NTF_SELF = 0x01, 0x02
_VETH_INFO_PEER = 1
_IFLA_NET_NS_FD = 28

_NO_LINK_LOCAL = nested(26, nested(10, attribute(8, b"\x01")))
"""IFLA_AF_SPEC, AF_INET6, IFLA_INET6_ADDR_GEN_MODE: IN6_ADDR_GEN_MODE_NONE."""


def ifinfo(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    return _IFINFO.pack(0, 0, index, flags, change)


def _mac(value: str) -> bytes:
    return bytes.fromhex(value.replace(":", ""))


def _identity(link: Link) -> bytes:
    """A bridge is born with another MTU than its own: only one that was changed stays when a port with a smaller one joins
    (BROPT_MTU_SET_BY_USER), and `finish_link` changes it. Not below 1280, where IPv6 would go."""
    mtu_bytes = link.mtu_bytes ^ 1 if link.kind == "bridge" else link.mtu_bytes
    return text(3, link.name) + attribute(1, _mac(link.mac)) + u32(4, mtu_bytes)


def new_link(link: Link, index: int, data: bytes, master: int) -> Message:
    """Create a link, a port of `master` where that is not 0, and up: all in one request."""
    flags = IFF_UP if link.up else 0
    body = ifinfo(index, flags, flags) + _identity(link)
    body += u32(10, master) if master else b""
    body += nested(18, attribute(1, link.kind.encode()), nested(2, data)) if data else nested(18, text(1, link.kind))
    return Message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


def veth_peer(peer: Link, index: int, netns_fd: int) -> bytes:
    """The other end, born in its namespace; it cannot be born up."""
    return nested(_VETH_INFO_PEER, ifinfo(index) + _identity(peer) + u32(_IFLA_NET_NS_FD, netns_fd))


def vxlan_data(spec: VxlanSpec, underlay_index: int) -> bytes:
    data = u32(1, spec.vni) + attribute(15, spec.port.to_bytes(2, "big"))
    if spec.local is not None:
        data += attribute(4 if spec.local.version == 4 else 17, spec.local.packed)
    return data + (u32(3, underlay_index) if underlay_index else b"")


def finish_link(link: Link, index: int) -> Message:
    """What the creating request ignores: the mark, a bridge's own MTU, and that the host's end of a pair, a mere port, needs
    no link-local address (it has none yet: its other end is down)."""
    body = attribute(20, link.owner.alias(link.name, link.kind).encode()) if link.owner else b""
    body += u32(4, link.mtu_bytes) if link.kind == "bridge" else b""
    body += _NO_LINK_LOCAL if link.is_host_end else b""
    return Message(RTM_SETLINK, 0, ifinfo(index) + body)


def set_up(index: int, up: bool = True) -> Message:
    return Message(RTM_SETLINK, 0, ifinfo(index, IFF_UP if up else 0, IFF_UP))


def set_master(index: int, master: int) -> Message:
    return Message(RTM_SETLINK, 0, ifinfo(index) + u32(10, master))


def set_group(index: int, group: int) -> Message:
    return Message(RTM_SETLINK, 0, ifinfo(index) + u32(27, group))


def update_link(index: int, before: Link, after: Link) -> Message:
    """Flags without a mask would be taken for all flags, and switch multicast off (rtnl_dev_combine_flags)."""
    change = IFF_UP if before.up != after.up else 0
    body = ifinfo(index, IFF_UP if after.up else 0, change) if change else ifinfo(index)
    body += attribute(1, _mac(after.mac)) if before.mac != after.mac else b""
    body += u32(4, after.mtu_bytes) if before.mtu_bytes != after.mtu_bytes else b""
    body += u32(27, after.group) if before.group != after.group else b""
    if before.owner != after.owner:
        body += attribute(20, after.owner.alias(after.name, after.kind).encode() if after.owner else b"")
    return Message(RTM_SETLINK, 0, body)


def delete_link(index: int) -> Message:
    return Message(RTM_DELLINK, 0, ifinfo(index))


def delete_group(group: int) -> Message:
    return Message(RTM_DELLINK, 0, ifinfo() + u32(27, group))


def _family(address: IPAddress) -> int:
    return 2 if address.version == 4 else 10


def _address_body(address: Address, index: int) -> bytes:
    packed = address.address.packed
    head = _IFADDR.pack(_family(address.address), address.prefixlen, 0, 0, index)
    return head + attribute(2, packed) + attribute(1, packed)


def new_address(address: Address, index: int) -> Message:
    body = _address_body(address, index)
    if address.address.version == 6:
        body += u32(8, _IFA_F_NODAD if address.nodad else 0)
        body += attribute(6, _CACHEINFO.pack(0, _FOREVER, 0, 0)) if address.deprecated else b""
    elif address.prefixlen < 31:
        hosts = (1 << (32 - address.prefixlen)) - 1
        body += attribute(4, (int(address.address) | hosts).to_bytes(4, "big"))
    body += attribute(11, bytes([PROTOCOL])) if address.owner else b""
    return Message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body)


def delete_address(address: Address, index: int) -> Message:
    return Message(RTM_DELADDR, 0, _address_body(address, index))


def _route_body(route: Route, index: int) -> bytes:
    family = 2 if route.to.version == 4 else 10
    scope = _SCOPE_LINK if family == 2 and route.via is None else _SCOPE_UNIVERSE
    table = route.table if route.table < 256 else 0
    onlink = _RTNH_F_ONLINK if route.is_parked and route.via else 0
    body = _RTMSG.pack(family, route.to.prefixlen, 0, route.tos, table, route.protocol, scope, _RTN_UNICAST, onlink)
    body += attribute(1, route.to.network_address.packed) if route.to.prefixlen else b""
    body += u32(4, index) + u32(15, route.table)
    body += attribute(5, route.via.packed) if route.via else b""
    body += u32(6, route.metric) if route.metric else b""
    return body + (attribute(7, route.source.packed) if route.source else b"")


def new_route(route: Route, index: int, replace: bool = False) -> Message:
    return Message(RTM_NEWROUTE, NLM_F_CREATE | (NLM_F_REPLACE if replace else NLM_F_EXCL), _route_body(route, index))


def delete_route(route: Route, index: int) -> Message:
    return Message(RTM_DELROUTE, 0, _route_body(route, index))


def new_neighbour(entry: Neighbour, index: int) -> Message:
    head = _NDMSG.pack(_family(entry.address), index, _NUD_PERMANENT, 0, 0)
    body = head + attribute(1, entry.address.packed) + attribute(2, _mac(entry.mac))
    body += attribute(12, bytes([PROTOCOL])) if entry.owner else b""
    return Message(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body)


def delete_neighbour(entry: Neighbour, index: int) -> Message:
    head = _NDMSG.pack(_family(entry.address), index, 0, 0, 0)
    return Message(RTM_DELNEIGH, 0, head + attribute(1, entry.address.packed))


def announce_v4(address: IPAddress, index: int) -> Message:
    """Ask the kernel to resolve the link's own address: it broadcasts "who has X, tell X" three times, a second apart
    (seen on 6.18): a gratuitous ARP (RFC 5227 section 3) without a packet socket, whose close would wait for RCU."""
    head = _NDMSG.pack(2, index, _NUD_NONE, _NTF_USE, 0)
    return Message(RTM_NEWNEIGH, NLM_F_CREATE, head + attribute(1, address.packed))


def fdb_request(index: int) -> bytes:
    """The body of a dump of one device's forwarding entries."""
    return _NDMSG.pack(AF_BRIDGE, index, 0, 0, 0)


def _fdb_body(entry: FdbEntry, index: int) -> bytes:
    head = _NDMSG.pack(AF_BRIDGE, index, _NUD_PERMANENT, _NTF_SELF, 0)
    return head + attribute(2, _mac(entry.mac)) + attribute(1, entry.peer_vtep.packed)


def new_fdb_entry(entry: FdbEntry, index: int) -> Message:
    flags = NLM_F_CREATE | (NLM_F_APPEND if entry.mac == FLOOD_MAC else NLM_F_REPLACE)
    return Message(RTM_NEWNEIGH, flags, _fdb_body(entry, index))


def delete_fdb_entry(entry: FdbEntry, index: int) -> Message:
    return Message(RTM_DELNEIGH, 0, _fdb_body(entry, index))
