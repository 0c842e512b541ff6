"""The valid pieces of a site file, whatever the rest is like, and what follows from them.

Invariant: a piece is in the draft only if it is right by itself; what is derived (default gateways, interface names, MACs)
is derived here once, for the checks and the records alike. References may lead to pieces that are written but wrong:
`host_names` and `network_names` hold those too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ductwork import naming
from ductwork.drivers import on_host
from ductwork.resources import IPAddress, IPNetwork
from ductwork.site.model import Permission
from ductwork.site.schema import AttachmentModel, HostModel, NetworkModel, PortModel, RouterModel
from ductwork.site.values import special_address

NIC_KEYS = ("uplink", "parent", "device")
"""The options that name a NIC behind which there is a network of somebody else's."""


@dataclass(slots=True)
class Plug:
    """An attachment with what its defaults come to. `network` is None where that is unknown or wrong."""

    index: int
    model: AttachmentModel
    network: NetworkModel | None = None
    interface: str = ""
    mac: str = ""

    @property
    def path(self) -> tuple[str | int, ...]:
        return ("attachments", self.index)


@dataclass(slots=True)
class Opening:
    """A published port. `plug`: whose port it is; None where that is unknown or wrong."""

    index: int
    model: PortModel
    plug: Plug | None = None

    @property
    def path(self) -> tuple[str | int, ...]:
        return ("ports", self.index)


@dataclass(slots=True)
class Draft:
    """`machine`: this machine's name, the seed of MACs where the file has no hosts."""

    machine: str = ""
    host_names: frozenset[str] = frozenset()
    network_names: frozenset[str] = frozenset()
    hosts: dict[str, HostModel] = field(default_factory=dict)
    networks: dict[str, NetworkModel] = field(default_factory=dict)
    plugs: list[Plug] = field(default_factory=list)
    labels: dict[str, Permission] = field(default_factory=dict)
    """As `Site.labels`."""
    label_paths: dict[str, tuple[str | int, ...]] = field(default_factory=dict)
    """Where each of them is written."""
    label_ranges_at: dict[str, tuple[str | int, ...]] = field(default_factory=dict)
    """The same of its ranges of addresses."""
    routers: dict[int, RouterModel] = field(default_factory=dict)
    ports: list[Opening] = field(default_factory=list)
    plugs_of: dict[str, list[Plug]] = field(default_factory=dict)
    """Network → its attachments, in file order."""
    hosts_of: dict[str, list[str]] = field(default_factory=dict)
    """Network → the hosts on which it exists; [""] in a file without hosts."""

    def derive(self) -> None:
        """Fill in what follows from the pieces."""
        self._name_interfaces()
        self.plugs_of = {name: [] for name in self.networks}
        self._stand_legs()
        used: dict[str, set[str]] = {name: {*model.hosts, *model.legs} for name, model in self.networks.items()}
        for plug in self.plugs:
            model = plug.model
            plug.network = self.networks.get(model.network)
            plug.mac = self._mac(plug)
            if plug.network is not None:
                self.plugs_of[model.network].append(plug)
                used[model.network].add(model.host)
        self._find_targets()
        every = [name for name in self.hosts if name] or ([] if self.host_names else [""])
        anywhere = {name for name, model in self.networks.items() if name in self.labels and not model.hosts}
        self.hosts_of = {name: [host for host in every if host in used[name] or name in anywhere] for name in self.networks}

    def networks_by_host(self) -> Iterator[tuple[str, list[str]]]:
        """(host, names of the networks that exist there)."""
        found: dict[str, list[str]] = defaultdict(list)
        for name, hosts in self.hosts_of.items():
            for host in hosts:
                found[host].append(name)
        yield from found.items()

    def _stand_legs(self) -> None:
        for router in self.routers.values():
            for name, addresses in router.legs.items():
                if name in self.networks:
                    legs = self.networks[name].legs
                    legs[router.host] = (*legs.get(router.host, ()), *addresses)

    def _find_targets(self) -> None:
        """The attachment that a port means: the first of the container's in the network named, or its only one."""
        plugs: dict[tuple[str, str], list[Plug]] = defaultdict(list)
        for plug in self.plugs:
            plugs[plug.model.host, plug.model.container].append(plug)
        for port in self.ports:
            its = plugs.get((port.model.host, port.model.to.container), [])
            meant = [plug for plug in its if port.model.network in ("", plug.model.network)]
            port.plug = meant[0] if (port.model.network and meant) or len(meant) == 1 else None

    def _name_interfaces(self) -> None:
        """eth1, eth2, … in file order by host and container, past the names that are written."""
        taken: dict[tuple[str, str], set[str]] = defaultdict(set)
        for plug in self.plugs:
            taken[plug.model.host, plug.model.container].add(plug.model.interface)
        following: dict[tuple[str, str], int] = defaultdict(int)
        for plug in self.plugs:
            where = (plug.model.host, plug.model.container)
            plug.interface = plug.model.interface
            while not plug.interface:
                following[where] += 1
                name = f"eth{following[where]}"
                plug.interface = "" if name in taken[where] else name

    def _mac(self, plug: Plug) -> str:
        model = plug.model
        if model.mac.startswith("seed:"):
            return naming.mac_address("seed", model.mac.removeprefix("seed:"))
        return model.mac or naming.mac_address(model.host or self.machine, model.container, plug.interface)


