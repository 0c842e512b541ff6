"""Puts the concrete classes together; nothing else does.

Invariant: an engine acts on the network namespace of the thread that builds it, and must be used in that thread.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ductwork import desire, netns
from ductwork.backends.netlink.backend import NetlinkBackend
from ductwork.backends.ovsdb.backend import OvsdbBackend
from ductwork.backends.sysctl import SysctlBackend
from ductwork.desire import OVSDB
from ductwork.duplicates import Watch
from ductwork.engine import AttachRequest, Engine
from ductwork.events import Source
from ductwork.held import HeldNamespaces
from ductwork.journal import Journal
from ductwork.netns import RUN_DIRECTORY
from ductwork.reconciler import Reconciler
from ductwork.resources import HOST, Key, NftElement, NicFacts
from ductwork.resources.passing import Passing
from ductwork.runtimes import Runtime, Tags
from ductwork.runtimes.resolver import Resolver
from ductwork.store.sqlite import SqliteStore
from ductwork.system import System

if TYPE_CHECKING:
    from ductwork.backends.iptables import IptablesBackend
    from ductwork.backends.netlink.listeners import Askable
    from ductwork.backends.nftables import NftablesBackend
    from ductwork.site.model import Site

STATE_DIRECTORY = Path("/var/lib/ductwork")

Runtimes = Mapping[str, Callable[[], Runtime]]


def _no_gate(moment: str) -> None:
    """Nothing hangs on the sends."""


def build_engine(
    state_directory: Path = STATE_DIRECTORY,
    *,
    runtimes: Runtimes | None = None,
    store_path: Path | None = None,
    run_directory: Path = RUN_DIRECTORY,
    machine: str = "",
    gate: Callable[[str], None] = _no_gate,
    fetches: bool = False,
) -> Engine:
    """The engine of the calling thread's namespace. `machine`: this machine's name, which makes MACs its own. `fetches`: NICs
    are fetched back from containers that die, for as long as the engine is there.

    `gate` is called with "before" and "after" around each send, for tests that die there.
    """
    visitor = netns.Visitor()
    store = SqliteStore(store_path or state_directory / _store_name())
    netlinks: list[NetlinkBackend] = []
    nft = _nftables(gate)

    def system(open_netns: Callable[[str], int]) -> System:
        netlinks.append(NetlinkBackend(open_netns, gate))
        switches = OvsdbBackend(gate, _databases(store))
        machine = _Machine(netlinks[0], visitor, switches, fetches)
        iptables, traffic = _iptables(gate), _Traffic(netlinks[0])
        filters, families = (nft, iptables), frozenset(iptables.programs)
        return System(
            netlinks[0], SysctlBackend(gate), filters, switches, nft, families, visitor, netns.cookie, machine, traffic
        )

    resolver = Resolver(runtimes or default_runtimes())
    held = HeldNamespaces(resolver, visitor, netns.cookie) if fetches else None
    reconciler = Reconciler(system, held or resolver, Journal(netns.cookie(), run_directory), held)

    def close() -> None:
        if held:
            held.close()
        netlinks[0].close()
        nft.close()
        visitor.close()
        store.close()

    return Engine(reconciler, store, machine or socket.gethostname(), close, _translate)


def _translate(container: str, tags: Tags, site: Site, host: str) -> tuple[AttachRequest, ...]:
    """What labels ask for; imported when there are any."""
    from ductwork.plugins.labels import requests

    return requests(container, tags, site, host)


class _Machine:
    """`reconciler.Machine` of the calling thread's namespace; what is seldom needed is imported when it is."""

    def __init__(self, links: NetlinkBackend, visitor: netns.Visitor, switches: OvsdbBackend, fetches: bool) -> None:
        self._links = links
        self._visitor = visitor
        self._switches = switches
        self._fetches = fetches

    def nics(self, names: Iterable[str]) -> dict[str, NicFacts]:
        from ductwork.backends.nic import NicReader

        found = NicReader().read(names)
        return {name: replace(facts, virtual=False) for name, facts in found.items()} if self._fetches else found

    def mentions(self, nics: Sequence[str]) -> Mapping[str, list[str]]:
        from ductwork.backends.nic_mentions import mentions

        return mentions(nics)

    def missing(self, features: Iterable[str]) -> dict[str, str]:
        from ductwork.backends.kernel import missing

        asked = list(features)
        databases = {feature: feature.removeprefix(f"{OVSDB} ") for feature in asked if feature.startswith(f"{OVSDB} ")}
        silent = {feature: self._switches.available(at) for feature, at in databases.items()}
        return {feature: why for feature, why in silent.items() if why} | missing(f for f in asked if f not in databases)

    def guests(self) -> frozenset[str]:
        places = [(partial(os.open, place, os.O_RDONLY | os.O_CLOEXEC), self._links.claims) for place in netns.all_places()]
        return frozenset(name for names in self._visitor.visit(places) if not isinstance(names, Exception) for name in names)

    def obstacles(self, passing: Passing) -> list[str]:
        from ductwork.backends.firewalls import obstacles

        return obstacles(passing)

    def watch(self, links: Sequence[str]) -> Watch:
        from ductwork.backends import dad

        return dad.Watch(links)


