"""Our records as JSON and back, for the journal and the store.

Invariant: `decode(encode(value)) == value` for every frozen dataclass of `resources`, `site.model` and the drivers'
options, addresses and tuples in them included.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ductwork import resources
from ductwork.drivers.registry import option_types
from ductwork.resources import (
    KINDS,
    AddressDetails,
    BridgeSpec,
    IpvlanSpec,
    Key,
    MacvlanSpec,
    NicSpec,
    OvsSpec,
    Owner,
    PortVlans,
    RouteDetails,
    VethSpec,
    VlanSpec,
    VxlanSpec,
)
from ductwork.site import model

_ADDRESSES: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        ipaddress.IPv4Address,
        ipaddress.IPv6Address,
        ipaddress.IPv4Network,
        ipaddress.IPv6Network,
        ipaddress.IPv4Interface,
        ipaddress.IPv6Interface,
    )
}
_RECORDS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        *KINDS,
        *(VethSpec, VxlanSpec, BridgeSpec, VlanSpec, MacvlanSpec, IpvlanSpec, NicSpec, OvsSpec),
        *(AddressDetails, PortVlans, RouteDetails),
        *(model.Network, model.Nat, model.AddressRange, model.Attachment, model.StaticRoute, model.Rate, model.PublishedPort),
    )
} | {f"{driver}.Options": options for driver, options in option_types().items()}
_NAMES = {kind: name for name, kind in _RECORDS.items()}
_FIELDS = {kind: tuple(field.name for field in fields(kind)) for kind in _NAMES}
_PLAIN = frozenset({type(None), bool, int, str})


def encode(value: object) -> Any:
    """A value as what `json.dumps` takes."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if isinstance(value, Owner):
        return {"": "Owner", "of": list(value)}
    if isinstance(value, Key):
        return {"": "Key", "of": [value.kind, value.netns, list(value.ident)]}
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    if isinstance(value, Mapping):
        return {"": "dict", "of": [[key, encode(item)] for key, item in value.items()]}
    if kind.__name__ in _ADDRESSES:
        return {"": kind.__name__, "of": str(value)}
    assert kind in _NAMES, f"no JSON for {value!r}"
    return {"": _NAMES[kind]} | {name: encode(getattr(value, name)) for name in _FIELDS[kind]}


def decode(value: Any) -> Any:
    """What `encode` was given, lists having become tuples. ValueError, KeyError, TypeError: it is no such thing."""
    if isinstance(value, list):
        return tuple(decode(item) for item in value)
    if not isinstance(value, dict):
        return value
    kind = value[""]
    if kind == "Owner":
        return Owner(*value["of"])
    if kind == "Key":
        name, netns, ident = value["of"]
        return resources.Key(name, netns, tuple(ident))
    if kind == "dict":
        return {key: decode(item) for key, item in value["of"]}
    if kind in _ADDRESSES:
        return _ADDRESSES[kind](value["of"])
    return _RECORDS[kind](**{name: decode(item) for name, item in value.items() if name})
