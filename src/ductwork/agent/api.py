"""The agent's HTTP API, in a thread of its own.

Invariant: the agent's loop never waits for it, but for its turn to change something. What is asked for is carried out in two
threads, one that changes and one that looks, with an engine for each request; who asks is known before anything is read. Every
answer but a stream is whole, and every error is JSON (`front.wire.Failure`).
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from ductwork.agent import admission, openapi
from ductwork.agent.door import Tcp
from ductwork.agent.hub import Hub
from ductwork.agent.metrics import CONTENT_TYPE, Metrics
from ductwork.errors import BusyError, DuctworkError, UsageError
from ductwork.front import wire
from ductwork.notices import Notice
from ductwork.requests import REQUESTS, Done, Front, Request

log = logging.getLogger("ductwork.agent")

LONGEST_BODY = 8 * 2**20
"""Bytes: a site file of 60,000 attachments. Whoever has a longer one acts by himself; the agent's memory is to stay small."""
_READ_SECONDS = 30.0
_FIRST_REQUEST_SECONDS = 30.0
_KEEP_ALIVE_SECONDS = 60.0
_WAITING = 32
"""So many requests may wait for their turn."""
_CONNECTIONS = 100
"""At once on each socket: whoever can reach TCP must not keep root from the unix socket, and a handshake that somebody does not
complete costs 300 kB."""
_LAST_WORDS_SECONDS = 2.0
_STREAMS = 50
_HANDLERS = Callable[[web.Request], Awaitable[web.StreamResponse]]
_WHO = web.RequestKey("who", str)


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose agent this is: a command that means another memory, or is another version, is sent away."""

    version: str
    state: str
    store: str

    def is_meant(self, headers: Mapping[str, str]) -> bool:
        ours = {wire.VERSION_HEADER: self.version, wire.STATE_HEADER: self.state, wire.STORE_HEADER: self.store}
        return all(unquote(headers.get(name, value)) == value for name, value in ours.items())


class Api:
    """`front`: who asks → what carries it out. Serves from `with` to its end; what is being done then is done to its end."""

    def __init__(
        self,
        front: Callable[[str], Front],
        hub: Hub,
        metrics: Metrics,
        identity: Identity,
        unix: socket.socket,
        tcp: Tcp | None,
    ) -> None:
        self._front = front
        self._hub = hub
        self._metrics = metrics
        self._identity = identity
        self._unix = unix
        self._tcp = tcp
        self._pools = {changes: ThreadPoolExecutor(1, thread_name_prefix="api") for changes in (True, False)}
        self.waiting = 0
        self._unheard: dict[Any, socket.AddressFamily] = {}
        """Connections that have asked for nothing yet."""
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(_tell_defect)
        self._end = asyncio.Event()
        self._ready = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="api")

    def __enter__(self) -> Api:
        logging.getLogger("aiohttp").setLevel(logging.CRITICAL)  # what a client sends wrongly is no news, nor worth a traceback
        self._thread.start()
        try:
            self._ready.wait()
        except BaseException:  # stopped already: nobody else would end the thread
            self.__exit__()
            raise
        if self._failure:
            raise self._failure
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()
        for pool in self._pools.values():
            pool.shutdown()

    # listening

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        except Exception as error:
            self._failure = error
            log.exception("a defect: the API has ended")
        finally:
            self._ready.set()
            self._loop.close()

    async def _serve(self) -> None:
        app = web.Application(client_max_size=LONGEST_BODY, middlewares=[_tell_errors, self._admit])
        for kind in REQUESTS:
            app.router.add_post(f"/v1/{kind.name()}", self._by_post(kind))
            if kind.by_get:
                app.router.add_get(f"/v1/{kind.name()}", self._by_get(kind))
        app.router.add_get("/v1/events", self._events)
        app.router.add_get("/v1/openapi.json", self._document)
        app.router.add_get("/metrics", self._figures)
        runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, keepalive_timeout=_KEEP_ALIVE_SECONDS, shutdown_timeout=60
        )
        await runner.setup()

        def connected(family: socket.AddressFamily) -> Any:
            """Slow or many connections are closed, before they have cost anything."""
            assert runner.server
            unheard = {handler for handler, its in self._unheard.items() if its == family}
            if len(unheard.union(c for c in runner.server.connections if _family(c) == family)) >= _CONNECTIONS:
                raise ConnectionRefusedError  # which closes it
            handler = runner.server()
            self._unheard[handler] = family
            self._loop.call_later(_FIRST_REQUEST_SECONDS, self._close_unheard, handler)
            return handler

        unix, tcp = partial(connected, socket.AF_UNIX), partial(connected, socket.AF_INET)
        servers = [await self._loop.create_unix_server(unix, sock=self._unix)]
        if self._tcp:
            tls, patience = self._tcp.tls, _FIRST_REQUEST_SECONDS
            servers.append(
                await self._loop.create_server(tcp, sock=self._tcp.listening, ssl=tls, ssl_handshake_timeout=patience)
            )
        self._ready.set()
        await self._end.wait()
        for server in servers:
            server.close()
        await runner.cleanup()

    def _close_unheard(self, handler: Any) -> None:
        if self._unheard.pop(handler, None):
            handler.force_close()

    # who asks

    @web.middleware
    async def _admit(self, request: web.Request, handler: _HANDLERS) -> web.StreamResponse:
        self._unheard.pop(request.protocol, None)
        connection = request.transport.get_extra_info("socket") if request.transport else None
        if connection is None:
            raise web.HTTPBadRequest(text="the connection is gone")
        try:
            if connection.family == socket.AF_UNIX:
                who = admission.admit_peer(connection)
            else:
                assert self._tcp
                who = admission.admit_bearer(self._tcp.token, request.headers.get("Authorization", ""))
        except admission.RefusedError as error:
            by_token = connection.family != socket.AF_UNIX
            headers = {"WWW-Authenticate": "Bearer"} if by_token else {}
            return _failed(HTTPStatus.UNAUTHORIZED if by_token else HTTPStatus.FORBIDDEN, wire.failure_of(error), headers)
        if not self._identity.is_meant(request.headers):
            text = f"the agent here is version {self._identity.version} and keeps its memory in {self._identity.state}"
            return _failed(HTTPStatus.MISDIRECTED_REQUEST, wire.Failure("usage", text))
        request[_WHO] = who
        return await handler(request)

    # operations

    def _by_post(self, kind: type[Request[Any]]) -> _HANDLERS:
        async def handle(request: web.Request) -> web.StreamResponse:
            if request.can_read_body and request.content_type != openapi.JSON:
                raise web.HTTPUnsupportedMediaType(text=f"send {openapi.JSON}")
            async with asyncio.timeout(_READ_SECONDS):
                body = await request.read()
            return await self._carry_out(request, kind, lambda: openapi.read_json(kind, body))

        return handle

    def _by_get(self, kind: type[Request[Any]]) -> _HANDLERS:
        async def handle(request: web.Request) -> web.StreamResponse:
            query = dict(request.query)
            if len(query) != len(request.query):
                raise UsageError(f"{kind.name()}: a parameter comes twice")
            return await self._carry_out(request, kind, lambda: openapi.read_json(kind, json.dumps(query).encode()))

        return handle

    async def _carry_out(
        self, request: web.Request, kind: type[Request[Any]], read: Callable[[], Request[Any]]
    ) -> web.StreamResponse:
        """A client that goes away before its turn has asked for nothing; one that goes later does not stop it."""
        if self.waiting >= _WAITING:
            raise BusyError(f"{self.waiting} requests wait for their turn already", "try again later")
        self.waiting += 1
        try:
            answer = await self._loop.run_in_executor(self._pools[kind.changes], self._answer, read, request[_WHO])
        finally:
            self.waiting -= 1
        return web.Response(body=answer, content_type=openapi.JSON)

    def _answer(self, read: Callable[[], Request[Any]], who: str) -> bytes:
        asked = read()
        try:
            answer = self._front(who).do(asked)
        except DuctworkError as error:
            if asked.changes:
                text = f"{asked.name()}, asked for by {who}: {error}"
                self._hub.tell(Notice("refused", text, cause=who, code=error.code))
            raise
        if asked.changes:
            title = answer.title if isinstance(answer, Done) else asked.name()
            changed = tuple(change.resource for change in answer.changes) if isinstance(answer, Done) else ()
            self._hub.tell(Notice("asked", f"{asked.name()}, asked for by {who}: {title}", cause=who, resources=changed))
        return json.dumps(wire.encode(answer)).encode()

    # looking on

    async def _events(self, request: web.Request) -> web.StreamResponse:
        if self._hub.readers >= _STREAMS:
            raise BusyError(f"{_STREAMS} follow the events already", "end one of them")
        told = asyncio.Event()
        response = web.StreamResponse(headers={"Content-Type": openapi.NDJSON})
        with self._hub.reader(partial(self._loop.call_soon_threadsafe, told.set)) as reader:
            await response.prepare(request)
            async with _ended_by(self._end, told, request):
                while not self._end.is_set():
                    await told.wait()
                    told.clear()
                    lines = [json.dumps(wire.encode(notice)).encode() + b"\n" for notice in reader.take()]
                    await response.write(b"".join(lines))
                await response.write_eof()
        return response

    async def _document(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=openapi.document(), content_type=openapi.JSON)

    async def _figures(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=self._metrics.text(), headers={"Content-Type": CONTENT_TYPE})


@asynccontextmanager
async def _ended_by(end: asyncio.Event, told: asyncio.Event, request: web.Request) -> AsyncIterator[None]:
    """Within, `told` is set when `end` is; a client that does not read is not waited for then."""

    async def wait() -> None:
        await end.wait()
        told.set()
        await asyncio.sleep(_LAST_WORDS_SECONDS)
        if request.transport:
            request.transport.abort()

    task = asyncio.ensure_future(wait())
    try:
        yield
    finally:
        task.cancel()


def _family(connection: Any) -> int:
    """As `connected` has it: IPv6 is TCP as well."""
    opened = connection.transport and connection.transport.get_extra_info("socket")
    return socket.AF_UNIX if opened and opened.family == socket.AF_UNIX else socket.AF_INET


@web.middleware
async def _tell_errors(request: web.Request, handler: _HANDLERS) -> web.StreamResponse:
    """Every error as JSON."""
    try:
        return await handler(request)
    except DuctworkError as error:
        status = HTTPStatus.BAD_REQUEST if error.exit_code == 2 else HTTPStatus.CONFLICT
        return _failed(status, wire.failure_of(error))
    except TimeoutError:
        return _failed(HTTPStatus.REQUEST_TIMEOUT, wire.Failure("usage", "the request did not come in time"))
    except web.HTTPException as error:
        allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        return _failed(error.status, wire.Failure("usage", error.text or error.reason), allow)
    except ConnectionError:
        raise
    except Exception as error:
        log.exception("a defect: %s %s", request.method, request.path)
        return _failed(HTTPStatus.INTERNAL_SERVER_ERROR, wire.Failure("error", f"{type(error).__name__}: {error}"))


def _failed(status: int, failure: wire.Failure, headers: Mapping[str, str] | None = None) -> web.Response:
    body = json.dumps(wire.encode(failure)).encode()
    response = web.Response(status=status, body=body, content_type=openapi.JSON, headers=headers)
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        response.force_close()  # what else is sent is not read
    return response


def _tell_defect(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What a connection met: a handshake that is none, a client that went away."""
    with suppress(Exception):
        log.debug("api: %s: %s", context.get("message"), context.get("exception"))
