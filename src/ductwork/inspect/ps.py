"""What ductwork has given to containers on this host."""

from __future__ import annotations

from collections.abc import Iterator

from ductwork.goals import Observation
from ductwork.requests import Row
from ductwork.resources import (
    HOST,
    Address,
    IpvlanSpec,
    Key,
    Link,
    MacvlanSpec,
    NicSpec,
    OvsPort,
    Port,
    PortVlans,
    Resource,
    State,
    VethSpec,
    VlanSpec,
)
from ductwork.resources.ovs import PORT as OVS_PORT


def rows(observation: Observation, modes: dict[str, tuple[str, str]]) -> Iterator[Row]:
    """`modes`: container → (runtime, mode) as its runtime tells."""
    state = observation.state
    addresses: dict[Key, list[str]] = {}
    for resource in state.values():
        if isinstance(resource, Address):
            on = Key("link", resource.netns, (resource.link,))
            addresses.setdefault(on, []).append(f"{resource.address}/{resource.prefixlen}")
    for link in state.values():
        if not (isinstance(link, Link) and link.owner and link.owner.container):
            continue
        inner: Resource | None = link
        match link.spec:
            case VethSpec(peer_ifname=peer) if link.netns == HOST:
                inner, host_interface = state.get(Key("link", link.owner.container, (peer,))), link.name
                (bridge, vlan), parent = _plugged_into(link.name, state), ""
            case MacvlanSpec(parent=below) | IpvlanSpec(parent=below) if link.netns != HOST:
                (parent, vlan), host_interface, bridge = _nic_below(below, state), "", ""
            case NicSpec():
                host_interface, bridge, parent, vlan = "", "", "", None
            case _:
                continue
        runtime, mode = modes.get(link.owner.container, (link.owner.container.partition(":")[0], ""))
        yield Row(
            container=link.owner.container,
            runtime=runtime,
            mode=mode,
            interface=link.owner.interface,
            ifindex=inner.index if isinstance(inner, Link) else 0,
            host_interface=host_interface,
            bridge=bridge,
            parent=parent,
            vlan=vlan,
            mac=inner.mac if isinstance(inner, Link) else "",
            addresses=tuple(addresses.get(inner.key, ())) if isinstance(inner, Link) else (),
            network=link.owner.network,
        )


def _plugged_into(link: str, state: State) -> tuple[str, int | None]:
    """(the bridge, and the VLAN of an access port): a trunk has no one VLAN."""
    match state.get(Key("port", HOST, (link,))) or state.get(Key(OVS_PORT, HOST, (link,))):
        case Port(bridge=bridge, vlans=PortVlans(access=vid, tagged=())):
            return bridge, vid or None
        case OvsPort(bridge=bridge, tag=tag, trunks=(), vlan_mode=""):
            return bridge, tag
        case Port(bridge=bridge) | OvsPort(bridge=bridge):
            return bridge, None
    return "", None


def _nic_below(parent: str, state: State) -> tuple[str, int | None]:
    """(the NIC, and the VLAN) of what a macvlan or ipvlan is on."""
    match state.get(Key("link", HOST, (parent,))):
        case Link(spec=VlanSpec(parent=nic, vid=vid)) if nic:
            return nic, vid
    return parent, None
