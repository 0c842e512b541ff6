"""What can be wrong between a router and everything else. See `checks.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ductwork.drivers import on_host
from ductwork.errors import Problem
from ductwork.resources import IPAddress, IPNetwork
from ductwork.site.check_networks import Path, host_problem, underlay_of
from ductwork.site.draft import Draft, has_bridge, is_external, per_host, subnet_of, subnets
from ductwork.site.schema import NetworkModel, RouterModel
from ductwork.site.values import closest, describe, instead_of_network, listing, special_address


def at(index: int, *path: str | int) -> Path:
    return ("routers", index, *path)


def router_names(draft: Draft) -> Iterator[Problem]:
    seen: set[str] = set()
    for index, router in draft.routers.items():
        if router.name in seen:
            yield Problem(at(index, "name"), f"a second router `{router.name}`", "give each a name of its own")
        seen.add(router.name)


def router_host(draft: Draft) -> Iterator[Problem]:
    for index, router in draft.routers.items():
        if problem := host_problem(draft, at(index), router.host):
            yield problem


def legs_stand(draft: Draft) -> Iterator[Problem]:
    """Two legs at least, each in a network in which a host can have an address and be the next hop."""
    for index, router in draft.routers.items():
        if len(router.legs) < 2:
            message = f"router `{router.name}` has {len(router.legs) or 'no'} leg{'' if router.legs else 's'}"
            yield Problem(at(index, "legs"), message, "write two or more: `legs: {NETWORK: ADDRESS, NETWORK: ADDRESS}`")
        for name in router.legs:
            if name not in draft.network_names:
                hint = instead_of_network(name, draft.network_names)
                yield Problem(at(index, "legs", name), f"unknown network {describe(name)}", hint, on_key=True)
            elif name in draft.networks and (problem := _no_place(draft, router, name)):
                yield Problem(at(index, "legs", name), *problem, on_key=True)


def _no_place(draft: Draft, router: RouterModel, name: str) -> tuple[str, str] | None:
    """(message, hint): why a host can have no leg in a network."""
    network, mode = draft.networks[name], getattr(draft.networks[name], "mode", None)
    if hasattr(network, "device"):
        message = f"a leg in network `{name}`, whose NIC is in a container"
        return message, "give the router a network with `uplink` or `parent`"
    if not subnets(network):
        return f"a leg in network `{name}`, which has no subnet", "give the network a `subnet`"
    if network.internal:
        return f"a leg in network `{name}`, which is `internal`", "delete `internal` there, or the leg"
    if network.driver == "ipvlan":
        message = f"a leg in network `{name}`: Linux gives an ipvlan interface nothing but what is for its own addresses"
        return message, "use `driver: macvlan` for the network, or `driver: bridge` with `uplink`"
    if mode in ("private", "passthru"):
        reason = "interfaces do not see each other" if mode == "private" else "parent has one interface alone"
        return f"a leg in network `{name}`, whose {reason} (mode `{mode}`)", "write `mode: bridge`"
    if on_host(getattr(network, "host_access", {}), router.host):
        return f"a leg in network `{name}`, in which the host has its `host_access`", "delete that: by a leg it has access too"
    elsewhere = [host for host in draft.hosts_of[name] if host != router.host]
    if has_bridge(network) and network.driver != "vxlan" and not is_external(network) and elsewhere:
        message = f"network `{name}` is a bridge of each host's own, and a leg on `{router.host}` is none on `{elsewhere[0]}`"
        return message, "give each host a network of its own, or use `driver: vxlan`, or an `uplink`"
    return None


def leg_addresses(draft: Draft) -> Iterator[Problem]:
    """In a subnet, with one for each, and nobody else's. (The network's gateway it may be.)"""
    held = _held(draft)
    for index, router in draft.routers.items():
        for name, addresses in router.legs.items():
            network = draft.networks.get(name)
            if not addresses:
                yield Problem(at(index, "legs", name), f"no address in network `{name}`", "write one", on_key=True)
            if network is None or not subnets(network):
                continue
            seen: set[IPNetwork] = set()
            for number, address in enumerate(addresses):
                subnet = subnet_of(network, address)
                problem = _address_problem(draft, router, name, address, held[name])
                if not problem and subnet in seen:
                    problem = f"a second address of {subnet}", "a router has one in each subnet"
                if problem:
                    yield Problem(at(index, "legs", name, number), *problem)
                held[name].setdefault(address, f"a leg of router `{router.name}`")
                seen |= {subnet} if subnet else set()


def _held(draft: Draft) -> dict[str, dict[IPAddress, str]]:
    """Network → address → whose it is, attachments' aside: `check_attachments.address_fits` tells of those."""
    found: dict[str, dict[IPAddress, str]] = {}
    for name, network in draft.networks.items():
        its = found[name] = {}
        for _, host, address in network.host_entries("host_addresses"):
            its[address] = f"the address of host `{host}`" if host else "the host's own address"
        for _, host, address in per_host(network, "host_access"):
            its[address] = f"the `host_access` of host `{host}`" if host else "the network's `host_access`"
    return found


def _address_problem(
    draft: Draft, router: RouterModel, name: str, address: IPAddress, held: dict[IPAddress, str]
) -> tuple[str, str] | None:
    """(message, hint)"""
    network = draft.networks[name]
    subnet = subnet_of(network, address)
    if subnet is None:
        return f"`{address}` is outside the subnets of network `{name}`", f"choose one in {listing(map(str, subnets(network)))}"
    if special := special_address(subnet, address):
        return f"`{address}` is {special} of {subnet}", "write another address"
    if address in held:
        return f"`{address}` is {held[address]}", "write an address that nobody has"
    owner = underlay_of(draft, network).get(address)
    if owner is not None and (owner != router.host or not _has_hosts_address(network)):
        hint = "write another address" if owner != router.host else "write another one, for the interface made beside it"
        return f"`{address}` is the address of host `{owner}`", hint
    return None


def _has_hosts_address(network: NetworkModel) -> bool:
    """Whether the host's own address comes along, with the NIC."""
    return bool(getattr(network, "uplink", None))


def allowed_ways(draft: Draft) -> Iterator[Problem]:
    """Pairs of two different legs, each once."""
    for index, router in draft.routers.items():
        seen: set[tuple[str, str]] = set()
        for number, pair in enumerate(router.allow or ()):
            path = at(index, "allow", number)
            unknown = [name for name in pair if name not in router.legs]
            for name in unknown[:1]:
                hint = f"{closest(name, list(router.legs))}legs: {listing(router.legs)}"
                yield Problem(path, f"{describe(name)} is no leg of router `{router.name}`", hint)
            if not unknown and pair[0] == pair[1]:
                yield Problem(path, f"from `{pair[0]}` to itself", "delete it: a network's own traffic needs no router")
            if pair in seen:
                yield Problem(path, f"from `{pair[0]}` to `{pair[1]}` a second time", "delete one of the two")
            seen.add(pair)


ROUTER_CHECKS: tuple[Callable[[Draft], Iterator[Problem]], ...] = (
    router_names,
    router_host,
    legs_stand,
    leg_addresses,
    allowed_ways,
)
