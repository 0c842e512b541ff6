"""The machines of a lab, worked out from the site file alone: hosts, containers, a router, a machine on each LAN that a
network of the file lies on, and a machine outside.

Invariant: pure, and a function of the site (and of whether the kernel has 802.1q): the same file gives the same names and
addresses, so that `lab down`, `lab exec` and plain `ip netns exec` find what `lab up` made. No address here is used by anybody
else in the file; what the file gives to a machine that is not in it, a LAN's gateway, is the router's.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_interface, ip_network
from itertools import count

from ductwork.errors import UsageError
from ductwork.lab import lans
from ductwork.lab.lans import NIC, Segment
from ductwork.resources import IPAddress, IPInterface, IPNetwork
from ductwork.site.model import Network, Site

SPARE = {
    4: ("198.51.100.0/24", "198.18.0.0/16", "198.19.0.0/16"),
    6: ("fd64:6c61:6200::/64", "fd64:6c61:6201::/64", "2001:db8:fffe::/64"),
}
"""Underlay subnets for hosts whose address (of a family) the file does not say: documentation, benchmarks, ULA."""
OUTSIDE = {
    4: ("203.0.113.0/24", "192.0.2.0/24", "198.51.100.0/24"),
    6: ("2001:db8:ffff::/64", "2001:db8:fffd::/64"),
}
OUTSIDE_HOST_PART = {4: 10, 6: 0x10}
NAME_LIMIT = 99


@dataclass(frozen=True, slots=True)
class Nic:
    """A NIC of a lab machine. `gateways`: its default routes, one per family."""

    name: str
    addresses: tuple[IPInterface, ...]
    gateways: tuple[IPAddress, ...] = ()

    def address(self, version: int) -> IPAddress | None:
        """The first address of a family."""
        return next((a.ip for a in self.addresses if a.version == version), None)


@dataclass(frozen=True, slots=True)
class HostNode:
    """A host of the file. `name` is the file's ("" where it has none), `label` what people see and type. `main`: the NIC that
    has its own addresses, until it is an uplink."""

    name: str
    label: str
    netns: str
    nics: Mapping[str, Nic]
    main: str = NIC

    def underlay(self, version: int) -> IPAddress | None:
        return self.nics[self.main].address(version)


@dataclass(frozen=True, slots=True)
class ContainerNode:
    """A container of the file. `references`: all the ways in which the file writes its name on this host."""

    name: str
    host: str
    label: str
    netns: str
    references: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Leg:
    """A machine's foot on a LAN. `nic` is a VLAN's device, `PLUG.VLAN`, where the segment is one."""

    segment: Segment
    plug: str
    nic: Nic


@dataclass(frozen=True, slots=True)
class Router:
    """The hosts' default gateway (`inner`), which has the outside machine behind it (`outer`). `legs`: where it is the gateway
    that the file gives a LAN; the one on the hosts' own LAN has the NIC `inner`."""

    netns: str
    inner: Nic
    outer: Nic
    legs: tuple[Leg, ...] = ()


@dataclass(frozen=True, slots=True)
class LanNode:
    """Another machine of the LAN that a network lies on."""

    network: str
    label: str
    netns: str
    leg: Leg


@dataclass(frozen=True, slots=True)
class Outside:
    """A machine on the internet."""

    netns: str
    nic: Nic


