"""The sets and maps of our nftables tables as nfnetlink has them: their elements as messages, and back.

Invariant: every set that `services.ruleset` declares is known here, with the layout that it has there. A range is written as
nft prints it: `10.1.1.0/24`, `10.0.0.1-10.0.0.5`, `8000-8010`. Comments lie where nft puts them, so that it prints ours and
we read its. Sources: include/uapi/linux/netfilter/nf_tables.h, libnftnl's udata.h; nft's segtree.c for intervals.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv6Address, ip_network
from itertools import pairwise
from typing import NamedTuple

from ductwork.backends.netlink.wire import attribute, attributes, each, nested, string, text
from ductwork.resources import NftElement, Owner

_PROTOCOLS = {"inet": 1, "bridge": 7}
"""NFPROTO_INET, NFPROTO_BRIDGE."""
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS = 1, 2, 3
_ELEM, _KEY, _DATA, _VALUE, _FLAGS, _USERDATA, _EXPR, _KEY_END = 1, 1, 2, 1, 3, 6, 7, 10
_EXPR_DATA, _COUNTER_PACKETS = 2, 2
_INTERVAL_END = struct.pack("!I", 1)
_UDATA_COMMENT = 0


class _Part(NamedTuple):
    """One part of a key: its size in the kernel. (Each part of a concatenation fills whole registers of four bytes.)
    `prefixes`: a range of it may be one; None: there are no ranges."""

    size: int
    encode: Callable[[str], bytes]
    decode: Callable[[bytes], str]
    prefixes: bool | None = None


def _number(size: int) -> _Part:
    """Raw payload, which nft has no type for. So many digits that no interface name looks like one."""
    digits = max(16, 2 * size)
    return _Part(
        size, lambda part: int(part, 16).to_bytes(size, "big"), lambda raw: f"{int.from_bytes(raw, 'big'):#0{digits + 2}x}"
    )


_IFNAME = _Part(16, lambda part: part.encode().ljust(16, b"\0"), lambda raw: raw.rstrip(b"\0").decode(errors="replace"))
_MAC = _Part(6, lambda part: bytes.fromhex(part.replace(":", "")), lambda raw: raw.hex(":"))
_IPV4 = _Part(4, socket.inet_aton, socket.inet_ntoa, prefixes=True)
_IPV6 = _Part(16, lambda part: IPv6Address(part).packed, lambda raw: str(IPv6Address(raw)), prefixes=True)
_PROTOCOL_NUMBERS = {"tcp": 6, "udp": 17, "sctp": 132}
_PROTOCOL_NAMES = {number: name for name, number in _PROTOCOL_NUMBERS.items()}
_PROTOCOL = _Part(1, lambda part: bytes([_PROTOCOL_NUMBERS[part]]), lambda raw: _PROTOCOL_NAMES.get(raw[0], str(raw[0])))
_PORT = _Part(2, lambda part: int(part).to_bytes(2, "big"), lambda raw: str(int.from_bytes(raw, "big")), prefixes=False)


class Layout(NamedTuple):
    """`key` and, of a map, `value`: their parts. `intervals`: an element may be a range."""

    key: tuple[_Part, ...]
    value: tuple[_Part, ...] = ()
    intervals: bool = False

    @property
    def is_tree(self) -> bool:
        """Whether the kernel has the ends of ranges as elements of their own (nft_set_rbtree; others have nft_set_pipapo)."""
        return self.intervals and len(self.key) == 1


_DEVICE, _PAIR = Layout((_IFNAME,)), Layout((_IFNAME, _IFNAME))
_SUBNET4, _SUBNET6 = (Layout((part, _IFNAME), intervals=True) for part in (_IPV4, _IPV6))
_PORTS = (_PROTOCOL, _PORT)

SETS: Mapping[str, Mapping[str, Layout]] = {
    "bridge": {
        "gateway4": Layout((_IFNAME, _IPV4)),
        "gateway6": Layout((_IFNAME, _number(16))),
        "checked": _DEVICE,
        "own_mac": Layout((_IFNAME, _MAC)),
        "own4": Layout((_IFNAME, _MAC, _IPV4)),
        "own6": Layout((_IFNAME, _number(6), _number(16))),
        "any4": _DEVICE,
        "any6": _DEVICE,
        "apart": _DEVICE,
        "peers_mac": Layout((_MAC,)),
        "peers4": Layout((_IPV4,)),
        "peers6": Layout((_IPV6,)),
    },
    "inet": {
        **dict.fromkeys(("bridges", "internal", "guarded", "lent4", "lent6", "legs", "lan_legs", "masked_legs"), _DEVICE),
        **dict.fromkeys(("served", "no_loopback", "closed"), _DEVICE),
        **dict.fromkeys(("flows", "lent_bridges", "isolated", "routed"), _PAIR),
        **dict.fromkeys(("local4", "leg_nets4", "behind4", "beside4"), _SUBNET4),
        **dict.fromkeys(("local6", "leg_nets6", "behind6", "beside6"), _SUBNET6),
        "elsewhere4": Layout((_IPV4, _IFNAME)),
        "elsewhere6": Layout((_IPV6, _IFNAME)),
        "masquerade4": Layout((_IPV4,), intervals=True),
        "masquerade6": Layout((_IPV6,), intervals=True),
        "snat4": Layout((_IPV4,), (_IPV4,), intervals=True),
        "snat6": Layout((_IPV6,), (_IPV6,), intervals=True),
        "ports4": Layout(_PORTS, (_IPV4, _PORT)),
        "ports6": Layout(_PORTS, (_IPV6, _PORT)),
        "ports_at4": Layout((_IPV4, *_PORTS), (_IPV4, _PORT)),
        "ports_at6": Layout((_IPV6, *_PORTS), (_IPV6, _PORT)),
        "ranges4": Layout(_PORTS, (_IPV4,), intervals=True),
        "ranges6": Layout(_PORTS, (_IPV6,), intervals=True),
        "ranges_at4": Layout((_IPV4, *_PORTS), (_IPV4,), intervals=True),
        "ranges_at6": Layout((_IPV6, *_PORTS), (_IPV6,), intervals=True),
        "funnels4": Layout(_PORTS, (_IPV4, _PORT), intervals=True),
        "funnels6": Layout(_PORTS, (_IPV6, _PORT), intervals=True),
        "funnels_at4": Layout((_IPV4, *_PORTS), (_IPV4, _PORT), intervals=True),
        "funnels_at6": Layout((_IPV6, *_PORTS), (_IPV6, _PORT), intervals=True),
    },
}
"""Family → name of a set or map of ours in a table of it → its layout."""


# writing


def packed(element: NftElement, *, new: bool) -> bytes:
    """The element as a message's body; of one that is not to be made, its key is all that counts."""
    layout = SETS[element.family][element.set_name]
    made = _made(layout, element) if new else ()
    if layout.intervals:
        elements = _range_elements(layout, element, made)
    else:
        elements = nested(_ELEM, _key(_KEY, _data(layout.key, element.parts)), *made)
    return of_set(element.family, element.table, element.set_name) + nested(_LIST_ELEMENTS, elements)


