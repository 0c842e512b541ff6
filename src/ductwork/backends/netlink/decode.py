"""Kernel answers → resources.

Invariant: what is read is what the kernel says; who owns an address or a route is settled later, when both ends of a veth
pair are known (`ownership.py`). Sources: include/uapi/linux/{if_link,if_addr,rtnetlink,neighbour}.h.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from ductwork.backends.netlink.wire import attributes, string
from ductwork.resources import (
    PROTOCOL,
    Address,
    FdbEntry,
    IPAddress,
    IPNetwork,
    Link,
    Neighbour,
    Owner,
    Port,
    Route,
    Sysctl,
    VethSpec,
    VxlanSpec,
)

IFF_UP, IFF_LOOPBACK = 0x1, 0x8
GROUP_BASE = 1 << 16
"""Groups that links are deleted by are above it."""
_IFA_F_SECONDARY, _IFA_F_NODAD, _IFA_F_DEPRECATED = 0x01, 0x02, 0x20
_SCOPE_LINK, _SCOPE_HOST = 253, 254
_RTN_UNICAST = 1
_RTM_F_CLONED = 0x200
_NUD_PERMANENT, _NUD_NOARP = 0x80, 0x40
_NTF_SELF = 0x02
_DEVCONF = {"accept_ra": 3, "autoconf": 5, "disable_ipv6": 26}
"""What attachments set, by its place in include/uapi/linux/ipv6.h."""
_PLAIN_ROUTE = frozenset({1, 4, 5, 6, 7, 12, 15, 20})
"""RTA_DST, OIF, GATEWAY, PRIORITY, PREFSRC, CACHEINFO, TABLE, PREF: what `Route` can carry. CACHEINFO is a report; a
route that expires says so there, and such a route is its daemon's to renew."""

_LINK_LOCAL_V6 = b"\xfe\x80"
"""fe80::/64 is on every link, and nobody's."""

_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBi")
_RTMSG = struct.Struct("=BBBBBBBBI")
_NDMSG = struct.Struct("=BxxxiHBB")
_U32 = struct.Struct("=I")
_S32 = struct.Struct("=i")


def ip(payload: bytes) -> IPAddress:
    return IPv4Address(payload) if len(payload) == 4 else IPv6Address(payload)


@lru_cache(4096)
def network(payload: bytes, prefixlen: int) -> IPNetwork:
    return IPv4Network((payload, prefixlen)) if len(payload) == 4 else IPv6Network((payload, prefixlen))


def _mac(payload: bytes) -> str:
    return payload.hex(":")


def _number(payload: bytes | None) -> int:
    return int(_U32.unpack(payload)[0]) if payload else 0


def link(netns: str, body: bytes) -> Link:
    """RTM_NEWLINK → Link; a VXLAN's underlay is given as `#INDEX` until names are known."""
    return _link(netns, body, attributes(body, 16))


def link_and_sysctls(netns: str, body: bytes) -> tuple[Link, list[Sysctl]]:
    """A container's link, and its IPv6 parameters, which RTM_NEWLINK tells along (IFLA_INET6_CONF, an array of DEVCONF_*):
    reading their files would cost as much as all else (100 µs each for a link not looked at before)."""
    found = attributes(body, 16)
    read = _link(netns, body, found)
    return read, [] if read.name == "lo" else _sysctls(read, found)


def _link(netns: str, body: bytes, found: dict[int, bytes]) -> Link:
    _, _, index, flags, _ = _IFINFO.unpack_from(body)
    name = string(found[3])
    info = attributes(found[18]) if 18 in found else {}
    kind = string(info.get(1, b""))
    owner = Owner.from_alias(string(found[20]), name, kind) if 20 in found and not netns else None
    group = _number(found.get(27))
    spec: VethSpec | VxlanSpec | None = None
    if kind == "veth":
        spec = VethSpec(owner.container, owner.interface) if owner else VethSpec("", "")
    elif kind == "vxlan":
        spec = _vxlan(attributes(info.get(2, b"")))
    return Link(
        netns=netns,
        name="lo" if flags & IFF_LOOPBACK else name,
        kind=kind,
        mac=_mac(found.get(1, b"")),
        mtu_bytes=_number(found.get(4)),
        up=bool(flags & IFF_UP),
        spec=spec,
        owner=owner,
        group=group if group >= GROUP_BASE else 0,
        index=index,
        peer_index=_number(found.get(5)),
        master_index=_number(found.get(10)),
    )


