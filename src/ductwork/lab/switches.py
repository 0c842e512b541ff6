"""Open vSwitch on the lab's hosts: each that the file wants it on has its own, with a database and a switch of its own.

Invariant: the two daemons of a host write their process numbers below the lab's state directory before the lab goes on, so
that `stop` finds them also after a crash; and it ends only a process whose command line names that directory, since a number
may have been given to another by then.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ductwork.drivers import PerHost
from ductwork.errors import ApplyError, MissingToolError
from ductwork.lab.namespaces import run_inside
from ductwork.lab.topology import HostNode, Topology
from ductwork.site.model import Network, Site

DRIVER = "ovs"
_PROGRAMS = ("ovsdb-tool", "ovsdb-server", "ovs-vsctl", "ovs-vswitchd")
_DAEMONS = ("ovs-vswitchd", "ovsdb-server")
_SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
_SECONDS = 30
_SIOCETHTOOL, _ETHTOOL_STXCSUM = 0x8946, 0x17


def hosts(lab: Topology) -> list[HostNode]:
    """Those on which the file has networks of Open vSwitch."""
    wanted = {host for network in _networks(lab.site) for host in lab.site.hosts_of(network.name)}
    return [node for name, node in lab.hosts.items() if name in wanted]


def start(lab: Topology, state: Path) -> None:
    """The daemons of all hosts that want them, at once.

    Errors: `MissingToolError` where Open vSwitch is not installed; `ApplyError` with the words of what did not start.
    """
    wanted = hosts(lab)
    missing = [program for program in _PROGRAMS if not shutil.which(program)] if wanted else []
    if missing or (wanted and not _SCHEMA.exists()):
        what = f"program {missing[0]}" if missing else f"file {_SCHEMA}"
        raise MissingToolError(f"the lab needs Open vSwitch for the file's networks, and there is no {what}", "install it")
    with ThreadPoolExecutor(max(1, len(wanted))) as pool:
        list(pool.map(lambda node: run_inside(node.netns, partial(_start, _directory(lab, node, state))), wanted))


def stop(state: Path) -> None:
    """End the daemons that were started below `state`, by the files with their numbers."""
    for directory in state.glob(f"{DRIVER}-*"):
        for daemon in _DAEMONS:
            with suppress(FileNotFoundError, ValueError):
                _end(int((directory / f"{daemon}.pid").read_text()), daemon, directory)
        shutil.rmtree(directory, ignore_errors=True)


def environment(lab: Topology, node: HostNode, state: Path) -> dict[str, str]:
    """What makes a host's Open vSwitch that of the programs run there, ductwork's own among them; on a host that has none, it
    leads nowhere."""
    return _places(_directory(lab, node, state))


def forget_this_machine(state: Path) -> None:
    """What this process takes for the machine's own Open vSwitch, which a lab has nothing to do with, is not there."""
    os.environ.update(_places(state / "nowhere"))


def site_for(lab: Topology, node: HostNode, state: Path, *, in_kernel: bool) -> Site:
    """The site as it is applied on a host: its networks of Open vSwitch with the lab's database there. `in_kernel`: whether
    the kernel has the data path `system`; without, Open vSwitch's own takes its place."""
    changed: dict[str, Network] = {}
    for network in _networks(lab.site):
        options: Any = network.options
        database = PerHost({"": f"unix:{_directory(lab, node, state)}/db.sock"})
        datapath = options.datapath if in_kernel else "netdev"
        changed[network.name] = replace(network, options=replace(options, ovsdb=database, datapath=datapath))
    return replace(lab.site, networks={**lab.site.networks, **changed})


def wants_kernel(site: Site) -> bool:
    """Whether a network of the file wants the kernel's data path."""
    return any(getattr(network.options, "datapath", "") == "system" for network in _networks(site))


def complete_checksums(lab: Topology, plugs: Iterable[tuple[str, str]]) -> None:
    """Have NICs (namespace, name) send whole checksums, as a wire carries them: over veth they are left to the receiver, and a
    data path in user space passes on what it reads (OVS 3.1)."""
    if hosts(lab):
        for netns, nic in plugs:
            run_inside(netns, partial(_send_whole_checksums, nic))


def _networks(site: Site) -> list[Network]:
    return [network for network in site.networks.values() if network.driver == DRIVER]


def _directory(lab: Topology, node: HostNode, state: Path) -> Path:
    """A number for a name: the path of a socket has 107 characters."""
    return state / f"{DRIVER}-{list(lab.hosts).index(node.name)}"


def _places(directory: Path) -> dict[str, str]:
    return dict.fromkeys(("OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR", "OVS_SYSCONFDIR"), str(directory))


def _start(directory: Path) -> None:
    """In the host's namespace. A daemon that is told to detach returns when it answers."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    database, switch = f"unix:{directory}/db.sock", f"--unixctl={directory}/switch.ctl"
    _run(directory, "ovsdb-tool", "create", f"{directory}/conf.db", str(_SCHEMA))
    remote = [f"--remote=p{database}", f"--unixctl={directory}/db.ctl"]
    _run(directory, "ovsdb-server", f"{directory}/conf.db", *remote, *_detached(directory, "ovsdb-server"))
    _run(directory, "ovs-vsctl", f"--timeout={_SECONDS}", f"--db={database}", "--no-wait", "init")
    _run(directory, "ovs-vswitchd", database, switch, *_detached(directory, "ovs-vswitchd"))


def _detached(directory: Path, daemon: str) -> Sequence[str]:
    files = [f"--pidfile={directory}/{daemon}.pid", f"--log-file={directory}/{daemon}.log"]
    return ["--detach", "--no-chdir", "-vconsole:off", *files]


def _run(directory: Path, *argv: str) -> None:
    quiet, told = subprocess.DEVNULL, directory / "told"
    with told.open("w") as words:  # a pipe would be kept open by the daemon
        environ = {**os.environ, **_places(directory)}
        done = subprocess.run(argv, stdin=quiet, stdout=quiet, stderr=words, cwd="/", env=environ, check=False)
    if done.returncode:
        raise ApplyError(f"the lab's Open vSwitch did not start: {argv[0]}: {told.read_text().strip()}")


def _end(pid: int, daemon: str, directory: Path) -> None:
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        named = any(str(directory) in os.fsdecode(word) for word in words)
        if not named or Path(os.fsdecode(words[0])).name != daemon:
            return
        signal.pidfd_send_signal(process, signal.SIGKILL)
        if not select.select([process], [], [], _SECONDS)[0]:
            raise ApplyError(f"process {pid} ({daemon}) of the lab does not end")
    except (ProcessLookupError, FileNotFoundError):
        return  # it has ended meanwhile
    finally:
        os.close(process)


def _send_whole_checksums(nic: str) -> None:
    """What `ethtool -K NIC tx off` does (struct ethtool_value, include/uapi/linux/ethtool.h)."""
    off = ctypes.create_string_buffer(struct.pack("=II", _ETHTOOL_STXCSUM, 0))
    request = struct.pack("16sQ16x", os.fsencode(nic), ctypes.addressof(off))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asking:
        try:
            fcntl.ioctl(asking, _SIOCETHTOOL, request)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
