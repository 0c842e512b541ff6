"""Links: bridges, veth pairs, VXLAN, VLAN, macvlan, ipvlan and ifb devices, NICs lent to containers, and the foreign ones
that are only looked at.

Invariant: bridge membership is no part of a link (`port.py`). A veth pair is two links; creating the host's end makes
both, deleting either deletes both. A macvlan or ipvlan is born in its container's namespace, down; its parent is the host's.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import ClassVar

from ductwork.resources.base import HOST, Argv, IPAddress, Key, Owner, Place, Resource, led_in

NATIVE_VLAN = 1
"""Where a bridge that tells VLANs apart puts untagged frames (default_pvid): no frame on the wire carries it."""


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


@dataclass(frozen=True, slots=True)
class BridgeSpec:
    """A bridge that tells VLANs apart. A port that says nothing else is in VLAN 1, untagged, and so is the bridge itself where
    it is `native`; `tagged`: the VLANs that it takes part in besides, for the devices on top of it."""

    native: bool = True
    tagged: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class VlanSpec:
    """802.1Q: what leaves by `parent` with the tag `vid`."""

    parent: str
    vid: int


@dataclass(frozen=True, slots=True)
class MacvlanSpec:
    """`parent`: a device of the host, wherever the macvlan itself is; `mode`: bridge, private, vepa or passthru."""

    parent: str
    mode: str


@dataclass(frozen=True, slots=True)
class IpvlanSpec:
    """`parent`: a device of the host; `mode`: l2, l3 or l3s, one for all on a parent."""

    parent: str
    mode: str


@dataclass(frozen=True, slots=True)
class NicSpec:
    """A NIC of the host's that has moved into a container: its name on the host."""

    device: str


@dataclass(frozen=True, slots=True)
class OvsSpec:
    """The device of an Open vSwitch bridge: the switch makes it and removes it."""


Spec = VethSpec | VxlanSpec | BridgeSpec | VlanSpec | MacvlanSpec | IpvlanSpec | NicSpec | OvsSpec | None


