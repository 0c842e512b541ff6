"""Kernel answers → addresses, routes, neighbours, forwarding entries.

Invariant: what is read is what the kernel says; who owns an address or a route is settled later, when both ends of a veth
pair are known (`ownership.py`). What is not ours is read with all that it takes to write it again. Sources:
include/uapi/linux/{if_addr,rtnetlink,neighbour}.h.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from ductwork.backends.netlink.wire import attributes, string
from ductwork.resources import (
    PROTOCOL,
    Address,
    AddressDetails,
    FdbEntry,
    IPAddress,
    IPNetwork,
    Neighbour,
    Owner,
    Route,
    RouteDetails,
)
from ductwork.resources.route import ANY_LINK

FOREVER = 0xFFFFFFFF
IFA_F_NODAD, IFA_F_MANAGETEMPADDR, IFA_F_NOPREFIXROUTE, IFA_F_MCAUTOJOIN = 0x02, 0x100, 0x200, 0x400
RTNH_F_ONLINK = 4
RTN_UNICAST = 1
_IFA_F_SECONDARY, _IFA_F_DEPRECATED = 0x01, 0x20
_IFAPROT_KERNEL_LL = 3
_SCOPE_LINK = 253
_LOCAL_TABLE = 255
_RTM_F_CLONED = 0x200
_NUD_PERMANENT, _NUD_NOARP = 0x80, 0x40
_NTF_SELF = 0x02
_CARRIED = frozenset({1, 4, 5, 6, 7, 8, 11, 12, 15, 20})
"""RTA_DST, OIF, GATEWAY, PRIORITY, PREFSRC, METRICS, FLOW, CACHEINFO, TABLE, PREF: what `Route` and its details hold."""
_RTA_MULTIPATH, _RTA_NH_ID = 9, 30
_RTAX_CC_ALGO = 16
_USER_HZ = 100
"""The clock that rta_expires ticks by, whatever the kernel's own."""

_LINK_LOCAL_V6 = b"\xfe\x80"
"""fe80::/64 is on every link, and nobody's."""
_UNMARKED = Owner("")

_IFADDR = struct.Struct("=BBBBi")
_CACHEINFO = struct.Struct("=II")
_RTMSG = struct.Struct("=BBBBBBBBI")
_RTNEXTHOP = struct.Struct("=Hxxi")
_NDMSG = struct.Struct("=BxxxiHBB")
_U32 = struct.Struct("=I")
_S32 = struct.Struct("=i")


def ip(payload: bytes) -> IPAddress:
    return IPv4Address(payload) if len(payload) == 4 else IPv6Address(payload)


@lru_cache(4096)
def network(payload: bytes, prefixlen: int) -> IPNetwork:
    return IPv4Network((payload, prefixlen)) if len(payload) == 4 else IPv6Network((payload, prefixlen))


def _number(payload: bytes | None) -> int:
    return int(_U32.unpack(payload)[0]) if payload else 0


def address(netns: str, names: Mapping[int, str], owners: Mapping[str, Owner], body: bytes) -> Address | None:
    """RTM_NEWADDR → Address, with its link's owner, or `Owner("")`, where it carries our protocol number. None for those that
    the kernel gives: the loopback's, and the IPv6 link-local ones (IFAPROT_KERNEL_LL, kernel 5.18, which our own mark needs
    too)."""
    _, prefixlen, flags, scope, index = _IFADDR.unpack_from(body)
    name = names.get(index)
    if name is None or (name == "lo" and scope >= _SCOPE_LINK):
        return None
    found = attributes(body, 8)
    protocol = found.get(11, b"\0")[0]
    if protocol == _IFAPROT_KERNEL_LL:
        return None
    flags |= _number(found.get(8))
    own = ip(found.get(2) or found[1])
    is_v6 = own.version == 6
    ours = protocol == PROTOCOL
    return Address(
        netns=netns,
        link=name,
        address=own,
        prefixlen=prefixlen,
        deprecated=is_v6 and bool(flags & _IFA_F_DEPRECATED),
        nodad=is_v6 and bool(flags & IFA_F_NODAD),
        secondary=not is_v6 and bool(flags & _IFA_F_SECONDARY),
        details=None if ours else _address_details(found, name, flags, scope, protocol),
        owner=(owners.get(name) or _UNMARKED) if ours else None,
    )