@dataclass(frozen=True, slots=True)
class Topology:
    """A whole lab. `switches`: their names → labels of the hosts on each; they are bridges in one namespace. `switch_of`: NIC
    name → switch. `segments`: where the external networks lie. `left_out`: those networks whose LAN has no machines here."""

    site: Site
    prefix: str
    hosts: Mapping[str, HostNode]
    containers: tuple[ContainerNode, ...]
    switches: Mapping[str, tuple[str, ...]]
    switch_netns: str
    router: Router
    outside: Outside
    switch_of: Mapping[str, str]
    segments: Mapping[str, Segment]
    lans: tuple[LanNode, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def main_switch(self) -> str:
        """The one of the hosts' own LAN."""
        return self.switch_of[next(iter(self.hosts.values())).main]

    def namespaces(self) -> tuple[str, ...]:
        """Every namespace; the switch, which holds the other end of every link, comes last."""
        machines = [m.netns for m in self._machines()]
        return (*machines, self.router.netns, self.outside.netns, self.switch_netns)

    def is_gateway(self, network: str, version: int) -> bool:
        """Whether the lab's router is the gateway that the file names for an external network."""
        here = [leg for leg in self.router.legs if leg.segment == self.segments.get(network)]
        gateways = self.site.networks[network].gateways
        return any(a.ip in gateways and a.version == version for leg in here for a in leg.nic.addresses)

    def container(self, host: str, reference: str) -> ContainerNode:
        return next(c for c in self.containers if c.host == host and reference in c.references)

    def netns_of(self, word: str) -> str | None:
        """The namespace of what a person calls `word`: a label, a container's `[HOST/]REFERENCE` or `[HOST/]NAME`."""
        found = [
            *(m.netns for m in self._machines() if word == m.label and m not in self.containers),
            *(n for w, n in (("router", self.router.netns), ("outside", self.outside.netns)) if word == w),
            *(c.netns for c in self.containers if word == c.label),
        ]
        if not found:
            found = [c.netns for c in self.containers if word in self._spellings(c)]
        return found[0] if len(set(found)) == 1 else None

    def labels(self) -> tuple[str, ...]:
        """What `lab exec` can be asked for."""
        return (*(machine.label for machine in self._machines()), "router", "outside")

    def _machines(self) -> list[HostNode | ContainerNode | LanNode]:
        return [*self.hosts.values(), *self.containers, *self.lans]

    def _spellings(self, container: ContainerNode) -> set[str]:
        plain = {container.name, *container.references}
        return plain | {f"{self.hosts[container.host].label}/{p}" for p in plain}


def topology(site: Site, *, vlans: bool = True) -> Topology:
    """The lab of a site. `vlans`: whether the kernel has 802.1q; without it, no machine of the lab's own is in a VLAN.

    Errors: `UsageError` where no spare subnet is left for the lab's own addresses.
    """
    prefix = name_prefix(site.name)
    labels = {name: name or "host" for name in site.hosts or ("",)}
    switch_of = lans.switches(site, labels)
    segments = lans.segments(site, switch_of)
    main = {name: lans.main_nic(site, name) for name in labels}
    home = Segment(switch_of[main[next(iter(labels))]], 0)
    plan = _Underlay(site, tuple(labels), families(site), [n for n in segments if segments[n] == home])
    hosts = {}
    for name, label in labels.items():
        others = {nic: Nic(nic, ()) for nic in lans.nics(site, name)}
        own = plan.nic(name, main[name])
        hosts[name] = HostNode(name, label, _netns(prefix, f"h-{label}"), {**others, main[name]: own}, main[name])
    inner, outer, outside = plan.router()
    played = {name: segment for name, segment in segments.items() if vlans or not segment.vlan}
    machines = tuple(_lan_machines(site, prefix, played, plan))
    on_switch = {s: tuple(hosts[h].label for h in hosts if _is_on(s, hosts[h], switch_of)) for s in switch_of.values()}
    return Topology(
        site,
        prefix,
        hosts,
        _containers(site, prefix, labels, {machine.label for machine in machines}),
        on_switch,
        f"{prefix}switch",
        Router(f"{prefix}router", inner, outer, tuple(_legs(site, played, home, inner))),
        Outside(f"{prefix}outside", outside),
        switch_of,
        segments,
        machines,
        tuple(name for name in segments if name not in played),
    )


def _is_on(switch: str, host: HostNode, switch_of: Mapping[str, str]) -> bool:
    return any(switch_of[nic] == switch for nic in host.nics)


def _legs(site: Site, played: Mapping[str, Segment], home: Segment, inner: Nic) -> Iterator[Leg]:
    """Of the router: one for each LAN that has a gateway in the file."""
    plugs: dict[str, str] = {home.switch: inner.name}
    addresses: dict[Segment, dict[IPInterface, None]] = {}
    for name, segment in played.items():
        network = site.networks[name]
        for gateway in lans.foreign_gateways(network):
            subnet = network.subnet_of(gateway)
            assert subnet is not None, "checked in `site.check_networks`"
            plugs.setdefault(segment.switch, f"eth{len(plugs) + 1}")
            addresses.setdefault(segment, {})[_interface(gateway, subnet)] = None
    for segment, held in addresses.items():
        plug = plugs[segment.switch]
        yield Leg(segment, plug, Nic(_device(plug, segment), tuple(held)))


def _lan_machines(site: Site, prefix: str, played: Mapping[str, Segment], plan: _Underlay) -> Iterator[LanNode]:
    for name, segment in played.items():
        addresses = plan.on_lan(site.networks[name])
        if addresses:
            label = f"lan-{name}"
            nic = Nic(_device(NIC, segment), addresses, site.networks[name].gateways)
            yield LanNode(name, label, _netns(prefix, label), Leg(segment, NIC, nic))


def _device(plug: str, segment: Segment) -> str:
    return f"{plug}.{segment.vlan}" if segment.vlan else plug


def families(site: Site) -> tuple[int, ...]:
    """IPv4 always; IPv6 where a network or a host has it."""
    wanted = {s.version for n in site.networks.values() for s in n.subnets}
    wanted |= {h.address.version for h in site.hosts.values() if h.address}
    return (4, 6) if 6 in wanted else (4,)


def name_prefix(site_name: str) -> str:
    """What the names of a site's namespaces begin with. One site's may begin another's: the mark tells them apart."""
    return f"lab-{_fitted(site_name, 40)}-"


def _netns(prefix: str, name: str) -> str:
    return prefix + _fitted(name, NAME_LIMIT - len(prefix))


def _fitted(name: str, limit: int) -> str:
    """`name` as a file name of at most `limit` characters; what had to be changed gets a digest, to stay unique."""
    safe = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
    return safe if safe == name and len(safe) <= limit else f"{safe[: limit - 9]}-{_digest(name)}"


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


def _containers(site: Site, prefix: str, hosts: Mapping[str, str], lan_labels: set[str]) -> tuple[ContainerNode, ...]:
    """One per name and runtime; `web` and `netns:web` are one, unless a third, `docker:web`, leaves it open."""
    written = dict.fromkeys((a.host, a.container) for a in site.attachments)
    qualified = Counter((host, ref.partition(":")[2]) for host, ref in written if ":" in ref)
    grouped: dict[tuple[str, str], list[str]] = {}
    for host, ref in written:
        runtime, _, name = ref.rpartition(":")
        grouped.setdefault((host, name if not runtime or qualified[host, name] == 1 else ref), []).append(ref)
    names = Counter(identity.rpartition(":")[2] for _, identity in grouped)
    taken = {*hosts.values(), *lan_labels, "router", "outside"}
    nodes: list[ContainerNode] = []
    used: set[str] = set()
    for (host, identity), references in grouped.items():
        name = identity.rpartition(":")[2]
        label = name if names[name] == 1 and name not in taken else f"{hosts[host]}/{identity}"
        netns = _netns(prefix, f"c-{hosts[host]}-{name}")
        if netns in used:
            netns = _netns(prefix, f"c-{hosts[host][:30]}-{name[:30]}-{_digest(f'{host}/{identity}')}")
        used.add(netns)
        nodes.append(ContainerNode(name, host, label, netns, tuple(references)))
    return tuple(nodes)


class _Underlay:
    """Hands out the lab's addresses. Every subnet lies on the hosts' one switch; the router has an address in each. `home`: the
    networks that lie there, untagged: their gateway is the hosts' too."""

    def __init__(self, site: Site, hosts: tuple[str, ...], versions: tuple[int, ...], home: list[str]) -> None:
        self._site = site
        self._home = [site.networks[name] for name in home]
        self._foreign = [s for n in site.networks.values() for s in n.subnets]
        self._taken = {h.address.ip for h in site.hosts.values() if h.address} | _addresses_in(site)
        self._subnets: dict[IPNetwork, IPAddress] = {}
        own = {name: host.address for name, host in site.hosts.items() if host.address}
        self._addresses: dict[str, list[IPInterface]] = {name: [] for name in hosts}
        for name in sorted(own, key=lambda n: own[n].network.prefixlen):  # written prefixes come before guessed ones
            self._addresses[name].append(self._placed(own[name]))
        for version in versions:
            lacking = [n for n in hosts if all(a.version != version for a in self._addresses[n])]
            if lacking:
                self._fill(lacking, version)
        self._add_snat_addresses()

    def nic(self, host: str, name: str) -> Nic:
        addresses = tuple(self._addresses[host])
        gateways = {a.version: self._subnets[a.network] for a in reversed(addresses) if a.network in self._subnets}
        return Nic(name, addresses, tuple(gateways[v] for v in sorted(gateways)))

    def on_lan(self, network: Network) -> tuple[IPInterface, ...]:
        """Of another machine's on the LAN of a network: one for each subnet that has an address to spare."""
        found = []
        for net in network.subnets:
            address = self._highest_free(net)
            if address is not None:
                self._taken.add(address)
                found.append(_interface(address, net))
        return tuple(found)

    def router(self) -> tuple[Nic, Nic, Nic]:
        """The router's two NICs, and the outside machine's."""
        inner = Nic("eth0", tuple(_interface(ip, net) for net, ip in self._subnets.items()))
        outer: list[IPInterface] = []
        outside: list[IPInterface] = []
        for version in sorted({net.version for net in self._subnets}):
            net = self._spare(OUTSIDE[version], 3)
            outer.append(_interface(net[1], net))
            outside.append(_interface(net[OUTSIDE_HOST_PART[version]], net))
        return inner, Nic("eth1", tuple(outer)), Nic(NIC, tuple(outside), tuple(a.ip for a in outer))

    def _placed(self, written: IPInterface) -> IPInterface:
        """A host's address, and its subnet: the written one, one that is there already, or one around it."""
        known = (*self._subnets, *(s for n in self._home for s in n.subnets if written.network.num_addresses == 1))
        net = next((n for n in known if written.ip in n), written.network)
        if net.num_addresses <= 2 or not self._ensure(net):
            start = 24 if net.version == 4 else 64
            around = (ip_network(f"{written.ip}/{length}", strict=False) for length in range(start, net.max_prefixlen - 1))
            free = (n for n in around if not any(_overlap(n, f) for f in (*self._foreign, *self._subnets)))
            net = next((n for n in free if self._ensure(n)), net)
            if net not in self._subnets:
                raise UsageError(
                    f"the lab finds no subnet for the host address {written}",
                    "give it a prefix length that leaves an address for the lab's router",
                )
        return _interface(written.ip, net)

    def _fill(self, hosts: list[str], version: int) -> None:
        net = self._spare(SPARE[version], len(hosts) + 2)
        self._ensure(net)
        free = (net[i] for i in count(1))
        for name in hosts:
            address = next(ip for ip in free if ip not in self._taken)
            self._addresses[name].append(_interface(address, net))
            self._taken.add(address)

    def _add_snat_addresses(self) -> None:
        """An address that packets leave with must lead back to its host: put it there, as an administrator would."""
        held = {a.ip for addresses in self._addresses.values() for a in addresses}
        for network in self._site.networks.values():
            address, hosts = network.nat.snat_to, self._site.hosts_of(network.name)
            if address and hosts and address not in held:
                net = next((n for n in self._subnets if address in n), ip_network(address))
                self._addresses[hosts[0]].append(_interface(address, net))
                held.add(address)

    def _ensure(self, net: IPNetwork) -> bool:
        """Give the router an address in `net`, from the top; False where none is free."""
        if net not in self._subnets:
            gateways = (g for network in self._home for g in lans.foreign_gateways(network) if g in net)
            address = next(gateways, None) or self._highest_free(net)
            if address is None:
                return False
            self._subnets[net] = address
            self._taken.add(address)
        return True

    def _highest_free(self, net: IPNetwork) -> IPAddress | None:
        """What nobody in the file has, nor may be given by `allocate` on a LAN."""
        top = min(net.num_addresses - 2, 0xFFFE)
        return next((net[i] for i in range(top, 0, -1) if net[i] not in self._taken and not self._is_allocated(net[i])), None)

    def _is_allocated(self, address: IPAddress) -> bool:
        external = (network for network in self._site.networks.values() if network.external)
        ranges = [r for network in external for its in network.allocate.values() for r in its]
        return any(r.first.version == address.version and int(r.first) <= int(address) <= int(r.last) for r in ranges)

    def _spare(self, candidates: tuple[str, ...], size: int) -> IPNetwork:
        nets: Iterator[IPNetwork] = (ip_network(c) for c in candidates)
        used = (*self._foreign, *self._subnets)
        for net in nets:
            if net.num_addresses > size + 1 and not any(_overlap(net, u) for u in used):
                return net
        raise UsageError(
            f"the lab needs a subnet of its own, and the file uses all of {', '.join(candidates)}",
            "give every host an address",
        )


def _addresses_in(site: Site) -> set[IPAddress]:
    """Every address that the file names in its networks."""
    networks = site.networks.values()
    return (
        {a.ip for attachment in site.attachments for a in attachment.addresses}
        | {g for n in networks for g in n.gateways}
        | {a for n in networks for addresses in n.host_addresses.values() for a in addresses}
        | {a for n in networks for addresses in n.legs.values() for a in addresses}
        | {a for n in networks for a in lans.access_addresses(n).values()}
        | {n.nat.snat_to for n in networks if n.nat.snat_to}
    )


def _overlap(one: IPNetwork, other: IPNetwork) -> bool:
    return one.version == other.version and one.overlaps(other)


def _interface(address: IPAddress, net: IPNetwork) -> IPInterface:
    return ip_interface(f"{address}/{net.prefixlen}")
