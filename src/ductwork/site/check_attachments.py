"""What can be wrong between an attachment and everything else. See `checks.py`."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator

from ductwork.drivers import on_host
from ductwork.drivers.inside import LAYER_3
from ductwork.errors import Problem
from ductwork.resources import IPAddress, IPNetwork
from ductwork.site import values
from ductwork.site.check_networks import at, host_problem, underlay_of
from ductwork.site.draft import Draft, Plug, all_legs, gateways, is_external, per_host, subnet_of, subnets
from ductwork.site.model import AddressRange
from ductwork.site.schema import NetworkModel
from ductwork.site.values import describe, instead_of_network, listing, special_address


def known_host(draft: Draft) -> Iterator[Problem]:
    for plug in draft.plugs:
        if problem := host_problem(draft, plug.path, plug.model.host):
            yield problem


def known_network(draft: Draft) -> Iterator[Problem]:
    for plug in draft.plugs:
        name = plug.model.network
        if name not in draft.network_names:
            hint = instead_of_network(name, draft.network_names)
            yield Problem((*plug.path, "network"), f"unknown network {describe(name)}", hint)


def interface_once(draft: Draft) -> Iterator[Problem]:
    seen: dict[tuple[str, str, str], int] = {}
    for plug in draft.plugs:
        container, name = plug.model.container, plug.interface
        if seen.setdefault((plug.model.host, container, name), plug.index) != plug.index:
            message = f"container `{container}` has `{name}` already"
            yield Problem((*plug.path, "interface"), message, "choose another name, or leave the key out")


def container_one_way(draft: Draft) -> Iterator[Problem]:
    """`web` and `docker:web` are one container, or `web` is not to be told from another: either way it has to be said."""
    full: dict[tuple[str, str], str] = {}
    for plug in draft.plugs:
        _, colon, name = plug.model.container.partition(":")
        if colon:
            full.setdefault((plug.model.host, name), plug.model.container)
    for plug in draft.plugs:
        other = full.get((plug.model.host, plug.model.container))
        if other:
            message = f"`{plug.model.container}` may be `{other}`, which is in the file too"
            yield Problem(
                (*plug.path, "container"), message, f"write `{other}` here too, or the other runtime's `RUNTIME:NAME`"
            )


def address_fits(draft: Draft) -> Iterator[Problem]:
    """Each address is in a subnet, with its prefix length, and nobody's already."""
    for name, network in draft.networks.items():
        others = dict.fromkeys(gateways(network), "the network's gateway")
        for _, host, address in network.host_entries("host_addresses"):
            others.setdefault(address, f"the address of host `{host}`" if host else "the host's own address")
        for _, host, address in per_host(network, "host_access"):
            others.setdefault(address, f"the `host_access` of host `{host}`" if host else "the network's `host_access`")
        others |= {leg: others.get(leg, "a router's leg") for leg in all_legs(network)}
        for address, host in underlay_of(draft, network).items():
            others.setdefault(address, f"the address of host `{host}`")
        for plug in draft.plugs_of[name]:
            for index, written in enumerate(plug.model.address):
                problem = _address_problem(network, written, others)
                if problem:
                    yield Problem((*plug.path, "address", index), *problem)


def _address_problem(
    network: NetworkModel, written: values.WrittenAddress, others: dict[IPAddress, str]
) -> tuple[str, str] | None:
    """(message, hint)"""
    address, length = written
    subnet = subnet_of(network, address)
    if subnet is None:
        if not subnets(network):
            return f"`{address}` in a network without subnet", "delete it, or give the network a `subnet`"
        return f"`{address}` is outside the network's subnets", f"choose one in {listing(map(str, subnets(network)))}"
    if length is not None and length != subnet.prefixlen:
        return f"`/{length}` is not the subnet's prefix length", f"write `{address}/{subnet.prefixlen}`, or `{address}` alone"
    if special := special_address(subnet, address):
        return f"`{address}` is {special} of {subnet}", "write another address"
    if address in others:
        return f"`{address}` is {others[address]}", "write another address, or leave the key out"
    return None


def address_once(draft: Draft) -> Iterator[Problem]:
    """Across all hosts: a network is one, wherever its containers are."""
    for name in draft.networks:
        seen: dict[IPAddress, Plug] = {}
        for plug in draft.plugs_of[name]:
            for index, (address, _) in enumerate(plug.model.address):
                other = seen.setdefault(address, plug)
                if other is not plug or address in [a for a, _ in plug.model.address[:index]]:
                    message = f"`{address}` is in network `{name}` twice: {_who(other)} has it"
                    yield Problem((*plug.path, "address", index), message, "write another address, or leave the key out")


