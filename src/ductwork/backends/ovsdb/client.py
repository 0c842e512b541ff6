"""A client of an OVSDB: JSON-RPC over a unix or a TCP socket.

Invariant: one request, then its answer; what the server asks for meanwhile (`echo`) is answered, what it tells is passed over.
Source: RFC 7047; ovsdb-server(7) for its errors; ovs-vswitchd.conf.db(5) for `next_cfg` and `cur_cfg`.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from ductwork.errors import DuctworkError, MissingToolError, UsageError

DATABASE = "Open_vSwitch"
RUN_DIRECTORY = "/var/run/openvswitch"
SWITCH = "ovs-vswitchd"
TIMEOUT_SECONDS = 30.0
_SWITCH_LOCK = "ovs_vswitchd"
"""What the one ovs-vswitchd of a database holds as long as it runs (vswitchd/bridge.c)."""
_PORT = 6640
_RECEIVE_BYTES = 1 << 18
_LOOK_MILLISECONDS = 500
"""How long to wait for ovs-vswitchd before looking whether it still runs."""
_DECODER = json.JSONDecoder()

Row = dict[str, Any]
Request = Mapping[str, Any]


class DatabaseError(DuctworkError):
    """The database refused, in its own words."""


def default_address() -> str:
    """Where ovs-vsctl looks."""
    return f"unix:{os.environ.get('OVS_RUNDIR') or RUN_DIRECTORY}/db.sock"


class Client:
    """A connection to the database at `address` (`unix:PATH`, `tcp:HOST:PORT`). Errors: `MissingToolError`, when nobody is
    there; `UsageError`, when it is no address."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._socket = _connect(address)
        self._buffer = b""
        self._requests = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def transact(self, operations: Sequence[Request]) -> list[Row]:
        """All of it or nothing; one result for each. Errors: `DatabaseError`."""
        results = self._ask("transact", [DATABASE, *operations])
        # What follows an error is null; one behind the last is about the transaction as a whole.
        for result in results:
            if result and result.get("error"):
                raise DatabaseError(_words(result))
        return list(results)

    def switch_runs(self) -> bool:
        """Whether an ovs-vswitchd serves this database: whether the lock is somebody's. Ours for a moment where it is not."""
        answer = self._ask("lock", [_SWITCH_LOCK])
        self._ask("unlock", [_SWITCH_LOCK])
        return not answer["locked"]

    def await_switch(self, generation: int, seconds: float = TIMEOUT_SECONDS) -> str:
        """Wait until ovs-vswitchd has done what the transaction that set `next_cfg` to `generation` asks for. "", or why it
        has not."""
        give_up = time.monotonic() + seconds
        while (done := self._current()) < generation:
            if time.monotonic() > give_up:
                return f"{SWITCH} has not done it within {seconds:.0f} s; see its log"
            changed = {"op": "wait", "timeout": _LOOK_MILLISECONDS, "table": DATABASE, "where": [], "columns": ["cur_cfg"]}
            try:
                self.transact([changed | {"until": "!=", "rows": [{"cur_cfg": done}]}])
            except DatabaseError:
                if not self.switch_runs():
                    return f"{SWITCH} does not run, and has not done it"
        return ""

    def fileno(self) -> int:
        return self._socket.fileno()

    def monitor(self, tables: Mapping[str, Row]) -> None:
        """From now on be told of changes, which `updates` gives."""
        self._ask("monitor", [DATABASE, None, tables])

    def updates(self) -> Iterator[Row]:
        """What was told since, table → its rows; does not wait. Errors: `OSError`."""
        while self._buffer or select.select([self._socket], [], [], 0)[0]:
            message = self._receive()
            if message.get("method") == "echo":
                self._send({"result": message["params"], "error": None, "id": message["id"]})
            elif message.get("method") == "update":
                yield message["params"][1]

    def _current(self) -> int:
        rows = self.transact([{"op": "select", "table": DATABASE, "where": [], "columns": ["cur_cfg"]}])[0]["rows"]
        return int(rows[0]["cur_cfg"]) if rows else 0

    def _ask(self, method: str, parameters: list[Any]) -> Any:
        self._requests += 1
        try:
            self._send({"method": method, "params": parameters, "id": self._requests})
            while (message := self._receive()).get("id") != self._requests or "method" in message:
                if message.get("method") == "echo":
                    self._send({"result": message["params"], "error": None, "id": message["id"]})
        except OSError as error:
            raise DatabaseError(f"{self._address}: {error.strerror or error}") from None
        if message["error"]:
            raise DatabaseError(_words(message["error"]))
        return message["result"]

    def _send(self, message: Row) -> None:
        self._socket.sendall(json.dumps(message, separators=(",", ":")).encode())

    def _receive(self) -> Row:
        """The next message. Nothing separates them: one is complete when it can be parsed, and it ends in a brace."""
        while True:
            if self._buffer.rstrip().endswith(b"}"):
                text = self._buffer.decode().lstrip()
                try:
                    message, end = _DECODER.raw_decode(text)
                except ValueError:
                    pass  # a brace in the middle
                else:
                    self._buffer = text[end:].encode()
                    assert isinstance(message, dict)
                    return message
            received = self._socket.recv(_RECEIVE_BYTES)
            if not received:
                raise OSError("ovsdb-server closed the connection")
            self._buffer += received


def _connect(address: str) -> socket.socket:
    family, where = _parse(address)
    opened = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    opened.settimeout(TIMEOUT_SECONDS)
    try:
        opened.connect(where)
    except OSError as error:
        opened.close()
        raise _unreachable(address, error) from None
    return opened


def _parse(address: str) -> tuple[socket.AddressFamily, Any]:
    kind, _, where = address.partition(":")
    if kind == "unix" and where:
        return socket.AF_UNIX, where
    if kind == "tcp" and where:
        host, _, port = where.rpartition(":") if ":" in where.rpartition("]")[2] else (where, "", str(_PORT))
        host = host.removeprefix("[").removesuffix("]")
        if host and port.isdigit():
            return (socket.AF_INET6 if ":" in host else socket.AF_INET), (host, int(port))
    raise UsageError(f"{address} is no address of an OVSDB", "write unix:PATH or tcp:HOST:PORT")


def _unreachable(address: str, error: OSError) -> MissingToolError:
    if isinstance(error, PermissionError):
        return MissingToolError(f"no right to speak to Open vSwitch at {address}", "run it as root, or with sudo")
    if isinstance(error, FileNotFoundError) and not shutil.which("ovsdb-server"):
        return MissingToolError("Open vSwitch is needed, and is not installed", "apt install openvswitch-switch")
    why = f"ovsdb-server does not answer at {address}: {str(error.strerror or error).lower()}"
    return MissingToolError(why, "systemctl start openvswitch-switch")


def _words(error: Any) -> str:
    """`{"error": "constraint violation", "details": "…"}` as one line."""
    if not isinstance(error, dict):
        return str(error)
    return ": ".join(str(error[key]) for key in ("error", "details") if error.get(key))
