"""Containers of several hosts on one layer 2, tunnelled over UDP (RFC 7348)."""

from __future__ import annotations

from dataclasses import dataclass, field

from ductwork.drivers import PerHost


@dataclass(frozen=True, slots=True)
class Options:
    vni: int = field(metadata={"help": "VXLAN network identifier", "ge": 1, "le": 2**24 - 1})
    port: int = field(default=4789, metadata={"help": "UDP port of the tunnel", "ge": 1, "le": 65535})
    underlay: PerHost = field(
        default_factory=lambda: PerHost({}), metadata={"help": "NIC; default: that of the host's address"}
    )
