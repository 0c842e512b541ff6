"""The shape of a site file as pydantic models, for validation and for editors.

Invariant: models hold what one entry says and nothing that needs another entry (that is `checks.py`); the driver's own keys
come from the drivers' `Options` alone. Only `site/` imports this, and only when a site file is read.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    PlainValidator,
    PrivateAttr,
    TypeAdapter,
    WithJsonSchema,
    create_model,
)
from pydantic.annotated_handlers import GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from ductwork.drivers import PerHost, PerHostAddress, VlanIds
from ductwork.drivers.registry import option_types
from ductwork.resources import IPAddress, IPInterface, IPNetwork
from ductwork.site import values
from ductwork.site.model import AddressRange, Nat, Rate

REFUSED = "ductwork"
"""The type of pydantic's error for what `values.py` refuses; its context holds the hint."""


def _checked(convert: typing.Callable[[object], Any]) -> PlainValidator:
    def validate(value: object) -> Any:
        try:
            return convert(value)
        except values.Refused as error:
            raise PydanticCustomError(REFUSED, "{message}", {"message": error.message, "hint": error.hint}) from None

    return PlainValidator(validate)


def _text(pattern: str = "", **more: Any) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", **({"pattern": pattern} if pattern else {}), **more})


class OneOrMany:
    """Marks a tuple that may be written as one value alone."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._to_tuple, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        many = handler(schema)
        return {"anyOf": [many["items"], many]}

    @staticmethod
    def _to_tuple(value: object) -> object:
        return tuple(value) if isinstance(value, list) else (value,)


class OnePerHost:
    """Marks a dict by host that may be written as one value, whose key is then ""."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._to_dict, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        by_host = handler(schema)
        return {"anyOf": [by_host["additionalProperties"], by_host]}

    @staticmethod
    def _to_dict(value: object) -> object:
        if not isinstance(value, dict):
            return {"": value}
        if "" in value:
            raise PydanticCustomError(REFUSED, "a host without name", {"hint": "write the host's name, or one value for all"})
        return value


