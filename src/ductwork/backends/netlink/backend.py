"""Links, ports, addresses, routes, neighbours and FDB entries, read and changed over netlink.

Invariant: we choose the index of every link that we make, both ends of a pair, and every later request names the index. A
foreign link that takes the name in between makes our request fail; it is never touched itself.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv6Address
from typing import TypeVar

from ductwork.backends.ndisc import advertise
from ductwork.backends.netlink import decode, decode_link, encode, encode_link, tc
from ductwork.backends.netlink.places import INDEX_SPAN, Places
from ductwork.backends.netlink.requests import Batch, Context
from ductwork.backends.netlink.wire import NetlinkSocket, text, u32
from ductwork.netns import cookie_of
from ductwork.resources import (
    HOST,
    MAIN_TABLE,
    Address,
    BridgeSpec,
    Delete,
    FdbEntry,
    IpvlanSpec,
    Link,
    MacvlanSpec,
    Neighbour,
    NicSpec,
    Operation,
    Outcome,
    OvsSpec,
    Owner,
    Port,
    PortVlans,
    Redirect,
    Resource,
    Route,
    Shaper,
    VlanSpec,
    VxlanSpec,
)
from ductwork.resources.route import KERNEL_PROTOCOL

_IFLA_EXT_MASK, _RTEXT_FILTER_SKIP_STATS = 29, 1 << 3
_GROUP_FROM = 3
"""So many links are deleted as a group: unregistering waits for RCU, once for each request (25 ms against 825 for 50)."""
_ALL_TABLES = 0
_ON_PARENT = (VlanSpec, MacvlanSpec, IpvlanSpec, VxlanSpec)
_NAMELESS = "?"
"""A namespace that is not known to be any container's."""

T = TypeVar("T")

_Read = list[tuple[Link, dict[int, bytes]]]
"""Links with the attributes that they were told by."""


def _no_gate(moment: str) -> None:
    """Nothing hangs on the sends."""


