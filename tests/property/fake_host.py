"""A host without a kernel: the engine over the fake kernel, with what a machine has before ductwork comes.

Invariant: nothing of the real machine is touched but a directory for the journal, in memory.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from types import TracebackType

from ductwork.backends.fake import HOST_COOKIE, FakeKernel
from ductwork.engine import Engine
from ductwork.errors import AllocationError
from ductwork.journal import Journal
from ductwork.reconciler import Reconciler
from ductwork.resources import (
    HOST,
    Address,
    Create,
    Key,
    Link,
    NftElement,
    NicFacts,
    Probe,
    Resource,
    Route,
    Sysctl,
    Update,
    VethSpec,
)
from ductwork.resources.passing import Passing
from ductwork.resources.route import BOOT_PROTOCOL, DEFAULT_METRIC_V6
from ductwork.runtimes import Sandbox
from ductwork.system import System

Snapshot = dict[Key, tuple[Resource, bool, bool]]


class Killed(BaseException):
    """The process dies here: no handler of ours sees it."""


class QuietMachine:
    """A machine that lacks nothing, on a LAN where nobody answers."""

    def nics(self, names: Iterable[str]) -> dict[str, NicFacts]:
        return {name: NicFacts() for name in names}

    def missing(self, features: Iterable[str]) -> dict[str, str]:
        return {}

    def guests(self) -> frozenset[str]:
        return frozenset()

    def obstacles(self, passing: Passing) -> list[str]:
        return []

    def watch(self, links: Sequence[str]) -> Silence:
        return Silence()


class NoTraffic:
    def at_loopback(self, wanted: Callable[[str, int], bool]) -> dict[tuple[str, int], str]:
        return {}

    """A host on which nobody listens, and which nobody talks to."""

    def holders(self, elements: Sequence[NftElement]) -> dict[Key, str]:
        return {}

    def forget(self, gone: Sequence[NftElement], made: Sequence[NftElement]) -> None:
        """Nothing is known."""


class Silence:
    def start(self, probes: Iterable[Probe], held: bool = False, seconds: float = 0.0) -> None:
        """Nobody hears it."""

    def conflicts(self, deadline: float) -> dict[Probe, str]:
        return {}

    def unplugged(self) -> list[str]:
        return []

    def close(self) -> None:
        """Nothing was opened."""


class MemoryStore:
    """The store's protocol over two dictionaries."""

    def __init__(self) -> None:
        self._leases: dict[tuple[str, str], dict[tuple[str, str, str], tuple[IPv4Address | IPv6Address, ...]]] = {}
        self._tables: dict[str, dict[str, dict[str, object]]] = {}

    def leases(self, site: str, network: str) -> dict[tuple[str, str, str], tuple[IPv4Address | IPv6Address, ...]]:
        return dict(self._leases.get((site, network), {}))

    def lease(
        self, site: str, network: str, holder: tuple[str, str, str], addresses: tuple[IPv4Address | IPv6Address, ...]
    ) -> None:
        theirs = self._leases.setdefault((site, network), {})
        if any(address in its for other, its in theirs.items() if other != holder for address in addresses):
            raise AllocationError("another has it")
        theirs.pop(holder, None)
        if addresses:
            theirs[holder] = addresses

    def lease_all(
        self,
        site: str,
        changes: Iterable[tuple[str, tuple[str, str, str], tuple[IPv4Address | IPv6Address, ...]]],
    ) -> None:
        for network, holder, addresses in changes:
            self.lease(site, network, holder, addresses)

    def remember(self, table: str, key: str, value: dict[str, object] | None) -> None:
        self._tables.setdefault(table, {}).pop(key, None)
        if value is not None:
            self._tables[table][key] = value

    def remembered(self, table: str, key: str | None = None) -> dict[str, dict[str, object]]:
        return {name: value for name, value in self._tables.get(table, {}).items() if key in (None, name)}


class FakeResolver:
    """Every container of the fake kernel is a running one."""

    def __init__(self, kernel: FakeKernel) -> None:
        self.notes: list[str] = []
        self._kernel = kernel

    def resolve(self, references: Iterable[str]) -> dict[str, Sandbox | None]:
        return {
            name: Sandbox("netns", name, name, partial(self._kernel.open_netns, name))
            if name in self._kernel.containers
            else None
            for name in references
        }


