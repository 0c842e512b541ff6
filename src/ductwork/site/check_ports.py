"""What can be wrong between a published port and everything else. See `checks.py`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address

from ductwork.drivers import on_host
from ductwork.errors import Problem
from ductwork.resources import IPAddress
from ductwork.site.check_networks import host_problem
from ductwork.site.draft import Draft, Opening, Plug, all_legs, gateways, is_external, subnets
from ductwork.site.schema import NetworkModel
from ductwork.site.values import LOOPBACK6, Refused, closest, describe, listing, refuse_unrelayed

_ANY: tuple[IPAddress, ...] = (IPv4Address(0), IPv6Address(0))


def known_target(draft: Draft) -> Iterator[Problem]:
    """A container of the file, attached on the host that listens."""
    on: dict[str, list[Plug]] = defaultdict(list)
    for plug in draft.plugs:
        on[plug.model.host].append(plug)
    for port in draft.ports:
        host, name = port.model.host, port.model.to.container
        if problem := host_problem(draft, port.path, host):
            yield problem
        elif port.plug is None:
            its = [plug.model.network for plug in on[host] if plug.model.container == name]
            if not its:
                names = sorted({plug.model.container for plug in on[host]})
                where = f" on host `{host}`" if host else ""
                hint = f"{closest(name, names)}attached{where or ' here'}: {listing(names)}"
                yield Problem((*port.path, "to"), f"{describe(name)} is not attached{where}", hint)
            elif port.model.network:
                hint = f"its networks: {listing(its)}"
                yield Problem(
                    (*port.path, "network"), f"{describe(name)} is not in network {describe(port.model.network)}", hint
                )
            else:
                hint = f"add `network:`, one of {listing(its)}"
                yield Problem(port.path, f"{describe(name)} is in several networks", hint)


def ranges_match(draft: Draft) -> Iterator[Problem]:
    for port in draft.ports:
        (_, first, last), (_, to, to_last) = port.model.listen, port.model.to
        if to_last != to and to_last - to != last - first:
            message = f"{last - first + 1} ports listen, and `to` has {to_last - to + 1}"
            yield Problem((*port.path, "to"), message, "write a range as long as `listen`, or one port for all of it")


def port_once(draft: Draft) -> Iterator[Problem]:
    """On one host, one protocol and one address (or all of them). A port on one address comes before one on all."""
    entries: dict[tuple[str, str, IPAddress], list[tuple[int, int, Opening]]] = defaultdict(list)
    for port in draft.ports:
        address, first, last = port.model.listen
        for key in _places(address):
            entries[port.model.host, port.model.protocol, key].append((first, last, port))
    told: set[int] = set()
    for its in entries.values():
        its.sort(key=lambda entry: (entry[0], entry[2].index))
        widest = its[0]
        for entry in its[1:]:
            first, last = entry[0], min(entry[1], widest[1])
            later = max(entry[2], widest[2], key=lambda port: port.index)
            if first <= widest[1] and later.index not in told:
                told.add(later.index)
                other = min(entry[2], widest[2], key=lambda port: port.index)
                ports = str(first) if first == last else f"{first}-{last}"
                message = f"{ports}/{later.model.protocol} of this host is taken: it leads to `{other.model.to.container}`"
                yield Problem((*later.path, "listen"), message, "choose another port, or delete one of the two")
            widest = max(widest, entry, key=lambda entry: entry[1])


def relayed(draft: Draft) -> Iterator[Problem]:
    for port in draft.ports:
        try:
            refuse_unrelayed(port.model.listen, port.model.protocol)
        except Refused as refused:
            yield Problem((*port.path, "listen"), refused.message, refused.hint)


def not_a_tunnels(draft: Draft) -> Iterator[Problem]:
    """What is translated never reaches the VXLAN's socket, which is not there to be found before the first `apply`."""
    on_host = dict(draft.networks_by_host())
    for port in draft.ports:
        if port.model.protocol != "udp":
            continue
        for name in on_host.get(port.model.host, ()):
            network = draft.networks[name]
            number = getattr(network, "port", 0) if network.driver == "vxlan" else 0
            if port.model.listen.first <= number <= port.model.listen.last:
                message = f"{number}/udp of this host is the tunnel's of network `{name}`"
                yield Problem((*port.path, "listen"), message, "choose another port, or give the network another `port`")
                break


def _places(address: IPAddress | None) -> tuple[IPAddress, ...]:
    """What a port without address takes: both families' wildcards."""
    return (address,) if address is not None else _ANY


def target_reached(draft: Draft) -> Iterator[Problem]:
    """The host has a way to the container, in a family that the port is meant for."""
    found: dict[int, tuple[set[int], str, str]] = {}
    for port in draft.ports:
        if port.plug is None or port.plug.network is None:
            continue
        if port.plug.index not in found:
            has = _has(port.plug, port.plug.network)
            found[port.plug.index] = ways(port.plug.network, port.plug.model.host, has)
        versions, why, hint = found[port.plug.index]
        if not versions:
            yield Problem((*port.path, "to"), f"network `{port.plug.model.network}` {why}", hint)
        address = port.model.listen.address
        if versions and address is not None and address != LOOPBACK6 and address.version not in versions:
            its = " and ".join(f"IPv{version}" for version in sorted(versions))
            message = f"`{address}` is IPv{address.version}, and the host reaches the container by {its} alone"
            yield Problem((*port.path, "listen"), message, f"write an IPv{min(versions)} address, or the port alone")


def _has(plug: Plug, network: NetworkModel) -> set[int]:
    """The families of a container's addresses."""
    if plug.model.address:
        return {written.address.version for written in plug.model.address}
    return {subnet.version for subnet in subnets(network) if network.ipv6 == "static" or subnet.version == 4}


def ways(network: NetworkModel, host: str, has: set[int]) -> tuple[set[int], str, str]:
    """The families in which the host reaches a container that `has` these; where there is none, why, and what to do."""
    if hasattr(network, "device"):
        return set(), "lends its NIC: the host has no way to the container", "publish it on another network of the container's"
    if network.internal:
        return set(), "is internal: nothing comes in", "delete `internal: true`, or the port"
    if not has:
        return set(), "has no addresses", "give the network a `subnet`"
    if hasattr(network, "parent"):
        access = on_host(getattr(network, "host_access", {}), host)
        held: set[int] = {leg.version for leg in network.legs.get(host, ())} | (set() if access is None else {access.version})
        hint = "add `host_access: ADDRESS` to the network: an interface of the host's beside the containers'"
        return has & held, f"is a {network.driver} without `host_access`: host and containers do not reach each other", hint
    own: set[int] = {a.version for a in (*(on_host(network.host_addresses, host) or ()), *network.legs.get(host, ()))}
    if is_external(network):
        if not getattr(network, "vlan", None):
            return has, "", ""  # by the addresses that the NIC had
        hint = "add `host_addresses: {HOST: ADDRESS}` to the network"
        return has & own, "is a VLAN in which the host has no address", hint
    elsewhere = set(all_legs(network))
    held = own | {gateway.version for gateway in gateways(network) if gateway not in elsewhere}
    return has & held, "has no address of the host's", "give the network a `gateway`, or `host_addresses`"


PORT_CHECKS: tuple[Callable[[Draft], Iterator[Problem]], ...] = (
    known_target,
    ranges_match,
    port_once,
    relayed,
    not_a_tunnels,
    target_reached,
)
