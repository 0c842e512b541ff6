"""Published ports as this kernel alone can show them: sockets of SCTP, and containers that are ipvlans."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import inside, sh, until
from host import World
from parent_hosts import Hosts

from talk import ask, served

pytestmark = pytest.mark.netns

SCTP = socket.IPPROTO_SCTP
OTHER, LAN, ACCESS = "192.168.1.9", "192.168.1.10", "192.168.1.20"
"""The machine on the LAN, the host there, and the host's interface beside its containers."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)  # without iptables it is quicker


@contextmanager
def sctp_server(ns: str) -> Iterator[None]:
    """Tells each client the address it has, and ends with its first client's end."""

    def serve(listening: socket.socket) -> None:
        for _ in range(2):
            opened, peer = listening.accept()
            with opened:
                opened.sendall(peer[0].encode())
                opened.recv(1)

    with (
        inside(ns, lambda: socket.socket(socket.AF_INET6, socket.SOCK_STREAM, SCTP)) as listening,
        ThreadPoolExecutor(1) as pool,
    ):
        listening.settimeout(20)
        listening.bind(("::", 80))
        listening.listen()
        served = pool.submit(serve, listening)
        yield
        served.result()


def sctp_asks(ns: str, address: str) -> str:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with inside(ns, lambda: socket.socket(family, socket.SOCK_STREAM, SCTP)) as client:
        client.settimeout(10)
        client.connect((address, 8088))
        return client.recv(100).decode().removeprefix("::ffff:")


def test_sockets_of_sctp(netns: Callable[[str], str], tmp_path: Path) -> None:
    """A whole association, which names all addresses of both ends: the container's own, which nobody outside reaches, too."""
    world = World(netns, tmp_path, netns("host"))
    web, out = world.container("web"), world.uplink()
    world.apply("""
networks: {lan: {driver: bridge, subnets: [10.1.1.0/24, "fd00:1::/64"]}}
attachments: [{container: "netns:<web>", network: lan, address: [10.1.1.2, "fd00:1::2"]}]
ports: [{listen: 8088, to: "netns:<web>:80", protocol: sctp}]
""")
    assert until(lambda: "tentative" not in sh(world.host, "ip", "address") + sh(web, "ip", "address"))
    with sctp_server(web):
        assert [sctp_asks(out, address) for address in ("192.0.2.1", "2001:db8::1")] == ["192.0.2.2", "2001:db8::2"]


def test_containers_that_are_ipvlans(netns: Callable[[str], str], tmp_path: Path) -> None:
    hosts = Hosts(netns, tmp_path)
    report = hosts.alpha.apply(
        """
hosts: {alpha: {address: 192.168.1.10/24}, beta: {address: 192.168.1.11/24}}
networks: {lan: {driver: ipvlan, parent: eth0, subnet: 192.168.1.0/24, host_access: {alpha: 192.168.1.20}}}
attachments:
  - {container: "netns:<web>", host: alpha, network: lan, address: 192.168.1.21}
  - {container: "netns:<db>", host: alpha, network: lan, address: 192.168.1.22}
ports:
  - {host: alpha, listen: 8088, to: "netns:<web>:80"}
  - {host: alpha, listen: 8088, to: "netns:<web>:80", protocol: udp}
""",
        host="alpha",
    )
    assert any("see this host's address" in note for note in report.notes)
    with served((hosts.ns("web"), 80)):
        for who, address in (("other", LAN), ("alpha", LAN), ("alpha", "127.0.0.1"), ("db", ACCESS), ("web", ACCESS)):
            for protocol in ("tcp", "udp"):
                assert ask(hosts.ns(who), address, 8088, protocol) == ACCESS, (who, protocol)
