"""What goes with a port of Open vSwitch: what may come in by it, and that nobody else hears it.

Invariant: both are the port's own. A guard is flows in the first OpenFlow table that go on to whatever is there besides them,
or in a table that nothing else leads to; their cookie is a digest of them all, so that what is read is compared as a whole.
They are known by the port's number, so that a port that is made anew has none.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import ClassVar

from ductwork.resources.base import HOST, Argv, Key, Owner, Place, Resource

COOKIE = 0x6477 << 48
COOKIE_MASK = 0xFFFF << 48
DEAF_TABLE = "ductwork"
DEAF_PRIORITY = -500
_DIGEST_BYTES = 6


@dataclass(frozen=True, slots=True)
class OvsGuard:
    """The flows of a port, which may be the bridge's own. `flows`: matches and actions, without the port and the cookie;
    `cookie`: what they are known by, of what was read 0 where some are missing. Ours if the port is."""

    link: str
    bridge: str
    cookie: int
    flows: tuple[str, ...] = field(default=(), compare=False)
    owner: Owner | None = None
    database: str = field(default="", compare=False)
    netns: str = HOST

    replace: ClassVar[frozenset[str]] = frozenset({"bridge", "owner"})
    collected: ClassVar[bool] = False

    @property
    def key(self) -> Key:
        return Key("ovs-guard", self.netns, (self.link,))

    def requires(self) -> tuple[Key, ...]:
        bridge = Key("ovs-bridge", self.netns, (self.bridge,))
        return (bridge,) if self.is_of_bridge else (Key("ovs-port", self.netns, (self.link,)), bridge)

    @property
    def is_of_bridge(self) -> bool:
        return self.link == self.bridge

    @property
    def lines(self) -> list[str]:
        """As ovs-ofctl reads them."""
        return [f"cookie={self.cookie:#x},in_port={self.link},{flow}" for flow in self.flows]

    def create_argv(self, place: Place) -> list[Argv]:
        return [["ovs-ofctl", "add-flow", self.bridge, line] for line in self.lines]

    def delete_argv(self, place: Place) -> list[Argv]:
        return [["ovs-ofctl", "del-flows", self.bridge, f"in_port={self.link},cookie={COOKIE:#x}/{COOKIE_MASK:#x}"]]

    def update_argv(self, before: Resource, place: Place) -> list[Argv]:
        return [*self.delete_argv(place), *self.create_argv(place)]


@dataclass(frozen=True, slots=True)
class OvsDeaf:
    """With the data path `netdev` the switch is a listener like tcpdump: the kernel would deal with each frame as well, and
    answer for the host's addresses, whatever the VLAN. A chain at the link's ingress, behind the listeners, drops them all; it
    goes with the link. (Open vSwitch 3.1, Linux 6.1 and 6.18.)"""

    link: str
    owner: Owner | None = None
    netns: str = HOST

    replace: ClassVar[frozenset[str]] = frozenset({"owner"})
    collected: ClassVar[bool] = False

    @property
    def key(self) -> Key:
        return Key("ovs-deaf", self.netns, (self.link,))

    @property
    def chain(self) -> str:
        """A link's name may be no word for nft."""
        return "port-" + hashlib.blake2b(self.link.encode(), digest_size=6).hexdigest()

    def requires(self) -> tuple[Key, ...]:
        return (Key("link", self.netns, (self.link,)), Key("nft-table", self.netns, ("netdev", DEAF_TABLE)))

    @property
    def script(self) -> str:
        comment = f"{self.link} {self.owner.comment() if self.owner else ''}"
        hook = f'type filter hook ingress device "{self.link}" priority {DEAF_PRIORITY}; policy accept;'
        made = f"add chain netdev {DEAF_TABLE} {self.chain} {{ {hook} }}"
        return f'{made}\nadd rule netdev {DEAF_TABLE} {self.chain} drop comment "{comment}"'

    @property
    def removal(self) -> str:
        return f"flush chain netdev {DEAF_TABLE} {self.chain}\ndelete chain netdev {DEAF_TABLE} {self.chain}"

    def create_argv(self, place: Place) -> list[Argv]:
        return [["nft", line] for line in self.script.splitlines()]

    def delete_argv(self, place: Place) -> list[Argv]:
        return [["nft", line] for line in self.removal.splitlines()]

    def update_argv(self, before: Resource, place: Place) -> list[Argv]:
        raise AssertionError("it is only ever replaced")


def cookie_of(flows: tuple[str, ...]) -> int:
    """What a set of flows is known by; their number is part of it."""
    digest = hashlib.blake2b("\n".join(flows).encode(), digest_size=_DIGEST_BYTES - 1).digest()
    return COOKIE | int.from_bytes(digest, "big") << 8 | len(flows) & 0xFF