class NetlinkBackend:
    """`open_netns`: a container's name → a new descriptor of its namespace; raises where the container is gone."""

    kinds: frozenset[type] = frozenset({Link, Port, Shaper, Redirect, Address, Route, Neighbour, FdbEntry})

    def __init__(self, open_netns: Callable[[str], int], gate: Callable[[str], None] = _no_gate) -> None:
        self._places = Places(open_netns, gate)
        self._host = self._places.host
        self._home = cookie_of(self._host.socket)

    def close(self) -> None:
        self._places.close()

    # reading

    def read(self, netns: str, links: frozenset[str] | None = None) -> list[Resource]:
        if netns == HOST:
            return self._read(self._host, netns, links)
        with NetlinkSocket() as opened:
            return self._read(opened, netns, links)

    def _read(self, opened: NetlinkSocket, netns: str, wanted: frozenset[str] | None) -> list[Resource]:
        read = self._read_links(opened, netns, wanted)
        links = [link for link, _ in read]
        names = {link.index: link.name for link in links}
        self._places.know(netns, links, all_of_them=wanted is None)
        vlans = _read_vlans(opened, links, all_of_them=wanted is None)
        found: list[Resource] = []
        for link, told in read:
            own = vlans.get(link.index)
            if own and link.kind == "bridge":
                link = replace(link, spec=decode_link.own_vlans(own))  # noqa: PLW2901
            found.append(decode_link.named(link, names) if _has_parent(link) else link)
            if decode_link.is_port(told):
                bridge = names.get(link.master_index, f"#{link.master_index}")
                found.append(decode_link.port(link, bridge, told, own))
        if wanted is not None:
            return found
        if netns == HOST:
            found += tc.read(opened, netns, links)
        if netns:
            found += [sysctl for link, told in read for sysctl in decode_link.sysctls(link, told)]
        owners = {link.name: link.owner for link in links if link.owner}
        found += _known(decode.address(netns, names, owners, answer) for answer in opened.dump(encode.RTM_GETADDR, bytes(8)))
        table = MAIN_TABLE if netns else _ALL_TABLES
        answers = opened.dump(encode.RTM_GETROUTE, encode.routes_request(table))
        found += _told_apart(decode.route(netns, names, owners, answer) for answer in answers)
        if any(link.kind == "vxlan" and link.owner for link in links):
            found += _read_neighbours(opened, netns, names, owners)
            found += _read_fdb(opened, netns, [link for link in links if link.kind == "vxlan" and link.owner])
        return found

    def _read_links(self, opened: NetlinkSocket, netns: str, wanted: frozenset[str] | None) -> _Read:
        read = []
        for body in _link_answers(opened, wanted):
            told = decode_link.attributes_of(body)
            read.append((decode_link.link(netns, body, told, self._home), told))
        if netns and any(link.owner or _has_parent(link) for link, _ in read):
            nsid = self._places.host_nsid(opened)
            read = [(decode_link.claim(link, told, nsid), told) for link, told in read]
        return read

    def claims(self) -> frozenset[str]:
        """By what names marks in the calling thread's namespace, another than the host's, call the container that it is."""
        with NetlinkSocket() as opened:
            cookie = cookie_of(opened.socket)
            owners = [link.owner for link, _ in self._read_links(opened, _NAMELESS, None)]
        return frozenset(owner.container for owner in owners if owner and owner.cookie == cookie)

    # changing

    def apply(self, netns: str, operations: Sequence[Operation]) -> list[Outcome]:
        if netns == HOST:
            return self._apply(self._host, netns, operations)
        with NetlinkSocket() as opened:
            return self._apply(opened, netns, operations)

    def _apply(self, opened: NetlinkSocket, netns: str, operations: Sequence[Operation]) -> list[Outcome]:
        doomed = _doomed(operations)
        batch = Batch(opened, self._places.gate)
        context = Context(self._places, opened, netns, operations)
        for position, operation in enumerate(operations):
            if position in doomed:
                if position == next(iter(doomed)):
                    batch.flush()
                    self._delete_as_group(opened, list(doomed.values()))
                continue
            context.encode(position, operation, batch)
        batch.flush()
        return [
            Outcome(operation, batch.errors.get(context.spoken_for(position), ""))
            for position, operation in enumerate(operations)
        ]

    def announce(self, netns: str, addresses: Sequence[Address]) -> None:
        """Tell the neighbours who has these addresses; nothing waits for it, and nothing hangs on its success."""
        found = ((address.address, self._places.index(netns, address.link)) for address in addresses)
        known = [(ip, index) for ip, index in found if index]
        with NetlinkSocket() as opened:
            for index in dict.fromkeys(index for _, index in known):
                self._await_far_end(opened, index)
            solicited = [encode.announce_v4(ip, index) for ip, index in known if ip.version == 4]
            if solicited:
                opened.execute(solicited)
            for ip, index in known:
                if isinstance(ip, IPv6Address):
                    self._advertise(opened, ip, index)

    def _await_far_end(self, opened: NetlinkSocket, index: int) -> None:
        """A veth's end on the host, as a bridge's port, forwards when the kernel's link watch has seen that it is up; what is
        announced before is lost, and said again a second later. Asked about one link, the kernel sees to it first (6.8)."""
        body = opened.get(encode.RTM_GETLINK, encode_link.ifinfo(index))
        far_end = body and decode_link.far_end(body)
        if far_end:
            self._host.get(encode.RTM_GETLINK, encode_link.ifinfo(far_end))

    @staticmethod
    def _advertise(opened: NetlinkSocket, ip: IPv6Address, index: int) -> None:
        body = opened.get(encode.RTM_GETLINK, encode_link.ifinfo(index))
        if body is None:
            return
        with suppress(OSError):
            advertise(ip, decode_link.mac(body), index)

    def _delete_as_group(self, opened: NetlinkSocket, doomed: Sequence[Link]) -> None:
        """One request for all: into a group nobody uses, its members read again, then the group deleted. A link that is
        not there any more is no error; verifying afterwards finds what is left."""
        group = decode_link.GROUP_BASE + secrets.randbelow(INDEX_SPAN)
        marked = {link.index: (link.name, link.owner) for link in doomed}
        messages = [encode_link.set_group(index, group) for index in marked]
        for piece in opened.batches(messages):
            self._places.gate("before")
            opened.execute(piece)
            self._places.gate("after")
        answers = opened.dump(encode.RTM_GETLINK, encode_link.ifinfo())
        read = (decode_link.link(HOST, answer, decode_link.attributes_of(answer), self._home) for answer in answers)
        members = [link for link in read if link.group == group]
        if all(marked.get(link.index) == (link.name, link.owner) for link in members):
            self._places.gate("before")
            opened.execute([encode_link.delete_group(group)])
            self._places.gate("after")
            return
        ours = [link for link in members if marked.get(link.index) == (link.name, link.owner)]
        for link in members:
            opened.execute([encode_link.delete_link(link.index) if link in ours else encode_link.set_group(link.index, 0)])


