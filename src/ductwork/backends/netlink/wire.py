"""Netlink on the wire: messages, attributes, and a socket that sends many requests at once and hears one answer for each.

Invariant: every request asks for an acknowledgement, extended (NETLINK_EXT_ACK), so an error is the kernel's own words.
Source: Documentation/userspace-api/netlink/intro.rst, include/uapi/linux/netlink.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x100, 0x200, 0x400, 0x800

_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_CAPPED, _NLM_F_ACK_TLVS = 0x100, 0x200
_NLMSGERR_ATTR_MSG = 1
_NLA_TYPE = 0x3FFF
_NLA_NESTED = 0x8000
_SOL_NETLINK, _CAP_ACK, _EXT_ACK, _GET_STRICT_CHK = 270, 10, 11, 12
_SO_RCVBUFFORCE = 33
_RECEIVE_BYTES = 1 << 16
_BATCH_BYTES = 1 << 15
"""A send must fit the socket's buffer (212,992 bytes by default), and its answers the receive buffer."""
_BATCH_MESSAGES = 100

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_U32 = struct.Struct("=I")


class Message(NamedTuple):
    """A request: its type, flags beyond REQUEST and ACK, and its body."""

    type: int
    flags: int
    body: bytes


class Refusal(NamedTuple):
    """The kernel's answer to one request; `code` 0: done."""

    code: int
    text: str

    def __str__(self) -> str:
        reason = os.strerror(self.code) if self.code else ""
        return f"{reason} ({self.text.rstrip('.')})" if self.text else reason


DONE = Refusal(0, "")


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    length = len(payload) + 4
    return _ATTRIBUTE.pack(length, kind) + payload + b"\0" * (-length % 4)


def u32(kind: int, value: int) -> bytes:
    return _ATTRIBUTE.pack(8, kind) + _U32.pack(value)


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def nested(kind: int, *attributes: bytes) -> bytes:
    return attribute(kind | _NLA_NESTED, b"".join(attributes))


def attributes(data: bytes, start: int = 0) -> dict[int, bytes]:
    """The attributes of a message's body from `start`: type → payload."""
    found = {}
    end = len(data)
    unpack = _ATTRIBUTE.unpack_from
    while start + 4 <= end:
        length, kind = unpack(data, start)
        if length < 4:
            break
        found[kind & _NLA_TYPE] = data[start + 4 : start + length]
        start += (length + 3) & ~3
    return found


def find(data: bytes, wanted: int) -> bytes | None:
    """The payload of one attribute, without those behind it being looked at: some of the kernel's lists are long."""
    start, end = 0, len(data)
    unpack = _ATTRIBUTE.unpack_from
    while start + 4 <= end:
        length, kind = unpack(data, start)
        if kind & _NLA_TYPE == wanted:
            return data[start + 4 : start + length]
        if length < 4:
            break
        start += (length + 3) & ~3
    return None


def each(data: bytes, wanted: int, start: int) -> Iterator[bytes]:
    """The payloads of all attributes of one type from `start`, where they are an array."""
    while start + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, start)
        if length < 4:
            break
        if kind & _NLA_TYPE == wanted:
            yield data[start + 4 : start + length]
        start += (length + 3) & ~3


def string(payload: bytes) -> str:
    return payload.rstrip(b"\0").decode(errors="replace")


class NetlinkSocket:
    """A socket of the namespace of the thread that opens it: NETLINK_ROUTE's, unless another protocol is named."""

    def __init__(self, protocol: int = 0) -> None:
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self.socket.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
        self.socket.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
        self.socket.setsockopt(_SOL_NETLINK, _GET_STRICT_CHK, 1)
        self._sequence = 0

    def __enter__(self) -> NetlinkSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def enlarge(self) -> None:
        """Room for the answers of large dumps."""
        self.socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 22)

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        """The bodies of a dump's answers."""
        self._sequence += 1
        self.socket.send(_HEADER.pack(16 + len(body), kind, NLM_F_REQUEST | NLM_F_DUMP, self._sequence, 0) + body)
        found: list[bytes] = []
        while True:
            for message_type, _, sequence, answer in self._receive():
                if sequence != self._sequence:
                    continue  # the answer to a request whose caller was interrupted
                if message_type == _NLMSG_DONE:
                    return found
                if message_type == _NLMSG_ERROR:
                    code = -struct.unpack_from("=i", answer)[0]
                    if code:
                        raise OSError(code, os.strerror(code))
                    return found
                found.append(answer)

    def get(self, kind: int, body: bytes) -> bytes | None:
        """The answer to one request, or None if there is no such thing."""
        self._sequence += 1
        self.socket.send(_HEADER.pack(16 + len(body), kind, NLM_F_REQUEST, self._sequence, 0) + body)
        while True:
            for message_type, _, sequence, answer in self._receive():
                if sequence != self._sequence:
                    continue
                if message_type != _NLMSG_ERROR:
                    return answer
                code = -struct.unpack_from("=i", answer)[0]
                if code not in (errno.ENODEV, errno.ENOENT):
                    raise OSError(code, os.strerror(code))
                return None

    def batches(self, messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
        """Cut a long list of requests so that each piece fits one send."""
        start = size = 0
        for position, message in enumerate(messages):
            size += 16 + len(message.body)
            if position > start and (size > _BATCH_BYTES or position - start >= _BATCH_MESSAGES):
                yield messages[start:position]
                start, size = position, 16 + len(message.body)
        if start < len(messages):
            yield messages[start:]

    def execute(self, messages: Sequence[Message]) -> list[Refusal]:
        """Send all in one system call; the kernel has done them when it returns. One answer for each, in order.

        A send does not stop at an error: the requests behind a refused one still run.
        """
        first = self._sequence + 1
        pieces = []
        for kind, flags, body in messages:
            self._sequence += 1
            wanted = flags | NLM_F_REQUEST | NLM_F_ACK
            pieces.append(_HEADER.pack(16 + len(body), kind, wanted, self._sequence, 0))
            pieces.append(body + b"\0" * (-len(body) % 4))
        self.socket.send(b"".join(pieces))
        answers = [DONE] * len(messages)
        missing = len(messages)
        while missing:
            for message_type, flags, sequence, answer in self._receive():
                if message_type == _NLMSG_ERROR and first <= sequence < first + len(messages):
                    answers[sequence - first] = _refusal(flags, answer)
                    missing -= 1
        return answers

    def _receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        data = self.socket.recv(_RECEIVE_BYTES)
        start, end = 0, len(data)
        while start + 16 <= end:
            length, kind, flags, sequence, _ = _HEADER.unpack_from(data, start)
            yield kind, flags, sequence, data[start + 16 : start + length]
            start += (length + 3) & ~3


def _refusal(flags: int, answer: bytes) -> Refusal:
    code = -struct.unpack_from("=i", answer)[0]
    if not code:
        return DONE
    message = attributes(answer, 20).get(_NLMSGERR_ATTR_MSG, b"") if flags & _NLM_F_ACK_TLVS else b""
    return Refusal(code, string(message))
