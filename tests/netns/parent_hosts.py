"""Two hosts on one LAN, whose containers are on their NICs: the stage of macvlan and ipvlan."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from conftest import inside, ping, sh, until
from host import World
from lan import Lan

from ductwork.engine import Engine
from ductwork.front.changes import as_commands
from ductwork.reconciler import Preview


class Hosts:
    """Two hosts, `alpha` with the containers web and db, `beta` with far, and the machine `other`, on one LAN."""

    def __init__(self, netns: Callable[[str], str], directory: Path) -> None:
        self.lan = lan = Lan(netns)
        self.alpha, self.beta = (World(netns, directory / name, netns(name)) for name in ("alpha", "beta"))
        for world, number in ((self.alpha, 10), (self.beta, 11)):
            world.directory.mkdir()
            lan.plug_in(world.host)
            sh(world.host, "ip", "address", "add", f"192.168.1.{number}/24", "dev", "eth0")
            sh(world.host, "ip", "address", "add", f"fd00:1::{number}/64", "dev", "eth0", "nodad")
        for name in ("web", "db"):
            self.alpha.container(name)
        self.beta.container("far")
        self.beta.names |= self.alpha.names | self.beta.names
        self.alpha.names |= self.beta.names
        self.other = lan.machine("other", "192.168.1.9/24", "fd00:1::9/64")
        assert until(lambda: all("tentative" not in sh(ns, "ip", "address") for ns in (self.alpha.host, self.beta.host)))

    def settle(self, text: str) -> None:
        self.alpha.settle(text, host="alpha")
        self.beta.settle(text, host="beta")

    def ns(self, name: str) -> str:
        return {"alpha": self.alpha.host, "beta": self.beta.host, "other": self.other}.get(name) or self.alpha.names[name]

    def ping(self, name: str, address: str) -> bool:
        return ping(self.ns(name), address)

    def answers(self, address: str) -> set[str]:
        """The MACs that answer the machine `other` when it asks who has an address."""
        return inside(self.other, lambda: _asked(address))

    def mac(self, name: str, device: str) -> str:
        [link] = json.loads(sh(self.ns(name), "ip", "-j", "link", "show", "dev", device))
        return str(link["address"])


def link(ns: str, name: str) -> dict[str, Any]:
    [found] = json.loads(sh(ns, "ip", "-d", "-j", "link", "show", "dev", name))
    return dict(found)


def settled(world: World) -> dict[str, Any]:
    assert until(lambda: "tentative" not in sh(world.host, "ip", "address"))
    return world.snapshot()


def _asked(address: str) -> set[str]:
    """ARP (RFC 826) by hand, since arping is two programs; all who answer within a second."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806)) as wire:
        wire.bind(("eth0", 0x0806))
        own = wire.getsockname()[4]
        question = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + own + socket.inet_aton("192.168.1.9")
        wire.send(b"\xff" * 6 + own + b"\x08\x06" + question + bytes(6) + socket.inet_aton(address))
        found, deadline = set(), time.monotonic() + 1
        while (left := deadline - time.monotonic()) > 0:
            wire.settimeout(left)
            with suppress(TimeoutError):
                frame = wire.recv(100)
                if frame[20:22] == b"\0\2" and frame[28:32] == socket.inet_aton(address):
                    found.add(frame[22:28].hex(":"))
        return found


def planned(world: World, think: Callable[[Engine], Preview]) -> list[str]:
    return world.engine(lambda engine: list(as_commands(think(engine).plan.operations, engine.place)))


def type_in(world: World, lines: list[str]) -> None:
    """As somebody does who pipes the plan into a shell."""
    argv = ["ip", "netns", "exec", world.host, "sh", "-e"]
    done = subprocess.run(argv, input="\n".join(lines) + "\n", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", ""), (done, "\n".join(lines))
