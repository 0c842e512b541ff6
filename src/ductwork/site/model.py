"""The site as frozen records: what everything but `site/` itself sees of a site file.

Invariant: a `Site` has passed every check that needs the file alone; its records hold `ipaddress` objects, never text
that still has to be parsed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ductwork.resources import IPAddress, IPInterface, IPNetwork


@dataclass(frozen=True, slots=True)
class Host:
    """A machine of the file. `address` is its underlay address; the prefix length is a full one where none was written."""

    name: str
    address: IPInterface | None = None


@dataclass(frozen=True, slots=True)
class Nat:
    """What happens to packets that leave a network: `snat_to` is set with mode `snat` alone."""

    mode: Literal["masquerade", "none", "snat"]
    snat_to: IPAddress | None = None


@dataclass(frozen=True, slots=True)
class AddressRange:
    """Addresses from `first` to `last`, both included, of one family."""

    first: IPAddress
    last: IPAddress


@dataclass(frozen=True, slots=True)
class Network:
    """One network; `options` is the driver's own `Options` record (`drivers/NAME.py`).

    `gateways`: already defaulted (the first address of each subnet where the host holds it, none where `internal`).
    `allocate`: host name → ranges; the key "" stands for every host.
    `legs`: host → the addresses of its routers in the network; a gateway that is one of them is on that host alone.
    `hosts`: where the network exists although nothing there uses it. `external`: it is somebody else's LAN, reached through an
    `uplink`, a `parent` or a `device`: its gateways are other machines, and its addresses may be taken.
    """

    name: str
    driver: str
    subnets: tuple[IPNetwork, ...] = ()
    gateways: tuple[IPAddress, ...] = ()
    host_addresses: Mapping[str, tuple[IPAddress, ...]] = field(default_factory=dict)
    nat: Nat = Nat("none")
    internal: bool = False
    isolated: bool = False
    external: bool = False
    mtu_bytes: int | None = None
    allocate: Mapping[str, tuple[AddressRange, ...]] = field(default_factory=dict)
    ipv6: Literal["static", "slaac"] = "static"
    hosts: tuple[str, ...] = ()
    legs: Mapping[str, tuple[IPAddress, ...]] = field(default_factory=dict)
    options: object = None

    def subnet_of(self, address: IPAddress) -> IPNetwork | None:
        """The subnet of this network that holds `address`."""
        return next((s for s in self.subnets if address in s), None)

    @property
    def apart(self) -> bool:
        """Whether it is isolated and its bridges' ports cannot be: beyond one of them there is a machine that containers are to
        reach, a LAN's gateway or a router on another host."""
        return self.isolated and (self.external or (self.driver == "vxlan" and bool(self.legs)))

    def gateways_held(self, host: str) -> tuple[IPAddress, ...]:
        """The gateways that a host holds: a leg is one router's alone, every other one each host has where the network is no
        LAN of somebody else's."""
        own = self.legs.get(host, ())
        others = {address for legs in self.legs.values() for address in legs}
        return tuple(g for g in self.gateways if g in own or not (self.external or g in others))


@dataclass(frozen=True, slots=True)
class Rate:
    """Limits in bits per second, as the container sees them (`ingress` is towards it); None: no limit."""

    ingress: int | None = None
    egress: int | None = None


@dataclass(frozen=True, slots=True)
class StaticRoute:
    to: IPNetwork
    via: IPAddress | None = None


@dataclass(frozen=True, slots=True)
class Attachment:
    """One container plugged into one network.

    `container`: as written, `RUNTIME:NAME` or `NAME`. `host`: "" where the file has no hosts.
    `addresses`: with the subnet's prefix length; empty: to be allocated, unless the network has no subnet.
    `gateway`: None: the default rule of contract 1.3; True, False or an address: as asked.
    `mac`: always set (made from host, container and interface where the file names none).
    `spoofing`: `deny`: only its own MAC and addresses leave it.
    """

    container: str
    host: str
    network: str
    interface: str
    mac: str
    addresses: tuple[IPInterface, ...] = ()
    gateway: bool | IPAddress | None = None
    routes: tuple[StaticRoute, ...] = ()
    mtu_bytes: int | None = None
    rate: Rate = Rate()
    spoofing: Literal["deny", "allow"] = "deny"

    @property
    def id(self) -> tuple[str, str]:
        """(container, interface): unique on one host."""
        return (self.container, self.interface)


