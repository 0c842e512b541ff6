"""What can be wrong with a network's bridge, with the networks that share one, and with the interfaces made on a host.
See `checks.py`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator

from ductwork import naming
from ductwork.drivers import on_host
from ductwork.errors import Problem
from ductwork.site import values
from ductwork.site.check_networks import Path, at
from ductwork.site.draft import Draft, bridge_name, has_bridge, holds, own_device, parent_device, per_host
from ductwork.site.schema import NetworkModel

BRIDGE_PORTS = 1023
"""BR_MAX_PORTS in net/bridge/br_private.h, less one: port 0 does not exist."""

LINUX_BRIDGES = {"bridge", "vxlan"}

ONE_FOR_ALL = {"bridge": ("trunk", "native"), "ovs": ("datapath",)}
"""Keys of which a bridge has one value, whoever of its networks says it."""

ONE_PER_HOST = ("uplink", "ovsdb")
"""The same, by host; and all of the bridge's networks say it, or none."""

UNTAGGED_VLAN = 1
"""What a filtering Linux bridge files untagged frames under (default_pvid in net/bridge/br_vlan.c)."""


def bridge_names(draft: Draft) -> Iterator[Problem]:
    """What is written for a bridge is a name that an interface can have."""
    for name, network in draft.networks.items():
        written = getattr(network, "bridge", None)
        if isinstance(written, str):
            try:
                values.interface_name(written)
            except values.Refused as error:
                yield Problem(at(name, ("bridge",)), f"`bridge`: {error.message}", error.hint)


def shared_bridges(draft: Draft) -> Iterator[Problem]:
    """Networks on one bridge have one driver, are told apart by their VLANs, and agree on what a bridge has but one of."""
    for host, bridge, names in _by_bridge(draft):
        driver = draft.networks[names[0]].driver
        alike = [name for name in names if draft.networks[name].driver == driver]
        for name in names:
            if draft.networks[name].driver != driver:
                message = f"bridge `{bridge}` is that of network `{names[0]}` too, and made by the driver `{driver}`"
                yield Problem(at(name, ("bridge",)), message, "choose another name")
        if not all(getattr(draft.networks[name], "bridge", None) for name in alike):
            for name in alike[1:]:
                message = f"bridge `{bridge}` is that of network `{names[0]}` too, or made for it"
                yield Problem(at(name, ("bridge",)), message, "write `bridge:` in both, the same name or two")
            continue
        seen: dict[int | None, str] = {}
        for name in alike:
            vlan = getattr(draft.networks[name], "vlan", None)
            other = seen.setdefault(vlan, name)
            if other != name and vlan is None:
                hint = "give each network a bridge of its own, or all but one a `vlan`"
                yield Problem(at(name, ("bridge",)), f"bridge `{bridge}` is that of network `{other}` too", hint)
            elif other != name:
                message = f"bridge `{bridge}` has VLAN {vlan} for network `{other}` already"
                yield Problem(at(name, ("vlan",)), message, "write another `vlan`, or give each network a bridge of its own")
        yield from _disagreements(draft, host, bridge, alike)


