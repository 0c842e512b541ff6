"""What can be wrong between networks, hosts and their subnets. See `checks.py`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

from ductwork.errors import Problem
from ductwork.resources import IPAddress, IPNetwork
from ductwork.site.document import shorten
from ductwork.site.draft import (
    Draft,
    Plug,
    first_address,
    gateways,
    holds,
    is_external,
    parent_device,
    subnet_of,
    subnets,
)
from ductwork.site.schema import NetworkModel
from ductwork.site.values import closest, describe, listing, special_address

Path = tuple[str | int, ...]

MIN_IPV6_MTU = 1280
"""RFC 8200, 5."""


def at(name: str, path: Path = ()) -> Path:
    return ("networks", name, *path)


def known_hosts(draft: Draft) -> Iterator[Problem]:
    """`hosts`, and every map by host, name hosts of the file."""
    for name, network in draft.networks.items():
        for path, host in network.entries("hosts"):
            if host not in draft.host_names:
                yield _unknown_host(draft, at(name, path), host)
        for key in ("host_addresses", "allocate", *network.OPTION_NAMES):
            by_host = getattr(network, key)
            for host in by_host if isinstance(by_host, dict) else ():
                if host and host not in draft.host_names:
                    yield _unknown_host(draft, at(name, (key, host)), host, on_key=True)


def _unknown_host(draft: Draft, path: Path, host: str, on_key: bool = False) -> Problem:
    if not draft.host_names:
        return Problem(path, f"host {describe(host)}, but the file has no `hosts`", "add `hosts:`, or write no host", on_key)
    hint = f"{closest(host, draft.host_names)}hosts: {listing(sorted(draft.host_names))}"
    return Problem(path, f"unknown host {describe(host)}", hint, on_key)


def host_problem(draft: Draft, path: Path, host: str) -> Problem | None:
    """Of an entry's `host`: one of the file's, where it has any. `path`: the entry's."""
    hosts = listing(sorted(draft.host_names))
    if not draft.host_names:
        if not host:
            return None
        hint = f"delete it, or add `hosts:` with `{shorten(host)}: {{address: …}}`"
        return Problem((*path, "host"), f"host {describe(host)}, but the file has no `hosts`", hint, on_key=True)
    if not host:
        return Problem(path, "`host` is missing", f"add `host:`, one of {hosts}")
    if host not in draft.host_names:
        return _unknown_host(draft, (*path, "host"), host)
    return None


def one_spelling(draft: Draft) -> Iterator[Problem]:
    """`subnet` or `subnets`, `gateway` or `gateways`: not both."""
    for name, network in draft.networks.items():
        for one, many in (("subnet", "subnets"), ("gateway", "gateways")):
            if {one, many} <= network.model_fields_set:
                yield Problem(at(name, (many,)), f"both `{one}` and `{many}`", f"write all in `{many}`", on_key=True)


def needs_subnet(draft: Draft) -> Iterator[Problem]:
    """A network of layer 2 alone has nothing that is about addresses."""
    for name, network in draft.networks.items():
        if subnets(network):
            continue
        for key in ("gateway", "gateways", "host_addresses", "allocate", "host_access"):
            if getattr(network, key, None):
                yield Problem(
                    at(name, (key,)), f"`{key}` in a network without subnet", "add `subnet:`, or delete it", on_key=True
                )
        if network.nat is not None and network.nat.mode != "none":
            yield Problem(at(name, ("nat",)), "`nat` in a network without subnet", "add `subnet:`, or delete it", on_key=True)


def internal_has_no_way_out(draft: Draft) -> Iterator[Problem]:
    for name, network in draft.networks.items():
        if not network.internal:
            continue
        hint = "delete it, or `internal`"
        for key in ("gateway", "gateways"):
            if getattr(network, key):
                yield Problem(at(name, (key,)), f"`{key}` in a network that is `internal`", hint, on_key=True)
        if network.nat is not None and network.nat.mode != "none":
            yield Problem(at(name, ("nat",)), "`nat` in a network that is `internal`", hint, on_key=True)


