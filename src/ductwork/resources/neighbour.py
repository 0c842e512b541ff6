"""Static neighbour entries: the MAC of an address that the file knows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from ductwork.resources.base import PROTOCOL, Argv, IPAddress, Key, Owner, Place, Resource


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A permanent ARP or ND entry. Ours if it carries our protocol number (NDA_PROTOCOL)."""

    netns: str
    link: str
    address: IPAddress
    mac: str
    owner: Owner | None = field(default=None, compare=False)

    replace: ClassVar[frozenset[str]] = frozenset()
    collected: ClassVar[bool] = False

    @property
    def key(self) -> Key:
        return Key("neighbour", self.netns, (self.link, str(self.address)))

    def requires(self) -> tuple[Key, ...]:
        return (Key("link", self.netns, (self.link,)),)

    def create_argv(self, place: Place) -> list[Argv]:
        words = ["lladdr", self.mac, "nud", "permanent", "protocol", str(PROTOCOL)]
        return [["ip", "neighbour", "replace", str(self.address), "dev", self.link, *words]]

    def delete_argv(self, place: Place) -> list[Argv]:
        return [["ip", "neighbour", "del", str(self.address), "dev", self.link]]

    def update_argv(self, before: Resource, place: Place) -> list[Argv]:
        return self.create_argv(place)
