"""Runs tests on Debian's 6.1 kernel, in emulated machines side by side, and shows what they say.

    PYTHON tests/vm/run.py                          tests/vm and the heart of tests/netns (heart.py), on two machines
    PYTHON tests/vm/run.py tests/vm/test_vlan.py    what follows goes to pytest; paths alone: on one machine
    PYTHON tests/vm/run.py --machines 2 -k vlan

PYTHON is that of a virtual environment with ductwork and what its tests need; the same runs in the machines. Fails when a
test fails, and when a machine does not come up, dies, or says nothing for ten minutes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from heart import HEART
from machine import REPOSITORY, Machine, VmError, fetch_kernel

SILENCE = 600.0
PYTEST = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"]


def main(arguments: list[str]) -> int:
    machines = 1
    if arguments[:1] == ["--machines"]:
        machines, arguments = int(arguments[1]), arguments[2:]
    if not any(Path(word.split("::")[0]).exists() for word in arguments):
        machines = max(machines, 2)
        arguments = ["tests/vm", *HEART, *arguments]
    try:
        kernel = fetch_kernel()
    except VmError as error:
        print(f"vm: {error}", file=sys.stderr)
        return 1
    if refused := collect(arguments):
        return refused
    folder = Path(tempfile.mkdtemp(prefix="ductwork-vm-"))
    command = ["env", "CI=true", "PYTHONPATH=tests/vm", *PYTEST, "-p", "claims", "-vv", *arguments]
    started: list[Machine] = []
    try:
        for number in range(1, machines + 1):
            started.append(Machine(number, kernel, folder, command))
        follow(started)
    finally:
        for machine in started:
            machine.kill()
    failures = [failure for machine in started if (failure := verdict(machine))]
    for failure in failures:
        print(f"vm: {failure}", file=sys.stderr)
    if not failures:
        shutil.rmtree(folder)
    return 1 if failures else 0


def collect(arguments: Sequence[str]) -> int:
    """Here, where it takes no time: a misspelt path is told at once, and the guests find the tests compiled."""
    argv = [*PYTEST, "--collect-only", "-qq", *arguments]
    done = subprocess.run(
        argv, cwd=REPOSITORY, env={**os.environ, "DUCTWORK_VM": "0"}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        print(done.stdout + done.stderr, file=sys.stderr)
    return done.returncode


def follow(machines: Sequence[Machine]) -> None:
    """Shows each line as it comes, until all machines have ended."""
    heard = time.monotonic()
    shown = [0] * len(machines)
    ended = False
    while not ended:
        ended = not any(machine.alive() for machine in machines)
        for index, machine in enumerate(machines):
            mark = f"{index + 1}| " if len(machines) > 1 else ""
            size = show(machine.log, shown[index], mark, whole=ended)
            heard = time.monotonic() if size != shown[index] else heard
            shown[index] = size
        if time.monotonic() - heard > SILENCE:
            return
        time.sleep(0.3)


def show(log: Path, begin: int, mark: str, whole: bool) -> int:
    """Prints complete lines from `begin` on (with `whole`: all); where the next begins."""
    if not log.exists():
        return begin
    text = log.read_bytes()[begin:]
    text = text if whole else text[: text.rfind(b"\n") + 1]
    for line in text.decode(errors="replace").splitlines():
        print(f"{mark}{line}", flush=True)
    return begin + len(text)


def verdict(machine: Machine) -> str:
    """What was wrong with it; empty: nothing."""
    status = machine.status()
    if status is None:
        tail = machine.console.read_text(errors="replace")[-2000:] if machine.console.exists() else ""
        return f"{tail}\nthe machine did not come up, or died, or was silent for too long: see {machine.console}"
    return f"pytest ended with {status}: see {machine.log}" if status else ""


if __name__ == "__main__":
    os.chdir(REPOSITORY)
    sys.exit(main(sys.argv[1:]))
