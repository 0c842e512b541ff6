"""A LAN in a namespace: a switch that hosts and machines are plugged into, and streams across it that must not break."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from conftest import inside, run, sh

BEAT_SECONDS = 0.005


@dataclass
class Lan:
    """`switch`: the namespace of the bridge `lan`, which has a port for each machine."""

    make: Callable[[str], str]
    switch: str = ""
    ports: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.switch = self.make("switch")
        sh(self.switch, "ip", "link", "add", "name", "lan", "type", "bridge", "mcast_snooping", "0")
        sh(self.switch, "ip", "link", "set", "dev", "lan", "up")

    def plug_in(self, ns: str, nic: str = "eth0") -> str:
        """A NIC for a namespace, up; gives its port at the switch."""
        port = f"port{len(self.ports)}"
        self.ports.append(port)
        run("ip", "link", "add", "name", port, "netns", self.switch, "type", "veth", "peer", "name", nic, "netns", ns)
        sh(self.switch, "ip", "link", "set", "dev", port, "master", "lan", "up")
        sh(ns, "ip", "link", "set", "dev", nic, "up")
        return port

    def machine(self, name: str, *addresses: str) -> str:
        """Another machine of the LAN."""
        ns = self.make(name)
        self.plug_in(ns)
        for address in addresses:
            sh(ns, "ip", "address", "add", address, "dev", "eth0", *(["nodad"] if ":" in address else []))
        return ns


@dataclass
class Stream:
    """A TCP connection that says a line every few milliseconds and gets it back. `stall_seconds`: its longest silence."""

    stall_seconds: float = 0.0
    beats: int = 0
    error: str = ""


@contextmanager
def stream(server: str, client: str, address: str) -> Iterator[Stream]:
    """One from namespace to namespace, for as long as the context lasts."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = inside(server, lambda: socket.create_server(("", 0), family=family))
    caller = inside(client, lambda: socket.socket(family, socket.SOCK_STREAM))
    caller.settimeout(20)
    caller.connect((address, listener.getsockname()[1]))
    answerer, _ = listener.accept()
    listener.close()
    found, ended = Stream(), threading.Event()
    echo = threading.Thread(target=_echo, args=(answerer,))
    beat = threading.Thread(target=_beat, args=(caller, found, ended))
    echo.start()
    beat.start()
    try:
        yield found
    finally:
        time.sleep(0.3)
        ended.set()
        beat.join()
        caller.close()
        echo.join()
        answerer.close()


def _echo(connection: socket.socket) -> None:
    with suppress(OSError):
        while data := connection.recv(4096):
            connection.sendall(data)


def _beat(connection: socket.socket, found: Stream, ended: threading.Event) -> None:
    try:
        while not ended.is_set():
            begun = time.monotonic()
            connection.sendall(b"beat")
            if not connection.recv(4096):
                raise OSError("closed by the other side")
            found.stall_seconds = max(found.stall_seconds, time.monotonic() - begun)
            found.beats += 1
            time.sleep(BEAT_SECONDS)
    except OSError as error:
        found.error = os.strerror(error.errno) if error.errno else str(error)
