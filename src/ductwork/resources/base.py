"""What every kind of resource has in common: its key, its owner, its protocol.

Invariant: a resource is a value. Two equal resources mean the same kernel state; `owner` and what is only observed
(indexes) do not take part in the comparison.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import ClassVar, NamedTuple, Protocol

IPAddress = IPv4Address | IPv6Address
IPInterface = IPv4Interface | IPv6Interface
IPNetwork = IPv4Network | IPv6Network

HOST = ""
"""The namespace that ductwork acts on as the host; every other namespace goes by its container's name."""

PROTOCOL = 220
"""Our number as IFA_PROTO, RTPROT, FRA_PROTOCOL and NDA_PROTOCOL: unassigned in iproute2's tables and in rtnetlink.h."""

RELAY_MARK = 0x64757231
"""SO_MARK of the sockets by which the agent relays what connects to ::1: so that whoever lists listeners knows its own."""

Argv = list[str]
Place = Callable[[str], str]
"""A container's name → what iproute2 takes behind `netns`: a name of `ip netns`, or a path."""


def led_in(argv: Argv, netns: str, place: Place) -> Argv:
    """The command as run from the host: `ip` enters a named namespace by itself, all else is led in."""
    if not netns:
        return argv
    where = place(netns)
    if "/" in where:
        return ["nsenter", f"--net={where}", "--", *argv]
    return ["ip", "-n", where, *argv[1:]] if argv[0] == "ip" else ["ip", "netns", "exec", where, *argv]


class Key(NamedTuple):
    """A resource's identity: kind, namespace, and what tells it from its like there."""

    kind: str
    netns: str
    ident: tuple[str | int, ...]

    def __str__(self) -> str:
        words = " ".join(str(part) for part in self.ident if part != "")
        return f"{self.kind} {words}" + (f" in {self.netns}" if self.netns else "")


class Owner(NamedTuple):
    """Whose a resource is: the site, the origin (`site`, `attach`, …: contract 1.8), the network and, of an attachment,
    its container and interface; `cookie` is that of the container's network namespace, 0 elsewhere; of a NIC that has moved
    into the container, `device` is its name on the host, and `home` the cookie of the host's namespace."""

    site: str
    origin: str = "site"
    network: str = ""
    container: str = ""
    interface: str = ""
    cookie: int = 0
    device: str = ""
    home: int = 0

    def alias(self, ifname: str, kind: str) -> str:
        """The mark as an interface alias (IFALIASZ: 255 characters); it ends in a digest that binds it to name and kind,
        so that an alias copied to another link is no mark."""
        text = f"ductwork:{self.site}/{self.origin}/{self.network}/{self.container}/{self.interface}/{self.cookie}"
        text += f"/{self.device}/{self.home}" if self.device else ""
        return f"{text}#{_digest(text, ifname, kind)}"

    @classmethod
    def from_alias(cls, alias: str, ifname: str, kind: str) -> Owner | None:
        """The owner an alias names, or None if it is not a mark of ours made for this very link."""
        if not alias.startswith("ductwork:"):
            return None
        text, _, digest = alias.rpartition("#")
        parts = text.removeprefix("ductwork:").split("/")
        if len(parts) not in (6, 8) or not all(map(str.isdecimal, parts[5::2])) or digest != _digest(text, ifname, kind):
            return None
        site, origin, network, container, interface, cookie, *device = parts
        lent = (device[0], int(device[1])) if device else ()
        return cls(site, origin, network, container, interface, int(cookie), *lent)

    def comment(self) -> str:
        """The mark of what belongs to a network as a whole, or to several, as an nftables comment (at most 128 characters)."""
        return f"{self.site}/{self.origin}/{self.network}"

    @classmethod
    def from_comment(cls, comment: str) -> Owner | None:
        parts = comment.split("/")
        return cls(parts[0], parts[1], parts[2]) if len(parts) == 3 and all(parts[:2]) else None


SHARED = Owner("*", "shared", "*")
"""Of what all sites need alike; it goes with the last of them."""


def _digest(*parts: str) -> str:
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=5).hexdigest()


class Resource(Protocol):
    """One thing in the kernel.

    `replace`: the fields that only deletion and creation can change. `collected`: shared by all owners; removed when
    nothing that requires it is left. `owner` None: not ours.
    """

    collected: ClassVar[bool]

    @property
    def replace(self) -> frozenset[str]: ...

    @property
    def netns(self) -> str: ...

    @property
    def owner(self) -> Owner | None: ...

    @property
    def key(self) -> Key: ...

    def requires(self) -> tuple[Key, ...]:
        """Keys that, where they exist, are made before this and stay as long as this does."""

    def create_argv(self, place: Place) -> list[Argv]: ...

    def delete_argv(self, place: Place) -> list[Argv]: ...

    def update_argv(self, before: Resource, place: Place) -> list[Argv]: ...


State = Mapping[Key, Resource]


def state(resources: list[Resource]) -> dict[Key, Resource]:
    """Resources by their keys, in order."""
    return {resource.key: resource for resource in resources}
