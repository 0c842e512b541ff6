"""Links, ports, addresses, routes, neighbours and FDB entries, read and changed over netlink.

Invariant: we choose the index of every link that we make, both ends of a pair, and every later request names the index. A
foreign link that takes the name in between makes our request fail; it is never touched itself.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv6Address

from ductwork.backends.ndisc import advertise
from ductwork.backends.netlink import decode, encode
from ductwork.backends.netlink.wire import DONE, Message, NetlinkSocket, text, u32
from ductwork.resources import (
    HOST,
    MAIN_TABLE,
    PROTOCOL,
    Address,
    Create,
    Delete,
    FdbEntry,
    Link,
    Neighbour,
    Operation,
    Outcome,
    Owner,
    Port,
    Resource,
    Route,
    Update,
    VethSpec,
    VxlanSpec,
    key_of,
)

_IFLA_EXT_MASK, _RTEXT_FILTER_SKIP_STATS = 29, 1 << 3
_THERE = frozenset({errno.EEXIST})
_ABSENT = frozenset({errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.EADDRNOTAVAIL})
_GROUP_FROM = 3
"""So many links are deleted as a group: unregistering waits for RCU, once for each request (25 ms against 825 for 50)."""
_INDEX_BASE, _INDEX_SPAN = 1 << 16, 1 << 30


def _no_gate(moment: str) -> None:
    """Nothing hangs on the sends."""


class NetlinkBackend:
    """`open_netns`: a container's name → a new descriptor of its namespace; raises where the container is gone."""

    kinds: frozenset[type] = frozenset({Link, Port, Address, Route, Neighbour, FdbEntry})

    def __init__(self, open_netns: Callable[[str], int], gate: Callable[[str], None] = _no_gate) -> None:
        self._open_netns = open_netns
        self._gate = gate
        self._host = NetlinkSocket()
        self._host.enlarge()
        self._indexes: dict[str, dict[str, int]] = {}
        self._next_index = _INDEX_BASE + secrets.randbelow(_INDEX_SPAN)

    def close(self) -> None:
        self._host.close()

    # reading

    def read(self, netns: str, links: frozenset[str] | None = None) -> list[Resource]:
        if netns == HOST:
            return self._read(self._host, netns, links)
        with NetlinkSocket() as opened:
            return self._read(opened, netns, links)

    def _read(self, opened: NetlinkSocket, netns: str, wanted: frozenset[str] | None) -> list[Resource]:
        bodies = self._read_links(opened, wanted)
        read = [decode.link_and_sysctls(netns, body) if netns else (decode.link(netns, body), []) for body in bodies]
        links = [link for link, _ in read]
        names = {link.index: link.name for link in links}
        if wanted is None:
            self._indexes[netns] = {link.name: link.index for link in links}
        else:
            self._indexes.setdefault(netns, {}).update((link.name, link.index) for link in links)
        found: list[Resource] = []
        for link in links:
            found.append(_with_underlay_name(link, names))
            if link.master_index:
                found.append(decode.port(link, names.get(link.master_index, f"#{link.master_index}")))
        if wanted is not None:
            return found
        found += [sysctl for _, sysctls in read for sysctl in sysctls]
        owners: dict[str, Owner] = {link.name: link.owner for link in links if link.owner}
        found += self._read_addresses(opened, netns, names, owners)
        found += self._read_routes(opened, netns, names, owners)
        if any(link.kind == "vxlan" and link.owner for link in links):
            found += self._read_neighbours(opened, netns, names, owners)
            found += self._read_fdb(opened, netns, [link for link in links if link.kind == "vxlan" and link.owner])
        return found

    @staticmethod
    def _read_links(opened: NetlinkSocket, wanted: frozenset[str] | None) -> list[bytes]:
        mask = u32(_IFLA_EXT_MASK, _RTEXT_FILTER_SKIP_STATS)
        if wanted is None:
            return opened.dump(encode.RTM_GETLINK, encode.ifinfo() + mask)
        asked = (opened.get(encode.RTM_GETLINK, encode.ifinfo() + mask + text(3, name)) for name in wanted)
        return [answer for answer in asked if answer is not None]

    @staticmethod
    def _read_addresses(opened: NetlinkSocket, netns: str, names: dict[int, str], owners: dict[str, Owner]) -> list[Resource]:
        found: list[Resource] = []
        for answer in opened.dump(encode.RTM_GETADDR, bytes(8)):
            decoded = decode.address(netns, names, answer)
            if decoded:
                address, protocol = decoded
                ours = protocol == PROTOCOL
                found.append(replace(address, owner=owners.get(address.link) or Owner("")) if ours else address)
        return found

    @staticmethod
    def _read_routes(opened: NetlinkSocket, netns: str, names: dict[int, str], owners: dict[str, Owner]) -> list[Resource]:
        found: list[Resource] = []
        body = bytes(4) + bytes([MAIN_TABLE]) + bytes(7)
        for answer in opened.dump(encode.RTM_GETROUTE, body):
            route = decode.route(netns, names, answer)
            if route:
                ours = route.protocol == PROTOCOL
                found.append(replace(route, owner=owners.get(route.link) or Owner("")) if ours else route)
        return found

    @staticmethod
    def _read_neighbours(opened: NetlinkSocket, netns: str, names: dict[int, str], owners: dict[str, Owner]) -> list[Resource]:
        entries = (decode.neighbour(netns, names, answer) for answer in opened.dump(encode.RTM_GETNEIGH, bytes(12)))
        return [replace(e, owner=owners.get(e.link)) if e.owner else e for e in entries if e]

    @staticmethod
    def _read_fdb(opened: NetlinkSocket, netns: str, devices: list[Link]) -> list[Resource]:
        found: list[Resource] = []
        for device in devices:
            body = encode.fdb_request(device.index)
            for answer in opened.dump(encode.RTM_GETNEIGH, body):
                entry = decode.fdb_entry(netns, {device.index: device.name}, answer)
                if entry:
                    found.append(replace(entry, owner=device.owner))
        return found

    # changing

    def apply(self, netns: str, operations: Sequence[Operation]) -> list[Outcome]:
        if netns == HOST:
            return self._apply(self._host, netns, operations)
        with NetlinkSocket() as opened:
            return self._apply(opened, netns, operations)

    def _apply(self, opened: NetlinkSocket, netns: str, operations: Sequence[Operation]) -> list[Outcome]:
        doomed = [
            operation.before for operation in operations if isinstance(operation, Delete) and isinstance(operation.before, Link)
        ]
        grouped = len(doomed) >= _GROUP_FROM
        batch = _Batch(opened, self._gate)
        context = _Context(self, netns, operations)
        for position, operation in enumerate(operations):
            if grouped and isinstance(operation, Delete) and isinstance(operation.before, Link):
                if operation.before is doomed[0]:
                    batch.flush()
                    self._delete_as_group(opened, doomed)
                continue
            context.encode(position, operation, batch)
        batch.flush()
        return [
            Outcome(operation, batch.errors.get(context.spoken_for(position), ""))
            for position, operation in enumerate(operations)
        ]

    def announce(self, netns: str, addresses: Sequence[Address]) -> None:
        """Tell the neighbours who has these addresses; nothing waits for it, and nothing hangs on its success."""
        indexes = self._indexes.get(netns, {})
        known = [(address.address, indexes[address.link]) for address in addresses if address.link in indexes]
        with NetlinkSocket() as opened:
            solicited = [encode.announce_v4(ip, index) for ip, index in known if ip.version == 4]
            if solicited:
                opened.execute(solicited)
            for ip, index in known:
                if isinstance(ip, IPv6Address):
                    self._advertise(opened, ip, index)

    @staticmethod
    def _advertise(opened: NetlinkSocket, ip: IPv6Address, index: int) -> None:
        body = opened.get(encode.RTM_GETLINK, encode.ifinfo(index))
        if body is None:
            return
        with suppress(OSError):
            advertise(ip, decode.mac(body), index)

    def _delete_as_group(self, opened: NetlinkSocket, doomed: Sequence[Link]) -> None:
        """One request for all: into a group nobody uses, its members read again, then the group deleted. A link that is
        not there any more is no error; verifying afterwards finds what is left."""
        group = decode.GROUP_BASE + secrets.randbelow(_INDEX_SPAN)
        marked = {link.index: (link.name, link.owner) for link in doomed}
        messages = [encode.set_group(index, group) for index in marked]
        for piece in opened.batches(messages):
            self._gate("before")
            opened.execute(piece)
            self._gate("after")
        answers = opened.dump(encode.RTM_GETLINK, encode.ifinfo())
        members = [link for link in (decode.link(HOST, answer) for answer in answers) if link.group == group]
        if all(marked.get(link.index) == (link.name, link.owner) for link in members):
            self._gate("before")
            opened.execute([encode.delete_group(group)])
            self._gate("after")
            return
        ours = [link for link in members if marked.get(link.index) == (link.name, link.owner)]
        for link in members:
            opened.execute([encode.delete_link(link.index) if link in ours else encode.set_group(link.index, 0)])

    def index(self, netns: str, name: str) -> int:
        """The index of a link that was read or made; 0 where it is not known."""
        return self._indexes.get(netns, {}).get(name, 0)

    def reserve_index(self, netns: str, name: str) -> int:
        self._next_index += 1
        self._indexes.setdefault(netns, {})[name] = self._next_index
        return self._next_index

    def open_netns(self, container: str) -> int:
        return self._open_netns(container)


