"""The floor: the netlink messages of one attach and nothing else, so that everything above it is overhead.

Invariant: written by hand and independent of ductwork's codec, so that a regression there cannot lower the floor too.
Layouts: rtnetlink(7), linux/if_link.h, linux/veth.h.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from bench.hosts import inside, path

_NEWLINK, _SETLINK, _NEWADDR, _NEWROUTE, _NEWNEIGH = 16, 19, 20, 24, 28
_REQUEST, _ACK, _CREATE_EXCL = 0x1, 0x4, 0x600
_ERROR = 2
_IFF_UP = 1
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MASTER, _IFLA_LINKINFO, _IFLA_IFALIAS, _IFLA_NET_NS_FD = 1, 3, 10, 18, 20, 28
_INFO_KIND, _INFO_DATA, _VETH_INFO_PEER = 1, 2, 1
_NTF_USE, _NUD_NONE = 1, 0


@dataclass(frozen=True, slots=True)
class Pair:
    """What one attach needs to know; the address is that of a /24."""

    host_ifname: str
    host_index: int
    host_mac: bytes
    bridge_index: int
    interface: str
    index: int
    mac: bytes
    address: bytes
    gateway: bytes
    alias: str


def attach(container: str, pair: Pair) -> None:
    """Two sends: one on the host, one in the container, through sockets opened for it."""
    netns = os.open(path(container), os.O_RDONLY | os.O_CLOEXEC)
    try:
        with _open() as host:
            _send(host, _host_messages(pair, netns))
    finally:
        os.close(netns)
    with inside(container):
        there = _open()
    with there:
        _send(there, _container_messages(pair))


def _host_messages(pair: Pair, netns: int) -> list[bytes]:
    peer = _ifinfo(pair.index) + _attr(_IFLA_IFNAME, _text(pair.interface)) + _attr(_IFLA_ADDRESS, pair.mac)
    peer += _attr(_IFLA_NET_NS_FD, struct.pack("=I", netns))
    veth = _attr(_INFO_KIND, b"veth") + _attr(_INFO_DATA, _attr(_VETH_INFO_PEER, peer))
    link = _ifinfo(pair.host_index, up=True) + _attr(_IFLA_IFNAME, _text(pair.host_ifname))
    link += _attr(_IFLA_ADDRESS, pair.host_mac) + _attr(_IFLA_MASTER, struct.pack("=I", pair.bridge_index))
    link += _attr(_IFLA_LINKINFO, veth)
    mark = _ifinfo(pair.host_index) + _attr(_IFLA_IFALIAS, pair.alias.encode())
    return [_message(_NEWLINK, _CREATE_EXCL, link), _message(_SETLINK, 0, mark)]


def _container_messages(pair: Pair) -> list[bytes]:
    broadcast = pair.address[:3] + b"\xff"
    address = struct.pack("=BBBBI", socket.AF_INET, 24, 0, 0, pair.index)
    address += _attr(1, pair.address) + _attr(2, pair.address) + _attr(4, broadcast)
    route = struct.pack("=BBBBBBBBI", socket.AF_INET, 0, 0, 0, 254, 4, 0, 1, 0)
    route += _attr(4, struct.pack("=I", pair.index)) + _attr(5, pair.gateway)
    announce = struct.pack("=BxxxiHBB", socket.AF_INET, pair.index, _NUD_NONE, _NTF_USE, 0) + _attr(1, pair.address)
    return [
        _message(_SETLINK, 0, _ifinfo(pair.index, up=True)),
        _message(_NEWADDR, _CREATE_EXCL, address),
        _message(_NEWROUTE, _CREATE_EXCL, route),
        _message(_NEWNEIGH, 0x400, announce),
    ]


def _open() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)


def _send(opened: socket.socket, messages: Iterable[bytes]) -> None:
    """All in one send; every acknowledgement is read."""
    numbered = [m[:8] + struct.pack("=I", n) + m[12:] for n, m in enumerate(messages, 1)]
    opened.send(b"".join(numbered))
    awaited = len(numbered)
    while awaited:
        answer = opened.recv(65536)
        while answer:
            length, kind, _, number = struct.unpack_from("=IHHI", answer)
            code = -int.from_bytes(answer[16:20], "little", signed=True) if kind == _ERROR else 0
            if code:
                raise OSError(code, f"message {number}: {os.strerror(code)}")
            awaited -= 1
            answer = answer[(length + 3) & ~3 :]


def _message(kind: int, flags: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, _REQUEST | _ACK | flags, 0, 0) + body


def _ifinfo(index: int, up: bool = False) -> bytes:
    return struct.pack("=BxHiII", 0, 0, index, _IFF_UP * up, _IFF_UP * up)


def _attr(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _text(value: str) -> bytes:
    return value.encode() + b"\0"
