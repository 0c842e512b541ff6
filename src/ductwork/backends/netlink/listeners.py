"""Who listens on this host, over sock_diag: a port that is published must be nobody else's.

Invariant: only looks. Sources: include/uapi/linux/sock_diag.h and inet_diag.h.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from ductwork.backends.netlink.wire import NetlinkSocket, attributes
from ductwork.resources import IPAddress, Key, NftElement
from ductwork.resources.base import RELAY_MARK

_SOCK_DIAG, _BY_FAMILY = 4, 20
_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
_LISTEN, _UNCONNECTED = 1 << 10, 1 << 7
"""TCP_LISTEN; TCP_CLOSE, which UDP's sockets are in unless they are connected to one peer."""
_V6ONLY, _SOCKET_MARK = 11, 15
_HEAD = struct.Struct("=BBBxI")
_PORT = struct.Struct("!H")
_INODE = struct.Struct("=I")
_INODE_AT = 68
_LOOPBACK6 = IPv6Address(1)


class Listener(NamedTuple):
    """`families`: those that it takes packets of; `is_relay`: the agent's, at ::1."""

    address: IPAddress
    port: int
    inode: int
    families: tuple[int, ...]
    is_relay: bool = False


class Ports(NamedTuple):
    """An element of a map of published ports, as numbers; `address` None: every address of the family."""

    protocol: str
    first: int
    last: int
    family: int
    address: IPAddress | None


def ports_of(element: NftElement) -> Ports:
    *where, protocol, numbers = element.parts
    first, _, last = numbers.partition("-")
    family = int(element.set_name[-1])
    kind = IPv4Address if family == 4 else IPv6Address
    return Ports(protocol, int(first), int(last or first), family, kind(where[0]) if where else None)


class Askable(NamedTuple):
    """Who knows of whom listens without being a process of its own, or "". `docker`: for which container Docker listens on a
    port of a protocol; `tunnel`: whose tunnel has a port of udp."""

    docker: Callable[[str, int], str]
    tunnel: Callable[[int], str]


def holders(elements: Sequence[NftElement], askable: Askable) -> dict[tuple[Key, int], str]:
    """Of ports that are about to be published, those that somebody listens on → who that is."""
    wanted = {element.key: ports_of(element) for element in elements}
    found: dict[tuple[Key, int], tuple[str, Listener]] = {}
    for protocol in dict.fromkeys(ports.protocol for ports in wanted.values()):
        its = {key: ports for key, ports in wanted.items() if ports.protocol == protocol}
        bounds = {number for ports in its.values() for number in (ports.first, ports.last)}
        by_port: dict[int, list[Listener]] = {}
        for listener in _listeners(protocol, bounds):
            by_port.setdefault(listener.port, []).append(listener)
        for key, ports in its.items():
            for number in _taken(ports, by_port):
                in_the_way = [listener for listener in by_port[number] if _holds(listener, ports)]
                if in_the_way:
                    found[key, number] = (protocol, in_the_way[0])
    if not found:
        return {}
    processes = _processes({listener.inode for _, listener in found.values()})
    return {at: _who(protocol, its.port, processes.get(its.inode), askable) for at, (protocol, its) in found.items()}


def at_loopback(wanted: Callable[[str, int], bool], askable: Askable) -> dict[tuple[str, int], str]:
    """(protocol, port) → who takes what comes to ::1, of the ports that are wanted; "": the agent's relay, which knows tcp and
    udp."""
    found: dict[tuple[str, int], Listener] = {}
    for protocol in ("tcp", "udp"):
        for listener in _listeners(protocol, set()):
            here = 6 in listener.families and (listener.address.is_unspecified or listener.address == _LOOPBACK6)
            if here and wanted(protocol, listener.port):
                found[protocol, listener.port] = listener
    others = {listener.inode for listener in found.values() if not listener.is_relay}
    processes = _processes(others) if others else {}
    return {
        (protocol, port): "" if its.is_relay else _who(protocol, port, processes.get(its.inode), askable)
        for (protocol, port), its in found.items()
    }


def _taken(ports: Ports, by_port: Mapping[int, object]) -> Iterable[int]:
    """The ports of a range that anybody listens on."""
    if ports.first == ports.last:
        return (ports.first,) if ports.first in by_port else ()
    return sorted(number for number in by_port if ports.first <= number <= ports.last)


def _holds(listener: Listener, port: Ports) -> bool:
    """What listens on ::1 alone loses nothing by an element: the kernel does not translate that address."""
    if port.family not in listener.families or listener.address == _LOOPBACK6:
        return False
    return port.address is None or listener.address.is_unspecified or listener.address == port.address


def _listeners(protocol: str, ports: set[int]) -> Iterator[Listener]:
    """All that listen, or those on one port. A kernel without the protocol has none."""
    with suppress(OSError), NetlinkSocket(_SOCK_DIAG) as diag:
        diag.enlarge()
        for family in (socket.AF_INET, socket.AF_INET6):
            states = _LISTEN if protocol != "udp" else _UNCONNECTED
            (asked,) = ports if len(ports) == 1 else (0,)
            head = _HEAD.pack(family, _PROTOCOLS[protocol], 0, states)
            with suppress(OSError):
                for answer in diag.dump(_BY_FAMILY, head + _PORT.pack(asked) + bytes(46)):
                    yield _listener(family, answer)


def _listener(family: int, answer: bytes) -> Listener:
    """struct inet_diag_msg."""
    (port,) = _PORT.unpack_from(answer, 4)
    (inode,) = _INODE.unpack_from(answer, _INODE_AT)
    if family == socket.AF_INET:
        return Listener(IPv4Address(answer[8:12]), port, inode, (4,))
    address = IPv6Address(answer[8:24])
    if address.ipv4_mapped:
        return Listener(address.ipv4_mapped, port, inode, (4,))
    found = attributes(answer, 72)
    only = found.get(_V6ONLY) != b"\0" or not address.is_unspecified
    return Listener(address, port, inode, (6,) if only else (4, 6), found.get(_SOCKET_MARK) == _INODE.pack(RELAY_MARK))


def _processes(inodes: Iterable[int]) -> Mapping[int, tuple[str, int]]:
    """Socket → (name, number) of a process that has it open."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[int, tuple[str, int]] = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            for descriptor in os.scandir(f"/proc/{pid}/fd"):
                with suppress(OSError):
                    inode = wanted.get(os.readlink(descriptor.path))
                    if inode is not None and inode not in found:
                        with open(f"/proc/{pid}/comm") as comm:
                            found[inode] = (comm.read().strip(), int(pid))
        if len(found) == len(wanted):
            break
    return found


def _who(protocol: str, port: int, process: tuple[str, int] | None, askable: Askable) -> str:
    if process is None:
        return (askable.tunnel(port) if protocol == "udp" else "") or "a process that cannot be seen"
    name, pid = process
    if name.startswith("docker"):
        container = askable.docker(protocol, port)
        if container:
            return f"Docker, for its container {container}"
    return f"{name} (process {pid})"
