"""What can be asked for, and what is answered: a request and an answer for each operation, whoever carries it out.

Invariant: plain values alone (texts, numbers, lists of them), so that they travel (`front/wire.py`). Another operation is a
request and an answer in here, what does it in `front/local.py`, and a command that shows the answer; the agent's API, its
client and its OpenAPI document follow from `REQUESTS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Protocol, TypeVar, get_args

STRICT: dict[str, Any] = {"extra": "forbid", "strict": True}
"""How the agent reads what it is sent (pydantic's words)."""

A = TypeVar("A")
A_co = TypeVar("A_co", covariant=True)


class Request(Generic[A_co]):
    """Asks for an operation, which gives an `A_co`. `changes`: the host, or something that is remembered. `by_get`: all its
    fields are texts that may be left out, so that it may be asked for by GET too."""

    __slots__ = ()
    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
    changes: ClassVar[bool] = True
    by_get: ClassVar[bool] = False

    @classmethod
    def name(cls) -> str:
        """Of the operation, as in a command and in a path of the API."""
        return cls.__name__.lower()

    @classmethod
    def answer(cls) -> type[Any]:
        found: type[Any] = get_args(cls.__orig_bases__[0])[0]  # type: ignore[attr-defined]
        return found


class Front(Protocol):
    """Carries requests out: this process's engine (`front/local.py`) or the agent (`front/client.py`)."""

    def do(self, request: Request[A]) -> A:
        """Errors: `DuctworkError`."""


# what is answered


@dataclass(frozen=True, slots=True)
class Change:
    """`action`: create, update or delete; `line`: the change in a person's words. The rest is there where it was asked for:
    `before` and `after` are the resource's fields, `commands` what a person would type."""

    action: str
    resource: str
    line: str
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None
    commands: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Planned:
    """What would be done. `waiting`: container → why."""

    host: str
    changes: tuple[Change, ...]
    notes: tuple[str, ...]
    waiting: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Unconfirmed:
    """It is taken back unless `command` is run within so many seconds."""

    seconds: int
    command: str


@dataclass(frozen=True, slots=True)
class Done:
    """What was done. `kept`: what could not go, and why; `rounds`: how many plans had something to do; `refused`: container →
    why it gets nothing by its labels."""

    title: str
    changes: tuple[Change, ...]
    rounds: int
    waiting: Mapping[str, str]
    kept: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    unconfirmed: Unconfirmed | None = None
    refused: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Confirmed:
    """`title`: of the change that is kept."""

    title: str


@dataclass(frozen=True, slots=True)
class Row:
    """One interface of one container; the fields are `ps --json`'s (contract, section 3). `host_interface` and `bridge` are
    "" where there is nothing on the host, as `parent` is, but for macvlan and ipvlan: the NIC below. `vlan`: that of all its
    frames, where the NIC's VLAN or the bridge's port says one."""

    container: str
    runtime: str
    mode: str
    interface: str
    ifindex: int
    host_interface: str
    bridge: str
    parent: str
    vlan: int | None
    mac: str
    addresses: tuple[str, ...]
    network: str


@dataclass(frozen=True, slots=True)
class Seen:
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class PortRow:
    """One published port, or range. `port`: the container's, or FIRST-LAST. `state`: `published`, or `waiting` for a container
    that does not run; of one at ::1 alone, `relayed` or `needs the agent`. `addresses`: where it leads;
    `connections`: how many have been begun."""

    listen: str
    protocol: str
    container: str
    port: str
    network: str
    site: str
    origin: str
    state: str
    addresses: tuple[str, ...]
    connections: int


@dataclass(frozen=True, slots=True)
class Published:
    rows: tuple[PortRow, ...]


# what is asked for


@dataclass(frozen=True, slots=True)
class SiteFile:
    """A site file. `name`: what its reader calls it, for the places of mistakes; the site's own name by default."""

    __pydantic_config__ = STRICT

    text: str
    name: str = "site.yaml"


@dataclass(frozen=True, slots=True)
class Plan(Request[Planned]):
    """What `apply` would change. `host`: which one of the file this is, "" for the one whose name or address it has.
    `detail`: with the resources before and after, and the commands."""

    changes = False

    site: SiteFile
    host: str = ""
    detail: bool = True


@dataclass(frozen=True, slots=True)
class Apply(Request[Done]):
    """Make the host's part of the file true. `dad`: ask the LAN whether anybody has an address before it is given.
    `confirm_seconds`: take it all back unless `confirm` follows in time."""

    site: SiteFile
    host: str = ""
    dad: bool = True
    confirm_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class Destroy(Request[Done]):
    """Remove all that a site has here, or, with `everything`, all that ductwork has."""

    site: SiteFile | None = None
    everything: bool = False


@dataclass(frozen=True, slots=True)
class Undo(Request[Done]):
    """Take the last change back."""


@dataclass(frozen=True, slots=True)
class Confirm(Request[Confirmed]):
    """Keep the change that awaits confirmation."""


@dataclass(frozen=True, slots=True)
class Attach(Request[Done]):
    """Plug a container into a network that was applied here. What is left out is chosen as for the site file's attachments.
    `gateway`: an address, or false for no default route by way of this network."""

    container: str
    network: str
    interface: str | None = None
    addresses: tuple[str, ...] = ()
    gateway: bool | str | None = None
    mac: str | None = None
    mtu: int | None = None
    dad: bool = True


@dataclass(frozen=True, slots=True)
class Detach(Request[Done]):
    """Take back what `attach` did."""

    container: str
    network: str
    interface: str | None = None


@dataclass(frozen=True, slots=True)
class Ps(Request[Seen]):
    """The interfaces that ductwork has given to containers, or to one of them."""

    changes = False
    by_get = True

    container: str = ""


@dataclass(frozen=True, slots=True)
class Publish(Request[Done]):
    """Let a port of the host lead to a running container's: `listen` and `to` are those of the site file's `ports`. `network`:
    which of the container's is meant, "" for its only one."""

    listen: str
    to: str
    protocol: str = "tcp"
    network: str = ""


@dataclass(frozen=True, slots=True)
class Unpublish(Request[Done]):
    """Take back what `publish` did."""

    listen: str
    protocol: str = "tcp"


@dataclass(frozen=True, slots=True)
class Ports(Request[Published]):
    """The ports of the host that lead to containers."""

    changes = False
    by_get = True


REQUESTS: tuple[type[Request[Any]], ...] = (Plan, Apply, Destroy, Undo, Confirm, Attach, Detach, Publish, Unpublish, Ps, Ports)
