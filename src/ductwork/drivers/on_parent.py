"""What macvlan and ipvlan share: interfaces of containers on a NIC of the host's, or on a VLAN of it that is made for them.

Invariant: pure. Networks of a site that share a VLAN ask for equal records of its sub-interface, so that it is made once and
goes with the last of them. A parent and what is on it never hear each other, so the host has an interface of its own
beside the containers', where it is to reach them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import ip_network
from typing import Protocol, cast

from ductwork.drivers import PerHost, PerHostAddress, View, on_host
from ductwork.drivers.inside import default_metric, has_layer_2, inside, ipv6_is_unused
from ductwork.errors import Problem
from ductwork.kernel_model import IPV6_MIN_MTU
from ductwork.naming import bridge_ifname, mac_address
from ductwork.resources import (
    HOST,
    Address,
    IPAddress,
    IpvlanSpec,
    Link,
    MacvlanSpec,
    Owner,
    Resource,
    Route,
    Sysctl,
    VlanSpec,
)
from ductwork.services.parent import PASSTHRU, WITH_ARTICLE, Parent, device_of, find_parent, refuse_mtu, refuse_neighbours
from ductwork.site.model import Attachment, Network, Site

VLAN_LIMITS = {"ge": 1, "le": 4094}
PARENT_HELP = "NIC of the host that the containers' interfaces are made on"
VLAN_HELP = "VLAN of the containers: makes and owns PARENT.VLAN"
HOST_ACCESS_HELP = "address of an interface of the host's beside the containers', so that they reach each other"


class OnParent(Protocol):
    """What both drivers' options have."""

    @property
    def parent(self) -> PerHost: ...
    @property
    def vlan(self) -> int | None: ...
    @property
    def mode(self) -> str: ...
    @property
    def host_access(self) -> PerHostAddress: ...


def options_of(network: Network) -> OnParent:
    return cast(OnParent, network.options)


def plugs_of(network: Network, site: Site) -> list[Attachment]:
    return [attachment for attachment in site.attachments if attachment.network == network.name]


def problems(network: Network) -> Iterator[Problem]:
    """What no interface on a parent can do: there is nothing of the host's between it and the wire. (`rate`:
    `site.check_nics`.)"""
    kind = network.driver
    if network.isolated:
        instead = "`mode: private` keeps those of one host apart" if kind == "macvlan" else "use `driver: bridge` with `uplink`"
        message = f"`isolated`: {WITH_ARTICLE[kind]} network cannot keep its containers from each other"
        yield Problem(("isolated",), message, instead, on_key=True)


def parent_of(network: Network, view: View) -> Parent:
    """The device below a network on this host. Errors: as `find_parent`."""
    return find_parent(_nic(network, view.host), options_of(network).vlan or 0, network.name, view)


def _nic(network: Network, host: str) -> str:
    nic = on_host(options_of(network).parent, host)
    assert nic is not None, "checked in `site.check_nics`"
    return nic


def ifname(network: Network, host: str) -> str:
    """What the interfaces hang on."""
    options = options_of(network)
    return device_of(_nic(network, host), options.vlan or 0)


def mtu_bytes(network: Network, view: View) -> int:
    parent = parent_of(network, view)
    return network.mtu_bytes or parent.mtu_bytes


def host_resources(network: Network, view: View) -> Iterator[Resource]:
    """The VLAN's sub-interface, and the host's own interface on the parent."""
    parent = parent_of(network, view)
    refuse_mtu(mtu_bytes(network, view), f"network {network.name}", parent)
    refuse_neighbours(network.driver, options_of(network).mode, parent, network.name, view)
    if parent.made:
        yield from _sub_interface(parent, has_layer_2(network), view.owner())
    own = _own_addresses(network, view.host)
    if own:
        yield from _host_side(network, parent, own, view)


def _sub_interface(parent: Parent, layer_2: bool, owner: Owner) -> Iterator[Resource]:
    """Nothing of the host's own is on it: a VLAN's router must not configure the host. Without layer 2, what the containers
    send is routed by the host, which then needs IPv6 there."""
    spec = VlanSpec(parent.nic.name, parent.vid)
    yield Link(HOST, parent.name, "vlan", parent.mac, parent.mtu_bytes, spec=spec, owner=owner)
    if parent.mtu_bytes >= IPV6_MIN_MTU:
        values = {"disable_ipv6": str(int(layer_2)), "accept_ra": "0", "autoconf": "0"}
        for name, value in values.items():
            yield Sysctl(HOST, f"net/ipv6/conf/{parent.name}/{name}", value, link=parent.name, owner=owner)


