"""Whether a site lets a container ask for an attachment by itself.

Invariant: pure; what passes here is what the site file could have had, in a network that `labels` names, with addresses in
its ranges, that nobody else in the file has, and a MAC that is no machine's of the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ductwork import ipam
from ductwork.drivers import on_host
from ductwork.engine import AttachRequest
from ductwork.resources import IPAddress
from ductwork.services import ports
from ductwork.site.model import AddressRange, Network, PortRange, PublishedPort, Site
from ductwork.site.values import Refused, describe, listing, special_address


def mistakes(request: AttachRequest, site: Site, host: str, identity: str = "") -> Iterator[Refused]:
    """What keeps a request from being granted on a host. `identity`: the container's ID."""
    network = site.networks.get(request.network)
    if network is None or request.network not in site.labels:
        known = ", ".join(site.labels)
        what = "is not in the site file" if network is None else "is not one that labels may use"
        hint = f"labels may use {known}; `labels` in the site file of {site.name} says so" if known else "`labels` is `deny`"
        yield Refused(f"network {describe(request.network)} {what}", hint)
        return
    if host not in site.hosts_of(network.name):
        yield Refused(f"network `{network.name}` is not on this host", f"add {host} to its `hosts`, or ask for another one")
        return
    its = [a for a in site.on(host) if _is_called(a.container, request.container, identity)]
    if any(attachment.network == network.name for attachment in its):
        yield Refused(f"the site file plugs it into network `{network.name}` already", "delete the label, or the attachment")
    if any(attachment.interface == request.interface for attachment in its):
        yield Refused(f"its `{request.interface}` is the site file's", "choose another name, or leave the label out")
    yield from _wrong_addresses(request, network, site, host)
    yield from _wrong_gateway(request, network)
    yield from _wrong_mac(request, site)
    yield from _wrong_ports(request, network, site, host)


def _is_called(reference: str, container: str, identity: str) -> bool:
    """Whether the file means a container RUNTIME:NAME, by its name or the beginning of its ID."""
    runtime, _, name = container.partition(":")
    word = reference.removeprefix(f"{runtime}:")
    return word == name or (bool(re.fullmatch("[0-9a-f]{12,64}", word)) and identity.startswith(word))


def _wrong_addresses(request: AttachRequest, network: Network, site: Site, host: str) -> Iterator[Refused]:
    ranges = site.labels[network.name].addresses
    if not request.addresses:
        yield from _cannot_allocate(network, site, host)
        return
    reserved = ipam.reserved(network, site)
    elsewhere = {name: its for name, its in network.allocate.items() if name not in ("", host)}
    for address in request.addresses:
        subnet = network.subnet_of(address)
        if subnet is None:
            places = listing(map(str, network.subnets)) or "none"
            yield Refused(f"`{address}` is not in network `{network.name}`", f"its subnets: {places}")
        elif ranges and not ipam.holds(ranges, address):
            spans = listing(map(_span, ranges))
            yield Refused(f"`{address}` is not one that labels may ask for", f"`labels` in the site file permits {spans}")
        elif special := special_address(subnet, address):
            yield Refused(f"`{address}` is {special} of {subnet}", "ask for another address")
        elif address in reserved:
            yield Refused(f"`{address}` is taken by the site file", "ask for another address")
        elif other := next((name for name, its in elsewhere.items() if ipam.holds(its, address)), ""):
            yield Refused(f"`{address}` is given out on host {other}", "ask for another address")


def _cannot_allocate(network: Network, site: Site, host: str) -> Iterator[Refused]:
    """Hosts allocate without asking each other: each needs a range of its own."""
    pools = ipam.pools(ipam.narrowed(network, host, site.labels[network.name].addresses), host)
    if not any(ipam.is_allocated(network, subnet) for subnet in network.subnets):
        return
    if not pools:
        hint = f"add a label ductwork.{network.name}.address"
        yield Refused(f"it asks for no address, and none of network `{network.name}` is given out here", hint)
    elif len(site.hosts_of(network.name)) > 1 and host not in network.allocate:
        hint = f"add a label ductwork.{network.name}.address, or give the network an `allocate` range for each host"
        yield Refused(f"it asks for no address, and network `{network.name}` is on several hosts", hint)


