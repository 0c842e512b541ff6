"""Routes of the host and of containers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network
from typing import ClassVar

from ductwork.resources.base import PROTOCOL, Argv, IPAddress, IPNetwork, Key, Owner, Place, Resource

MAIN_TABLE = 254
PARKED_METRIC = 4_200_000_000
"""A foreign default route is kept, out of use, at this metric plus its own (contract 1.3, `gateway`)."""
BOOT_PROTOCOL = 3
"""RTPROT_BOOT: what `ip route add` and Docker leave behind."""
DEFAULT_METRIC_V6 = 1024
"""What the kernel makes of metric 0 for IPv6 (IP6_RT_PRIO_USER)."""

ANYWHERE: dict[int, IPNetwork] = {4: IPv4Network("0.0.0.0/0"), 6: IPv6Network("::/0")}
"""IP version → the destination of a default route."""


@dataclass(frozen=True, slots=True)
class RouteDetails:
    """What a foreign route has besides, so that it can be moved to another link as it is. `scope`, `pref` (RFC 4191) and
    `realms` are rtnetlink's numbers; `metrics`: (RTAX_*, value); `expires_seconds` as of the reading."""

    scope: int = 0
    onlink: bool = False
    metrics: tuple[tuple[int, int], ...] = ()
    pref: int | None = None
    realms: int = 0
    expires_seconds: int | None = None


METRIC_WORDS = {
    2: "mtu", 3: "window", 4: "rtt", 5: "rttvar", 6: "ssthresh", 7: "cwnd", 8: "advmss", 9: "reordering", 10: "hoplimit",
    11: "initcwnd", 12: "features", 13: "rto_min", 14: "initrwnd", 15: "quickack", 17: "fastopen_no_cookie",
}  # fmt: skip
"""RTAX_* (include/uapi/linux/rtnetlink.h) → iproute2's word; 16, the congestion algorithm, is text."""
LOCKED_METRICS = 1
"""RTAX_LOCK: a bit for each metric that the kernel must not change."""
ANY_LINK = "?"
"""The link of a foreign route by a next-hop object that does not tell it."""
KERNEL_PROTOCOL = 2
"""RTPROT_KERNEL: routes that come and go with addresses."""


@dataclass(frozen=True, slots=True)
class Route:
    """A unicast route with one next hop. `to` of prefix length 0 is the default route.

    `protocol`: rtnetlink's number; ours is `PROTOCOL`. `displaces`: it may take the place of a foreign route of the same
    key, which the plan keeps elsewhere. `carried`: False for a route that has attributes which we could not write again.
    `details`: of a foreign one alone; None: as we make them. A subnet's route of the kernel's is known by its link too: two
    NICs may be in one subnet, and each route goes with its own.
    """

    netns: str
    to: IPNetwork
    link: str
    via: IPAddress | None = None
    metric: int = 0
    table: int = MAIN_TABLE
    tos: int = 0
    source: IPAddress | None = None
    protocol: int = PROTOCOL
    displaces: bool = field(default=False, compare=False)
    carried: bool = field(default=True, compare=False)
    details: RouteDetails | None = field(default=None, compare=False)
    owner: Owner | None = field(default=None, compare=False)

    replace: ClassVar[frozenset[str]] = frozenset()
    collected: ClassVar[bool] = False

    @property
    def key(self) -> Key:
        link = (self.link,) if self.protocol == KERNEL_PROTOCOL else ()
        return Key("route", self.netns, (_text(self.to), self.metric, self.table, self.tos, *link))

    @property
    def links(self) -> tuple[str, ...]:
        """All that it leaves by: a foreign one may have several next hops, and cannot be `carried` then."""
        return tuple(self.link.split())

    @property
    def is_default(self) -> bool:
        return self.to.prefixlen == 0

    @property
    def is_to_one(self) -> bool:
        """Whether it leads to one address alone."""
        return self.to.prefixlen == self.to.max_prefixlen

    @property
    def is_parked(self) -> bool:
        return self.is_default and self.protocol == PROTOCOL and self.metric >= PARKED_METRIC

    def park(self, owner: Owner) -> Route:
        """This foreign default route, kept out of use until `owner` goes."""
        return replace(self, metric=PARKED_METRIC + self.metric, protocol=PROTOCOL, owner=owner, displaces=False)

    def unpark(self) -> Route:
        """The foreign route that was parked. Its protocol number is not in the kernel any more: it comes back as what
        `ip route add` and Docker leave."""
        return replace(self, metric=self.metric - PARKED_METRIC, protocol=BOOT_PROTOCOL, owner=None, displaces=True)

    def requires(self) -> tuple[Key, ...]:
        return (Key("link", self.netns, (self.link,)),)

    def create_argv(self, place: Place) -> list[Argv]:
        return [["ip", *self._family, "route", "add", *self._words]]

    def delete_argv(self, place: Place) -> list[Argv]:
        return [["ip", *self._family, "route", "del", *self._words]]

    def update_argv(self, before: Resource, place: Place) -> list[Argv]:
        return [["ip", *self._family, "route", "replace", *self._words]]

    @property
    def _family(self) -> list[str]:
        return ["-6"] if self.to.version == 6 else []

    @property
    def _words(self) -> list[str]:
        words = ["default" if self.is_default else str(self.to)]
        words += ["via", str(self.via)] if self.via else []
        words += ["dev", self.link, "proto", str(self.protocol)]
        words += ["metric", str(self.metric)] if self.metric else []
        words += ["table", str(self.table)] if self.table != MAIN_TABLE else []
        words += ["tos", str(self.tos)] if self.tos else []
        words += ["src", str(self.source)] if self.source else []
        words += _carried(self.details) if self.details else []
        onlink = self.is_parked or (self.details and self.details.onlink)
        return [*words, "onlink"] if self.via and onlink else words


def _carried(details: RouteDetails) -> list[str]:
    locked = next((value for kind, value in details.metrics if kind == LOCKED_METRICS), 0)
    words = ["scope", str(details.scope)] if details.scope else []
    for kind, value in details.metrics:
        if kind in METRIC_WORDS:
            words += [METRIC_WORDS[kind], *(["lock"] if locked >> kind & 1 else []), _metric_text(kind, value)]
    words += ["pref", {0: "medium", 1: "high", 3: "low"}[details.pref]] if details.pref else []
    words += ["realms", f"{details.realms >> 16}/{details.realms & 0xFFFF}"] if details.realms else []
    return words + (["expires", str(details.expires_seconds)] if details.expires_seconds is not None else [])


def _metric_text(kind: int, value: int) -> str:
    """iproute2 gives times in milliseconds; the kernel keeps rtt in eighths and rttvar in quarters of one."""
    return f"{value // {4: 8, 5: 4}.get(kind, 1)}ms" if kind in (4, 5, 13) else str(value)


@lru_cache(4096)
def _text(network: IPNetwork) -> str:
    """Many containers have the same few routes, and spelling an IPv6 prefix takes longer than all else about them."""
    return str(network)