def _with_underlay_name(link: Link, names: dict[int, str]) -> Link:
    if not isinstance(link.spec, VxlanSpec) or not link.spec.underlay:
        return link
    name = names.get(int(link.spec.underlay[1:]), link.spec.underlay)
    return replace(link, spec=replace(link.spec, underlay=name))


class _Batch:
    """Requests on their way; `errors`: position of an operation → the first refusal."""

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

    def keep(self, fd: int) -> None:
        """A descriptor that a request names, to be closed when it has been sent."""
        self._open_files.append(fd)

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


class _UnknownLinkError(Exception):
    """A request would name a link that is not there: index 0, which the kernel takes for "none" in some places."""


class _Context:
    """Encodes the operations of one call, those that one request can do together as one request."""

    def __init__(self, backend: NetlinkBackend, netns: str, operations: Sequence[Operation]) -> None:
        self._backend = backend
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

    def encode(self, position: int, operation: Operation, batch: _Batch) -> None:
        try:
            self._encode(position, operation, batch)
        except _UnknownLinkError:
            if not isinstance(operation, Delete):
                batch.errors[position] = os.strerror(errno.ENODEV)
        if batch.is_full:
            batch.flush()

    def _encode(self, position: int, operation: Operation, batch: _Batch) -> None:
        match operation:
            case Create(Link() as link):
                self._create_link(position, link, batch)
            case Create(Port() as port):
                if position not in self._fused:
                    batch.add(position, encode.set_master(self._index(port.link), self._index(port.bridge)))
            case Create(after):
                batch.add(position, self._creation(after), _THERE if isinstance(after, Address) else frozenset())
            case Delete(before):
                batch.add(position, self._deletion(before), _ABSENT)
            case Update(before, after):
                batch.add(position, self._change(before, after))

    def _index(self, name: str) -> int:
        index = self._backend.index(self._netns, name)
        if not index:
            raise _UnknownLinkError
        return index

    def _create_link(self, position: int, link: Link, batch: _Batch) -> None:
        if link.absorbed_by:
            if link.up:
                batch.add(position, encode.set_up(self._index(link.name)))
            return
        data = b""
        if isinstance(link.spec, VethSpec):
            try:
                netns_fd = self._backend.open_netns(link.spec.peer_netns)
            except Exception as gone:
                batch.errors[position] = str(gone)
                return
            batch.keep(netns_fd)
            index = self._backend.reserve_index(link.spec.peer_netns, link.spec.peer_ifname)
            data = encode.veth_peer(self._peer_of(link, link.spec), index, netns_fd)
        elif isinstance(link.spec, VxlanSpec):
            data = encode.vxlan_data(link.spec, self._index(link.spec.underlay) if link.spec.underlay else 0)
        port_position, port = self._created.get(Port(link.netns, link.name, "").key, (-1, None))
        master = self._backend.index(self._netns, port.bridge) if isinstance(port, Port) else 0
        if master:
            self._fused[port_position] = position
        index = self._backend.reserve_index(link.netns, link.name)
        batch.add(position, encode.new_link(link, index, data, master))
        batch.add(position, encode.finish_link(link, index))

    @staticmethod
    def _peer_of(link: Link, spec: VethSpec) -> Link:
        """The peer as the host's end describes it."""
        return replace(link, netns=spec.peer_netns, name=spec.peer_ifname, mac=spec.peer_mac)

    def _creation(self, after: Resource) -> Message:
        match after:
            case Address():
                return encode.new_address(after, self._index(after.link))
            case Route():
                return encode.new_route(after, self._index(after.link))
            case Neighbour():
                return encode.new_neighbour(after, self._index(after.link))
            case FdbEntry():
                return encode.new_fdb_entry(after, self._index(after.link))
        raise AssertionError(f"not netlink's: {after}")

    def _deletion(self, before: Resource) -> Message:
        match before:
            case Link():
                return encode.delete_link(before.index)
            case Port():
                return encode.set_master(self._index(before.link), 0)
            case Address():
                return encode.delete_address(before, self._index(before.link))
            case Route():
                return encode.delete_route(before, self._index(before.link))
            case Neighbour():
                return encode.delete_neighbour(before, self._index(before.link))
            case FdbEntry():
                return encode.delete_fdb_entry(before, self._index(before.link))
        raise AssertionError(f"not netlink's: {before}")

    def _change(self, before: Resource, after: Resource) -> Message:
        match after:
            case Link():
                assert isinstance(before, Link)
                return encode.update_link(self._index(after.name), before, after)
            case Port():
                return encode.set_master(self._index(after.link), self._index(after.bridge))
            case Route():
                return encode.new_route(after, self._index(after.link), replace=True)
            case Neighbour():
                return encode.new_neighbour(after, self._index(after.link))
            case FdbEntry():
                return encode.new_fdb_entry(after, self._index(after.link))
        raise AssertionError(f"not to be updated: {after}")
