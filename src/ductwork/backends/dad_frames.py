"""Duplicate address detection on the wire: the frames that ask, and what others' frames tell.

Invariant: nothing here touches anything; a frame is bytes from its Ethernet header on, and what is malformed tells nothing.
IPv4: ARP probes (RFC 5227). IPv6: neighbour solicitations from the unspecified address (RFC 4862, section 5.4), as RFC 4861
lays them out. Checksums of what is received are not looked at: between virtual links they may still be missing, and
Ethernet has its own.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from ductwork.resources import IPAddress

ETH_P_ARP, ETH_P_IPV6, ETH_P_8021Q = 0x0806, 0x86DD, 0x8100
ICMPV6, NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT = 58, 135, 136
ALL_NODES_MAC = bytes.fromhex("333300000001")
"""Where a neighbour advertisement goes that answers somebody without an address (RFC 4861, section 7.2.4)."""

_BROADCAST_MAC = b"\xff" * 6
_NO_MAC = bytes(6)
_ETHERNET = struct.Struct("!6s6sH")
_ARP = struct.Struct("!HHBBH6s4s6s4s")
_ARP_REQUEST, _ARP_REPLY = 1, 2
_ARP_OF_ETHERNET_AND_IPV4 = (1, 0x0800, 6, 4)
_IPV6 = struct.Struct("!IHBB16s16s")
_SOLICITED_NODE = IPv6Address("ff02::1:ff00:0").packed[:13]
_NEIGHBOUR = struct.Struct("!BBHI16s")
_TARGET_LINK_LAYER_ADDRESS = 2
_HOP_LIMIT = 255
"""Receivers drop what may have been forwarded (RFC 4861, section 7.1)."""


class Claim(NamedTuple):
    """Who has an address, or is about to take it (`probing`) like us."""

    address: IPAddress
    mac: str
    probing: bool


def question(address: IPAddress, mac: bytes, vlan: int = 0) -> bytes:
    """The frame that asks whether anybody has `address`. `mac`: the sender's six octets, where ARP replies go."""
    if isinstance(address, IPv4Address):
        kind, destination = ETH_P_ARP, _BROADCAST_MAC
        payload = _ARP.pack(*_ARP_OF_ETHERNET_AND_IPV4, _ARP_REQUEST, mac, bytes(4), _NO_MAC, address.packed)
    else:
        kind, destination = ETH_P_IPV6, group_mac(address)
        payload = _solicitation(address)
    tag = struct.pack("!HH", ETH_P_8021Q, vlan) if vlan else b""
    return destination + mac + tag + struct.pack("!H", kind) + payload


def group_mac(address: IPv6Address) -> bytes:
    """The Ethernet address of the solicited-node group, where those who have or want `address` listen."""
    return b"\x33\x33\xff" + address.packed[13:]


def claim_of(frame: bytes) -> Claim | None:
    """What an untagged frame says of an address; None: nothing, or it is malformed."""
    try:
        _, source, kind = _ETHERNET.unpack_from(frame)
        if kind == ETH_P_ARP:
            return _arp_claim(frame)
        return _neighbour_claim(frame, source) if kind == ETH_P_IPV6 else None
    except struct.error:  # cut short
        return None


def _solicitation(address: IPv6Address) -> bytes:
    group = _SOLICITED_NODE + address.packed[13:]
    message = _NEIGHBOUR.pack(NEIGHBOUR_SOLICITATION, 0, 0, 0, address.packed)
    checksum = _checksum(bytes(16) + group + struct.pack("!II", len(message), ICMPV6) + message)
    message = _NEIGHBOUR.pack(NEIGHBOUR_SOLICITATION, 0, checksum, 0, address.packed)
    return _IPV6.pack(6 << 28, len(message), ICMPV6, _HOP_LIMIT, bytes(16), group) + message


def _checksum(data: bytes) -> int:
    """RFC 1071, of an even number of octets."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _arp_claim(frame: bytes) -> Claim | None:
    """Whoever sends with an address has it; whoever asks for one without having any probes (RFC 5227, section 2.1.1)."""
    *form, operation, sender_mac, sender, _, target = _ARP.unpack_from(frame, _ETHERNET.size)
    if tuple(form) != _ARP_OF_ETHERNET_AND_IPV4 or operation not in (_ARP_REQUEST, _ARP_REPLY):
        return None
    if any(sender):
        return Claim(IPv4Address(sender), _text(sender_mac), False)
    return Claim(IPv4Address(target), _text(sender_mac), True) if operation == _ARP_REQUEST else None


def _neighbour_claim(frame: bytes, source: bytes) -> Claim | None:
    """An advertisement is of its target; a solicitation comes from its sender, or is a probe for its target."""
    head, length, following, hops, sender, _ = _IPV6.unpack_from(frame, _ETHERNET.size)
    start = _ETHERNET.size + _IPV6.size
    kind, code, _, _, target = _NEIGHBOUR.unpack_from(frame, start)
    if (head >> 28, following, hops, code) != (6, ICMPV6, _HOP_LIMIT, 0):
        return None
    if kind == NEIGHBOUR_ADVERTISEMENT:
        mac = _target_mac(frame[start + _NEIGHBOUR.size : start + length]) or source
        return Claim(IPv6Address(target), _text(mac), False)
    if kind != NEIGHBOUR_SOLICITATION:
        return None
    return Claim(IPv6Address(sender if any(sender) else target), _text(source), not any(sender))


def _target_mac(options: bytes) -> bytes:
    """The six octets of the target link-layer address option; empty: there is none. (Options count in eights.)"""
    while len(options) >= 8 and options[1]:
        if options[0] == _TARGET_LINK_LAYER_ADDRESS:
            return options[2:8]
        options = options[8 * options[1] :]
    return b""


def _text(mac: bytes) -> str:
    return mac.hex(":")
