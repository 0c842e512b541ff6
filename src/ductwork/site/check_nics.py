"""What can be wrong with the NICs of a host that networks use, and with the networks of somebody else's behind them.
See `checks.py`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ductwork.drivers import on_host
from ductwork.errors import Problem
from ductwork.resources import IPAddress
from ductwork.site import values
from ductwork.site.check_bridges import made_interfaces
from ductwork.site.check_networks import Path, at, underlay_of
from ductwork.site.draft import (
    NIC_KEYS,
    Draft,
    bridge_name,
    gateways,
    has_bridge,
    is_external,
    parent_device,
    per_host,
    subnet_of,
    subnets,
)
from ductwork.site.model import Rate
from ductwork.site.schema import NetworkModel
from ductwork.site.values import listing, special_address


class Use(NamedTuple):
    """What a network does with a NIC of one host."""

    network: str
    key: str
    nic: str
    path: Path
    bridge: str = ""
    """Of an uplink."""


def nic_names(draft: Draft) -> Iterator[Problem]:
    for name, network in draft.networks.items():
        for key in (*NIC_KEYS, "underlay"):
            for path, _, nic in per_host(network, key):
                try:
                    values.interface_name(nic)
                except values.Refused as error:
                    yield Problem(at(name, path), f"`{key}`: {error.message}", error.hint)


def nic_for_each_host(draft: Draft) -> Iterator[Problem]:
    """Of a network beyond a NIC, each host that it is on names its NIC."""
    for name, network in draft.networks.items():
        for key in NIC_KEYS:
            named = getattr(network, key, None)
            if named is None or (key == "uplink" and not named) or (named and not draft.host_names):
                continue
            for host in draft.hosts_of[name]:
                if on_host(named, host) is None:
                    whose = f" of host `{host}`, and network `{name}` is on it" if host else ""
                    hint = f"add `{host}: NIC`, or write one name for all hosts" if host else f"write `{key}: NIC`"
                    yield Problem(at(name, (key,)), f"`{key}` names no NIC{whose}", hint, on_key=True)


def nics_used_once(draft: Draft) -> Iterator[Problem]:
    """A NIC is one thing: a bridge's port, or what macvlans hang on, or in a container. And it is not made by us."""
    told: set[Path] = set()
    for host, names in draft.networks_by_host():
        made = {interface: what for interface, _, what in made_interfaces(draft, host, names)}
        seen: dict[str, list[Use]] = defaultdict(list)
        for use in _uses(draft, host, names):
            problem = _not_a_nic(use, made) or next(filter(None, (_clash(use, other) for other in seen[use.nic])), None)
            if problem is None:
                seen[use.nic].append(use)
            elif use.path not in told:
                told.add(use.path)
                where = f" on host `{host}`" if host else ""
                yield Problem(use.path, problem[0] + where, problem[1])


def _uses(draft: Draft, host: str, names: list[str]) -> Iterator[Use]:
    for name in names:
        network = draft.networks[name]
        for key in (*NIC_KEYS, "underlay"):
            for path, where, nic in per_host(network, key):
                if where in (host, ""):
                    yield Use(name, key, nic, at(name, path), bridge_name(name, network) if key == "uplink" else "")


def _not_a_nic(use: Use, made: dict[str, str]) -> tuple[str, str] | None:
    """(message, hint)"""
    if use.nic not in made:
        return None
    what = made[use.nic]
    if what.startswith("VLAN "):
        nic, _, vlan = use.nic.rpartition(".")
        return f"`{use.nic}` is {what}, which is made by ductwork", f"write `{nic}` here, and `vlan: {vlan}` beside it"
    hint = "write the name of a NIC that the host has by itself"
    if use.key == "underlay":
        hint += ": the tunnel goes out by its bridge where it is an `uplink`"
    return f"`{use.nic}` is made by ductwork for {what}", hint


