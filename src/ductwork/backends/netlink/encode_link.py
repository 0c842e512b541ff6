"""Links and ports → netlink requests. Links are named by index alone, so that a request can never hit a foreign namesake.

Sources: include/uapi/linux/{if_link,if_bridge,net_namespace}.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import groupby

from ductwork.backends.netlink.decode_link import (
    HAIRPIN,
    IFF_UP,
    IPVLAN_MODES,
    ISOLATED,
    MACVLAN_MODES,
    NO_NAMESPACE,
    PVID,
    UNTAGGED,
)
from ductwork.backends.netlink.encode import AF_BRIDGE, RTM_DELLINK, RTM_NEWLINK, RTM_NEWNSID, RTM_SETLINK
from ductwork.backends.netlink.wire import NLM_F_CREATE, NLM_F_EXCL, Message, attribute, nested, text, u32
from ductwork.resources import (
    NATIVE_VLAN,
    BridgeSpec,
    IpvlanSpec,
    Link,
    MacvlanSpec,
    Port,
    PortVlans,
    VlanSpec,
    VxlanSpec,
)

_VETH_INFO_PEER = 1
_IFLA_NET_NS_FD, _IFLA_LINK_NETNSID, _IFLA_NEW_IFINDEX = 28, 37, 49
_NETNSA_NSID, _NETNSA_FD = 1, 3
_RANGE_BEGIN, _RANGE_END = 0x08, 0x10
_BRIDGE_FLAGS_SELF = 2

_IFINFO = struct.Struct("=BxHiII")
_BR_VLAN_MSG = struct.Struct("=Bxxxi")
_U16 = struct.Struct("=H")
_S32 = struct.Struct("=i")
_VLAN_INFO = struct.Struct("=HH")
_BOOLEANS = struct.Struct("=II")

_NO_LINK_LOCAL = nested(26, nested(10, attribute(8, b"\x01")))
"""IFLA_AF_SPEC, AF_INET6, IFLA_INET6_ADDR_GEN_MODE: IN6_ADDR_GEN_MODE_NONE."""


def ifinfo(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    return _IFINFO.pack(0, 0, index, flags, change)


def _mac(value: str) -> bytes:
    return bytes.fromhex(value.replace(":", ""))


def _identity(link: Link) -> bytes:
    """A bridge is born with another MTU than its own: only one that was changed stays when a port with a smaller one joins
    (BROPT_MTU_SET_BY_USER), and `finish_link` changes it. Not below 1280, where IPv6 would go. An ipvlan has its parent's
    MAC."""
    mtu_bytes = link.mtu_bytes ^ 1 if link.kind == "bridge" else link.mtu_bytes
    address = attribute(1, _mac(link.mac)) if link.kind != "ipvlan" else b""
    return text(3, link.name) + address + u32(4, mtu_bytes)


def new_link(link: Link, index: int, data: bytes, master: int, parent: bytes = b"") -> Message:
    """Create a link, on its `parent`, a port of `master` where that is not 0, and up: all in one request. (An ifb would have a
    link-local address at once.)"""
    flags = IFF_UP if link.up and link.kind != "ifb" else 0
    body = ifinfo(index, flags, flags) + _identity(link) + parent
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


def on_parent(index: int, nsid: int | None) -> bytes:
    """The device that a link is made on; `nsid`: by which number its namespace is known where the link is made, if that is
    another."""
    return u32(5, index) + (u32(_IFLA_LINK_NETNSID, nsid) if nsid is not None else b"")


def parent_data(spec: VlanSpec | MacvlanSpec | IpvlanSpec) -> bytes:
    match spec:
        case VlanSpec(vid=vid):
            return attribute(1, _U16.pack(vid))
        case MacvlanSpec(mode=mode):
            return u32(1, MACVLAN_MODES[mode])
        case IpvlanSpec(mode=mode):
            return attribute(1, _U16.pack(IPVLAN_MODES[mode]))


def bridge_data(spec: BridgeSpec | None) -> bytes:
    """IFLA_BR_MULTI_BOOLOPT with BR_BOOLOPT_NO_LL_LEARN alone: what is addressed to the bridge itself, such as LLDP, does not
    come by the packet filter, and would teach it any MAC (seen on 6.18)."""
    return attribute(46, _BOOLEANS.pack(1, 1)) + (_telling_vlans_apart(spec) if spec else b"")


def _telling_vlans_apart(spec: BridgeSpec | None) -> bytes:
    """IFLA_BR_VLAN_FILTERING, which some kernels have not, even to switch it off."""
    return attribute(7, b"\1" if spec else b"\0")


def born_inside(link: Link, index: int, data: bytes, parent: bytes) -> tuple[Message, Message, Message]:
    """A link on a device of another namespace, which must come in under a name that nobody has: before kernel 6.15 it is made
    in its parent's namespace and then moved, so that its name must be free there too, and that it arrives down. The third
    request is for where the second is refused, its name being taken here: nothing is left then."""
    passing_name = f"dw{index:x}"
    made = new_link(replace(link, name=passing_name, up=False), index, data, 0, parent)
    flags = IFF_UP if link.up else 0
    named = Message(RTM_SETLINK, 0, ifinfo(index, flags, flags) + text(3, link.name) + _alias(link))
    return made, named, Message(RTM_DELLINK, 0, ifinfo() + text(3, passing_name))


def finish_link(link: Link, index: int) -> Message:
    """What the creating request ignores: the mark, a bridge's own MTU, and that a mere passage needs no link-local address (it
    has none yet: the other end of a pair is down)."""
    body = _alias(link) if link.owner else b""
    body += u32(4, link.mtu_bytes) if link.kind == "bridge" else b""
    body += _NO_LINK_LOCAL if link.is_passage else b""
    return Message(RTM_SETLINK, 0, ifinfo(index) + body)


def _alias(link: Link) -> bytes:
    return attribute(20, link.owner.alias(link.name, link.kind).encode() if link.owner else b"")


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
        body += _alias(after)
    return Message(RTM_SETLINK, 0, body)


def update_bridge(index: int, after: BridgeSpec | None) -> Message:
    """Whether it tells VLANs apart is a matter of its kind, which RTM_SETLINK does not look at."""
    return Message(RTM_NEWLINK, 0, ifinfo(index) + nested(18, text(1, "bridge"), nested(2, _telling_vlans_apart(after))))


def port_flags(index: int, had: Port, want: Port) -> Iterator[Message]:
    """What differs of a bridge's port but its VLANs."""
    flags = ((ISOLATED, had.isolated, want.isolated), (HAIRPIN, had.hairpin, want.hairpin))
    body = b"".join(attribute(flag, b"\1" if after else b"\0") for flag, before, after in flags if before != after)
    if body:
        yield _bridge_setting(index, RTM_SETLINK, nested(12, body))


