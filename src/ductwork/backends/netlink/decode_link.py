"""Kernel answers → links, and what ports of bridges are told.

Invariant: what is read is what the kernel says. A parent or underlay is given as `#INDEX`, and that of a link in a container
only where it is a device of the host's; names are known when all links are. In a container a mark is a claim
(`ownership.py`); that of a NIC which another host on this machine has lent is none. Sources:
include/uapi/linux/{if_link,if_bridge,net_namespace}.h.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

from ductwork.backends.netlink.wire import attributes, each, find, string
from ductwork.resources import (
    NATIVE_VLAN,
    BridgeSpec,
    IpvlanSpec,
    Link,
    MacvlanSpec,
    NicSpec,
    Owner,
    Port,
    PortVlans,
    Sysctl,
    VethSpec,
    VlanSpec,
    VxlanSpec,
)
from ductwork.resources.link import Spec

IFF_UP, IFF_LOOPBACK = 0x1, 0x8
GROUP_BASE = 1 << 16
"""Groups that links are deleted by are above it."""
MACVLAN_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
IPVLAN_MODES = {"l2": 0, "l3": 1, "l3s": 2}
ISOLATED = 33
"""IFLA_BRPORT_ISOLATED, kernel 4.18."""
HAIRPIN = 4
"""IFLA_BRPORT_MODE."""
PVID, UNTAGGED = 0x02, 0x04
"""BRIDGE_VLAN_INFO_*."""
NO_NAMESPACE = -1
"""NETNSA_NSID_NOT_ASSIGNED: the container knows no number for the host's namespace."""
_MACVLAN_NAMES = {number: name for name, number in MACVLAN_MODES.items()}
_IPVLAN_NAMES = {number: name for name, number in IPVLAN_MODES.items()}
_DEVCONF = {"accept_ra": 3, "autoconf": 5, "disable_ipv6": 26}
"""What attachments set, by its place in include/uapi/linux/ipv6.h."""
_IFLA_LINK_NETNSID = 37
_INFO_SLAVE_KIND, _INFO_SLAVE_DATA = 4, 5
_VLAN_FILTERING = 7
"""IFLA_BR_VLAN_FILTERING."""
_VLANDB_ENTRY = 1

_IFINFO = struct.Struct("=BxHiII")
_BR_VLAN_MSG = struct.Struct("=Bxxxi")
_VLAN_INFO = struct.Struct("=HH")
_U16 = struct.Struct("=H")
_U32 = struct.Struct("=I")
_S32 = struct.Struct("=i")


def _number(payload: bytes | None) -> int:
    return int(_U32.unpack(payload)[0]) if payload else 0


def _short(payload: bytes | None) -> int:
    return int(_U16.unpack(payload)[0]) if payload else 0


Attributes = Mapping[int, bytes]


def attributes_of(body: bytes) -> dict[int, bytes]:
    """The attributes of RTM_NEWLINK, from which all else here is told."""
    return attributes(body, 16)


def far_end(body: bytes) -> int:
    """RTM_NEWLINK → the index of a veth's other end, 0 for what has none."""
    found = attributes_of(body)
    info = attributes(found[18]) if 18 in found else {}
    return _number(found.get(5)) if string(info.get(1, b"")) == "veth" else 0


def link(netns: str, body: bytes, found: Attributes, home: int) -> Link:
    """RTM_NEWLINK → Link. `home`: the cookie of the host's namespace."""
    _, _, index, flags, _ = _IFINFO.unpack_from(body)
    name = string(found[3])
    info = attributes(found[18]) if 18 in found else {}
    kind = string(info.get(1, b""))
    owner = Owner.from_alias(string(found[20]), name, kind) if 20 in found else None
    if owner and owner.device and owner.home != home:
        owner = None
    group = _number(found.get(27))
    return Link(
        netns=netns,
        name="lo" if flags & IFF_LOOPBACK else name,
        kind=kind,
        mac=found.get(1, b"").hex(":"),
        mtu_bytes=_number(found.get(4)),
        up=bool(flags & IFF_UP),
        spec=_spec(netns, kind, info, found, owner),
        owner=owner,
        group=group if group >= GROUP_BASE else 0,
        index=index,
        peer_index=_number(found.get(5)),
        master_index=_number(found.get(10)),
    )


def _spec(netns: str, kind: str, info: Attributes, found: Attributes, owner: Owner | None) -> Spec:
    if owner and owner.device:  # in its container, or sent home by the kernel when that died
        return NicSpec(owner.device)
    if kind == "veth":
        return VethSpec(owner.container, owner.interface) if owner and not netns else VethSpec("", "")
    if kind == "bridge":
        return BridgeSpec() if find(info.get(2, b""), _VLAN_FILTERING) == b"\1" else None
    if kind not in ("vxlan", "vlan", "macvlan", "ipvlan"):
        return None
    data = attributes(info.get(2, b""))
    parent = f"#{_number(found.get(5))}" if bool(netns) == (_IFLA_LINK_NETNSID in found) else ""
    match kind:
        case "vxlan":
            return _vxlan(data)
        case "vlan":
            return VlanSpec(parent, _short(data.get(1)))
        case "macvlan":
            return MacvlanSpec(parent, _MACVLAN_NAMES.get(_number(data.get(1)), "source"))
        case _:
            return IpvlanSpec(parent, _IPVLAN_NAMES.get(_short(data.get(1)), ""))


