"""The site → what is desired on one host, by way of the drivers.

Invariant: pure. A container that is not running has nothing desired; its network has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from ductwork.drivers import ContainerFacts, Facts, View, on_host
from ductwork.drivers.registry import DRIVERS
from ductwork.relocation import uplinks as uplinks_in
from ductwork.resources import (
    HOST,
    Address,
    BridgeSpec,
    IPInterface,
    IpvlanSpec,
    Key,
    Link,
    MacvlanSpec,
    NftElement,
    NicSpec,
    OvsBridge,
    Redirect,
    Resource,
    Route,
    Shaper,
    State,
    Sysctl,
)
from ductwork.services import nat, ports, routers, uplink
from ductwork.services.uplink import device_paths
from ductwork.site.model import Attachment, Network, PublishedPort, Site

_LEARNING = ("net/ipv6/conf/{}/accept_ra", "net/ipv6/conf/{}/autoconf")
_ARP = ("net/ipv4/conf/{}/arp_ignore", "net/ipv4/conf/{}/arp_announce", "net/ipv4/conf/{}/rp_filter")
_NO_IPV6 = "net/ipv6/conf/{}/disable_ipv6"
_ROUTED = ("net/ipv4/conf/{}/forwarding", "net/ipv6/conf/{}/force_forwarding", "net/ipv4/conf/{}/route_localnet")
_SYSCTLS = {
    "bridge": (*_LEARNING, *_ROUTED),
    "ovs": (*_LEARNING, *_ROUTED),
    "vlan": (*_LEARNING, *_ROUTED, _NO_IPV6, _ARP[0]),
    "macvlan": (*_LEARNING, *_ROUTED, _NO_IPV6, *_ARP),
    "ipvlan": (*_LEARNING, *_ROUTED, _NO_IPV6, *_ARP),
}
"""What the drivers set on a link of ours on the host, by its kind."""


def facts(state: State, cookies: Mapping[str, int], sysctls: Mapping[str, str], iptables: frozenset[str]) -> Facts:
    """What drivers may know, out of what was read. `cookies`: of the containers' namespaces and the host's."""
    links: dict[str, Link] = {}
    addresses: list[Address] = []
    routes: list[Route] = []
    defaults: dict[str, list[Route]] = {}
    for resource in state.values():
        if isinstance(resource, Route):
            if resource.netns == HOST:
                routes.append(resource)
            elif resource.is_default:
                defaults.setdefault(resource.netns, []).append(resource)
        elif resource.netns == HOST and isinstance(resource, Link):
            links[resource.name] = resource
        elif resource.netns == HOST and isinstance(resource, Address):
            addresses.append(resource)
    containers = {name: ContainerFacts(cookie, tuple(defaults.get(name, ()))) for name, cookie in cookies.items() if name}
    taken = uplinks_in(state.values())
    return Facts(
        links,
        tuple(addresses),
        tuple(routes),
        containers,
        sysctls,
        iptables,
        taken=taken,
        cookie=cookies[HOST],
        lent=lent(state),
        inside=tuple(
            r for r in state.values() if isinstance(r, Link) and r.netns and isinstance(r.spec, MacvlanSpec | IpvlanSpec)
        ),
    )


def lent(state: State) -> dict[str, Link]:
    """Name on the host → the NIC, where it is in a container by us, or has been left behind by one that died."""
    return {r.spec.device: r for r in state.values() if isinstance(r, Link) and isinstance(r.spec, NicSpec) and r.owner}


def view(
    site: Site,
    host: str,
    machine: str,
    known: Facts,
    addresses: Mapping[tuple[str, str], tuple[IPInterface, ...]],
    origin: str = "site",
) -> View:
    """One host's sight of a site. `machine`: this machine's name, for files without hosts."""
    attachments: dict[str, list[Attachment]] = {}
    for attachment in site.on(host):
        attachments.setdefault(attachment.container, []).append(attachment)
    by_container = {container: tuple(its) for container, its in attachments.items()}
    published: dict[tuple[str, str], list[PublishedPort]] = {}
    for port in site.ports:
        if port.host == host:
            published.setdefault(port.id, []).append(port)
    ports_of = {id_: tuple(its) for id_, its in published.items()}
    return View(site, host, host or machine, known, addresses, by_container, origin, ports_of)


def sysctl_paths(known: Facts, nics: Iterable[str]) -> Iterator[str]:
    """Every path below /proc/sys that drivers look up in `facts.sysctls`. `nics`: those that are about to be taken."""
    yield from nat.sysctl_paths(known)
    yield from uplink.sysctl_paths(nics)
    yield from ports.sysctl_paths(known)


def uplinks(site: Site, host: str) -> dict[str, str]:
    """NIC → the bridge of the site that takes it over on a host."""
    found = {}
    for name, network in site.networks.items():
        nic = on_host(getattr(network.options, "uplink", {}), host)
        if nic and host in site.hosts_of(name):
            found[nic] = DRIVERS[network.driver].ifname(network, host)
    return found


def nics(site: Site, host: str) -> list[str]:
    """The NICs of the host that the site's networks there are about."""
    networks = (network for name, network in site.networks.items() if host in site.hosts_of(name))
    return list(dict.fromkeys(nic for network in networks for nic in nics_of(network, host)))


