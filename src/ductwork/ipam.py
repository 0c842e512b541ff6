"""Which addresses each attachment of a host has: written in the file, remembered, or the lowest free ones.

Invariant: an address that the file names for anything else, or that another holder has, is never handed out. The cost is
that of the attachments and leases; ranges are never enumerated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_interface
from typing import NamedTuple

from ductwork.errors import AllocationError
from ductwork.resources import IPAddress, IPInterface, IPNetwork
from ductwork.site.model import AddressRange, Attachment, Network, Site

Holder = tuple[str, str, str]
"""(host, container, interface): who has an address, as the store knows it."""

Leases = Mapping[Holder, tuple[IPAddress, ...]]


class LeaseChange(NamedTuple):
    """What is to be stored in place of the holder's former lease; no addresses: forget it."""

    network: str
    holder: Holder
    addresses: tuple[IPAddress, ...]


@dataclass(frozen=True, slots=True)
class Assignment:
    """`addresses`: of every attachment of the host, by its id; none where the network has no subnet. `changes`: what the
    store does not know yet; stored in this order, no address ever has two holders."""

    addresses: Mapping[tuple[str, str], tuple[IPInterface, ...]]
    changes: tuple[LeaseChange, ...] = ()


def pools(network: Network, host: str) -> dict[IPNetwork, tuple[AddressRange, ...]]:
    """Subnet → ranges that addresses left out come from, as far as the network alone tells; `reserved` comes off them.

    What `allocate` says for this host or for all; a subnet that it does not mention: the whole, but none where the LAN
    beyond a NIC has a master already, nor where containers make their own (SLAAC).
    """
    written = network.allocate.get(host, network.allocate.get("", ()))
    found: dict[IPNetwork, tuple[AddressRange, ...]] = {}
    for subnet in network.subnets:
        ranges = tuple(
            AddressRange(each.first, min(each.last, subnet.broadcast_address)) for each in written if each.first in subnet
        )
        if ranges:
            found[subnet] = ranges
        elif not network.external and not _is_slaac(network, subnet):
            found[subnet] = (_whole(subnet),)
    return found


def narrowed(network: Network, host: str, ranges: tuple[AddressRange, ...]) -> Network:
    """The network for who may have addresses of these ranges alone (none: of all): what they have in common with `allocate`
    of this host, or, where the LAN has another master and `allocate` says nothing, the ranges themselves."""
    if not ranges:
        return network
    own = pools(network, host)
    found: list[AddressRange] = []
    for subnet in network.subnets:
        asked = [each for each in ranges if each.first in subnet]
        if subnet in own:
            found += [common for each in asked for its in own[subnet] if (common := _common(each, its))]
        elif is_allocated(network, subnet):
            found += asked
    subnets = tuple(subnet for subnet in network.subnets if any(each.first in subnet for each in found))
    return replace(network, subnets=subnets, allocate={"": tuple(found)})


def is_allocated(network: Network, subnet: IPNetwork) -> bool:
    """Whether containers get addresses of a subnet from us, rather than make their own (SLAAC)."""
    return not _is_slaac(network, subnet)


def _common(one: AddressRange, other: AddressRange) -> AddressRange | None:
    first, last = max(one.first, other.first, key=int), min(one.last, other.last, key=int)
    return AddressRange(first, last) if int(first) <= int(last) else None


def reserved(network: Network, site: Site) -> set[IPAddress]:
    """Every address that the file names: gateways, the hosts' own, next hops, and those written for attachments. A driver's
    option of addresses by host, `host_access`, is the hosts' own too."""
    taken = set(network.gateways)
    for addresses in network.host_addresses.values():
        taken.update(addresses)
    for addresses in network.legs.values():
        taken.update(addresses)
    taken.update(getattr(network.options, "host_access", {}).values())
    taken.update(host.address.ip for host in site.hosts.values() if host.address)
    if network.nat.snat_to:
        taken.add(network.nat.snat_to)
    for attachment in site.attachments:
        if attachment.network == network.name:
            taken.update(address.ip for address in attachment.addresses)
            taken.update(route.via for route in attachment.routes if route.via)
            if not isinstance(attachment.gateway, bool | None):
                taken.add(attachment.gateway)
    for subnet in network.subnets:
        taken.update(_never_a_hosts(subnet))
    return taken


def free(network: Network, site: Site, host: str, leases: Leases) -> dict[IPNetwork, int]:
    """Subnet → how many addresses of its pool are nobody's."""
    taken = (*reserved(network, site), *(ip for theirs in leases.values() for ip in theirs))
    found: dict[IPNetwork, int] = {}
    for subnet, ranges in pools(network, host).items():
        used = {int(ip) for ip in taken if ip.version == subnet.version}
        number, end = 0, -1  # ranges may overlap
        for each in sorted(ranges, key=lambda r: int(r.first)):
            first, last = max(int(each.first), end + 1), int(each.last)
            number += max(0, last - first + 1) - sum(first <= ip <= last for ip in used)
            end = max(end, last)
        found[subnet] = number
    return found


