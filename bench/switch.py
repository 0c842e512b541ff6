"""Open vSwitch of a host's own: its database and its switch, in the host's namespace.

Invariant: both daemons die with the bench, however it ends; sockets, database and logs are in a folder that goes with `stop`.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from bench.hosts import PREFIX, inside, run

_SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"
_PROGRAMS = ("ovsdb-tool", "ovsdb-server", "ovs-vswitchd", "ovs-vsctl", "ovs-ofctl", "setpriv", "ethtool")
_PLACES = ("OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR", "OVS_SYSCONFDIR")
_START_SECONDS = 20.0


def missing() -> str:
    """Why Open vSwitch cannot take part; empty where it can."""
    lacking = [program for program in _PROGRAMS if not shutil.which(program)]
    return f"no {', '.join(lacking)}" if lacking else ""


class Switch:
    def __init__(self, host: str) -> None:
        self._host = host
        self._folder = tempfile.TemporaryDirectory(prefix=PREFIX)
        self._daemons: list[subprocess.Popen[bytes]] = []
        self.database = f"unix:{self._folder.name}/db.sock"

    def start(self) -> None:
        folder = self._folder.name
        run("ovsdb-tool", "create", f"{folder}/conf.db", _SCHEMA)
        self._launch("ovsdb-server", f"{folder}/conf.db", f"--remote=p{self.database}", f"--unixctl={folder}/db.ctl")
        self._await("db.sock")
        self.vsctl("--no-wait", "init")
        self._launch("ovs-vswitchd", self.database, f"--unixctl={folder}/switch.ctl")
        # what changes nothing is not waited for
        self.vsctl("set", "Open_vSwitch", ".", "external_ids:waited=yes")

    def stop(self) -> None:
        """Its devices are the namespace's, and go with it."""
        for daemon in reversed(self._daemons):
            daemon.kill()
            daemon.wait()
        self._folder.cleanup()

    def vsctl(self, *words: str) -> None:
        """Returns when the switch has done it."""
        run("ovs-vsctl", f"--timeout={_START_SECONDS:.0f}", f"--db={self.database}", *words)

    def _launch(self, daemon: str, *options: str) -> None:
        folder = self._folder.name
        argv = ["setpriv", "--pdeathsig", "KILL", daemon, *options, "-vconsole:off"]
        argv += [f"--pidfile={folder}/{daemon}.pid", f"--log-file={folder}/{daemon}.log"]
        env = {**os.environ, **dict.fromkeys(_PLACES, folder)}
        quiet = subprocess.DEVNULL
        with inside(self._host):
            self._daemons.append(subprocess.Popen(argv, stdin=quiet, stdout=quiet, stderr=quiet, cwd="/", env=env))

    def _await(self, name: str) -> None:
        """Until it accepts connections: ovs-vsctl tries once, and a socket is there a moment before it listens."""
        give_up = time.monotonic() + _START_SECONDS
        while not _answers(Path(self._folder.name, name)):
            if self._daemons[-1].poll() is not None or time.monotonic() > give_up:
                raise RuntimeError(f"{self._daemons[-1].args!r} does not answer")
            time.sleep(0.002)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0
