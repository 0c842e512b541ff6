"""What every driver puts into a container, on an interface that it has been given: sysctls, addresses, routes, default routes.

Invariant: pure. A container has one default route of ours per family, whatever number of networks offer one; the foreign ones
that it displaces are parked, never lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ductwork.drivers import View
from ductwork.kernel_model import IPV6_MIN_MTU
from ductwork.resources import Address, IPAddress, Owner, Resource, Route, Sysctl
from ductwork.resources.route import ANYWHERE, DEFAULT_METRIC_V6
from ductwork.site.model import Attachment, Network

LAYER_3 = frozenset({"l3", "l3s"})
"""The values of an option `mode` with which a network has no layer 2, and so no next hops: its host routes for it."""

_OWN_ARP = {"arp_ignore": "1", "arp_announce": "2"}
"""Each interface answers, and asks, for its own addresses alone (ip-sysctl.rst). By default a container with two on one wire
answers for either address with both MACs (seen on 6.18)."""


def inside(
    network: Network, attachment: Attachment, mtu_bytes: int, view: View, probe: tuple[str, int] | None = None
) -> Iterator[Resource]:
    """All that the container has on the attachment's interface. `probe`: as in `Address`."""
    owner = view.owner(network.name, attachment)
    container, interface = attachment.id
    if mtu_bytes >= IPV6_MIN_MTU:
        yield from _ipv6(network, container, interface, owner)
    for address in view.addresses.get(attachment.id, ()):
        yield Address(container, interface, address.ip, address.network.prefixlen, probe=probe, owner=owner)
    if probe and _is_beside_another(attachment, view):
        for name, value in _OWN_ARP.items():
            yield Sysctl(container, f"net/ipv4/conf/{interface}/{name}", value, link=interface, owner=owner)
    for route in attachment.routes:
        yield Route(container, route.to, interface, route.via, metric=default_metric(route.to.version), owner=owner)
    yield from _default_routes(attachment, view)


def _is_beside_another(attachment: Attachment, view: View) -> bool:
    """Whether the container has several interfaces on somebody else's LANs, which may be one wire."""
    its = view.attachments.get(attachment.container, ())
    return sum(view.site.networks[each.network].external for each in its) > 1


def ipv6_is_unused(network: Network) -> bool:
    """Whether the network has IPv4 addresses alone."""
    return bool(network.subnets) and network.ipv6 == "static" and all(s.version == 4 for s in network.subnets)


def default_metric(version: int) -> int:
    """What the kernel makes of a route without one."""
    return DEFAULT_METRIC_V6 if version == 6 else 0


def has_layer_2(network: Network) -> bool:
    return getattr(network.options, "mode", "") not in LAYER_3


def _ipv6(network: Network, container: str, interface: str, owner: Owner) -> Iterator[Sysctl]:
    """On where the network has IPv6 or no addresses at all (Docker switches it off in its containers), off where it has IPv4
    alone: each of a thousand containers would tell all others of a link-local address that nobody uses, and ask for routers.
    """
    router_advertisements = "1" if network.ipv6 == "slaac" else "0"
    values = {
        "disable_ipv6": str(int(ipv6_is_unused(network))),
        "accept_ra": router_advertisements,
        "autoconf": router_advertisements,
    }
    for name, value in values.items():
        yield Sysctl(container, f"net/ipv6/conf/{interface}/{name}", value, link=interface, owner=owner)


def _default_routes(attachment: Attachment, view: View) -> Iterator[Route]:
    """The container's default route where it is ours to set, and the foreign ones that it displaces, parked."""
    owner = view.owner(attachment.network, attachment)
    present = view.facts.containers[attachment.container].default_routes
    for version, gateway in _ways_out(attachment, view).items():
        if _holder(attachment.container, version, view) != attachment.id:
            continue
        same_family = [route for route in present if route.to.version == version]
        parked = [route for route in same_family if route.is_parked]
        others = [route for route in same_family if not route.is_parked and not _is_of_this_run(route, view)]
        if attachment.gateway is None and (others or parked):
            continue
        metric = default_metric(version)
        everywhere = ANYWHERE[version]
        yield Route(attachment.container, everywhere, attachment.interface, gateway, metric, displaces=True, owner=owner)
        yield from (route.park(owner) for route in others if route.owner is None and route.metric <= metric)
        yield from (replace(route, owner=owner) for route in parked)


def leads_out(attachment: Attachment, version: int, view: View) -> bool:
    """Whether the container's default route is this attachment's."""
    return any(route.to.version == version and not route.is_parked for route in _default_routes(attachment, view))


def _ways_out(attachment: Attachment, view: View) -> dict[int, IPAddress | None]:
    """What an attachment offers for default routes, for each family that it has an address of: the next hop, or None where
    there is no layer 2 and the host routes whatever comes."""
    if attachment.gateway is False:
        return {}
    network = view.site.networks[attachment.network]
    versions = {address.version for address in view.addresses.get(attachment.id, ())}
    if not has_layer_2(network):
        return dict.fromkeys(sorted(versions))
    asked = attachment.gateway
    offered = network.gateways if asked is None or asked is True else (asked,)
    return {gateway.version: gateway for gateway in reversed(offered) if gateway.version in versions}


def _holder(container: str, version: int, view: View) -> tuple[str, str] | None:
    """Which of a container's attachments gives it its default route: the first that asks for it, else the first that
    could."""
    candidates = [
        attachment
        for attachment in view.attachments.get(container, ())
        if version in _ways_out(attachment, view)
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
