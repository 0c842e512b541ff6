"""What the drivers with a Linux bridge share: the bridge and its addresses, and an attachment's veth pair.

Invariant: pure. A bridge's addresses come in the order in which the kernel must get them: the host's own first, so that it
is the source of the host's packets; the gateway beside it as a full-length prefix, so that no subnet has two primaries, and
deprecated, since IPv6 would choose it as the source for its longer match (RFC 6724, rule 8; seen on 6.18).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ductwork.drivers import View
from ductwork.kernel_model import IPV6_MIN_MTU
from ductwork.naming import host_ifname, mac_address
from ductwork.resources import HOST, Address, IPAddress, Link, Owner, Port, Resource, Route, Sysctl, VethSpec
from ductwork.resources.route import ANYWHERE, DEFAULT_METRIC_V6
from ductwork.services import nat
from ductwork.site.model import Attachment, Network

ETHERNET_MTU = 1500


def underlay_mtu(view: View, device: str | None = None) -> int:
    """The MTU of a NIC, or of the one that the host's default route leaves by; 1500 on a host without any."""
    defaults = (route.link for route in view.facts.routes if route.is_default)
    link = view.facts.links.get(device or next(defaults, ""))
    return link.mtu_bytes if link else ETHERNET_MTU


def bridge_resources(network: Network, bridge: str, mtu_bytes: int, view: View) -> Iterator[Resource]:
    """The bridge, what the host has on it, and what the packet filter knows of it."""
    owner = view.owner(network.name)
    mac = mac_address(view.seed, network.name, "bridge")
    has_ipv6 = mtu_bytes >= IPV6_MIN_MTU
    yield Link(HOST, bridge, "bridge", mac, mtu_bytes, owner=owner)
    # A container must not be able to configure the host by a router advertisement.
    for name in ("accept_ra", "autoconf") if has_ipv6 else ():
        yield Sysctl(HOST, f"net/ipv6/conf/{bridge}/{name}", "0", link=bridge, owner=owner)
    yield from _host_addresses(network, bridge, view)
    yield from nat.network_elements(network, bridge, owner, iptables=view.facts.iptables)
    yield from nat.forwarding(network, bridge, view.facts, owner, has_ipv6=has_ipv6)


def _host_addresses(network: Network, bridge: str, view: View) -> Iterator[Address]:
    owner = view.owner(network.name)
    own = network.host_addresses.get(view.host, ())
    for address in own:
        subnet = network.subnet_of(address)
        assert subnet is not None
        yield Address(HOST, bridge, address, subnet.prefixlen, owner=owner)
    for gateway in network.gateways:
        subnet = network.subnet_of(gateway)
        assert subnet is not None
        beside = any(address in subnet for address in own)
        prefixlen = subnet.max_prefixlen if beside else subnet.prefixlen
        yield Address(HOST, bridge, gateway, prefixlen, deprecated=beside and gateway.version == 6, owner=owner)


def veth_resources(network: Network, bridge: str, mtu_bytes: int, attachment: Attachment, view: View) -> Iterator[Resource]:
    """The pair, its host's end in the bridge, and all that the container has on its own end."""
    owner = view.owner(network.name, attachment)
    container, interface = attachment.id
    outer = host_ifname(container, interface)
    outer_mac = mac_address(view.seed, container, interface, "host")
    mtu = attachment.mtu_bytes or mtu_bytes
    spec = VethSpec(container, interface, attachment.mac)
    yield Link(HOST, outer, "veth", outer_mac, mtu, spec=spec, owner=owner)
    yield Link(container, interface, "veth", attachment.mac, mtu, spec=VethSpec(HOST, outer), owner=owner)
    yield Port(HOST, outer, bridge, owner)
    yield from _inside(network, attachment, mtu, view)


def _inside(network: Network, attachment: Attachment, mtu_bytes: int, view: View) -> Iterator[Resource]:
    owner = view.owner(network.name, attachment)
    container, interface = attachment.id
    if mtu_bytes >= IPV6_MIN_MTU:
        yield from _ipv6(network, container, interface, owner)
    for address in view.addresses.get(attachment.id, ()):
        yield Address(container, interface, address.ip, address.network.prefixlen, owner=owner)
    for route in attachment.routes:
        yield Route(container, route.to, interface, route.via, metric=_metric(route.to.version), owner=owner)
    yield from _default_routes(attachment, view)


def _ipv6(network: Network, container: str, interface: str, owner: Owner) -> Iterator[Sysctl]:
    """On where the network has IPv6 or no addresses at all (Docker switches it off in its containers), off where it has IPv4
    alone: each of a thousand containers would tell all others of a link-local address that nobody uses, and ask for routers.
    """
    unused = bool(network.subnets) and network.ipv6 == "static" and all(s.version == 4 for s in network.subnets)
    router_advertisements = "1" if network.ipv6 == "slaac" else "0"
    values = {"disable_ipv6": str(int(unused)), "accept_ra": router_advertisements, "autoconf": router_advertisements}
    for name, value in values.items():
        yield Sysctl(container, f"net/ipv6/conf/{interface}/{name}", value, link=interface, owner=owner)


def _metric(version: int) -> int:
    return DEFAULT_METRIC_V6 if version == 6 else 0


def _default_routes(attachment: Attachment, view: View) -> Iterator[Route]:
    """The container's default route where it is ours to set, and the foreign ones that it displaces, parked."""
    owner = view.owner(attachment.network, attachment)
    present = view.facts.containers[attachment.container].default_routes
    for gateway in _gateways(attachment, view):
        if _holder(attachment.container, gateway.version, view) != attachment.id:
            continue
        same_family = [route for route in present if route.to.version == gateway.version]
        parked = [route for route in same_family if route.is_parked]
        others = [route for route in same_family if not route.is_parked and not _is_of_this_run(route, view)]
        if attachment.gateway is None and (others or parked):
            continue
        metric = _metric(gateway.version)
        everywhere = ANYWHERE[gateway.version]
        yield Route(attachment.container, everywhere, attachment.interface, gateway, metric, displaces=True, owner=owner)
        yield from (route.park(owner) for route in others if route.owner is None and route.metric <= metric)
        yield from (replace(route, owner=owner) for route in parked)


def _gateways(attachment: Attachment, view: View) -> tuple[IPAddress, ...]:
    """The next hops that an attachment offers for default routes, one for each family that it has an address of."""
    if attachment.gateway is False:
        return ()
    asked = attachment.gateway
    offered = view.site.networks[attachment.network].gateways if asked is None or asked is True else (asked,)
    versions = {address.version for address in view.addresses.get(attachment.id, ())}
    return tuple({gateway.version: gateway for gateway in reversed(offered) if gateway.version in versions}.values())


def _holder(container: str, version: int, view: View) -> tuple[str, str] | None:
    """Which of a container's attachments gives it its default route: the first that asks for it, else the first that
    could."""
    candidates = [
        attachment
        for attachment in view.attachments.get(container, ())
        if any(gateway.version == version for gateway in _gateways(attachment, view))
        and not any(route.to.prefixlen == 0 and route.to.version == version for route in attachment.routes)
    ]
    asking = [attachment for attachment in candidates if attachment.gateway is not None]
    return next((attachment.id for attachment in (*asking, *candidates)), None)


def _is_of_this_run(route: Route, view: View) -> bool:
    """Whether a default route is one that this very run makes or removes, and so no reason to do without."""
    owner = route.owner
    if owner is None or (owner.site, owner.origin) != (view.site.name, view.origin):
        return False
    if view.origin == "site":
        return True
    return any(owner.interface == attachment.interface for attachment in view.attachments.get(owner.container, ()))
