"""A strict kernel in memory: one host with its containers, read and changed by the back ends' protocol.

Invariant: it refuses what the real kernel refuses, goes on past errors as a netlink send does, and drops what the kernel
drops (`kernel_model`); the contract suite (tests/netns/test_backend_contract.py) holds it against the real back ends.

Inside, every resource stands as it was made: both ends of a veth pair know each other, owners are what the marks say. What is
refused is in `fake_rules`, how it is read in `fake_reading`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from ductwork.backends.fake_reading import read
from ductwork.backends.fake_rules import IPV6_MIN_MTU, Refused, Rules
from ductwork.kernel_model import KernelModel
from ductwork.resources import (
    HOST,
    Address,
    Create,
    Delete,
    FdbEntry,
    IptablesRule,
    Key,
    Link,
    Neighbour,
    NftElement,
    NftTable,
    NicSpec,
    Operation,
    Outcome,
    OvsSpec,
    Port,
    Redirect,
    Resource,
    Route,
    Shaper,
    Sysctl,
    Update,
    VethSpec,
)
from ductwork.resources.ovs import OvsBridge, OvsPort

T = TypeVar("T")

NETLINK_KINDS: frozenset[type] = frozenset({Link, Port, Shaper, Redirect, Address, Route, Neighbour, FdbEntry})
FILTER_KINDS: frozenset[type] = frozenset({NftTable, NftElement, IptablesRule})
SWITCH_KINDS: frozenset[type] = frozenset({OvsBridge, OvsPort})
HOST_COOKIE = 1

_LINK_SYSCTLS = {
    "net/ipv4/conf/{}/forwarding": "0",
    "net/ipv4/conf/{}/route_localnet": "0",
    "net/ipv6/conf/{}/accept_ra": "1",
    "net/ipv6/conf/{}/autoconf": "1",
    "net/ipv6/conf/{}/disable_ipv6": "0",
    "net/ipv6/conf/{}/force_forwarding": "0",
}
_HOST_SYSCTLS = {"net/ipv6/conf/all/forwarding": "0", "net/ipv6/conf/all/force_forwarding": "0"}


class FakeKernel:
    """The state of all namespaces; also what visits them. `gate` is called as by the real back ends."""

    def __init__(self, gate: Callable[[str], None] = lambda _: None) -> None:
        self.gate = gate
        self.containers: dict[str, int] = {}
        self._model = KernelModel({})
        self._numbers = itertools.count(HOST_COOKIE + 1)
        self._here = HOST
        for path, value in _HOST_SYSCTLS.items():
            self._model.do(Create(Sysctl(HOST, path, value)))

    @property
    def state(self) -> dict[Key, Resource]:
        """All that there is, as it was made."""
        return self._model.state

    # containers

    def start(self, container: str) -> None:
        """A new namespace, with its loopback."""
        self.containers[container] = next(self._numbers)

    def stop(self, container: str) -> None:
        """The namespace goes, and with it the links in it and their other ends. A NIC of the machine's own comes home, down,
        marked still, and under the name that it had in there."""
        del self.containers[container]
        for key in [key for key in self.state if key.netns == container and key.kind == "link"]:
            link = self.state.get(key)
            if link is None:
                continue
            self._model.do(Delete(link))
            if isinstance(link, Link) and isinstance(link.spec, NicSpec):
                home = self.state.pop(Key("link", HOST, (link.spec.device,)))
                assert isinstance(home, Link)
                if not link.kind:
                    self._model.do(Create(replace(home, name=link.name, spec=link.spec, owner=link.owner)))
        for key in [key for key in self.state if key.netns == container]:
            del self.state[key]

    def open_netns(self, container: str) -> int:
        if container not in self.containers:
            raise OSError(2, f"{container} is not running")
        return self.containers[container]

    def cookie(self) -> int:
        return self.containers[self._here] if self._here else HOST_COOKIE

    def visit(self, places: Iterable[tuple[Callable[[], int], Callable[[], T]]]) -> list[T | Exception]:
        """As `netns.Visitor.visit`; descriptors are cookies here."""
        results: list[T | Exception] = []
        for open_netns, work in places:
            try:
                cookie = open_netns()
                self._here = next(name for name, its in self.containers.items() if its == cookie)
                results.append(work())
            except Exception as error:
                results.append(error)
            finally:
                self._here = HOST
        return results

    # back ends

    def links(self) -> FakeBackend:
        return FakeBackend(self, NETLINK_KINDS)

    def sysctls(self) -> FakeBackend:
        return FakeBackend(self, frozenset({Sysctl}))

    def switches(self) -> FakeBackend:
        return FakeBackend(self, SWITCH_KINDS)

    def filters(self) -> FakeBackend:
        return FakeBackend(self, FILTER_KINDS)

    def check_place(self, netns: str) -> None:
        """A thread sees the namespace that it is in, whatever name it gives it."""
        assert netns == self._here, f"{netns or 'the host'} was meant, and {self._here or 'the host'} would be met"

    # changing

    def do(self, operation: Operation) -> str:
        """Carry it out; the kernel's words where it refuses."""
        try:
            match operation:
                case Create(Link() as link):
                    self._create_link(link)
                case Create(after):
                    self.rules().check(after)
                    self.rules().check_existing(after)
                    if isinstance(after, Address) and after.key in self.state:
                        return ""  # it is as it was made; the back end forgives "File exists"
                    self._model.do(operation)
                    if isinstance(after, OvsBridge):
                        self._put_device(after)
                case Update(before, after):
                    self._update(before, after)
                case Delete(Sysctl()):
                    pass
                case Delete(before):
                    self._delete(before)
        except Refused as refused:
            return str(refused)
        return ""

    def undo_to(self, state: dict[Key, Resource]) -> None:
        """Back to a state as it was: a transaction has failed."""
        self._model = KernelModel(state)

    def _create_link(self, link: Link) -> None:
        if link.absorbed_by:
            self.rules().link(link.netns, link.name)
            self._model.do(Create(link))
            return
        if link.is_born_inside and link.up:  # it is named and marked before it comes up
            self._create_link(replace(link, up=False))
            made = self.rules().link(link.netns, link.name)
            self._update(made, replace(made, up=True))
            return
        self.rules().check_new_link(link)
        self._model.do(Create(replace(link, index=next(self._numbers), peer_index=0, master_index=0)))
        self._put_sysctls(link)
        if isinstance(link.spec, VethSpec):
            peer = self.rules().link(link.spec.peer_netns, link.spec.peer_ifname)
            self.state[peer.key] = replace(peer, index=next(self._numbers))
            self._put_sysctls(peer)

    def _put_sysctls(self, link: Link) -> None:
        for path, value in _LINK_SYSCTLS.items():
            sysctl = Sysctl(link.netns, path.format(link.name), value, link=link.name)
            if sysctl.key not in self.state and (link.mtu_bytes >= IPV6_MIN_MTU or not path.startswith("net/ipv6/")):
                self._model.do(Create(sysctl))

    def _put_device(self, switch: OvsBridge) -> None:
        """An Open vSwitch bridge's own device, which comes with it, down."""
        index = next(self._numbers)
        mac = switch.mac or f"02:00:00:00:{index >> 8 & 255:02x}:{index & 255:02x}"
        mtu_bytes = switch.mtu_bytes or 1500
        device = Link(HOST, switch.name, "ovs", mac, mtu_bytes, up=False, spec=OvsSpec(), owner=switch.owner, index=index)
        self.state[device.key] = device
        self._put_sysctls(device)

    def _update(self, before: Resource, after: Resource) -> None:
        if isinstance(after, NftElement):  # one transaction's deletion and addition
            self._delete(before)
            self.rules().check(after)
            self._model.do(Create(after))
            return
        present = self.state.get(before.key)
        if present is None and not isinstance(after, Route | Neighbour | FdbEntry | NftTable):
            raise Refused("No such device")
        self.rules().check(after)
        if isinstance(after, Link) and isinstance(present, Link):
            if after.kind != "bridge":  # whose mark and VLANs are changed in place
                after = replace(after, spec=present.spec, owner=present.owner)
            after = replace(after, index=present.index)
            self.rules().check_changed_link(present, after)
            if after.mtu_bytes >= IPV6_MIN_MTU:
                self._put_sysctls(after)
        if isinstance(after, Sysctl) and isinstance(present, Sysctl):
            after = replace(after, link=present.link)
        self._model.do(Update(present, after) if present else Create(after))

    def _delete(self, before: Resource) -> None:
        """What is not there any more is gone, and a link of that name that was made since is another one. The device of a
        switch goes with it."""
        present = self.state.get(before.key)
        if isinstance(before, Link) and isinstance(present, Link):
            if before.index not in (0, present.index) or isinstance(present.spec, OvsSpec):
                return
            self.rules().check_going(present)
        if present is not None:
            self._model.do(Delete(present))
            if isinstance(present, Link) and isinstance(present.spec, NicSpec):
                self._put_sysctls(self.rules().link(HOST, present.spec.device))

    def rules(self) -> Rules:
        """What the kernel would refuse now."""
        return Rules(self.state, self.containers)


