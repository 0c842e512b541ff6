"""Published ports: what leads a packet to a port of the host's to a container, and its replies back.

Invariant: pure. A port is an element of a map for each family in which the host reaches the container; whatever its network
needs for that on this host is the same for all its ports. A client's address is kept where replies come back through this host
by themselves: where it holds the gateway that the container's default route leads by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import TypeGuard

from ductwork.drivers import Facts, View, on_host
from ductwork.drivers.inside import leads_out
from ductwork.naming import bridge_ifname
from ductwork.resources import HOST, IPAddress, IptablesRule, Key, NftElement, Owner, Resource, Sysctl
from ductwork.services import nat
from ductwork.services.ruleset import PORT_MAPS, TABLE, inet_table
from ductwork.site.model import Attachment, Network, PublishedPort

MAPS = frozenset(f"{kind}{at}{version}" for kind in PORT_MAPS for at in ("", "_at") for version in (4, 6))
"""A port that leads to one; ports that lead to the same of the container's; ports that all lead to one."""
_SPOKEN_BY = frozenset({"bridge", "ovs", "vlan", "macvlan", "ipvlan"})
"""The kinds of links of ours by which a host speaks to containers."""
ELSEWHERE = frozenset({"elsewhere4", "elsewhere6"})
MASQUERADED = frozenset({"behind4", "behind6"}) | ELSEWHERE
SETS = frozenset({"served", "no_loopback", "closed", "beside4", "beside6"}) | MASQUERADED
"""What a network, or one of its containers, needs for its ports, whatever they are."""
LOOPBACK4, LOOPBACK6 = IPv4Address("127.0.0.1"), IPv6Address(1)
"""The second is what the kernel cannot translate: only the agent answers there."""
ANYWHERE: Mapping[int, IPAddress] = {4: LOOPBACK4, 6: LOOPBACK6}
"""For who asks what elements there may be, wherever they lead."""


Other = tuple[str, PublishedPort]
"""(site, port)."""


@dataclass(frozen=True, slots=True)
class Target:
    """An attachment with published ports. `addresses`: family → where the host reaches it; `returns`: the families of which
    replies come back through this host by themselves."""

    addresses: Mapping[int, IPAddress]
    returns: frozenset[int]


def elements(port: PublishedPort, addresses: Mapping[int, IPAddress], site: str) -> Iterator[NftElement]:
    """One for each family; for each of its ports, too, where a range leads to other ones."""
    owner = Owner(site, port.origin, port.network)
    for version, address in addresses.items():
        where = _place(port, version)
        if where is not None:
            suffix, head = where
            for kind, numbers, to in _led(port, _written(address)):
                yield NftElement("inet", TABLE, kind + suffix, (*head, port.protocol, numbers), to, owner)


def _led(port: PublishedPort, address: str) -> Iterator[tuple[str, str, str]]:
    """(the kind of map, a port or a range, where it leads). No map can count along."""
    if port.first != port.last and port.to_one:
        yield "funnels", f"{port.first}-{port.last}", f"{address} . {port.to}"
    elif port.first != port.last and port.to == port.first:
        yield "ranges", f"{port.first}-{port.last}", address
    else:
        for number in range(port.first, port.last + 1):
            yield "ports", str(number), f"{address} . {port.to + number - port.first}"


@lru_cache(256)
def _written(address: IPAddress) -> str:
    """Thousands of ports may lead to one."""
    return str(address)


def is_port(resource: object) -> TypeGuard[NftElement]:
    return isinstance(resource, NftElement) and resource.set_name in MAPS


def keys(port: PublishedPort) -> list[Key]:
    """Of its elements, wherever they lead."""
    return [element.key for element in elements(port, ANYWHERE, "")]


def at_loopback(port: PublishedPort) -> bool:
    """Whether it is open at ::1, too, where the agent relays."""
    return port.address in (None, IPv6Address(0), LOOPBACK6)


def covering(ports: Iterable[PublishedPort]) -> Callable[[str, int], bool]:
    """Whether a protocol's port is among them."""
    singles: set[tuple[str, int]] = set()
    ranges: list[PublishedPort] = []
    for port in ports:
        if port.first == port.last:
            singles.add((port.protocol, port.first))
        else:
            ranges.append(port)

    def covers(protocol: str, number: int) -> bool:
        within = (port.protocol == protocol and port.first <= number <= port.last for port in ranges)
        return (protocol, number) in singles or any(within)

    return covers


def clash(one: PublishedPort, other: PublishedPort) -> bool:
    """Whether both take a port of a host, however it is written. One on an address comes before one on all."""
    if not _share_a_number(one, other):
        return False
    places = ({_place(port, version) for version in (4, 6)} - {None} for port in (one, other))
    return one.address == other.address or not next(places).isdisjoint(next(places))


def clashing(ports: Iterable[PublishedPort], others: Iterable[Other]) -> Iterator[Other]:
    """Those of the others that take what one of the ports takes. There may be many, but few about one number."""
    every: list[tuple[PublishedPort, Other | None]] = [(port, None) for port in ports]
    every += [(other[1], other) for other in others]
    about: list[tuple[PublishedPort, Other | None]] = []
    for port, other in sorted(every, key=lambda entry: (entry[0].protocol, entry[0].first)):
        about = [entry for entry in about if entry[0].protocol == port.protocol and entry[0].last >= port.first]
        for before, its in about:
            taken = its or other
            if taken and not (its and other) and clash(port, before):
                yield taken
        about.append((port, other))


def meets(one: PublishedPort, other: PublishedPort) -> bool:
    """Whether a packet may be for both: one on an address would take what one on all is sent there."""
    return _share_a_number(one, other) and any(_covers(one, other, version) for version in (4, 6))


