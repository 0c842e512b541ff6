"""What the drivers with a Linux bridge share: the bridge and its addresses, and an attachment's veth pair.

Invariant: pure. A bridge's addresses come in the order in which the kernel must get them: the host's own first, so that it
is the source of the host's packets; the gateway beside it as a full-length prefix, so that no subnet has two primaries, and
deprecated, since IPv6 would choose it as the source for its longer match (RFC 6724, rule 8; seen on 6.18).
"""

from __future__ import annotations

from collections.abc import Iterator

from ductwork.drivers import View
from ductwork.drivers.inside import inside
from ductwork.errors import Problem
from ductwork.kernel_model import IPV6_MIN_MTU
from ductwork.naming import host_ifname, mac_address
from ductwork.resources import HOST, Address, IPNetwork, Link, Owner, Port, PortVlans, Resource, Sysctl, VethSpec, VlanSpec
from ductwork.services import antispoof, nat, rate
from ductwork.services.ruleset import bridge_table
from ductwork.site.model import Attachment, Network

ETHERNET_MTU = 1500


def unnameable(bridge: str) -> Iterator[Problem]:
    """A name that an interface can have, and no rule can say."""
    if set(bridge) & set('"*'):
        message = f"`bridge`: `{bridge}` has a `*` or a quotation mark in it, which no rule of nftables can name"
        yield Problem(("bridge",), message, "choose a name without, such as `br1`")


def underlay_mtu(view: View, device: str | None = None) -> int:
    """The MTU of a NIC, or of the one that the host's default route leaves by; 1500 on a host without any."""
    defaults = (route.link for route in view.facts.routes if route.is_default)
    link = view.facts.links.get(device or next(defaults, ""))
    return link.mtu_bytes if link else ETHERNET_MTU


def bridge_resources(
    network: Network, bridge: str, device: str, mtu_bytes: int, view: View, probe: tuple[str, int] | None = None
) -> Iterator[Resource]:
    """What the host has on a bridge, and what the packet filter knows of it. `device`: where the host's own addresses are, the
    bridge itself or a VLAN on it; "": it has none there, or the bridge is its own way into the world. `probe`: as in
    `Address`."""
    owner = view.owner(network.name)
    yield from host_addresses(network, device or bridge, view, probe)
    yield bridge_table(owner)
    if network.external and network.legs.get(view.host):
        device = ""  # what is routed there is a router's
    yield from nat.network_elements(network, bridge, owner, iptables=view.facts.iptables, device=device)
    if device:
        has_ipv6 = mtu_bytes >= IPV6_MIN_MTU
        yield from nat.forwarding(network, device, view.facts, owner, host=view.host, has_ipv6=has_ipv6)


def no_router_advertisements(device: str, mtu_bytes: int, owner: Owner) -> Iterator[Sysctl]:
    """A container must not be able to configure the host by one."""
    for name in ("accept_ra", "autoconf") if mtu_bytes >= IPV6_MIN_MTU else ():
        yield Sysctl(HOST, f"net/ipv6/conf/{device}/{name}", "0", link=device, owner=owner)


def host_addresses(network: Network, bridge: str, view: View, probe: tuple[str, int] | None) -> Iterator[Address]:
    """The host's own, its routers', and the gateways that it holds. (A leg may be what the NIC had, and brings.) One alone
    has its subnet's length: of several, the first to come is the kernel's primary one, and `undo` might change which."""
    owner = view.owner(network.name)
    own = network.host_addresses.get(view.host, ())
    legs = network.legs.get(view.host, ())
    underlay = view.site.hosts[view.host].address if view.host else None
    seen: set[IPNetwork] = set()
    for address in (*own, *legs):
        subnet = network.subnet_of(address)
        assert subnet is not None
        prefixlen = subnet.max_prefixlen if subnet in seen and subnet.version == 4 else subnet.prefixlen
        seen.add(subnet)
        if underlay is None or address != underlay.ip:
            yield Address(HOST, bridge, address, prefixlen, probe=probe if address in legs else None, owner=owner)
    for gateway in network.gateways_held(view.host):
        if gateway in legs:
            continue
        subnet = network.subnet_of(gateway)
        assert subnet is not None
        beside = any(address in subnet for address in (*own, *legs))
        prefixlen = subnet.max_prefixlen if beside else subnet.prefixlen
        yield Address(HOST, bridge, gateway, prefixlen, deprecated=beside and gateway.version == 6, owner=owner)


def veth_resources(
    network: Network,
    bridge: str,
    mtu_bytes: int,
    attachment: Attachment,
    view: View,
    *,
    vlans: PortVlans | None = None,
    probe: tuple[str, int] | None = None,
) -> Iterator[Resource]:
    """The pair, its host's end in the bridge, and all that the container has on its own end. `vlans`: of the port, on a bridge
    that tells VLANs apart; `probe`: as in `Address`."""
    owner = view.owner(network.name, attachment)
    own_mtu = attachment.mtu_bytes or mtu_bytes
    yield from pair(attachment, mtu_bytes, view)
    # With br_netfilter, what a container sends to its own published port is turned round within the bridge.
    hairpin = attachment.id in view.ports
    yield Port(HOST, host_ifname(*attachment.id), bridge, owner, vlans, isolated=network.isolated, hairpin=hairpin)
    yield from rate.limits(attachment, own_mtu, owner, view.seed)
    yield from antispoof.elements(network, attachment, [a.ip for a in view.addresses.get(attachment.id, ())], owner)
    yield from inside(network, attachment, own_mtu, view, probe)


def pair(attachment: Attachment, mtu_bytes: int, view: View) -> Iterator[Link]:
    """The host's end, which is made first, and the container's."""
    owner = view.owner(attachment.network, attachment)
    container, interface = attachment.id
    outer = host_ifname(container, interface)
    outer_mac = mac_address(view.seed, container, interface, "host")
    mtu = attachment.mtu_bytes or mtu_bytes
    spec = VethSpec(container, interface, attachment.mac)
    yield Link(HOST, outer, "veth", outer_mac, mtu, spec=spec, owner=owner)
    yield Link(container, interface, "veth", attachment.mac, mtu, spec=VethSpec(HOST, outer), owner=owner)


def vlan_device(
    network: Network, bridge: str, device: str, vlan: int, mtu_bytes: int, view: View, mac: str = ""
) -> Iterator[Resource]:
    """Where a host has addresses in a VLAN of a bridge: a device on top of it. `mac`: a Linux bridge's own. By any other one
    the bridge becomes promiscuous, floods what is for the host, and br_netfilter forgets the connection (seen on 6.1)."""
    owner = view.owner(network.name)
    mac = mac or mac_address(view.seed, network.name, "bridge")
    yield Link(HOST, device, "vlan", mac, mtu_bytes, spec=VlanSpec(bridge, vlan), owner=owner)
    yield from no_router_advertisements(device, mtu_bytes, owner)


def routed_by(network: Network, bridge: str, vlan: int | None, host: str) -> str:
    """The device that the host's own addresses in the network are on, and its packets are routed by; "" for none."""
    own = bool(network.host_addresses or network.legs.get(host))
    if not network.external:
        held = own or bool(network.gateways_held(host))
        return (f"{bridge}.{vlan}" if held else "") if vlan else bridge
    return f"{bridge}.{vlan}" if vlan and own else ""


def probe_on(nic: str, bridge: str, vlan: int | None, view: View) -> tuple[str, int] | None:
    """Where another machine may have an address of the network's: behind the bridge, or behind its NIC with the VLAN's tag."""
    if not nic:
        return None
    return (nic, vlan) if vlan else (bridge if nic in view.facts.taken else nic, 0)