def nics_of(network: Network, host: str) -> list[str]:
    named = (on_host(getattr(network.options, key, {}), host) for key in ("uplink", "parent", "device"))
    return [nic for nic in named if nic]


def desired_on_host(sight: View) -> dict[Key, Resource]:
    """All that the site wants on the host of this view."""
    found: dict[Key, Resource] = {}
    for name, network in sight.site.networks.items():
        if sight.host in sight.site.hosts_of(name):
            _add(found, DRIVERS[network.driver].host_resources(network, sight))
    legs = [sight.site.networks[name] for router in routers.here(sight) for name in router.legs]
    devices = {each.name: ports.device_of(each, plugged_into(each, sight.host)) for each in legs}
    if devices:
        _add(found, routers.resources(devices, sight))
    _add(found, _behind_ports(sight, found))
    found.update(desired_attachments(sight))
    return found


def _behind_ports(sight: View, found: Mapping[Key, Resource]) -> Iterator[Resource]:
    """What networks need on the host for the ports that are published of their containers, and no longer need."""
    published = {port.network for its in sight.ports.values() for port in its}
    published |= {name for name, its in sight.site.labels.items() if its.ports and sight.host in sight.site.hosts_of(name)}
    for name, network in sight.site.networks.items():
        if sight.host in sight.site.hosts_of(name) or name in published:
            device = plugged_into(network, sight.host)
            if name in published:
                yield from ports.network_resources(network, device, sight)
            else:
                yield from (r for r in ports.no_more(network, device, sight) if r.key not in found)


def plugged_into(network: Network, host: str) -> str:
    return DRIVERS[network.driver].ifname(network, host)


def desired_attachments(sight: View) -> dict[Key, Resource]:
    """What the view's attachments alone want, those of running containers."""
    found: dict[Key, Resource] = {}
    for attachment in sight.site.on(sight.host):
        if attachment.container in sight.facts.containers:
            network = sight.site.networks[attachment.network]
            _add(found, DRIVERS[network.driver].attachment_resources(network, attachment, sight))
            if attachment.id in sight.ports:
                _add(found, published(attachment, sight))
    return found


def published(attachment: Attachment, sight: View) -> Iterator[NftElement]:
    """What is published of a container's attachment."""
    network = sight.site.networks[attachment.network]
    target = ports.target(network, attachment, sight)
    yield from ports.target_elements(network, target, plugged_into(network, sight.host), sight.site.name)
    for port in sight.ports[attachment.id]:
        yield from ports.elements(port, target.addresses, sight.site.name)


def unparked(desired: State, observed: State, mine: Callable[[Resource], bool]) -> dict[Key, Resource]:
    """The foreign default routes that nobody displaces any more: they come back."""
    found: dict[Key, Resource] = {}
    for key, resource in observed.items():
        if isinstance(resource, Route) and resource.is_parked and key not in desired and mine(resource):
            route = resource.unpark()
            if route.key not in desired:
                found[route.key] = route
    return found


def sysctls_to_lose(desired: State, observed: State, mine: Callable[[Resource], bool]) -> dict[str, str]:
    """The sysctls of links that are to go or to change, path → link: undo must give them back."""
    links = (r for r in observed.values() if isinstance(r, Link) and r.kind in _SYSCTLS and r.netns == HOST)
    doomed = [link for link in links if desired.get(link.key) != link and mine(link)]
    found = {path.format(link.name): link.name for link in doomed for path in _SYSCTLS[link.kind]}
    bridges = {bridge for bridge in uplinks_in(observed.values()).values() if any(link.name == bridge for link in doomed)}
    return {**{path: path.split("/")[3] for path in device_paths(bridges)}, **found}


def without_ipv6(desired: Mapping[Key, Resource]) -> dict[Key, Resource]:
    """On a kernel without IPv6 there is nothing to keep it from doing."""
    return {
        key: resource
        for key, resource in desired.items()
        if not (isinstance(resource, Sysctl) and resource.path.startswith("net/ipv6/"))
    }


OVSDB = "ovsdb"
"""What an Open vSwitch database at an address is called among features: `ovsdb unix:/run/…`."""


def databases(site: Site, host: str) -> frozenset[str]:
    """The addresses of the host's OVSDBs that the file names."""
    named = (on_host(getattr(network.options, "ovsdb", {}), host) for network in site.networks.values())
    return frozenset(filter(None, named))


def needed_features(resource: Resource) -> Iterator[str]:
    """What making or changing it asks of a kernel that may lack it (`backends/kernel.py`)."""
    match resource:
        case Link(kind=kind) if kind in ("vlan", "macvlan", "ipvlan", "ifb"):
            yield kind
        case Link(spec=BridgeSpec()):
            yield "vlan_filtering"
        case Shaper():
            yield "tbf"
        case Redirect():
            yield "mirred"
        case OvsBridge(datapath=datapath, database=database):
            yield f"{OVSDB} {database}"
            if datapath == "system":
                yield "openvswitch"


def _add(found: dict[Key, Resource], resources: Iterable[Resource]) -> None:
    for resource in resources:
        found[resource.key] = resource
