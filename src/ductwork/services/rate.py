"""Limits of an attachment's rate, at the host's end of its pair.

Invariant: pure. Without limits there is nothing; the kernel's own queues stay.
"""

from __future__ import annotations

from collections.abc import Iterator

from ductwork.naming import host_ifname, ifb_ifname, mac_address
from ductwork.resources import HOST, Link, Owner, Redirect, Resource, Shaper
from ductwork.resources.shaper import burst_bytes
from ductwork.site.model import Attachment

_OCTET = 8


def limits(attachment: Attachment, mtu_bytes: int, owner: Owner, seed: str) -> Iterator[Resource]:
    """What the container is sent is limited where it leaves the host; what it sends, on a device that it is led through."""
    container, interface = attachment.id
    outer = host_ifname(container, interface)
    if attachment.rate.ingress:
        yield _shaper(outer, attachment.rate.ingress, mtu_bytes, owner)
    if attachment.rate.egress:
        through = ifb_ifname(container, interface)
        yield Link(HOST, through, "ifb", mac_address(seed, container, interface, "ifb"), mtu_bytes, owner=owner)
        yield _shaper(through, attachment.rate.egress, mtu_bytes, owner)
        yield Redirect(HOST, outer, through, owner)


def _shaper(link: str, bits_per_second: int, mtu_bytes: int, owner: Owner) -> Shaper:
    """The kernel counts octets."""
    rate = bits_per_second // _OCTET * _OCTET
    return Shaper(HOST, link, rate, burst_bytes(rate, mtu_bytes), owner)
