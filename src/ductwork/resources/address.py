"""Addresses of links."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from ductwork.resources.base import Argv, IPAddress, Key, Owner, Place, Resource


@dataclass(frozen=True, slots=True)
class Address:
    """One address of one link, of scope global.

    `deprecated`: IPv6 alone, it answers, but is no source of the host's own packets while there is another one (RFC 6724,
    rule 3). `nodad`: IPv6 alone, ductwork is the authority for the address, so that it is usable at once (IFA_F_NODAD); it
    is asked for at creation and not compared. `secondary`: IPv4 alone, it goes when the primary of its subnet does
    (IFA_F_SECONDARY); only observed. Ours if it carries our protocol number (IFA_PROTO, kernel 5.18) and its link is ours.
    """

    netns: str
    link: str
    address: IPAddress
    prefixlen: int
    deprecated: bool = False
    nodad: bool = field(default=True, compare=False)
    secondary: bool = field(default=False, compare=False)
    owner: Owner | None = field(default=None, compare=False)

    replace: ClassVar[frozenset[str]] = frozenset({"prefixlen", "deprecated"})
    collected: ClassVar[bool] = False

    @property
    def key(self) -> Key:
        return Key("address", self.netns, (self.link, str(self.address)))

    def requires(self) -> tuple[Key, ...]:
        return (Key("link", self.netns, (self.link,)),)

    def create_argv(self, place: Place) -> list[Argv]:
        return [["ip", "address", "add", self._text, "dev", self.link, *self._extra]]

    def delete_argv(self, place: Place) -> list[Argv]:
        return [["ip", "address", "del", self._text, "dev", self.link]]

    def update_argv(self, before: Resource, place: Place) -> list[Argv]:
        raise AssertionError("an address is only ever replaced")

    @property
    def _text(self) -> str:
        return f"{self.address}/{self.prefixlen}"

    @property
    def _extra(self) -> list[str]:
        if self.address.version == 6:
            words = ["nodad"] if self.nodad else []
            return [*words, "preferred_lft", "0"] if self.deprecated else words
        return ["broadcast", "+"] if self.prefixlen < 31 else []