def _range_elements(layout: Layout, element: NftElement, made: Iterable[bytes]) -> bytes:
    bounds = [_bounds(part, word) for part, word in zip(layout.key, element.parts, strict=True)]
    first, last = (_joined([bound[end] for bound in bounds]) for end in (0, 1))
    ends = [] if layout.is_tree else [_key(_KEY_END, last)]
    elements = nested(_ELEM, _key(_KEY, first), *ends, *made)
    if layout.is_tree and last.strip(b"\xff"):
        behind = (int.from_bytes(last, "big") + 1).to_bytes(len(last), "big")
        elements += nested(_ELEM, attribute(_FLAGS, _INTERVAL_END), _key(_KEY, behind))
    return elements


def body(family: str, *words: bytes) -> bytes:
    """struct nfgenmsg, and attributes behind it."""
    return bytes([_PROTOCOLS[family], 0, 0, 0]) + b"".join(words)


@lru_cache(64)
def of_set(family: str, table: str, set_name: str) -> bytes:
    """What a message about a set begins with; with nothing behind it, all its elements are asked for."""
    return body(family, text(_LIST_TABLE, table), text(_LIST_SET, set_name))


def _key(kind: int, data: bytes) -> bytes:
    return nested(kind, attribute(_VALUE, data))


def _made(layout: Layout, element: NftElement) -> Iterator[bytes]:
    if layout.value:
        yield _leads_to(layout.value, element.value)
    yield userdata(element.owner)


@lru_cache(256)
def _leads_to(layout: tuple[_Part, ...], value: str) -> bytes:
    """Thousands of ports may lead to one."""
    return _key(_DATA, _data(layout, value.split(" . ")))


@lru_cache(256)
def userdata(owner: Owner | None) -> bytes:
    if owner is None:
        return b""
    comment = owner.comment().encode() + b"\0"
    return attribute(_USERDATA, bytes([_UDATA_COMMENT, len(comment)]) + comment)