def mac_once(draft: Draft) -> Iterator[Problem]:
    for name in draft.networks:
        seen: dict[str, Plug] = {}
        for plug in draft.plugs_of[name]:
            other = seen.setdefault(plug.mac, plug)
            if other is not plug:
                message = f"MAC {plug.mac} is in network `{name}` twice: {_who(other)} has it"
                path = (*plug.path, "mac") if plug.model.mac else plug.path
                yield Problem(path, message, "write another, or leave the key out")


def _who(plug: Plug) -> str:
    return f"`{plug.model.container}`" + (f" on host `{plug.model.host}`" if plug.model.host else "")


def gateway_fits(draft: Draft) -> Iterator[Problem]:
    for plug in draft.plugs:
        network, gateway = plug.network, plug.model.gateway
        path = (*plug.path, "gateway")
        if network is None or gateway is None or gateway is False:
            continue
        if gateway is True:
            if not gateways(network) and getattr(network, "mode", None) not in LAYER_3:
                message = f"network `{plug.model.network}` has no gateway: it {_why_no_gateway(network)}"
                yield Problem(path, message, "delete the key, or write an address of the network")
        elif not subnets(network):
            yield Problem(path, "a gateway in a network without subnet", "delete it, or give the network a `subnet`")
        elif subnet_of(network, gateway) is None:
            hint = f"choose one in {listing(map(str, subnets(network)))}"
            yield Problem(path, f"gateway `{gateway}` is outside the network's subnets", hint)
        elif gateway in [address for address, _ in plug.model.address]:
            yield Problem(path, f"gateway `{gateway}` is the container's own address", "write the address of another machine")


def _why_no_gateway(network: NetworkModel) -> str:
    if network.internal:
        return "is `internal`"
    return "is a LAN, whose `gateway` is not written" if subnets(network) else "has no subnet"


def routes_fit(draft: Draft) -> Iterator[Problem]:
    """Next hops are neighbours, of the destination's family; one route for each destination."""
    for plug in draft.plugs:
        seen = set()
        for index, route in enumerate(plug.model.routes):
            path = (*plug.path, "routes", index)
            family = route.via.version
            if plug.network is not None and subnet_of(plug.network, route.via) is None:
                places = listing(map(str, subnets(plug.network)))
                hint = f"choose one in {places}" if places else "give the network a `subnet`, or delete the route"
                yield Problem((*path, "via"), f"`{route.via}` is outside the network's subnets", hint)
            if route.to is not None and route.to.version != family:
                message = f"{route.to} is IPv{route.to.version}, and `via` is not"
                yield Problem((*path, "via"), message, f"write an IPv{route.to.version} address")
            target = route.to or f"default, IPv{family}"
            if target in seen:
                yield Problem((*path, "to"), f"a second route to {target}", "delete one of the two")
            seen.add(target)


def one_way_each(draft: Draft) -> Iterator[Problem]:
    """A container has one routing table: of two attachments that ask for a route to the same place, one would lose."""
    seen: dict[tuple[str, str, str], Plug] = {}
    for plug in draft.plugs:
        for key, target in _asked_for(plug):
            other = seen.setdefault((plug.model.host, plug.model.container, target), plug)
            if other is not plug:
                message = (
                    f"`{plug.model.container}` has its route to {target} by way of network `{other.model.network}` already"
                )
                yield Problem((*plug.path, key), message, "let one attachment have it, and give the other `gateway: false`")


def _asked_for(plug: Plug) -> Iterator[tuple[str, str]]:
    """(the key that asks, the destination)."""
    gateway = plug.model.gateway
    offered: tuple[IPAddress, ...] = ()
    if plug.network is not None and gateway is True:
        families = {address.version for address, _ in plug.model.address}
        offered = tuple(each for each in gateways(plug.network) if not families or each.version in families)
    elif gateway is not None and not isinstance(gateway, bool):
        offered = (gateway,)
    yield from {("gateway", f"everywhere (IPv{each.version})") for each in offered}
    for route in plug.model.routes:
        yield "routes", str(route.to or f"everywhere (IPv{route.via.version})")


def ranges_fit(draft: Draft) -> Iterator[Problem]:
    """Each range of `allocate` is in one subnet; two hosts' do not overlap."""
    for name, network in draft.networks.items():
        written = list(network.host_entries("allocate"))
        for path, _, span in written:
            subnet = subnet_of(network, span.first)
            if subnets(network) and (subnet is None or span.last not in subnet):
                message = f"{_span(span)} is not in one of the network's subnets"
                yield Problem(at(name, path), message, f"choose a part of {listing(map(str, subnets(network)))}")
        open_until: dict[int, tuple[int, str, AddressRange]] = {}
        for path, host, span in sorted(written, key=lambda item: (item[2].first.version, int(item[2].first))):
            family = span.first.version
            last, other, span_before = open_until.get(family, (-1, host, span))
            if int(span.first) <= last and other != host:
                message = f"{_span(span)} overlaps {_span(span_before)} of host `{other}`"
                yield Problem(at(name, path), message, "give each host addresses of its own")
            if int(span.last) > last:
                open_until[family] = (int(span.last), host, span)


