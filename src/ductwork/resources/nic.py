"""What is known of a NIC besides its link."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NicFacts:
    """`wireless`: it cannot be bridged. `manager`: who manages it (`NetworkManager`, `systemd-networkd`, …), empty: nobody.
    `lease`: who renews its DHCP lease, empty: it has none. `mentions`: what else names it (policy and firewall rules, bound
    sockets), for a person. `virtual`: it dies with the namespace that it is in."""

    wireless: bool = False
    manager: str = ""
    lease: str = ""
    mentions: tuple[str, ...] = ()
    virtual: bool = False
