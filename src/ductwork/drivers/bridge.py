"""Containers of one host on a Linux bridge of ours."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

from ductwork.drivers import View
from ductwork.drivers.bridged import bridge_resources, underlay_mtu, veth_resources
from ductwork.errors import Problem
from ductwork.naming import bridge_ifname
from ductwork.resources import Resource
from ductwork.site.model import Attachment, Network, Site


@dataclass(frozen=True, slots=True)
class Options:
    bridge: str | None = field(default=None, metadata={"help": "name of the bridge", "pattern": r"^[^\s/:]{1,15}$"})


class BridgeDriver:
    name: ClassVar[str] = "bridge"
    Options: ClassVar[type] = Options

    def check(self, network: Network, site: Site) -> Iterable[Problem]:
        bridge = self.ifname(network)
        if set(bridge) & set('"*'):
            message = f"`bridge`: `{bridge}` has a `*` or a quotation mark in it, which no rule of nftables can name"
            yield Problem(("bridge",), message, "choose a name without, such as `br1`")

    def ifname(self, network: Network) -> str:
        assert isinstance(network.options, Options)
        return network.options.bridge or bridge_ifname(network.name)

    def mtu_bytes(self, network: Network, view: View) -> int:
        return network.mtu_bytes or underlay_mtu(view)

    def host_resources(self, network: Network, view: View) -> Iterable[Resource]:
        return bridge_resources(network, self.ifname(network), self.mtu_bytes(network, view), view)

    def attachment_resources(self, network: Network, attachment: Attachment, view: View) -> Iterable[Resource]:
        return veth_resources(network, self.ifname(network), self.mtu_bytes(network, view), attachment, view)
