"""nftables: our table with its sets, maps and chains as one resource, and the elements in its sets.

Invariant: a table's rules are constant for one version of ductwork; all that depends on the site is in elements, which
carry their owner as a comment.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar

from ductwork.resources.base import HOST, Argv, Key, Owner, Place, Resource

_IFNAMSIZ = 15

RuleDigests = tuple[tuple[str, tuple[str, ...]], ...]
"""(chain, its rules' digests in order), chains sorted by name."""


@dataclass(frozen=True, slots=True)
class NftTable:
    """A table of ours in `family` (`inet`, `bridge`). `script`: the nft text that makes it, and makes it right again where
    it exists with other rules, elements kept. `digests`: what is compared; each rule carries its own as its comment."""

    family: str
    name: str
    digests: RuleDigests
    script: str = field(default="", compare=False)
    owner: Owner | None = field(default=None, compare=False)
    netns: str = HOST

    replace: ClassVar[frozenset[str]] = frozenset()
    collected: ClassVar[bool] = True

    @property
    def key(self) -> Key:
        return Key("nft-table", self.netns, (self.family, self.name))

    def requires(self) -> tuple[Key, ...]:
        return ()

    def create_argv(self, place: Place) -> list[Argv]:
        return [["nft", self.script]]

    def delete_argv(self, place: Place) -> list[Argv]:
        return [["nft", "delete", "table", self.family, self.name]]

    def update_argv(self, before: Resource, place: Place) -> list[Argv]:
        return self.create_argv(place)


@dataclass(frozen=True, slots=True)
class NftElement:
    """One element of a set or map. `parts`: its key, as nft prints each part (`10.1.1.0/24`, `dw-pods`, quotes left out);
    `value`: what the map gives for it, empty in a set. `packets`: how many it was found for, where that is counted."""

    family: str
    table: str
    set_name: str
    parts: tuple[str, ...]
    value: str = ""
    owner: Owner | None = None
    netns: str = HOST
    packets: int = field(default=0, compare=False)

    replace: ClassVar[frozenset[str]] = frozenset()
    collected: ClassVar[bool] = False

    @property
    def key(self) -> Key:
        return Key("nft-element", self.netns, (self.family, self.table, self.set_name, *self.parts))

    def requires(self) -> tuple[Key, ...]:
        """All that filters packets beside it, too: as long as a network has elements, whoever is attached to it finds the
        sets for its own."""
        return _packet_filter(self.netns, self.table)

    @property
    def text(self) -> str:
        """The element as nft reads it, without its value: `10.1.1.0/24 . "dw-pods" comment "…"`."""
        comment = f' comment "{self.owner.comment()}"' if self.owner else ""
        return self.key_text + comment + (f" : {self.value}" if self.value else "")

    @property
    def key_text(self) -> str:
        """No map of ours has names of interfaces in its keys."""
        return " . ".join(part if self.value or _is_literal(part) else f'"{part}"' for part in self.parts)

    def create_argv(self, place: Place) -> list[Argv]:
        return [["nft", f"add element {self._set} {{ {self.text} }}"]]

    def delete_argv(self, place: Place) -> list[Argv]:
        return [["nft", f"delete element {self._set} {{ {self.key_text} }}"]]

    def update_argv(self, before: Resource, place: Place) -> list[Argv]:
        """nft has no replace; one run is one transaction."""
        assert isinstance(before, NftElement)
        removed, added = before.delete_argv(place)[0][1], self.create_argv(place)[0][1]
        return [["nft", f"{removed}; {added}"]]

    @property
    def _set(self) -> str:
        return f"{self.family} {self.table} {self.set_name}"


@lru_cache(8)
def _packet_filter(netns: str, table: str) -> tuple[Key, ...]:
    tables = (Key("nft-table", netns, (family, table)) for family in ("inet", "bridge"))
    return (*tables, *(Key("iptables", netns, (family,)) for family in ("ip", "ip6")))


def _is_literal(part: str) -> bool:
    """Whether it must not be quoted: a prefix, an IPv6 address, a long number. No interface name looks like one, and those
    may look like whatever else nft has words for (`ip`, `10.1`, `0x1`); a quoted IPv4 address is one."""
    return "/" in part or ":" in part or len(part) > _IFNAMSIZ
