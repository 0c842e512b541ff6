"""Who must reach whom in a lab: contract 1.7, and nothing else.

Invariant: pure, and independent of what carries it out: it reads the site file's words, never resources, rules or drivers, so
that a driver's mistake cannot excuse itself.

Judged is every ordered pair (from a machine, to an address of another one), each family by itself, but for these:
- from a container without an address of the family: it has nothing to send from;
- an address that several machines hold: a packet cannot say which is meant (a container and its own host's gateway
  address are judged: no other is nearer);
- from other networks, other hosts or outside to a host's address *in a network*: 1.7 speaks of containers, and whether a
  machine answers at all its addresses is for its own firewall to say;
- ways through a third machine (a `routes` entry or `gateway` that is not the network's own), and containers that are given
  several default routes: 1.7 does not know what that machine does;
- replies that come back another way than the question went (the container's default route is another network's; a network
  without NAT that spreads over both hosts): whether stateful filters let them pass is not promised;
- a network whose `snat` is an address of the other family;
- two networks of the file on one LAN: they are the same wire, whatever the file calls them;
- by a router of the file: what comes back another way; what goes beyond the networks that it has legs in;
- ways by a LAN's gateway that the lab has none of (a kernel without 802.1q), and out of a network of the hosts' own by a LAN in
  which the host has another network's containers beside it.

An external network (1.7 knows it as any other) lies on a LAN, whose gateway is the lab's router. That lets the LAN's machines
out to `outside` and that in to them, and routes nowhere else. A host is in the network where it has an address in the subnet,
on that LAN; with a `parent`, its own containers hear it by `host_access` alone. In the modes l3 and l3s of ipvlan there is no
LAN: the host routes, and the router's ways to the containers lead by it. They are judged where the parent is the NIC that the
router knows the host by, and not from hosts, whose packets come back another way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

from ductwork.drivers import on_host
from ductwork.lab.lans import access_addresses, foreign_gateways, has_layer_2, nic_of
from ductwork.lab.topology import ContainerNode, LanNode, Topology
from ductwork.resources import IPAddress, IPInterface
from ductwork.site.model import Attachment, Network, Router


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A machine of the lab. `host`: the host it is, or is on; None: outside, or (with `lan`) on the LAN of a network."""

    label: str
    netns: str
    host: str | None
    container: ContainerNode | None = None
    lan: LanNode | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """A new connection `source` → `address` of `target` must succeed, or must not; `rule` says why. `port`: to a published port
    or another one, `8088/tcp`; "": an echo."""

    source: Endpoint
    target: Endpoint
    address: IPAddress
    expected: bool
    rule: str
    port: str = ""


class Verdict(NamedTuple):
    expected: bool
    rule: str


class _Target(NamedTuple):
    """An address and its machine; `network`: which one it lies in, None: on the underlay."""

    endpoint: Endpoint
    address: IPAddress
    network: Network | None


class _Way(NamedTuple):
    """How a container sends to an address: `link`, by a network's `gateway`, routed by its `host` (ipvlan without layer 2),
    `nowhere`, or in a way not judged."""

    kind: str
    network: Network | None = None


_NOWHERE, _UNKNOWN = _Way("nowhere"), _Way("unknown")


def expectations(lab: Topology, addresses: Mapping[tuple[str, str, str], tuple[IPInterface, ...]]) -> list[Pair]:
    """All judged pairs. `addresses`: (host, container as written, interface) → written or allocated addresses."""
    rules = _Rules(lab, addresses)
    pairs = []
    for source in rules.endpoints:
        for target in rules.targets:
            if source != target.endpoint and rules.has_family(source, target.address.version):
                verdict = rules.verdict(source, target)
                if verdict:
                    pairs.append(Pair(source, target.endpoint, target.address, *verdict))
    return pairs


