"""Runs tests on Debian's 6.1 kernel, in emulated machines side by side, and shows what they say.

    PYTHON tests/vm/run.py                          tests/vm and the heart of tests/netns (heart.py), on two machines
    PYTHON tests/vm/run.py -k vlan                  of these, what pytest chooses
    PYTHON tests/vm/run.py tests/vm/test_vlan.py    these paths, on one machine
    PYTHON tests/vm/run.py --machines 1 …           another number of machines; each SIGUSR1 starts one more

PYTHON is that of a virtual environment with ductwork and what its tests need; the same runs in the machines. Fails when a
test fails, and when a machine does not come up, dies, or says nothing for ten minutes.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from claims import forgotten
from heart import HEART
from machine import REPOSITORY, Kernel, Machine, VmError, fetch_kernel

SILENCE = 600.0
_UNUSED = ("cacheprovider", "hypothesispytest", "schemathesis", "anyio", "xdist")
"""Plug-ins of pytest that take half a minute to load in an emulated machine."""
PYTEST = [sys.executable, "-m", "pytest", *(word for name in _UNUSED for word in ("-p", f"no:{name}"))]


class Run:
    """Machines that share a list of tests (claims.py) and a folder, in which each writes its log."""

    def __init__(self, arguments: Sequence[str], wanted: int) -> None:
        self.wanted = wanted
        self.machines: list[Machine] = []
        self.folder = Path(tempfile.mkdtemp(prefix="ductwork-vm-"))
        told = ["-vv", "-rs", "--durations=20"]
        self._command = ["env", "CI=true", "PYTHONPATH=tests/vm", *PYTEST, "-p", "claims", *told, *arguments]
        self._shown: dict[Path, int] = {}
        self._to_look_at = False

    def one_more(self) -> None:
        self.wanted += 1

    def follow(self, kernel: Kernel) -> None:
        """Starts as many machines as are wanted, and shows each line of theirs until all have ended, or are silent."""
        heard = time.monotonic()
        alive = True
        while alive and time.monotonic() - heard < SILENCE:
            while len(self.machines) < self.wanted:
                self.machines.append(Machine(len(self.machines) + 1, kernel, self.folder, self._command))
            time.sleep(0.3)
            alive = any(machine.alive() for machine in self.machines)
            if sum(self._show(number, machine.log, whole=not alive) for number, machine in enumerate(self.machines, 1)):
                heard = time.monotonic()

    def _show(self, number: int, log: Path, whole: bool) -> bool:
        """Prints the lines that are new, with `whole` also one that has no end; whether there were some."""
        if not log.exists():
            return False
        begin = self._shown.get(log, 0)
        text = log.read_bytes()[begin:]
        text = text if whole else text[: text.rfind(b"\n") + 1]
        self._shown[log] = begin + len(text)
        for line in text.decode(errors="replace").splitlines():
            print(f"{number}| {line}", flush=True)
        return bool(text)

    def failures(self) -> list[str]:
        found = []
        for number, machine in enumerate(self.machines, 1):
            if (status := machine.status()) is None:
                self._to_look_at = True
                found += [machine.last_words(), f"machine {number} did not come up, died, or was silent: see {self.folder}"]
            elif status:
                found.append(f"pytest ended with {status} on machine {number}")
        return found or forgotten(self.folder)

    def end(self) -> None:
        for machine in self.machines:
            machine.kill()
        if not self._to_look_at:
            shutil.rmtree(self.folder)


def collect(arguments: Sequence[str]) -> int:
    """pytest's exit code. Here, where it takes no time: a misspelt path is told at once, and the machines find the tests
    compiled."""
    argv = [*PYTEST, "--collect-only", "-q", *arguments]
    done = subprocess.run(argv, env={**os.environ, "DUCTWORK_VM": "0"}, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stdout + done.stderr, file=sys.stderr)
    return done.returncode


def main(arguments: list[str]) -> int:
    machines = 0
    if arguments[:1] == ["--machines"]:
        machines, arguments = int(arguments[1]), arguments[2:]
    paths = any(Path(word.split("::")[0]).exists() for word in arguments)
    if not paths:
        arguments = ["tests/vm", *HEART, *arguments]
    run = Run(arguments, machines or (1 if paths else 2))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    signal.signal(signal.SIGUSR1, lambda *_: run.one_more())
    try:
        kernel = fetch_kernel()
        if refused := collect(arguments):
            return refused
        run.follow(kernel)
        failures = run.failures()
    except VmError as error:
        failures = [str(error)]
    finally:
        run.end()
    for failure in failures:
        print(f"vm: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    os.chdir(REPOSITORY)
    sys.exit(main(sys.argv[1:]))