def _clash(use: Use, other: Use) -> tuple[str, str] | None:
    """(message, hint)"""
    keys = {use.key, other.key}
    if "device" in keys:
        hint = "a NIC that moves into a container has no other use: write another"
    elif keys == {"uplink"}:
        if use.bridge == other.bridge:
            return None
        hint = f"write `bridge: {other.bridge}` in both, and a `vlan` in one, or another NIC"
    elif keys == {"uplink", "parent"}:
        hint = "give both networks the driver of the one with `uplink`, and a `vlan` to one, or write another NIC"
    else:
        return None
    return f"`{use.nic}` is the `{other.key}` of network `{other.network}` already", hint


def parents(draft: Draft) -> Iterator[Problem]:
    """What the kernel lets networks on one parent, or on one VLAN of it, be (drivers/net/macvlan.c, drivers/net/ipvlan)."""
    told: set[Path] = set()
    for host, names in draft.networks_by_host():
        first_on: dict[str, str] = {}
        for name in names:
            device = parent_device(draft.networks[name], host)
            other = first_on.setdefault(device, name)
            if device and other != name:
                for key, message, hint in _unlike(device, other, draft.networks[other], draft.networks[name]):
                    if at(name, (key,)) not in told:
                        told.add(at(name, (key,)))
                        yield Problem(at(name, (key,)), message, hint)


def _unlike(device: str, name: str, one: NetworkModel, two: NetworkModel) -> Iterator[tuple[str, str, str]]:
    """(key, message, hint)"""
    way_out = "or another NIC, or a `vlan`"
    modes = [getattr(each, "mode", "") for each in (one, two)]
    if one.driver != two.driver:
        message = f"`{device}` is the parent of network `{name}`, of the driver `{one.driver}`, and takes no other beside it"
        yield "driver", message, f"write `{one.driver}` here too, {way_out}"
    elif "passthru" in modes:
        message = f"`{device}` is the parent of network `{name}` too, and with the mode `passthru` it has one interface alone"
        yield "mode", message, f"write another mode, {way_out}"
    elif one.driver == "ipvlan" and modes[0] != modes[1]:
        message = f"`{device}` is in the mode `{modes[0]}` for network `{name}`, and an ipvlan parent has one mode"
        yield "mode", message, f"write `mode: {modes[0]}` here too, {way_out}"


def one_container(draft: Draft) -> Iterator[Problem]:
    """A NIC that moves, or is passed through, is one container's on each host."""
    for name, network in draft.networks.items():
        if not hasattr(network, "device") and getattr(network, "mode", None) != "passthru":
            continue
        what = "its `device`" if hasattr(network, "device") else "a `parent` of the mode `passthru`"
        holder: dict[str, str] = {}
        for plug in draft.plugs_of[name]:
            if plug.model.host in holder:
                message = f"{what} is in container `{holder[plug.model.host]}` already, and can be in one alone"
                yield Problem(plug.path, message, "give each container a network and a NIC of its own")
            holder.setdefault(plug.model.host, plug.model.container)


def others_networks(draft: Draft) -> Iterator[Problem]:
    """Beyond a NIC, addresses are translated and ways found by somebody else."""
    for name, network in draft.networks.items():
        key = next((key for key in NIC_KEYS if getattr(network, key, None)), None)
        if key is None:
            continue
        if network.internal:
            hint = f"delete it, or `{key}`; what has no `gateway` has no way out of the LAN"
            yield Problem(at(name, ("internal",)), f"`internal` in a network with `{key}`", hint, on_key=True)
        elif network.nat is not None and network.nat.mode != "none":
            message = f"`nat` in a network with `{key}`: its gateway is another machine"
            yield Problem(at(name, ("nat",)), message, "delete it, and let the LAN's router translate", on_key=True)
        if network.host_addresses and key != "uplink":
            hint = "write `host_access: ADDRESS`, which makes one" if hasattr(network, "host_access") else "delete it"
            message = f"`host_addresses` in a network with `{key}`, in which the host has no interface"
            yield Problem(at(name, ("host_addresses",)), message, hint, on_key=True)


