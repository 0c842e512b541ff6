"""Servers that tell a client the address it seems to have, and clients that ask them: TCP, UDP, and SCTP by hand.

SCTP is spoken as far as its handshake's first two messages (RFC 9260, sections 3.3.2 and 3.3.3), through raw sockets, since a
kernel may have it in its packet filter alone. `refused` and `silent` are the answers where there is none.
"""

from __future__ import annotations

import random
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from conftest import inside

REFUSED, SILENT = "refused", "silent"
PATIENCE = 3.0
SILENCE = 0.5
"""Seconds: what must not answer is not waited for as long as what must."""
_SCTP = 132
_INIT, _INIT_ACK = 1, 2


@dataclass
class Server:
    """Answers on one port of each protocol until it is closed."""

    ns: str
    port: int

    def __post_init__(self) -> None:
        self._end, self._ended = socket.socketpair()
        self._sockets = inside(self.ns, self._open)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._end.send(b"x")
        self._thread.join()
        for opened in (*self._sockets, self._end, self._ended):
            opened.close()

    def _open(self) -> list[socket.socket]:
        stream, datagram = (socket.socket(socket.AF_INET6, kind) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM))
        for opened in (stream, datagram):
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            opened.bind(("::", self.port))
        stream.listen(64)
        raw = [socket.socket(family, socket.SOCK_RAW, _SCTP) for family in (socket.AF_INET, socket.AF_INET6)]
        return [stream, datagram, *raw]

    def _serve(self) -> None:
        stream, datagram, *_ = self._sockets
        while True:
            for ready in select.select([self._ended, *self._sockets], [], [])[0]:
                if ready is self._ended:
                    return
                if ready is stream:
                    connection, peer = stream.accept()
                    with connection:
                        connection.sendall(_plain(peer[0]).encode())
                elif ready is datagram:
                    _, peer = datagram.recvfrom(100)
                    datagram.sendto(_plain(peer[0]).encode(), peer)
                else:
                    self._init_ack(ready)

    def _init_ack(self, raw: socket.socket) -> None:
        data, peer = raw.recvfrom(2000)
        packet = data[(data[0] & 15) * 4 :] if raw.family == socket.AF_INET else data
        source, to, _, _ = struct.unpack_from("!HHII", packet)
        if to == self.port and packet[12] == _INIT:
            (tag,) = struct.unpack_from("!I", packet, 16)
            raw.sendto(_packet(self.port, source, tag, _INIT_ACK, _plain(peer[0]).encode()), (peer[0], 0))


@contextmanager
def served(*places: tuple[str, int]) -> Iterator[None]:
    """Servers at (namespace, port)."""
    with ExitStack() as stack:
        for ns, port in places:
            stack.callback(Server(ns, port).close)
        yield


def ask(ns: str, address: str, port: int, protocol: str, expected: str = "") -> str:
    """The address that a client in a namespace has for who answers there. Of what should not answer, silence is believed
    soon."""
    patience = SILENCE if expected == SILENT else PATIENCE
    return inside(ns, lambda: _asked(address, port, protocol, patience))


def _asked(address: str, port: int, protocol: str, patience: float) -> str:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    if protocol == "sctp":
        return _init(family, address, port, patience)
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(family, kind) as client:
        client.settimeout(patience)
        try:
            client.connect((address, port))
            if protocol == "udp":
                client.send(b"?")
            return client.recv(100).decode()
        except (ConnectionRefusedError, ConnectionResetError):
            return REFUSED
        except TimeoutError:
            return SILENT
        except OSError as error:
            return str(error)


def send_frame(ifname: str, mac: str, source: str, to: str, port: int) -> None:
    """A datagram from port 7 (RFC 768: without a checksum)."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800)) as wire:
        wire.bind((ifname, 0x0800))
        payload = b"loopback"
        datagram = struct.pack("!HHHH", 7, port, 8 + len(payload), 0) + payload
        head = (
            struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(datagram), 0, 0, 64, 17, 0)
            + socket.inet_aton(source)
            + socket.inet_aton(to)
        )
        total = sum(struct.unpack("!10H", head))
        total = (total & 0xFFFF) + (total >> 16)
        head = head[:10] + struct.pack("!H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF) + head[12:]
        wire.send(bytes.fromhex(mac.replace(":", "")) + wire.getsockname()[4] + b"\x08\x00" + head + datagram)


def _init(family: int, address: str, port: int, patience: float) -> str:
    own, deadline = random.randrange(40000, 60000), time.monotonic() + patience
    with socket.socket(family, socket.SOCK_RAW, _SCTP) as raw:
        raw.connect((address, 0))
        raw.send(_packet(own, port, 0, _INIT, b""))
        while (left := deadline - time.monotonic()) > 0:
            if not select.select([raw], [], [], left)[0]:
                break
            try:
                data = raw.recv(2000)
            except OSError:
                return REFUSED
            packet = data[(data[0] & 15) * 4 :] if family == socket.AF_INET else data
            if struct.unpack_from("!HH", packet) == (port, own) and packet[12] == _INIT_ACK:
                (length,) = struct.unpack_from("!H", packet, 34)
                return packet[36 : 32 + length].decode()
    return SILENT


def _packet(source: int, to: int, verification: int, kind: int, told: bytes) -> bytes:
    """A common header and one INIT or INIT ACK, with what is told as an unknown parameter that is to be skipped (0xC000)."""
    tlv = struct.pack("!HH", 0xC000, 4 + len(told)) + told if told else b""
    chunk = struct.pack("!BBHIIHHI", kind, 0, 20 + len(tlv), 0x12345678, 65536, 1, 1, 1) + tlv
    head = struct.pack("!HHI", source, to, verification)
    padded = chunk + b"\0" * (-len(chunk) % 4)
    return head + struct.pack("<I", _crc32c(head + bytes(4) + padded)) + padded


def _crc32c(data: bytes) -> int:
    """RFC 9260, appendix A."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def _plain(address: str) -> str:
    return address.removeprefix("::ffff:")
