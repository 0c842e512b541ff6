"""Bridge membership: which link is plugged into which bridge, in which VLANs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ductwork.resources.base import Argv, Key, Owner, Place, Resource
from ductwork.resources.link import NATIVE_VLAN


@dataclass(frozen=True, slots=True)
class PortVlans:
    """What a port of a bridge that tells VLANs apart takes part in. `access`: the VLAN of its untagged frames, 0 for none;
    `tagged`: those whose frames carry their tag, in order."""

    access: int = NATIVE_VLAN
    tagged: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Port:
    """`link` is a port of `bridge`, both in `netns`. Ours if the link is ours, or the bridge's mark names it as its uplink.

    `vlans`: None on a bridge that does not tell VLANs apart. `isolated`: no frames between it and other isolated ports
    (IFLA_BRPORT_ISOLATED). `hairpin`: frames may leave by it that came by it (IFLA_BRPORT_MODE).
    """

    netns: str
    link: str
    bridge: str
    owner: Owner | None = None
    vlans: PortVlans | None = None
    isolated: bool = False
    hairpin: bool = False

    replace: ClassVar[frozenset[str]] = frozenset()
    collected: ClassVar[bool] = False

    @property
    def key(self) -> Key:
        return Key("port", self.netns, (self.link,))

    @property
    def is_uplink(self) -> bool:
        """Whether the link is a NIC whose addresses and routes its bridge has taken over."""
        return is_uplink(self.owner, self.link)

    def requires(self) -> tuple[Key, ...]:
        return (Key("link", self.netns, (self.link,)), Key("link", self.netns, (self.bridge,)))

    def create_argv(self, place: Place) -> list[Argv]:
        joined = ["ip", "link", "set", "dev", self.link, "master", self.bridge]
        return [joined, *self._vlan_argv(PortVlans()), *self._flags_argv(Port("", "", ""))]

    def delete_argv(self, place: Place) -> list[Argv]:
        return [["ip", "link", "set", "dev", self.link, "nomaster"]]

    def update_argv(self, before: Resource, place: Place) -> list[Argv]:
        assert isinstance(before, Port)
        if before.bridge != self.bridge:
            return self.create_argv(place)
        return [*self._vlan_argv(before.vlans or PortVlans()), *self._flags_argv(before)]

    def _flags_argv(self, had: Port) -> list[Argv]:
        flags = (("isolated", had.isolated, self.isolated), ("hairpin", had.hairpin, self.hairpin))
        changed = ((name, "on" if want else "off") for name, before, want in flags if before != want)
        return [["bridge", "link", "set", "dev", self.link, name, word] for name, word in changed]

    def _vlan_argv(self, had: PortVlans) -> list[Argv]:
        """From the VLANs it had, or was born with, to its own; a bridge that ceases to look at them remembers none."""
        want = self.vlans or PortVlans()
        gone = {vid for vid in (had.access, *had.tagged) if vid} - {vid for vid in (want.access, *want.tagged) if vid}
        commands = [_vlan("del", self.link, vid) for vid in sorted(gone)]
        if want.access and want.access != had.access:
            commands.append([*_vlan("add", self.link, want.access), "pvid", "untagged"])
        return commands + [_vlan("add", self.link, vid) for vid in want.tagged if vid not in had.tagged]


def is_uplink(owner: Owner | None, link: str) -> bool:
    """Whether a bridge's mark names `link` as the NIC that it has taken over."""
    return owner is not None and not owner.container and owner.interface == link


def _vlan(word: str, link: str, vid: int) -> Argv:
    return ["bridge", "vlan", word, "vid", str(vid), "dev", link]
