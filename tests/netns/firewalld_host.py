"""A real firewalld in a network namespace that stands for a host, with a message bus of its own.

Invariant: it is never installed, since a firewall's package switches it on with the next boot: Debian's packages are unpacked
in a cache, once. Its settings, bus and log are in `directory`; it changes the namespace's packet filter and nothing else.

    with FirewalldHost("dwn-alpha", tmp_path / "fw") as firewalld:
        firewalld.cmd("--reload")
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from conftest import sh, until

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ductwork" / "firewalld"
PACKAGES = ("firewalld", "python3-firewall", "python3-nftables", "python3-dbus", "python3-gi", "gir1.2-glib-2.0")
LIBRARIES = ("libgirepository-1.0-1", "dbus-daemon")
WORKSHOP = Path("/run/firewalld")
"""Where it writes what it is about to feed to nft; a fixed place, and nothing stays there."""
PYTHON = "/usr/bin/python3"
"""Debian's, which the packages are for."""
BUS = """
<busconfig>
  <type>system</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/></policy>
</busconfig>
"""


def missing() -> str:
    """What is not here and cannot be fetched; empty: nothing."""
    if os.geteuid() or not shutil.which("nft"):
        return "not root, or no nft"
    with suppress(OSError, subprocess.CalledProcessError):
        return "" if CACHE.exists() or _fetch() else "no firewalld"
    return "firewalld: apt-get cannot fetch it"


def _fetch() -> bool:
    CACHE.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE.parent) as folder:
        argv = ["apt-get", "-oAPT::Sandbox::User=", "-qq", "download", *PACKAGES, *LIBRARIES]
        subprocess.run(argv, cwd=folder, check=True, capture_output=True)
        for package in Path(folder).glob("*.deb"):
            subprocess.run(["dpkg", "-x", package, f"{folder}/tree"], check=True)
        with suppress(OSError):  # another run may have been quicker
            Path(folder, "tree").rename(CACHE)
    return CACHE.exists()


class FirewalldHost:
    """`netns`: a name of `ip netns`. `directory`: a short path (a socket's has 107 characters). `backend`: firewalld's own
    word, `nftables` or `iptables`."""

    def __init__(self, netns: str, directory: Path, backend: str = "nftables") -> None:
        self.netns = netns
        self.backend = backend
        self.directory = directory
        self._daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """A second or two. All its rules come at once."""
        socket = self.directory / "bus"
        shutil.copytree(CACHE / "etc/firewalld", self.directory / "etc", dirs_exist_ok=True)
        settings_file = self.directory / "etc/firewalld.conf"
        written = settings_file.read_text().replace("FirewallBackend=nftables", f"FirewallBackend={self.backend}")
        settings_file.write_text(written)
        (self.directory / "bus.conf").write_text(BUS.format(socket=socket))
        bus = shutil.which("dbus-daemon") or str(CACHE / "usr/bin/dbus-daemon")
        self._daemons.append(self._launch(bus, f"--config-file={self.directory}/bus.conf", "--nofork", "--nopidfile"))
        assert until(socket.exists), self.log()
        settings = ["--default-config", str(CACHE / "usr/lib/firewalld"), "--system-config", str(self.directory / "etc")]
        program = str(CACHE / "usr/sbin/firewalld")
        self._daemons.append(
            self._launch(PYTHON, program, "--nofork", "--nopid", f"--log-file={self.directory}/log", *settings)
        )
        assert until(lambda: "INPUT_ZONES" in sh(self.netns, "nft", "list", "chains")), self.log()
        self.cmd("--state")

    def stop(self) -> None:
        """It takes its rules along."""
        for daemon in reversed(self._daemons):
            daemon.terminate()
            daemon.wait()
        self._daemons = []
        with suppress(OSError):
            WORKSHOP.rmdir()

    def cmd(self, *words: str) -> str:
        argv = [*self._inside(), PYTHON, str(CACHE / "usr/bin/firewall-cmd"), *words]
        done = subprocess.run(argv, capture_output=True, text=True, env=self._environment(), check=False)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}\n{self.log()}"
        return done.stdout

    def log(self) -> str:
        return "\n".join(path.read_text() for path in (self.directory / "log", self.directory / "out") if path.exists())

    def _launch(self, *argv: str) -> subprocess.Popen[bytes]:
        with open(self.directory / "out", "ab") as out:
            return subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *self._inside(), *argv], stdout=out, stderr=out, env=self._environment()
            )

    def _inside(self) -> list[str]:
        return ["nsenter", f"--net=/run/netns/{self.netns}"]

    def _environment(self) -> dict[str, str]:
        libraries = next(CACHE.glob("usr/lib/*/girepository-1.0"))
        return {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": str(CACHE / "usr/lib/python3/dist-packages"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "LD_LIBRARY_PATH": str(libraries.parent),
            "GI_TYPELIB_PATH": str(libraries),
            "DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={self.directory}/bus",
        }
