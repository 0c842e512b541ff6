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
import re
import socket
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, NamedTuple
from urllib.parse import urlsplit

from ductwork.errors import ContainerError
from ductwork.runtimes import COMPOSE_PREFIX, LABEL_PREFIX, VARIABLE_PART, Sandbox, Tags
from ductwork.runtimes.pid import open_process_netns

_TIMEOUT_SECONDS = 10.0
_REQUESTS_AT_ONCE = 8
_FEW = 3
"""So many names are asked for one by one, rather than all containers listed first."""
_NAME = re.compile("[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_HEXADECIMAL = re.compile("[0-9a-f]+")
"""What the API may take for the beginning of an ID, even if it is short."""
_MALFORMED = (LookupError, TypeError, ValueError, AttributeError)
"""What reading an answer of another shape raises."""
_LARGEST_PID = 1 << 22
_SHORT_ID = 12
"""What `docker ps` prints of an ID; shorter ones are too easily names or other containers' prefixes."""


class DockerRuntime:
    """`url`: `unix://PATH` or `tcp://HOST[:PORT]`; without it the environment's, else Docker's own socket."""

    name: ClassVar[str] = "docker"
    variable: ClassVar[str] = "DOCKER_HOST"
    default_url: ClassVar[str] = "unix:///var/run/docker.sock"

    def __init__(self, url: str | None = None) -> None:
        self.url = url or os.environ.get(self.variable) or self.default_url
        self._written: dict[str, Tags | None] = {}
        """ID → what is written on that container, for as long as it is: it never changes. None: nothing for us."""

    def find(self, names: list[str]) -> dict[str, Sandbox | None]:
        if not names:
            return {}
        if len(names) <= _FEW and not any(map(_HEXADECIMAL.fullmatch, names)):
            listed = _Containers(())
            wanted = {name: name for name in names if _NAME.fullmatch(name)}
            sandboxes: dict[str, Sandbox | None] = {}
        else:
            listed = self._list()
            found = {name: entry for name in names if (entry := listed.match(name))}
            wanted = {name: str(entry["Id"]) for name, entry in found.items() if entry["State"] in ("running", "paused")}
            sandboxes = dict.fromkeys(found.keys() - wanted.keys())
        details = self._inspect_all(dict.fromkeys(wanted.values()))
        for name, reference in wanted.items():
            its = details[reference]
            if its:  # else there is none, or it was removed since it was listed
                sandboxes[name] = self._sandbox(its, listed) if its.pid else None
        return sandboxes

    def tagged(self) -> dict[str, Tags]:
        """See `Tagging`. One listing, and a closer look at those that were not there before."""
        names = self._list("/containers/json").names
        new = self._inspect_all(identity for identity in names if identity not in self._written)
        self._written |= {identity: its.tags if its and its.tags.asks else None for identity, its in new.items()}
        self._written = {identity: tags for identity, tags in self._written.items() if identity in names}
        return {names[identity]: replace(tags, name=names[identity]) for identity, tags in self._written.items() if tags}

    def _sandbox(self, its: _Container, listed: _Containers) -> Sandbox:
        is_it = partial(self._is_its, its.identity, its.pid)
        open_netns = partial(open_process_netns, its.pid, f"{self.name}:{its.name}", is_it)
        return Sandbox(self.name, its.name, f"/proc/{its.pid}/ns/net", open_netns, self._mode(its, listed), its.tags)

    def _mode(self, its: _Container, listed: _Containers) -> str:
        """As `ps` shows it: whatever network of the runtime's own the container is on counts as `bridge`."""
        kind, colon, identity = its.mode.partition(":")
        if kind == "container" and colon:
            peer = listed.names.get(identity)
            if peer is None and (asked := self._inspect(identity)):
                peer = asked.name
            return f"container:{peer or identity}"
        return its.mode if its.mode in ("host", "none") else "bridge"

    def _inspect_all(self, references: Iterable[str]) -> dict[str, _Container | None]:
        wanted = list(references)
        if len(wanted) < 2:
            return {reference: self._inspect(reference) for reference in wanted}
        with ThreadPoolExecutor(min(len(wanted), _REQUESTS_AT_ONCE), thread_name_prefix=self.name) as pool:
            return dict(zip(wanted, pool.map(self._inspect, wanted), strict=True))

    def _list(self, path: str = "/containers/json?all=1") -> _Containers:
        answer = self._get(path)
        try:
            return _Containers(answer or ())
        except _MALFORMED as error:
            raise self._is_something_else() from error

    def _inspect(self, reference: str) -> _Container | None:
        """None: there is no such container."""
        answer = self._get(f"/containers/{reference}/json")
        if answer is None:
            return None
        try:
            identity, pid, mode = str(answer["Id"]), int(answer["State"]["Pid"]), str(answer["HostConfig"]["NetworkMode"])
            name = str(answer["Name"]).removeprefix("/") or identity[:_SHORT_ID]
        except _MALFORMED as error:
            raise self._is_something_else() from error
        if not 0 <= pid <= _LARGEST_PID:
            raise self._is_something_else()
        return _Container(identity, name, pid, mode, _tags(answer.get("Config"), identity, name))

    def _is_its(self, identity: str, pid: int) -> bool:
        if _in_cgroup_of(pid, identity):
            return True
        if not self.url.startswith("unix://"):
            raise ContainerError(
                f"{self.name} at {self.url} says that the container's process is {pid}, which here is something else",
                "ductwork attaches containers of its own machine: run it where they run",
            )
        its = self._inspect(identity)
        return its is not None and its.pid == pid

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
        except (ValueError, RecursionError) as error:
            raise self._is_something_else() from error
        if status != 200:
            message = answer.get("message", "") if isinstance(answer, dict) else ""
            raise ContainerError(f"{self.name} at {self.url} refused {path}: {status} {message}")
        return answer

    def _is_something_else(self) -> ContainerError:
        return ContainerError(f"what answers at {self.url} is not {self.name}", f"check {self.variable}")


class _Container(NamedTuple):
    """What an inspection tells. `pid`: its first process; 0: it is not running. `mode`: in the API's words."""

    identity: str
    name: str
    pid: int
    mode: str
    tags: Tags


def publisher(protocol: str, port: int) -> str:
    """The name of the container for which Docker publishes a port of the host's; "": none, or Docker does not say."""
    try:
        listed = DockerRuntime()._get("/containers/json") or []
    except ContainerError:
        return ""
    fitting = (e for e in listed for p in e.get("Ports") or () if (p.get("Type"), p.get("PublicPort")) == (protocol, port))
    return next(map(_name, fitting), "")


class _Containers:
    """What the daemon listed, by name and by ID; `names`: by ID."""

    def __init__(self, listed: Iterable[Mapping[str, Any]]) -> None:
        self._by_id = {str(entry["Id"]): entry for entry in listed if isinstance(entry["State"], str)}
        self.names = {identity: _name(entry) for identity, entry in self._by_id.items()}
        self._by_name = {self.names[identity]: entry for identity, entry in self._by_id.items()}
        self._ids = sorted(self._by_id)

    def match(self, name: str) -> Mapping[str, Any] | None:
        """By name, else by ID or the beginning of one; a beginning that several have is nobody's."""
        if name in self._by_name or len(name) < _SHORT_ID:
            return self._by_name.get(name)
        first = bisect_left(self._ids, name)
        fitting = [identity for identity in self._ids[first : first + 2] if identity.startswith(name)]
        return self._by_id[fitting[0]] if len(fitting) == 1 else None


def _name(entry: Mapping[str, Any]) -> str:
    """`/web`; legacy links add names like `/db/alias`. A container that is being removed has none."""
    own = [str(name) for name in entry["Names"] or () if name.count("/") == 1]
    return own[0][1:] if own else str(entry["Id"])[:_SHORT_ID]


def _tags(config: object, identity: str, name: str) -> Tags:
    """What is written on a container, of what it is made from. What is no text is left out."""
    if not isinstance(config, dict):
        return Tags(name, identity)
    labels, variables = config.get("Labels"), config.get("Env")
    pairs = [str(each).partition("=")[::2] for each in variables] if isinstance(variables, list) else []
    return Tags(
        name,
        identity,
        str(config.get("Hostname") or ""),
        {
            key: value
            for key, value in (labels.items() if isinstance(labels, dict) else ())
            if key.startswith((LABEL_PREFIX, COMPOSE_PREFIX)) and isinstance(value, str)
        },
        {key: value for key, value in pairs if VARIABLE_PART in key},
    )


def _in_cgroup_of(pid: int, identity: str) -> bool:
    """Whether the process is in the container's own control group (`…/ID`, systemd's driver: `docker-ID.scope`), not in
    one below it: there may be other containers'."""
    try:
        with open(f"/proc/{pid}/cgroup") as file:
            return any(identity in line.rpartition("/")[2] for line in file)
    except OSError:
        return False


def connected(url: str, variable: str) -> socket.socket:
    """Errors: `OSError`, `ContainerError`."""
    try:
        return _connected(url, variable)
    except ValueError as error:  # a port or a name that is none
        raise ContainerError(f"{url}: {error}", f"check {variable}") from None


def _connected(url: str, variable: str) -> socket.socket:
    parts = urlsplit(url)
    encrypted = variable == "DOCKER_HOST" and parts.scheme != "unix" and os.environ.get("DOCKER_TLS_VERIFY")
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
