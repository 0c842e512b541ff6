"""What only the machine can tell of a NIC: whether it is wireless, who manages it, who renews its lease, and what is on it that
nobody carries.

Invariant: only what was asked for is looked at, all of it in the network namespace of the calling thread. /sys is not: it
shows the namespace that it was mounted in. Nothing is changed, and what cannot be asked (a program that is not installed)
tells nothing.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from ipaddress import ip_address

from ductwork.backends import nic_daemons
from ductwork.backends.netlink.wire import NetlinkSocket, attributes, string, text, u32
from ductwork.resources import NicFacts

UNKNOWN_CLIENT = "an unknown client"

_IFNAME_BYTES = 16
_RTM_GETLINK, _RTM_GETADDR, _RTM_GETROUTE, _RTM_GETNEIGH = 18, 22, 26, 30
_NETLINK_GENERIC = 16
_GENL_ID_CTRL, _CTRL_CMD_GETFAMILY, _CTRL_ATTR_FAMILY_ID, _CTRL_ATTR_FAMILY_NAME = 0x10, 3, 1, 2
_NL80211_CMD_GET_INTERFACE, _NL80211_ATTR_IFINDEX = 5, 3
_SIOCGIWNAME = 0x8B01
_IFLA_IFNAME, _IFLA_LINKINFO, _IFLA_INFO_KIND = 3, 18, 1
_IFA_CACHEINFO, _RTA_DST, _RTA_OIF, _NDA_DST, _NDA_IFINDEX = 6, 1, 4, 1, 8
_RTPROT_KERNEL, _RTPROT_DHCP = 2, 16
_NOT_UNICAST = {2: "local", 3: "broadcast", 4: "anycast", 5: "multicast"}
"""RTN_* → iproute2's word, of routes that have a device (include/uapi/linux/rtnetlink.h)."""
_NUD_PERMANENT, _NTF_PROXY = 0x80, 0x08
_FOREVER = 0xFFFFFFFF
_GOES_HOME = frozenset({"", "can"})
"""Kinds of links that the kernel moves to the initial namespace when theirs dies (default_device_exit_net in net/core/dev.c):
those without rtnl_link_ops, or whose ops have `netns_refund`. All others are destroyed."""

_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBi")
_RTMSG = struct.Struct("=BBBBBBBBI")
_NDMSG = struct.Struct("=BxxxiHBB")
_GENL = struct.Struct("=BBH")
_CACHEINFO = struct.Struct("=II")
_U16 = struct.Struct("=H")


class NicReader:
    def read(self, names: Iterable[str]) -> dict[str, NicFacts]:
        """The facts of those NICs that are there."""
        with NetlinkSocket() as opened:
            answers = (
                (name, opened.get(_RTM_GETLINK, _IFINFO.pack(0, 0, 0, 0, 0) + text(_IFLA_IFNAME, name))) for name in names
            )
            links = {name: _index_and_kind(body) for name, body in answers if body is not None}
            leased = {name for name, (index, _) in links.items() if _has_lease(opened, index)}
            stays = {name: (*_odd_routes(opened, index), *_neighbours(opened, index)) for name, (index, _) in links.items()}
        if not links:
            return {}
        processes = nic_daemons.processes()
        found = {}
        for name, (index, kind) in links.items():
            manager = nic_daemons.manager(name, index, processes)
            client = nic_daemons.client(name, processes)
            found[name] = NicFacts(
                wireless=_is_wireless(name, index),
                manager=manager,
                lease=client or (manager or UNKNOWN_CLIENT if name in leased else ""),
                virtual=kind not in _GOES_HOME,
                stays=stays[name],
            )
        return found


def _index_and_kind(body: bytes) -> tuple[int, str]:
    info = attributes(attributes(body, _IFINFO.size).get(_IFLA_LINKINFO, b""))
    return _IFINFO.unpack_from(body)[2], string(info.get(_IFLA_INFO_KIND, b""))


