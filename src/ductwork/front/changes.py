"""Operations as a person and a script read them: a line, commands, plain fields."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from ipaddress import IPv6Address
from typing import Any

from ductwork.planner import changed_fields
from ductwork.requests import Change
from ductwork.resources import (
    FLOOD_MAC,
    Address,
    Create,
    Delete,
    FdbEntry,
    IptablesRule,
    IpvlanSpec,
    Link,
    MacvlanSpec,
    Neighbour,
    NftElement,
    NftTable,
    Operation,
    OvsBridge,
    OvsDeaf,
    OvsGuard,
    OvsPort,
    Owner,
    Port,
    Redirect,
    Resource,
    Route,
    Shaper,
    Sysctl,
    Update,
    VethSpec,
    VlanSpec,
    VxlanSpec,
    key_of,
)
from ductwork.resources.base import led_in
from ductwork.resources.sysctl import link_setting

_SILENT = frozenset({"netns", "owner", "script", "digests", "index", "peer_index", "master_index", "packets"})


def changes_of(operations: Iterable[Operation], place: Callable[[str], str] | None = None) -> tuple[Change, ...]:
    """`place`: what `ip … netns` takes for a container; with it, the changes come in detail."""
    return tuple(change_of(operation, place) for operation in operations)


def change_of(operation: Operation, place: Callable[[str], str] | None = None) -> Change:
    action, resource, line = type(operation).__name__.lower(), str(key_of(operation)), _line(operation)
    if place is None:
        return Change(action, resource, line)
    before = None if isinstance(operation, Create) else _plain(operation.before)
    after = None if isinstance(operation, Delete) else _plain(operation.after)
    return Change(action, resource, line, before, after, tuple(as_commands([operation], place)))


def _line(operation: Operation) -> str:
    target = operation.target
    where = f"{target.netns}: " if target.netns else ""
    if not isinstance(operation, Update):
        return where + described(target)
    before, after = _plain(operation.before), _plain(operation.after)
    changes = sorted(changed_fields(operation.before, operation.after) - _SILENT)
    detail = ", ".join(f"{name} {before[name]} -> {after[name]}" for name in changes)
    return where + described(target) + (f" ({detail})" if detail else "")


def described(resource: Resource) -> str:
    """A resource in a person's words, without its namespace."""
    match resource:
        case Link(kind="veth") if resource.netns:
            return f"link {resource.name}: veth {resource.mac}, mtu {resource.mtu_bytes}"
        case Link(spec=VethSpec() as spec):
            return f"link {resource.name}: veth to {spec.peer_ifname} of {spec.peer_netns}, mtu {resource.mtu_bytes}"
        case Link(spec=VxlanSpec() as spec):
            through = f" through {spec.underlay}" if spec.underlay else ""
            return f"link {resource.name}: vxlan {spec.vni} from {spec.local}{through}, mtu {resource.mtu_bytes}"
        case Link(spec=VlanSpec() as spec):
            return f"link {resource.name}: vlan {spec.vid} of {spec.parent}, mtu {resource.mtu_bytes}"
        case Link(spec=MacvlanSpec() | IpvlanSpec() as spec):
            what = f"{resource.kind} on {spec.parent} ({spec.mode}) {resource.mac}"
            return f"link {resource.name}: {what}, mtu {resource.mtu_bytes}"
        case Link():
            return f"link {resource.name}: {resource.kind or 'nic'} {resource.mac}, mtu {resource.mtu_bytes}"
        case Shaper():
            return f"limit of {_rate(resource.bits_per_second)} for what leaves by {resource.link}"
        case Redirect():
            return f"detour of what comes in by {resource.link}, through {resource.to}"
        case Port():
            return f"port {resource.link} of {resource.bridge}"
        case Address():
            return f"address {resource.address}/{resource.prefixlen} on {resource.link}"
        case Route():
            to = "default" if resource.is_default else str(resource.to)
            via = f" via {resource.via}" if resource.via else ""
            parked = " (parked)" if resource.is_parked else ""
            return f"route {to}{via} on {resource.link}{parked}"
        case Neighbour():
            return f"neighbour {resource.address} is {resource.mac} on {resource.link}"
        case FdbEntry(mac=mac) if mac == FLOOD_MAC:
            return f"flooding on {resource.link} to {resource.peer_vtep}"
        case FdbEntry():
            return f"mac {resource.mac} on {resource.link} is behind {resource.peer_vtep}"
        case Sysctl(path=path) if any(link_setting(path)):
            link, setting = link_setting(path)
            what = {"promisc": "promiscuity", "tx": "checksum offload", "gro": "receive offload (gro)"}[setting]
            return f"{what} of {link} = {resource.value}"
        case OvsGuard(is_of_bridge=True):
            return f"flows of {resource.bridge}: what isolated containers have"
        case OvsGuard():
            return f"flows for {resource.link} of {resource.bridge}: what its container may send"
        case OvsDeaf():
            return f"the kernel hears nothing of {resource.link}"
        case OvsBridge():
            return f"open vswitch bridge {resource.name}, data path {resource.datapath}"
        case OvsPort():
            vlan = f", vlan {resource.tag}" if resource.tag else ", trunk" if resource.tag is None else ""
            return f"port {resource.link} of open vswitch bridge {resource.bridge}{vlan}"
        case Sysctl():
            return f"sysctl {resource.path} = {resource.value}"
        case NftTable():
            return f"nft table {resource.family} {resource.name}"
        case NftElement():
            return _element(resource)
        case IptablesRule():
            return f"{resource.program} rule in DOCKER-USER, or at the end of FORWARD: accept what ductwork's table has marked"
    return str(resource.key)


def _element(element: NftElement) -> str:
    match element.set_name, element.parts:
        case "checked", (port,):
            return f"nft checked: {port} sends nothing but what is its own"
        case "flows" | "routed", (source, target):
            return f"nft {element.set_name}: from {source} to {target}"
        case "own_mac", (port, mac):
            return f"nft own_mac: {port} has {mac}"
        case "own4", (port, _, address):
            return f"nft own4: {port} has {address}"
        case "own6", (port, _, number):
            return f"nft own6: {port} has {IPv6Address(int(number, 16))}"
    value = f" to {element.value}" if element.value else ""
    return f"nft {element.set_name}: {' on '.join(element.parts)}{value}"


def _rate(bits_per_second: int) -> str:
    """As the site file has it."""
    for unit, size in (("gbit", 10**9), ("mbit", 10**6), ("kbit", 10**3)):
        if bits_per_second % size == 0:
            return f"{bits_per_second // size}{unit}"
    return f"{bits_per_second}bit"


def as_commands(operations: Iterable[Operation], place: Callable[[str], str]) -> Iterator[str]:
    """The change as commands that a shell can run, in order."""
    for operation in operations:
        enters = isinstance(operation.target, Link) and operation.target.commands_enter
        for argv in operation.argv(place):
            yield shlex.join(argv if enters else led_in(argv, operation.target.netns, place))


def _plain(resource: Resource) -> dict[str, Any]:
    return {
        field.name: _plain_value(getattr(resource, field.name))
        for field in fields(resource)  # type: ignore[arg-type]
        if field.name not in ("index", "peer_index", "master_index", "script", "digests", "packets")
    }


def _plain_value(value: object) -> object:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Owner):
        return value._asdict()
    if isinstance(value, tuple):
        return [_plain_value(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return {field.name: _plain_value(getattr(value, field.name)) for field in fields(value)}  # type: ignore[arg-type]
    return str(value)