@dataclass
class FakeHost:
    """The kernel and what outlives an engine. `sends_left`: the engine is killed when so many gates have been passed."""

    kernel: FakeKernel = field(default_factory=FakeKernel)
    store: MemoryStore = field(default_factory=MemoryStore)
    sends_left: int | None = None
    gates: int = 0

    def __post_init__(self) -> None:
        self.kernel.gate = self._gate
        memory = Path("/dev/shm")
        self._run = tempfile.TemporaryDirectory(prefix="dwp-", dir=memory if memory.is_dir() else None)

    def __enter__(self) -> FakeHost:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._run.cleanup()

    def engine(self) -> Engine:
        """A new process: it knows what the kernel, the journal and the store know."""
        kernel = self.kernel
        filters, families = kernel.filters(), frozenset({"ip", "ip6"})
        backends = kernel.links(), kernel.sysctls(), (filters,), kernel.switches(), filters
        system = System(*backends, families, kernel, kernel.cookie, QuietMachine(), NoTraffic())
        journal = Journal(HOST_COOKIE, Path(self._run.name))
        return Engine(Reconciler(lambda _: system, FakeResolver(kernel), journal), self.store, "machine", lambda: None)

    def _gate(self, moment: str) -> None:
        self.gates += 1
        if self.sends_left is not None:
            if self.sends_left == 0:
                self.sends_left = None
                raise Killed
            self.sends_left -= 1

    def snapshot(self) -> Snapshot:
        """All that can be seen of the kernel from outside, and whether it carries a mark of ours."""
        return {
            key: (resource, _is_marked(resource), isinstance(resource, Address) and resource.secondary)
            for key, resource in self.kernel.state.items()
        }

    # what others have

    def foreign(self, resource: Resource) -> None:
        error = self.kernel.do(Create(resource))
        assert not error, f"{resource}: {error}"

    def sysctl(self, path: str, value: str) -> None:
        before = self.kernel.state[Key("sysctl", HOST, (path,))]
        assert isinstance(before, Sysctl)
        self.kernel.do(Update(before, replace(before, value=value)))

    def plug_in_nic(self) -> None:
        """The machine's own NIC, its address and its way out."""
        self.foreign(Link(HOST, "eth0", "", "52:54:00:00:00:01", 1500))
        self.foreign(Address(HOST, "eth0", ip_address("10.99.0.1"), 24))
        self.foreign(Route(HOST, ip_network("0.0.0.0/0"), "eth0", ip_address("10.99.0.254"), protocol=BOOT_PROTOCOL))

    def start_as_docker(self, container: str, number: int, versions: Iterable[int] = (4,)) -> None:
        """A container with somebody else's interface and default routes."""
        self.kernel.start(container)
        outer = f"veth{number}"
        mac = f"02:42:ac:11:00:{number:02x}"
        spec = VethSpec(container, "eth0", mac)
        self.foreign(Link(HOST, outer, "veth", f"02:42:00:00:00:{number:02x}", 1500, spec=spec))
        self.foreign(Link(container, "eth0", "veth", mac, 1500, spec=VethSpec(HOST, outer)))
        if 4 in versions:
            self.foreign(Address(container, "eth0", ip_address("172.17.0.2") + number, 16))
            gateway = ip_address("172.17.0.1")
            self.foreign(Route(container, ip_network("0.0.0.0/0"), "eth0", gateway, protocol=BOOT_PROTOCOL))
        if 6 in versions:
            self.foreign(Address(container, "eth0", ip_address("fd17::2") + number, 64))
            gateway = ip_address("fd17::1")
            self.foreign(Route(container, ip_network("::/0"), "eth0", gateway, DEFAULT_METRIC_V6, protocol=BOOT_PROTOCOL))


def _is_marked(resource: Resource) -> bool:
    """Nothing can be seen of who wrote a sysctl."""
    return resource.owner is not None and not isinstance(resource, Sysctl)
