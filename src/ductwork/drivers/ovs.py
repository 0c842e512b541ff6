"""Containers on an Open vSwitch bridge: each a port in its network's VLAN, the NIC a trunk of all of them.

Networks of one bridge (`ovs0` where the file names none) have VLANs of their own; one without is in the untagged one, which
is the host's. The bridge's device has the host's addresses, with an `uplink` those of the NIC.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from ductwork.drivers import PerHost, View, on_host
from ductwork.drivers.bridged import (
    bridge_resources,
    no_router_advertisements,
    pair,
    probe_on,
    routed_by,
    underlay_mtu,
    unnameable,
    vlan_device,
)
from ductwork.drivers.inside import inside
from ductwork.errors import Problem
from ductwork.naming import host_ifname, mac_address
from ductwork.resources import HOST, Link, OvsBridge, OvsDeaf, OvsPort, OvsSpec, Owner, Resource, Sysctl
from ductwork.resources.sysctl import checksum_path, gro_path
from ductwork.services import openflow
from ductwork.services.rate import limits
from ductwork.services.ruleset import deaf_table
from ductwork.services.uplink import takeover, uplink_nic
from ductwork.site.model import Attachment, Network, Site

DEFAULT_BRIDGE = "ovs0"


@dataclass(frozen=True, slots=True)
class Options:
    bridge: str = field(default=DEFAULT_BRIDGE, metadata={"help": "name of the bridge", "pattern": r"^[^\s/:]{1,15}$"})
    uplink: PerHost = field(
        default_factory=lambda: PerHost({}),
        metadata={"help": "NIC that becomes its port, a trunk; its addresses, routes and MAC move to the bridge"},
    )
    vlan: int | None = field(default=None, metadata={"help": "VLAN of the containers' ports", "ge": 1, "le": 4094})
    datapath: Literal["system", "netdev"] = field(
        default="system", metadata={"help": "system: the kernel's; netdev: Open vSwitch's own, in user space"}
    )
    ovsdb: PerHost = field(
        default_factory=lambda: PerHost({}),
        metadata={
            "help": "address of the database, unix:PATH or tcp:HOST:PORT; default: this machine's",
            "pattern": r"^(unix:/.+|tcp:.+:[0-9]+)$",
        },
    )


class OvsDriver:
    name: ClassVar[str] = "ovs"
    Options: ClassVar[type] = Options

    def check(self, network: Network, site: Site) -> Iterator[Problem]:
        yield from unnameable(_options(network).bridge)
        limited = [plug for plug in site.attachments if plug.network == network.name and plug.rate.egress]
        if limited and _options(network).datapath == "netdev":
            message = f"`rate: egress` of {limited[0].container}: a switch in user space hears what is sent before any limit"
            yield Problem(("datapath",), message, "delete it, or write `datapath: system`")

    def ifname(self, network: Network, host: str) -> str:
        return _options(network).bridge

    def mtu_bytes(self, network: Network, view: View) -> int:
        nic = view.facts.links.get(_uplink(network, view))
        return network.mtu_bytes or (nic.mtu_bytes if nic else underlay_mtu(view))

    def host_resources(self, network: Network, view: View) -> Iterator[Resource]:
        options, mtu = _options(network), self.mtu_bytes(network, view)
        bridge, database = options.bridge, _database(network, view)
        sharing = [other for other in _sharing(network, view) if view.host in view.site.hosts_of(other.name)]
        nic = next(filter(None, (_uplink(other, view) for other in sharing)), "")
        owner = view.owner(uplink=nic)
        if nic:
            taken = uplink_nic(nic, bridge, network.name, view)
            mac, its_mtu = taken.mac, taken.mtu_bytes
        else:
            mac, its_mtu = mac_address(view.seed, bridge, "ovs"), max(self.mtu_bytes(other, view) for other in sharing)
        yield OvsBridge(bridge, options.datapath, mac, its_mtu, owner, database)
        yield Link(HOST, bridge, "ovs", mac, its_mtu, spec=OvsSpec(), owner=owner)
        if nic:
            yield OvsPort(nic, bridge, owner=owner, database=database)
            yield from takeover(nic, bridge, view, owner)
            yield from openflow.peers([other for other in sharing if other.isolated], view, bridge, owner, database)
            if options.datapath == "netdev":
                yield from _deaf(nic, owner)
                # What a NIC has put together is too long for a switch in user space (3.1: "Too big. GRO/TSO enabled?").
                yield Sysctl(HOST, gro_path(nic), "0", owner=owner)
        else:
            yield from no_router_advertisements(bridge, its_mtu, owner)
        device = routed_by(network, bridge, options.vlan, view.host)
        if options.vlan and device:
            yield from vlan_device(network, bridge, device, options.vlan, mtu, view)
        probe = probe_on(_uplink(network, view), bridge, options.vlan, view)
        yield from bridge_resources(network, bridge, device, mtu, view, probe)

    def attachment_resources(self, network: Network, attachment: Attachment, view: View) -> Iterator[Resource]:
        options, mtu = _options(network), self.mtu_bytes(network, view)
        owner = view.owner(network.name, attachment)
        container, interface = attachment.id
        yield from pair(attachment, mtu, view)
        outer, database = host_ifname(container, interface), _database(network, view)
        # Without a tag, the untagged VLAN: a port that says nothing is a trunk of all VLANs.
        tag = options.vlan or 0
        yield OvsPort(outer, options.bridge, tag, protected=network.isolated, owner=owner, database=database)
        apart = network.isolated and bool(_uplink(network, view))
        yield from openflow.guard(network, attachment, view, options.bridge, owner, database, apart=apart)
        if options.datapath == "netdev":
            yield from _deaf(outer, owner)
            # In user space nobody makes up for checksums that are left to the interface.
            yield Sysctl(container, checksum_path(interface), "0", link=interface, owner=owner)
        yield from limits(attachment, attachment.mtu_bytes or mtu, owner, view.seed)
        probe = probe_on(_uplink(network, view), options.bridge, options.vlan, view)
        yield from inside(network, attachment, attachment.mtu_bytes or mtu, view, probe)


def _deaf(link: str, owner: Owner) -> Iterator[Resource]:
    yield deaf_table(owner)
    yield OvsDeaf(link, owner)


def _options(network: Network) -> Options:
    assert isinstance(network.options, Options)
    return network.options


def _uplink(network: Network, view: View) -> str:
    return on_host(_options(network).uplink, view.host) or ""


def _database(network: Network, view: View) -> str:
    return on_host(_options(network).ovsdb, view.host) or ""


def _sharing(network: Network, view: View) -> list[Network]:
    """The site's networks on the same bridge, this one included."""
    name = _options(network).bridge
    return [other for other in view.site.networks.values() if other.driver == "ovs" and _options(other).bridge == name]
