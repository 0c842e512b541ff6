"""A draft without mistakes, as the frozen records of `model.py`."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_network

from ductwork.resources import IPAddress, IPInterface
from ductwork.site import draft as drafts
from ductwork.site.draft import Draft, Opening, Plug
from ductwork.site.model import Attachment, Host, Nat, Network, PublishedPort, Router, Site, StaticRoute
from ductwork.site.schema import NetworkModel, RouteModel, RouterModel
from ductwork.site.values import interface


def to_site(draft: Draft, name: str) -> Site:
    """`draft` has passed `find_problems`."""
    return Site(
        name=name,
        hosts={name: Host(name, model.address) for name, model in draft.hosts.items()},
        networks={name: _network(name, model) for name, model in draft.networks.items()},
        attachments=tuple(_attachment(plug) for plug in draft.plugs),
        labels=draft.labels,
        routers=tuple(_router(model) for model in draft.routers.values()),
        ports=tuple(_port(port) for port in draft.ports),
    )


def _network(name: str, model: NetworkModel) -> Network:
    gateways = drafts.gateways(model)
    return Network(
        name=name,
        driver=model.driver,
        subnets=drafts.subnets(model),
        gateways=gateways,
        host_addresses=model.host_addresses,
        nat=model.nat or Nat("masquerade" if gateways and not drafts.is_external(model) else "none"),
        internal=model.internal,
        isolated=model.isolated,
        external=drafts.is_external(model),
        mtu_bytes=model.mtu,
        allocate=model.allocate,
        ipv6=model.ipv6,
        hosts=model.hosts,
        legs=model.legs,
        options=model.options(),
    )


def _attachment(plug: Plug) -> Attachment:
    model = plug.model
    return Attachment(
        container=model.container,
        host=model.host,
        network=model.network,
        interface=plug.interface,
        mac=plug.mac,
        addresses=tuple(_with_prefix(plug, written.address) for written in model.address),
        gateway=model.gateway,
        routes=tuple(_route(route) for route in model.routes),
        mtu_bytes=model.mtu,
        rate=model.rate,
        spoofing=model.spoofing,
    )


def _router(model: RouterModel) -> Router:
    every = tuple((one, other) for one in model.legs for other in model.legs if one != other)
    return Router(model.name, model.host, model.legs, every if model.allow is None else model.allow, model.masquerade)


def _port(port: Opening) -> PublishedPort:
    model, plug = port.model, port.plug
    assert plug is not None
    return PublishedPort(
        container=model.to.container,
        interface=plug.interface,
        network=plug.model.network,
        host=model.host,
        protocol=model.protocol,
        first=model.listen.first,
        last=model.listen.last,
        to=model.to.first,
        to_one=model.to.first == model.to.last,
        address=model.listen.address,
    )


def _with_prefix(plug: Plug, address: IPAddress) -> IPInterface:
    subnet = drafts.subnet_of(plug.network, address) if plug.network else None
    return interface(address, subnet.prefixlen if subnet else address.max_prefixlen)


def _route(route: RouteModel) -> StaticRoute:
    everywhere = ip_network("::/0" if isinstance(route.via, IPv6Address) else "0.0.0.0/0")
    return StaticRoute(route.to or everywhere, route.via)
