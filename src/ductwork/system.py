"""What the engine acts through: protocols that `app.py` gives concrete classes for.

Invariant: nothing in here does anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from ductwork.duplicates import Watch
from ductwork.foreign import SysctlReader
from ductwork.openings import Traffic
from ductwork.resources import Address, Backend, NftElement, NicFacts
from ductwork.resources.passing import Passing
from ductwork.runtimes import Sandbox, Tags

T = TypeVar("T")


class LinkBackend(Backend, Protocol):
    def announce(self, netns: str, addresses: Sequence[Address]) -> None: ...


class ElementReader(Protocol):
    def look_up(self, elements: Sequence[NftElement]) -> list[NftElement]:
        """Those of them that are there."""


class SysctlBackend(Backend, SysctlReader, Protocol):
    """Reads what it is asked for."""


class SwitchBackend(Backend, Protocol):
    """`databases`: where to look, beside the machine's own; found out as one goes."""

    databases: set[str]


class Resolve(Protocol):
    @property
    def notes(self) -> list[str]: ...

    def resolve(self, references: Iterable[str]) -> dict[str, Sandbox | None]: ...

    def tagged(self) -> tuple[dict[str, Tags], frozenset[str]]:
        """(RUNTIME:NAME → what is written on it, of the running containers that ask for something; the runtimes that do not
        answer)."""

    def gone(self, references: Iterable[str]) -> set[str]:
        """Of containers (RUNTIME:NAME), those that their runtime does not know, and those that run and ask for nothing."""

    def stopped(self, references: Iterable[str]) -> set[str]:
        """Of containers (RUNTIME:NAME), those that do not run, as far as their runtime answers."""


class Visit(Protocol):
    """What `netns.Visitor` does."""

    def visit(self, places: Iterable[tuple[Callable[[], int], Callable[[], T]]]) -> list[T | Exception]: ...


class Machine(Protocol):
    """What is there besides what back ends read and change."""

    def nics(self, names: Iterable[str]) -> dict[str, NicFacts]:
        """Of those that are here."""

    def mentions(self, nics: Sequence[str]) -> Mapping[str, list[str]]:
        """NIC → what else names it (policy and firewall rules, bound sockets), for a person."""

    def missing(self, features: Iterable[str]) -> dict[str, str]:
        """Of what a plan needs of the kernel and its daemons, what is not there → what to do."""

    def guests(self) -> frozenset[str]:
        """The containers that, by the marks in them, have links of ours which no mark on the host tells of."""

    def obstacles(self, passing: Passing) -> list[str]:
        """What of other people's firewalls stops these packets."""

    def watch(self, links: Sequence[str]) -> Watch:
        """An ear on the wires behind these links of the host."""


@dataclass(frozen=True, slots=True)
class System:
    """`filters`: back ends that the host alone has; `elements`: that of them which finds single elements. `iptables`: the
    families that there is an iptables program for. `cookie`: that of the namespace in which it is called, by a visit or by us.
    """

    links: LinkBackend
    sysctls: SysctlBackend
    filters: Sequence[Backend]
    switches: SwitchBackend
    elements: ElementReader
    iptables: frozenset[str]
    visitor: Visit
    cookie: Callable[[], int]
    machine: Machine
    traffic: Traffic