Address = Annotated[IPAddress, _checked(values.address), _text(description="an IPv4 or IPv6 address")]
AddressWithPrefix = Annotated[
    values.WrittenAddress, _checked(values.address_with_prefix), _text(description="an address; its prefix length may follow")
]
UnderlayAddress = Annotated[IPInterface | None, _checked(values.underlay_address), _text()]
Subnet = Annotated[IPNetwork, _checked(values.subnet), _text("/[0-9]{1,3}$")]
Range = Annotated[AddressRange, _checked(values.address_range), _text("[-/]", description="a prefix, or FIRST-LAST")]
HostName = Annotated[str, _text(values.HOST_NAME), Field(pattern=values.HOST_NAME)]
NetworkName = Annotated[str, _text(values.NETWORK_NAME), Field(pattern=values.NETWORK_NAME)]
Container = Annotated[str, _checked(values.container), _text(values.CONTAINER_NAME, maxLength=100)]
InterfaceName = Annotated[str, _checked(values.interface_name), _text(values.INTERFACE_NAME)]
Mac = Annotated[str, _checked(values.mac), _text(f"^seed:.|{values.MAC}")]
ContainerGateway = Annotated[
    bool | IPAddress | None, _checked(values.container_gateway), WithJsonSchema({"type": ["boolean", "string"]})
]
RouteTarget = Annotated[IPNetwork | None, _checked(values.route_target), _text(description="a prefix, an address or `default`")]
NatRule = Annotated[
    Nat | None,
    _checked(values.nat),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": ["masquerade", "none"]},
                {
                    "type": "object",
                    "properties": {"snat": {"type": "string", "description": "the address that packets leave with"}},
                    "required": ["snat"],
                    "additionalProperties": False,
                },
            ]
        }
    ),
]
RateLimits = Annotated[
    Rate,
    _checked(values.rate),
    WithJsonSchema(
        {
            "type": "object",
            "properties": {
                "ingress": {"type": "string", "pattern": "bit$", "description": "towards the container, such as 100mbit"},
                "egress": {"type": "string", "pattern": "bit$", "description": "out of the container, such as 20mbit"},
            },
            "additionalProperties": False,
            "minProperties": 1,
        }
    ),
]
AllowedPairs = Annotated[
    tuple[tuple[str, str], ...] | None,
    _checked(values.allowed_pairs),
    WithJsonSchema({"type": "array", "items": {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 2}}),
]
Vlans = Annotated[
    tuple[int, ...],
    _checked(values.vlan_ids),
    WithJsonSchema({"type": ["integer", "string", "array"], "items": {"type": ["integer", "string"]}}),
]
_RANGES: list[dict[str, Any]] = [
    {"enum": [True, None]},
    {"type": "string", "pattern": "[-/]"},
    {"type": "array", "items": {"type": "string", "pattern": "[-/]"}, "minItems": 1},
]
_PERMITTED_PORT: dict[str, Any] = {"type": ["integer", "string"], "pattern": values.PORT_RANGE}
_PERMITTED_PORTS = {"anyOf": [_PERMITTED_PORT, {"type": "array", "items": _PERMITTED_PORT, "minItems": 1}]}
LabelPolicy = Annotated[
    Any,
    WithJsonSchema(
        {
            "anyOf": [
                {"const": "deny"},
                {"type": "array", "items": {"type": "string", "pattern": values.NETWORK_NAME}},
                {
                    "type": "object",
                    "propertyNames": {"pattern": values.NETWORK_NAME},
                    "additionalProperties": {
                        "anyOf": [
                            *_RANGES,
                            {
                                "type": "object",
                                "properties": {
                                    "addresses": {"anyOf": _RANGES, "description": "where theirs are to be"},
                                    "ports": {**_PERMITTED_PORTS, "description": "of the host, that may lead to them"},
                                },
                                "additionalProperties": False,
                                "minProperties": 1,
                            },
                        ]
                    },
                },
            ]
        }
    ),
]
ListenAt = Annotated[
    values.Listen,
    _checked(values.listen),
    WithJsonSchema({"type": ["integer", "string"], "description": "PORT, FIRST-LAST, ADDRESS:PORT or [V6]:PORT"}),
]
TargetPort = Annotated[values.PortTarget, _checked(values.port_target), _text(":[0-9]+(-[0-9]+)?$")]
Mtu = Annotated[
    int | None, _checked(values.mtu), WithJsonSchema({"type": "integer", "minimum": values.MIN_MTU, "maximum": values.MAX_MTU})
]


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, defer_build=True)


class HostModel(Model):
    """A machine of the file."""

    address: UnderlayAddress = Field(
        default=None,
        description="the underlay address, where other hosts reach it; a prefix length helps the lab",
    )


class RouteModel(Model):
    """A route of a container."""

    to: RouteTarget = Field(description="where to: a prefix, an address, or `default`")
    via: Address = Field(description="the next hop, an address of the network")


class AttachmentModel(Model):
    """One container plugged into one network."""

    container: Container = Field(description="RUNTIME:NAME (docker, podman, netns, pid), or NAME: whichever runtime has it")
    network: str = Field(description="name of the network")
    host: str = Field(default="", description="the host that the container runs on; needed where there are hosts")
    interface: InterfaceName = Field(default="", description="its name in the container; default: eth1, eth2, … in file order")
    address: Annotated[tuple[AddressWithPrefix, ...], OneOrMany()] = Field(
        default=(), description="one, a list, or left out: allocated and remembered"
    )
    gateway: ContainerGateway = Field(
        default=None,
        description="true, false or an address; default: true where the network has one and the container has none",
    )
    mac: Mac = Field(default="", description="an address, or seed:TEXT; default: from host, container and interface")
    routes: tuple[RouteModel, ...] = Field(default=(), strict=False, description="static routes in the container")
    mtu: Mtu = Field(default=None, description="of this attachment's links; default: the network's")
    rate: RateLimits = Field(
        default_factory=Rate, description="limits, as the container sees them: {ingress: 100mbit, egress: 20mbit}"
    )
    spoofing: Literal["deny", "allow"] = Field(
        default="deny", description="deny: only its own MAC and addresses leave the container"
    )


