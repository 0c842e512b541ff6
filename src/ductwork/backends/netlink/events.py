"""What the kernel tells of changes: links, addresses, routes, neighbours, forwarding, and the packet filter.

Invariant: an event is what concerns us alone: what carries our mark or lies on a link that does, the NICs that the site is
about, our tables. A socket that could not hold all that was told says so, since anything may have been lost.
Source: include/uapi/linux/rtnetlink.h, netconf.h, netfilter/nf_tables.h (NFTA_GEN_PROC_NAME, kernel 4.16).
"""

from __future__ import annotations

import errno
import select
import struct
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import ClassVar

from ductwork.backends.netlink import decode_link, encode, encode_link
from ductwork.backends.netlink.wire import NetlinkSocket, attributes, string
from ductwork.events import Event
from ductwork.netns import cookie_of
from ductwork.resources import HOST, PROTOCOL

_ROUTE, _NETFILTER = 0, 12
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_RECEIVE_BYTES = 1 << 16
_LINK, _NEIGH, _IPV4_ADDRESS, _IPV4_ROUTE, _IPV6_ADDRESS, _IPV6_ROUTE, _IPV4_NETCONF, _IPV6_NETCONF = 1, 3, 5, 7, 9, 11, 24, 25
_NFTABLES_GROUP = 7
_NEW_LINK, _DELETED_LINK, _DELETED_ADDRESS, _DELETED_ROUTE, _DELETED_NEIGHBOUR, _NEW_NETCONF = 16, 17, 21, 25, 29, 80
_IFA_PROTO, _NDA_PROTOCOL, _NETCONFA_IFINDEX = 11, 12, 1
_RTM_PROTOCOL = 5
"""Where in struct rtmsg."""
_NFTABLES, _NEW_GENERATION = 10, 15
_TABLE_NAME, _PROCESS_NAME = 1, 3
_HEADER = struct.Struct("=IHHII")
_INDEX = struct.Struct("=xxxxi")
_S32 = struct.Struct("=i")

Words = Callable[[int, bytes], Iterator[str]]
"""A message's type and body → what it tells, nothing where it is none of our business."""


class KernelEvents:
    """`words` are asked about each message of the `groups` of a netlink `protocol`; of the calling thread's namespace."""

    mask: ClassVar[int] = select.POLLIN

    def __init__(self, protocol: int, groups: Collection[int], words: Words) -> None:
        self._words = words
        self._opened = NetlinkSocket(protocol)
        self._opened.enlarge()
        self._opened.socket.setblocking(False)
        self._opened.socket.bind((0, 0))  # without an address of its own it is taken for the kernel, and told nothing
        for group in groups:
            self._opened.socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)

    def fileno(self) -> int:
        return self._opened.socket.fileno()

    def close(self) -> None:
        self._opened.close()

    def take(self) -> Sequence[Event]:
        found: dict[str, None] = {}
        while True:
            try:
                data = self._opened.socket.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                return [Event(text) for text in found]
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                found["more happened than the kernel could tell"] = None
                continue
            for kind, body in _messages(data):
                found |= dict.fromkeys(self._words(kind, body))


def link_events(nics: Collection[str]) -> KernelEvents:
    """`nics`: names of links that matter although they are not ours."""
    groups = (_LINK, _NEIGH, _IPV4_ADDRESS, _IPV4_ROUTE, _IPV6_ADDRESS, _IPV6_ROUTE, _IPV4_NETCONF, _IPV6_NETCONF)
    return KernelEvents(_ROUTE, groups, _Links(nics).words)


def filter_events(table: str) -> KernelEvents:
    """Changes of our nftables tables, all of which have the same name, and who made them."""
    return KernelEvents(_NETFILTER, (_NFTABLES_GROUP,), _Tables(table).words)


class _Links:
    """Knows which links are ours, by their marks."""

    def __init__(self, nics: Collection[str]) -> None:
        self._nics = frozenset(nics)
        self._ours: dict[int, str] = {}
        with NetlinkSocket() as opened:
            self._home = cookie_of(opened.socket)
            for body in opened.dump(encode.RTM_GETLINK, encode_link.ifinfo()):
                self._know(body)

    def words(self, kind: int, body: bytes) -> Iterator[str]:
        if kind in (_NEW_LINK, _DELETED_LINK):
            name = self._know(body)
            if name:
                yield f"link {name} {'changed' if kind == _NEW_LINK else 'was deleted'}"
            if kind == _DELETED_LINK:
                self._ours.pop(_INDEX.unpack_from(body)[0], None)
        elif kind == _DELETED_ADDRESS:
            name = self._ours.get(_INDEX.unpack_from(body)[0], "")
            if name or attributes(body, 8).get(_IFA_PROTO, b"\0")[0] == PROTOCOL:
                yield f"an address was deleted{name and f' from {name}'}"
        elif kind == _DELETED_ROUTE:
            if body[_RTM_PROTOCOL] == PROTOCOL:
                yield "a route was deleted"
        elif kind == _DELETED_NEIGHBOUR:
            name = self._ours.get(_INDEX.unpack_from(body)[0], "")
            if name or attributes(body, 12).get(_NDA_PROTOCOL, b"\0")[0] == PROTOCOL:
                yield f"a neighbour was deleted{name and f' from {name}'}"
        elif kind == _NEW_NETCONF:
            index = attributes(body, 4).get(_NETCONFA_IFINDEX)
            name = self._ours.get(_S32.unpack(index)[0], "") if index else ""
            if name:
                yield f"parameters of {name} changed"

    def _know(self, body: bytes) -> str:
        """The name of the link, "" if it is none of our business."""
        told = decode_link.attributes_of(body)
        found = decode_link.link(HOST, body, told, self._home)
        if found.owner:
            self._ours[found.index] = found.name
        if found.owner or found.name in self._nics:
            return found.name
        return self._ours.get(found.index, "")


class _Tables:
    """A change tells at its end who made it (the new generation), and before that which tables it is about."""

    def __init__(self, table: str) -> None:
        self._table = table
        self._concerned = False

    def words(self, kind: int, body: bytes) -> Iterator[str]:
        if kind >> 8 != _NFTABLES:
            return
        told = attributes(body, 4)
        if kind & 0xFF != _NEW_GENERATION:
            self._concerned |= string(told.get(_TABLE_NAME, b"")) == self._table
        elif self._concerned:
            self._concerned = False
            yield f"{string(told.get(_PROCESS_NAME, b'?'))} changed the packet filter"


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    start = 0
    while start + 16 <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, start)
        yield kind, data[start + 16 : start + length]
        start += (length + 3) & ~3
