"""Bridge membership: which link is plugged into which bridge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ductwork.resources.base import Argv, Key, Owner, Place, Resource


@dataclass(frozen=True, slots=True)
class Port:
    """`link` is a port of `bridge`, both in `netns`. Ours if the link is ours."""

    netns: str
    link: str
    bridge: str
    owner: Owner | None = None

    replace: ClassVar[frozenset[str]] = frozenset()
    collected: ClassVar[bool] = False

    @property
    def key(self) -> Key:
        return Key("port", self.netns, (self.link,))

    def requires(self) -> tuple[Key, ...]:
        return (Key("link", self.netns, (self.link,)), Key("link", self.netns, (self.bridge,)))

    def create_argv(self, place: Place) -> list[Argv]:
        return [["ip", "link", "set", "dev", self.link, "master", self.bridge]]

    def delete_argv(self, place: Place) -> list[Argv]:
        return [["ip", "link", "set", "dev", self.link, "nomaster"]]

    def update_argv(self, before: Resource, place: Place) -> list[Argv]:
        return self.create_argv(place)