def assign(site: Site, host: str, leases: Mapping[str, Leases]) -> Assignment:
    """The addresses of a host's attachments. `leases`: network → what the store has, of every host; what is to be
    forgotten because its holder has left, the caller leaves out.

    Errors: `AllocationError` when a pool is exhausted, or there is none.
    """
    members: dict[str, list[Attachment]] = {}
    for attachment in site.on(host):
        members.setdefault(attachment.network, []).append(attachment)
    addresses: dict[tuple[str, str], tuple[IPInterface, ...]] = {}
    changes: list[LeaseChange] = []
    for name, attachments in members.items():
        plan = _Allocation(site.networks[name], site, host, attachments, leases.get(name, {}))
        for attachment in attachments:
            addresses[attachment.id], lease = plan.addresses(attachment)
            if lease != plan.remembered(attachment):
                changes.append(LeaseChange(name, (host, *attachment.id), lease))
    changes.sort(key=lambda change: bool(change.addresses))  # what is given back first: another may have it now
    return Assignment(addresses, tuple(changes))


class _Allocation:
    """One network's attachments on one host, asked in file order."""

    def __init__(self, network: Network, site: Site, host: str, attachments: list[Attachment], leases: Leases) -> None:
        self._network = network
        self._host = host
        self._leases = leases
        self._reserved = reserved(network, site)
        self._pools = pools(network, host)
        self._settled = {(host, *a.id) for a in attachments if a.addresses}
        self._free: dict[IPNetwork, Iterator[IPAddress]] = {}

    def remembered(self, attachment: Attachment) -> tuple[IPAddress, ...]:
        return self._leases.get((self._host, *attachment.id), ())

    def addresses(self, attachment: Attachment) -> tuple[tuple[IPInterface, ...], tuple[IPAddress, ...]]:
        """(its addresses, its lease): what the file has is not leased, every host reads it there."""
        if attachment.addresses:
            return attachment.addresses, ()
        if not self._pools and not all(_is_slaac(self._network, subnet) for subnet in self._network.subnets):
            raise AllocationError(
                f"{_who(attachment)}: no address is written, and the LAN of network {self._network.name} is not ours",
                "write its `address`, or give the network an `allocate` range that the LAN's DHCP server leaves alone",
            )
        chosen = {subnet: self._kept(attachment, subnet) or self._new(attachment, subnet) for subnet in self._pools}
        return tuple(ip_interface((ip, net.prefixlen)) for net, ip in chosen.items()), tuple(chosen.values())

    def _kept(self, attachment: Attachment, subnet: IPNetwork) -> IPAddress | None:
        """What it had, where the file still lets it."""
        for address in self.remembered(attachment):
            if address in subnet and address not in self._reserved and holds(self._pools[subnet], address):
                return address
        return None

    def _new(self, attachment: Attachment, subnet: IPNetwork) -> IPAddress:
        if not self._free:  # of thousands of leases, for whoever needs a new one
            held = (ip for holder, theirs in self._leases.items() if holder not in self._settled for ip in theirs)
            taken = (*self._reserved, *held)
            self._free = {each: _free(ranges, taken) for each, ranges in self._pools.items()}
        address = next(self._free[subnet], None)
        if address is None:
            ranges = ", ".join(f"{each.first}-{each.last}" for each in self._pools[subnet])
            raise AllocationError(
                f"{_who(attachment)}: network {self._network.name} has no address left in {ranges}",
                "widen its `subnet` or `allocate`, or detach what is no longer needed",
            )
        return address


def holds(ranges: tuple[AddressRange, ...], address: IPAddress) -> bool:
    return any(each.first.version == address.version and int(each.first) <= int(address) <= int(each.last) for each in ranges)


def _free(ranges: tuple[AddressRange, ...], taken: tuple[IPAddress, ...]) -> Iterator[IPAddress]:
    """The addresses of the ranges, lowest first, each once; what lies beyond the last one asked for is not looked at."""
    given: set[int] = set()
    for each in ranges:
        used = {int(address) for address in taken if address.version == each.first.version}
        for number in range(int(each.first), int(each.last) + 1):
            if number not in used and number not in given:
                given.add(number)
                yield type(each.first)(number)


def _whole(subnet: IPNetwork) -> AddressRange:
    """::1 is left for a router by custom."""
    first = subnet[2] if subnet.version == 6 and subnet.num_addresses > 2 else subnet.network_address
    return AddressRange(first, subnet.broadcast_address)


def _never_a_hosts(subnet: IPNetwork) -> tuple[IPAddress, ...]:
    """Network and broadcast address; IPv6: the routers' anycast (RFC 4291, 2.6.1). Point-to-point subnets have none
    (RFC 3021, RFC 6164)."""
    if subnet.num_addresses <= 2:
        return ()
    return (subnet.network_address, subnet.broadcast_address) if subnet.version == 4 else (subnet.network_address,)


def _is_slaac(network: Network, subnet: IPNetwork) -> bool:
    return subnet.version == 6 and network.ipv6 == "slaac"


def _who(attachment: Attachment) -> str:
    return f"{attachment.container} {attachment.interface}"
