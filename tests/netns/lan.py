"""A LAN in a namespace: a switch that hosts and machines are plugged into, and streams across it that must not break."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

BEAT_SECONDS = 0.005 if os.environ.get("DUCTWORK_VM", "0") == "0" else 0.05
"""Two hundred times a second, a stream takes half of an emulated processor."""


@dataclass
class Lan:
    """`switch`: the namespace of the bridge `lan`, which has a port for each machine."""

    make: Callable[[str], str]
    switch: str = ""
    ports: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        from conftest import sh

        self.switch = self.make("switch")
        sh(self.switch, "ip", "link", "add", "name", "lan", "type", "bridge", "mcast_snooping", "0")
        sh(self.switch, "ip", "link", "set", "dev", "lan", "up")

    def plug_in(self, ns: str, nic: str = "eth0") -> str:
        """A NIC for a namespace, up; gives its port at the switch."""
        from conftest import run, sh

        port = f"port{len(self.ports)}"
        self.ports.append(port)
        run("ip", "link", "add", "name", port, "netns", self.switch, "type", "veth", "peer", "name", nic, "netns", ns)
        sh(self.switch, "ip", "link", "set", "dev", port, "master", "lan", "up")
        sh(ns, "ip", "link", "set", "dev", nic, "up")
        return port

    def machine(self, name: str, *addresses: str) -> str:
        """Another machine of the LAN."""
        from conftest import sh

        ns = self.make(name)
        self.plug_in(ns)
        for address in addresses:
            sh(ns, "ip", "address", "add", address, "dev", "eth0", *(["nodad"] if ":" in address else []))
        return ns


@dataclass(frozen=True)
class Stream:
    """A TCP connection that said a word every `BEAT_SECONDS` and got it back. `stall_seconds`: its longest silence."""

    stall_seconds: float = 0.0
    beats: int = 0
    error: str = ""


@contextmanager
def streams(server: str, client: str, *addresses: str) -> Iterator[list[Stream]]:
    """One to each address of `server`, for as long as the context lasts; what became of them is known afterwards. In processes
    of their own, since tests fork."""
    found: list[Stream] = []
    with ExitStack() as processes:
        callers = [_connected(processes, server, client, address) for address in addresses]
        yield found
        time.sleep(0.3)
        for caller in callers:
            out, _ = caller.communicate("end")
            found.append(Stream(**json.loads(out.splitlines()[-1])))


def _connected(processes: ExitStack, server: str, client: str, address: str) -> subprocess.Popen[str]:
    listener = processes.enter_context(_started(server, "answer", address))
    assert listener.stdout
    port = listener.stdout.readline().strip()
    caller = processes.enter_context(_started(client, "call", address, port))
    assert caller.stdout
    assert caller.stdout.readline().strip() == "connected"
    return caller


@contextmanager
def _started(ns: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    argv = ["ip", "netns", "exec", ns, sys.executable, __file__, *words]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def _answer(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as listener:
        print(listener.getsockname()[1], flush=True)
        connection, _ = listener.accept()
        while data := connection.recv(4096):
            connection.sendall(data)


def _call(address: str, port: str) -> None:
    """Until something comes by the standard input."""
    stall, beats, error = 0.0, 0, ""
    with socket.create_connection((address, int(port)), timeout=20) as connection:
        print("connected", flush=True)
        try:
            while not select.select([sys.stdin], [], [], BEAT_SECONDS)[0]:
                begun = time.monotonic()
                connection.sendall(b"beat")
                if not connection.recv(4096):
                    raise OSError("closed by the other side")
                stall, beats = max(stall, time.monotonic() - begun), beats + 1
        except OSError as failed:
            error = str(failed)
    print(json.dumps({"stall_seconds": stall, "beats": beats, "error": error}), flush=True)


if __name__ == "__main__":
    {"answer": _answer, "call": _call}[sys.argv[1]](*sys.argv[2:])
