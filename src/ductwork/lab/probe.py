"""Tries who reaches whom: ICMP and ICMPv6 echo between all pairs at once, without a process per ping.

Invariant: the sockets are closed before `probe` returns, so that namespaces can die; the kernel chooses route and source
address, as it does for `ping` (RFC 792, RFC 4443; raw(7), icmp(7)).
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import struct
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address

from ductwork.lab.expect import Pair
from ductwork.lab.namespaces import open_namespace
from ductwork.lab.report import Result
from ductwork.netns import Visitor
from ductwork.resources import IPAddress

SEND_AT = (0.0, 0.3, 0.8)
"""Seconds: the first echo may be lost while a neighbour is being resolved."""
PATIENCE = 1.5
"""Seconds until what has not answered counts as not reached."""
_SECOND_CHANCES = 4
_TOKEN_BYTES = 8
_SOL_RAW, _ICMP_FILTER, _ICMP6_FILTER = 255, 1, 1


@dataclass(frozen=True, slots=True)
class Question:
    """Does an echo from namespace `netns` to `address` come back?"""

    netns: str
    address: IPAddress


@dataclass(frozen=True, slots=True)
class _Family:
    """An echo protocol: `echo` and `reply` are its message types; `has_header`: replies come with their IP header."""

    version: int
    domain: int
    protocol: int
    echo: int
    reply: int
    has_header: bool

    def open(self) -> socket.socket:
        opened = socket.socket(self.domain, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, self.protocol)
        if self.version == 4:
            opened.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", 0xFFFFFFFF ^ (1 << self.reply)))
        else:
            blocked = [0xFFFFFFFF] * 8
            blocked[self.reply // 32] ^= 1 << (self.reply % 32)
            opened.setsockopt(self.protocol, _ICMP6_FILTER, struct.pack("=8I", *blocked))
        return opened

    def message(self, ident: int, sequence: int, token: bytes) -> bytes:
        """An echo request; the kernel fills in ICMPv6's checksum, not ICMP's."""
        bare = struct.pack("!BBHHH", self.echo, 0, 0, ident, sequence) + token
        if self.version == 6:
            return bare
        return bare[:2] + struct.pack("!H", _checksum(bare)) + bare[4:]


_FAMILIES = {
    4: _Family(4, socket.AF_INET, socket.IPPROTO_ICMP, 8, 0, True),
    6: _Family(6, socket.AF_INET6, socket.IPPROTO_ICMPV6, 128, 129, False),
}


def attempt(pairs: Sequence[Pair]) -> list[Result]:
    """Try every pair. What should have been reached and was not is tried again as long as answers
    come in: a busy machine is late, not wrong."""
    asked = {pair: Question(pair.source.netns, pair.address) for pair in pairs}
    answered = probe(asked.values())
    for _ in range(_SECOND_CHANCES):
        missed = [question for pair, question in asked.items() if pair.expected and question not in answered]
        late = probe(missed) if missed else set()
        answered |= late
        if not late:
            break
    return [Result(pair, question in answered) for pair, question in asked.items()]


def probe(questions: Iterable[Question], patience: float = PATIENCE) -> set[Question]:
    """Those questions whose echo came back; returns as soon as all have, else after `patience` seconds.

    Errors: `MissingToolError` without root; `OSError` where a namespace is not there.
    """
    asked = list(dict.fromkeys(questions))
    sources = sorted({(q.netns, q.address.version) for q in asked})
    with contextlib.ExitStack() as stack:
        sockets = {source: stack.enter_context(opened) for source, opened in _open(sources).items()}
        streams = [
            _Stream(sockets[source], _FAMILIES[source[1]], number, [q for q in asked if _source(q) == source])
            for number, source in enumerate(sources)
        ]
        return _run(streams, patience)


def _source(question: Question) -> tuple[str, int]:
    return (question.netns, question.address.version)


def _open(sources: Sequence[tuple[str, int]]) -> dict[tuple[str, int], socket.socket]:
    with contextlib.closing(Visitor()) as visitor:
        results = visitor.visit((partial(open_namespace, name), _FAMILIES[version].open) for name, version in sources)
    opened = {source: result for source, result in zip(sources, results, strict=True) if isinstance(result, socket.socket)}
    errors = [result for result in results if isinstance(result, Exception)]
    if errors:
        for found in opened.values():
            found.close()
        raise errors[0]
    return opened


def _run(streams: list[_Stream], patience: float) -> set[Question]:
    start = time.monotonic()
    due = [*SEND_AT]
    with selectors.DefaultSelector() as selector:
        for stream in streams:
            selector.register(stream.socket, selectors.EVENT_READ, stream)
        while any(stream.open for stream in streams):
            elapsed = time.monotonic() - start
            if due and elapsed >= due[0]:
                due.pop(0)
                for stream in streams:
                    stream.send()
            elif elapsed >= patience:
                break
            for key, _ in selector.select(max(0.0, (due[0] if due else patience) - (time.monotonic() - start))):
                key.data.receive()
    return {question for stream in streams for question in stream.answered}


class _Stream:
    """One namespace's echoes of one family. The token tells this run's replies from others'; the sequence, the question."""

    def __init__(self, opened: socket.socket, family: _Family, number: int, questions: list[Question]) -> None:
        self.socket = opened
        self.answered: list[Question] = []
        self.open = dict(enumerate(questions))
        self._family = family
        # Each source has an identifier of its own: two that are translated to one address are two connections to conntrack.
        self._ident = (os.getpid() * 251 + number) & 0xFFFF
        self._token = os.urandom(_TOKEN_BYTES)

    def send(self) -> None:
        for sequence, question in list(self.open.items()):
            message = self._family.message(self._ident, sequence, self._token)
            with contextlib.suppress(OSError):  # no route, or a rule that forbids it: not reached, so far
                self.socket.sendto(message, (str(question.address), 0))
            if sequence % 16 == 15:
                self.receive()  # or the replies of hundreds overflow the socket's buffer

    def receive(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                packet, sender = self.socket.recvfrom(256)
                self._take(packet, sender[0])

    def _take(self, packet: bytes, sender: str) -> None:
        message = packet[(packet[0] & 0x0F) * 4 :] if self._family.has_header else packet
        if len(message) < 8 + _TOKEN_BYTES or message[8 : 8 + _TOKEN_BYTES] != self._token:
            return
        kind, _, _, _, sequence = struct.unpack("!BBHHH", message[:8])
        question = self.open.get(sequence)
        if question and kind == self._family.reply and ip_address(sender) == question.address:
            del self.open[sequence]
            self.answered.append(question)


def _checksum(data: bytes) -> int:
    """The internet checksum of an even number of octets (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF
