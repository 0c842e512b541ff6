"""Docker's containers, by its API.

Invariant: a PID that the daemon named is entered only while it is that container's: its control group bears the
container's ID, or the daemon says so again while a pidfd pins the process.

Paths carry no API version: the daemon then answers with its own (Docker 29 refuses what is older than 1.44, Debian 12's
20.10 what is newer than 1.41), and the fields read here are the same in all. `http.client` instead of aiohttp: it is
imported in 30 ms instead of 190, and threads suffice where every request ends.
"""

from __future__ import annotations

import json
import os
import socket
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, ClassVar
from urllib.parse import urlsplit

from ductwork.errors import ContainerError
from ductwork.runtimes import Sandbox
from ductwork.runtimes.pid import open_process_netns

_TIMEOUT_SECONDS = 10.0
_REQUESTS_AT_ONCE = 8
_SHORT_ID = 12
"""What `docker ps` prints of an ID; shorter ones are too easily names or other containers' prefixes."""


class DockerRuntime:
    """`url`: `unix://PATH` or `tcp://HOST[:PORT]`; without it the environment's, else Docker's own socket."""

    name: ClassVar[str] = "docker"
    variable: ClassVar[str] = "DOCKER_HOST"
    default_url: ClassVar[str] = "unix:///var/run/docker.sock"

    def __init__(self, url: str | None = None) -> None:
        self.url = url or os.environ.get(self.variable) or self.default_url

    def find(self, names: list[str]) -> dict[str, Sandbox | None]:
        if not names:
            return {}
        containers = _Containers(self._get("/containers/json?all=1") or [])
        found = {name: entry for name in names if (entry := containers.match(name))}
        running = {entry["Id"] for entry in found.values() if entry["State"] in ("running", "paused")}
        pids = dict(zip(running, self._pids(running), strict=True))
        sandboxes: dict[str, Sandbox | None] = {}
        for name, entry in found.items():
            pid = pids.get(entry["Id"], 0)
            if pid is not None:  # None: removed since it was listed
                sandboxes[name] = self._sandbox(entry, pid, containers) if pid else None
        return sandboxes

    def _sandbox(self, entry: Mapping[str, Any], pid: int, containers: _Containers) -> Sandbox:
        identity, name = entry["Id"], _name(entry)
        is_it = partial(self._is_its, identity, pid)
        open_netns = partial(open_process_netns, pid, f"{self.name}:{name}", is_it)
        return Sandbox(self.name, name, f"/proc/{pid}/ns/net", open_netns, containers.mode(entry))

    def _pids(self, identities: Iterable[str]) -> list[int | None]:
        wanted = list(identities)
        if len(wanted) < 2:
            return [self._pid(identity) for identity in wanted]
        with ThreadPoolExecutor(min(len(wanted), _REQUESTS_AT_ONCE), thread_name_prefix=self.name) as pool:
            return list(pool.map(self._pid, wanted))

    def _pid(self, identity: str) -> int | None:
        """A container's first process; 0: it is not running; None: there is no such container."""
        answer = self._get(f"/containers/{identity}/json")
        if answer is None:
            return None
        return int(answer["State"]["Pid"])

    def _is_its(self, identity: str, pid: int) -> bool:
        if _in_cgroup_of(pid, identity):
            return True
        if not self.url.startswith("unix://"):
            raise ContainerError(
                f"{self.name} at {self.url} says that the container's process is {pid}, which here is something else",
                "ductwork attaches containers of its own machine: run it where they run",
            )
        return self._pid(identity) == pid

    def _get(self, path: str) -> Any:
        """The decoded answer; None where there is no such thing."""
        silent = f"{self.name} does not answer at {self.url}"
        try:
            with connected(self.url, self.variable) as connection:
                status, body = _request(connection, path)
        except PermissionError:
            raise ContainerError(silent, "may this user open its socket? run it as root, or with sudo") from None
        except (OSError, ValueError) as error:
            raise ContainerError(silent, "is it running?") from error
        if status == 404:
            return None
        try:
            answer = json.loads(body)
        except ValueError as error:
            raise ContainerError(f"what answers at {self.url} is not {self.name}", f"check {self.variable}") from error
        if status != 200:
            raise ContainerError(f"{self.name} at {self.url} refused {path}: {status} {answer.get('message', '')}")
        return answer


class _Containers:
    """What the daemon listed, by name and by ID."""

    def __init__(self, listed: Iterable[Mapping[str, Any]]) -> None:
        self._by_id = {entry["Id"]: entry for entry in listed}
        self._by_name = {_name(entry): entry for entry in self._by_id.values()}
        self._ids = sorted(self._by_id)

    def match(self, name: str) -> Mapping[str, Any] | None:
        """By name, else by ID or the beginning of one; a beginning that several have is nobody's."""
        if name in self._by_name or len(name) < _SHORT_ID:
            return self._by_name.get(name)
        first = bisect_left(self._ids, name)
        fitting = [identity for identity in self._ids[first : first + 2] if identity.startswith(name)]
        return self._by_id[fitting[0]] if len(fitting) == 1 else None

    def mode(self, entry: Mapping[str, Any]) -> str:
        """As `ps` shows it: whatever network of Docker's own the container is on counts as `bridge`."""
        mode = str(entry["HostConfig"]["NetworkMode"])
        kind, colon, identity = mode.partition(":")
        if kind == "container" and colon:
            return f"container:{_name(self._by_id[identity]) if identity in self._by_id else identity}"
        return mode if mode in ("host", "none") else "bridge"


def _name(entry: Mapping[str, Any]) -> str:
    """`/web`; legacy links add names like `/db/alias`. A container that is being removed has none."""
    own = [str(name) for name in entry["Names"] or () if name.count("/") == 1]
    return own[0][1:] if own else str(entry["Id"])[:_SHORT_ID]


def _in_cgroup_of(pid: int, identity: str) -> bool:
    """Whether the process is in the container's own control group (`…/ID`, systemd's driver: `docker-ID.scope`), not in
    one below it: there may be other containers'."""
    try:
        with open(f"/proc/{pid}/cgroup") as file:
            return any(identity in line.rpartition("/")[2] for line in file)
    except OSError:
        return False


def connected(url: str, variable: str) -> socket.socket:
    parts = urlsplit(url)
    encrypted = parts.scheme != "unix" and os.environ.get("DOCKER_TLS_VERIFY")
    if encrypted or parts.scheme not in ("unix", "tcp", "http"):
        hint = f"set {variable} to unix://PATH, or to tcp://HOST:PORT without TLS"
        raise ContainerError(f"{url}: ductwork cannot speak to a daemon this way", hint)
    if parts.scheme != "unix":
        return socket.create_connection((parts.hostname or "localhost", parts.port or 2375), _TIMEOUT_SECONDS)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        connection.settimeout(_TIMEOUT_SECONDS)
        connection.connect(parts.path)
    except BaseException:
        connection.close()
        raise
    return connection


def _request(connection: socket.socket, path: str) -> tuple[int, bytes]:
    from http.client import HTTPConnection, HTTPException

    http = HTTPConnection("docker")
    http.sock = connection
    try:
        http.request("GET", path, headers={"Connection": "close"})
        response = http.getresponse()
        return response.status, response.read()
    except HTTPException as error:
        raise ConnectionError(str(error)) from error
