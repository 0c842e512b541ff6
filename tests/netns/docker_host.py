"""A real dockerd in a network namespace that stands for a host; several run side by side.

Invariant: whatever it started is in one control group, and whatever it mounted in one mount namespace of its own; so
killing the group leaves nothing, however the test ended and however far the start got.

    with DockerHost("dwt-alpha", tmp_path / "alpha") as docker:
        docker.run("web")
        docker.docker("inspect", "web")
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

BUSYBOX = "/bin/busybox"  # Debian's busybox-static
START_SECONDS = 20.0
CGROUPS = Path("/sys/fs/cgroup")

_SECLUDED = """
echo 0 > "$1/cgroup.procs"  # before anything is started that could be missed
for folder in /run/containerd /run/docker /etc/docker; do
  mkdir -p "$folder" "$0/own$folder"
  mount --bind "$0/own$folder" "$folder"
done
shift
exec "$@"
"""
"""dockerd's fixed places (shims' sockets, plug-ins, daemon.json, its key) become its own, in its mount namespace."""


def missing() -> str:
    """What a dockerd needs and is not here; empty: nothing."""
    programs = [p for p in ("dockerd", "docker", "containerd", "runc", "nsenter", "unshare", "ip") if not shutil.which(p)]
    programs += [] if Path(BUSYBOX).exists() else [BUSYBOX]
    return f"no {', '.join(programs)}" if programs else "" if os.geteuid() == 0 else "not root"


class DockerHost:
    """`netns`: a name of `ip netns` that exists and stays. `workdir`: a short path (a socket's has 107 characters).
    `plugins`: where this dockerd looks for the sockets of plug-ins; it knows it as /run/docker/plugins."""

    def __init__(self, netns: str, workdir: Path, *options: str) -> None:
        self.netns = netns
        self.workdir = workdir
        self.options = options
        self.url = f"unix://{workdir}/docker.sock"
        self.plugins = workdir / "own/run/docker/plugins"
        self._group = f"ductwork-test-{netns}"
        self._daemon: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Less than a second, with the image `busybox`. What a killed test run left under the same name goes first."""
        self.stop()
        try:
            self.plugins.mkdir(parents=True, exist_ok=True)
            self._launch()
            self._await_answer()
            self.docker("import", "-", "busybox", feed=image())
        except BaseException:
            self.stop()
            raise

    def docker(self, *args: str, feed: bytes | None = None) -> str:
        """The output of `docker ARGS`, spoken to this dockerd."""
        done = subprocess.run(["docker", "-H", self.url, *args], input=feed, capture_output=True, check=False)
        assert done.returncode == 0, f"docker {' '.join(args)}: {done.stderr.decode()}"
        return done.stdout.decode().strip()

    def run(self, name: str, *args: str, command: tuple[str, ...] = ("sleep", "3600")) -> str:
        """Starts a container from `busybox`; its ID. `args`: options of `docker run`."""
        return self.docker("run", "--detach", "--name", name, *args, "busybox", *command)

    def inspect(self, name: str) -> dict[str, Any]:
        answer = json.loads(self.docker("inspect", name))[0]
        assert isinstance(answer, dict)
        return answer

    def pid(self, name: str) -> int:
        return int(self.inspect(name)["State"]["Pid"])

    def restart(self) -> None:
        """The daemon alone, as `systemctl restart docker` with live-restore off would: containers are killed."""
        self._kill_all()
        self._launch()
        self._await_answer()

    def stop(self) -> None:
        """Nothing of it is left but the caller's namespace, without Docker's bridges."""
        self._kill_all()
        for link in _links(self.netns):
            if link == "docker0" or (link.startswith("br-") and len(link) == 15):
                subprocess.run(["ip", "-n", self.netns, "link", "delete", "dev", link], capture_output=True, check=False)
        remove_groups(self._group)
        for folder in ("data", "exec", "own"):
            shutil.rmtree(self.workdir / folder, ignore_errors=True)
        for file in ("docker.sock", "dockerd.log", "pid"):
            (self.workdir / file).unlink(missing_ok=True)

    def log(self) -> str:
        log = self.workdir / "dockerd.log"
        return log.read_text(errors="replace") if log.exists() else ""

    def _launch(self) -> None:
        group = unified() / self._group / "daemon"
        group.mkdir(parents=True, exist_ok=True)
        # `ip netns exec` would mount a /sys without control groups
        argv = ["nsenter", f"--net=/run/netns/{self.netns}", "unshare", "--mount", "--propagation", "slave"]
        argv += ["sh", "-ec", _SECLUDED, str(self.workdir), str(group), "dockerd"]
        argv += ["--data-root", f"{self.workdir}/data", "--exec-root", f"{self.workdir}/exec", "--host", self.url]
        argv += ["--pidfile", f"{self.workdir}/pid", "--exec-opt", "native.cgroupdriver=cgroupfs"]
        argv += ["--cgroup-parent", f"/{self._group}/containers", *self.options]
        with open(self.workdir / "dockerd.log", "ab") as log:
            self._daemon = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/")

    def _await_answer(self) -> None:
        assert self._daemon
        give_up = time.monotonic() + START_SECONDS
        while not answers(f"{self.workdir}/docker.sock"):
            assert self._daemon.poll() is None, f"dockerd ended:\n{self.log()[-3000:]}"
            assert time.monotonic() < give_up, f"dockerd does not answer:\n{self.log()[-3000:]}"
            time.sleep(0.01)

    def _kill_all(self) -> None:
        """containerd's shims leave the process tree, containers have groups of their own: the group finds both."""
        kill_group(self._group)
        if self._daemon:
            self._daemon.wait()
            self._daemon = None
        # left by a killed daemon, in the way of the next
        (self.workdir / "pid").unlink(missing_ok=True)
        shutil.rmtree(self.workdir / "exec", ignore_errors=True)


def answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(5)
        try:
            probe.connect(path)
            probe.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b" 200 " in probe.recv(64)
        except OSError:
            return False


def kill_group(name: str) -> None:
    """All processes of a control group and of those below it have ended."""
    tree = unified() / name
    if tree.exists():
        for frozen in (CGROUPS / "freezer" / name).rglob("freezer.state"):
            frozen.write_text("THAWED")  # v1: whoever is paused cannot die
        (tree / "cgroup.kill").write_text("1")  # kernel 5.14
        while any(path.read_text() for path in tree.rglob("cgroup.procs")):
            time.sleep(0.005)


def remove_groups(name: str) -> None:
    for hierarchy in hierarchies():
        for folder, _, _ in os.walk(hierarchy / name, topdown=False):
            _remove_group(Path(folder))


def unified() -> Path:
    """The cgroup v2 hierarchy: all there is, or beside those of v1."""
    return CGROUPS if (CGROUPS / "cgroup.controllers").exists() else CGROUPS / "unified"


def hierarchies() -> Iterator[Path]:
    yield unified()
    if unified() != CGROUPS:
        yield from (path for path in CGROUPS.iterdir() if path.is_dir() and path != unified())


def _remove_group(group: Path) -> None:
    """A group whose last process was just killed can be busy for a moment longer."""
    for _ in range(200):
        with contextlib.suppress(FileNotFoundError):
            try:
                group.rmdir()
            except OSError:
                time.sleep(0.005)
                continue
        return


def _links(netns: str) -> list[str]:
    done = subprocess.run(["ip", "-n", netns, "-json", "link"], capture_output=True, check=False)
    return [link["ifname"] for link in json.loads(done.stdout)] if done.returncode == 0 and done.stdout else []


def image() -> bytes:
    """A tar of busybox and the programs that it is."""
    applets = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(os.path.realpath(BUSYBOX), "bin/busybox")
        for applet in set(applets) - {"busybox"}:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        folder = tarfile.TarInfo("tmp")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o1777
        tar.addfile(folder)
    return archive.getvalue()