def _address_details(found: Mapping[int, bytes], name: str, flags: int, scope: int, protocol: int) -> AddressDetails:
    label = string(found.get(3, b""))
    preferred, valid = _CACHEINFO.unpack_from(found[6]) if 6 in found else (FOREVER, FOREVER)
    return AddressDetails(
        scope=scope,
        label="" if label == name else label,
        peer=ip(found[1]) if 2 in found and found[1] != found[2] else None,
        broadcast=ip(found[4]) if 4 in found else None,
        metric=_number(found.get(9)),
        protocol=protocol,
        valid_seconds=None if valid == FOREVER else valid,
        preferred_seconds=None if preferred == FOREVER else preferred,
        noprefixroute=bool(flags & IFA_F_NOPREFIXROUTE),
        mngtmpaddr=bool(flags & IFA_F_MANAGETEMPADDR),
        autojoin=bool(flags & IFA_F_MCAUTOJOIN),
    )


def route(netns: str, names: Mapping[int, str], owners: Mapping[str, Owner], body: bytes) -> Route | None:
    """RTM_NEWROUTE → Route, with its link's owner, or `Owner("")`, where it carries our protocol number; None for what is no
    unicast route, or is on every link. What leaves by several links has all their names, with blanks between them; a
    next-hop object's, where they are not told, has `ANY_LINK`."""
    family, prefixlen, _, tos, table, protocol, scope, kind, flags = _RTMSG.unpack_from(body)
    if kind != RTN_UNICAST or flags & _RTM_F_CLONED or table == _LOCAL_TABLE:
        return None
    found = attributes(body, 12)
    if found.get(1, b"").startswith(_LINK_LOCAL_V6):
        return None
    name = names.get(_number(found.get(4))) or _hops(found, names)
    if not name:
        return None
    ours = protocol == PROTOCOL
    metrics = attributes(found[8]) if 8 in found else {}
    via, source = found.get(5), found.get(7)
    return Route(
        netns=netns,
        to=network(found.get(1) or bytes(4 if family == 2 else 16), prefixlen),
        link=name,
        via=ip(via) if via else None,
        metric=_number(found.get(6)),
        table=_number(found.get(15)) or table,
        tos=tos,
        source=ip(source) if source else None,
        protocol=protocol,
        carried=_CARRIED.issuperset(found) and _RTAX_CC_ALGO not in metrics,
        details=None if ours else _route_details(found, metrics, scope, flags),
        owner=(owners.get(name) or _UNMARKED) if ours else None,
    )


def _hops(found: Mapping[int, bytes], names: Mapping[int, str]) -> str:
    if _RTA_MULTIPATH not in found:
        return ANY_LINK if _RTA_NH_ID in found else ""
    hops, start, several = found[_RTA_MULTIPATH], 0, []
    while start + _RTNEXTHOP.size <= len(hops):
        length, index = _RTNEXTHOP.unpack_from(hops, start)
        several.append(names.get(index, ANY_LINK))
        start += max((length + 3) & ~3, _RTNEXTHOP.size)
    return " ".join(dict.fromkeys(several))


def _route_details(found: Mapping[int, bytes], metrics: Mapping[int, bytes], scope: int, flags: int) -> RouteDetails:
    plain = _plain_route(scope, flags & RTNH_F_ONLINK, found[20][0] if 20 in found else None)
    ticks = _S32.unpack_from(found[12], 8)[0] if 12 in found else 0
    if not (metrics or ticks or 11 in found):
        return plain
    return replace(
        plain,
        metrics=tuple((kind, _number(value)) for kind, value in metrics.items() if kind != _RTAX_CC_ALGO),
        realms=_number(found.get(11)),
        expires_seconds=max(1, ticks // _USER_HZ) if ticks else None,
    )


@lru_cache(64)
def _plain_route(scope: int, onlink: int, pref: int | None) -> RouteDetails:
    """Most routes have no more than these, and each container is read with its few."""
    return RouteDetails(scope=scope, onlink=bool(onlink), pref=pref)


def neighbour(netns: str, names: Mapping[int, str], body: bytes) -> Neighbour | None:
    """RTM_NEWNEIGH → a permanent neighbour; its owner is a placeholder where it carries our protocol number."""
    _, index, state, _, _ = _NDMSG.unpack_from(body)
    found = attributes(body, 12)
    if not state & _NUD_PERMANENT or index not in names or 2 not in found:
        return None
    marked = found.get(12, b"\0")[0] == PROTOCOL
    return Neighbour(netns, names[index], ip(found[1]), found[2].hex(":"), _UNMARKED if marked else None)


def fdb_entry(netns: str, names: Mapping[int, str], body: bytes) -> FdbEntry | None:
    """RTM_NEWNEIGH of AF_BRIDGE → a permanent entry of a VXLAN device; learnt ones are the kernel's business."""
    _, index, state, flags, _ = _NDMSG.unpack_from(body)
    found = attributes(body, 12)
    if not state & (_NUD_PERMANENT | _NUD_NOARP) or not flags & _NTF_SELF or 1 not in found or index not in names:
        return None
    return FdbEntry(netns, names[index], found[2].hex(":"), ip(found[1]))