def subnets(network: NetworkModel) -> tuple[IPNetwork, ...]:
    return network.subnet + network.subnets


def subnet_of(network: NetworkModel, address: IPAddress) -> IPNetwork | None:
    return next((subnet for subnet in subnets(network) if address in subnet), None)


def gateways(network: NetworkModel) -> tuple[IPAddress, ...]:
    """As written; in subnets that have none, a router's leg; where nothing is written and the host holds the gateway, the
    subnet's first address."""
    if network.internal:
        return ()
    written = network.gateway + network.gateways
    found = list(written)
    for subnet in subnets(network):
        leg = next((address for address in all_legs(network) if address in subnet), None)
        if leg is not None and not any(gateway in subnet for gateway in written):
            found.append(leg)
        elif leg is None and not written and not is_external(network):
            found.append(first_address(subnet))
    return tuple(found)


def all_legs(network: NetworkModel) -> tuple[IPAddress, ...]:
    """The addresses of routers in the network, on whatever hosts."""
    return tuple(address for addresses in network.legs.values() for address in addresses)


def is_external(network: NetworkModel) -> bool:
    """Whether it is somebody else's LAN, reached through a NIC."""
    return any(getattr(network, key, None) for key in NIC_KEYS)


def holds(network: NetworkModel, host: str) -> bool:
    """Whether the host has an address of its own in the network, and so a way to its subnets."""
    if network.legs.get(host):
        return True
    if not is_external(network) and set(gateways(network)) - set(all_legs(network)):
        return True
    return bool(on_host(network.host_addresses, host) or on_host(getattr(network, "host_access", {}), host))


def vlan_device(device: str, network: NetworkModel) -> str:
    """`device`, or the one that stands for the network's VLAN on it."""
    vlan = getattr(network, "vlan", None)
    return f"{device}.{vlan}" if vlan else device


def own_device(name: str, network: NetworkModel) -> str:
    """Where a network with a bridge has the host's own addresses."""
    return vlan_device(bridge_name(name, network), network)


def parent_device(network: NetworkModel, host: str) -> str:
    """What the interfaces of a network with `parent` hang on: the NIC, or the VLAN on it; "" for other networks."""
    nic = on_host(getattr(network, "parent", {}), host)
    return vlan_device(nic, network) if nic else ""


def per_host(network: NetworkModel, key: str) -> Iterator[tuple[tuple[str, ...], str, Any]]:
    """(path, host, value) of an option with one value, or one by host."""
    for host, value in (getattr(network, key, None) or {}).items():
        yield (key, host) if host else (key,), host, value


def has_bridge(network: NetworkModel) -> bool:
    """Its containers are ports of a bridge, Linux's or Open vSwitch's."""
    return not (hasattr(network, "parent") or hasattr(network, "device"))


def first_address(subnet: IPNetwork) -> IPAddress:
    """The first that a machine can have."""
    return subnet[1] if special_address(subnet, subnet[0]) else subnet[0]


def bridge_name(name: str, network: NetworkModel) -> str:
    return getattr(network, "bridge", None) or naming.bridge_ifname(name)
