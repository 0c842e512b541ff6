"""Makes and removes a lab: namespaces, links, addresses and routes around the hosts; the hosts' own part is `apply`'s.

Invariant: all or nothing. What fails half-way is taken down again; what a crash left, `down` finds by its mark. No process
is ended but the lab's own (`switches`): others that sit in a namespace of the lab are reported.

The router stands for the gateways of the LANs that networks of the file lie on. It lets their machines out to `outside`, and
that in to them; from one LAN to another it does not route, nor to hosts elsewhere: two networks shall not reach each other
because the lab has only one router.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from ductwork.errors import ApplyError, ConflictError, DuctworkError
from ductwork.lab import namespaces, switches
from ductwork.lab.topology import HostNode, LanNode, Leg, Nic, Topology, name_prefix
from ductwork.netns import RUN_DIRECTORY
from ductwork.resources import IPAddress, IPInterface
from ductwork.site.model import Attachment

ApplyHost = Callable[[HostNode], None]
"""Brings one host to what the site says; called in a thread of its own, which is in the lab maker's namespace."""

Addresses = dict[tuple[str, str, str], tuple[IPInterface, ...]]
"""The whole site's attachments: (host, container as written, interface) → addresses."""

IPV6_SECONDS = 10.0
"""How long `up` waits for addresses to become usable; what is not by then, `lab test` will show."""

SYSCTLS = {
    # The same start on every machine: a namespace takes over its maker's IPv4 settings. Forwarding is `apply`'s to set.
    "net/ipv4/ip_forward": "0",
    # The lab's addresses are unique by construction; duplicate address detection would cost the first two seconds.
    "net/ipv6/conf/all/accept_dad": "0",
    "net/ipv6/conf/default/accept_dad": "0",
    "net/ipv6/conf/default/accept_ra": "0",
}
ROUTER_SYSCTLS = {
    **SYSCTLS,
    "net/ipv4/ip_forward": "1",
    "net/ipv6/conf/all/forwarding": "1",
    # Hosts shall not learn the way past the router: what comes from another host is to come by the same way each time.
    "net/ipv4/conf/all/send_redirects": "0",
    "net/ipv4/conf/default/send_redirects": "0",
    # Where two LANs have the same subnet, it is reached by one of them as far as its route says.
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
}
_OUT, _HOSTS, _NO_FURTHER = 100, 101, 102
"""Priorities of the router's rules for what comes from a LAN of somebody else's."""


def up(lab: Topology, apply_host: ApplyHost) -> Addresses:
    """Build a lab and apply the site on all its hosts at once.

    Errors: `ConflictError` where a name is taken; what else goes wrong is raised after the lab has been taken down.
    """
    taken = [name for name in lab.namespaces() if namespaces.exists(name)]
    if taken:
        ours = set(taken) <= set(owned(lab.site.name))
        hint = "`ductwork lab down` removes it" if ours else f"remove it: ip netns del {taken[0]}"
        what = "this site's lab is up already" if ours else "the lab needs a name that is taken"
        raise ConflictError(f"{what}: network namespace {taken[0]}", hint)
    try:
        build(lab)
        switches.start(lab, state_directory(lab.site.name))
        apply_all(lab, apply_host)
        addresses = read_addresses(lab)
        route_containers(lab, addresses)
        namespaces.wait_for_ipv6(lab.namespaces(), IPV6_SECONDS)
    except BaseException:
        down(lab.site.name)
        raise
    return addresses


def down(site_name: str) -> dict[str, list[int]]:
    """Remove a site's lab, also what is left of one, and one of an older file.

    Gives namespace → PIDs of the processes that are still in it: it lives on without a name until they end.
    """
    names = owned(site_name)
    errors: list[Exception] = []
    try:
        switches.stop(state_directory(site_name))
    except Exception as error:
        errors.append(error)
    lingering = namespaces.processes(names)
    for step in (partial(_forget, site_name, names), *(partial(namespaces.delete, name) for name in names)):
        try:
            step()
        except Exception as error:  # what can go, goes
            errors.append(error)
    if errors:
        raise ExceptionGroup("the lab was not removed wholly", errors)
    return lingering


def state_directory(site_name: str) -> Path:
    """Where the lab's hosts remember addresses: with the journals in /run, and gone with the lab."""
    return RUN_DIRECTORY / f"{name_prefix(site_name)}state"


def _forget(site_name: str, names: list[str]) -> None:
    """What the lab's hosts have remembered: their addresses, and their journals."""
    journals = [RUN_DIRECTORY / str(cookie) for cookie in namespaces.cookies(names)]
    for directory in (state_directory(site_name), *journals):
        shutil.rmtree(directory, ignore_errors=True)


