"""Containers on the LAN with the NIC's own MAC: the kernel sorts its frames by their addresses.

For networks that let one MAC per port through: Wi-Fi, many clouds, switches with port security. Mode l2 is the LAN's layer 2;
in l3 and l3s the host routes what the containers send, and the LAN routes to the host what is for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from ductwork.drivers import PerHost, PerHostAddress, View, on_parent
from ductwork.drivers.inside import has_layer_2
from ductwork.errors import Problem
from ductwork.resources import Resource
from ductwork.site.model import Attachment, Network, Site


@dataclass(frozen=True, slots=True)
class Options:
    parent: PerHost = field(metadata={"help": on_parent.PARENT_HELP})
    vlan: int | None = field(default=None, metadata={"help": on_parent.VLAN_HELP} | on_parent.VLAN_LIMITS)
    mode: Literal["l2", "l3", "l3s"] = field(
        default="l2", metadata={"help": "l2: on the LAN; l3: routed by the host; l3s: the same, through its packet filter"}
    )
    host_access: PerHostAddress = field(
        default_factory=lambda: PerHostAddress({}), metadata={"help": on_parent.HOST_ACCESS_HELP}
    )


class IpvlanDriver:
    name: ClassVar[str] = "ipvlan"
    Options: ClassVar[type] = Options

    def check(self, network: Network, site: Site) -> Iterator[Problem]:
        yield from on_parent.problems(network)
        if not has_layer_2(network):
            yield from _without_layer_2(network, site)

    def ifname(self, network: Network, host: str) -> str:
        return on_parent.ifname(network, host)

    def mtu_bytes(self, network: Network, view: View) -> int:
        return on_parent.mtu_bytes(network, view)

    def host_resources(self, network: Network, view: View) -> Iterable[Resource]:
        return on_parent.host_resources(network, view)

    def attachment_resources(self, network: Network, attachment: Attachment, view: View) -> Iterable[Resource]:
        return on_parent.attachment_resources(network, attachment, view)


def _without_layer_2(network: Network, site: Site) -> Iterator[Problem]:
    """What the modes l3 and l3s cannot have."""
    mode = on_parent.options_of(network).mode
    if network.gateways:
        message = f"`gateway`: mode {mode} has no layer 2 to reach one by; the host routes what the containers send"
        yield Problem(("gateway",), message, "delete it; the containers have a default route without", on_key=True)
    plugs = on_parent.plugs_of(network, site)
    if any(not isinstance(plug.gateway, bool | None) for plug in plugs):
        message = f"an attachment has an address as its `gateway`, and mode {mode} has no layer 2 to reach it by"
        yield Problem(("mode",), message, "write `gateway: true` or `false` there")
    if len({plug.host for plug in plugs}) > 1:
        message = f"mode {mode} has no layer 2 that could join the containers of several hosts"
        hint = "give each host a network and a subnet of its own, and the LAN's router a route to each; or use `mode: l2`"
        yield Problem(("mode",), message, hint)
