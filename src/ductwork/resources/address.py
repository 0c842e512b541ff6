"""Addresses of links."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_interface
from typing import ClassVar

from ductwork.resources.base import Argv, IPAddress, IPNetwork, Key, Owner, Place, Resource


@dataclass(frozen=True, slots=True)
class AddressDetails:
    """What a foreign address has besides, so that it can be moved to another link as it is. `scope`, `metric` (of its subnet's
    route) and `protocol` are rtnetlink's numbers; lifetimes in seconds, None: for ever, and as of the reading. `autojoin`: of
    a multicast address, whose group is joined for it."""

    scope: int = 0
    label: str = ""
    peer: IPAddress | None = None
    broadcast: IPAddress | None = None
    metric: int = 0
    protocol: int = 0
    valid_seconds: int | None = None
    preferred_seconds: int | None = None
    noprefixroute: bool = False
    mngtmpaddr: bool = False
    autojoin: bool = False


@dataclass(frozen=True, slots=True)
class Address:
    """One address of one link: all scopes, less the link-local one that the kernel gives.

    `deprecated`: IPv6 alone, it answers, but is no source of the host's own packets while there is another one (RFC 6724,
    rule 3). `nodad`: IPv6 alone, ductwork is the authority for the address, so that it is usable at once (IFA_F_NODAD); it
    is asked for at creation and not compared. `secondary`: IPv4 alone, it goes when the primary of its subnet does
    (IFA_F_SECONDARY); only observed. `details`: of a foreign one alone; None: as we make them. `probe`: where on the host
    somebody else may hold it, (device, VLAN tag or 0): nobody must, before it is used. Ours if it carries our protocol number
    (IFA_PROTO, kernel 5.18) and its link is ours.
    """

    netns: str
    link: str
    address: IPAddress
    prefixlen: int
    deprecated: bool = False
    nodad: bool = field(default=True, compare=False)
    secondary: bool = field(default=False, compare=False)
    details: AddressDetails | None = field(default=None, compare=False)
    probe: tuple[str, int] | None = field(default=None, compare=False)
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
    def makes_prefix_route(self) -> bool:
        """Whether the kernel makes its subnet's route when it comes, and takes it away when it goes."""
        return not (self.details and self.details.noprefixroute)

    @property
    def subnet(self) -> IPNetwork:
        """What the kernel makes a route to when it comes."""
        return ip_interface(((self.details and self.details.peer) or self.address, self.prefixlen)).network

    @property
    def _text(self) -> str:
        return f"{self.address}/{self.prefixlen}"

    @property
    def _extra(self) -> list[str]:
        if self.details:
            return self._carried(self.details)
        if self.address.version == 6:
            words = ["nodad"] if self.nodad else []
            return [*words, "preferred_lft", "0"] if self.deprecated else words
        return ["broadcast", "+"] if self.prefixlen < 31 else []

    def _carried(self, details: AddressDetails) -> list[str]:
        words = ["peer", f"{details.peer}/{self.prefixlen}"] if details.peer else []
        words += ["broadcast", str(details.broadcast)] if details.broadcast else []
        words += ["label", details.label] if details.label and self.address.version == 4 else []
        words += ["scope", str(details.scope)] if details.scope and self.address.version == 4 else []
        words += ["metric", str(details.metric)] if details.metric else []
        words += ["valid_lft", str(details.valid_seconds)] if details.valid_seconds is not None else []
        words += ["preferred_lft", str(details.preferred_seconds)] if details.preferred_seconds is not None else []
        words += ["noprefixroute"] if details.noprefixroute else []
        words += ["mngtmpaddr"] if details.mngtmpaddr else []
        words += ["autojoin"] if details.autojoin else []
        return words + (["nodad"] if self.address.version == 6 else [])