def _span(span: AddressRange) -> str:
    return f"{span.first}-{span.last}"


def allocation_is_certain(draft: Draft) -> Iterator[Problem]:
    """Hosts allocate without asking each other: from one range, two would give the same address."""
    for name, network in draft.networks.items():
        plugs = [plug for plug in draft.plugs_of[name] if plug.model.host in draft.host_names]
        hosts = sorted({plug.model.host for plug in plugs})
        if len(hosts) < 2:
            continue
        told = set()
        for plug in plugs:
            host = plug.model.host
            if plug.model.address or host in told:
                continue
            own = network.allocate.get(host, ())
            lacking = [subnet for subnet in _allocated(network, host) if not any(span.first in subnet for span in own)]
            if lacking:
                told.add(host)
                message = f"no address, and network `{name}` has containers on several hosts ({listing(hosts)})"
                ranges = f"`allocate: {{{host}: [FIRST-LAST, …], …}}` in {listing(map(str, lacking))}"
                yield Problem(plug.path, message, f"write `address:`, or give each host a range of its own: {ranges}")


def enough_addresses(draft: Draft) -> Iterator[Problem]:
    """What is left of a range is enough for those who take from it: one address of each subnet (`ipam.pools`)."""
    for name, network in draft.networks.items():
        takers: dict[str, list[Plug]] = defaultdict(list)
        for plug in draft.plugs_of[name]:
            if not plug.model.address and plug.model.host in draft.hosts_of[name]:
                takers[plug.model.host].append(plug)
        reserved = sorted(map(int, _reserved(draft, name, network))) if takers else []
        for host, plugs in takers.items():
            spans = on_host(network.allocate, host) or ()
            for subnet in _allocated(network, host):
                free = _free(subnet, spans, reserved)
                if free < len(plugs):
                    message = f"{len(plugs)} addresses are to be allocated, and {subnet} has {free} for them"
                    yield Problem(plugs[free].path, message, f"widen `allocate` or the subnet of network `{name}`")


def _allocated(network: NetworkModel, host: str) -> list[IPNetwork]:
    """The subnets of which a container without written addresses gets one (`ipam.pools`): not where it makes its own, nor
    where it is a LAN's and no range is written."""
    spans = on_host(network.allocate, host) or ()
    found = [subnet for subnet in subnets(network) if not (subnet.version == 6 and network.ipv6 == "slaac")]
    if is_external(network):
        found = [subnet for subnet in found if any(span.first in subnet for span in spans)]
    return found


def _reserved(draft: Draft, name: str, network: NetworkModel) -> set[IPAddress]:
    """What is never allocated (`ipam.reserved`)."""
    found = set(gateways(network))
    found.update(address for _, _, address in network.host_entries("host_addresses"))
    found.update(address for _, _, address in per_host(network, "host_access"))
    found.update(all_legs(network))
    found.update(host.address.ip for host in draft.hosts.values() if host.address)
    if network.nat and network.nat.snat_to:
        found.add(network.nat.snat_to)
    for plug in draft.plugs_of[name]:
        found.update(address for address, _ in plug.model.address)
        found.update(route.via for route in plug.model.routes)
        if not isinstance(plug.model.gateway, bool | None):
            found.add(plug.model.gateway)
    for subnet in subnets(network):
        found.update(end for end in (subnet[0], subnet[-1]) if special_address(subnet, end))
    return found


def _free(subnet: IPNetwork, spans: tuple[AddressRange, ...], reserved: list[int]) -> int:
    """How many addresses of a subnet are left; `reserved` is sorted. Numbers of IPv4 and IPv6 do not meet: whatever subnet
    of IPv6 containers are in is above ::ffff:ffff."""
    written = sorted((int(span.first), int(span.last)) for span in spans if span.first in subnet)
    free, after = 0, 0
    for start, last in written or [(int(subnet[0]), int(subnet[-1]))]:
        first = max(start, after)
        if first <= last:
            free += last - first + 1 - (bisect_right(reserved, last) - bisect_left(reserved, first))
            after = last + 1
    return free


ATTACHMENT_CHECKS: tuple[Callable[[Draft], Iterator[Problem]], ...] = (
    known_host,
    known_network,
    interface_once,
    container_one_way,
    address_fits,
    address_once,
    mac_once,
    gateway_fits,
    routes_fit,
    one_way_each,
    ranges_fit,
    allocation_is_certain,
    enough_addresses,
)
