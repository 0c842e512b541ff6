"""Links: bridges, veth pairs, VXLAN devices, and the foreign ones that are only looked at.

Invariant: bridge membership is no part of a link (`port.py`). A veth pair is two links; creating the host's end makes
both, deleting either deletes both.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from ductwork.resources.base import HOST, Argv, IPAddress, Key, Owner, Place, Resource


@dataclass(frozen=True, slots=True)
class VethSpec:
    """The other end: its namespace and name. `peer_ifname` is empty where the peer is not where the mark says.

    `peer_mac`: what the host's end, which creates both, makes the peer's address; it is compared on the peer.
    """

    peer_netns: str
    peer_ifname: str
    peer_mac: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class VxlanSpec:
    """`underlay`: the NIC the packets leave by, or empty; `local`: this host's VTEP address."""

    vni: int
    port: int
    local: IPAddress | None
    underlay: str


Spec = VethSpec | VxlanSpec | None


@dataclass(frozen=True, slots=True)
class Link:
    """One network device. `kind` is rtnetlink's (`bridge`, `veth`, `vxlan`, "" for a NIC); `mac` in lower case.

    `group`: 0, but for a link whose deletion was interrupted (many are deleted as a group); others' groups count as 0.
    `index`, `peer_index` and `master_index` are the kernel's, 0 where unknown; they are only observed.
    """

    netns: str
    name: str
    kind: str
    mac: str
    mtu_bytes: int
    up: bool = True
    spec: Spec = None
    owner: Owner | None = None
    group: int = 0
    index: int = field(default=0, compare=False)
    peer_index: int = field(default=0, compare=False)
    master_index: int = field(default=0, compare=False)

    replace: ClassVar[frozenset[str]] = frozenset({"kind", "spec", "owner"})
    collected: ClassVar[bool] = False

    @property
    def key(self) -> Key:
        return Key("link", self.netns, (self.name,))

    def requires(self) -> tuple[Key, ...]:
        if isinstance(self.spec, VethSpec):
            return (Key("link", HOST, (self.spec.peer_ifname,)),) if self.netns else ()
        if isinstance(self.spec, VxlanSpec) and self.spec.underlay:
            return (Key("link", self.netns, (self.spec.underlay,)),)
        return ()

    @property
    def absorbed_by(self) -> Key | None:
        """The key of the link whose creation makes this one too."""
        return self.requires()[0] if self.kind == "veth" and self.netns else None

    @property
    def is_host_end(self) -> bool:
        """Whether it is the host's end of a veth pair."""
        return self.kind == "veth" and not self.netns

    def create_argv(self, place: Place) -> list[Argv]:
        up = ["up"] if self.up else []
        if self.absorbed_by:
            return [_set(self.name, *up)] if up else []
        # A bridge takes the smallest MTU of its ports, unless its own has been changed once (BROPT_MTU_SET_BY_USER).
        born_with = self.mtu_bytes ^ 1 if self.kind == "bridge" else self.mtu_bytes
        changed = ["mtu", str(self.mtu_bytes)] if self.kind == "bridge" else []
        made = ["ip", "link", "add", "name", self.name, "address", self.mac, "mtu", str(born_with), "type", self.kind]
        if isinstance(self.spec, VethSpec):
            made += ["peer", "name", self.spec.peer_ifname, "address", self.spec.peer_mac, "mtu", str(self.mtu_bytes)]
            made += ["netns", place(self.spec.peer_netns)]
        elif isinstance(self.spec, VxlanSpec):
            made += ["id", str(self.spec.vni), "dstport", str(self.spec.port)]
            made += ["local", str(self.spec.local)] if self.spec.local else []
            made += ["dev", self.spec.underlay] if self.spec.underlay else []
        mark = ["alias", self.owner.alias(self.name, self.kind)] if self.owner else []
        no_link_local = ["addrgenmode", "none"] if self.is_host_end else []
        after = [*changed, *mark, *no_link_local, *up]
        return [made, _set(self.name, *after)] if after else [made]

    def delete_argv(self, place: Place) -> list[Argv]:
        return [] if self.absorbed_by else [["ip", "link", "del", "dev", self.name]]

    def update_argv(self, before: Resource, place: Place) -> list[Argv]:
        assert isinstance(before, Link)
        commands = []
        if self.mtu_bytes != before.mtu_bytes:
            commands.append(_set(self.name, "mtu", str(self.mtu_bytes)))
        if self.mac != before.mac:
            commands.append(_set(self.name, "address", self.mac))
        if self.up != before.up:
            commands.append(_set(self.name, "up" if self.up else "down"))
        if self.group != before.group:
            commands.append(_set(self.name, "group", str(self.group)))
        return commands


def _set(name: str, *words: str) -> Argv:
    return ["ip", "link", "set", "dev", name, *words]
