"""Containers of one host on a Linux bridge of ours: by themselves, or on the LAN through a NIC that becomes its port.

Networks of one bridge have VLANs of their own. Where a network has one, the bridge tells VLANs apart: a container's port is
an access port of it, the uplink carries it tagged, and what the host itself has in it is on a device on top of the bridge.
Untagged frames are in VLAN 1 inside the bridge, which is the host's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from ductwork.drivers import PerHost, View, VlanIds, on_host
from ductwork.drivers.bridged import (
    bridge_resources,
    no_router_advertisements,
    probe_on,
    routed_by,
    underlay_mtu,
    unnameable,
    veth_resources,
    vlan_device,
)
from ductwork.errors import Problem
from ductwork.naming import bridge_ifname, mac_address
from ductwork.resources import (
    HOST,
    NATIVE_VLAN,
    BridgeSpec,
    Link,
    Owner,
    Port,
    PortVlans,
    Resource,
)
from ductwork.services import isolation
from ductwork.services.uplink import takeover, uplink_nic
from ductwork.site.model import Attachment, Network, Site

_VLAN = {"ge": 1, "le": 4094}


@dataclass(frozen=True, slots=True)
class Options:
    bridge: str | None = field(default=None, metadata={"help": "name of the bridge", "pattern": r"^[^\s/:]{1,15}$"})
    uplink: PerHost = field(
        default_factory=lambda: PerHost({}),
        metadata={"help": "NIC that becomes its port; its addresses, routes and MAC move to the bridge"},
    )
    vlan: int | None = field(
        default=None, metadata={"help": "VLAN of the containers, on a bridge that tells VLANs apart"} | _VLAN
    )
    trunk: VlanIds = field(
        default=VlanIds(()),
        metadata={"help": "VLANs and ranges that the uplink carries tagged; default: those of the bridge's networks"},
    )
    native: Literal["none"] | None = field(
        default=None, metadata={"help": "none: untagged frames are dropped; default: they are the host's"}
    )


class BridgeDriver:
    name: ClassVar[str] = "bridge"
    Options: ClassVar[type] = Options

    def check(self, network: Network, site: Site) -> Iterable[Problem]:
        return unnameable(self.ifname(network, ""))

    def ifname(self, network: Network, host: str) -> str:
        return _options(network).bridge or bridge_ifname(network.name)

    def mtu_bytes(self, network: Network, view: View) -> int:
        nic = view.facts.links.get(_uplink(network, view))
        return network.mtu_bytes or (nic.mtu_bytes if nic else underlay_mtu(view))

    def host_resources(self, network: Network, view: View) -> Iterator[Resource]:
        bridge, mtu = self.ifname(network, view.host), self.mtu_bytes(network, view)
        sharing = [other for other in _sharing(network, view) if view.host in view.site.hosts_of(other.name)]
        nic = next(filter(None, (_uplink(other, view) for other in sharing)), "")
        owner = view.owner("" if _options(network).bridge else network.name, uplink=nic)
        link = self._bridge(network, sharing, nic, owner, view)
        yield link
        if nic:
            yield Port(HOST, nic, bridge, owner, _uplink_vlans(sharing))
            yield from takeover(nic, bridge, view, owner)
        else:
            yield from no_router_advertisements(bridge, mtu, owner)
        vlan = _options(network).vlan
        device = routed_by(network, bridge, vlan, view.host)
        if vlan and device:
            yield from vlan_device(network, bridge, device, vlan, mtu, view, link.mac)
        probe = probe_on(_uplink(network, view), bridge, vlan, view)
        yield from bridge_resources(network, bridge, device, mtu, view, probe)
        if network.apart:
            yield from isolation.peers(network, view)

    def _bridge(self, network: Network, sharing: list[Network], nic: str, owner: Owner, view: View) -> Link:
        """The same for all the networks on it."""
        name = self.ifname(network, view.host)
        if nic:
            taken = uplink_nic(nic, name, network.name, view)
            mac, mtu = taken.mac, taken.mtu_bytes
        else:
            mac = mac_address(view.seed, _options(network).bridge or network.name, "bridge")
            mtu = max(self.mtu_bytes(other, view) for other in sharing)
        spec = None
        if any(map(_tells_vlans_apart, sharing)):
            routed = {_options(other).vlan for other in sharing if routed_by(other, name, _options(other).vlan, view.host)}
            native = all(_options(other).native is None for other in sharing)
            spec = BridgeSpec(native, tuple(sorted(vlan for vlan in routed if vlan)))
        return Link(HOST, name, "bridge", mac, mtu, spec=spec, owner=owner)

    def attachment_resources(self, network: Network, attachment: Attachment, view: View) -> Iterator[Resource]:
        bridge, mtu = self.ifname(network, view.host), self.mtu_bytes(network, view)
        known = view.facts.links.get(bridge)
        apart = any(map(_tells_vlans_apart, _sharing(network, view))) or (known is not None and known.spec is not None)
        vlans = PortVlans(_options(network).vlan or NATIVE_VLAN) if apart else None
        probe = probe_on(_uplink(network, view), bridge, _options(network).vlan, view)
        yield from veth_resources(network, bridge, mtu, attachment, view, vlans=vlans, probe=probe)
        if network.apart:
            yield isolation.apart(attachment, view)


def _options(network: Network) -> Options:
    assert isinstance(network.options, Options)
    return network.options


def _uplink(network: Network, view: View) -> str:
    """The NIC that this host gives to the network's bridge, or ""."""
    return on_host(_options(network).uplink, view.host) or ""


def _sharing(network: Network, view: View) -> list[Network]:
    """The site's networks on the same bridge, this one included: those of a bridge with a name of its own in the file."""
    name = _options(network).bridge
    if not name:
        return [network]
    return [other for other in view.site.networks.values() if other.driver == "bridge" and _options(other).bridge == name]


def _tells_vlans_apart(network: Network) -> bool:
    options = _options(network)
    return bool(options.vlan or options.trunk or options.native)


def _uplink_vlans(sharing: list[Network]) -> PortVlans | None:
    if not any(map(_tells_vlans_apart, sharing)):
        return None
    tagged = {vlan for other in sharing for vlan in (*_options(other).trunk, _options(other).vlan) if vlan}
    native = all(_options(other).native is None for other in sharing)
    return PortVlans(NATIVE_VLAN if native else 0, tuple(sorted(tagged)))