def _doomed(operations: Sequence[Operation]) -> dict[int, Link]:
    """Position → the links that go as a group, if there are so many. Those of a switch go with it, and NICs go home."""
    found = {
        position: operation.before
        for position, operation in enumerate(operations)
        if isinstance(operation, Delete)
        and isinstance(operation.before, Link)
        and not isinstance(operation.before.spec, NicSpec | OvsSpec)
    }
    return found if len(found) >= _GROUP_FROM else {}


def _link_answers(opened: NetlinkSocket, wanted: frozenset[str] | None) -> Iterable[bytes]:
    mask = u32(_IFLA_EXT_MASK, _RTEXT_FILTER_SKIP_STATS)
    if wanted is None:
        return opened.dump(encode.RTM_GETLINK, encode_link.ifinfo() + mask)
    asked = (opened.get(encode.RTM_GETLINK, encode_link.ifinfo() + mask + text(3, name)) for name in wanted)
    return [answer for answer in asked if answer is not None]


def _has_parent(link: Link) -> bool:
    """Whether it is on a device that is told by its index alone."""
    return isinstance(link.spec, _ON_PARENT)


def _read_vlans(opened: NetlinkSocket, links: Sequence[Link], *, all_of_them: bool) -> dict[int, PortVlans]:
    """Index → VLANs, of the bridges that tell them apart and of their ports."""
    bridges = {link.index for link in links if isinstance(link.spec, BridgeSpec)}
    if not bridges:
        return {}
    concerned = [link.index for link in links if link.index in bridges or link.master_index in bridges]
    asked = (0,) if all_of_them else concerned
    answers = [answer for index in asked for answer in opened.dump(encode.RTM_GETVLAN, encode_link.vlans_request(index))]
    told = {index: PortVlans(access=0) for index in concerned}
    for index, vlans in map(decode_link.vlans, answers):  # many VLANs take several messages
        if index in told:
            told[index] = PortVlans(told[index].access or vlans.access, told[index].tagged + vlans.tagged)
    return told


def _known(found: Iterable[T | None]) -> Iterable[T]:
    return (resource for resource in found if resource is not None)


def _told_apart(read: Iterable[Route | None]) -> Iterable[Route]:
    """The kernel keeps several routes of one key, if somebody appends them, and takes the first; we know one. Replacing would
    hit the first, so that foreign ones cannot be carried; one of ours is what we know."""
    found: dict[tuple[object, ...], Route] = {}
    for route in _known(read):
        identity = _identity(route)
        first = found.setdefault(identity, route)
        if first is not route and first.owner is None:
            links = " ".join(dict.fromkeys((*first.links, *route.links)))
            found[identity] = route if route.owner else replace(first, link=links, carried=False)
    return found.values()


def _identity(route: Route) -> tuple[object, ...]:
    """What its key is made of: spelling and hashing a prefix takes longer than all else about a route."""
    to = route.to
    link = route.link if route.protocol == KERNEL_PROTOCOL else ""
    return (to.version, int(to.network_address), to.prefixlen, route.metric, route.table, route.tos, link)


def _read_neighbours(
    opened: NetlinkSocket, netns: str, names: Mapping[int, str], owners: Mapping[str, Owner]
) -> list[Resource]:
    entries = (decode.neighbour(netns, names, answer) for answer in opened.dump(encode.RTM_GETNEIGH, bytes(12)))
    return [replace(e, owner=owners.get(e.link)) if e.owner else e for e in entries if e]


def _read_fdb(opened: NetlinkSocket, netns: str, devices: Iterable[Link]) -> list[Resource]:
    found: list[Resource] = []
    for device in devices:
        for answer in opened.dump(encode.RTM_GETNEIGH, encode.fdb_request(device.index)):
            entry = decode.fdb_entry(netns, {device.index: device.name}, answer)
            if entry:
                found.append(replace(entry, owner=device.owner))
    return found
