"""Hosts that route between networks: what is allowed between the legs, and forwarding on those that are in a LAN.

Invariant: pure. A leg's address is its network's driver's to make, like every other one of the host's; so is forwarding in a
network of the host's own. What passes from leg to leg is in the sets alone; from a LAN that it has a leg in, the host routes
nothing but to other legs, and into it nothing else but what its own networks send.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ductwork.drivers import View
from ductwork.errors import ConflictError
from ductwork.resources import IptablesRule, NftElement, Owner, Resource
from ductwork.services import nat
from ductwork.services.ruleset import TABLE, bridge_table, inet_table
from ductwork.site.model import Network, Router


def here(view: View) -> list[Router]:
    return [router for router in view.site.routers if router.host == view.host]


def resources(devices: Mapping[str, str], view: View) -> Iterator[Resource]:
    """`devices`: network → the leg's device, of all legs on this host. Errors: `ConflictError`: nothing was touched."""
    owner = view.owner()
    yield inet_table(owner)
    yield bridge_table(owner)
    yield from (IptablesRule(family, owner=owner) for family in sorted(view.facts.iptables))
    for name, device in devices.items():
        network = view.site.networks[name]
        _refuse_two_ways(network, device, view)
        yield _element("legs", (device,), owner)
        for subnet in network.subnets:
            if any(leg in subnet for leg in network.legs[view.host]):
                yield _element(f"leg_nets{subnet.version}", (nat.as_nft_prints(subnet), device), owner)
        yield _element("routed", (device, device), owner)
        if network.external:
            yield from _in_lan(network, device, view, owner)
    for router in here(view):
        for source, target in router.allow:
            yield _element("routed", (devices[source], devices[target]), owner)
        for name in router.legs if router.masquerade else ():
            yield _element("masked_legs", (devices[name],), owner)


def _in_lan(network: Network, device: str, view: View, owner: Owner) -> Iterator[Resource]:
    """The bridge of an uplink is the host's own way into the world: of what passes there, this is not all."""
    if device not in view.facts.moved.values():
        yield _element("lan_legs", (device,), owner)
    versions = {address.version for address in network.legs[view.host]}
    yield from nat.leg_forwarding(device, versions, view.facts, owner)


def _refuse_two_ways(network: Network, device: str, view: View) -> None:
    """Of two devices in one subnet the kernel sends by the first, and no filter would know the leg."""
    for other in view.facts.addresses:
        foreign = other.owner is None or other.owner.site != view.site.name
        beside = other.subnet.prefixlen < other.address.max_prefixlen and network.subnet_of(other.address)
        if foreign and other.link != device and beside:
            message = (
                f"network {network.name}: the host has {other.address} on {other.link}, and so a way into {beside} besides"
            )
            hint = f"make {other.link} the `uplink` of the network, and {other.address} its leg; or choose another subnet"
            raise ConflictError(f"{message} the router's leg on {device}: nothing was touched", hint)


def _element(set_name: str, parts: tuple[str, ...], owner: Owner) -> NftElement:
    return NftElement("inet", TABLE, set_name, parts, owner=owner)