def host_access(draft: Draft) -> Iterator[Problem]:
    """An address for each host's own interface on a parent, and nobody else's."""
    for name, network in draft.networks.items():
        seen: dict[IPAddress, str] = {}
        for path, host, address in per_host(network, "host_access"):
            where = at(name, path)
            if not host and len(draft.hosts_of[name]) > 1:
                message = f"one address for {len(draft.hosts_of[name])} hosts: each needs its own"
                yield Problem(where, message, f"write `host_access: {{{draft.hosts_of[name][0]}: ADDRESS, …}}`")
            if problem := _access_address(draft, network, address, seen):
                yield Problem(where, *problem)
            seen.setdefault(address, host)
        mode = getattr(network, "mode", None)
        if seen and mode in ("private", "passthru"):
            reason = "whose interfaces do not see each other" if mode == "private" else "which has one interface alone"
            message = f"`host_access` with the mode `{mode}`, {reason}"
            yield Problem(at(name, ("host_access",)), message, "delete it, or write `mode: bridge`", on_key=True)


def _access_address(
    draft: Draft, network: NetworkModel, address: IPAddress, seen: dict[IPAddress, str]
) -> tuple[str, str] | None:
    """(message, hint). That no attachment has it, `address_fits` sees to."""
    subnet = subnet_of(network, address)
    if subnet is None:
        places = listing(map(str, subnets(network)))
        return (f"`{address}` is outside the network's subnets", f"choose one in {places}") if places else None
    if special := special_address(subnet, address):
        return f"`{address}` is {special} of {subnet}", "write another address"
    if address in gateways(network):
        return f"`{address}` is the network's gateway", "write another: that is the LAN's router"
    if address in seen:
        return f"`{address}` is here twice", f"write another; `{seen[address]}` has it already"
    if owner := underlay_of(draft, network).get(address):
        return f"`{address}` is the address of host `{owner}`", "write another: this one is for the interface made beside it"
    return None


def keys_of_interfaces(draft: Draft) -> Iterator[Problem]:
    """What an attachment cannot say of an interface on a parent, or of a NIC that is lent to it."""
    for plug in draft.plugs:
        network = plug.network
        if network is None or has_bridge(network):
            continue
        mode = getattr(network, "mode", None)
        if plug.model.mac and (network.driver != "macvlan" or mode == "passthru"):
            whose = "the NIC keeps its own" if network.driver == "phys" else "its interfaces have the MAC of their parent"
            where = f"a network of the mode `{mode}`" if mode == "passthru" else f"a network of the driver `{network.driver}`"
            yield Problem((*plug.path, "mac"), f"`mac` in {where}: {whose}", "delete it", on_key=True)
        if plug.model.mtu is not None and network.driver == "phys":
            message = "`mtu` in a network of the driver `phys`: the NIC keeps its own"
            yield Problem((*plug.path, "mtu"), message, "delete it", on_key=True)
        if plug.model.rate != Rate():
            message = f"`rate` in a network of the driver `{network.driver}`: nothing on the host could hold a container to it"
            yield Problem((*plug.path, "rate"), message, "delete it, or use `driver: bridge` with `uplink`", on_key=True)


def lan_addresses(draft: Draft) -> Iterator[Problem]:
    """Nothing is taken from a LAN without being told what."""
    for name, network in draft.networks.items():
        versions = {subnet.version for subnet in subnets(network)}
        if not is_external(network) or not versions or (versions == {6} and network.ipv6 == "slaac"):
            continue
        for plug in draft.plugs_of[name]:
            if not plug.model.address and not on_host(network.allocate, plug.model.host):
                message = f"no address, and the LAN of network `{name}` is not ours to choose from"
                hint = "write `address:`, or give the network an `allocate` range that the LAN's DHCP server leaves alone"
                yield Problem(plug.path, message, hint)


NIC_CHECKS: tuple[Callable[[Draft], Iterator[Problem]], ...] = (
    nic_names,
    nic_for_each_host,
    nics_used_once,
    parents,
    one_container,
    others_networks,
    host_access,
    keys_of_interfaces,
    lan_addresses,
)