def _by_bridge(draft: Draft) -> Iterator[tuple[str, str, list[str]]]:
    """(host, bridge, the networks that have it there), hosts that are alike once. What exists nowhere yet is looked at as if
    it were in a file without hosts."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, network in draft.networks.items():
        if has_bridge(network):
            for host in draft.hosts_of[name] or [""]:
                found[host, bridge_name(name, network)].append(name)
    told = set()
    for (host, bridge), names in found.items():
        alike = (bridge, *names, *(_per_host(draft.networks[name], key, host) for name in names for key in ONE_PER_HOST))
        if alike not in told:
            told.add(alike)
            yield host, bridge, names


def _per_host(network: NetworkModel, key: str, host: str) -> str | None:
    return on_host(getattr(network, key, {}), host)


def _disagreements(draft: Draft, host: str, bridge: str, names: list[str]) -> Iterator[Problem]:
    """Of networks of one driver."""
    said: dict[str, dict[str, object]] = {}
    for key in ONE_PER_HOST:
        said[key] = {name: _per_host(draft.networks[name], key, host) for name in names}
    for key in ONE_FOR_ALL.get(draft.networks[names[0]].driver, ()):
        found = {name: getattr(draft.networks[name], key, None) for name in names}
        said[key] = {name: value for name, value in found.items() if value}
    for key, values_of in said.items():
        for name, value in values_of.items():
            first = next(iter(values_of))
            if value != values_of[first]:
                message = f"`{key}` is not what network `{first}` has, and `{bridge}` is the bridge of both"
                hint = f"write the same `{key}` in both, or give each network a bridge of its own"
                yield Problem(at(name, (key,)), message, hint)


def carried_vlans(draft: Draft) -> Iterator[Problem]:
    """What an uplink is told to carry is what the networks of its bridge need."""
    for host, bridge, names in _by_bridge(draft):
        uplinked = [name for name in names if _per_host(draft.networks[name], "uplink", host)]
        trunk_of = next((name for name in uplinked if getattr(draft.networks[name], "trunk", None)), None)
        is_tagged = any(getattr(draft.networks[name], "native", None) for name in uplinked)
        trunk = getattr(draft.networks[trunk_of], "trunk", ()) if trunk_of else ()
        for name in uplinked:
            vlan = getattr(draft.networks[name], "vlan", None)
            if vlan and trunk and vlan not in trunk:
                message = f"VLAN {vlan} is not in the `trunk` of bridge `{bridge}`"
                yield Problem(at(name, ("vlan",)), message, f"add it there, or delete `trunk` of network `{trunk_of}`")
            if is_tagged and not vlan:
                message = f"no `vlan`, and the uplink of bridge `{bridge}` carries nothing untagged (`native: none`)"
                yield Problem(at(name, ("native",)), message, "give the network a `vlan`, or delete `native`")


def vlans_of_bridges(draft: Draft) -> Iterator[Problem]:
    """A Linux bridge that tells VLANs apart: its numbers, and which of them the uplink carries."""
    for name, network in draft.networks.items():
        if network.driver != "bridge":
            continue
        for key in ("trunk", "native"):
            if getattr(network, key, None) and not getattr(network, "uplink", None):
                yield Problem(at(name, (key,)), f"`{key}` without `uplink`", "add `uplink:`, or delete it", on_key=True)
        if getattr(network, "vlan", None) == UNTAGGED_VLAN:
            message = f"VLAN {UNTAGGED_VLAN} is the bridge's own number for untagged frames"
            yield Problem(at(name, ("vlan",)), message, "delete it, if untagged is meant, or write another number")
        if UNTAGGED_VLAN in (getattr(network, "trunk", None) or ()):
            message = f"VLAN {UNTAGGED_VLAN} is the bridge's own number for untagged frames, which are carried anyhow"
            yield Problem(at(name, ("trunk",)), message, "write the numbers from 2 on")


def vlan_names(draft: Draft) -> Iterator[Problem]:
    """The device that stands for a VLAN is called after what it is on, and interface names are short."""
    for name, network in draft.networks.items():
        vlan = getattr(network, "vlan", None)
        if not vlan:
            continue
        room = naming.IFNAMSIZ - len(f".{vlan}")
        for path, _, nic in per_host(network, "parent"):
            if room < len(nic) <= naming.IFNAMSIZ:
                message = f"the VLAN's interface would be `{nic}.{vlan}`, of {len(nic) + 1 + len(str(vlan))} characters"
                hint = f"{naming.IFNAMSIZ} are the most: rename the NIC, or make its VLAN yourself and write that as `parent`"
                yield Problem(at(name, path), message, hint)
        bridge = bridge_name(name, network)
        if has_bridge(network) and room < len(bridge) and any(holds(network, host) for host in draft.hosts_of[name]):
            device = own_device(name, network)
            message = f"the host's interface in the VLAN would be `{device}`, of {len(device)} characters"
            hint = f"{naming.IFNAMSIZ} are the most: write a `bridge` of at most {room}"
            yield Problem(at(name, ("bridge",)), message, hint)


def bridge_ports(draft: Draft) -> Iterator[Problem]:
    networks = {name: network for name, network in draft.networks.items() if network.driver in LINUX_BRIDGES}
    bridges = {name: bridge_name(name, network) for name, network in networks.items()}
    ports: dict[tuple[str, str], int] = {}
    for name, network in networks.items():
        for host in draft.hosts_of[name]:
            has_nic = network.driver == "vxlan" or _per_host(network, "uplink", host)
            ports.setdefault((host, bridges[name]), 1 if has_nic else 0)
    for plug in draft.plugs:
        name, host = plug.model.network, plug.model.host
        where = (host, bridges.get(name, ""))
        if where in ports:
            ports[where] += 1
            if ports[where] == BRIDGE_PORTS + 1:
                on = f" on host `{host}`" if host else ""
                message = f"the bridge of network `{name}` has more than {BRIDGE_PORTS:,} ports{on}, and can have no more"
                yield Problem(plug.path, message, "spread the containers over several bridges or hosts")


def interface_collisions(draft: Draft) -> Iterator[Problem]:
    """Names that we make for a host's interfaces are digests where they are long: two could be the same."""
    for host, names in draft.networks_by_host():
        seen: dict[str, str] = {}
        for name, path, what in made_interfaces(draft, host, names):
            other = seen.setdefault(name, what)
            if other != what:
                message = f"the interface `{name}` would be made for {what} and for {other}"
                yield Problem(path, message, "rename one of them")


