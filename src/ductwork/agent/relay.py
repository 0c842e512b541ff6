"""Published ports at `::1`, which the kernel cannot translate: what connects there is passed on, octet for octet.

Invariant: listens on ::1 alone, in a thread of its own, in the host's namespace; a client that cannot be passed on is refused
or reset at once, never left waiting. Nothing that the agent does waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Literal, cast

from ductwork.resources import IPAddress
from ductwork.resources.base import RELAY_MARK

log = logging.getLogger("ductwork.agent")

_AT = "::1"
_CHUNK_BYTES = 1 << 16
_DESCRIPTORS = 1 << 16
_IDLE_SECONDS = 60.0
"""As long as the kernel remembers a flow of datagrams (nf_conntrack_udp_timeout_stream is 120)."""

Place = tuple[Literal["tcp", "udp", "sctp"], int]
"""A protocol and a port of the host's."""
Target = tuple[IPAddress, int]


class Relay:
    """`serve` may be called from any thread."""

    def __init__(self) -> None:
        _make_room()
        self._loop = asyncio.new_event_loop()
        self._open: dict[Place, tuple[Target, asyncio.Server | asyncio.DatagramTransport]] = {}
        self._refused: set[Place] = set()
        self._connections: set[asyncio.Task[None]] = set()
        """The loop itself forgets those that it reads nothing from for now, and Python would collect them."""
        self._one_at_a_time = asyncio.Lock()
        self._thread = threading.Thread(target=self._loop.run_forever, name="relay", daemon=True)
        self._thread.start()

    def serve(self, wanted: Mapping[Place, Target]) -> None:
        """These from now on, and no others; connections that there are go on."""
        asyncio.run_coroutine_threadsafe(self._become(dict(wanted)), self._loop)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        await self._become({})
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _become(self, wanted: dict[Place, Target]) -> None:
        async with self._one_at_a_time:
            for place in [place for place, (target, _) in self._open.items() if wanted.get(place) != target]:
                self._open.pop(place)[1].close()
            await asyncio.sleep(0)  # asyncio closes a socket of datagrams in its next turn: no other can be bound before
            for place, target in wanted.items():
                if place not in self._open:
                    await self._listen(place, target)

    async def _listen(self, place: Place, target: Target) -> None:
        protocol, port = place
        try:
            if protocol == "tcp":
                opened = await asyncio.start_server(partial(self._passed_on, target), sock=_bound(socket.SOCK_STREAM, port))
                self._open[place] = (target, opened)
            elif protocol == "udp":
                bound = _bound(socket.SOCK_DGRAM, port)
                transport, _ = await self._loop.create_datagram_endpoint(lambda: _Datagrams(target), sock=bound)
                self._open[place] = (target, transport)
        except OSError as error:
            if place not in self._refused:
                log.warning("port %d/%s is not relayed at [%s]: %s", port, protocol, _AT, error)
            self._refused.add(place)
        else:
            self._refused.discard(place)

    async def _passed_on(self, target: Target, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = cast("asyncio.Task[None]", asyncio.current_task())
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)
        try:
            there, back = await asyncio.open_connection(str(target[0]), target[1])
        except OSError:
            _reset(writer)
            return
        try:
            await asyncio.gather(_copy(reader, back), _copy(there, writer))
        except asyncio.CancelledError:  # the agent ends; asyncio complains of a connection whose task was cancelled
            for each in (back, writer):
                _reset(each)
        for each in (back, writer):
            each.close()


def _make_room() -> None:
    """For a socket each, and two for each connection: a shell gives its programs 1024 descriptors."""
    given, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(given, min(most, _DESCRIPTORS)), most))


def _bound(kind: socket.SocketKind, port: int) -> socket.socket:
    """Marked as the relay's, for whoever asks who listens."""
    opened = socket.socket(socket.AF_INET6, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, RELAY_MARK)
        if kind == socket.SOCK_STREAM:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of a former agent linger
        opened.bind((_AT, port))
    except OSError:
        opened.close()
        raise
    return opened


def _reset(writer: asyncio.StreamWriter) -> None:
    """Not an end as of what has been said (socket(7), SO_LINGER)."""
    with suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """To its end; either side may say its last word before the other."""
    try:
        while data := await reader.read(_CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
        with suppress(OSError, RuntimeError):
            writer.write_eof()
    except OSError:
        _reset(writer)


class _Datagrams(asyncio.DatagramProtocol):
    """One socket to the target for each client, as long as it is used."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._clients: dict[tuple[str, int], _Client] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        client = self._clients.get(addr)
        if client is None:
            client = self._clients[addr] = _Client(lambda answer: self._transport.sendto(answer, addr))
            client.opened = asyncio.get_running_loop().create_task(self._open(client, addr))
        client.send(data)

    async def _open(self, client: _Client, addr: tuple[str, int]) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_datagram_endpoint(lambda: client, remote_addr=(str(self._target[0]), self._target[1]))
            while loop.time() - client.used < _IDLE_SECONDS:
                await asyncio.sleep(_IDLE_SECONDS)
        except OSError as error:
            log.debug("a datagram is not passed on: %s", error)
        del self._clients[addr]
        client.close()

    def connection_lost(self, exc: Exception | None) -> None:
        for client in self._clients.values():
            client.close()


class _Client(asyncio.DatagramProtocol):
    def __init__(self, answer: Callable[[bytes], None]) -> None:
        self._answer = answer
        self._waiting: list[bytes] = []
        self._transport: asyncio.DatagramTransport | None = None
        self.opened: asyncio.Task[None] | None = None
        self.used = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)
        for data in self._waiting:
            self._transport.sendto(data)

    def send(self, data: bytes) -> None:
        self.used = asyncio.get_running_loop().time()
        if self._transport:
            self._transport.sendto(data)
        else:
            self._waiting.append(data)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._answer(data)

    def close(self) -> None:
        if self._transport:
            self._transport.close()
