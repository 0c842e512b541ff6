"""Puts the concrete classes together; nothing else does.

Invariant: an engine acts on the network namespace of the thread that builds it, and must be used in that thread.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

from ductwork import netns
from ductwork.backends.netlink.backend import NetlinkBackend
from ductwork.backends.sysctl import SysctlBackend
from ductwork.engine import Engine
from ductwork.journal import RUN_DIRECTORY, Journal
from ductwork.reconciler import Reconciler, System
from ductwork.resources import Backend
from ductwork.runtimes import Runtime
from ductwork.runtimes.resolver import Resolver
from ductwork.store.sqlite import SqliteStore

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
) -> Engine:
    """The engine of the calling thread's namespace. `machine`: this machine's name, which makes MACs its own.

    `gate` is called with "before" and "after" around each send, for tests that die there.
    """
    visitor = netns.Visitor()
    store = SqliteStore(store_path or state_directory / _store_name())
    netlinks: list[NetlinkBackend] = []

    def system(open_netns: Callable[[str], int]) -> System:
        netlinks.append(NetlinkBackend(open_netns, gate))
        families = frozenset(f for f, program in (("ip", "iptables"), ("ip6", "ip6tables")) if shutil.which(program))
        return System(netlinks[0], SysctlBackend(gate), _filters(gate), families, visitor, netns.cookie)

    reconciler = Reconciler(system, Resolver(runtimes or default_runtimes()), Journal(netns.cookie(), run_directory))

    def close() -> None:
        netlinks[0].close()
        visitor.close()
        store.close()

    return Engine(reconciler, store, machine or socket.gethostname(), close)


def default_runtimes() -> Runtimes:
    """Each runtime by what makes it; Docker's client is imported when a container may be Docker's."""
    return {"netns": _netns_runtime, "pid": _pid_runtime, "docker": _docker_runtime}


def _filters(gate: Callable[[str], None]) -> tuple[Backend, ...]:
    from ductwork.backends.iptables import IptablesBackend
    from ductwork.backends.nftables import NftablesBackend

    return NftablesBackend(gate), IptablesBackend(gate)


def _netns_runtime() -> Runtime:
    from ductwork.runtimes.netns import NetnsRuntime

    return NetnsRuntime()


def _pid_runtime() -> Runtime:
    from ductwork.runtimes.pid import PidRuntime

    return PidRuntime()


def _docker_runtime() -> Runtime:
    from ductwork.runtimes.docker import DockerRuntime

    return DockerRuntime()


def _store_name() -> str:
    """One store for each host namespace: the machine's own and those with a name outlive a boot, any other has its cookie."""
    own = _identity(netns.OWN)
    for named in netns.NAMED_DIRECTORY.glob("*"):
        if _identity(named) == own:
            return f"netns-{named.name}.db"
    if _identity("/proc/1/ns/net") in (own, None):
        return "state.db"
    return f"netns-{netns.cookie()}.db"


def _identity(path: str | Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
