"""The LANs that a site's external networks lie on: which NICs a host of the lab needs, and which switch each is plugged in.

Invariant: pure, and read from the site file's words alone. A switch stands for each NIC name. Names that one network has on
different hosts are one LAN, and so on one switch, named by the first; and so are the NICs that have the hosts' own addresses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from ductwork.drivers import on_host
from ductwork.resources import IPAddress
from ductwork.site.model import Network, Site

NIC = "eth0"
_NIC_KEYS = ("uplink", "parent", "device")


class Segment(NamedTuple):
    """Where machines hear each other's broadcasts: a switch's untagged frames (`vlan` 0), or those of one VLAN."""

    switch: str
    vlan: int


def main_nic(site: Site, host: str) -> str:
    """The NIC that has the host's own addresses: what a tunnel leaves by, where the file says so; else that of the LAN which
    they are in."""
    networks = [network for name, network in site.networks.items() if host in site.hosts_of(name)]
    named = (on_host(getattr(network.options, "underlay", {}), host) for network in networks)
    own = site.hosts[host].address if host in site.hosts else None
    at_home = (n for n in networks if own and n.subnet_of(own.ip) and not getattr(n.options, "vlan", None))
    return next(filter(None, (*named, *(nic_of(network, host) for network in at_home))), NIC)


def nics(site: Site, host: str) -> list[str]:
    """All NICs of a host, the main one first."""
    networks = [network for name, network in site.networks.items() if host in site.hosts_of(name)]
    named = (on_host(getattr(n.options, key, {}), host) for n in networks for key in (*_NIC_KEYS, "underlay"))
    return list(dict.fromkeys([main_nic(site, host), *filter(None, named)]))


def nic_of(network: Network, host: str) -> str | None:
    """What the network uses on a host."""
    return next(filter(None, (on_host(getattr(network.options, key, {}), host) for key in _NIC_KEYS)), None)


def switches(site: Site, hosts: Iterable[str]) -> dict[str, str]:
    """NIC name → its switch, which has the name of the first NIC on it."""
    every = list(hosts)
    found = {name: name for host in every for name in nics(site, host)}
    groups = [[main_nic(site, host) for host in every]]
    groups += [[nic for host in site.hosts_of(n.name) if (nic := nic_of(n, host))] for n in site.networks.values()]
    for first, *others in filter(None, groups):
        for other in others:
            old, new = found[other], found[first]
            found = {nic: new if switch == old else switch for nic, switch in found.items()}
    return found


def segments(site: Site, switch_of: Mapping[str, str]) -> dict[str, Segment]:
    """External network → where its containers are; those without layer 2, or on no host, are left out."""
    return {
        name: Segment(switch_of[nic], getattr(network.options, "vlan", None) or 0)
        for name, network in site.networks.items()
        if network.external and has_layer_2(network)
        for nic in _first_nic(site, network)
    }


def has_layer_2(network: Network) -> bool:
    """Whether its containers hear the LAN's broadcasts: ipvlan has modes in which the host routes for them."""
    return getattr(network.options, "mode", None) not in ("l3", "l3s")


def foreign_gateways(network: Network) -> list[IPAddress]:
    """The gateways that no router of the file is."""
    legs = {address for addresses in network.legs.values() for address in addresses}
    return [gateway for gateway in network.gateways if gateway not in legs]


def access_addresses(network: Network) -> Mapping[str, IPAddress]:
    """Host ("": the only one) → the address of its interface beside its containers'."""
    found: Mapping[str, IPAddress] = getattr(network.options, "host_access", {})
    return found


def _first_nic(site: Site, network: Network) -> Iterator[str]:
    yield from [nic for host in site.hosts_of(network.name) if (nic := nic_of(network, host))][:1]
