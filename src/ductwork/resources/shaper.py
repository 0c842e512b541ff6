"""Limits on a link: a token bucket for what leaves by it, and the detour by which what comes in meets one too.

Invariant: on the host alone, where a container cannot remove them. Linux shapes what leaves a device: what a container is sent
leaves by the host's end of its pair; what it sends comes in there, and is led out by an ifb device, whose bucket it meets.
Source: tc-tbf(8), tc-mirred(8).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ductwork.resources.base import Argv, Key, Owner, Place, Resource

HANDLE = 0xD0C7
"""The major number of our buckets, and the preference of our filters: a root qdisc with another is somebody else's."""
BURST_UNIT_BYTES = 4096
"""Bursts are multiples of it: the kernel keeps a time in steps of 64 ns instead."""
_QUEUE_MS = 50
_QUEUE_PACKETS = 16


@dataclass(frozen=True, slots=True)
class Shaper:
    """At most so many bits per second leave by `link`, after at most `burst_bytes` at once. Ours if it carries our handle, on a
    link of ours."""

    netns: str
    link: str
    bits_per_second: int
    burst_bytes: int
    owner: Owner | None = None

    replace: ClassVar[frozenset[str]] = frozenset({"owner"})
    collected: ClassVar[bool] = False

    @property
    def key(self) -> Key:
        return Key("shaper", self.netns, (self.link,))

    @property
    def queue_bytes(self) -> int:
        """What waits beyond the burst: 50 ms worth, so that nobody waits longer, and some packets where that is less than TCP
        needs to keep going."""
        return self.burst_bytes + max(self.bits_per_second * _QUEUE_MS // 8000, _QUEUE_PACKETS * 1500)

    def requires(self) -> tuple[Key, ...]:
        return (Key("link", self.netns, (self.link,)),)

    def create_argv(self, place: Place) -> list[Argv]:
        return [["tc", "qdisc", "add", *self._words]]

    def delete_argv(self, place: Place) -> list[Argv]:
        return [["tc", "qdisc", "del", *self._where]]

    def update_argv(self, before: Resource, place: Place) -> list[Argv]:
        return [["tc", "qdisc", "change", *self._words]]

    @property
    def _where(self) -> list[str]:
        return ["dev", self.link, "root", "handle", f"{HANDLE:x}:"]

    @property
    def _words(self) -> list[str]:
        burst, limit = str(self.burst_bytes), str(self.queue_bytes)
        return [*self._where, "tbf", "rate", f"{self.bits_per_second}bit", "burst", burst, "limit", limit]


@dataclass(frozen=True, slots=True)
class Redirect:
    """What comes in by `link` leaves by `to` before anything else looks at it; a device of kind `ifb` gives it back. `to` is
    empty where the device has gone."""

    netns: str
    link: str
    to: str
    owner: Owner | None = None

    replace: ClassVar[frozenset[str]] = frozenset({"to", "owner"})
    collected: ClassVar[bool] = False

    @property
    def key(self) -> Key:
        return Key("redirect", self.netns, (self.link,))

    def requires(self) -> tuple[Key, ...]:
        """Not the other device: the detour is still there, and leads nowhere, when that goes."""
        return (Key("link", self.netns, (self.link,)),)

    def create_argv(self, place: Place) -> list[Argv]:
        all_of_it = ["protocol", "all", "u32", "match", "u32", "0", "0"]
        action = ["action", "mirred", "egress", "redirect", "dev", self.to]
        where = ["dev", self.link, "parent", "ffff:", "pref", str(HANDLE)]
        return [["tc", "qdisc", "add", "dev", self.link, "ingress"], ["tc", "filter", "add", *where, *all_of_it, *action]]

    def delete_argv(self, place: Place) -> list[Argv]:
        return [["tc", "qdisc", "del", "dev", self.link, "ingress"]]

    def update_argv(self, before: Resource, place: Place) -> list[Argv]:
        return [*self.delete_argv(place), *self.create_argv(place)]


def burst_bytes(bits_per_second: int, mtu_bytes: int) -> int:
    """10 ms worth, as long as a kernel without high-resolution timers may look away (HZ 100), and at least one frame: what is
    longer than the burst is never sent. (What is segmented later, GSO, is then segmented sooner.)"""
    least = max(bits_per_second // 800, mtu_bytes + _HEADERS)
    return -(-least // BURST_UNIT_BYTES) * BURST_UNIT_BYTES


_HEADERS = 14 + 2 * 4
"""Ethernet, and two tags."""
