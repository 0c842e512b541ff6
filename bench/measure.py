"""Figures and their tables.

Invariant: a figure was measured in this run. Competitors take turns, a few attaches each, so that whatever else the
machine does hits all alike; medians are compared.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from bench.hosts import inside

WARM_UP = 2
BURST = 3
ROW = 40
"""Containers attached in one turn, one after the other."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One row: `samples` in `unit`; `target` is what we promise it stays under (`at_least`: over), None where we promise
    nothing."""

    subject: str
    samples: tuple[float, ...]
    unit: str = "ms"
    target: float | None = None
    note: str = ""
    at_least: bool = False

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        return self.median >= self.target if self.at_least else self.median <= self.target

    def as_json(self) -> dict[str, object]:
        """For programs; times in `unit`."""
        return {
            "subject": self.subject,
            "unit": self.unit,
            "median": round(self.median, 3),
            "min": round(min(self.samples), 3),
            "max": round(max(self.samples), 3),
            "samples": len(self.samples),
            "target": self.target,
            "at_least": self.at_least,
            "met": self.met,
            "note": self.note,
        }


@dataclass(frozen=True, slots=True)
class Table:
    """Figures that may be compared. `reference`: the subject that ratios are taken against, empty for no ratios."""

    title: str
    figures: tuple[Figure, ...]
    reference: str = ""

    def ratio(self, figure: Figure) -> float | None:
        base = next((f for f in self.figures if f.subject == self.reference), None)
        return figure.median / base.median if base and base.median and figure.unit == base.unit else None

    def as_json(self) -> dict[str, object]:
        rows = [f.as_json() | {"ratio": _rounded(self.ratio(f))} for f in self.figures]
        return {"title": self.title, "reference": self.reference, "figures": rows}

    def as_text(self) -> str:
        head = ("", "median", "min", "max", "ratio", "target", "samples")
        rows = [head, *(self._row(f) for f in self.figures)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        lines = [self.title, ""]
        for row in rows:
            cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
            lines.append("  ".join(cells).rstrip())
        lines += [f"  {f.subject}: {f.note}" for f in self.figures if f.note]
        return "\n".join(lines)

    def _row(self, figure: Figure) -> tuple[str, ...]:
        ratio = self.ratio(figure)
        verdict = {True: " ok", False: " MISSED", None: ""}[figure.met]
        return (
            figure.subject,
            f"{_short(figure.median)} {figure.unit}",
            _short(min(figure.samples)),
            _short(max(figure.samples)),
            "" if ratio is None else f"{ratio:.2f}",
            "" if figure.target is None else f"{_short(figure.target)}{verdict}",
            str(len(figure.samples)),
        )


class Contender(Protocol):
    """Somebody who attaches containers to a bridge of `host`. `rounds`: at most so many (a slow one), 0: no limit."""

    name: str
    host: str
    rounds: int
    target: float | None
    note: str

    def prepare(self) -> None:
        """Have the network."""

    def attach(self, number: int) -> None:
        """Attach a container, in the host's namespace; nothing but this is timed."""

    def check(self, number: int) -> None:
        """Raise unless the container really has its network now."""

    def close(self) -> None:
        """Leave nothing but namespaces."""


def attaches(rounds: int) -> int:
    """How many containers a contender attaches in so many rounds, the first ones included, which are not counted."""
    return WARM_UP + rounds * BURST


def take_turns(contenders: Sequence[Contender], rounds: int) -> list[Figure]:
    """Milliseconds of each attach. The order rotates; what is attached before the first round is checked, not counted."""
    samples: dict[str, list[float]] = {c.name: [] for c in contenders}
    for contender in contenders:
        for number in range(WARM_UP):
            _timed_attach(contender, number)
            contender.check(number)
    for turn in range(rounds):
        shift = turn % len(contenders)
        for contender in (*contenders[shift:], *contenders[:shift]):
            if turn < (contender.rounds or rounds):
                burst = range(attaches(turn), attaches(turn + 1))
                samples[contender.name] += [_timed_attach(contender, number) for number in burst]
    return [Figure(c.name, tuple(samples[c.name]), target=c.target, note=c.note) for c in contenders]


def in_a_row(contenders: Sequence[Contender], rounds: int) -> list[Figure]:
    """The same without anybody in between, as when many containers start: `ROW` containers each, after those of the turns."""
    row = range(attaches(rounds), attaches(rounds) + ROW)
    samples = [(c, tuple(_timed_attach(c, number) for number in row)) for c in contenders]
    return [Figure(c.name, its, target=c.target, note=c.note) for c, its in samples]


def _timed_attach(contender: Contender, number: int) -> float:
    with inside(contender.host):
        started = time.perf_counter()
        contender.attach(number)
        return (time.perf_counter() - started) * 1000


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _short(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"
