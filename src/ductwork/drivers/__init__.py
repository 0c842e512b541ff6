"""Network drivers, one file each: from the site file to resources.

Invariant: a driver is a pure function of what it is given. To add one: its file, and its line in `DRIVERS`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NewType, Protocol, TypeVar

from ductwork.errors import Problem
from ductwork.resources import Address, IPAddress, IPInterface, Link, NicFacts, Owner, Resource, Route
from ductwork.site.model import Attachment, Network, PublishedPort, Site

T = TypeVar("T")

PerHost = NewType("PerHost", "dict[str, str]")
"""An option that takes one value (key "") or one per host: a name."""
PerHostAddress = NewType("PerHostAddress", "dict[str, IPAddress]")
"""The same: an address."""
VlanIds = NewType("VlanIds", "tuple[int, ...]")
"""An option that takes VLAN numbers and ranges of them: sorted, each once."""


def on_host(option: Mapping[str, T], host: str) -> T | None:
    """What a per-host option says for `host`."""
    return option.get(host, option.get(""))


@dataclass(frozen=True, slots=True)
class ContainerFacts:
    """A running container: its namespace's cookie, and all its default routes, ours and parked ones included."""

    cookie: int
    default_routes: tuple[Route, ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """What a driver may know of the host. `links`, `addresses` and `routes` are the host's, foreign ones included.

    `containers`: the running ones among those that the site names. `sysctls`: path below /proc/sys → its value, as it
    would be without us. `iptables`: the families (`ip`, `ip6`) for which there is an iptables program. `nics`: what else is
    known of the NICs that the site names as uplinks, parents and devices, and that we have not had before. All is seen as it
    will be when NICs have become ports of their bridges (design, section 3, Relocation): `moved`: NIC → its bridge, which has
    what was on the NIC; `taken`: the same, as it is now. `cookie`: that of the host's namespace.
    `lent`: a NIC's name on the host → the NIC, which is in a container by us. `inside`: the links that containers have on a
    device of the host's, as far as these were looked into.
    """

    links: Mapping[str, Link] = field(default_factory=dict)
    addresses: tuple[Address, ...] = ()
    routes: tuple[Route, ...] = ()
    containers: Mapping[str, ContainerFacts] = field(default_factory=dict)
    sysctls: Mapping[str, str] = field(default_factory=dict)
    iptables: frozenset[str] = frozenset()
    nics: Mapping[str, NicFacts] = field(default_factory=dict)
    moved: Mapping[str, str] = field(default_factory=dict)
    taken: Mapping[str, str] = field(default_factory=dict)
    cookie: int = 0
    lent: Mapping[str, Link] = field(default_factory=dict)
    inside: tuple[Link, ...] = ()


@dataclass(frozen=True, slots=True)
class View:
    """One host's sight of the site.

    `addresses`: attachment id → written or allocated addresses, with the subnet's prefix length. `attachments`: container →
    its attachments on this host. `ports`: attachment id → what is published of it here. `seed`: the host's name, or the
    machine's where the file has no hosts. `origin`: who plugs in (contract 1.8).
    """

    site: Site
    host: str
    seed: str
    facts: Facts
    addresses: Mapping[tuple[str, str], tuple[IPInterface, ...]] = field(default_factory=dict)
    attachments: Mapping[str, tuple[Attachment, ...]] = field(default_factory=dict)
    origin: str = "site"
    ports: Mapping[tuple[str, str], tuple[PublishedPort, ...]] = field(default_factory=dict)

    def owner(self, network: str = "", attachment: Attachment | None = None, *, uplink: str = "") -> Owner:
        """The mark of what a network has on this host ("": of what several networks of the site share), or of what one
        attachment has. `uplink`: the NIC that a bridge takes over."""
        if attachment is None:
            return Owner(self.site.name, "site", network, interface=uplink)
        container = self.facts.containers[attachment.container]
        return Owner(self.site.name, self.origin, network, attachment.container, attachment.interface, container.cookie)


class Driver(Protocol):
    """`Options`: a frozen dataclass of the driver's own keys in the site file; a field's metadata may hold `ge`, `le`,
    `max_length`, `pattern` (its limits) and `help` (its line in the schema)."""

    name: ClassVar[str]
    Options: ClassVar[type]

    def check(self, network: Network, site: Site) -> Iterable[Problem]:
        """Mistakes that need the whole file; their paths start at the network's own keys."""

    def ifname(self, network: Network, host: str) -> str:
        """What attachments of the network are plugged into on a host: the bridge, or the parent."""

    def mtu_bytes(self, network: Network, view: View) -> int: ...

    def host_resources(self, network: Network, view: View) -> Iterable[Resource]: ...

    def attachment_resources(self, network: Network, attachment: Attachment, view: View) -> Iterable[Resource]: ...
