"""The agent as a process of its own: how soon a container that starts has its network, many at once, and its memory.

Invariant: all that is measured is the command `ductwork agent`, with a real dockerd or with namespaces of `ip netns`; a
container of Docker counts as plugged in when it answers a ping.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench.hosts import PREFIX, inside, namespaces, run
from bench.measure import Figure, Table
from bench.peers import docker_host, missing_docker

TARGET_MS = 50.0
TARGET_MIB = 80.0
PINGER = Path(__file__).with_name("pinger.py")
ROUNDS = 20
NAMES = ("left", "right")
AT_ONCE = 100
"""Containers on each of two hosts."""
CYCLES = 10_000
BATCH = 20
DEADLINE_SECONDS = 300.0


class Keeper:
    """A host with an agent that keeps `containers` (RUNTIME:NAME) on a bridge; their addresses are `address(N)`."""

    def __init__(self, host: str, folder: Path, containers: Sequence[str], environment: dict[str, str]) -> None:
        self.host = host
        self.parts = folder / "parts.jsonl"
        self._log = folder / "agent.log"
        plugs = [{"container": name, "network": "lan", "address": address(n)} for n, name in enumerate(containers)]
        networks = {"lan": {"driver": "bridge", "bridge": "br0", "subnet": "10.81.0.0/20"}}
        site = folder / "site.yaml"
        site.write_text(json.dumps({"name": "bench", "networks": networks, "attachments": plugs}))
        argv = [sys.executable, "-m", "bench.watched", str(self.parts), "agent", "--site", str(site), "--resync", "3600"]
        own = {"DUCTWORK_STATE": f"{folder}/state", "DUCTWORK_RUN": f"{folder}/run"}
        with inside(host), open(self._log, "w") as log:
            self._process = subprocess.Popen(argv, env={**os.environ, **own, **environment}, stderr=log)
        await_true(lambda: "keeps bench true" in self._log.read_text() or self._process.poll() is not None)
        if self._process.poll() is not None:
            raise RuntimeError(self._log.read_text())

    def memory_mib(self) -> float:
        """Resident, now."""
        return self._kib("VmRSS") / 1024

    def peak_mib(self) -> float:
        return self._kib("VmHWM") / 1024

    def _kib(self, field: str) -> int:
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{field}:"))

    def processor_seconds(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def plugged(self) -> dict[str, dict[str, float]]:
        """What was noted of each container's last start, by its name."""
        lines = self.parts.read_text().splitlines() if self.parts.exists() else []
        return {str(entry.pop("container")): entry for entry in map(json.loads, lines)}

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()


def address(number: int) -> str:
    return f"10.81.{1 + number // 200}.{1 + number % 200}"


def await_true(condition: Any) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"nothing after {DEADLINE_SECONDS:.0f} s")
        time.sleep(0.02)


@contextmanager
def pinged(host: str, addresses: Sequence[str], interval: float) -> Iterator[dict[str, float]]:
    """Address → when it has answered, all of them when the block is left."""
    found: dict[str, float] = {}
    with inside(host):
        argv = [sys.executable, "-I", str(PINGER), str(interval), *addresses]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        process.stdout.readline()
        yield found
        found |= {its: float(at) for its, at in (line.split() for line in process.stdout)}
    finally:
        process.kill()
        process.wait()


class Starts:
    """When Docker says that containers have started; the last time for each name."""

    def __init__(self, docker: Any) -> None:
        asked = ["docker", "-H", docker.url, "events", "--format", "{{json .}}", "--filter", "event=start"]
        self._process = subprocess.Popen(asked, stdout=subprocess.PIPE, text=True)
        time.sleep(0.5)  # it does not say when it listens

    def take(self, count: int) -> dict[str, float]:
        """On the clock that all processes share."""
        assert self._process.stdout
        ahead = time.time() - time.monotonic()
        told = [json.loads(self._process.stdout.readline()) for _ in range(count)]
        return {entry["Actor"]["Attributes"]["name"]: entry["timeNano"] / 1e9 - ahead for entry in told}

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def kept(name: str, count: int) -> Iterator[tuple[Keeper, Any, Starts]]:
    """A host with dockerd, `count` containers that were not started, and an agent."""
    host = PREFIX + name
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=PREFIX)))
        stack.enter_context(namespaces([host]))
        docker = docker_host(host, folder / "docker")
        stack.callback(docker.stop)
        docker.start()
        names = [f"{name}{number}" for number in range(count)]
        for container in names:
            docker.docker("create", "--name", container, "--network", "none", "busybox", "sleep", "86400")
        keeper = Keeper(host, folder, [f"docker:{container}" for container in names], {"DOCKER_HOST": docker.url})
        stack.callback(keeper.stop)
        starts = Starts(docker)
        stack.callback(starts.stop)
        time.sleep(1)
        yield keeper, docker, starts


