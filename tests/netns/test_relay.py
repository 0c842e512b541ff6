"""The relay by itself: what the agent does with it is in test_publish.py."""

from __future__ import annotations

import gc
import socket
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv6Address, ip_address

import pytest
from conftest import inside, sh, until

from ductwork.agent.relay import Place, Relay, Target
from talk import REFUSED, ask, served

pytestmark = pytest.mark.netns


def test_who_has_said_his_last_word_is_answered(netns: Callable[[str], str]) -> None:
    """Whatever Python collects meanwhile: a connection that nothing is read from any more is known to its task alone."""
    ns = netns("host")
    relay = inside(ns, Relay)
    try:
        relay.serve({("tcp", 8088): (IPv6Address("::1"), 80)})
        with inside(ns, lambda: socket.create_server(("::1", 80), family=socket.AF_INET6)) as server:
            assert until(lambda: ":8088" in sh(ns, "ss", "-Hltn"))
            client = inside(ns, lambda: socket.create_connection(("::1", 8088), 5))
            accepted, _ = server.accept()
            with client, accepted:
                client.shutdown(socket.SHUT_WR)
                assert accepted.recv(1) == b""
                for _ in range(5):
                    time.sleep(0.05)
                    gc.collect()
                accepted.sendall(b"yes")
                assert client.recv(9) == b"yes"
    finally:
        relay.close()


PLACES: tuple[Place, Place] = (("udp", 8088), ("tcp", 8088))


@pytest.fixture
def host(netns: Callable[[str], str]) -> str:
    return netns("host")


@pytest.fixture
def relay(host: str) -> Iterator[Relay]:
    made = inside(host, Relay)
    yield made
    made.close()


def leading_to(address: str, port: int = 80) -> dict[Place, Target]:
    return {place: (ip_address(address), port) for place in PLACES}


def all_answer(host: str, expected: str) -> bool:
    return {ask(host, "::1", port, protocol) for protocol, port in PLACES} == {expected}


def test_a_port_leads_elsewhere(host: str, relay: Relay) -> None:
    """As when its container has come back with another address."""
    with served((host, 80)):
        for address in ("127.0.0.1", "::1", "127.0.0.1"):
            relay.serve(leading_to(address))
            assert until(lambda address=address: all_answer(host, address)), address


def test_the_last_word_holds(host: str, relay: Relay) -> None:
    with served((host, 80)):
        for port in range(81, 85):
            relay.serve(leading_to("127.0.0.1", port))
            relay.serve({})
        relay.serve(leading_to("::1"))
        assert until(lambda: all_answer(host, "::1"))
        relay.serve(leading_to("127.0.0.1"))
        relay.serve({})
        assert until(lambda: all_answer(host, REFUSED))