def _vxlan(data: Attributes) -> VxlanSpec:
    v4, v6 = data.get(4), data.get(17)
    underlay = _number(data.get(3))
    return VxlanSpec(
        vni=_number(data.get(1)),
        port=int.from_bytes(data.get(15, b"\0\0"), "big"),
        local=IPv4Address(v4) if v4 else IPv6Address(v6) if v6 else None,
        underlay=f"#{underlay}" if underlay else "",
    )


def claim(read: Link, found: Attributes, host_nsid: int) -> Link:
    """A container's link, less what it may not claim: a parent that is not the host's; a mark on anything but a NIC that was
    the host's, or a link that is born on a device of the host's."""
    if isinstance(read.spec, NicSpec):
        return read
    if isinstance(read.spec, VlanSpec | MacvlanSpec | IpvlanSpec):
        parents_nsid = found.get(_IFLA_LINK_NETNSID)
        if not parents_nsid or host_nsid == NO_NAMESPACE or _S32.unpack(parents_nsid)[0] != host_nsid:
            return replace(read, spec=replace(read.spec, parent=""), owner=None)
        return read if read.is_born_inside else replace(read, owner=None)
    return replace(read, owner=None)


def named(read: Link, names: Mapping[int, str]) -> Link:
    """With the names of its underlay or parent, where they are known."""
    match read.spec:
        case VxlanSpec(underlay=underlay) if underlay:
            return replace(read, spec=replace(read.spec, underlay=_name(underlay, names)))
        case VlanSpec(parent=parent) | MacvlanSpec(parent=parent) | IpvlanSpec(parent=parent) if parent and not read.netns:
            return replace(read, spec=replace(read.spec, parent=_name(parent, names)))
    return read


def _name(index: str, names: Mapping[int, str]) -> str:
    return names.get(int(index[1:]), index)


def mac(body: bytes) -> bytes:
    """The hardware address of a link in an answer to RTM_GETLINK."""
    return attributes(body, 16).get(1, b"")


def index(body: bytes) -> int:
    """The index of a link in an answer to RTM_GETLINK."""
    return int(_IFINFO.unpack_from(body)[2])


def nsid(body: bytes) -> int:
    """RTM_NEWNSID → the number by which a namespace knows another."""
    return int(_S32.unpack(attributes(body, 4)[1])[0])


def sysctls(read: Link, found: Attributes) -> list[Sysctl]:
    """A container's link's IPv6 parameters, which RTM_NEWLINK tells along (IFLA_INET6_CONF, an array of DEVCONF_*): reading
    their files would cost as much as all else (100 µs each for a link not looked at before)."""
    if read.name == "lo":
        return []
    inet6 = attributes(attributes(found.get(26, b"")).get(10, b""))
    values = inet6.get(2, b"")
    return [
        Sysctl(read.netns, f"net/ipv6/conf/{read.name}/{parameter}", str(_S32.unpack_from(values, 4 * at)[0]), link=read.name)
        for parameter, at in _DEVCONF.items()
        if len(values) >= 4 * at + 4
    ]


def is_port(found: Attributes) -> bool:
    """Whether a link's master is a bridge, and no bond, VRF or data path of Open vSwitch (`ovs-system`)."""
    return string(find(found.get(18, b""), _INFO_SLAVE_KIND) or b"") == "bridge"


def port(member: Link, bridge: str, found: Attributes, vlans: PortVlans | None) -> Port:
    """`found`: the member's attributes, what its bridge keeps of it among them (IFLA_INFO_SLAVE_DATA)."""
    told = find(found.get(18, b""), _INFO_SLAVE_DATA) or b""
    isolated, hairpin = (find(told, flag) == b"\1" for flag in (ISOLATED, HAIRPIN))
    return Port(member.netns, member.name, bridge, member.owner, vlans, isolated=isolated, hairpin=hairpin)


def vlans(body: bytes) -> tuple[int, PortVlans]:
    """RTM_NEWVLAN → (index, the VLANs of that port or bridge); what is alike and adjacent is told as a range."""
    access = 0
    tagged: list[int] = []
    for entry in each(body, _VLANDB_ENTRY, _BR_VLAN_MSG.size):
        found = attributes(entry)
        flags, vid = _VLAN_INFO.unpack(found[1])
        if flags & PVID:
            access = vid
        if flags & (PVID | UNTAGGED) != PVID | UNTAGGED:
            tagged += range(vid, (_short(found.get(2)) or vid) + 1)
    return int(_BR_VLAN_MSG.unpack_from(body)[1]), PortVlans(access, tuple(tagged))


def own_vlans(found: PortVlans) -> BridgeSpec:
    """What a bridge itself takes part in."""
    others = {found.access} - {0, NATIVE_VLAN}
    return BridgeSpec(found.access == NATIVE_VLAN, tuple(sorted({*found.tagged, *others})))