def gateway_addresses(draft: Draft) -> Iterator[Problem]:
    """Each gateway in a subnet, an address that a machine can have, one for each subnet."""
    for name, network in draft.networks.items():
        seen: dict[IPNetwork, IPAddress] = {}
        for path, address in network.entries("gateway", "gateways"):
            subnet = subnet_of(network, address)
            if subnet is None:
                yield from _outside(network, at(name, path), f"gateway `{address}`")
            elif special := special_address(subnet, address):
                hint = f"write another, such as `{first_address(subnet)}`"
                yield Problem(at(name, path), f"`{address}` is {special} of {subnet}", hint)
            elif subnet in seen:
                hint = f"keep one of `{seen[subnet]}` and `{address}`"
                yield Problem(at(name, path), f"a second gateway of {subnet}", hint)
            else:
                seen[subnet] = address


def _outside(network: NetworkModel, path: Path, what: str) -> Iterator[Problem]:
    """Nothing where there is no subnet at all: `needs_subnet` says so."""
    if subnets(network):
        places = listing(map(str, subnets(network)))
        yield Problem(path, f"{what} is outside the network's subnets", f"choose one in {places}")


def host_addresses(draft: Draft) -> Iterator[Problem]:
    for name, network in draft.networks.items():
        seen: dict[IPAddress, str] = {}
        held = gateways(network)
        for path, host, address in network.host_entries("host_addresses"):
            where = at(name, path)
            subnet = subnet_of(network, address)
            if not host and draft.host_names:
                yield Problem(where, "whose host address is this?", "write `host_addresses: {HOST: ADDRESS}`")
            if subnet is None:
                yield from _outside(network, where, f"host address `{address}`")
            elif special := special_address(subnet, address):
                yield Problem(where, f"`{address}` is {special} of {subnet}", "write another address")
            elif address in held:
                why = "that is the LAN's router" if is_external(network) else "the host holds the gateway besides"
                yield Problem(where, f"`{address}` is the network's gateway", f"write another: {why}")
            elif address in underlay_of(draft, network):
                owner = underlay_of(draft, network)[address]
                hint = "delete it: what the host has already, it keeps" if owner == host else "write another address"
                yield Problem(where, f"`{address}` is the address of host `{owner}`", hint)
            elif address in seen:
                yield Problem(where, f"`{address}` is here twice", f"write another; {describe(seen[address])} has it already")
            seen[address] = host


def underlay_of(draft: Draft, network: NetworkModel) -> dict[IPAddress, str]:
    """Address → host, of the hosts that are on a network's LAN already; nobody knows which are, where it has a VLAN."""
    if not is_external(network) or getattr(network, "vlan", None):
        return {}
    return {host.address.ip: name for name, host in draft.hosts.items() if host.address}


def snat_family(draft: Draft) -> Iterator[Problem]:
    for name, network in draft.networks.items():
        source = network.nat.snat_to if network.nat else None
        families = {subnet.version for subnet in subnets(network)}
        if source is not None and families and source.version not in families:
            message = f"`{source}` is IPv{source.version}, and the network has no such subnet"
            yield Problem(at(name, ("nat", "snat")), message, f"write an IPv{families.pop()} address")


def mtu_fits_ipv6(draft: Draft) -> Iterator[Problem]:
    for name, network in draft.networks.items():
        if not any(subnet.version == 6 for subnet in subnets(network)):
            continue
        hint = f"write {MIN_IPV6_MTU} or more, or give the network no IPv6 subnet"
        if network.mtu is not None and network.mtu < MIN_IPV6_MTU:
            yield Problem(at(name, ("mtu",)), f"{network.mtu} is too little for IPv6", hint)
        for plug in draft.plugs_of[name]:
            if plug.model.mtu is not None and plug.model.mtu < MIN_IPV6_MTU:
                yield Problem((*plug.path, "mtu"), f"{plug.model.mtu} is too little for IPv6", hint)


