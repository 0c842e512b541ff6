"""Open vSwitch: its bridges and which links are plugged into them, in which VLANs.

Invariant: a bridge's own port and interface belong to it; its device is a Link that the bridge makes (`OvsSpec`). A port is
a row of a database: it outlives its link, so that deleting the link deletes nothing here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from ductwork.resources.base import HOST, Argv, Key, Owner, Place, Resource
from ductwork.resources.port import is_uplink

MARK = "ductwork"
"""The key of our mark in a row's external_ids; its value is an alias (`Owner.alias`) made for the row's name and kind."""
BRIDGE, PORT = "ovs-bridge", "ovs-port"

Columns = dict[str, str]
"""Column, or `column:key`, of a row → its value as text; what a row does not have is left out."""


@dataclass(frozen=True, slots=True)
class OvsBridge:
    """A bridge. `datapath`: `system` (the kernel's) or `netdev` (in user space). `mac`, in lower case, and `mtu_bytes` of its
    device; "" and 0 leave them to Open vSwitch, which makes up a MAC, and takes the smallest MTU of the ports.

    `database`: the address of the OVSDB (`unix:PATH`, `tcp:HOST:PORT`), "" for this machine's; it is where to go, and not
    compared: one database has several addresses.
    """

    name: str
    datapath: str = "system"
    mac: str = ""
    mtu_bytes: int = 0
    owner: Owner | None = None
    database: str = field(default="", compare=False)
    netns: str = HOST

    replace: ClassVar[frozenset[str]] = frozenset({"datapath"})
    collected: ClassVar[bool] = False

    @property
    def key(self) -> Key:
        return Key(BRIDGE, self.netns, (self.name,))

    @property
    def mark(self) -> str:
        return self.owner.alias(self.name, BRIDGE) if self.owner else ""

    def requires(self) -> tuple[Key, ...]:
        return ()

    def create_argv(self, place: Place) -> list[Argv]:
        datapath = {"datapath_type": self.datapath} if self.datapath != "system" else {}
        rows = _set("Bridge", self.name, datapath | self._columns) + _set("Interface", self.name, self._interface_columns)
        return [_vsctl(self.database, "add-br", self.name, *rows)]

    def delete_argv(self, place: Place) -> list[Argv]:
        return [_vsctl(self.database, "del-br", self.name)]

    def update_argv(self, before: Resource, place: Place) -> list[Argv]:
        assert isinstance(before, OvsBridge)
        words = _change("Bridge", self.name, before._columns, self._columns)
        words += _change("Interface", self.name, before._interface_columns, self._interface_columns)
        return [_vsctl(self.database, *words[1:])] if words else []

    @property
    def _columns(self) -> Columns:
        return _present({"other_config:hwaddr": self.mac, f"external_ids:{MARK}": self.mark})

    @property
    def _interface_columns(self) -> Columns:
        return _present({"mtu_request": str(self.mtu_bytes or "")})


@dataclass(frozen=True, slots=True)
class OvsPort:
    """`link` is a port of `bridge`. `tag`: the VLAN of its untagged frames; None: a trunk, of all VLANs or of `trunks`.
    `vlan_mode`: Open vSwitch's word where it is not the one that follows from these (`native-untagged`, `dot1q-tunnel`).
    `protected`: no frames between it and other protected ports of the bridge. `internal`: the switch makes the link, a
    device of the host in that VLAN, with the address `mac` and `mtu_bytes`, which are "" and 0 where it is left to choose.

    `dead`: the row is there and does nothing, since the link is gone, or has gone and come back. (With the data path `netdev`
    Open vSwitch 3.1 sends through a link that has come back under its name, and receives nothing from it, until the port is
    deleted, in a transaction of its own, and made again.) Nobody wants a dead port, so that one is replaced or removed.
    """

    link: str
    bridge: str
    tag: int | None = None
    trunks: tuple[int, ...] = ()
    vlan_mode: str = ""
    protected: bool = False
    internal: bool = False
    mac: str = ""
    mtu_bytes: int = 0
    dead: bool = False
    owner: Owner | None = None
    database: str = field(default="", compare=False)
    netns: str = HOST

    replace: ClassVar[frozenset[str]] = frozenset({"bridge", "internal", "dead"})
    collected: ClassVar[bool] = False

    @property
    def key(self) -> Key:
        return Key(PORT, self.netns, (self.link,))

    @property
    def mark(self) -> str:
        return self.owner.alias(self.link, PORT) if self.owner else ""

    @property
    def is_uplink(self) -> bool:
        """Whether the link is a NIC whose addresses and routes its bridge has taken over."""
        return is_uplink(self.owner, self.link)

    def requires(self) -> tuple[Key, ...]:
        link = () if self.internal else (Key("link", self.netns, (self.link,)),)
        return (*link, Key(BRIDGE, self.netns, (self.bridge,)))

    def create_argv(self, place: Place) -> list[Argv]:
        internal = {"type": "internal"} if self.internal else {}
        rows = _set("Port", self.link, self._columns) + _set("Interface", self.link, internal | self._interface_columns)
        return [_vsctl(self.database, "add-port", self.bridge, self.link, *rows)]

    def delete_argv(self, place: Place) -> list[Argv]:
        return [_vsctl(self.database, "del-port", self.bridge, self.link)]

    def update_argv(self, before: Resource, place: Place) -> list[Argv]:
        assert isinstance(before, OvsPort)
        words = _change("Port", self.link, before._columns, self._columns)
        words += _change("Interface", self.link, before._interface_columns, self._interface_columns)
        return [_vsctl(self.database, *words[1:])] if words else []

    @property
    def _columns(self) -> Columns:
        return _present(
            {
                "tag": "" if self.tag is None else str(self.tag),
                "trunks": ",".join(map(str, self.trunks)),
                "vlan_mode": self.vlan_mode,
                "protected": "true" if self.protected else "",
                f"external_ids:{MARK}": self.mark,
            }
        )

    @property
    def _interface_columns(self) -> Columns:
        return _present({"mac": self.mac, "mtu_request": str(self.mtu_bytes or "")})


def _present(columns: Columns) -> Columns:
    return {column: value for column, value in columns.items() if value}


def _vsctl(database: str, *words: str) -> Argv:
    return ["ovs-vsctl", *([f"--db={database}"] if database else []), *words]


def _set(table: str, row: str, columns: Columns) -> list[str]:
    """`-- set TABLE ROW COLUMN=VALUE…`; nothing where there is nothing to set."""
    return ["--", "set", table, row, *(f"{column}={_quoted(value)}" for column, value in columns.items())] if columns else []


def _change(table: str, row: str, before: Columns, after: Columns) -> list[str]:
    """`-- remove …`, `-- clear …` and `-- set …` for what differs."""
    words: list[str] = []
    for name in (name for name in before if name not in after):
        column, _, key = name.partition(":")
        if before[name] == "true":
            words += _set(table, row, {column: "false"})
        else:
            words += ["--", "remove", table, row, column, key] if key else ["--", "clear", table, row, column]
    return words + _set(table, row, {name: value for name, value in after.items() if before.get(name) != value})


def _quoted(value: str) -> str:
    """As ovs-vsctl reads it: numbers, words and lists of them as they are, a string with other characters in quotes."""
    return value if value.replace(",", "").replace("-", "").isalnum() else f'"{value}"'
