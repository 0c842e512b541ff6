"""Containers on the LAN with MACs of their own, on a NIC of the host's that stays the host's.

No bridge and no pair of interfaces: the kernel sorts the NIC's frames by their MAC. Host and containers never hear each
other through the NIC (`host_access`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from ductwork.drivers import PerHost, PerHostAddress, View, on_parent
from ductwork.errors import Problem
from ductwork.resources import HOST, Resource, Sysctl
from ductwork.resources.sysctl import promisc_path
from ductwork.services.parent import PASSTHRU, refuse_passthru, refuse_wireless
from ductwork.site.model import Attachment, Network, Site


@dataclass(frozen=True, slots=True)
class Options:
    parent: PerHost = field(metadata={"help": on_parent.PARENT_HELP})
    vlan: int | None = field(default=None, metadata={"help": on_parent.VLAN_HELP} | on_parent.VLAN_LIMITS)
    mode: Literal["bridge", "private", "vepa", "passthru"] = field(
        default="bridge", metadata={"help": "who of one parent's reaches whom without the switch"}
    )
    promisc: bool = field(default=True, metadata={"help": "the parent NIC takes frames for any MAC"})
    host_access: PerHostAddress = field(
        default_factory=lambda: PerHostAddress({}), metadata={"help": on_parent.HOST_ACCESS_HELP}
    )


class MacvlanDriver:
    name: ClassVar[str] = "macvlan"
    Options: ClassVar[type] = Options

    def check(self, network: Network, site: Site) -> Iterable[Problem]:
        return on_parent.problems(network)

    def ifname(self, network: Network, host: str) -> str:
        return on_parent.ifname(network, host)

    def mtu_bytes(self, network: Network, view: View) -> int:
        return on_parent.mtu_bytes(network, view)

    def host_resources(self, network: Network, view: View) -> Iterator[Resource]:
        options = _options(network)
        parent = on_parent.parent_of(network, view)
        refuse_wireless(parent, network.name, view)
        if options.mode == PASSTHRU:
            refuse_passthru(parent, network.name, view)
        if options.promisc:
            yield Sysctl(HOST, promisc_path(parent.nic.name), "1", owner=view.owner(network.name))
        yield from on_parent.host_resources(network, view)

    def attachment_resources(self, network: Network, attachment: Attachment, view: View) -> Iterable[Resource]:
        return on_parent.attachment_resources(network, attachment, view)


def _options(network: Network) -> Options:
    assert isinstance(network.options, Options)
    return network.options
