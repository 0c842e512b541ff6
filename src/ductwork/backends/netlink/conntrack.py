"""Connections that the kernel still translates as a port was published before: they are forgotten, so that the next packet is
looked up anew.

Invariant: an entry is deleted only if it leads where its port led and leads no more, or if it is a datagram flow to a port
of this host's that is translated from now on; no other flow through this host loses its entry. Sources:
include/uapi/linux/netfilter/nfnetlink_conntrack.h.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Sequence
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from ductwork.backends.netlink.listeners import Port, port_of
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


def forget(gone: Sequence[NftElement], made: Sequence[NftElement]) -> None:
    """Ports that no longer lead where they did, and ports that lead somewhere from now on."""
    opened = [element for element in made if element.parts[-2] == "udp"]
    known = _count() if gone or opened else 0
    if not known:
        return
    led = {(port_of(element), _end(element)) for element in gone}
    leads = {port_of(element) for element in opened}
    wanted = {port for port, _ in led} | leads
    with suppress(OSError), NetlinkSocket(_NETFILTER) as netfilter:
        netfilter.enlarge()
        asked = {(port.protocol, port.port) for port in wanted}
        flows = _flows(netfilter, asked, _questions(asked, {port.family for port in wanted}, known))
        stale = [
            Message(_DELETE, 0, _head(flow.to[0].version) + nested(_ORIGINAL, flow.original))
            for flow in flows
            if any((port, flow.at) in led or (flow.plain and port in leads) for port in _ports_of(flow))
        ]
        for batch in netfilter.batches(stale):
            netfilter.execute(batch)


def _count() -> int:
    """Of this host. The table is the whole machine's, and takes as long to walk (6 ms) for a host that has none in it."""
    try:
        return int(_COUNT.read_text())
    except (OSError, ValueError):
        return _FEW


def _questions(asked: set[tuple[str, int]], families: set[int], known: int) -> list[bytes]:
    """Few flows are all told of, in one walk; of many, the kernel picks those to one port (Linux 5.8), in one per family."""
    if known < _FEW or len(asked) > 1:
        return [_head(0)]
    ((protocol, port),) = asked
    proto = nested(_PROTO, attribute(_NUMBER, bytes([_NUMBERS[protocol]])), attribute(_TO, _PORT.pack(port)))
    flags = attribute(_FILTER_ORIGINAL, _U32.pack(_BY_PROTOCOL | _BY_PORT)), attribute(2, _U32.pack(0))
    return [_head(family) + nested(_ORIGINAL, proto) + nested(_FILTER, *flags) for family in sorted(families)]


def _ports_of(flow: _Flow) -> Iterable[Port]:
    address, number = flow.to
    return (Port(flow.protocol, number, address.version, None), Port(flow.protocol, number, address.version, address))


def _head(version: int) -> bytes:
    """struct nfgenmsg; 0: both families."""
    return bytes([_FAMILIES[version], 0, 0, 0])


def _end(element: NftElement) -> End:
    address, _, port = element.value.partition(" . ")
    return ip_address(address), int(port)


def _flows(netfilter: NetlinkSocket, asked: set[tuple[str, int]], questions: Iterable[bytes]) -> list[_Flow]:
    """To one of these ports."""
    found = []
    for answer in (answer for question in questions for answer in netfilter.dump(_GET, question)):
        told = attributes(answer, 4)
        number = attributes(attributes(told[_ORIGINAL])[_PROTO]).get(_NUMBER, b"\0")[0]
        if number not in _NAMES:
            continue
        source, to = _ends(told[_ORIGINAL])
        if (_NAMES[number], to[1]) in asked:
            at, back = _ends(told[_REPLY])
            found.append(_Flow(told[_ORIGINAL], _NAMES[number], to, at, plain=(at, back) == (to, source)))
    return found


def _ends(data: bytes) -> tuple[End, End]:
    """(source, destination) of a tuple: CTA_IP_V4_SRC, CTA_IP_V4_DST, or those of IPv6 behind them."""
    parts = attributes(data)
    ip, proto = attributes(parts[_IP]), attributes(parts[_PROTO])
    source, to = (ip[1], ip[2]) if 1 in ip else (ip[3], ip[4])
    ports = (_PORT.unpack(proto[which])[0] for which in (_FROM, _TO))
    return (ip_address(source), next(ports)), (ip_address(to), next(ports))
