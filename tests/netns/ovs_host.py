"""Open vSwitch in a network namespace that stands for a host; several run side by side.

Invariant: its two daemons die with the thread that started them, at the latest, and its devices with its `stop`; sockets,
database and logs are in `directory`. A kernel without Open vSwitch's module has the data path `netdev` alone.

    with OvsHost("dwn-alpha", tmp_path / "ovs") as ovs:
        ovs.vsctl("add-br", "ovs0", "--", "set", "Bridge", "ovs0", "datapath_type=netdev")
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
START_SECONDS = 20.0
KINDS = ("tun", "openvswitch")
"""What the devices of a bridge are: of the data path `netdev`, of `system`."""


def missing() -> str:
    """What Open vSwitch needs and is not here; empty: nothing."""
    needed = ("ovsdb-tool", "ovsdb-server", "ovs-vswitchd", "ovs-vsctl", "ovs-ofctl", "setpriv", "nsenter")
    programs = [program for program in needed if not shutil.which(program)]
    return f"no {', '.join(programs)}" if programs else "" if os.geteuid() == 0 else "not root"


class OvsHost:
    """`netns`: a name of `ip netns` that exists. `directory`: a short path (a socket's has 107 characters)."""

    def __init__(self, netns: str, directory: Path) -> None:
        self.netns = netns
        self.directory = directory
        self.socket = f"unix:{directory}/db.sock"
        self._database: subprocess.Popen[bytes] | None = None
        self._switch: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def environment(self) -> dict[str, str]:
        """With this, the host's Open vSwitch is the default of its programs, and of ductwork."""
        places = ("OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR", "OVS_SYSCONFDIR")
        return {**os.environ, **dict.fromkeys(places, str(self.directory))}

    def start(self) -> None:
        """About a tenth of a second."""
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            self._run("ovsdb-tool", "create", f"{self.directory}/conf.db", str(SCHEMA))
            self.start_database()
            self.vsctl("--no-wait", "init")
            self.start_switch()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Nothing of it is left but the caller's namespace."""
        self.kill_switch()
        self.kill_database()
        for device, kind in self._devices():
            # of the kernel's data path, its own device cannot be deleted as a link: the data path goes, with all its devices
            argv = ["ip", "link", "del", "dev", device] if kind == "tun" else ["ovs-dpctl", "del-dp", device]
            subprocess.run([*self._inside(), *argv], capture_output=True, check=False)
        shutil.rmtree(self.directory, ignore_errors=True)

    def start_database(self) -> None:
        options = [f"--remote=p{self.socket}", f"--unixctl={self.directory}/db.ctl"]
        options += ["--remote=db:Open_vSwitch,Open_vSwitch,manager_options"]  # what `ovs-vsctl set-manager` sets
        self._database = self._launch("ovsdb-server", f"{self.directory}/conf.db", *options)
        self._await(self._database, "db.sock")

    def kill_database(self) -> None:
        """As a power failure would."""
        self._database = _kill(self._database)
        for left in ("db.sock", "db.ctl", ".conf.db.~lock~"):
            (self.directory / left).unlink(missing_ok=True)

    def start_switch(self) -> None:
        (self.directory / "switch.ctl").unlink(missing_ok=True)
        self._switch = self._launch("ovs-vswitchd", self.socket, f"--unixctl={self.directory}/switch.ctl")
        self._await(self._switch, "switch.ctl")
        # what changes nothing is not waited for
        self.vsctl("set", "Open_vSwitch", ".", f"external_ids:switch={self._switch.pid}")

    def kill_switch(self) -> None:
        """Its devices stay, and forward nothing (`netdev`) or what they know already (`system`)."""
        self._switch = _kill(self._switch)

    def vsctl(self, *args: str) -> str:
        """The output of `ovs-vsctl ARGS`, which waits until the switch has done it."""
        return self._run("ovs-vsctl", f"--timeout={START_SECONDS:.0f}", f"--db={self.socket}", *args)

    def ofctl(self, *args: str, feed: str = "") -> str:
        return self._run("ovs-ofctl", *args, feed=feed)

    def appctl(self, *args: str) -> str:
        """The output of a command to the switch."""
        return self._run("ovs-appctl", f"--target={self.directory}/switch.ctl", *args)

    def log(self) -> str:
        logs = (self.directory / f"{daemon}.log" for daemon in ("ovsdb-server", "ovs-vswitchd"))
        return "\n".join(log.read_text(errors="replace") for log in logs if log.exists())

    def _launch(self, daemon: str, *options: str) -> subprocess.Popen[bytes]:
        argv = ["setpriv", "--pdeathsig", "KILL", *self._inside(), daemon, *options, "-vconsole:off"]
        argv += [f"--pidfile={self.directory}/{daemon}.pid", f"--log-file={self.directory}/{daemon}.log"]
        quiet = subprocess.DEVNULL
        return subprocess.Popen(argv, stdin=quiet, stdout=quiet, stderr=quiet, cwd="/", env=self.environment)

    def _inside(self) -> list[str]:
        return ["nsenter", f"--net=/run/netns/{self.netns}"]

    def _await(self, daemon: subprocess.Popen[bytes], name: str) -> None:
        give_up = time.monotonic() + START_SECONDS
        while not _answers(self.directory / name):
            assert daemon.poll() is None, f"{daemon.args!r} ended:\n{self.log()[-3000:]}"
            assert time.monotonic() < give_up, f"{daemon.args!r} does not answer:\n{self.log()[-3000:]}"
            time.sleep(0.002)

    def _run(self, *argv: str, feed: str = "") -> str:
        done = subprocess.run(argv, input=feed, capture_output=True, text=True, env=self.environment, check=False)
        assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr}"
        return done.stdout

    def _devices(self) -> list[tuple[str, str]]:
        argv = ["ip", "-n", self.netns, "-detail", "-json", "link"]
        listing = subprocess.run(argv, capture_output=True, text=True, check=False).stdout or "[]"
        kinds = {link["ifname"]: link.get("linkinfo", {}).get("info_kind", "") for link in json.loads(listing)}
        return [(name, kind) for name, kind in kinds.items() if kind in KINDS]


def _kill(daemon: subprocess.Popen[bytes] | None) -> None:
    if daemon:
        daemon.kill()
        daemon.wait()


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
