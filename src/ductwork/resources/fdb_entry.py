"""Forwarding entries of VXLAN devices: which VTEP a MAC is behind."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from ductwork.resources.base import Argv, IPAddress, Key, Owner, Place, Resource

FLOOD_MAC = "00:00:00:00:00:00"
"""Frames to unknown, multicast and broadcast addresses go to every VTEP that has an entry for it."""


@dataclass(frozen=True, slots=True)
class FdbEntry:
    """A permanent entry on a VXLAN device of ours. On our device it is ours: VXLAN stores no protocol number."""

    netns: str
    link: str
    mac: str
    peer_vtep: IPAddress
    owner: Owner | None = field(default=None, compare=False)

    replace: ClassVar[frozenset[str]] = frozenset()
    collected: ClassVar[bool] = False

    @property
    def key(self) -> Key:
        ident: tuple[str, ...] = (self.link, self.mac)
        return Key("fdb", self.netns, (*ident, str(self.peer_vtep)) if self.mac == FLOOD_MAC else ident)

    def requires(self) -> tuple[Key, ...]:
        return (Key("link", self.netns, (self.link,)),)

    def create_argv(self, place: Place) -> list[Argv]:
        return [["bridge", "fdb", "append" if self.mac == FLOOD_MAC else "replace", *self._words]]

    def delete_argv(self, place: Place) -> list[Argv]:
        return [["bridge", "fdb", "del", *self._words]]

    def update_argv(self, before: Resource, place: Place) -> list[Argv]:
        return [["bridge", "fdb", "replace", *self._words]]

    @property
    def _words(self) -> list[str]:
        return [self.mac, "dev", self.link, "dst", str(self.peer_vtep), "self", "permanent"]