@dataclass(frozen=True, slots=True)
class Link:
    """One network device. `kind` is rtnetlink's (`bridge`, `veth`, `vxlan`, …, "" for a NIC; `ovs` for the device of an Open
    vSwitch bridge, whatever its data path makes of it); `mac` in lower case.

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

    collected: ClassVar[bool] = False

    @property
    def replace(self) -> frozenset[str]:
        """A bridge takes over a NIC, and begins or ceases to tell VLANs apart, in place, with all its ports."""
        return frozenset({"kind"} if self.kind == "bridge" else {"kind", "spec", "owner"})

    @property
    def key(self) -> Key:
        return Key("link", self.netns, (self.name,))

    def requires(self) -> tuple[Key, ...]:
        match self.spec:
            case VethSpec(peer_ifname=peer) if self.netns:
                return (Key("link", HOST, (peer,)),)
            case VxlanSpec(underlay=underlay) if underlay:
                return (Key("link", self.netns, (underlay,)),)
            case VlanSpec(parent=parent) | MacvlanSpec(parent=parent) | IpvlanSpec(parent=parent):
                return (Key("link", HOST, (parent,)),)
            case OvsSpec():
                return (Key("ovs-bridge", self.netns, (self.name,)),)
        return ()

    @property
    def absorbed_by(self) -> Key | None:
        """The key of what makes this one too: the other end of the pair, the switch's bridge."""
        absorbed = (isinstance(self.spec, VethSpec) and self.netns) or isinstance(self.spec, OvsSpec)
        return self.requires()[0] if absorbed else None

    @property
    def is_passage(self) -> bool:
        """Whether it is the host's end of a pair, or what an attachment's packets are led through: the host itself says nothing
        on it."""
        return self.kind == "ifb" or (self.kind == "veth" and not self.netns)

    @property
    def is_born_inside(self) -> bool:
        """Whether it is made in a container's namespace, on a device of the host."""
        return bool(self.netns) and isinstance(self.spec, MacvlanSpec | IpvlanSpec)

    @property
    def commands_enter(self) -> bool:
        """Whether its commands are given from the host and enter the container themselves where they must."""
        return bool(self.netns) and isinstance(self.spec, MacvlanSpec | IpvlanSpec | NicSpec)

    def create_argv(self, place: Place) -> list[Argv]:
        up = ["up"] if self.up else []
        if self.absorbed_by:
            return [_set(self.name, *up)] if up else []
        if isinstance(self.spec, NicSpec):
            return self._moved_argv(place)
        # A bridge takes the smallest MTU of its ports, unless its own has been changed once (BROPT_MTU_SET_BY_USER).
        born_with = self.mtu_bytes ^ 1 if self.kind == "bridge" else self.mtu_bytes
        changed = ["mtu", str(self.mtu_bytes)] if self.kind == "bridge" else []
        made = ["ip", "link", "add", *self._on_parent, "name", self.name]
        made += ["address", self.mac] if self.kind != "ipvlan" else []
        made += ["mtu", str(born_with)]
        if self.is_born_inside:
            made += ["netns", place(self.netns)]
        made += ["type", self.kind, *self._type_words(place)]
        mark = ["alias", self.owner.alias(self.name, self.kind)] if self.owner else []
        no_link_local = ["addrgenmode", "none"] if self.is_passage else []
        after = [*changed, *mark, *no_link_local]
        # The flag is set before the mode, and an ifb, which has a carrier at once, would have its address by then.
        groups = [after, up] if self.kind == "ifb" else [[*after, *up]]
        own = [_set(self.name, *words) for words in groups if words]
        if self.is_born_inside:
            own = [led_in(command, self.netns, place) for command in own]
        return [made, *self._own_vlans(), *own]

    @property
    def _on_parent(self) -> list[str]:
        return ["link", self.spec.parent] if isinstance(self.spec, VlanSpec | MacvlanSpec | IpvlanSpec) else []

    def _type_words(self, place: Place) -> list[str]:
        match self.spec:
            case VethSpec() as spec:
                words = ["peer", "name", spec.peer_ifname, "address", spec.peer_mac, "mtu", str(self.mtu_bytes)]
                return [*words, "netns", place(spec.peer_netns)]
            case VxlanSpec() as spec:
                words = ["id", str(spec.vni), "dstport", str(spec.port)]
                words += ["local", str(spec.local)] if spec.local else []
                return words + (["dev", spec.underlay] if spec.underlay else [])
            case BridgeSpec() | None if self.kind == "bridge":
                # What is addressed to it, such as LLDP, does not come by the packet filter, and would teach it any MAC.
                return ["no_linklocal_learn", "1", *(["vlan_filtering", "1"] if self.spec else [])]
            case VlanSpec(vid=vid):
                return ["id", str(vid)]
            case MacvlanSpec(mode=mode) | IpvlanSpec(mode=mode):
                return ["mode", mode]
        return []

    def _own_vlans(self, before: BridgeSpec | None = None) -> list[Argv]:
        """The VLANs that the bridge itself takes part in, other than those it had or was born with."""
        want = self.spec if isinstance(self.spec, BridgeSpec) else BridgeSpec()
        had = before or BridgeSpec()
        commands = [_vlan("add", self.name, vid) for vid in want.tagged if vid not in had.tagged]
        commands += [_vlan("del", self.name, vid) for vid in had.tagged if vid not in want.tagged]
        if want.native and not had.native:
            commands.append([*_vlan("add", self.name, NATIVE_VLAN), "pvid", "untagged"])
        elif had.native and not want.native:
            commands.append(_vlan("del", self.name, NATIVE_VLAN))
        return commands

    def _moved_argv(self, place: Place) -> list[Argv]:
        """Into the container, under another name; it arrives down."""
        assert isinstance(self.spec, NicSpec)
        named = ["name", self.name] if self.name != self.spec.device else []
        mark = ["alias", self.owner.alias(self.name, self.kind)] if self.owner else []
        after = [*named, "address", self.mac, "mtu", str(self.mtu_bytes), *mark, *(["up"] if self.up else [])]
        moved = _set(self.spec.device, "netns", place(self.netns))
        return [moved, led_in(_set(self.spec.device, *after), self.netns, place)]

    def delete_argv(self, place: Place) -> list[Argv]:
        if isinstance(self.spec, NicSpec):
            named = ["name", self.spec.device] if self.name != self.spec.device else []
            ready = led_in(_set(self.name, "down", "alias", "", *named), self.netns, place)
            home = led_in(_set(self.spec.device, "netns"), self.netns, place)
            # By the shell that is in the host's namespace, which need not be that of process 1.
            return [ready, ["sh", "-c", f"{shlex.join(home)} $$"]]
        if self.absorbed_by:
            return []
        removed = ["ip", "link", "del", "dev", self.name]
        return [led_in(removed, self.netns, place) if self.is_born_inside else removed]

    def update_argv(self, before: Resource, place: Place) -> list[Argv]:
        assert isinstance(before, Link)
        commands = []
        if self.mtu_bytes != before.mtu_bytes:
            commands.append(_set(self.name, "mtu", str(self.mtu_bytes)))
        if self.mac != before.mac:
            commands.append(_set(self.name, "address", self.mac))
        if self.group != before.group:
            commands.append(_set(self.name, "group", str(self.group)))
        if self.owner != before.owner:
            commands.append(_set(self.name, "alias", self.owner.alias(self.name, self.kind) if self.owner else ""))
        if self.kind == "bridge" and self.spec != before.spec:
            filtering = "0" if self.spec is None else "1"
            had = before.spec if isinstance(before.spec, BridgeSpec) else None
            commands.append(_set(self.name, "type", "bridge", "vlan_filtering", filtering))
            commands += self._own_vlans(had)
        if self.up != before.up:
            commands.append(_set(self.name, "up" if self.up else "down"))
        return [led_in(c, self.netns, place) if self.commands_enter else c for c in commands]


def _set(name: str, *words: str) -> Argv:
    return ["ip", "link", "set", "dev", name, *words]


def _vlan(word: str, name: str, vid: int) -> Argv:
    return ["bridge", "vlan", word, "vid", str(vid), "dev", name, "self"]
