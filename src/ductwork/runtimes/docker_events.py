"""Docker's containers, or Podman's, as they start, end and are renamed, by its API's stream of events.

Invariant: asked by HTTP/1.0, so that the daemon answers with plain lines of JSON, unchunked, and nothing has to wait for more.
"""

from __future__ import annotations

import json
import select
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar
from urllib.parse import quote

from ductwork.events import Event
from ductwork.runtimes.docker import DockerRuntime, connected

_ACTIONS = ("start", "die", "died", "rename", "destroy", "remove")
"""`died`, `remove`: Podman's words (`runtimes/podman.py`)."""
_STARTS = ("start", "rename")
_RECEIVE_BYTES = 1 << 16
_LONGEST_LINE = 1 << 20
_LONGEST_NAME = 300


class DockerEvents:
    """`runtime`: whose daemon is listened to. Errors: `OSError`, `ContainerError`."""

    mask: ClassVar[int] = select.POLLIN

    def __init__(self, runtime: type[DockerRuntime] = DockerRuntime) -> None:
        self._runtime = runtime
        self._socket = connected(runtime().url, runtime.variable)
        filters = quote(json.dumps({"type": ["container"], "event": list(_ACTIONS)}))
        self._socket.sendall(f"GET /events?filters={filters} HTTP/1.0\r\nHost: {runtime.name}\r\n\r\n".encode())
        self._buffer = b""
        self._in_body = False
        self._socket.setblocking(False)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def take(self) -> Sequence[Event]:
        """Errors: `ConnectionError`, when the daemon has ended and all that it told was taken."""
        ended = False
        while len(self._buffer) <= _LONGEST_LINE and not ended:
            try:
                received = self._socket.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                break
            ended = not received
            self._buffer += received
        found = list(self._events())
        if ended and not found:
            raise ConnectionError(f"{self._runtime.name} has closed the stream of its events")
        return found

    def _events(self) -> Iterator[Event]:
        if not self._in_body:
            head, found, rest = self._buffer.partition(b"\r\n\r\n")
            if not found:
                return
            if b" 200 " not in head.split(b"\r\n", 1)[0] + b" ":
                raise ConnectionError(f"{self._runtime.name} refused to tell its events")
            self._in_body, self._buffer = True, rest
        *lines, self._buffer = self._buffer.split(b"\n")
        if len(self._buffer) > _LONGEST_LINE:
            raise ConnectionError(f"{self._runtime.name} tells an event without an end")
        for line in lines:
            event = self._event(line)
            if event:
                yield event

    def _event(self, line: bytes) -> Event | None:
        """None for what is no event that we know: it may be anything."""
        try:
            told: Any = json.loads(line)
            action, attributes = told["Action"], told["Actor"]["Attributes"]
            name = f"{self._runtime.name}:{attributes['name']}"
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        if action not in _ACTIONS or not name.isprintable() or len(name) > _LONGEST_NAME:
            return None
        return Event(f"{name}: {action}", name, started=action in _STARTS)