class RouterModel(Model):
    """A host that routes between networks."""

    name: NetworkName = Field(description="the router's name")
    host: str = Field(default="", description="the host that routes; needed where there are hosts")
    legs: dict[str, Annotated[tuple[Address, ...], OneOrMany()]] = Field(
        description="its address in each network: {NETWORK: ADDRESS, …}"
    )
    allow: AllowedPairs = Field(
        default=None, description="between which networks new connections pass: [[FROM, TO], …]; default: all to all"
    )
    masquerade: bool = Field(default=False, description="what leaves by a leg has the leg's address")


class PortModel(Model):
    """A port of a host's that leads to a container attached there."""

    listen: ListenAt = Field(description="PORT, FIRST-LAST, ADDRESS:PORT or [V6]:PORT; without address: on all of the host's")
    to: TargetPort = Field(description="CONTAINER:PORT, or a range as long as `listen`")
    host: str = Field(default="", description="the host that listens; needed where there are hosts")
    network: str = Field(default="", description="which attachment is meant, where the container has several")
    protocol: Literal["tcp", "udp", "sctp"] = Field(default="tcp", description="tcp, udp or sctp")


class NetworkModel(Model):
    """What every network has. `driver` is here for editors; the loader picks the model by it."""

    OPTION_NAMES: ClassVar[tuple[str, ...]] = ()

    driver: str = Field(description="what the network is made of")
    subnet: Annotated[tuple[Subnet, ...], OneOrMany()] = Field(
        default=(), description="its prefix, or a list of them; none: layer 2 alone"
    )
    subnets: Annotated[tuple[Subnet, ...], OneOrMany()] = Field(default=(), description="the same as `subnet`")
    gateway: Annotated[tuple[Address, ...], OneOrMany()] = Field(
        default=(), description="default gateway of its containers; default: the subnet's first address where the host holds it"
    )
    gateways: Annotated[tuple[Address, ...], OneOrMany()] = Field(default=(), description="the same as `gateway`")
    host_addresses: Annotated[dict[str, Annotated[tuple[Address, ...], OneOrMany()]], OnePerHost()] = Field(
        default={}, description="an address of each host's own in the network"
    )
    nat: NatRule = Field(
        default=None, description="what leaves for anywhere outside; default: masquerade where the host holds a gateway"
    )
    internal: bool = Field(default=False, description="no gateway, no way out")
    isolated: bool = Field(
        default=False, description="containers reach the gateway alone, not each other, also by way of the gateway"
    )
    mtu: Mtu = Field(default=None, description="of its links; default: the underlay's, less the encapsulation")
    allocate: Annotated[dict[str, Annotated[tuple[Range, ...], OneOrMany()]], OnePerHost()] = Field(
        default={}, description="ranges that addresses left out come from: for all hosts, or by host"
    )
    ipv6: Literal["static", "slaac"] = Field(default="static", description="how containers get IPv6 addresses")
    hosts: Annotated[tuple[str, ...], OneOrMany()] = Field(
        default=(), description="where the network exists even if nothing uses it"
    )
    _legs: dict[str, tuple[IPAddress, ...]] = PrivateAttr(default_factory=dict)

    @property
    def legs(self) -> dict[str, tuple[IPAddress, ...]]:
        """Host → the addresses of its routers in the network: `Draft.derive` enters them."""
        return self._legs

    def entries(self, *keys: str) -> Iterator[tuple[tuple[str | int, ...], Any]]:
        """(path, value) of every value of these list-like keys."""
        for key in keys:
            for index, value in enumerate(getattr(self, key)):
                yield (key, index), value

    def host_entries(self, key: str) -> Iterator[tuple[tuple[str | int, ...], str, Any]]:
        """(path, host, value) of every value of a key that is a list by host."""
        for host, items in getattr(self, key).items():
            for index, value in enumerate(items):
                yield (key, host, index) if host else (key, index), host, value

    def options(self) -> object:
        """The driver's own record."""
        written = {name: getattr(self, name) for name in self.OPTION_NAMES if name in self.model_fields_set}
        return option_types()[self.driver](**written)


