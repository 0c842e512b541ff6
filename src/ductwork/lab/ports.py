"""Published ports in a lab: who must reach them (contract 1.5), and whether they do, by TCP and UDP.

Judged are the first and the last port of each entry, and one beside them that nothing is published at, from outside and from
every host to the host's own address, each family by itself; but for those on another address than that, for SCTP, which few
kernels speak, and for targets on a LAN, whose host may have no address there.

Invariant: `expectations` is pure and reads the site file's words alone, as `expect.py`. A container that listens on the port
itself is asked; else something that answers listens there meanwhile. All sockets are closed before `attempt` returns.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count

from ductwork.lab.expect import Endpoint, Pair
from ductwork.lab.lans import access_addresses
from ductwork.lab.namespaces import open_namespace
from ductwork.lab.report import Result
from ductwork.lab.topology import HostNode, Topology
from ductwork.netns import Visitor
from ductwork.resources import IPInterface
from ductwork.site.model import Network, PublishedPort

_PATIENCE = 1.5
_TRIES = 3
_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


@dataclass(frozen=True, slots=True)
class Answerer:
    """Where something has to answer: a namespace, a protocol and a port in it."""

    netns: str
    protocol: str
    port: int


def expectations(
    lab: Topology, addresses: Mapping[tuple[str, str, str], tuple[IPInterface, ...]]
) -> tuple[list[Pair], list[Answerer]]:
    """(what must be reached and what must not, who has to answer). `addresses`: as for `expect.expectations`."""
    pairs: list[Pair] = []
    answerers: dict[Answerer, None] = {}
    judged = [p for p in lab.site.ports if p.protocol in _KINDS and not lab.site.networks[p.network].external]
    taken = {(p.host, p.protocol, n) for p in lab.site.ports for n in range(p.first, p.last + 1)}
    for port in judged:
        node = lab.container(port.host, port.container)
        network, host = lab.site.networks[port.network], lab.hosts[port.host]
        found = addresses.get((port.host, *port.id), ())
        versions = _spoken(network, port.host) & {address.version for address in found}
        for number in dict.fromkeys((port.first, port.last)):
            inner = port.to if port.to_one else port.to + number - port.first
            answerers[Answerer(node.netns, port.protocol, inner)] = None
            pairs += _to_host(lab, host, port, number, versions)
        free = next(n for n in count(port.last + 1) if (port.host, port.protocol, n) not in taken)
        pairs += _to_host(lab, host, port, free, set())
    return list(dict.fromkeys(pairs)), list(answerers)


def _to_host(lab: Topology, host: HostNode, port: PublishedPort, number: int, versions: set[int]) -> Iterator[Pair]:
    target = Endpoint(host.label, host.netns, host.name)
    others = [Endpoint(each.label, each.netns, each.name) for each in lab.hosts.values()]
    for version in (4, 6):
        address = host.underlay(version)
        elsewhere = port.address is not None and not port.address.is_unspecified and port.address != address
        other_family = port.address is not None and port.address.version != version
        if address is None or number > 65535 or elsewhere or other_family:
            continue
        expected = version in versions
        rule = "a published port answers" if expected else "nothing is published there, or not in this family"
        for source in (Endpoint("outside", lab.outside.netns, None), *others):
            yield Pair(source, target, address, expected, rule, f"{number}/{port.protocol}")


def _spoken(network: Network, host: str) -> set[int]:
    """The families in which a host has an address in a network."""
    access = access_addresses(network)
    beside = access.get(host, access.get(""))
    own = [*network.host_addresses.get(host, ()), *network.gateways_held(host), *network.legs.get(host, ())]
    return {address.version for address in (*own, *([] if beside is None else [beside]))}


def attempt(pairs: Sequence[Pair], answerers: Iterable[Answerer]) -> list[Result]:
    """Try every pair; what should have been reached and was not is tried again."""
    reached: set[Pair] = set()
    with contextlib.ExitStack() as stack:
        visitor = stack.enter_context(contextlib.closing(Visitor()))
        servers = [opened for each in answerers if (opened := _answering(visitor, each))]
        for server in servers:
            stack.callback(server.close)
        for left in range(_TRIES):
            missed = [pair for pair in pairs if pair not in reached and (pair.expected or left == 0)]
            if missed:
                reached |= _tried(visitor, missed, servers)
    return [Result(pair, pair in reached) for pair in pairs]


def _answering(visitor: Visitor, at: Answerer) -> socket.socket | None:
    """None: the container listens there itself."""

    def listen() -> socket.socket:
        opened = socket.socket(socket.AF_INET6, _KINDS[at.protocol] | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of the last test linger
        opened.bind(("::", at.port))
        if at.protocol == "tcp":
            opened.listen(128)
        return opened

    (result,) = visitor.visit([(partial(open_namespace, at.netns), listen)])
    return result if isinstance(result, socket.socket) else None


def _tried(visitor: Visitor, pairs: Sequence[Pair], servers: Sequence[socket.socket]) -> set[Pair]:
    places = [(partial(open_namespace, pair.source.netns), partial(_client, pair)) for pair in pairs]
    clients = dict(zip(pairs, visitor.visit(places), strict=True))
    answered: set[Pair] = set()
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        for server in servers:
            selector.register(server, selectors.EVENT_READ, None)
        waiting = 0
        for pair, client in clients.items():
            if isinstance(client, socket.socket):
                stack.callback(client.close)
                event = selectors.EVENT_WRITE if pair.port.endswith("tcp") else selectors.EVENT_READ
                selector.register(client, event, pair)
                waiting += 1
        deadline = time.monotonic() + _PATIENCE
        while waiting and (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                ready = key.fileobj
                assert isinstance(ready, socket.socket)
                if key.data is None:
                    _serve(ready)
                    continue
                selector.unregister(ready)
                waiting -= 1
                if _has_answered(ready):
                    answered.add(key.data)
    return answered


def _client(pair: Pair) -> socket.socket:
    number, _, protocol = pair.port.partition("/")
    family = socket.AF_INET6 if pair.address.version == 6 else socket.AF_INET
    opened = socket.socket(family, _KINDS[protocol] | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    with contextlib.suppress(OSError):  # refused at once, or under way
        opened.connect((str(pair.address), int(number)))
        if protocol == "udp":
            opened.send(b"?")
    return opened


def _serve(server: socket.socket) -> None:
    with contextlib.suppress(OSError):
        if server.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM:
            server.accept()[0].close()
        else:
            data, peer = server.recvfrom(100)
            server.sendto(data, peer)


def _has_answered(client: socket.socket) -> bool:
    try:
        if client.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_DGRAM:
            return bool(client.recv(100))
        return client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0 and bool(client.getpeername())
    except OSError:
        return False