@dataclass(frozen=True, slots=True)
class Router:
    """A host that routes between networks. `legs`: network → the router's addresses in it, one of each subnet at most.
    `allow`: (from, to): networks between which new connections pass. `masquerade`: what leaves by a leg has its address."""

    name: str
    host: str
    legs: Mapping[str, tuple[IPAddress, ...]]
    allow: tuple[tuple[str, str], ...]
    masquerade: bool = False


@dataclass(frozen=True, slots=True)
class PublishedPort:
    """A port of a host's, or a range of them, that leads to a container attached there (`container` and `interface`).

    `address`: where it listens; None: on every address of the host's, an unspecified one: on all of its family. `to`: the
    container's port; a range leads to as many behind it, unless `to_one`. `origin`: who publishes it (contract 1.8).
    """

    container: str
    interface: str
    network: str
    host: str
    protocol: Literal["tcp", "udp", "sctp"]
    first: int
    last: int
    to: int
    to_one: bool = False
    address: IPAddress | None = None
    origin: str = "site"

    @property
    def id(self) -> tuple[str, str]:
        """Whose port it is: the attachment's (container, interface)."""
        return (self.container, self.interface)

    @property
    def listen(self) -> str:
        """As the site file has it: `8088`, `[fd00::1]:8000-8010`."""
        ports = str(self.first) if self.first == self.last else f"{self.first}-{self.last}"
        if self.address is None:
            return ports
        return f"[{self.address}]:{ports}" if self.address.version == 6 else f"{self.address}:{ports}"


@dataclass(frozen=True, slots=True)
class PortRange:
    """Ports of a host's from `first` to `last`, both included, of one protocol."""

    protocol: Literal["tcp", "udp", "sctp"]
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Permission:
    """What containers may ask for by labels in a network. `addresses`: the ranges that theirs are to be in, none for all of the
    network. `ports`: the host's ports that may lead to them."""

    addresses: tuple[AddressRange, ...] = ()
    ports: tuple[PortRange, ...] = ()

    def permits(self, protocol: str, first: int, last: int) -> bool:
        """Whether all of these ports are in the ranges, be it in several that adjoin."""
        for span in sorted((span.first, span.last) for span in self.ports if span.protocol == protocol):
            if span[0] <= first <= span[1]:
                first = span[1] + 1
        return first > last


@dataclass(frozen=True, slots=True)
class Site:
    """A whole file. `hosts` is empty where the file speaks of this machine alone. `labels`: the networks that containers may
    ask for by labels."""

    name: str
    hosts: Mapping[str, Host] = field(default_factory=dict)
    networks: Mapping[str, Network] = field(default_factory=dict)
    attachments: tuple[Attachment, ...] = ()
    ports: tuple[PublishedPort, ...] = ()
    labels: Mapping[str, Permission] = field(default_factory=dict)
    routers: tuple[Router, ...] = ()

    def on(self, host: str) -> tuple[Attachment, ...]:
        """The attachments of one host."""
        return tuple(a for a in self.attachments if a.host == host)

    def hosts_of(self, network: str) -> tuple[str, ...]:
        """The hosts on which a network exists, in file order; `("",)` for a file without hosts that uses it."""
        written = self.networks[network]
        every = tuple(self.hosts) or ("",)
        if network in self.labels and not written.hosts:
            return every
        used = {a.host for a in self.attachments if a.network == network} | {*written.hosts, *written.legs}
        return tuple(h for h in every if h in used)
