"""Containers of several hosts on one layer 2, tunnelled over UDP (RFC 7348).

On each host a bridge with the containers and one VXLAN device in it. Frames for everybody go to every other host of the
network, one flooding entry each; what the file knows of containers elsewhere is entered, not learnt. Every host's bridge
holds the gateway's address; `services.nat.gateway_guard` keeps it out of the tunnel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from ductwork.drivers import PerHost, View
from ductwork.drivers.bridged import bridge_resources, no_router_advertisements, underlay_mtu, veth_resources
from ductwork.errors import ConflictError, DuctworkError, Problem
from ductwork.naming import bridge_ifname, mac_address, vxlan_ifname
from ductwork.resources import FLOOD_MAC, HOST, FdbEntry, IPAddress, Link, Neighbour, Port, Resource, VxlanSpec
from ductwork.services import isolation, nat
from ductwork.site.model import Attachment, Network, Site

OVERHEAD_BYTES = {4: 50, 6: 70}
"""Outer Ethernet, IP, UDP and VXLAN headers, by the underlay's IP version."""


@dataclass(frozen=True, slots=True)
class Options:
    vni: int = field(metadata={"help": "VXLAN network identifier", "ge": 1, "le": 2**24 - 1})
    port: int = field(default=4789, metadata={"help": "UDP port of the tunnel", "ge": 1, "le": 65535})
    underlay: PerHost = field(
        default_factory=lambda: PerHost({}), metadata={"help": "NIC; default: that of the host's address"}
    )


class VxlanDriver:
    name: ClassVar[str] = "vxlan"
    Options: ClassVar[type] = Options

    def check(self, network: Network, site: Site) -> Iterable[Problem]:
        if not site.hosts:
            message = f"a vxlan network needs `hosts`, each with its address, and network {network.name} has none to tunnel to"
            yield Problem(("driver",), message, "add `hosts: {alpha: {address: 10.99.0.1/24}, …}`")
        for host in site.hosts_of(network.name):
            if site.hosts and site.hosts[host].address is None:
                message = f"host {host} has no address, so the other hosts of network {network.name} cannot send to it"
                yield Problem(("driver",), message, f"give it one: `hosts: {{{host}: {{address: 10.99.0.1/24}}}}`")

    def ifname(self, network: Network, host: str) -> str:
        return bridge_ifname(network.name)

    def mtu_bytes(self, network: Network, view: View) -> int:
        if network.mtu_bytes:
            return network.mtu_bytes
        return underlay_mtu(view, _underlay(network, view)) - OVERHEAD_BYTES[_vtep(view, view.host).version]

    def host_resources(self, network: Network, view: View) -> Iterator[Resource]:
        assert isinstance(network.options, Options)
        owner = view.owner(network.name)
        mtu = self.mtu_bytes(network, view)
        bridge, device = self.ifname(network, view.host), vxlan_ifname(network.name)
        self._refuse_what_the_kernel_would(network, device, mtu, view)
        yield Link(HOST, bridge, "bridge", mac_address(view.seed, network.name, "bridge"), mtu, owner=owner)
        yield from no_router_advertisements(bridge, mtu, owner)
        yield from bridge_resources(network, bridge, bridge, mtu, view)
        yield from nat.gateway_guard(network, device, owner)
        spec = VxlanSpec(network.options.vni, network.options.port, _vtep(view, view.host), _underlay(network, view))
        mac = mac_address(view.seed, network.name, "vtep")
        yield Link(HOST, device, "vxlan", mac, mtu, spec=spec, owner=owner)
        yield Port(HOST, device, bridge, owner, isolated=network.isolated and not network.apart)
        if network.apart:
            yield from isolation.peers(network, view)
        for peer in view.site.hosts_of(network.name):
            if peer != view.host:
                yield FdbEntry(HOST, device, FLOOD_MAC, _vtep(view, peer), owner)
        for remote in view.site.attachments:
            if remote.network == network.name and remote.host != view.host:
                yield FdbEntry(HOST, device, remote.mac, _vtep(view, remote.host), owner)
                yield from _remote_neighbours(network, bridge, remote, view)

    def _refuse_what_the_kernel_would(self, network: Network, device: str, mtu: int, view: View) -> None:
        """Before anything is touched: frames that do not fit the underlay, and a VNI that another device has."""
        assert isinstance(network.options, Options)
        fits = underlay_mtu(view, _underlay(network, view)) - OVERHEAD_BYTES[_vtep(view, view.host).version]
        if mtu > fits:
            name = _underlay(network, view)
            raise DuctworkError(
                f"network {network.name}: an mtu of {mtu} does not fit through {name}", f"at most {fits}, or leave the key out"
            )
        for link in view.facts.links.values():
            ours = link.name == device or (link.owner is not None and link.owner.site == view.site.name)
            tunnel = (link.spec.vni, link.spec.port) if isinstance(link.spec, VxlanSpec) else None
            if tunnel == (network.options.vni, network.options.port) and not ours:
                message = f"link {link.name} is in the way: it has VNI {network.options.vni}, that of network {network.name}"
                raise ConflictError(f"{message}: nothing was touched", "remove it, or choose another `vni`")

    def attachment_resources(self, network: Network, attachment: Attachment, view: View) -> Iterator[Resource]:
        mtu = self.mtu_bytes(network, view)
        yield from veth_resources(network, self.ifname(network, view.host), mtu, attachment, view)
        if network.apart:
            yield isolation.apart(attachment, view)


def _remote_neighbours(network: Network, bridge: str, remote: Attachment, view: View) -> Iterator[Neighbour]:
    """Where the host speaks to containers elsewhere with an address of its own, it need not ask for their MACs."""
    versions = {address.version for address in network.host_addresses.get(view.host, ())}
    for address in remote.addresses:
        if address.version in versions:
            yield Neighbour(HOST, bridge, address.ip, remote.mac, view.owner(network.name))


def _vtep(view: View, host: str) -> IPAddress:
    address = view.site.hosts[host].address
    assert address is not None, "checked in `check`"
    return address.ip


def _underlay(network: Network, view: View) -> str:
    """The NIC that the tunnel leaves by: the one named in the file, else the one that holds the host's address."""
    assert isinstance(network.options, Options)
    named = network.options.underlay.get(view.host) or network.options.underlay.get("")
    if named:
        named = view.facts.moved.get(named, named)
        if named not in view.facts.links:
            hint = f"`ip link` shows the NICs; set `underlay` of network {network.name}"
            raise DuctworkError(f"host {view.host} has no NIC {named}, the underlay of network {network.name}", hint)
        return named
    vtep = _vtep(view, view.host)
    for address in view.facts.addresses:
        if address.address == vtep:
            return address.link
    raise DuctworkError(
        f"this machine does not hold {vtep}, the address of host {view.host}",
        f"`ip address` shows what it holds; correct hosts.{view.host}.address, or name the host with --host",
    )