def _own_addresses(network: Network, host: str) -> dict[IPAddress, int]:
    """The host's addresses beside the containers', and their prefix lengths. `host_access` has a full one: the host's ways to
    everything else stay as they are. A router's leg is the way to its subnet. (`site.check_routers`: one or the other.)"""
    found = {}
    for leg in network.legs.get(host, ()):
        subnet = network.subnet_of(leg)
        assert subnet is not None
        found[leg] = subnet.prefixlen
    access = on_host(options_of(network).host_access, host)
    return found if access is None else found | {access: access.max_prefixlen}


def _host_side(network: Network, parent: Parent, own: Mapping[IPAddress, int], view: View) -> Iterator[Resource]:
    """The interface beside the containers'."""
    owner = view.owner(network.name)
    name = bridge_ifname(network.name)
    mtu = mtu_bytes(network, view)
    mac = mac_address(view.seed, network.name, "access")
    yield _on_parent(HOST, name, network, mac, mtu, parent, owner)
    yield from _host_side_sysctls(network, name, mtu, owner)
    if network.driver == "macvlan" and any(address.version == 4 for address in own):
        yield from _one_answer(parent, view, owner)
    probe = parent.probe if has_layer_2(network) else None
    yield from (Address(HOST, name, address, length, probe=probe, owner=owner) for address, length in own.items())


def _host_side_sysctls(network: Network, name: str, mtu: int, owner: Owner) -> Iterator[Sysctl]:
    """`arp_ignore`: the LAN asks for the host's other addresses too, and hears the parent's answer; a second one, with
    another MAC, would compete with it. `arp_announce`: nor must a question that the host asks here, for an address of
    another interface, take that address along. `rp_filter`: the LAN sends here, and its answers leave by the parent.
    """
    for key, value in (("arp_ignore", "1"), ("arp_announce", "2"), ("rp_filter", "2")):
        yield Sysctl(HOST, f"net/ipv4/conf/{name}/{key}", value, link=name, owner=owner)
    if mtu >= IPV6_MIN_MTU:
        values = {"disable_ipv6": str(int(ipv6_is_unused(network))), "accept_ra": "0", "autoconf": "0"}
        for key, value in values.items():
            yield Sysctl(HOST, f"net/ipv6/conf/{name}/{key}", value, link=name, owner=owner)


def _one_answer(parent: Parent, view: View, owner: Owner) -> Iterator[Sysctl]:
    """The parent, too, would answer for the address of the host's interface on it, with its own MAC. (IPv6 answers for a
    device's own addresses alone.) A stricter setting of somebody else's stays."""
    path = f"net/ipv4/conf/{parent.name}/arp_ignore"
    if parent.made or view.facts.sysctls.get(path, "0") == "0":
        yield Sysctl(HOST, path, "1", link=parent.name if parent.made else "", owner=owner)


def attachment_resources(network: Network, attachment: Attachment, view: View) -> Iterator[Resource]:
    """The container's interface, born in its namespace, what is on it, and the host's way to it."""
    parent = parent_of(network, view)
    owner = view.owner(network.name, attachment)
    container, interface = attachment.id
    mtu = attachment.mtu_bytes or mtu_bytes(network, view)
    refuse_mtu(mtu, f"{interface} of {container}", parent)
    yield _on_parent(container, interface, network, attachment.mac, mtu, parent, owner)
    yield from inside(network, attachment, mtu, view, parent.probe if has_layer_2(network) else None)
    access = on_host(options_of(network).host_access, view.host)
    for address in view.addresses.get(attachment.id, ()):
        if access is not None and access.version == address.version:
            to, metric = ip_network(address.ip), default_metric(address.version)
            yield Route(HOST, to, bridge_ifname(network.name), metric=metric, owner=owner)


def _on_parent(netns: str, name: str, network: Network, mac: str, mtu: int, parent: Parent, owner: Owner) -> Link:
    """An ipvlan, and a macvlan with the parent to itself, have the parent's MAC, whatever they are told."""
    mode = options_of(network).mode
    if network.driver == "ipvlan":
        return Link(netns, name, "ipvlan", parent.mac, mtu, spec=IpvlanSpec(parent.name, mode), owner=owner)
    own = parent.mac if mode == PASSTHRU else mac
    return Link(netns, name, "macvlan", own, mtu, spec=MacvlanSpec(parent.name, mode), owner=owner)