class FakeBackend:
    """One of the fake kernel's back ends: reads and changes `kinds`. That of the packet filter is one transaction per call,
    as nft is."""

    def __init__(self, kernel: FakeKernel, kinds: frozenset[type]) -> None:
        self.kinds = kinds
        self._kernel = kernel
        self._is_transaction = kinds == FILTER_KINDS
        self.databases: set[str] = set()

    def read(self, netns: str, links: frozenset[str] | None) -> list[Resource]:
        self._kernel.check_place(netns)
        found = [] if Sysctl in self.kinds else read(self._kernel.rules(), netns, self.kinds)
        return found if links is None else [r for r in found if isinstance(r, Link | Port) and r.key.ident[0] in links]

    def look_up(self, elements: Iterable[NftElement]) -> list[NftElement]:
        found = (self._kernel.state.get(element.key) for element in elements)
        return [element for element in found if isinstance(element, NftElement)]

    def claims(self) -> frozenset[str]:
        """By what names marks in the namespace that is being visited call the container that it is."""
        cookie = self._kernel.cookie()
        here = next(name for name, its in self._kernel.containers.items() if its == cookie)
        links = (r for r in read(self._kernel.rules(), here, NETLINK_KINDS) if isinstance(r, Link))
        return frozenset(link.owner.container for link in links if link.owner and link.owner.cookie == cookie)

    def read_paths(self, paths: Iterable[str]) -> dict[str, str]:
        """The sysctls of the namespace that is being visited."""
        here = next((name for name, its in self._kernel.containers.items() if its == self._kernel.cookie()), HOST)
        keys = {path: Key("sysctl", here, (path,)) for path in paths}
        found = {path: self._kernel.state.get(key) for path, key in keys.items()}
        return {path: sysctl.value for path, sysctl in found.items() if isinstance(sysctl, Sysctl)}

    def apply(self, netns: str, operations: Sequence[Operation]) -> list[Outcome]:
        self._kernel.check_place(netns)
        assert all(type(operation.target) in self.kinds and operation.target.netns == netns for operation in operations)
        if self._is_transaction:
            return self._commit(operations)
        return [self._send([operation])[0] for operation in operations]

    def _send(self, operations: Sequence[Operation]) -> list[Outcome]:
        """Each send holds as little as can be, so that a test can die after every single one."""
        self._kernel.gate("before")
        outcomes = [Outcome(operation, self._kernel.do(operation)) for operation in operations]
        self._kernel.gate("after")
        return outcomes

    def _commit(self, operations: Sequence[Operation]) -> list[Outcome]:
        before = dict(self._kernel.state)
        outcomes = self._send(operations)
        error = next((outcome.error for outcome in outcomes if outcome.error), "")
        if not error:
            return outcomes
        self._kernel.undo_to(before)
        return [Outcome(operation, error) for operation in operations]

    def announce(self, netns: str, addresses: Sequence[Address]) -> None:
        """Nobody listens; but an address that is announced is there."""
        self._kernel.check_place(netns)
        assert all(address.key in self._kernel.state for address in addresses)
