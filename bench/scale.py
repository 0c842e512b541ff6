"""Whole site files of 10, 100 and 1,000 attachments: planned, attached, applied again, destroyed.

Invariant: every round starts and ends with an untouched host, and that is checked.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bench.hosts import PREFIX, inside, namespaces, run
from bench.measure import Figure, Table
from bench.ours import DUCTWORK, in_one_process
from bench.process import Cost, cost
from ductwork.engine import AttachRequest

HOST = PREFIX + "scale"
NETWORK = "scale"
ONE_MORE = f"{HOST}-one-more"
TARGETS_MS = {("no-op", 1000): 1200.0, ("attach", 1000): 3500.0, ("destroy", 1000): 2500.0}
ROUNDS = {10: 7, 100: 5, 1000: 3}
VERSION_TARGET_MS = 80.0


def containers(size: int) -> list[str]:
    return [f"{HOST}-{number}" for number in range(size)]


def site(size: int) -> str:
    """One bridge with NAT; addresses left out, so that each is allocated and remembered. (JSON is YAML.)"""
    network = {"driver": "bridge", "subnet": "10.80.0.0/20"}
    plugs = [{"container": f"netns:{name}", "network": NETWORK} for name in containers(size)]
    return json.dumps({"name": "scale", "networks": {NETWORK: network}, "attachments": plugs})


def tables(sizes: list[int]) -> Iterator[Table]:
    """The command line first, then the same calls inside one process."""
    with namespaces([HOST, ONE_MORE, *containers(max(sizes))]):
        for size in sizes:
            with _site_file(size) as file, inside(HOST):
                yield from by_command(size, file)
                yield in_process(size, file)


def by_command(size: int, file: Path) -> Iterator[Table]:
    steps: dict[str, list[Cost]] = {}
    for _ in range(ROUNDS[size]):
        for step, argv, expected in (
            ("plan", ("plan", "--exit-code", str(file)), 3),
            ("attach", ("apply", str(file)), 0),
            ("no-op", ("apply", str(file)), 0),
            ("plan, nothing to do", ("plan", "--exit-code", str(file)), 0),
            ("destroy", ("destroy", str(file)), 0),
        ):
            steps.setdefault(step, []).append(cost(DUCTWORK, *argv, expect=expected))
            if step == "attach":
                _expect_links(size)
        _expect_links(0)
    title = f"{size:,} attachments by the command line"
    yield Table(title, tuple(_milliseconds(step, size, costs) for step, costs in steps.items()))
    yield Table(f"{title}: processor time and peak memory", tuple(_weights(steps)))


def in_process(size: int, file: Path) -> Table:
    def expect(applied: bool) -> None:
        _expect_links(size if applied else 0)

    one_more = AttachRequest(f"netns:{ONE_MORE}", NETWORK, "eth1")
    steps = in_one_process(file, file.with_name("engine"), ROUNDS[size], one_more, expect)
    figures = tuple(Figure(step, tuple(samples)) for step, samples in steps.items())
    return Table(f"{size:,} attachments inside one process", figures)


def start_up(rounds: int = 20) -> Table:
    """`ductwork version` beside an interpreter that does nothing."""
    commands: dict[str, Callable[[], Cost]] = {
        "ductwork version": lambda: cost(DUCTWORK, "version"),
        "python -c pass": lambda: cost(sys.executable, "-c", "pass"),
    }
    costs = {name: [run_once() for _ in (0,)] for name, run_once in commands.items()}
    for _ in range(rounds):
        for name, run_once in commands.items():
            costs[name].append(run_once())
    counted = {name: of[1:] for name, of in costs.items()}
    target = {"ductwork version": VERSION_TARGET_MS}
    figures = [Figure(n, tuple(c.milliseconds for c in of), target=target.get(n)) for n, of in counted.items()]
    return Table("start-up", (*figures, *_weights(counted)), "python -c pass")


def _milliseconds(step: str, size: int, costs: list[Cost]) -> Figure:
    return Figure(step, tuple(c.milliseconds for c in costs), target=TARGETS_MS.get((step, size)))


def _weights(costs: Mapping[str, list[Cost]]) -> Iterator[Figure]:
    """What a busy machine does not change."""
    for name, its in costs.items():
        yield Figure(f"{name}, processor", tuple(c.cpu_milliseconds for c in its), "ms of CPU")
    for name, its in costs.items():
        yield Figure(f"{name}, peak memory", tuple(c.peak_mib for c in its), "MiB")


@contextmanager
def _site_file(size: int) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=PREFIX) as folder:
        os.environ["DUCTWORK_STATE"] = f"{folder}/state"
        try:
            file = Path(folder, "scale.yaml")
            file.write_text(site(size))
            yield file
        finally:
            del os.environ["DUCTWORK_STATE"]


def _expect_links(attachments: int) -> None:
    """The loopback, and with attachments the bridge and a veth for each."""
    found = len(json.loads(run("ip", "-json", "link")))
    wanted = 1 + (attachments + 1 if attachments else 0)
    if found != wanted:
        raise RuntimeError(f"{found} links on the host instead of {wanted}")
