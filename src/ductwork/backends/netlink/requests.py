"""Operations → requests on their way to the kernel, those that one request can do together as one.

Invariant: a request names indexes that were read or that we chose; what names a link that is not there is not sent.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from ductwork.backends.netlink import encode, encode_link, nics, tc
from ductwork.backends.netlink.places import Places
from ductwork.backends.netlink.wire import DONE, NLM_F_APPEND, Message, NetlinkSocket
from ductwork.resources import (
    HOST,
    Address,
    BridgeSpec,
    Create,
    Delete,
    FdbEntry,
    IpvlanSpec,
    Link,
    MacvlanSpec,
    Neighbour,
    NicSpec,
    Operation,
    OvsSpec,
    Port,
    Redirect,
    Resource,
    Route,
    Shaper,
    Update,
    VethSpec,
    VlanSpec,
    VxlanSpec,
    key_of,
)
from ductwork.resources.route import KERNEL_PROTOCOL

_THERE = frozenset({errno.EEXIST})
_ABSENT = frozenset({errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.EADDRNOTAVAIL})
_NOT_QUEUED = _ABSENT | {errno.EINVAL}
"""There is no queueing discipline with that handle: the kernel calls the handle invalid."""


class Batch:
    """Requests to one namespace; `errors`: position of an operation → the first refusal."""

    def __init__(self, opened: NetlinkSocket, gate: Callable[[str], None]) -> None:
        self._opened = opened
        self._gate = gate
        self._messages: list[Message] = []
        self._origins: list[tuple[int, frozenset[int]]] = []
        self._open_files: list[int] = []
        self._bytes = 0
        self.errors: dict[int, str] = {}

    def add(self, position: int, message: Message, forgiven: frozenset[int] = frozenset()) -> None:
        """`forgiven`: the error codes that say that it is so already."""
        self._messages.append(message)
        self._origins.append((position, forgiven))
        self._bytes += len(message.body) + 16

    def keep(self, fd: int) -> int:
        """A descriptor that a request names, to be closed when it has been sent."""
        self._open_files.append(fd)
        return fd

    @property
    def is_full(self) -> bool:
        return len(self._messages) >= 90 or self._bytes > 24_000

    def flush(self) -> None:
        if self._messages:
            self._gate("before")
            answers = self._opened.execute(self._messages)
            self._gate("after")
            for (position, forgiven), answer in zip(self._origins, answers, strict=True):
                if answer != DONE and answer.code not in forgiven:
                    self.errors.setdefault(position, str(answer))
        for fd in self._open_files:
            os.close(fd)
        self._messages, self._origins, self._open_files, self._bytes = [], [], [], 0


class UnknownLinkError(Exception):
    """A request would name a link that is not there: index 0, which the kernel takes for "none" in some places."""


class Context:
    """Encodes the operations of one call."""

    def __init__(self, places: Places, opened: NetlinkSocket, netns: str, operations: Sequence[Operation]) -> None:
        self._places = places
        self._opened = opened
        self._netns = netns
        self._created = {
            key_of(operation): (position, operation.after)
            for position, operation in enumerate(operations)
            if isinstance(operation, Create)
        }
        self._fused: dict[int, int] = {}

    def spoken_for(self, position: int) -> int:
        """Whose request did the operation at `position`: its own, or that of the link that it was fused with."""
        return self._fused.get(position, position)

    def encode(self, position: int, operation: Operation, batch: Batch) -> None:
        try:
            self._encode(position, operation, batch)
        except UnknownLinkError:
            if not isinstance(operation, Delete):
                batch.errors[position] = os.strerror(errno.ENODEV)
        if batch.is_full:
            batch.flush()

    def _encode(self, position: int, operation: Operation, batch: Batch) -> None:
        match operation:
            case Create(Link() as link):
                self._create_link(position, link, batch)
            case Create(Port() as port):
                for message in self._new_port(position, port):
                    batch.add(self.spoken_for(position), message)
            case Create(Address() as address):
                self._create_address(position, address, batch)
            case Create(Redirect() as redirect):
                index, to = self._index(redirect.link), self._index(redirect.to)
                batch.add(position, tc.new_ingress(index), _THERE)
                batch.add(position, tc.new_redirect(index, to))
            case Create(after):
                batch.add(position, self._creation(after))
            case Delete(Shaper() | Redirect() as limit):
                delete = tc.delete_shaper if isinstance(limit, Shaper) else tc.delete_redirect
                batch.add(position, delete(self._index(limit.link)), _NOT_QUEUED)
            case Delete(Link(spec=OvsSpec())):
                pass  # it goes with its switch
            case Delete(Link(spec=NicSpec(device)) as link):
                self._send_home(position, link, device, batch)
            case Delete(before):
                batch.add(position, self._deletion(before), _ABSENT)
            case Update(before, after):
                for message in self._change(before, after):
                    batch.add(position, message, _forgiven(message))

    def _index(self, name: str, netns: str | None = None) -> int:
        index = self._places.index(self._netns if netns is None else netns, name)
        if not index:
            raise UnknownLinkError
        return index

    def _create_link(self, position: int, link: Link, batch: Batch) -> None:
        if isinstance(link.spec, NicSpec):
            self._move_in(position, link, link.spec.device, batch)
            return
        if link.absorbed_by:
            self._take_over(position, link, batch)
            return
        if link.is_born_inside:
            self._give_birth(position, link, batch)
            return
        data, parent = b"", b""
        match link.spec:
            case VethSpec() as spec:
                try:
                    netns_fd = batch.keep(self._places.open_netns(spec.peer_netns))
                except Exception as gone:
                    batch.errors[position] = str(gone)
                    return
                index = self._places.reserve_index(spec.peer_netns, spec.peer_ifname)
                data = encode_link.veth_peer(_peer_of(link, spec), index, netns_fd)
            case VxlanSpec() as spec:
                data = encode_link.vxlan_data(spec, self._index(spec.underlay) if spec.underlay else 0)
            case BridgeSpec() | None as spec if link.kind == "bridge":
                data = encode_link.bridge_data(spec)
            case VlanSpec() | MacvlanSpec() | IpvlanSpec() as spec:
                data = encode_link.parent_data(spec)
                parent = encode_link.on_parent(self._index(spec.parent, HOST), None)
        port_position, port = self._created.get(Port(link.netns, link.name, "").key, (-1, None))
        master = self._places.index(self._netns, port.bridge) if isinstance(port, Port) else 0
        if master:
            self._fused[port_position] = position
        index = self._places.reserve_index(link.netns, link.name)
        batch.add(position, encode_link.new_link(link, index, data, master, parent))
        batch.add(position, encode_link.finish_link(link, index))
        if link.kind == "ifb" and link.up:
            batch.add(position, encode_link.set_up(index))
        if isinstance(link.spec, BridgeSpec):
            for message in encode_link.own_vlans(index, None, link.spec):
                batch.add(position, message)

    def _give_birth(self, position: int, link: Link, batch: Batch) -> None:
        assert isinstance(link.spec, MacvlanSpec | IpvlanSpec)
        nsid = self._places.host_nsid(self._opened, give=True)
        parent = encode_link.on_parent(self._index(link.spec.parent, HOST), nsid)
        index = self._places.reserve_index(link.netns, link.name)
        made, named, cleared = encode_link.born_inside(link, index, encode_link.parent_data(link.spec), parent)
        batch.add(position, made)
        batch.add(position, named)
        batch.add(position, cleared, _ABSENT)

    def _move_in(self, position: int, link: Link, device: str, batch: Batch) -> None:
        """At once, since it is another namespace's socket that asks for it."""
        batch.flush()
        error = nics.move_in(self._places, self._opened, link, device)
        if error:
            batch.errors[position] = error
            return
        batch.add(position, encode_link.configure(link, self._index(link.name)))

    def _send_home(self, position: int, link: Link, device: str, batch: Batch) -> None:
        fd = batch.keep(self._places.open_host())
        message = nics.way_back(self._places, link, device, fd)
        if message is None:
            batch.errors[position] = os.strerror(errno.EEXIST)
            return
        batch.add(position, message, _ABSENT)
        batch.flush()
        self._places.look_up(self._places.host, HOST, device)

    def _take_over(self, position: int, link: Link, batch: Batch) -> None:
        """What something else has made: the other end of a pair is as it is to be, but down; a switch's device is not."""
        if not isinstance(link.spec, OvsSpec):
            if link.up:
                batch.add(position, encode_link.set_up(self._index(link.name)))
            return
        index = self._places.look_up(self._opened, self._netns, link.name)
        if not index:
            raise UnknownLinkError
        batch.add(position, encode_link.configure(link, index))

    def _new_port(self, position: int, port: Port) -> Iterator[Message]:
        index = self._index(port.link)
        if position not in self._fused:
            yield encode_link.set_master(index, self._index(port.bridge))
        if port.vlans is not None:
            yield from encode_link.port_vlans(index, None, port.vlans)
        yield from encode_link.port_flags(index, replace(port, isolated=False, hairpin=False), port)

    def _create_address(self, position: int, address: Address, batch: Batch) -> None:
        index = self._index(address.link)
        batch.add(position, encode.new_address(address, index), _THERE)
        if address.details and address.address.version == 6 and not address.nodad:
            batch.add(position, encode.without_nodad(address, address.details, index))

    def _creation(self, after: Resource) -> Message:
        match after:
            case Route():
                return encode.new_route(after, self._index(after.link))
            case Neighbour():
                return encode.new_neighbour(after, self._index(after.link))
            case FdbEntry():
                return encode.new_fdb_entry(after, self._index(after.link))
            case Shaper():
                return tc.new_shaper(after, self._index(after.link))
        raise AssertionError(f"not netlink's: {after}")

    def _deletion(self, before: Resource) -> Message:
        match before:
            case Link():
                return encode_link.delete_link(before.index)
            case Port():
                return encode_link.set_master(self._index(before.link), 0)
            case Address():
                return encode.delete_address(before, self._index(before.link))
            case Route():
                return encode.delete_route(before, self._index(before.link))
            case Neighbour():
                return encode.delete_neighbour(before, self._index(before.link))
            case FdbEntry():
                return encode.delete_fdb_entry(before, self._index(before.link))
        raise AssertionError(f"not netlink's: {before}")

    def _change(self, before: Resource, after: Resource) -> Iterator[Message]:
        match before, after:
            case Link(), Link():
                yield from self._change_link(before, after)
            case Port(), Port():
                yield from self._change_port(before, after)
            case Route(), Route():
                yield from self._change_route(before, after)
            case _, Neighbour():
                yield encode.new_neighbour(after, self._index(after.link))
            case _, FdbEntry():
                yield encode.new_fdb_entry(after, self._index(after.link))
            case _, Shaper():
                yield tc.new_shaper(after, self._index(after.link), change=True)
            case _:
                raise AssertionError(f"not to be updated: {after}")

    def _change_link(self, before: Link, after: Link) -> Iterator[Message]:
        index = self._index(after.name)
        if after.kind == "bridge" and before.spec != after.spec:
            had, want = (spec if isinstance(spec, BridgeSpec) else None for spec in (before.spec, after.spec))
            if (had is None) != (want is None):
                yield encode_link.update_bridge(index, want)
            yield from encode_link.own_vlans(index, had, want)
        yield encode_link.update_link(index, before, after)

    def _change_port(self, before: Port, after: Port) -> Iterator[Message]:
        """A port that goes to another bridge begins anew."""
        index = self._index(after.link)
        if before.bridge != after.bridge:
            yield encode_link.set_master(index, self._index(after.bridge))
            before = replace(before, vlans=None, isolated=False, hairpin=False)
        if before.vlans != after.vlans:
            yield from encode_link.port_vlans(index, before.vlans, after.vlans)
        yield from encode_link.port_flags(index, before, after)

    def _change_route(self, before: Route, after: Route) -> Iterator[Message]:
        """A route is known by destination, metric, table and TOS; one that differs in these is another, which comes first. So
        is a subnet's of the kernel's on another link."""
        index = self._index(after.link)
        stands_beside = after.protocol == KERNEL_PROTOCOL and before.link != after.link
        yield encode.beside(after, index) if stands_beside else encode.new_route(after, index, replace=True)
        if stands_beside or _known_by(before) != _known_by(after):
            yield encode.delete_route(before, self._index(before.link))


def _forgiven(message: Message) -> frozenset[int]:
    """What a part of a change may be answered, since it is so already."""
    if message.type == encode.RTM_DELROUTE:
        return _ABSENT
    return _THERE if message.flags & NLM_F_APPEND and message.type == encode.RTM_NEWROUTE else frozenset()


def _known_by(route: Route) -> tuple[object, ...]:
    return (route.to, route.metric, route.table, route.tos)


def _peer_of(link: Link, spec: VethSpec) -> Link:
    """The peer as the host's end describes it."""
    return replace(link, netns=spec.peer_netns, name=spec.peer_ifname, mac=spec.peer_mac)
