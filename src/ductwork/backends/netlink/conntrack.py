"""Connections that the kernel still translates as a port was published before: they are forgotten, so that the next packet is
looked up anew.

Invariant: an entry is deleted only if it leads where its port led and leads no more, or if it is a datagram flow to a port
of this host's that is translated from now on; no other flow through this host loses its entry. Sources:
include/uapi/linux/netfilter/nfnetlink_conntrack.h.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from ductwork.backends.netlink.listeners import Ports, ports_of
from ductwork.backends.netlink.wire import Message, NetlinkSocket, attribute, attributes, nested
from ductwork.resources import IPAddress, NftElement

_NETFILTER, _GET, _DELETE = 12, 1 << 8 | 1, 1 << 8 | 2
_ORIGINAL, _REPLY, _FILTER = 1, 2, 25
_IP, _PROTO = 1, 2
_NUMBER, _FROM, _TO = 1, 2, 3
_FILTER_ORIGINAL, _BY_PROTOCOL, _BY_PORT = 1, 1 << 3, 1 << 5
_FEW = 2000
_COUNT = Path("/proc/sys/net/netfilter/nf_conntrack_count")
_NUMBERS = {"tcp": 6, "udp": 17, "sctp": 132}
_NAMES = {number: name for name, number in _NUMBERS.items()}
_FAMILIES = {0: socket.AF_UNSPEC, 4: socket.AF_INET, 6: socket.AF_INET6}
_U32 = struct.Struct("=I")
_PORT = struct.Struct("!H")

End = tuple[IPAddress, int]


class _Flow(NamedTuple):
    """`original`: the tuple as the kernel has it, by which an entry is deleted. `to`: where its packets were sent; `at`: who
    answers them; `plain`: it is not translated."""

    original: bytes
    protocol: str
    to: End
    at: End
    plain: bool


class _Openings:
    """Published ports, which a flow may have come by."""

    def __init__(self, elements: Iterable[NftElement]) -> None:
        self.ports = [(ports_of(element), element) for element in elements]
        self._single: dict[tuple[str, int], list[tuple[Ports, NftElement]]] = {}
        for each in self.ports:
            if each[0].first == each[0].last:
                self._single.setdefault((each[0].protocol, each[0].first), []).append(each)
        self._ranges = [each for each in self.ports if each[0].first != each[0].last]

    def of(self, protocol: str, to: End) -> Iterator[NftElement]:
        address, number = to
        for ports, element in (*self._single.get((protocol, number), ()), *self._ranges):
            here = (ports.protocol, ports.family) == (protocol, address.version) and ports.address in (None, address)
            if here and ports.first <= number <= ports.last:
                yield element


def forget(gone: Sequence[NftElement], made: Sequence[NftElement]) -> None:
    """Ports that no longer lead where they did, and ports that lead somewhere from now on."""
    led, lead = _Openings(gone), _Openings(made)
    leads = _Openings(element for element in made if element.parts[-2] == "udp")
    known = _count() if led.ports or leads.ports else 0
    if not known:
        return
    with suppress(OSError), NetlinkSocket(_NETFILTER) as netfilter:
        netfilter.enlarge()
        questions = _questions([ports for ports, _ in (*led.ports, *leads.ports)], known)
        stale = [
            Message(_DELETE, 0, _head(flow.to[0].version) + nested(_ORIGINAL, flow.original))
            for flow in _flows(netfilter, questions)
            if (_have_led(led, flow) and not _have_led(lead, flow))  # a port that is in another range now may lead there still
            or (flow.plain and any(leads.of(flow.protocol, flow.to)))
        ]
        for batch in netfilter.batches(stale):
            netfilter.execute(batch)


def _have_led(openings: _Openings, flow: _Flow) -> bool:
    return any(_end(element, flow.to[1]) == flow.at for element in openings.of(flow.protocol, flow.to))


def _count() -> int:
    """Of this host. The table is the whole machine's, and takes as long to walk (6 ms) for a host that has none in it."""
    try:
        return int(_COUNT.read_text())
    except (OSError, ValueError):
        return _FEW


def _questions(asked: Sequence[Ports], known: int) -> list[bytes]:
    """Few flows are all told of, in one walk; of many, the kernel picks those to one port (Linux 5.8), in one per family."""
    places = {(ports.protocol, ports.first, ports.last) for ports in asked}
    protocol, first, last = next(iter(places))
    if known < _FEW or len(places) > 1 or first != last:
        return [_head(0)]
    proto = nested(_PROTO, attribute(_NUMBER, bytes([_NUMBERS[protocol]])), attribute(_TO, _PORT.pack(first)))
    flags = attribute(_FILTER_ORIGINAL, _U32.pack(_BY_PROTOCOL | _BY_PORT)), attribute(2, _U32.pack(0))
    families = sorted({ports.family for ports in asked})
    return [_head(family) + nested(_ORIGINAL, proto) + nested(_FILTER, *flags) for family in families]


def _head(version: int) -> bytes:
    """struct nfgenmsg; 0: both families."""
    return bytes([_FAMILIES[version], 0, 0, 0])


def _end(element: NftElement, number: int) -> End:
    """Where a port, or one of a range, leads to."""
    address, _, port = element.value.partition(" . ")
    return ip_address(address), int(port or number)


def _flows(netfilter: NetlinkSocket, questions: Iterable[bytes]) -> Iterator[_Flow]:
    for answer in (answer for question in questions for answer in netfilter.dump(_GET, question)):
        told = attributes(answer, 4)
        number = attributes(attributes(told[_ORIGINAL])[_PROTO]).get(_NUMBER, b"\0")[0]
        if number in _NAMES:
            source, to = _ends(told[_ORIGINAL])
            at, back = _ends(told[_REPLY])
            yield _Flow(told[_ORIGINAL], _NAMES[number], to, at, plain=(at, back) == (to, source))


def _ends(data: bytes) -> tuple[End, End]:
    """(source, destination) of a tuple: CTA_IP_V4_SRC, CTA_IP_V4_DST, or those of IPv6 behind them."""
    parts = attributes(data)
    ip, proto = attributes(parts[_IP]), attributes(parts[_PROTO])
    source, to = (ip[1], ip[2]) if 1 in ip else (ip[3], ip[4])
    ports = (_PORT.unpack(proto[which])[0] for which in (_FROM, _TO))
    return (ip_address(source), next(ports)), (ip_address(to), next(ports))