def first_ping(rounds: int = ROUNDS) -> Table:
    """One container again and again, with the parts of the time."""
    parts: dict[str, list[float]] = {}
    with kept("one", 1) as (keeper, docker, starts):
        before = keeper.processor_seconds()
        time.sleep(10)
        idle = (keeper.processor_seconds() - before) / 10
        for turn in range(rounds + 1):
            with pinged(keeper.host, [address(0)], 0.001) as answered:
                docker.docker("start", "one0")
                started = starts.take(1)["one0"]
            noted = keeper.plugged()["docker:one0"]
            if turn:  # the first one imports, and is not counted
                for part, seconds in _parts(started, noted, answered[address(0)]).items():
                    parts.setdefault(part, []).append(seconds * 1000)
            docker.docker("kill", "one0")
            time.sleep(0.5)
    whole, *rest = parts
    figures = [Figure(whole, tuple(parts[whole]), target=TARGET_MS), *(Figure(part, tuple(parts[part])) for part in rest)]
    figures.append(Figure("processor while nothing happens", (idle * 100,), "%", 1.0))
    return Table("from a container's start event to its first answered ping", tuple(figures))


def _parts(started: float, noted: dict[str, float], answered: float) -> dict[str, float]:
    """By the order in which they happen. Reading is done twice, before and after."""
    known = ("asking", "reading", "planning", "executing")
    rest = noted["ended"] - noted["began"] - sum(noted[part] for part in known[1:])
    return {
        "in all": answered - started,
        "until the agent has heard of it": noted["heard"] - started,
        "until the engine is asked": noted["began"] - noted["heard"],
        "the runtime asked": noted["asking"],
        "reading, before and after": noted["reading"] - noted["asking"],
        "planning": noted["planning"],
        "executing, announcing": noted["executing"],
        "store, journal, what is wanted": rest,
        "all done → first answered ping": answered - noted["ended"],
    }


def at_once(count: int = AT_ONCE) -> Table:
    """Two hosts, each with a dockerd and an agent."""
    latencies: list[float] = []
    with kept(NAMES[0], count) as left, kept(NAMES[1], count) as right:
        sides = (left, right)
        addresses = [address(number) for number in range(count)]
        began = time.monotonic()
        with pinged(left[0].host, addresses, 0.05) as left_answers, pinged(right[0].host, addresses, 0.05) as right_answers:
            with ThreadPoolExecutor(8) as pool:
                names = [
                    (docker, f"{keeper.host.removeprefix(PREFIX)}{n}") for n in range(count) for keeper, docker, _ in sides
                ]
                list(pool.map(lambda its: its[0].docker("start", its[1]), names))
            docker_seconds = time.monotonic() - began
            told = [starts.take(count) for _, _, starts in sides]
        for name, started, answered in zip(NAMES, told, (left_answers, right_answers), strict=True):
            latencies += [(answered[address(n)] - started[f"{name}{n}"]) * 1000 for n in range(count)]
        last = max(*left_answers.values(), *right_answers.values()) - began
        peaks = [keeper.peak_mib() for keeper, _, _ in sides]
        seconds = [keeper.processor_seconds() for keeper, _, _ in sides]
    ranked = sorted(latencies)
    title = f"{2 * count} containers started at once by two Docker engines"
    figures = [Figure("start event → first answered ping", tuple(latencies))]
    figures += [Figure(f"… {share} %", (ranked[min(len(ranked) - 1, len(ranked) * share // 100)],)) for share in (90, 99)]
    figures.append(Figure("Docker has started them all after", (docker_seconds,), "s"))
    figures.append(Figure("all have answered after", (last,), "s"))
    figures.append(Figure("agents' peak memory", tuple(peaks), "MiB", TARGET_MIB))
    figures.append(Figure("agents' processor time", tuple(seconds), "s"))
    return Table(title, tuple(figures))


def memory(cycles: int = CYCLES) -> Table:
    """Namespaces made and deleted, some at a time, each plugged in meanwhile."""
    host, containers = f"{PREFIX}memory", [f"{PREFIX}memory-{number}" for number in range(BATCH)]
    samples: list[tuple[int, float]] = []
    with tempfile.TemporaryDirectory(prefix=PREFIX) as folder, namespaces([host]):
        keeper = Keeper(host, Path(folder), [f"netns:{name}" for name in containers], {})
        try:
            add = "".join(f"netns add {name}\n" for name in containers)
            delete = add.replace("netns add", "netns delete")
            for done in range(0, cycles, BATCH):
                if done % max(cycles // 10, BATCH) == 0 or done == BATCH:
                    samples.append((done, keeper.memory_mib()))
                run("ip", "-batch", "-", feed=add)
                await_true(lambda: _ports(host) == BATCH)
                run("ip", "-batch", "-", feed=delete)
                await_true(lambda: _ports(host) == 0)
            samples.append((cycles, keeper.memory_mib()))
        finally:
            keeper.stop()
    figures = tuple(Figure(f"after {done:,}", (mib,), "MiB", TARGET_MIB) for done, mib in samples)
    return Table(f"the agent's memory over {cycles:,} attach and detach cycles", figures)


def _ports(host: str) -> int:
    with inside(host):
        return sum(line.lstrip().startswith("dw") for line in Path("/proc/thread-self/net/dev").read_text().splitlines())


def tables() -> Iterator[Table]:
    if why := missing_docker():
        print(f"bench: the agent without Docker is not measured: {why}", file=sys.stderr)
        return
    yield first_ping()
    yield at_once()