class _Traffic:
    """`openings.Traffic` of the calling thread's namespace."""

    def __init__(self, links: NetlinkBackend) -> None:
        self._links = links

    def holders(self, elements: Sequence[NftElement]) -> dict[tuple[Key, int], str]:
        from ductwork.backends.netlink.listeners import holders

        return holders(elements, self._askable())

    def at_loopback(self, wanted: Callable[[str, int], bool]) -> dict[tuple[str, int], str]:
        from ductwork.backends.netlink.listeners import at_loopback

        return at_loopback(wanted, self._askable())

    def _askable(self) -> Askable:
        from ductwork.backends.netlink.listeners import Askable
        from ductwork.openings import tunnel_of
        from ductwork.runtimes.docker import publisher

        return Askable(publisher, lambda port: tunnel_of(self._links.read(HOST, None), port))

    def forget(self, gone: Sequence[NftElement], made: Sequence[NftElement]) -> None:
        from ductwork.backends.netlink.conntrack import forget

        forget(gone, made)


def event_sources(site: Site, host: str, file: Path) -> dict[str, Callable[[], Source]]:
    """What the agent listens to in the calling thread's namespace, by its name: what makes it."""
    from ductwork.agent.agent import SITE_FILE
    from ductwork.backends.file_events import FileEvents
    from ductwork.backends.netlink import events
    from ductwork.backends.nftables import TABLE
    from ductwork.backends.ovsdb.client import default_address
    from ductwork.backends.ovsdb.events import SwitchEvents
    from ductwork.runtimes.docker_events import DockerEvents
    from ductwork.runtimes.netns_events import NetnsEvents
    from ductwork.runtimes.pid_events import PidEvents
    from ductwork.runtimes.podman import PodmanRuntime

    if site.labels:
        import ductwork.plugins.labels  # noqa: F401  # so that the first container does not wait for it, 20 to 40 ms

    nics = desire.nics(site, host)
    found: dict[str, Callable[[], Source]] = {
        SITE_FILE: lambda: FileEvents(file),
        "netlink": lambda: events.link_events(nics),
        "nftables": lambda: events.filter_events(TABLE),
        "netns": NetnsEvents,
        "pid": PidEvents,
        "docker": DockerEvents,
        "podman": lambda: DockerEvents(PodmanRuntime),
    }
    switches = {*desire.databases(site, host)}
    switches |= {default_address()} if any(network.driver == "ovs" for network in site.networks.values()) else set()
    return found | {f"Open vSwitch at {address}": partial(SwitchEvents, address) for address in switches}


def _databases(store: SqliteStore) -> frozenset[str]:
    """Of Open vSwitch, those that the networks which were applied here name: `destroy` has no file to read."""
    networks: list[Any] = [value["network"] for value in store.remembered("networks").values()]
    options = [network["options"] for network in networks if network["driver"] == "ovs"]
    return frozenset(address for option in options for _, address in option["ovsdb"]["of"])


def lacking(features: Iterable[str]) -> dict[str, str]:
    """Feature → what to do, of those that this machine's kernel has not (`backends/kernel.py`)."""
    from ductwork.backends.kernel import missing

    return missing(features)


def default_runtimes() -> Runtimes:
    """Each runtime by what makes it; a client is imported when a container may be its."""
    return {"netns": _netns_runtime, "pid": _pid_runtime, "docker": _docker_runtime, "podman": _podman_runtime}


def _nftables(gate: Callable[[str], None]) -> NftablesBackend:
    from ductwork.backends.nftables import NftablesBackend

    return NftablesBackend(gate)


def _iptables(gate: Callable[[str], None]) -> IptablesBackend:
    """For the families whose program is installed."""
    from ductwork.backends.iptables import PROGRAMS, IptablesBackend

    return IptablesBackend(gate, {family: program for family, program in PROGRAMS.items() if shutil.which(program)})


def _netns_runtime() -> Runtime:
    from ductwork.runtimes.netns import NetnsRuntime

    return NetnsRuntime()


def _pid_runtime() -> Runtime:
    from ductwork.runtimes.pid import PidRuntime

    return PidRuntime()


def _docker_runtime() -> Runtime:
    from ductwork.runtimes.docker import DockerRuntime

    return DockerRuntime()


def _podman_runtime() -> Runtime:
    from ductwork.runtimes.podman import PodmanRuntime

    return PodmanRuntime()


def _store_name() -> str:
    """One store for each host namespace: the machine's own and those with a name outlive a boot, any other has its cookie."""
    own = netns.identity(netns.OWN)
    for named in netns.NAMED_DIRECTORY.glob("*"):
        if netns.identity(named) == own:
            return f"netns-{named.name}.db"
    if netns.identity("/proc/1/ns/net") in (own, None):
        return "state.db"
    return f"netns-{netns.cookie()}.db"