def _wrong_gateway(request: AttachRequest, network: Network) -> Iterator[Refused]:
    gateway = request.gateway
    if gateway is True and not network.gateways and getattr(network.options, "mode", "") not in ("l3", "l3s"):
        yield Refused(f"network `{network.name}` has no gateway", "delete the label, or write an address of the network")
    if gateway is None or isinstance(gateway, bool):
        return
    if network.subnet_of(gateway) is None:
        yield Refused(f"gateway `{gateway}` is not in network `{network.name}`", "write an address of the network")
    elif gateway in request.addresses:
        yield Refused(f"gateway `{gateway}` is its own address", "write the address of another machine")


def _wrong_mac(request: AttachRequest, site: Site) -> Iterator[Refused]:
    """One that a machine was built with may be that of the LAN's router, whose frames would come here then."""
    if not request.mac:
        return
    if not int(request.mac[:2], 16) & 2:
        hint = "write one whose second digit is 2, 6, a or e, or `seed:TEXT`; the site file may have any"
        yield Refused(f"`{request.mac}` is not a locally administered address", hint)
    if any(a.mac == request.mac and a.network == request.network for a in site.attachments):
        yield Refused(f"`{request.mac}` is another container's", "write another, or leave the label out")


def _wrong_ports(request: AttachRequest, network: Network, site: Site, host: str) -> Iterator[Refused]:
    """An address only narrows what a number takes: whoever may have a port may have it on all addresses."""
    permission = site.labels[network.name]
    allocated = (subnet.network_address for subnet in network.subnets if ipam.is_allocated(network, subnet))
    versions = {address.version for address in request.addresses or allocated} & ports.reached(network, host)
    spans = listing(map(_ports, permission.ports)) or "none"
    for port in request.ports:
        called = f"port `{port.listen}/{port.protocol}`"
        if not permission.permits(port.protocol, port.first, port.last):
            hint = f"`labels` in the site file permits {spans} of network {network.name}"
            yield Refused(f"{called} is not one that labels may ask for", hint)
        elif not versions:
            yield Refused(f"{called}: this host has no way to the container in network `{network.name}`", "leave it out")
        elif port.address is not None and port.address != ports.LOOPBACK6 and port.address.version not in versions:
            its = " and ".join(f"IPv{version}" for version in sorted(versions))
            yield Refused(f"{called}: the host reaches the container by {its} alone", "write the port alone")
        elif holder := _holder(port, site, host):
            yield Refused(f"{called} of this host is taken: {holder}", "ask for another, or for none")


def _holder(port: PublishedPort, site: Site, host: str) -> str:
    """Who has it by the file. What is translated never reaches a tunnel's socket."""
    for other in site.ports:
        if other.host == host and ports.meets(port, other):
            return f"by the site file it leads to {other.container}"
    for network in site.networks.values() if port.protocol == "udp" else ():
        number = getattr(network.options, "port", 0) if network.driver == "vxlan" else 0
        if port.first <= number <= port.last and host in site.hosts_of(network.name):
            return f"it is the tunnel's of network `{network.name}`"
    return ""


def _ports(span: PortRange) -> str:
    numbers = str(span.first) if span.first == span.last else f"{span.first}-{span.last}"
    return numbers if span.protocol == "tcp" else f"{numbers}/{span.protocol}"


def names_on_host(network: Network, host: str, ifname: str) -> set[str]:
    """What the host calls that which containers of a network are plugged into, and the NIC behind it."""
    named = (on_host(getattr(network.options, key, {}), host) for key in ("uplink", "parent"))
    return {network.name, ifname, *filter(None, named)}


def _span(span: AddressRange) -> str:
    first: IPAddress = span.first
    return f"{first}-{span.last}"
