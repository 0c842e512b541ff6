"""Isolated networks that are more than one bridge (`Network.apart`): what the bridge's own isolation of its ports does not
reach. For ports of Open vSwitch, `openflow.py` says the same in flows.

Invariant: pure. A frame from such a container to another one of the file goes nowhere: neither by the wire to another host nor
by a router of the LAN that sends it back. What is meant for everybody is still heard on other hosts; what answers is not.
"""

from __future__ import annotations

from collections.abc import Iterator

from ductwork.drivers import View
from ductwork.naming import host_ifname
from ductwork.resources import IPInterface, NftElement, Owner
from ductwork.services.ruleset import TABLE
from ductwork.site.model import Attachment, Network


def peers(network: Network, view: View) -> Iterator[NftElement]:
    """What the network's containers have, on whatever hosts; of those elsewhere, what the file says."""
    owner = view.owner(network.name)
    for mac, addresses in had(network, view):
        yield NftElement("bridge", TABLE, "peers_mac", (mac,), owner=owner)
        for address in addresses:
            yield NftElement("bridge", TABLE, f"peers{address.version}", (str(address.ip),), owner=owner)


def had(network: Network, view: View) -> Iterator[tuple[str, tuple[IPInterface, ...]]]:
    """Each container's MAC and addresses."""
    for attachment in view.site.attachments:
        if attachment.network == network.name:
            here = attachment.host == view.host
            yield attachment.mac, view.addresses.get(attachment.id, ()) if here else attachment.addresses


def apart(attachment: Attachment, view: View) -> NftElement:
    """That the container's port is one of those."""
    owner = Owner(*view.owner(attachment.network, attachment)[:3])
    return NftElement("bridge", TABLE, "apart", (host_ifname(*attachment.id),), owner=owner)