def subnets_within(draft: Draft) -> Iterator[Problem]:
    """The subnets of one network do not overlap."""
    for name, network in draft.networks.items():
        written = [(value, at(name, path)) for path, value in network.entries("subnet", "subnets")]
        for subnet, path, other, _ in _overlaps(written):
            yield Problem(path, f"{subnet} overlaps {other} of the same network", "delete one, or choose another")


def subnets_between(draft: Draft) -> Iterator[Problem]:
    """Two networks in which one host has addresses would give its routing table two ways to the same one. Others may have
    the same subnet: each is a layer 2 of its own."""
    told = set()
    for host, names in draft.networks_by_host():
        held = [name for name in names if holds(draft.networks[name], host)]
        for subnet, path, other, other_path in _overlaps(list(_written_subnets(draft, held))):
            if path[1] != other_path[1] and (path, other_path) not in told:
                told.add((path, other_path))
                where = f"both are on host `{host}`" if host else "both are on this host"
                message = f"{subnet} overlaps {other} of network `{other_path[1]}`; {where}"
                hint = "choose another subnet for one of the two, or write `internal: true`: then the host has no address in it"
                yield Problem(path, message, hint)


def _written_subnets(draft: Draft, names: Iterable[str]) -> Iterator[tuple[IPNetwork, Path]]:
    for name in names:
        yield from ((value, at(name, path)) for path, value in draft.networks[name].entries("subnet", "subnets"))


def subnets_on_one_lan(draft: Draft) -> Iterator[Problem]:
    """Networks on one parent are one layer 2: with the same subnet, they would give the same addresses."""
    told = set()
    for host, names in draft.networks_by_host():
        on_parent: dict[str, list[str]] = defaultdict(list)
        for name in names:
            if parent := parent_device(draft.networks[name], host):
                on_parent[parent].append(name)
        for parent, sharing in on_parent.items():
            for subnet, path, other, other_path in _overlaps(list(_written_subnets(draft, sharing))):
                if path[1] != other_path[1] and (path, other_path) not in told:
                    told.add((path, other_path))
                    message = f"{subnet} overlaps {other} of network `{other_path[1]}`; both are on `{parent}`"
                    yield Problem(path, message, "make one network of the two, or give one of them a `vlan`")


def container_subnets(draft: Draft) -> Iterator[Problem]:
    """A container has one routing table: of two interfaces in the same subnet, one would get it all."""
    plugs_of: dict[tuple[str, str], dict[str, Plug]] = defaultdict(dict)
    for plug in draft.plugs:
        if plug.network is not None:
            plugs_of[plug.model.host, plug.model.container].setdefault(plug.model.network, plug)
    for (host, container), plugs in plugs_of.items():
        if len(plugs) < 2:
            continue
        for subnet, path, other, other_path in _overlaps(list(_written_subnets(draft, plugs))):
            one, two = (draft.networks[str(each[1])] for each in (path, other_path))
            told = one is two or (holds(one, host) and holds(two, host))
            if not told and not (parent_device(one, host) and parent_device(one, host) == parent_device(two, host)):
                message = f"`{container}` is in network `{other_path[1]}` too, whose {other} overlaps {subnet}"
                yield Problem(plugs[str(path[1])].path, message, "choose another subnet for one of the two networks")


def _overlaps(written: list[tuple[IPNetwork, Path]]) -> Iterator[tuple[IPNetwork, Path, IPNetwork, Path]]:
    """(subnet, path, overlapped subnet, its path), the one named first in the file as the overlapped one. Two prefixes
    overlap only if one holds the other, so a sorted list and a stack of what is still open suffice."""
    order = {path: index for index, (_, path) in enumerate(written)}
    stack: list[tuple[IPNetwork, Path]] = []
    for subnet, path in sorted(written, key=lambda w: (w[0].version, int(w[0].network_address), w[0].prefixlen)):
        while stack and (stack[-1][0].version != subnet.version or subnet.network_address not in stack[-1][0]):
            stack.pop()
        if stack:
            other, other_path = stack[-1]
            if order[other_path] < order[path]:
                yield subnet, path, other, other_path
            else:
                yield other, other_path, subnet, path
        stack.append((subnet, path))


