"""The guard of `apply --confirm`: a process of its own, which takes the change back unless somebody confirms it in time.

Invariant: it stands before the first thing is touched; from then on it needs neither whoever started it, nor the terminal and
the connection that came through the NIC which is being moved, nor any file that might lie behind it: all its code is loaded.
It changes nothing but by the engine, under the journal's lock.

It is a session of its own, so that a hang-up of the terminal does not reach it. That is not enough under systemd, which ends
all processes of a login with it where logind.conf(5) says KillUserProcesses=yes: there it is started as a transient service of
the system. (A timer would do less: a service also sees that `apply` was killed, and takes what was begun back at once.) A
service lives in the network namespace of systemd itself, so in any other one, such as that of `ip netns exec`, it is a process
of ours after all.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NoReturn

import ductwork
from ductwork import netns
from ductwork.confirmation import LOG, Guard, is_due
from ductwork.errors import ApplyError, BusyError, DuctworkError
from ductwork.journal import Awaiting, Journal

_START_SECONDS = 60.0
_POLL_SECONDS = 0.2
_ATTEMPTS = 20
_PAUSE_SECONDS = 3.0
_ENVIRONMENT = ("PATH", "DOCKER_HOST", "DOCKER_TLS_VERIFY", "CONTAINER_HOST", "OVS_RUNDIR")
"""What the engine heeds; a unit's environment can be read by everybody, so it is not given all of ours."""
_LOADED_WHEN_NEEDED = ("backends", "runtimes", "store", "drivers")


def guard(seconds: int, state: Path, store: Path | None, who: str = "") -> Guard:
    """For `Engine.apply`. `state`, `store`: as for the engine of the change. `who` asks for it."""
    return Guard(seconds, partial(_start, state, store), who)


def _start(state: Path, store: Path | None, directory: str, token: str) -> None:
    # Not found by way of the current directory, which may be anybody's.
    words = [sys.executable, "-P", "-m", "ductwork.guard", directory, token, str(state.absolute())]
    words += [str(store.absolute())] if store else []
    package = str(Path(ductwork.__file__).parents[1])
    path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    try:
        if _has_systemd() and not _run(systemd_argv(words, token, path)).returncode:
            return
        failed = _run(words, PYTHONPATH=path)
    except subprocess.TimeoutExpired:
        raise ApplyError(f"no guard could be started within {_START_SECONDS:.0f} s: nothing was touched") from None
    if failed.returncode:
        told = (failed.stderr.strip().splitlines() or [f"exit code {failed.returncode}"])[-1]
        raise ApplyError(f"no guard could be started ({told}): nothing was touched", "apply without --confirm")


def systemd_argv(words: Sequence[str], token: str, python_path: str) -> list[str]:
    """How systemd is asked for a transient service; it has started when its first process has gone (Type=forking)."""
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ} | {"PYTHONPATH": python_path}
    return [
        *("systemd-run", "--quiet", "--collect", "--no-ask-password", "--service-type=forking"),
        *(f"--unit=ductwork-guard-{token}", "--description=takes a change of ductwork back unless it is confirmed"),
        *(f"--setenv={name}={value}" for name, value in environment.items()),
        *("--", *words),
    ]


def _has_systemd() -> bool:
    """Whether systemd runs this machine (sd_booted(3)), and this is its network namespace."""
    here = netns.identity(netns.OWN)
    return bool(
        os.path.isdir("/run/systemd/system")
        and here is not None
        and netns.identity("/proc/1/ns/net") == here
        and shutil.which("systemd-run")
    )


def _run(argv: Sequence[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """In the network namespace of the calling thread."""
    return subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
        env={**os.environ, **environment},
        start_new_session=True,
        timeout=_START_SECONDS,
        check=False,
    )


def command() -> str:
    """What a person types, anywhere on this machine, to confirm a change of this namespace."""
    here = netns.identity(netns.OWN)
    named = sorted(place.name for place in netns.NAMED_DIRECTORY.glob("*") if netns.identity(place) == here)
    return f"ip netns exec {named[0]} ductwork confirm" if named else "ductwork confirm"


# the guard itself


def main() -> None:
    """`python -m ductwork.guard DIRECTORY TOKEN STATE [STORE]`: the guard stands when this process has ended."""
    directory, token, state, *store = sys.argv[1:]
    journal = Journal(netns.cookie(), Path(directory).parent)
    awaiting = journal.awaiting()
    if journal.directory != directory or awaiting is None or awaiting.token != token:
        sys.exit("nothing awaits confirmation in this namespace")
    _load_all()
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(f"{directory}/{LOG}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    if os.fork():
        os._exit(0)
    os.setsid()
    for number, opened in ((0, nothing), (1, log), (2, log)):
        os.dup2(opened, number)
    _watch(journal, token, Path(state), Path(store[0]) if store else None)


def _load_all() -> None:
    importlib.import_module("ductwork.app")
    for name in _LOADED_WHEN_NEEDED:
        package = importlib.import_module(f"ductwork.{name}")
        for module in pkgutil.walk_packages(package.__path__, f"ductwork.{name}."):
            importlib.import_module(module.name)


def _watch(journal: Journal, token: str, state: Path, store: Path | None) -> NoReturn:
    failures = 0
    while True:
        awaiting = journal.awaiting()
        if awaiting is None or awaiting.token != token:
            _end(journal)
        if not is_due(awaiting):
            time.sleep(_POLL_SECONDS)
            continue
        try:
            _take_back(awaiting, state, store, Path(journal.directory).parent)
        except Exception as error:
            failures += not (isinstance(error, DuctworkError) and error.retry)
            _say(f"{awaiting.title} could not be taken back: {error}")
            if not isinstance(error, DuctworkError):
                traceback.print_exc()
            if failures == _ATTEMPTS:
                sys.exit(1)
            time.sleep(_PAUSE_SECONDS)


def _take_back(awaiting: Awaiting, state: Path, store: Path | None, run_directory: Path) -> None:
    from ductwork.app import build_engine

    with build_engine(state, store_path=store, run_directory=run_directory) as engine:
        report = engine.take_back(lambda found: found.token == awaiting.token and is_due(found))
    if report:
        why = f"nobody confirmed it within {awaiting.seconds} s" if awaiting.applied else "it ended half-way"
        _say(f"{awaiting.title} was taken back: {why}")


def _end(journal: Journal) -> NoReturn:
    """Without a trace where it had nothing to do. By now the log may be that of the next change's guard, which is started
    under the lock."""
    log = f"{journal.directory}/{LOG}"
    if os.fstat(1).st_size == 0 and os.path.exists(log):
        with suppress(BusyError), journal.lock():
            if journal.awaiting() is None and os.path.exists(log) and os.path.samestat(os.stat(log), os.fstat(1)):
                os.unlink(log)
    sys.exit(0)


def _say(line: str) -> None:
    print(time.strftime("%Y-%m-%d %H:%M:%S"), line, flush=True)


if __name__ == "__main__":
    main()
