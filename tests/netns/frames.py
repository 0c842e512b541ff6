"""Ethernet frames made by hand, sent from inside a namespace and looked for in another.

A frame is its bytes from the destination on. `Ear` keeps what an interface hears; whether a frame has *not* come is told by
one sent after it, since a port keeps the order.
"""

from __future__ import annotations

import socket
import struct
import time
from ipaddress import IPv6Address, ip_address
from types import TracebackType

from conftest import inside

BROADCAST = "ff:ff:ff:ff:ff:ff"
IPV4, ARP, IPV6, EXPERIMENT = 0x0800, 0x0806, 0x86DD, 0x88B5
VLAN, SERVICE_VLAN = 0x8100, 0x88A8
UDP, ICMPV6, DESTINATION_OPTIONS = 17, 58, 60
REQUEST, REPLY = 1, 2
_ETH_P_ALL = 3
_SO_RCVBUFFORCE = 33


def raw(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def ethernet(source: str, destination: str, kind: int, payload: bytes) -> bytes:
    return raw(destination) + raw(source) + struct.pack("!H", kind) + payload


def tagged(frame: bytes, vid: int, kind: int = VLAN) -> bytes:
    return frame[:12] + struct.pack("!HH", kind, vid) + frame[12:]


def untagged(frame: bytes) -> bytes:
    """Without its tags, as a packet socket gives it."""
    while struct.unpack_from("!H", frame, 12)[0] in (VLAN, SERVICE_VLAN):
        frame = frame[:12] + frame[16:]
    return frame


def arp(operation: int, mac: str, sender: str, target: str) -> bytes:
    head = struct.pack("!HHBBH", 1, IPV4, 6, 4, operation)
    return head + raw(mac) + ip_address(sender).packed + bytes(6) + ip_address(target).packed


def udp4(source: str, destination: str, ports: tuple[int, int] = (4000, 4001), text: bytes = b"") -> bytes:
    datagram = struct.pack("!HHHH", *ports, 8 + len(text), 0) + text
    addresses = ip_address(source).packed + ip_address(destination).packed
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(datagram), 0, 0, 64, UDP, 0) + addresses
    return head[:10] + struct.pack("!H", _checksum(head)) + head[12:] + datagram


def udp6(source: str, destination: str, ports: tuple[int, int] = (4000, 4001), text: bytes = b"") -> bytes:
    length = 8 + len(text)
    datagram = struct.pack("!HHHH", *ports, length, 0) + text
    checksum = _checksum6(source, destination, UDP, datagram)
    return ipv6(source, destination, UDP, datagram[:6] + struct.pack("!H", checksum) + datagram[8:])


def icmp6(source: str, destination: str, kind: int, body: bytes, before: bytes = b"") -> bytes:
    """`before`: an extension header, whose first octet says that ICMPv6 follows."""
    message = struct.pack("!BBH", kind, 0, 0) + body
    checksum = _checksum6(source, destination, ICMPV6, message)
    message = message[:2] + struct.pack("!H", checksum) + message[4:]
    return ipv6(source, destination, DESTINATION_OPTIONS if before else ICMPV6, before + message, hops=255)


def ipv6(source: str, destination: str, following: int, payload: bytes, hops: int = 64) -> bytes:
    head = struct.pack("!IHBB", 6 << 28, len(payload), following, hops)
    return head + IPv6Address(source).packed + IPv6Address(destination).packed + payload


def neighbour(target: str, option: int = 0, mac: str = "", flags: int = 0) -> bytes:
    """The body of a solicitation or advertisement; `option`: 1 source, 2 target link-layer address."""
    tail = struct.pack("!BB", option, 1) + raw(mac) if option else b""
    return struct.pack("!I", flags << 24) + IPv6Address(target).packed + tail


def _checksum6(source: str, destination: str, kind: int, message: bytes) -> int:
    pseudo = IPv6Address(source).packed + IPv6Address(destination).packed + struct.pack("!II", len(message), kind)
    return _checksum(pseudo + message)


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _packet_socket(ns: str, ifname: str, kind: int) -> socket.socket:
    def make() -> socket.socket:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(kind))
        opened.bind((ifname, kind))
        return opened

    return inside(ns, make)


def send(ns: str, ifname: str, *frames: bytes) -> None:
    """In this order."""
    with _packet_socket(ns, ifname, 0) as opened:
        for frame in frames:
            opened.send(frame)


class Ear:
    """What an interface hears, from entering the context on."""

    def __init__(self, ns: str, ifname: str) -> None:
        self._socket = _packet_socket(ns, ifname, _ETH_P_ALL)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 24)
        self.heard: list[bytes] = []

    def __enter__(self) -> Ear:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._socket.close()

    def until(self, frame: bytes, seconds: float = 20.0) -> None:
        """Listen until `frame` has come."""
        deadline = time.monotonic() + seconds
        while frame not in self.heard:
            self._socket.settimeout(max(0.01, deadline - time.monotonic()))
            self.heard.append(self._socket.recv(1 << 16))

    def has(self, frame: bytes) -> bool:
        return untagged(frame) in self.heard
