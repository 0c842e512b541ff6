"""The agent, asked by its socket.

Invariant: whether the agent does what is asked is known before it has begun; where it does not (`NoAgentError`), nothing has
happened, and somebody else may.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from ductwork import __version__, netns
from ductwork.errors import AgentError, Interrupted
from ductwork.front import wire
from ductwork.requests import Front, Request

if TYPE_CHECKING:
    from collections.abc import Callable
    from http.client import HTTPResponse

    from ductwork.notices import Notice

A = TypeVar("A")
_CONNECT_SECONDS = 5.0
_ELSEWHERE = frozenset({403, 404, 413, 421})
"""Refused before anything was looked at: not for us, not in this version, too long, another memory."""


class NoAgentError(Exception):
    """Nobody there who does it."""


def socket_path() -> Path:
    """Where the agent of the calling thread's namespace is to be found."""
    return netns.RUN_DIRECTORY / str(netns.cookie()) / "api.sock"


class Client:
    """`memory`: the state folder and the store's file; an agent with another memory is not meant."""

    def __init__(self, path: Path, memory: tuple[Path, Path | None] | None = None) -> None:
        self._path = path
        self._headers = {wire.VERSION_HEADER: __version__}
        if memory:
            state, store = memory
            self._headers[wire.STATE_HEADER] = quote(os.path.realpath(state))
            self._headers[wire.STORE_HEADER] = quote(os.path.realpath(store)) if store else ""

    def do(self, request: Request[A]) -> A:
        """Errors: `NoAgentError`; `DuctworkError`, as the engine's."""
        with self._opened() as connection:
            try:
                body = json.dumps(wire.encode(request)).encode()
                status, answer = _read(_sent(connection, "POST", f"/v1/{request.name()}", body, self._headers))
            except KeyboardInterrupt:
                raise Interrupted(_goes_on(request)) from None
        _refuse(status, answer)
        decoded: A = _decoded(request.answer(), answer)
        return decoded

    def notices(self) -> Iterator[Notice]:
        """What the agent does, from now on, as long as it runs. Errors: `NoAgentError`, `AgentError`."""
        from ductwork.notices import Notice

        with self._opened() as connection:
            response = _sent(connection, "GET", "/v1/events", b"", self._headers)
            if response.status != 200:
                _refuse(*_read(response))
            for line in response:
                if line.strip():
                    yield _decoded(Notice, _parsed(line))

    @contextmanager
    def _opened(self) -> Iterator[socket.socket]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
            connection.settimeout(_CONNECT_SECONDS)
            try:
                connection.connect(str(self._path))
            except OSError as error:
                raise NoAgentError(f"{self._path}: {error.strerror or error}") from None
            connection.settimeout(None)
            yield connection


class AgentOrSelf:
    """The agent where it runs for this, else this process by itself. `say`: is told which."""

    def __init__(self, agent: Client, own: Front, say: Callable[[str], None]) -> None:
        self._agent = agent
        self._own = own
        self._say = say

    def do(self, request: Request[A]) -> A:
        try:
            answer = self._agent.do(request)
        except NoAgentError as reason:
            self._say(f"without the agent ({reason})")
            return self._own.do(request)
        self._say("by the agent")
        return answer


def _sent(connection: socket.socket, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> HTTPResponse:
    from http.client import HTTPConnection, HTTPException

    http = HTTPConnection("ductwork")
    http.sock = connection
    try:
        http.request(method, path, body, {"Content-Type": "application/json", "Connection": "close", **headers})
        return http.getresponse()
    except (HTTPException, OSError) as error:
        raise _gone(error) from None


def _read(response: HTTPResponse) -> tuple[int, Any]:
    from http.client import HTTPException

    try:
        return response.status, _parsed(response.read())
    except (HTTPException, OSError) as error:
        raise _gone(error) from None


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise AgentError("what answers at the agent's socket is no agent", "see who listens there") from None


def _decoded(kind: Any, value: Any) -> Any:
    try:
        return wire.decode(kind, value)
    except ValueError as error:
        raise AgentError(f"the agent's answer is not understood: {error}", "is it another version? start it anew") from None


def _refuse(status: int, answer: Any) -> None:
    if status == 200:
        return
    failure: wire.Failure = _decoded(wire.Failure, answer)
    if status in _ELSEWHERE:
        raise NoAgentError(failure.message)
    raise wire.error_of(failure)


def _gone(error: Exception) -> AgentError:
    return AgentError(
        f"the agent went away before it answered: {error or type(error).__name__}",
        "`ductwork plan` shows what is still to be done; what it had begun half-way is mended when it starts again",
    )


def _goes_on(request: Request[Any]) -> str:
    if not request.changes:
        return "interrupted; nothing is changed by this"
    return "interrupted; the agent completes what it has begun: `ductwork undo` takes it back then"