def owned(site_name: str) -> list[str]:
    """The namespaces of a site's lab that are there."""
    return namespaces.owned(name_prefix(site_name), site_name)


def is_up(lab: Topology) -> bool:
    """Whether every namespace of the lab is there."""
    return set(lab.namespaces()) <= set(owned(lab.site.name))


def build(lab: Topology) -> None:
    """Everything around the hosts' own part: machines, switches, underlay, router, outside."""
    router = lab.router.netns
    namespaces.create([n for n in lab.namespaces() if n != router], lab.site.name, SYSCTLS)
    namespaces.create([router], lab.site.name, ROUTER_SYSCTLS)
    namespaces.ip_batch(_links(lab))
    configured = {
        **{host.netns: [line for nic in host.nics.values() for line in _nic(nic)] for host in lab.hosts.values()},
        **{machine.netns: _lan_machine(machine) for machine in lab.lans},
        router: [*_nic(lab.router.inner), *_nic(lab.router.outer), *_snat_routes(lab), *_legs(lab)],
        lab.outside.netns: list(_nic(lab.outside.nic)),
        lab.switch_netns: list(_switches(lab)),
    }
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(namespaces.ip_batch, configured.values(), configured))
    for version in (4, 6):
        if rules := list(_rules(lab, version)):
            namespaces.ip_batch(rules, router, version)
    switches.complete_checksums(lab, [(netns, nic) for netns, nic, _ in _plugs(lab).values()])


def apply_all(lab: Topology, apply_host: ApplyHost) -> None:
    """Apply the site on every host at once. Errors: `ApplyError` with what each host says."""
    with ThreadPoolExecutor(max(1, len(lab.hosts))) as pool:
        futures = {host.label: pool.submit(apply_host, host) for host in lab.hosts.values()}
    errors = {label: error for label, future in futures.items() if (error := future.exception())}
    for error in errors.values():
        if not isinstance(error, DuctworkError):
            raise error
    if errors:
        said = "; ".join(f"{label}: {error}" for label, error in errors.items())
        raise ApplyError(said, next(e.hint for e in errors.values() if isinstance(e, DuctworkError)))


def read_addresses(lab: Topology) -> Addresses:
    """Every attachment's addresses: as written, else as the container has them by now.

    Errors: `ApplyError` where an attachment that is to have an address has none.
    """
    attachments = lab.site.attachments
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda attachment: attachment.addresses or _allocated(lab, attachment), attachments)
        return {(a.host, *a.id): addresses for a, addresses in zip(attachments, found, strict=True)}


def route_containers(lab: Topology, addresses: Addresses) -> None:
    """The router's routes to every container, via its host: so that what may come in can, and what must not is tried."""
    ways: dict[IPAddress, str] = {}
    for attachment in lab.site.attachments:
        for address in addresses[(attachment.host, *attachment.id)]:
            way = _way_to(lab, attachment, address.version)
            if way:
                ways.setdefault(address.ip, way)
    if ways:
        namespaces.ip_batch((f"route replace {to} {way}" for to, way in ways.items()), lab.router.netns)


def _way_to(lab: Topology, attachment: Attachment, version: int) -> str:
    """To a container on a LAN of its own, straight; to any other, by its host. "": none."""
    if attachment.network in lab.segments:
        leg = _leg(lab, attachment.network)
        return f"dev {leg.nic.name}" if leg and lab.is_gateway(attachment.network, version) else ""
    via = lab.hosts[attachment.host].underlay(version)
    return f"via {via}" if via else ""


def _leg(lab: Topology, network: str) -> Leg | None:
    return next((leg for leg in lab.router.legs if leg.segment == lab.segments[network]), None)


def _allocated(lab: Topology, attachment: Attachment) -> tuple[IPInterface, ...]:
    network = lab.site.networks[attachment.network]
    node = lab.container(attachment.host, attachment.container)
    present = namespaces.addresses(node.netns, attachment.interface)
    found = tuple(address for address in present if network.subnet_of(address.ip))
    if network.subnets and not found and network.ipv6 != "slaac":
        raise ApplyError(
            f"{node.label} has no address of network {network.name} on {attachment.interface}",
            f"see what it has: ip netns exec {node.netns} ip address",
        )
    return found


