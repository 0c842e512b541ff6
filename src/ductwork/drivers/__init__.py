"""Network drivers, one file each: from the site file to resources.

Invariant: a driver is a pure function of what it is given. To add one: its file, and its line in `DRIVERS`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NewType, Protocol

from ductwork.errors import Problem
from ductwork.resources import IPInterface, Link, Resource, Route
from ductwork.site.model import Attachment, Network, Site

PerHost = NewType("PerHost", "dict[str, str]")
"""An option that takes one value (key "") or one per host."""


@dataclass(frozen=True, slots=True)
class ContainerFacts:
    """A running container: its namespace's cookie, and the default routes that it has from somebody else."""

    cookie: int
    default_routes: tuple[Route, ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """What a driver may know of the host. `links` and `routes` are the host's, foreign ones included.

    `sysctls`: path below /proc/sys → its value, as it would be without us.
    """

    links: Mapping[str, Link] = field(default_factory=dict)
    routes: tuple[Route, ...] = ()
    containers: Mapping[str, ContainerFacts] = field(default_factory=dict)
    sysctls: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class View:
    """One host's sight of the site. `addresses`: attachment id → written or allocated addresses."""

    site: Site
    host: str
    facts: Facts
    addresses: Mapping[tuple[str, str], tuple[IPInterface, ...]] = field(default_factory=dict)
    origin: str = "site"


class Driver(Protocol):
    """`Options`: a frozen dataclass of the driver's own keys in the site file; a field's metadata may hold `ge`, `le`,
    `max_length`, `pattern` (its limits) and `help` (its line in the schema)."""

    name: ClassVar[str]
    Options: ClassVar[type]

    def check(self, network: Network, site: Site) -> Iterable[Problem]:
        """Mistakes that need the whole file; their paths start at the network's own keys."""

    def host_resources(self, network: Network, view: View) -> Iterable[Resource]: ...

    def attachment_resources(self, network: Network, attachment: Attachment, view: View) -> Iterable[Resource]: ...