class _Rules:
    def __init__(self, lab: Topology, addresses: Mapping[tuple[str, str, str], tuple[IPInterface, ...]]) -> None:
        self._lab = lab
        self._site = lab.site
        self._on = {name: set(self._site.hosts_of(name)) for name in self._site.networks}
        hosts = [Endpoint(h.label, h.netns, h.name) for h in lab.hosts.values()]
        containers = [Endpoint(c.label, c.netns, c.host, c) for c in lab.containers]
        machines = [Endpoint(m.label, m.netns, None, lan=m) for m in lab.lans]
        outside = Endpoint("outside", lab.outside.netns, None)
        self.endpoints = (*containers, *hosts, *machines, outside)
        self._plugs: dict[str, list[tuple[Attachment, tuple[IPInterface, ...]]]] = {c.label: [] for c in containers}
        for attachment in self._site.attachments:
            node = lab.container(attachment.host, attachment.container)
            found = addresses.get((attachment.host, *attachment.id), ())
            self._plugs[node.label].append((attachment, found))
        self.targets = [
            *(target for c in containers for target in self._container_targets(c)),
            *(target for h in hosts for target in self._host_targets(h)),
            *(_Target(m, a.ip, self._site.networks[m.lan.network]) for m in machines if m.lan for a in m.lan.leg.nic.addresses),
            *(_Target(outside, a.ip, None) for a in lab.outside.nic.addresses),
        ]
        self._holders = Counter(t.address for t in self.targets)

    def has_family(self, endpoint: Endpoint, version: int) -> bool:
        if endpoint.lan:
            return any(a.version == version for a in endpoint.lan.leg.nic.addresses)
        if endpoint.container is None:
            return True
        return any(a.version == version for _, found in self._plugs[endpoint.label] for a in found)

    def verdict(self, source: Endpoint, target: _Target) -> Verdict | None:
        """What 1.7 says of a pair; None where it says nothing."""
        if self._holders[target.address] > 1 and not self._is_own_gateway(source, target):
            return None
        if source.container:
            return self._from_container(source, target)
        if source.lan:
            return self._from_lan(source.lan, target)
        if target.endpoint.lan:
            return self._host_to_lan(source, target)
        if target.network is None:
            return Verdict(True, "hosts reach each other and the outside on the underlay")
        if target.endpoint.container:
            if target.network.external:
                return self._into_lan(source, target, target.network)
            return self._from_machine(source, target, target.network)
        if target.network.external:
            return None
        both = source.host is not None and all(
            self._own_addresses(target.network, str(host), target.address.version)
            for host in (source.host, target.endpoint.host)
        )
        return Verdict(True, "hosts with addresses of their own in a network reach each other there") if both else None

    # From a container.

    def _from_container(self, source: Endpoint, target: _Target) -> Verdict | None:
        way = self._way(source, target.address)
        if way is _NOWHERE:
            return Verdict(False, "the container has no gateway in this family: no way out of its networks")
        if way.network is None:
            return None
        if way.kind == "link" and way.network.external:
            return self._on_lan(source, way.network, target)
        if way.kind == "link":
            return self._on_link(source, way.network, target)
        router = self._router(source, way.network, target)
        if router:
            return self._by_router(router, way.network, target, self._plugged(source, way.network, target.address.version))
        if way.network.external:
            return self._out_of_lan(source, way, target)
        if target.network and target.network.external:
            return self._by_its_host(source, way.network, target, target.network)
        if target.network is None:
            return self._to_underlay(source, way.network, target)
        if not target.endpoint.container:
            return None
        if source.host in self._on[target.network.name]:
            return Verdict(False, "networks of one host do not reach each other without a router")
        entering = self._enters(source, target, target.network)
        return entering if entering is None or not entering.expected else self._leaving(way.network, target)

    def _on_link(self, source: Endpoint, network: Network, target: _Target) -> Verdict | None:
        if target.network is None:
            return None
        if target.network.name != network.name:
            return Verdict(False, "networks do not reach each other, even where their subnets are the same")
        is_leg = any(target.address in legs for legs in network.legs.values())
        if network.isolated and not is_leg and (target.endpoint.container or target.endpoint.host != source.host):
            return Verdict(False, "isolated: containers reach the gateway alone")
        if target.endpoint.container:
            return Verdict(True, "containers of one network reach each other, on whatever hosts")
        return Verdict(True, "containers reach a host that has an address in their network")

    def _to_underlay(self, source: Endpoint, network: Network, target: _Target) -> Verdict | None:
        own = target.endpoint.host is not None and target.endpoint.host == source.host
        if own and self._addresses(network, str(source.host), target.address.version):
            return Verdict(True, "containers reach their own host where it has an address in the network")
        return self._leaving(network, target)

    def _leaving(self, network: Network, target: _Target) -> Verdict | None:
        """New connections from `network` to another host, what is behind that, or outside."""
        host = target.endpoint.host
        for router, lan in self._legs_beside(network, host, target.address.version) if target.network is None else ():
            if (network.name, lan) not in router.allow:
                return Verdict(False, f"router {router.name} lets nobody in network {lan} be called from {network.name}")
            if network.nat.mode != "none":
                return None
        if network.nat.mode == "none":
            if target.endpoint.host in self._on[network.name]:
                return None
            return Verdict(True, "nat: none: both ways, for whoever has a route (the lab's router has)")
        if network.nat.snat_to and network.nat.snat_to.version != target.address.version:
            return None
        return Verdict(True, f"nat: {network.nat.mode}: new connections from inside go out")

    def _way(self, source: Endpoint, to: IPAddress) -> _Way:
        """The longest prefix wins, as in any routing table."""
        ways: list[tuple[int, _Way]] = [(-1, self._default(source, to.version))]
        for attachment, found in self._plugs[source.label]:
            network = self._site.networks[attachment.network]
            ways += [(a.network.prefixlen, _Way("link", network)) for a in found if to in a.network]
            for route in attachment.routes:
                if to in route.to:
                    ways.append((route.to.prefixlen, self._by(network, route.via)))
        return max(ways, key=lambda way: way[0])[1]

    def _default(self, source: Endpoint, version: int) -> _Way:
        """An attachment's `gateway` where it is asked for, else the first network that has one (contract 1.3)."""
        asked: list[_Way] = []
        default: list[_Way] = []
        for attachment, found in self._plugs[source.label]:
            network = self._site.networks[attachment.network]
            routed = network.external and not has_layer_2(network)
            held = routed or any(g.version == version for g in network.gateways)
            if all(a.version != version for a in found):
                continue
            if isinstance(attachment.gateway, bool) or attachment.gateway is None:
                if held and attachment.gateway is not False:
                    way = _Way("host" if routed else "gateway", network)
                    (default if attachment.gateway is None else asked).append(way)
            elif attachment.gateway.version == version:
                asked.append(self._by(network, attachment.gateway))
        if len(asked) > 1:
            return _UNKNOWN
        return (*asked, *default, _NOWHERE)[0]

    def _by(self, network: Network, via: IPAddress | None) -> _Way:
        return _Way("gateway", network) if via in network.gateways else _UNKNOWN

    # By a router of the file.

    def _router(self, source: Endpoint, network: Network, target: _Target) -> Router | None:
        """The one that a machine of `network` sends to `target` by: its gateway there, or what its own host is."""
        if target.network is None or target.endpoint == source or not (target.endpoint.container or target.endpoint.lan):
            return None
        version = target.address.version
        ends = (network.name, target.network.name)
        found = (r for r in self._site.routers if all(self._leg(r, name, version) for name in ends))
        return next((r for r in found if self._serves(r, network, version, source.host)), None)

    def _serves(self, router: Router, network: Network, version: int, host: str | None) -> bool:
        gateways = [gateway for gateway in network.gateways if gateway.version == version]
        if self._leg(router, network.name, version) in gateways:
            return True
        return router.host == host and any(gateway in network.gateways_held(router.host) for gateway in gateways)

    def _by_router(self, router: Router, network: Network, target: _Target, source: IPAddress | None) -> Verdict | None:
        assert target.network is not None
        if (network.name, target.network.name) not in router.allow:
            return Verdict(
                False, f"router {router.name} lets nobody in network {target.network.name} be called from {network.name}"
            )
        version = target.address.version
        comes_back = router.masquerade or self._serves(router, target.network, version, target.endpoint.host)
        if target.endpoint.container and not router.masquerade:
            back = None if source is None else self._way(target.endpoint, source)
            comes_back = comes_back and back == _Way("gateway", target.network)
        return (
            Verdict(True, f"router {router.name} lets {target.network.name} be called from {network.name}")
            if comes_back
            else None
        )

    def _legs_beside(self, network: Network, host: str | None, version: int) -> Iterator[tuple[Router, str]]:
        """The routers between `network` and a LAN that the host has an address on, and that LAN's network."""
        for router in self._site.routers if host is not None else ():
            for name in router.legs if network.name in router.legs else ():
                leg = self._leg(router, name, version)
                if name != network.name and leg and self._is_in(str(host), self._site.networks[name], leg):
                    yield router, name

    def _doors(self, network: Network, host: str, version: int) -> Iterator[tuple[Router, str]]:
        """The routers on a host that have a leg on the bridge of its own NIC, by which others come from afar; its network."""
        for router in self._site.routers:
            if router.host == host and self._leg(router, network.name, version):
                options = {name: self._site.networks[name].options for name in router.legs if name != network.name}
                for name, its in options.items():
                    if on_host(getattr(its, "uplink", {}), host) == self._main(host) and not getattr(its, "vlan", None):
                        yield router, name

    def _leg(self, router: Router, network: str, version: int) -> IPAddress | None:
        return next((leg for leg in router.legs.get(network, ()) if leg.version == version), None)

    def _plugged(self, endpoint: Endpoint, network: Network, version: int) -> IPAddress | None:
        """The address by which a container is known in a network."""
        plugs = ((a, found) for a, found in self._plugs[endpoint.label] if a.network == network.name)
        return next((each.ip for _, found in plugs for each in found if each.version == version), None)

    # Networks on somebody else's LAN.

    def _on_lan(self, source: Endpoint, network: Network, target: _Target) -> Verdict | None:
        """From a container, straight to what is in its subnet."""
        same_host = source.host == target.endpoint.host
        if target.network and target.network.name != network.name:
            if self._lab.segments.get(network.name) == self._lab.segments.get(target.network.name):
                return None
            return Verdict(False, "networks do not reach each other, even where their subnets are the same")
        if target.endpoint.lan:
            return None if network.isolated else Verdict(True, "containers are machines of their LAN")
        if target.endpoint.container:
            return self._in_one_lan(network, same_host=same_host)
        if target.network and target.address in network.legs.get(target.endpoint.host or "", ()):
            return Verdict(True, "containers reach the leg that a router has in their network")
        if target.network is None or target.address not in access_addresses(network).values():
            return self._to_host_on_lan(network, target, same_host=same_host)
        return Verdict(True, "host_access: the host and its containers reach each other") if same_host else None

    def _to_host_on_lan(self, network: Network, target: _Target, *, same_host: bool) -> Verdict | None:
        host = target.endpoint.host
        assert host is not None, "what is outside is in nobody's subnet"
        if not self._is_in(host, network, target.address):
            return Verdict(False, "the host has no address on this LAN")
        if same_host and hasattr(network.options, "parent"):
            if nic_of(network, host) != self._lab.hosts[host].main:
                return None
            return Verdict(False, f"{network.driver}: a parent and what is on it do not hear each other")
        if not has_layer_2(network):
            return None
        return Verdict(True, "containers reach a host that has an address in their network")

    def _in_one_lan(self, network: Network, *, same_host: bool) -> Verdict:
        mode = getattr(network.options, "mode", "")
        if network.isolated:
            return Verdict(False, "isolated: containers reach the gateway alone")
        if same_host and mode in ("private", "vepa"):
            return Verdict(False, f"mode {mode}: not each other on one host, unless the switch sends frames back")
        return Verdict(True, "containers of one network reach each other, on whatever hosts")

    def _out_of_lan(self, source: Endpoint, way: _Way, target: _Target) -> Verdict | None:
        """From a container, by the LAN's gateway, or routed by its host."""
        network = way.network
        assert network is not None
        if target.network is None and target.endpoint.host is None:
            if way.kind == "gateway" and not self._lab.is_gateway(network.name, target.address.version):
                return None
            if way.kind == "host" and not self._is_routed_by_parent(str(source.host), network):
                return None
            return Verdict(True, "the LAN's gateway lets out" if way.kind == "gateway" else "the host lets out")
        if way.kind == "host" or (target.network and not target.endpoint.container and not target.endpoint.lan):
            return None
        if target.network is None and not self._is_foreign_gateway(network, target.address.version):
            return None
        if target.network:
            return Verdict(False, "networks do not reach each other without a router")
        return Verdict(False, "containers reach a host where it has an address in the network")

    def _by_its_host(self, source: Endpoint, network: Network, target: _Target, lan: Network) -> Verdict | None:
        """From a container of a network of its host's own to a LAN's."""
        host = str(source.host)
        if host in self._on[lan.name] and target.endpoint.container and target.endpoint.host == host:
            return None
        if network.nat.mode != "masquerade" or not has_layer_2(lan):
            return None
        if not (target.endpoint.container or target.endpoint.lan):
            return None
        if self._is_in(host, lan, target.address):
            return None if lan.isolated else Verdict(True, "nat: masquerade: as its host, which is on that LAN")
        return Verdict(False, "networks do not reach each other without a router")

    def _into_lan(self, source: Endpoint, target: _Target, network: Network) -> Verdict | None:
        """From a host, or from outside, to a container."""
        version = target.address.version
        if source.host is None:
            return self._from_outside(source, target, network)
        same_host = source.host == target.endpoint.host
        access = access_addresses(network)
        if same_host and hasattr(network.options, "parent"):
            address = access.get(source.host, access.get(""))
            if any(leg.version == version for leg in network.legs.get(source.host, ())):
                return Verdict(True, "a router reaches the networks that it has a leg in")
            if address is not None and address.version == version:
                return Verdict(True, "host_access: the host and its containers reach each other")
            if not has_layer_2(network):
                return None
            if self._is_in(source.host, network, target.address) and nic_of(network, source.host) != self._main(source.host):
                return None
            return Verdict(False, f"{network.driver}: a parent and what is on it do not hear each other")
        if not has_layer_2(network):
            return None
        if self._is_in(source.host, network, target.address):
            return Verdict(True, "a host reaches the containers of a LAN that it has an address on")
        back = self._way(target.endpoint, self._underlay(source, version))
        known = (_NOWHERE, _Way("gateway", network), _Way("link", network))
        if self._lab.is_gateway(network.name, version) and back not in known:
            return None
        return Verdict(False, "the host has no address in the network")

    def _from_outside(self, source: Endpoint, target: _Target, network: Network) -> Verdict | None:
        version = target.address.version
        back = self._way(target.endpoint, self._underlay(source, version))
        if back == _Way("host", network):
            if not self._is_routed_by_parent(str(target.endpoint.host), network):
                return None
            return Verdict(True, "the lab's router has a route by the host")
        if back is _NOWHERE or not any(g.version == version for g in network.gateways):
            return Verdict(False, "the container has no gateway in this family: it cannot answer")
        if back != _Way("gateway", network) or not self._lab.is_gateway(network.name, version):
            return None
        return Verdict(True, "the LAN's gateway lets in")

    def _from_lan(self, machine: LanNode, target: _Target) -> Verdict | None:
        """From another machine of the LAN that a network lies on."""
        network = self._site.networks[machine.network]
        if target.network and target.network.name == network.name and target.endpoint.container:
            return None if network.isolated else Verdict(True, "containers are machines of their LAN")
        if target.endpoint.host is not None and not target.endpoint.container:
            if target.network not in (None, network) or target.address in access_addresses(network).values():
                return None
            here = self._is_in(target.endpoint.host, network, target.address)
            return Verdict(True, "a host with an address on a LAN is reached there") if here else None
        if not target.endpoint.container or target.network is None:
            return None
        if self._lab.segments.get(target.network.name) == self._lab.segments[network.name]:
            return None
        router = self._router(Endpoint(machine.label, machine.netns, None, lan=machine), network, target)
        if router:
            own = next(a.ip for a in machine.leg.nic.addresses if a.version == target.address.version)
            return self._by_router(router, network, target, own)
        return Verdict(False, "networks do not reach each other without a router")

    def _host_to_lan(self, source: Endpoint, target: _Target) -> Verdict | None:
        if source.host is None or target.network is None or not self._is_in(source.host, target.network, target.address):
            return None
        return Verdict(True, "a host with an address on a LAN reaches its machines")

    def _is_in(self, host: str, network: Network, address: IPAddress) -> bool:
        """Whether a host has an address of its own on the LAN of a network, in the subnet that has `address`."""
        subnet = network.subnet_of(address)
        if subnet is None or network.name not in self._lab.segments:
            return False
        if any(own in subnet for own in (*network.host_addresses.get(host, ()), *network.legs.get(host, ()))):
            return True
        segment, node = self._lab.segments[network.name], self._lab.hosts[host]
        on_it = segment.vlan == 0 and self._lab.switch_of[node.main] == segment.switch
        return on_it and any(a.ip in subnet and address in a.network for a in node.nics[node.main].addresses)

    def _is_foreign_gateway(self, network: Network, version: int) -> bool:
        return any(gateway.version == version for gateway in foreign_gateways(network))

    def _is_routed_by_parent(self, host: str, network: Network) -> bool:
        """Whether what the router sends to a host comes by the NIC where ipvlan takes it."""
        return nic_of(network, host) == self._main(host) and not getattr(network.options, "vlan", None)

    def _main(self, host: str) -> str:
        return self._lab.hosts[host].main

    # To a container.

    def _from_machine(self, source: Endpoint, target: _Target, network: Network) -> Verdict | None:
        """From a host, or from outside."""
        version = target.address.version
        if source.host is None:
            return self._enters(source, target, network)
        if source.host == target.endpoint.host:
            if self._addresses(network, source.host, version):
                return Verdict(True, "containers and their own host reach each other where it has an address")
            return Verdict(False, "the host has no address in the network")
        if source.host in self._on[network.name]:
            if network.isolated and source.host not in network.legs:
                return Verdict(False, "isolated: containers are reached by their own host alone")
            if self._own_addresses(network, source.host, version):
                return Verdict(True, "the host has an address of its own in the network: it reaches all of it")
            return Verdict(False, "to reach containers of other hosts, a host needs one of the `host_addresses`")
        local = (n for n in self._site.networks.values() if source.host in self._on[n.name])
        if any(n.subnet_of(target.address) for n in local):
            return Verdict(False, "networks do not reach each other, even where their subnets are the same")
        return self._enters(source, target, network)

    def _enters(self, source: Endpoint, target: _Target, network: Network) -> Verdict | None:
        """New connections to a container of `network` from another host, what is behind that, or outside."""
        if network.internal:
            return Verdict(False, "internal: no gateway, no way in or out")
        if network.nat.mode != "none":
            return Verdict(False, f"nat: {network.nat.mode}: new connections from inside only")
        version = target.address.version
        ways = self._legs_beside(network, source.host, version), self._doors(network, str(target.endpoint.host), version)
        for router, lan in chain(*ways):
            if (lan, network.name) not in router.allow:
                return Verdict(False, f"router {router.name} lets nobody in network {network.name} be called from {lan}")
        back = self._way(target.endpoint, self._underlay(source, version))
        if back is _NOWHERE or not any(g.version == version for g in network.gateways):
            return Verdict(False, "the container has no gateway in this family: it cannot answer")
        if back != _Way("gateway", network):
            return None
        return Verdict(True, "nat: none: both ways, for whoever has a route (the lab's router has)")

    # Who is where.

    def _underlay(self, source: Endpoint, version: int) -> IPAddress:
        """The address on the underlay (or outside) of a machine, or of a container's host."""
        found = (
            self._lab.outside.nic.address(version) if source.host is None else self._lab.hosts[source.host].underlay(version)
        )
        assert found is not None, "the lab has every family of the file on every machine"
        return found

    def _container_targets(self, endpoint: Endpoint) -> Iterator[_Target]:
        for attachment, found in self._plugs[endpoint.label]:
            for address in found:
                yield _Target(endpoint, address.ip, self._site.networks[attachment.network])

    def _host_targets(self, endpoint: Endpoint) -> Iterator[_Target]:
        host = self._lab.hosts[endpoint.host or ""]
        for nic in host.nics.values():
            yield from (_Target(endpoint, address.ip, None) for address in nic.addresses)
        for network in self._site.networks.values():
            if host.name in self._on[network.name]:
                for version in (4, 6):
                    present = {a.ip for nic in host.nics.values() for a in nic.addresses}
                    for address in dict.fromkeys(self._addresses(network, host.name, version)):
                        if address in present:
                            continue
                        yield _Target(endpoint, address, network)

    def _addresses(self, network: Network, host: str, version: int) -> list[IPAddress]:
        """All that a host holds in a network: its own, and the gateway's."""
        held = [] if network.internal else network.gateways_held(host)
        return self._own_addresses(network, host, version) + [g for g in held if g.version == version]

    def _own_addresses(self, network: Network, host: str, version: int) -> list[IPAddress]:
        access = access_addresses(network)
        beside = access.get(host, access.get(""))
        own = [*network.host_addresses.get(host, ()), *network.legs.get(host, ()), *([] if beside is None else [beside])]
        return [a for a in own if a.version == version]

    def _is_own_gateway(self, source: Endpoint, target: _Target) -> bool:
        return (
            source.container is not None
            and target.endpoint.container is None
            and target.endpoint.host == source.host
            and target.network is not None
            and self._way(source, target.address) == _Way("link", target.network)
        )