def _links(lab: Topology) -> Iterator[str]:
    """One batch for all links, each made in its namespaces at once (moved there afterwards, each would cost 15 ms)."""
    switch = lab.switch_netns
    for bridge in _bridges(lab).values():
        yield f"link add name {bridge} netns {switch} type bridge mcast_snooping 0"
    for port, (netns, nic_name, _) in _plugs(lab).items():
        yield f"link add name {nic_name} netns {netns} type veth peer name {port} netns {switch}"
    outer, outside = lab.router.outer.name, lab.outside.nic.name
    yield f"link add name {outer} netns {lab.router.netns} type veth peer name {outside} netns {lab.outside.netns}"


def _bridges(lab: Topology) -> dict[str, str]:
    """Switch → the bridge that it is: a NIC's name may fill a link's, 15 characters."""
    return {name: f"sw-{name}" if len(name) <= 12 else f"switch{number}" for number, name in enumerate(lab.switches)}


def _plugs(lab: Topology) -> dict[str, tuple[str, str, str]]:
    """Port of the switches' namespace → namespace and NIC at the other end, and the bridge that the port is in."""
    plugs = [(h.netns, nic, lab.switch_of[nic]) for h in lab.hosts.values() for nic in h.nics]
    router = {lab.router.inner.name: lab.main_switch} | {leg.plug: leg.segment.switch for leg in lab.router.legs}
    plugs += [(lab.router.netns, nic, switch) for nic, switch in router.items()]
    plugs += [(machine.netns, machine.leg.plug, machine.leg.segment.switch) for machine in lab.lans]
    bridges = _bridges(lab)
    return {f"port{number}": (netns, nic, bridges[switch]) for number, (netns, nic, switch) in enumerate(plugs)}


def _switches(lab: Topology) -> Iterator[str]:
    for bridge in _bridges(lab).values():
        yield f"link set dev {bridge} up"
    for port, (_, _, bridge) in _plugs(lab).items():
        yield f"link set dev {port} master {bridge} up"


def _lan_machine(machine: LanNode) -> list[str]:
    return [*_plugged(machine.leg), *_nic(machine.leg.nic)]


def _plugged(leg: Leg) -> Iterator[str]:
    """What its addresses are put on: the NIC itself, or a VLAN of it."""
    yield f"link set dev {leg.plug} up"
    if leg.nic.name != leg.plug:
        yield f"link add link {leg.plug} name {leg.nic.name} type vlan id {leg.segment.vlan}"


def _legs(lab: Topology) -> Iterator[str]:
    """The router as the gateway of LANs; to their machines it has a route each, since two LANs may have the same subnet."""
    present = {address.ip for address in lab.router.inner.addresses}
    for leg in lab.router.legs:
        yield from _plugged(leg)
        new = tuple(a for a in leg.nic.addresses if leg.nic.name != lab.router.inner.name or a.ip not in present)
        yield from _nic(Nic(leg.nic.name, new))
    for machine in lab.lans:
        leg_there = _leg(lab, machine.network)
        for address in machine.leg.nic.addresses if leg_there else ():
            assert leg_there is not None
            if lab.is_gateway(machine.network, address.version):
                yield f"route add {address.ip} dev {leg_there.nic.name}"


def _rules(lab: Topology, version: int) -> Iterator[str]:
    """From somebody else's LAN to `outside`, and no further. What the hosts send from their own addresses on one is routed;
    by these rules, answers to it from another LAN are not."""
    out = [a.network for a in lab.outside.nic.addresses if a.version == version]
    own = [a.ip for host in lab.hosts.values() for nic in host.nics.values() for a in nic.addresses]
    external = [network for network in lab.site.networks.values() if network.external]
    nics = dict.fromkeys([lab.router.inner.name, *(leg.nic.name for leg in lab.router.legs)])
    for subnet in dict.fromkeys(s for network in external for s in network.subnets if s.version == version):
        yield from (f"rule add from {subnet} to {net} lookup main priority {_OUT}" for net in out)
        yield from (f"rule add from {a} lookup main priority {_HOSTS}" for a in own if a in subnet)
        yield from (f"rule add from {subnet} iif {nic} unreachable priority {_NO_FURTHER}" for nic in nics)


def _nic(nic: Nic) -> Iterable[str]:
    yield f"link set dev {nic.name} up"
    for address in nic.addresses:
        yield f"address add {address} dev {nic.name}" + (" nodad" if address.version == 6 else "")
    for gateway in nic.gateways:
        yield f"route add default via {gateway} dev {nic.name}"


def _snat_routes(lab: Topology) -> Iterable[str]:
    """The way to addresses that packets leave with and that lie in no subnet of the underlay."""
    subnets = {address.network for address in lab.router.inner.addresses}
    for host in lab.hosts.values():
        for nic in host.nics.values():
            for address in nic.addresses:
                if address.network not in subnets:
                    yield f"route add {address.ip} via {host.underlay(address.version)}"
