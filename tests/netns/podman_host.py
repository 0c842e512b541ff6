"""A real Podman in a network namespace that stands for a host, with its Docker-compatible service; several side by side.

Invariant: its storage, locks and state lie in its own folder, whatever it started is in one control group; so killing the group
leaves nothing, however the test ended. Its containers run on while its service does not.

    with PodmanHost("dwt-alpha", tmp_path / "alpha") as podman:
        podman.run("web")
        podman.podman("inspect", "web")
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from docker_host import BUSYBOX, START_SECONDS, answers, image, kill_group, remove_groups, unified

_IN_GROUP = 'echo 0 > "$0/cgroup.procs"; exec "$@"'
_SETTINGS = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
lock_type = "file"
"""
"""Its own limits are more than root has everywhere, its own locks one table for all Podmans of a machine."""
NOBODY = 65534


def missing() -> str:
    """What Podman needs and is not here; empty: nothing."""
    programs = [p for p in ("podman", "conmon", "nsenter", "setpriv", "ip") if not shutil.which(p)]
    programs += [] if shutil.which("runc") or shutil.which("crun") else ["runc"]
    programs += [] if Path(BUSYBOX).exists() else [BUSYBOX]
    return f"no {', '.join(programs)}" if programs else "" if os.geteuid() == 0 else "not root"


class PodmanHost:
    """`netns`: a name of `ip netns` that exists and stays. `workdir`: a short path. `rootless`: run by nobody, the user."""

    def __init__(self, netns: str, workdir: Path, *, rootless: bool = False) -> None:
        self.netns = netns
        self.workdir = workdir
        self.url = f"unix://{workdir}/podman.sock"
        self._rootless = rootless
        self._group = f"ductwork-test-podman-{netns}"
        self._service: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.stop()
        try:
            self.workdir.mkdir(parents=True, exist_ok=True)
            (self.workdir / "containers.conf").write_text(_SETTINGS)
            runtime = shutil.which("runc") or shutil.which("crun")
            # by a program, since what cleans up behind a container is not told of `--runtime-flag`
            (self.workdir / "runc").write_text(f'#!/bin/sh\nexec {runtime} --root {self.workdir}/oci "$@"\n')
            (self.workdir / "runc").chmod(0o755)
            if self._rootless:
                os.chown(self.workdir, NOBODY, NOBODY)
            (unified() / self._group / "podman").mkdir(parents=True, exist_ok=True)
            self.podman("import", "-", "busybox", feed=image())
            self.start_service()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def podman(self, *args: str, feed: bytes | None = None) -> str:
        """The output of `podman ARGS`, which needs no service."""
        argv = [*self._argv(), *args]
        done = subprocess.run(argv, input=feed, capture_output=True, check=False, env=self._environment(), cwd="/")
        assert done.returncode == 0, f"podman {' '.join(args)}: {done.stderr.decode()}"
        return done.stdout.decode().strip()

    def run(self, name: str, *args: str, command: tuple[str, ...] = ("sleep", "3600")) -> str:
        """Starts a container from `busybox`; its ID. `args`: options of `podman run`."""
        return self.podman("run", "--detach", "--name", name, *self._placed(), *args, "busybox", *command)

    def pod(self, name: str, *args: str) -> None:
        """An infra container named NAME-infra, which needs no image of its own."""
        infra = ("--infra-image", "busybox", "--infra-command", "sleep 3600", "--infra-name", f"{name}-infra")
        self.podman("pod", "create", "--name", name, *self._placed(), *infra, *args)

    def pid(self, name: str) -> int:
        return int(self.podman("inspect", "--format", "{{.State.Pid}}", name))

    def start_service(self) -> None:
        argv = [*self._argv(), "system", "service", "--time=0", self.url]
        with open(self.workdir / "service.log", "ab") as log:
            self._service = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment(), cwd="/"
            )
        give_up = time.monotonic() + START_SECONDS
        while not answers(f"{self.workdir}/podman.sock"):
            assert self._service.poll() is None, f"podman's service ended:\n{self.log()[-3000:]}"
            assert time.monotonic() < give_up, f"podman's service does not answer:\n{self.log()[-3000:]}"
            time.sleep(0.01)

    def stop_service(self) -> None:
        """Its containers run on."""
        if self._service:
            self._service.terminate()
            self._service.wait()
            self._service = None

    def stop(self) -> None:
        kill_group(self._group)
        if self._service:
            self._service.wait()
            self._service = None
        for line in Path("/proc/self/mounts").read_text().splitlines():
            if line.split()[1].startswith(f"{self.workdir}/"):
                subprocess.run(["umount", "--lazy", line.split()[1]], check=False)
        remove_groups(self._group)
        shutil.rmtree(self.workdir, ignore_errors=True)

    def log(self) -> str:
        return (self.workdir / "service.log").read_text(errors="replace")

    def _argv(self) -> list[str]:
        at = self.workdir
        user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"] if self._rootless else []
        argv = ["sh", "-ec", _IN_GROUP, str(unified() / self._group / "podman")]
        argv += ["nsenter", f"--net=/run/netns/{self.netns}", *user, "podman", "--storage-driver", "vfs"]
        argv += ["--root", f"{at}/root", "--runroot", f"{at}/run", "--tmpdir", f"{at}/tmp", "--runtime", f"{at}/runc"]
        return [*argv, "--network-config-dir", f"{at}/networks", "--cgroup-manager", "cgroupfs", "--events-backend", "file"]

    def _placed(self) -> list[str]:
        return [] if self._rootless else ["--cgroup-parent", f"/{self._group}/containers"]

    def _environment(self) -> dict[str, str]:
        own = {"CONTAINERS_CONF": f"{self.workdir}/containers.conf"}
        homes = dict.fromkeys(("HOME", "XDG_RUNTIME_DIR", "TMPDIR"), str(self.workdir)) if self._rootless else {}
        return {"PATH": os.environ["PATH"], **own, **homes}
