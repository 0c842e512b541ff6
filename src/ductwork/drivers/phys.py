"""A NIC of the host's that moves into one container, and comes back as it was.

Nothing of it is left on the host meanwhile: its addresses, routes and parameters are kept in the journal (`lent.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from ductwork.drivers import PerHost, View, on_host
from ductwork.drivers.inside import inside
from ductwork.errors import ConflictError, DuctworkError, Problem
from ductwork.resources import Link, NicFacts, NicSpec, Resource
from ductwork.services.uplink import refuse_management, refuse_what_is_on_it
from ductwork.site.model import Attachment, Network, Site


@dataclass(frozen=True, slots=True)
class Options:
    device: PerHost = field(metadata={"help": "the NIC that moves into the container, and comes back"})


class PhysDriver:
    name: ClassVar[str] = "phys"
    Options: ClassVar[type] = Options

    def check(self, network: Network, site: Site) -> Iterator[Problem]:
        if network.mtu_bytes:
            yield Problem(("mtu",), "`mtu` of a NIC that is only lent", "delete it: the NIC keeps its own", on_key=True)
        if network.isolated:
            yield Problem(("isolated",), "`isolated` in a network of one container", "delete it", on_key=True)

    def ifname(self, network: Network, host: str) -> str:
        return on_host(_options(network).device, host) or ""

    def mtu_bytes(self, network: Network, view: View) -> int:
        """0 where it is not here, which matters to nobody while its container does not run."""
        device = self.ifname(network, view.host)
        nic = view.facts.lent.get(device) or view.facts.links.get(device)
        return nic.mtu_bytes if nic else 0

    def host_resources(self, network: Network, view: View) -> Iterable[Resource]:
        """While its container does not run, the NIC is the host's."""
        return ()

    def attachment_resources(self, network: Network, attachment: Attachment, view: View) -> Iterator[Resource]:
        nic = _nic(network, view)
        device = self.ifname(network, view.host)
        owner = view.owner(network.name, attachment)._replace(device=device, home=view.facts.cookie)
        container, interface = attachment.id
        yield Link(container, interface, nic.kind, nic.mac, nic.mtu_bytes, spec=NicSpec(device), owner=owner)
        yield from inside(network, attachment, nic.mtu_bytes, view, None)


def _options(network: Network) -> Options:
    assert isinstance(network.options, Options)
    return network.options


def _nic(network: Network, view: View) -> Link:
    """The NIC, wherever it is now. Errors: `DuctworkError`, `ConflictError`: nothing was touched."""
    device = on_host(_options(network).device, view.host) or ""
    if device in view.facts.lent:
        return view.facts.lent[device]
    link = view.facts.links.get(device)
    if link is None:
        raise DuctworkError(
            f"network {network.name}: there is no NIC {device} here", "`ip link` shows the NICs; correct `device`"
        )
    known = view.facts.nics.get(device, NicFacts())
    if known.virtual or link.owner:
        message = f"network {network.name}: {device} is virtual, and would die with its container"
        hint = "`ductwork agent` can lend it, since it fetches it back; or give it a NIC with hardware, or use another driver"
        raise DuctworkError(f"{message}: nothing was touched", hint)
    if link.master_index:
        message = f"network {network.name}: {device} is a port of a bridge or bond: nothing was touched"
        raise ConflictError(message, f"take it out first: ip link set dev {device} nomaster")
    refuse_what_is_on_it(link, network.name, view)
    refuse_management(link, known, "the container", network.name)
    return link
