"""Two machines for one suite: the fake kernel and the real one, each a host with one container, made, read and changed alike.

The fixtures `machine` and `real` (conftest.py) give a test one of each, and the real one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol

import pytest
from conftest import inside, sh

from ductwork import netns as namespaces
from ductwork.backends.fake import FakeBackend, FakeKernel
from ductwork.backends.kernel import missing
from ductwork.backends.netlink.backend import NetlinkBackend
from ductwork.ownership import ContainerReading, settle
from ductwork.resources import HOST, Create, Key, Link, Operation, Owner, Port, Resource, Route, Sysctl, VethSpec
from ductwork.resources.route import KERNEL_PROTOCOL

WEB = "netns:web"
MAC, INNER_MAC, OTHER_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:03"


class Machine(Protocol):
    """A host with one container, `WEB`."""

    def cookie(self) -> int: ...

    def home(self) -> int:
        """The host's cookie."""

    def do(self, *operations: Operation, netns: str = HOST) -> list[str]:
        """What each was answered; empty where it was done."""

    def raw(self, netns: str) -> list[Resource]: ...

    def nic(self, name: str, mac: str) -> Link:
        """A NIC of the host's, up, as it is read."""


class Fake:
    def __init__(self) -> None:
        self.kernel = FakeKernel()
        self.kernel.start(WEB)

    def cookie(self) -> int:
        return self.kernel.containers[WEB]

    def home(self) -> int:
        return self.kernel.cookie()

    def _inside(self, netns: str, work: Callable[[FakeBackend], list[str] | list[Resource]]) -> list:  # type: ignore[type-arg]
        backend = self.kernel.links()
        if netns == HOST:
            return work(backend)
        [found] = self.kernel.visit([(lambda: self.kernel.open_netns(netns), lambda: work(backend))])
        assert not isinstance(found, Exception), found
        return found

    def do(self, *operations: Operation, netns: str = HOST) -> list[str]:
        return self._inside(netns, lambda backend: [outcome.error for outcome in backend.apply(netns, operations)])

    def raw(self, netns: str) -> list[Resource]:
        return self._inside(netns, lambda backend: backend.read(netns, None))

    def nic(self, name: str, mac: str) -> Link:
        assert not self.kernel.do(Create(Link(HOST, name, "", mac, 1500)))
        return link(self, HOST, name)


class Real:
    def __init__(self, make: Callable[[str], str]) -> None:
        self._make = make
        self.host, self.web, self.switch = make("host"), make("web"), ""
        self.backend = inside(self.host, lambda: NetlinkBackend(self._open))

    def _open(self, container: str) -> int:
        if container != WEB:
            raise OSError(2, f"{container} is not running")
        return os.open(f"/run/netns/{self.web}", os.O_RDONLY | os.O_CLOEXEC)

    def cookie(self) -> int:
        return inside(self.web, namespaces.cookie)

    def home(self) -> int:
        return inside(self.host, namespaces.cookie)

    def do(self, *operations: Operation, netns: str = HOST) -> list[str]:
        ns = self.web if netns else self.host
        return [outcome.error for outcome in inside(ns, lambda: self.backend.apply(netns, operations))]

    def raw(self, netns: str) -> list[Resource]:
        return inside(self.web if netns else self.host, lambda: self.backend.read(netns, None))

    def some(self, links: frozenset[str]) -> list[Resource]:
        """These of the host's links alone, and their ports."""
        return inside(self.host, lambda: self.backend.read(HOST, links))

    def nic(self, name: str, mac: str) -> Link:
        """What is behind it is a switch, in a namespace of its own."""
        if not self.switch:
            self.switch = self._make("switch")
        pair = ["name", name, "address", mac, "type", "veth", "peer", "name", name, "netns", self.switch]
        sh(self.host, "ip", "link", "add", *pair)
        for ns in (self.host, self.switch):
            sh(ns, "ip", "link", "set", "dev", name, "up")
        return link(self, HOST, name)


def read(machine: Machine) -> dict[Key, Resource]:
    """What there is, with its owner, less what the kernel has by itself."""
    found = settle(machine.raw(HOST), {WEB: ContainerReading(machine.cookie(), machine.raw(WEB))})
    return {key: resource for key, resource in found.items() if not _by_itself(resource)}


def _by_itself(resource: Resource) -> bool:
    if isinstance(resource, Link):
        return resource.name == "lo"
    return isinstance(resource, Sysctl) or (isinstance(resource, Route) and resource.protocol == KERNEL_PROTOCOL)


def link(machine: Machine, netns: str, name: str) -> Link:
    """A link as it is read."""
    found = read(machine)[Key("link", netns, (name,))]
    assert isinstance(found, Link)
    return found


def needs(machine: Machine, *features: str) -> None:
    """Skips where this kernel lacks something; tests/vm runs the suite on one that has it all."""
    if isinstance(machine, Real) and missing(features):
        pytest.skip(f"this kernel lacks {', '.join(missing(features))}")


def fresh(machine: Machine, resource: Resource) -> Resource:
    """A resource as it is read now: a deletion names what was read, index included."""
    return read(machine)[resource.key]


SITE = Owner("office", network="pods")
BRIDGE = Link(HOST, "dw-pods", "bridge", MAC, 1500, owner=SITE)


def pair(machine: Machine, outer: str = "dwweb", inner: str = "eth1") -> tuple[Link, Link, Port]:
    owner = Owner("office", "site", "pods", WEB, inner, machine.cookie())
    host_end = Link(HOST, outer, "veth", OTHER_MAC, 1400, spec=VethSpec(WEB, inner, INNER_MAC), owner=owner)
    return (
        host_end,
        Link(WEB, inner, "veth", INNER_MAC, 1400, spec=VethSpec(HOST, outer), owner=owner),
        Port(HOST, outer, BRIDGE.name, owner),
    )


def plug_in(machine: Machine, outer: str = "dwweb", inner: str = "eth1") -> tuple[Link, Link, Port]:
    host_end, container_end, port = pair(machine, outer, inner)
    assert machine.do(Create(BRIDGE), Create(host_end), Create(port)) == ["", "", ""]
    assert machine.do(Create(container_end), netns=WEB) == [""]
    return host_end, container_end, port