def port_vlans(index: int, had: PortVlans | None, want: PortVlans | None) -> Iterator[Message]:
    """From the VLANs that a port has to those that it is to have; None: as it was born."""
    return _change_vlans(index, _flags(had or PortVlans()), _flags(want or PortVlans()), b"")


def own_vlans(index: int, had: BridgeSpec | None, want: BridgeSpec | None) -> Iterator[Message]:
    """The same for a bridge itself."""
    which = attribute(0, _U16.pack(_BRIDGE_FLAGS_SELF))
    return _change_vlans(index, _own_flags(had or BridgeSpec()), _own_flags(want or BridgeSpec()), which)


def _own_flags(spec: BridgeSpec) -> dict[int, int]:
    return _flags(PortVlans(NATIVE_VLAN if spec.native else 0, spec.tagged))


def _flags(vlans: PortVlans) -> dict[int, int]:
    found = dict.fromkeys(vlans.tagged, 0)
    if vlans.access:
        found[vlans.access] = PVID if vlans.access in found else PVID | UNTAGGED
    return found


def _change_vlans(index: int, had: Mapping[int, int], want: Mapping[int, int], which: bytes) -> Iterator[Message]:
    added = [(vid, flags) for vid, flags in sorted(want.items()) if had.get(vid) != flags]
    gone = [(vid, 0) for vid in sorted(had) if vid not in want]
    for kind, vlans in ((RTM_SETLINK, added), (RTM_DELLINK, gone)):
        if vlans:
            yield _bridge_setting(index, kind, nested(26, which, *_ranges(vlans)))


def _ranges(vlans: Iterable[tuple[int, int]]) -> Iterator[bytes]:
    """IFLA_BRIDGE_VLAN_INFO, adjacent VLANs of the same flags as two; sorted. A port's own VLAN stands alone."""
    for _, group in groupby(enumerate(vlans), lambda item: (item[1][0] - item[0], item[1][1])):
        run = [vlan for _, vlan in group]
        (first, flags), (last, _) = run[0], run[-1]
        if first == last:
            yield attribute(2, _VLAN_INFO.pack(flags, first))
        else:
            yield attribute(2, _VLAN_INFO.pack(flags | _RANGE_BEGIN, first))
            yield attribute(2, _VLAN_INFO.pack(flags | _RANGE_END, last))


def _bridge_setting(index: int, kind: int, setting: bytes) -> Message:
    return Message(kind, 0, _IFINFO.pack(AF_BRIDGE, 0, index, 0, 0) + setting)


def vlans_request(index: int) -> bytes:
    """The body of a dump of the VLANs of one port or bridge; 0: of all."""
    return _BR_VLAN_MSG.pack(AF_BRIDGE, index)


def move(index: int, netns_fd: int, link: Link, new_index: int) -> Message:
    """Into another namespace, and there renamed (the move itself keeps the name) and marked."""
    body = ifinfo(index) + u32(_IFLA_NET_NS_FD, netns_fd) + text(3, link.name) + u32(_IFLA_NEW_IFINDEX, new_index)
    return Message(RTM_SETLINK, 0, body + _alias(link))


def configure(link: Link, index: int) -> Message:
    """What a link is to be that something else has made: a NIC that has arrived in a container, a switch's own device."""
    flags = IFF_UP if link.up else 0
    return Message(RTM_SETLINK, 0, ifinfo(index, flags, IFF_UP) + attribute(1, _mac(link.mac)) + u32(4, link.mtu_bytes))


def move_home(index: int, netns_fd: int, name: str) -> Message:
    """Into the host's namespace, under its own name, without a mark; the move takes it down."""
    return Message(RTM_SETLINK, 0, ifinfo(index) + u32(_IFLA_NET_NS_FD, netns_fd) + text(3, name) + attribute(20, b""))


def ask_nsid(netns_fd: int) -> bytes:
    """By which number the socket's namespace knows that of the descriptor."""
    return bytes(4) + u32(_NETNSA_FD, netns_fd)


def give_nsid(netns_fd: int) -> Message:
    """A number of the kernel's choice."""
    return Message(RTM_NEWNSID, 0, bytes(4) + attribute(_NETNSA_NSID, _S32.pack(NO_NAMESPACE)) + u32(_NETNSA_FD, netns_fd))


def delete_link(index: int) -> Message:
    return Message(RTM_DELLINK, 0, ifinfo(index))


def delete_group(group: int) -> Message:
    return Message(RTM_DELLINK, 0, ifinfo() + u32(27, group))
