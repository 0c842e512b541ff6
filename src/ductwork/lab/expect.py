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
- a network whose `snat` is an address of the other family.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ductwork.lab.topology import ContainerNode, Topology
from ductwork.resources import IPAddress, IPInterface
from ductwork.site.model import Attachment, Network


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A machine of the lab. `host`: the host it is, or is on; None: outside."""

    label: str
    netns: str
    host: str | None
    container: ContainerNode | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """A new connection `source` → `address` of `target` must succeed, or must not; `rule` says why."""

    source: Endpoint
    target: Endpoint
    address: IPAddress
    expected: bool
    rule: str


class Verdict(NamedTuple):
    expected: bool
    rule: str


class _Target(NamedTuple):
    """An address and its machine; `network`: which one it lies in, None: on the underlay."""

    endpoint: Endpoint
    address: IPAddress
    network: Network | None


class _Way(NamedTuple):
    """How a container sends to an address: `link`, by a network's `gateway`, `nowhere`, or in a way not judged."""

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
        outside = Endpoint("outside", lab.outside.netns, None)
        self.endpoints = (*containers, *hosts, outside)
        self._plugs: dict[str, list[tuple[Attachment, tuple[IPInterface, ...]]]] = {c.label: [] for c in containers}
        for attachment in self._site.attachments:
            node = lab.container(attachment.host, attachment.container)
            found = addresses.get((attachment.host, *attachment.id), ())
            self._plugs[node.label].append((attachment, found))
        self.targets = [
            *(target for c in containers for target in self._container_targets(c)),
            *(target for h in hosts for target in self._host_targets(h)),
            *(_Target(outside, a.ip, None) for a in lab.outside.nic.addresses),
        ]
        self._holders = Counter(t.address for t in self.targets)

    def has_family(self, endpoint: Endpoint, version: int) -> bool:
        if endpoint.container is None:
            return True
        return any(a.version == version for _, found in self._plugs[endpoint.label] for a in found)

    def verdict(self, source: Endpoint, target: _Target) -> Verdict | None:
        """What 1.7 says of a pair; None where it says nothing."""
        if self._holders[target.address] > 1 and not self._is_own_gateway(source, target):
            return None
        if source.container:
            return self._from_container(source, target)
        if target.network is None:
            return Verdict(True, "hosts reach each other and the outside on the underlay")
        if target.endpoint.container:
            return self._from_machine(source, target, target.network)
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
        if way.kind == "link":
            return self._on_link(way.network, target)
        if target.network is None:
            return self._to_underlay(source, way.network, target)
        if not target.endpoint.container:
            return None
        if source.host in self._on[target.network.name]:
            return Verdict(False, "networks of one host do not reach each other without a router")
        entering = self._enters(source, target, target.network)
        return entering if entering is None or not entering.expected else self._leaving(way.network, target)

    def _on_link(self, network: Network, target: _Target) -> Verdict | None:
        if target.network is None:
            return None
        if target.network.name != network.name:
            return Verdict(False, "networks do not reach each other, even where their subnets are the same")
        if target.endpoint.container:
            return Verdict(True, "containers of one network reach each other, on whatever hosts")
        return Verdict(True, "containers reach a host that has an address in their network")

    def _to_underlay(self, source: Endpoint, network: Network, target: _Target) -> Verdict | None:
        if target.endpoint.host is not None and target.endpoint.host == source.host:
            return Verdict(True, "containers reach their own host where it has an address in the network")
        return self._leaving(network, target)

    def _leaving(self, network: Network, target: _Target) -> Verdict | None:
        """New connections from `network` to another host, what is behind that, or outside."""
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
            held = next((g for g in network.gateways if g.version == version), None)
            if all(a.version != version for a in found):
                continue
            if isinstance(attachment.gateway, bool) or attachment.gateway is None:
                if held and attachment.gateway is not False:
                    (default if attachment.gateway is None else asked).append(_Way("gateway", network))
            elif attachment.gateway.version == version:
                asked.append(self._by(network, attachment.gateway))
        if len(asked) > 1:
            return _UNKNOWN
        return (*asked, *default, _NOWHERE)[0]

    def _by(self, network: Network, via: IPAddress | None) -> _Way:
        return _Way("gateway", network) if via in network.gateways else _UNKNOWN

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
                    for address in dict.fromkeys(self._addresses(network, host.name, version)):
                        yield _Target(endpoint, address, network)

    def _addresses(self, network: Network, host: str, version: int) -> list[IPAddress]:
        """All that a host holds in a network: its own, and the gateway's."""
        gateways = [] if network.internal else [g for g in network.gateways if g.version == version]
        return self._own_addresses(network, host, version) + gateways

    def _own_addresses(self, network: Network, host: str, version: int) -> list[IPAddress]:
        return [a for a in network.host_addresses.get(host, ()) if a.version == version]

    def _is_own_gateway(self, source: Endpoint, target: _Target) -> bool:
        return (
            source.container is not None
            and target.endpoint.container is None
            and target.endpoint.host == source.host
            and target.network is not None
            and self._way(source, target.address) == _Way("link", target.network)
        )