def _data(layout: Sequence[_Part], words: Sequence[str]) -> bytes:
    return _joined([part.encode(word) for part, word in zip(layout, words, strict=True)])


def _joined(parts: Sequence[bytes]) -> bytes:
    """A part alone as it is; of several, each fills whole registers."""
    return parts[0] if len(parts) == 1 else b"".join(raw + b"\0" * (-len(raw) % 4) for raw in parts)


def _bounds(part: _Part, word: str) -> tuple[bytes, bytes]:
    """The first and the last of a range, or the same twice."""
    if part.prefixes and "/" in word:
        network = ip_network(word)
        return network.network_address.packed, network.broadcast_address.packed
    first, dash, last = word.partition("-") if part.prefixes is not None else (word, "", "")
    return part.encode(first), part.encode(last if dash else first)


# reading


def read(family: str, table: str, set_name: str, answers: Iterable[bytes]) -> Iterator[NftElement]:
    """The elements that the answers to a request for some or all of a set tell of."""
    layout = SETS[family][set_name]
    told = (attributes(elem) for answer in answers for elem in each(attributes(answer, 4).get(_LIST_ELEMENTS, b""), _ELEM, 0))
    for first, last, found in _of_tree(told) if layout.is_tree else _whole(told):
        parts = _written(layout.key, first) if first == last else _ranges(layout.key, first, last)
        value = _value(layout.value, found[_DATA]) if layout.value else ""
        packets = _packets(found[_EXPR]) if _EXPR in found else 0
        yield NftElement(family, table, set_name, parts, value, _owner(found.get(_USERDATA, b"")), packets=packets)


_Told = dict[int, bytes]


def _whole(told: Iterable[_Told]) -> Iterator[tuple[bytes, bytes, _Told]]:
    for found in told:
        first = attributes(found[_KEY])[_VALUE]
        yield first, attributes(found[_KEY_END])[_VALUE] if _KEY_END in found else first, found


def _of_tree(told: Iterable[_Told]) -> Iterator[tuple[bytes, bytes, _Told]]:
    """Each with the end that follows it; where one begins at once, the end of the one before comes first."""
    ordered = sorted(((attributes(found[_KEY])[_VALUE], _FLAGS not in found, found) for found in told), key=lambda at: at[:2])
    for (first, begins, found), (behind, _, _) in pairwise([*ordered, (b"", False, {})]):
        if begins:
            size = len(first)
            last = (int.from_bytes(behind, "big") - 1).to_bytes(size, "big") if behind else b"\xff" * size
            yield first, last, found


def _cut(layout: Sequence[_Part], raw: bytes) -> Iterator[bytes]:
    start = 0
    for part in layout:
        yield raw[start : start + part.size]
        start += (part.size + 3) & ~3


def _written(layout: Sequence[_Part], raw: bytes) -> tuple[str, ...]:
    return tuple([part.decode(piece) for part, piece in zip(layout, _cut(layout, raw), strict=True)])


def _ranges(layout: Sequence[_Part], first: bytes, last: bytes) -> tuple[str, ...]:
    return tuple(map(_range, layout, _cut(layout, first), _cut(layout, last)))


def _range(part: _Part, first: bytes, last: bytes) -> str:
    if first == last:
        return part.decode(first)
    low, high = int.from_bytes(first, "big"), int.from_bytes(last, "big")
    size = high - low + 1
    if part.prefixes and size & (size - 1) == 0 and low % size == 0:
        return f"{part.decode(first)}/{8 * part.size - size.bit_length() + 1}"
    return f"{part.decode(first)}-{part.decode(last)}"


@lru_cache(256)
def _value(layout: tuple[_Part, ...], data: bytes) -> str:
    return " . ".join(_written(layout, attributes(data)[_VALUE]))


@lru_cache(256)
def _packets(expression: bytes) -> int:
    """Of the map's counter (NFTA_COUNTER_PACKETS). Most have counted nothing."""
    counter = attributes(attributes(expression).get(_EXPR_DATA, b""))
    return int.from_bytes(counter.get(_COUNTER_PACKETS, b""), "big")


@lru_cache(256)
def _owner(userdata: bytes) -> Owner | None:
    return Owner.from_comment(comment(userdata))


def comment(userdata: bytes) -> str:
    """Type, length and value, one after the other."""
    start = 0
    while start + 2 <= len(userdata):
        kind, length = userdata[start], userdata[start + 1]
        if kind == _UDATA_COMMENT:
            return string(userdata[start + 2 : start + 2 + length])
        start += 2 + length
    return ""