def _share_a_number(one: PublishedPort, other: PublishedPort) -> bool:
    return one.protocol == other.protocol and one.first <= other.last and other.first <= one.last


def _covers(one: PublishedPort, other: PublishedPort, version: int) -> bool:
    places = [port.address for port in (one, other)]
    if any(address is not None and address.version != version for address in places):
        return False
    return places[0] == places[1] or any(address is None or address.is_unspecified for address in places)


def _place(port: PublishedPort, version: int) -> tuple[str, tuple[str, ...]] | None:
    """(how its maps' names end, what its keys begin with) for a family."""
    if port.address is None or (port.address.version == version and port.address.is_unspecified):
        return str(version), ()
    if port.address.version != version or port.address == LOOPBACK6:
        return None
    return f"_at{version}", (str(port.address),)


def device_of(network: Network, plugged_into: str) -> str:
    """Where the host speaks to the network's containers. `plugged_into`: what these are plugged into."""
    if hasattr(network.options, "parent"):
        return bridge_ifname(network.name)
    vlan = getattr(network.options, "vlan", None)
    return f"{plugged_into}.{vlan}" if vlan else plugged_into


def reached(network: Network, host: str) -> frozenset[int]:
    """The families in which a host has an address in a network, and so a way to its containers that is for others too."""
    if network.internal:
        return frozenset()
    legs = network.legs.get(host, ())
    access = on_host(getattr(network.options, "host_access", {}), host)
    if hasattr(network.options, "parent"):
        return frozenset(address.version for address in (*legs, *([] if access is None else [access])))
    if network.external and not getattr(network.options, "vlan", None):
        return frozenset({4, 6})
    held = (*network.host_addresses.get(host, ()), *legs, *network.gateways_held(host))
    return frozenset(address.version for address in held)


def target(network: Network, attachment: Attachment, view: View) -> Target:
    """As the file has it."""
    versions = reached(network, view.host)
    addresses: dict[int, IPAddress] = {}
    for address in view.addresses.get(attachment.id, ()):
        if address.version in versions:
            addresses.setdefault(address.version, address.ip)
    held = [version for version in addresses if holds_gateway(network, version, view.host)]
    returns = (version for version in held if leads_out(attachment, version, view))
    return Target(addresses, frozenset(returns))


def holds_gateway(network: Network, version: int, host: str) -> bool:
    """Of a network of the hosts' own; a LAN's neighbours answer each other, whoever routes."""
    return not network.external and any(gateway.version == version for gateway in network.gateways_held(host))


def network_resources(network: Network, plugged_into: str, view: View) -> Iterator[Resource]:
    """What a network with published ports needs on the host, whatever they are."""
    owner, device = view.owner(network.name), device_of(network, plugged_into)
    versions = reached(network, view.host)
    yield inet_table(owner)
    yield from (IptablesRule(family, owner=owner) for family in sorted(view.facts.iptables))
    yield served(device, owner)
    on_parent = hasattr(network.options, "parent")
    # With br_netfilter, what comes by a VLAN's device is seen as coming by the bridge below it.
    for name in dict.fromkeys((device,) if on_parent else (device, plugged_into)) if 4 in versions else ():
        yield _element("no_loopback", (name,), owner)
    own_way = network.external and device != plugged_into
    if own_way and not network.legs.get(view.host):  # a router's leg forwards for more
        yield _element("closed", (device,), owner)
    for subnet in network.subnets:
        if subnet.version in versions:
            yield _element(f"beside{subnet.version}", (nat.as_nft_prints(subnet), device), owner)
            if network.external:
                yield _element(f"behind{subnet.version}", (nat.as_nft_prints(subnet), device), owner)
    if 4 in versions:
        yield Sysctl(HOST, loopback_path(device), "1", link=device, owner=owner)
    if network.external:
        present = {subnet.version for subnet in network.subnets} & versions
        for version in sorted(present):
            yield from nat.ways_out(version, device, view.facts, owner)


def target_elements(network: Network, found: Target, plugged_into: str, site: str) -> Iterator[NftElement]:
    """What an attachment with published ports needs besides: to be spoken to by the host alone, where its replies would go
    another way."""
    astray = [address for version, address in found.addresses.items() if version not in found.returns]
    return elsewhere(network, astray, plugged_into, site)


def elsewhere(network: Network, addresses: Iterable[IPAddress], plugged_into: str, site: str) -> Iterator[NftElement]:
    """That replies of a network's containers with these addresses go another way; of a LAN's, they do in any case."""
    device = device_of(network, plugged_into)
    for address in addresses if not network.external else ():
        yield _element(f"elsewhere{address.version}", (str(address), device), Owner(site, "site", network.name))


def served(device: str, owner: Owner) -> NftElement:
    """That there are published ports behind a device."""
    return _element("served", (device,), owner)


def loopback_path(device: str) -> str:
    """What lets 127.0.0.1 be translated on the way to a device."""
    return f"net/ipv4/conf/{device}/route_localnet"


def sysctl_paths(facts: Facts) -> list[str]:
    """Every path below /proc/sys that `no_more` looks up in `facts.sysctls`."""
    return [loopback_path(link.name) for link in facts.links.values() if link.owner and link.kind in _SPOKEN_BY]


def no_more(network: Network, plugged_into: str, view: View) -> Iterator[Sysctl]:
    """Of a network without published ports that may have had some: packets of the loopback are the kernel's to refuse again."""
    device = device_of(network, plugged_into)
    if view.facts.sysctls.get(loopback_path(device)) == "1":
        yield Sysctl(HOST, loopback_path(device), "0", link=device, owner=view.owner(network.name))


def _element(set_name: str, parts: tuple[str, ...], owner: Owner) -> NftElement:
    return NftElement("inet", TABLE, set_name, parts, owner=owner)
