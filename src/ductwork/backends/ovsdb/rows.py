"""Rows of the database Open_vSwitch as resources, and resources as the requests that make, change and remove rows.

Invariant: nothing is touched of a row but the columns and keys that a resource has. A mark counts only in the row whose name
and kind it was made for.
Source: RFC 7047, section 5; ovs-vswitchd.conf.db(5).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ductwork.backends.ovsdb.client import DATABASE, Request, Row
from ductwork.resources import Owner
from ductwork.resources.ovs import BRIDGE, MARK, PORT, OvsBridge, OvsPort

LINK_MARK = "ductwork-ifindex"
"""In a port's external_ids: the index of the link that the port was made for. Another link under the name has another."""

_COLUMNS = {
    "Bridge": ("_uuid", "name", "datapath_type", "other_config", "external_ids", "ports"),
    "Port": ("_uuid", "name", "interfaces", "tag", "trunks", "vlan_mode", "protected", "external_ids"),
    "Interface": ("_uuid", "name", "type", "ofport", "error", "mac", "mtu_request"),
}
_NOTHING = ["set", []]
_NO_OFPORT = -1


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is in a database: by name the bridges and the ports, and by the same names the rows' UUIDs."""

    bridges: dict[str, OvsBridge] = field(default_factory=dict)
    ports: dict[str, OvsPort] = field(default_factory=dict)
    bridge_uuids: dict[str, str] = field(default_factory=dict)
    port_uuids: dict[str, str] = field(default_factory=dict)


def selects(names: Iterable[str] | None) -> list[Request]:
    """The requests that `snapshot` wants the answers of. `names`: only ports and interfaces of these names, all bridges."""
    requests = [_select("Bridge")]
    for table in ("Port", "Interface"):
        requests += [_select(table)] if names is None else [_select(table, name) for name in sorted(names)]
    return requests


def snapshot(rows: Iterable[Row], database: str, link_index: Callable[[str], int]) -> Snapshot:
    """`rows`: all that the requests have found. `link_index`: a link's index, 0 where there is none of that name."""
    found = Snapshot()
    by_uuid = {row["_uuid"][1]: row for row in rows}
    for uuid, bridge in ((uuid, row) for uuid, row in by_uuid.items() if "ports" in row):
        name = bridge["name"]
        found.bridge_uuids[name] = uuid
        local: Row = {}
        for port_uuid in _references(bridge["ports"]):
            port = by_uuid.get(port_uuid)
            interfaces = [by_uuid[i] for i in _references(port["interfaces"]) if i in by_uuid] if port else []
            for interface in interfaces:
                if interface["name"] == name:
                    local = interface
                    continue
                assert port
                found.port_uuids[interface["name"]] = port_uuid
                found.ports[interface["name"]] = _port(name, port, interface, database, link_index)
        found.bridges[name] = _bridge(bridge, local, database)
    return found


def _bridge(row: Row, local: Row, database: str) -> OvsBridge:
    name = row["name"]
    owner = Owner.from_alias(_map(row["external_ids"]).get(MARK, ""), name, BRIDGE)
    mac = _map(row["other_config"]).get("hwaddr", "").lower()
    mtu = _optional(local.get("mtu_request", _NOTHING), 0)
    return OvsBridge(name, row["datapath_type"] or "system", mac, mtu, owner, database)


def _port(bridge: str, row: Row, interface: Row, database: str, link_index: Callable[[str], int]) -> OvsPort:
    link, marks = interface["name"], _map(row["external_ids"])
    tag = _optional(row["tag"], None)
    mode = _optional(row["vlan_mode"], "")
    internal = interface["type"] == "internal"
    return OvsPort(
        link,
        bridge,
        tag,
        tuple(_set(row["trunks"])),
        "" if mode == ("trunk" if tag is None else "access") else mode,
        row["protected"],
        internal,
        _optional(interface["mac"], "").lower() if internal else "",
        _optional(interface["mtu_request"], 0) if internal else 0,
        _is_dead(interface, marks, link_index),
        Owner.from_alias(marks.get(MARK, ""), link, PORT),
        database,
    )


def _is_dead(interface: Row, marks: dict[str, str], link_index: Callable[[str], int]) -> bool:
    """Open vSwitch 3.1 says that it cannot open a link. Of one that goes it says so with the data path `system` alone; with
    `netdev` it may say nothing, and nothing when another has come under the name: there our note tells."""
    if _optional(interface["error"], "") or _optional(interface["ofport"], 0) == _NO_OFPORT:
        return True
    if interface["type"] not in ("", "system"):
        return False
    index = link_index(interface["name"])
    return index == 0 or marks.get(LINK_MARK, str(index)) != str(index)


def complaint(rows: Iterable[Row]) -> str:
    """What ovs-vswitchd says to an interface that was just made, given its row; "": it works."""
    for row in rows:
        if _optional(row["ofport"], _NO_OFPORT) != _NO_OFPORT:
            return ""
        said: str = _optional(row["error"], "")
        return said or "ovs-vswitchd could not set it up; see its log"
    return "it is gone again: somebody else has removed it, or its bridge"


def interface_state(name: str) -> Request:
    """The request whose rows `complaint` wants."""
    return {"op": "select", "table": "Interface", "where": _named(name), "columns": ["ofport", "error"]}


# requests


