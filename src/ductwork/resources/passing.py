"""What the host's packet filter sees of our networks, so that other people's firewalls can be asked about it.

Invariant: facts alone; nothing here is a resource.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address

from ductwork.resources.base import IPAddress, IPNetwork


@dataclass(frozen=True, slots=True)
class Tunnel:
    """Of a VXLAN: `underlay`: the NIC, or empty; `local`: this host's VTEP; `peers`: the others'."""

    underlay: str
    local: IPAddress
    port: int
    peers: Sequence[IPAddress]


@dataclass(frozen=True, slots=True)
class Guest:
    """An IPv6 address of a container, and the bridge that it is behind."""

    bridge: str
    address: IPv6Address


@dataclass(frozen=True, slots=True)
class Passing:
    """What the host's packet filter sees of our networks: what is forwarded, by these devices and of these subnets; what
    comes through tunnels; whom it bridges."""

    devices: Sequence[str]
    subnets: Sequence[IPNetwork]
    tunnels: Sequence[Tunnel]
    guests: Sequence[Guest]