@functools.cache
def network_models() -> dict[str, type[NetworkModel]]:
    """Driver name → the model of a network of that driver."""
    return {name: _network_model(name, options) for name, options in option_types().items()}


def _network_model(name: str, options: type) -> type[NetworkModel]:
    hints = typing.get_type_hints(options, include_extras=True)
    fields: dict[str, Any] = {
        "driver": (Literal[name], Field(description="what the network is made of")),
        **{field.name: _field(field, hints[field.name]) for field in dataclasses.fields(options)},
    }
    model = create_model(f"{name.title()}Network", __base__=NetworkModel, __doc__=options.__doc__, **fields)
    model.__doc__ = f"A network of the driver `{name}`."
    model.OPTION_NAMES = tuple(field.name for field in dataclasses.fields(options))
    return model


def _field(field: dataclasses.Field[Any], hint: Any) -> tuple[Any, Any]:
    """A field of `Options` as pydantic wants it: (type, limits and description)."""
    limits = {key: value for key, value in field.metadata.items() if key in {"ge", "le", "max_length", "pattern"}}
    more: dict[str, Any] = {"description": field.metadata.get("help", "")}
    if field.default is not dataclasses.MISSING:
        more["default"] = field.default
    elif field.default_factory is not dataclasses.MISSING:
        more["default_factory"] = field.default_factory
    if hint is PerHost:
        return Annotated[dict[str, Annotated[str, Field(**limits)]], OnePerHost()], Field(**more)
    if hint is PerHostAddress:
        return Annotated[dict[str, Address], OnePerHost()], Field(**more)
    if hint is VlanIds:
        return Vlans, Field(**more)
    if typing.get_origin(hint) in {types.UnionType, typing.Union}:  # "not given" is written by leaving the key out
        kinds = tuple(kind for kind in typing.get_args(hint) if kind is not type(None))
        hint = typing.Union[kinds]  # noqa: UP007
    return Annotated[hint, Field(**limits)], Field(**more)


class SiteModel(Model):
    """A whole file, for editors; the loader takes it apart, so that one mistake does not hide the others."""

    name: NetworkName = Field(default="", description="every mark carries it; default: the file's name")
    hosts: dict[HostName, HostModel] = Field(
        default={}, description="the machines; without it the file speaks of this one alone"
    )
    networks: dict[NetworkName, Any] = Field(default={}, description="what containers are plugged into")
    attachments: list[AttachmentModel] = Field(default=[], description="who is plugged in where")
    labels: LabelPolicy = Field(
        default="deny",
        description="what containers may ask for by labels: networks, or networks with addresses and ports",
    )
    routers: list[RouterModel] = Field(default=[], description="hosts that route between networks")
    ports: list[PortModel] = Field(default=[], description="ports of hosts that lead to containers")


def json_schema() -> dict[str, Any]:
    """The site file's JSON Schema (draft 2020-12)."""
    kinds = tuple(network_models().values())
    network = Annotated[typing.Union[kinds], Field(discriminator="driver")]  # type: ignore[valid-type] # noqa: UP007
    networks = dict[NetworkName, network]
    whole = create_model("Site", __base__=SiteModel, networks=(networks, SiteModel.model_fields["networks"]))
    schema = _tidied(TypeAdapter(whole).json_schema())
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "ductwork site file",
        "description": "Which container is plugged into which network, on every host.",
    }
    return {**head, **{key: value for key, value in schema.items() if key not in head}}


def _tidied(schema: Any) -> Any:
    """Without pydantic's titles of keys and defaults that only mean "left out"; names that do not fit are refused."""
    if isinstance(schema, list):
        return [_tidied(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    tidied = {key: _tidied(value) for key, value in schema.items() if not _is_noise(key, value)}
    return {**tidied, "additionalProperties": False} if "patternProperties" in tidied else tidied


def _is_noise(key: str, value: object) -> bool:
    return key == "title" if isinstance(value, str) and value else key == "default" and not value and value is not False
