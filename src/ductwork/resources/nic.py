"""What is known of a NIC besides its link, and how its manager is told to leave it alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NicFacts:
    """`wireless`: it cannot be bridged. `manager`: who manages it (`NetworkManager`, `systemd-networkd`, …), empty: nobody.
    `lease`: who renews its DHCP lease, empty: it has none. `virtual`: it dies with the namespace that it is in, and nobody
    fetches it. `stays`: what the host has on it that would not go along (`local 192.0.2.0/24`), for a person."""

    wireless: bool = False
    manager: str = ""
    lease: str = ""
    virtual: bool = False
    stays: tuple[str, ...] = ()


def unmanaged_drop_in(manager: str, names: Sequence[str]) -> tuple[str, str]:
    """(path, text) of the configuration by which `manager` leaves the links `names` alone; ("", "") for one we do not know.

    The text says itself how it takes effect, which was tried: NetworkManager 1.42, told to read it again, takes a link that it
    gives up down, with all addresses; started anew, it leaves everything as it is. systemd-networkd 252 drops the addresses
    that it has by DHCP when it is stopped, and keeps fixed ones. Sources: NetworkManager.conf(5), systemd.network(5),
    dhcpcd.conf(5).
    """
    match manager:
        case "NetworkManager":
            devices = ";".join(f"interface-name:{name}" for name in names)
            text = (
                "# Then: systemctl restart NetworkManager. (`nmcli general reload` would take the links down.)\n"
                f"[keyfile]\nunmanaged-devices+={devices}\n"
            )
            return "/etc/NetworkManager/conf.d/90-ductwork.conf", text
        case "systemd-networkd":
            text = (
                "# Give the NIC a fixed address first: one by DHCP is dropped. Then: systemctl restart systemd-networkd\n"
                f"[Match]\nName={' '.join(names)}\n\n[Link]\nUnmanaged=yes\n"
            )
            return "/etc/systemd/network/05-ductwork.network", text
        case "dhcpcd":
            text = "# Give the NIC a fixed address first, then restart dhcpcd. Add this line:\n"
            return "/etc/dhcpcd.conf", f"{text}denyinterfaces {' '.join(names)}\n"
    return "", ""
