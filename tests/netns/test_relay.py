"""The relay by itself: what the agent does with it is in test_publish.py."""

from __future__ import annotations

import gc
import socket
import time
from collections.abc import Callable
from ipaddress import IPv6Address

import pytest
from conftest import inside, sh, until

from ductwork.agent.relay import Relay

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