def subnet_against_underlay(draft: Draft) -> Iterator[Problem]:
    """A network's subnet in the host's own: the host would look for its neighbours on our bridge. (Not where the network is
    that LAN itself, nor where the host has no address in it.)"""
    told = set()
    for host, names in draft.networks_by_host():
        underlay = draft.hosts[host].address if host in draft.hosts else None
        if underlay is None:
            continue
        for name in names:
            if is_external(draft.networks[name]) or not holds(draft.networks[name], host):
                continue
            for path, subnet in draft.networks[name].entries("subnet", "subnets"):
                same_family = subnet.version == underlay.version
                if same_family and (subnet.overlaps(underlay.network)) and (name, path) not in told:
                    told.add((name, path))
                    message = f"{subnet} overlaps the underlay of host `{host}`, {underlay.network}"
                    yield Problem(at(name, path), message, "choose a subnet that nothing outside uses")


def underlay_addresses(draft: Draft) -> Iterator[Problem]:
    """Two hosts do not have one address."""
    seen: dict[IPAddress, str] = {}
    for name, host in draft.hosts.items():
        if host.address is None:
            continue
        address = host.address.ip
        special = special_address(host.address.network, address)
        path = ("hosts", name, "address")
        if special:
            yield Problem(path, f"`{address}` is {special} of {host.address.network}", "write the host's own address")
        if address in seen:
            yield Problem(path, f"`{address}` is the address of host `{seen[address]}` too", "each host has its own")
        seen.setdefault(address, name)


def vxlan_underlay(draft: Draft) -> Iterator[Problem]:
    """Tunnels need an address at both ends, of one family."""
    for name, network in draft.networks.items():
        hosts = draft.hosts_of[name]
        if network.driver != "vxlan" or hosts == [""]:
            continue
        family = 0
        for host in hosts:
            underlay = draft.hosts[host].address
            if underlay is None:
                message = f"host `{host}` has no `address`, and the VXLAN `{name}` is on it"
                yield Problem(("hosts", host), message, f"write `{host}: {{address: 10.99.0.1/24}}`", on_key=True)
            elif family and underlay.version != family:
                message = f"the VXLAN `{name}` has hosts with IPv{family} and with IPv{underlay.version} addresses"
                yield Problem(("hosts", host, "address"), message, f"write its IPv{family} address")
            else:
                family = underlay.version


def vxlan_numbers(draft: Draft) -> Iterator[Problem]:
    """On one host, a VNI and a port make one tunnel (vxlan_vni_in_use in drivers/net/vxlan/vxlan_core.c)."""
    told = set()
    for _, names in draft.networks_by_host():
        seen: dict[tuple[int, int], str] = {}
        for name in names:
            network = draft.networks[name]
            if network.driver != "vxlan":
                continue
            number = (getattr(network, "vni"), getattr(network, "port"))  # noqa: B009
            other = seen.setdefault(number, name)
            if other != name and name not in told:
                told.add(name)
                message = f"VNI {number[0]} is that of network `{other}` too, at the same port {number[1]}"
                yield Problem(at(name, ("vni",)), message, "give one of them another `vni`, or another `port`")


NETWORK_CHECKS: tuple[Callable[[Draft], Iterator[Problem]], ...] = (
    known_hosts,
    one_spelling,
    needs_subnet,
    internal_has_no_way_out,
    gateway_addresses,
    host_addresses,
    snat_family,
    mtu_fits_ipv6,
    subnets_within,
    subnets_between,
    subnets_on_one_lan,
    container_subnets,
    subnet_against_underlay,
    underlay_addresses,
    vxlan_underlay,
    vxlan_numbers,
)