def made_interfaces(draft: Draft, host: str, names: list[str]) -> Iterator[tuple[str, Path, str]]:
    """(interface, path, what it is for); of networks on one bridge, `shared_bridges` tells."""
    bridges = set()
    for name in names:
        network = draft.networks[name]
        if not has_bridge(network):
            yield from _made_on_parent(name, network, host)
            continue
        bridge = bridge_name(name, network)
        if bridge not in bridges:
            yield bridge, at(name, ("bridge",)), f"network `{name}`"
        bridges.add(bridge)
        if own_device(name, network) != bridge and holds(network, host):
            yield own_device(name, network), at(name, ("vlan",)), f"the VLAN of network `{name}`"
        if network.driver == "vxlan":
            yield naming.vxlan_ifname(name), at(name), f"the tunnel of network `{name}`"
        for plug in draft.plugs_of[name]:
            if plug.model.host == host:
                made = naming.host_ifname(plug.model.container, plug.interface)
                yield made, plug.path, f"`{plug.interface}` of container `{plug.model.container}`"


def _made_on_parent(name: str, network: NetworkModel, host: str) -> Iterator[tuple[str, Path, str]]:
    """The VLAN of a NIC, which several networks may share, and the host's own interface."""
    vlan, device = getattr(network, "vlan", None), parent_device(network, host)
    if vlan and device:
        yield device, at(name, ("vlan",)), f"VLAN {vlan} of `{device.removesuffix(f'.{vlan}')}`"
    if network.legs.get(host):
        yield naming.bridge_ifname(name), at(name), f"the router's leg in network `{name}`"
    elif on_host(getattr(network, "host_access", {}), host):
        yield naming.bridge_ifname(name), at(name, ("host_access",)), f"`host_access` of network `{name}`"


BRIDGE_CHECKS: tuple[Callable[[Draft], Iterator[Problem]], ...] = (
    bridge_names,
    shared_bridges,
    carried_vlans,
    vlans_of_bridges,
    vlan_names,
    bridge_ports,
    interface_collisions,
)