def mac(body: bytes) -> bytes:
    """The hardware address of a link in an answer to RTM_GETLINK."""
    return attributes(body, 16).get(1, b"")


def _sysctls(read: Link, found: dict[int, bytes]) -> list[Sysctl]:
    inet6 = attributes(attributes(found.get(26, b"")).get(10, b""))
    values = inet6.get(2, b"")
    return [
        Sysctl(read.netns, f"net/ipv6/conf/{read.name}/{parameter}", str(_S32.unpack_from(values, 4 * at)[0]), link=read.name)
        for parameter, at in _DEVCONF.items()
        if len(values) >= 4 * at + 4
    ]


def _vxlan(data: dict[int, bytes]) -> VxlanSpec:
    local = data.get(4) or data.get(17)
    underlay = _number(data.get(3))
    return VxlanSpec(
        vni=_number(data.get(1)),
        port=int.from_bytes(data.get(15, b"\0\0"), "big"),
        local=ip(local) if local else None,
        underlay=f"#{underlay}" if underlay else "",
    )


def port(member: Link, bridge: str) -> Port:
    return Port(member.netns, member.name, bridge, member.owner)


def address(netns: str, names: dict[int, str], body: bytes) -> tuple[Address, int] | None:
    """RTM_NEWADDR → Address and its protocol number; None for link-local and loopback ones."""
    _, prefixlen, flags, scope, index = _IFADDR.unpack_from(body)
    if scope in (_SCOPE_LINK, _SCOPE_HOST) or index not in names:
        return None
    found = attributes(body, 8)
    flags |= _number(found.get(8))
    own = ip(found.get(2) or found[1])
    secondary = own.version == 4 and bool(flags & _IFA_F_SECONDARY)
    protocol = found.get(11, b"\0")[0]
    deprecated = own.version == 6 and bool(flags & _IFA_F_DEPRECATED)
    nodad = own.version == 6 and bool(flags & _IFA_F_NODAD)
    return Address(netns, names[index], own, prefixlen, deprecated, nodad=nodad, secondary=secondary), protocol


def route(netns: str, names: dict[int, str], body: bytes) -> Route | None:
    """RTM_NEWROUTE → Route; None for what is no unicast route that can be told apart, or is on every link."""
    family, prefixlen, _, tos, table, protocol, _, kind, flags = _RTMSG.unpack_from(body)
    if kind != _RTN_UNICAST or flags & _RTM_F_CLONED:
        return None
    found = attributes(body, 12)
    if found.get(1, b"").startswith(_LINK_LOCAL_V6):
        return None
    name = names.get(_number(found.get(4)))
    plain = _PLAIN_ROUTE.issuperset(found)
    if name is None:
        if 9 not in found:
            return None
        name = "multipath"
    via = found.get(5)
    source = found.get(7)
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
        carried=plain,
    )


def neighbour(netns: str, names: dict[int, str], body: bytes) -> Neighbour | None:
    """RTM_NEWNEIGH → a permanent neighbour; its owner is a placeholder where it carries our protocol number."""
    _, index, state, _, _ = _NDMSG.unpack_from(body)
    found = attributes(body, 12)
    if not state & _NUD_PERMANENT or index not in names or 2 not in found:
        return None
    marked = found.get(12, b"\0")[0] == PROTOCOL
    return Neighbour(netns, names[index], ip(found[1]), _mac(found[2]), Owner("") if marked else None)


def fdb_entry(netns: str, names: dict[int, str], body: bytes) -> FdbEntry | None:
    """RTM_NEWNEIGH of AF_BRIDGE → a permanent entry of a VXLAN device; learnt ones are the kernel's business."""
    _, index, state, flags, _ = _NDMSG.unpack_from(body)
    found = attributes(body, 12)
    if not state & (_NUD_PERMANENT | _NUD_NOARP) or not flags & _NTF_SELF or 1 not in found or index not in names:
        return None
    return FdbEntry(netns, names[index], _mac(found[2]), ip(found[1]))
