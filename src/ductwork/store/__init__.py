"""What must be remembered beyond the kernel's life: names → addresses, and attachments that no site file has."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol

Lease = IPv4Address | IPv6Address


class Store(Protocol):
    """`scope` is the host's name: containers of the same name on two hosts are two. All calls are atomic."""

    def leases(self, site: str, network: str) -> dict[tuple[str, str, str], tuple[Lease, ...]]:
        """(host, container, interface) → its addresses in that network."""

    def lease(self, site: str, network: str, holder: tuple[str, str, str], addresses: tuple[Lease, ...]) -> None:
        """Remember; an address that another holder has raises `AllocationError`; the holder's former ones are given back.
        No addresses: forget the holder."""

    def lease_all(self, site: str, changes: Iterable[tuple[str, tuple[str, str, str], tuple[Lease, ...]]]) -> None:
        """Several leases, in order, all of them or none: (network, holder, addresses)."""

    def remember(self, table: str, key: str, value: dict[str, object] | None) -> None:
        """Keep a JSON object under (table, key); None forgets it."""

    def remembered(self, table: str, key: str | None = None) -> dict[str, dict[str, object]]:
        """All of a table, or what it has under one key."""
