"""What keeps a container from sending what is not its own: the elements of its port in the bridge table's sets.

Invariant: pure. A port without elements is nobody's business; one with them sends from its own MAC alone and, where the
network's addresses are known, from its own addresses alone. Its IPv6 link-local address is the one that the kernel makes of
the MAC (EUI-64): others can be made up, a router's included.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv6Address

from ductwork.naming import host_ifname
from ductwork.resources import HOST, Address, IPAddress, Key, Link, NftElement, Owner, State
from ductwork.services.ruleset import TABLE
from ductwork.site.model import Attachment, Network

PORT_SETS = frozenset({"checked", "own_mac", "own4", "own6", "any4", "any6", "apart"})
"""The sets in which an element belongs to the port that it begins with."""

_LINK_LOCAL = int(IPv6Address("fe80::"))
_UNIVERSAL = 0x02 << 56


def elements(network: Network, attachment: Attachment, addresses: Iterable[IPAddress], owner: Owner) -> Iterator[NftElement]:
    """The attachment's elements. `addresses`: those that it has in the network."""
    if attachment.spoofing == "allow":
        return
    port = host_ifname(*attachment.id)
    own = tuple(addresses)
    yield from own_elements(port, attachment.mac, own, owner)
    known = bool(own)
    if not known:
        yield _element("any4", (port,), owner)
    if not known or network.ipv6 == "slaac":
        yield _element("any6", (port,), owner)
    elif any(subnet.version == 6 for subnet in network.subnets):
        yield _own6(port, attachment.mac, link_local(attachment.mac), owner)


def own_elements(port: str, mac: str, addresses: Iterable[IPAddress], owner: Owner) -> Iterator[NftElement]:
    """That the port is checked, and what it may send from."""
    yield _element("checked", (port,), owner)
    yield _element("own_mac", (port, mac), owner)
    for address in addresses:
        if address.version == 4:
            yield _element("own4", (port, mac, str(address)), owner)
        else:
            yield _own6(port, mac, address, owner)


def perhaps(port: str, mac: str, addresses: Iterable[IPAddress], owner: Owner) -> Iterator[NftElement]:
    """All that a port may have in the sets, if this is what its container has or had."""
    yield from own_elements(port, mac, (*addresses, link_local(mac)), owner)
    for set_name in ("any4", "any6", "apart"):
        yield _element(set_name, (port,), owner)


def found_on(owner: Owner, state: State) -> Iterator[NftElement]:
    """The same, of the attachment with this mark, by what its container has."""
    container, interface = owner.container, owner.interface
    link = state.get(Key("link", container, (interface,)))
    if isinstance(link, Link):
        on_it = (r for r in state.values() if isinstance(r, Address) and (r.netns, r.link) == (container, interface))
        yield from perhaps(host_ifname(container, interface), link.mac, [address.address for address in on_it], owner)


def is_orphan(element: NftElement, state: State) -> bool:
    """Whether the port that it belongs to is gone: its container has died."""
    return is_of_a_port(element) and Key("link", HOST, (element.parts[0],)) not in state


def is_of_a_port(element: NftElement) -> bool:
    return element.family == "bridge" and element.set_name in PORT_SETS


def link_local(mac: str) -> IPv6Address:
    """RFC 4291, appendix A."""
    octets = bytes.fromhex(mac.replace(":", ""))
    interface = int.from_bytes(octets[:3] + b"\xff\xfe" + octets[3:], "big") ^ _UNIVERSAL
    return IPv6Address(_LINK_LOCAL | interface)


def _own6(port: str, mac: str, address: IPAddress, owner: Owner) -> NftElement:
    """As numbers, and so long that they are not taken for names."""
    return _element("own6", (port, f"{int(mac.replace(':', ''), 16):#018x}", f"{int(address):#034x}"), owner)


def _element(set_name: str, parts: tuple[str, ...], owner: Owner) -> NftElement:
    return NftElement("bridge", TABLE, set_name, parts, owner=owner._replace(container="", interface="", cookie=0))
