"""Addresses, routes, neighbours, forwarding entries → netlink requests. Links are named by index alone, so that a request
can never hit a foreign namesake. What is foreign is written with all that was read of it."""

from __future__ import annotations

import struct

from ductwork.backends.netlink.decode import (
    FOREVER,
    IFA_F_MANAGETEMPADDR,
    IFA_F_MCAUTOJOIN,
    IFA_F_NODAD,
    IFA_F_NOPREFIXROUTE,
    RTN_UNICAST,
    RTNH_F_ONLINK,
)
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
    AddressDetails,
    FdbEntry,
    IPAddress,
    Neighbour,
    Route,
    RouteDetails,
)

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTM_NEWNSID, RTM_GETNSID = 88, 90
RTM_GETVLAN = 114
AF_BRIDGE = 7

_IFADDR = struct.Struct("=BBBBi")
_RTMSG = struct.Struct("=BBBBBBBBI")
_NDMSG = struct.Struct("=BxxxiHBB")
_CACHEINFO = struct.Struct("=IIII")
_SCOPE_UNIVERSE, _SCOPE_LINK = 0, 253
_NUD_PERMANENT, _NUD_NONE = 0x80, 0
_NTF_USE, _NTF_SELF = 0x01, 0x02


def _family(address: IPAddress) -> int:
    return 2 if address.version == 4 else 10


def _mac(value: str) -> bytes:
    return bytes.fromhex(value.replace(":", ""))


def _address_body(address: Address, index: int) -> bytes:
    details = address.details
    scope, other = (details.scope, details.peer or address.address) if details else (_SCOPE_UNIVERSE, address.address)
    head = _IFADDR.pack(_family(address.address), address.prefixlen, 0, scope, index)
    return head + attribute(2, address.address.packed) + attribute(1, other.packed)


def new_address(address: Address, index: int) -> Message:
    """One that is carried is not doubted again (IFA_F_NODAD): it has been in use on another link of this host."""
    body = _address_body(address, index)
    if address.details:
        body += _carried(address, address.details, nodad=True)
    elif address.address.version == 6:
        body += u32(8, IFA_F_NODAD if address.nodad else 0)
        body += attribute(6, _CACHEINFO.pack(0, FOREVER, 0, 0)) if address.deprecated else b""
    elif address.prefixlen < 31:
        hosts = (1 << (32 - address.prefixlen)) - 1
        body += attribute(4, (int(address.address) | hosts).to_bytes(4, "big"))
    body += attribute(11, bytes([PROTOCOL])) if address.owner else b""
    return Message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body)


def without_nodad(address: Address, details: AddressDetails, index: int) -> Message:
    """The flag is taken away afterwards, which begins no detection (inet6_addr_modify)."""
    body = _address_body(address, index) + _carried(address, details, nodad=False)
    return Message(RTM_NEWADDR, NLM_F_REPLACE, body)


def _carried(address: Address, details: AddressDetails, *, nodad: bool) -> bytes:
    flags = IFA_F_NODAD if nodad and address.address.version == 6 else 0
    flags |= IFA_F_NOPREFIXROUTE if details.noprefixroute else 0
    flags |= IFA_F_MANAGETEMPADDR if details.mngtmpaddr else 0
    flags |= IFA_F_MCAUTOJOIN if details.autojoin else 0
    body = u32(8, flags)
    body += text(3, details.label) if details.label else b""
    body += attribute(4, details.broadcast.packed) if details.broadcast else b""
    body += u32(9, details.metric) if details.metric else b""
    body += attribute(11, bytes([details.protocol])) if details.protocol else b""
    valid, preferred = details.valid_seconds, details.preferred_seconds
    if valid is not None or preferred is not None:
        times = (FOREVER if preferred is None else preferred, FOREVER if valid is None else max(1, valid))
        body += attribute(6, _CACHEINFO.pack(*times, 0, 0))
    return body


def delete_address(address: Address, index: int) -> Message:
    return Message(RTM_DELADDR, 0, _address_body(address, index))


def routes_request(table: int) -> bytes:
    """The body of a dump of the unicast routes of one table; 0: of all tables."""
    return _RTMSG.pack(0, 0, 0, 0, table, 0, 0, RTN_UNICAST, 0)


def _route_body(route: Route, index: int) -> bytes:
    family = 2 if route.to.version == 4 else 10
    made_scope = _SCOPE_LINK if family == 2 and route.via is None else _SCOPE_UNIVERSE
    scope = route.details.scope if route.details else made_scope
    table = route.table if route.table < 256 else 0
    onlink = route.is_parked or (route.details is not None and route.details.onlink)
    flags = RTNH_F_ONLINK if onlink and route.via else 0
    body = _RTMSG.pack(family, route.to.prefixlen, 0, route.tos, table, route.protocol, scope, RTN_UNICAST, flags)
    body += attribute(1, route.to.network_address.packed) if route.to.prefixlen else b""
    body += u32(4, index) + u32(15, route.table)
    body += attribute(5, route.via.packed) if route.via else b""
    body += u32(6, route.metric) if route.metric else b""
    return body + (attribute(7, route.source.packed) if route.source else b"")


def new_route(route: Route, index: int, replace: bool = False) -> Message:
    body = _route_body(route, index) + (_attributes(route.details) if route.details else b"")
    return Message(RTM_NEWROUTE, NLM_F_CREATE | (NLM_F_REPLACE if replace else NLM_F_EXCL), body)


def beside(route: Route, index: int) -> Message:
    """A subnet's route of the kernel's stands beside those of other links; replacing would hit the first of them."""
    body = _route_body(route, index) + (_attributes(route.details) if route.details else b"")
    return Message(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_APPEND, body)


def _attributes(details: RouteDetails) -> bytes:
    body = nested(8, *(u32(kind, value) for kind, value in details.metrics)) if details.metrics else b""
    body += attribute(20, bytes([details.pref])) if details.pref is not None else b""
    body += u32(11, details.realms) if details.realms else b""
    return body + (u32(23, details.expires_seconds) if details.expires_seconds is not None else b"")


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
