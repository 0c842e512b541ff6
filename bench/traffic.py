"""What goes between two containers: TCP throughput, and the round trip of one byte, driver by driver, beside the same
topology made by hand.

Invariant: in each turn, every topology has one go at each measurement, ours and the one by hand next to each other, now
one first, now the other; the ratio is taken within the turn, so that a machine that drifts does not make one. A topology made
by hand twice tells what ratio the measurement gives where there is no difference.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from bench import by_hand
from bench.hosts import PREFIX, inside, namespaces
from bench.measure import Figure, Table
from bench.peers import address
from bench.stages import Kind, Ours, Stage

STREAM_SECONDS = 0.1
TRIPS = 200
TURNS = 3
"""In each round."""
PROMISED_RATIO = 0.98
_TALK = str(Path(__file__).with_name("talk.py"))
SPEED, TIME = "Gbit/s", "µs"
_NOTE = "in every row, ductwork's packet filter and anti-spoofing are in the path; by hand there is neither"


class Pair:
    """Two containers on one stage, the first of which sends. Its namespaces are the caller's."""

    def __init__(self, kind: Kind, hand: bool, name: str) -> None:
        self.stage = Stage(kind, name)
        self.containers = (f"{PREFIX}{name}-0", f"{PREFIX}{name}-1")
        self._hand = hand
        self._stack = ExitStack()
        self._sender: subprocess.Popen[str] | None = None

    def namespaces(self) -> list[str]:
        return [self.stage.alpha, self.stage.beta, *self.containers]

    def build(self) -> None:
        self._stack.callback(self.stage.close)
        self.stage.build()
        if self._hand:
            by_hand.build(self.stage, self.containers)
        else:
            self._build_ours()
        processors = sorted(os.sched_getaffinity(0))
        self._end("receive", self.containers[1], processors[-1], "ready")
        self._sender = self._end("send", self.containers[0], processors[0])

    def _build_ours(self) -> None:
        machines = ("alpha", "beta") if self.stage.kind.across else ("alpha", "alpha")
        ours: dict[str, Ours] = {}
        for number, (machine, container) in enumerate(zip(machines, self.containers, strict=True)):
            if machine not in ours:
                folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix=PREFIX)))
                ours[machine] = Ours(self.stage, machine, folder)
                self._stack.callback(ours[machine].close)
            with inside(getattr(self.stage, machine)):
                ours[machine].attach(container, number)

    def _end(self, role: str, container: str, processor: int, greeting: str = "") -> subprocess.Popen[str]:
        argv = [sys.executable, "-I", "-S", _TALK, role, address(1), str(processor)]
        with inside(container):
            # a process group of its own: ctrl-C is the bench's to handle
            pipe = subprocess.PIPE
            process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True, process_group=0)
        self._stack.callback(_end_of, process)
        if greeting:
            _line(process)
        return process

    def throughput(self) -> float:
        """Gbit/s of payload."""
        return self._told(f"stream {STREAM_SECONDS}") * 8 / 1e9

    def round_trip(self) -> float:
        """Microseconds: the median of `TRIPS`."""
        return self._told(f"echo {TRIPS}") * 1e6

    def _told(self, order: str) -> float:
        assert self._sender and self._sender.stdin
        self._sender.stdin.write(f"{order}\n")
        self._sender.stdin.flush()
        return float(_line(self._sender))

    def close(self) -> None:
        self._stack.close()


def tables(kinds: list[Kind], rounds: int) -> Iterator[Table]:
    pairs = [(Pair(k, False, f"t-{k.key}"), Pair(k, True, f"h-{k.key}")) for k in kinds]
    pairs.append((Pair(kinds[0], True, "h-one"), Pair(kinds[0], True, "h-two")))
    everybody = [pair for both in pairs for pair in both]
    with ExitStack() as stack:
        stack.enter_context(namespaces([name for pair in everybody for name in pair.namespaces()]))
        for pair in everybody:
            stack.callback(pair.close)
            pair.build()
            pair.round_trip()
        speeds, trips = _measured(pairs, rounds * TURNS)
    names = [kind.name for kind in kinds]
    yield Table("TCP throughput between two containers", _figures(names, speeds, SPEED), names[0])
    yield Table("a byte there and back between two containers, by TCP", _figures(names, trips, TIME), names[0])


Samples = list[tuple[list[float], list[float]]]
"""For each kind, ours and by hand, by turn; the last is by hand, twice."""


def _measured(pairs: list[tuple[Pair, Pair]], turns: int) -> tuple[Samples, Samples]:
    speeds: Samples = [([], []) for _ in pairs]
    trips: Samples = [([], []) for _ in pairs]
    for turn in range(turns):
        for number in range(len(pairs)):
            kind = (number + turn) % len(pairs)
            sides = (0, 1) if turn % 2 else (1, 0)
            for side in sides:
                speeds[kind][side].append(pairs[kind][side].throughput())
            for side in sides:
                trips[kind][side].append(pairs[kind][side].round_trip())
    return speeds, trips


def _figures(names: list[str], samples: Samples, unit: str) -> tuple[Figure, ...]:
    """The drivers, the same by hand, and the ratios of each turn. Of times, the ratio is turned round: more is better."""
    rows: list[Figure] = []
    for name, (ours, hand) in zip(names, samples[:-1], strict=True):
        rows += [Figure(name, tuple(ours), unit), Figure(f"{name}, by hand", tuple(hand), unit)]
    shares = [tuple(b / a if unit == TIME else a / b for a, b in zip(*both, strict=True)) for both in samples]
    for name, its in zip(names, shares[:-1], strict=True):
        note = "" if name != names[0] else _NOTE
        rows.append(Figure(f"{name}, share of by hand's speed", its, "", PROMISED_RATIO, note, at_least=True))
    return (*rows, Figure("by hand, share of by hand's speed", shares[-1], "", note="how exact the shares are"))


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{process.args!r} ended with {process.wait()}")
    return line


def _end_of(process: subprocess.Popen[str]) -> None:
    """It ends by itself when nobody talks to it; one in the midst of a conversation is ended."""
    process.terminate()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe:
            pipe.close()