def create_bridge(bridge: OvsBridge, number: int) -> Iterator[Request]:
    """`number`: tells it from others in the transaction."""
    row: Row = {"name": bridge.name, "ports": ["named-uuid", f"port{number}"]}
    row |= {"datapath_type": bridge.datapath} if bridge.datapath != "system" else {}
    row |= {"other_config": _as_map({"hwaddr": bridge.mac})} if bridge.mac else {}
    row |= {"external_ids": _as_map({MARK: bridge.mark})} if bridge.mark else {}
    interface = {"name": bridge.name, "type": "internal", "mtu_request": bridge.mtu_bytes or _NOTHING}
    yield {"op": "insert", "table": "Interface", "uuid-name": f"interface{number}", "row": interface}
    port = {"name": bridge.name, "interfaces": ["named-uuid", f"interface{number}"]}
    yield {"op": "insert", "table": "Port", "uuid-name": f"port{number}", "row": port}
    yield {"op": "insert", "table": "Bridge", "uuid-name": f"bridge{number}", "row": row}
    yield _mutate(DATABASE, [], ["bridges", "insert", ["named-uuid", f"bridge{number}"]])


def create_port(port: OvsPort, number: int, link_index: int) -> Iterator[Request]:
    marks = {MARK: port.mark} | ({LINK_MARK: str(link_index)} if link_index else {}) if port.mark else {}
    interface = {"name": port.link, "type": "internal" if port.internal else "", **_interface_columns(port)}
    yield {"op": "insert", "table": "Interface", "uuid-name": f"interface{number}", "row": interface}
    row = {"name": port.link, "interfaces": ["named-uuid", f"interface{number}"], **_port_columns(port)}
    yield {
        "op": "insert",
        "table": "Port",
        "uuid-name": f"port{number}",
        "row": row | ({"external_ids": _as_map(marks)} if marks else {}),
    }
    yield _mutate("Bridge", _named(port.bridge), ["ports", "insert", ["named-uuid", f"port{number}"]])


def delete_bridge(uuid: str) -> Iterator[Request]:
    """Its ports and interfaces go with it: nothing refers to them any more."""
    yield _mutate(DATABASE, [], ["bridges", "delete", ["uuid", uuid]])


def delete_port(bridge: str, uuid: str) -> Iterator[Request]:
    yield _mutate("Bridge", _named(bridge), ["ports", "delete", ["uuid", uuid]])


def update_bridge(before: OvsBridge, after: OvsBridge) -> Iterator[Request]:
    if before.mac != after.mac:
        yield _replace_key("Bridge", after.name, "other_config", "hwaddr", after.mac)
    if before.mtu_bytes != after.mtu_bytes:
        yield _update("Interface", after.name, {"mtu_request": after.mtu_bytes or _NOTHING})
    if before.mark != after.mark:
        yield _replace_key("Bridge", after.name, "external_ids", MARK, after.mark)


def update_port(before: OvsPort, after: OvsPort) -> Iterator[Request]:
    yield _update("Port", after.link, _port_columns(after))
    if _interface_columns(before) != _interface_columns(after):
        yield _update("Interface", after.link, _interface_columns(after))
    if before.mark != after.mark:
        yield _replace_key("Port", after.link, "external_ids", MARK, after.mark)


def next_generation() -> Iterator[Request]:
    """The last request's row says which `cur_cfg` ovs-vswitchd will have reached when it has done it all."""
    yield {"op": "comment", "comment": "ductwork"}
    yield _mutate(DATABASE, [], ["next_cfg", "+=", 1])
    yield {"op": "select", "table": DATABASE, "where": [], "columns": ["next_cfg"]}


def _port_columns(port: OvsPort) -> Row:
    return {
        "tag": _NOTHING if port.tag is None else port.tag,
        "trunks": ["set", list(port.trunks)],
        "vlan_mode": port.vlan_mode or _NOTHING,
        "protected": port.protected,
    }


def _interface_columns(port: OvsPort) -> Row:
    return {"mac": port.mac or _NOTHING, "mtu_request": port.mtu_bytes or _NOTHING}


def _select(table: str, name: str | None = None) -> Request:
    where = [] if name is None else _named(name)
    return {"op": "select", "table": table, "where": where, "columns": list(_COLUMNS[table])}


def _update(table: str, name: str, row: Row) -> Request:
    return {"op": "update", "table": table, "where": _named(name), "row": row}


def _replace_key(table: str, name: str, column: str, key: str, value: str) -> Request:
    """Inserting a pair into a map leaves a key that is there as it was: it is deleted first."""
    put = [[column, "insert", _as_map({key: value})]] if value else []
    return _mutate(table, _named(name), [column, "delete", ["set", [key]]], *put)


def _mutate(table: str, where: list[Any], *mutations: list[Any]) -> Request:
    return {"op": "mutate", "table": table, "where": where, "mutations": list(mutations)}


def _named(name: str) -> list[Any]:
    return [["name", "==", name]]


# values, as RFC 7047, section 5.1 has them: a set of one element may be that element


def _set(value: Any) -> list[Any]:
    return list(value[1]) if isinstance(value, list) and value[0] == "set" else [value]


def _optional(value: Any, default: Any) -> Any:
    return next(iter(_set(value)), default)


def _map(value: Any) -> dict[str, str]:
    return dict(value[1])


def _as_map(pairs: dict[str, str]) -> list[Any]:
    return ["map", [list(pair) for pair in pairs.items()]]


def _references(value: Any) -> list[str]:
    return [uuid for _, uuid in _set(value)]