def _has_lease(opened: NetlinkSocket, index: int) -> bool:
    """An IPv4 address that ends some day (whoever got it renews it), or a route that a DHCP client made. A strict dump
    (NETLINK_GET_STRICT_CHK, kernel 4.20) takes what is asked for as filters: family, device, protocol."""
    for body in opened.dump(_RTM_GETADDR, _IFADDR.pack(socket.AF_INET, 0, 0, 0, index)):
        lifetimes = attributes(body, _IFADDR.size).get(_IFA_CACHEINFO)
        if lifetimes and _CACHEINFO.unpack_from(lifetimes)[1] != _FOREVER:
            return True
    wanted = [_RTMSG.pack(family, 0, 0, 0, 0, _RTPROT_DHCP, 0, 0, 0) for family in (socket.AF_INET, socket.AF_INET6)]
    return any(opened.dump(_RTM_GETROUTE, body + u32(_RTA_OIF, index)) for body in wanted)


def _odd_routes(opened: NetlinkSocket, index: int) -> Iterator[str]:
    """Those that are not unicast, and that no address brings with it."""
    for body in opened.dump(_RTM_GETROUTE, _RTMSG.pack(0, 0, 0, 0, 0, 0, 0, 0, 0) + u32(_RTA_OIF, index)):
        _, prefixlen, _, _, _, protocol, _, kind, _ = _RTMSG.unpack_from(body)
        told = attributes(body, _RTMSG.size)
        if kind in _NOT_UNICAST and protocol != _RTPROT_KERNEL and _RTA_DST in told:
            yield f"{_NOT_UNICAST[kind]} {ip_address(told[_RTA_DST])}/{prefixlen}"


def _neighbours(opened: NetlinkSocket, index: int) -> Iterator[str]:
    """What somebody has set for good: MACs of others, and addresses that the host answers for."""
    for flags, state, what in ((0, _NUD_PERMANENT, "permanent neighbour"), (_NTF_PROXY, 0, "neighbour proxy")):
        for body in opened.dump(_RTM_GETNEIGH, _NDMSG.pack(0, 0, 0, flags, 0) + u32(_NDA_IFINDEX, index)):
            if _NDMSG.unpack_from(body)[2] & state == state:
                yield f"{what} {ip_address(attributes(body, _NDMSG.size)[_NDA_DST])}"


def _is_wireless(name: str, index: int) -> bool:
    """By nl80211; by the wireless extensions for a driver that is older than that."""
    return _nl80211_knows(index) or _speaks_wireless_extensions(name)


def _nl80211_knows(index: int) -> bool:
    # Asking for the family would load the module on a machine that has no wireless NIC.
    if os.path.isdir("/sys/module") and not os.path.isdir("/sys/module/cfg80211"):
        return False
    try:
        with NetlinkSocket(_NETLINK_GENERIC) as opened:
            family = opened.get(_GENL_ID_CTRL, _GENL.pack(_CTRL_CMD_GETFAMILY, 1, 0) + text(_CTRL_ATTR_FAMILY_NAME, "nl80211"))
            if family is None:
                return False
            number = _U16.unpack_from(attributes(family, _GENL.size)[_CTRL_ATTR_FAMILY_ID])[0]
            asked = _GENL.pack(_NL80211_CMD_GET_INTERFACE, 0, 0) + u32(_NL80211_ATTR_IFINDEX, index)
            return opened.get(number, asked) is not None
    except OSError:
        return False  # no such protocol, or a device that nl80211 has nothing to say of


def _speaks_wireless_extensions(name: str) -> bool:
    """SIOCGIWNAME, wireless(7): it fails for all other devices, and on kernels without these extensions."""
    request = struct.pack(f"{_IFNAME_BYTES}s{_IFNAME_BYTES}x", name.encode())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as opened:
        try:
            fcntl.ioctl(opened, _SIOCGIWNAME, request)
        except OSError:
            return False
    return True
