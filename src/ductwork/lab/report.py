"""What `lab test` prints: who reached whom as a matrix and as JSON, and where that differs from contract 1.7.

Invariant: pure; the same results give the same text, in the width, colour and characters asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ductwork.lab.expect import Pair

Column = tuple[str, str]
"""A target: label and address."""

_RESET = "\033[0m"


@dataclass(frozen=True, slots=True)
class Result:
    """A judged pair, and whether the echo came back."""

    pair: Pair
    actual: bool

    @property
    def differs(self) -> bool:
        return self.actual != self.pair.expected

    @property
    def column(self) -> Column:
        return (self.pair.target.label, f"{self.pair.address} {self.pair.port}".rstrip())


@dataclass(frozen=True, slots=True)
class Style:
    """How to print: columns of the terminal, characters of its encoding, colour."""

    width: int = 100
    ascii_only: bool = False
    colour: bool = False

    def cell(self, result: Result | None) -> str:
        if result is None:
            return " "
        return self.glyph(result.pair.expected, result.actual)

    def glyph(self, expected: bool, actual: bool) -> str:
        plain, rich = {
            (True, True): ("y", "✓"),
            (False, False): (".", "·"),
            (True, False): ("X", "✗"),
            (False, True): ("!", "!"),
        }[expected, actual]
        return plain if self.ascii_only else rich

    def painted(self, text: str, result: Result | None) -> str:
        if not self.colour or result is None:
            return text
        colour = "\033[1;31m" if result.differs else "\033[32m" if result.actual else "\033[2m"
        return f"{colour}{text}{_RESET}"

    def arrow(self) -> str:
        return "->" if self.ascii_only else "→"


def as_json(results: Sequence[Result]) -> dict[str, object]:
    """Contract 3; `address` tells a target's several addresses apart."""
    pairs = [
        {
            "from": result.pair.source.label,
            "to": result.pair.target.label,
            "address": str(result.pair.address),
            "expected": result.pair.expected,
            "actual": result.actual,
        }
        | ({"port": result.pair.port} if result.pair.port else {})
        for result in results
    ]
    return {"pairs": pairs, "ok": not any(result.differs for result in results)}


def as_text(results: Sequence[Result], style: Style) -> str:
    """Matrix, legend, and each difference with the rule that it breaks."""
    return "\n".join([*_matrix(results, style), "", *_legend(style), *_differences(results, style)]) + "\n"


def _matrix(results: Sequence[Result], style: Style) -> Iterator[str]:
    """Rows: from; columns: to. Names over the columns where they fit, else numbers that are listed below."""
    rows = list(dict.fromkeys(result.pair.source.label for result in results))
    order = {row: number for number, row in enumerate(rows)}
    columns = sorted(dict.fromkeys(r.column for r in results), key=lambda column: order.get(column[0], len(order)))
    cells = {(result.pair.source.label, result.column): result for result in results}
    label_width = max((len(row) for row in rows), default=0) + 2
    named = [max(len(part) for part in column) + 2 for column in columns]
    if label_width + sum(named) <= style.width:
        for line in (0, 1):
            heads = (column[line].center(width) for column, width in zip(columns, named, strict=True))
            yield (" " * label_width + "".join(heads)).rstrip()
        yield from _rows(rows, columns, cells, (label_width, named), style)
        return
    digits = len(str(len(columns)))
    per_block = max(1, (style.width - label_width) // (digits + 1))
    for start in range(0, len(columns), per_block):
        block = columns[start : start + per_block]
        numbers = (str(start + i + 1).rjust(digits + 1) for i in range(len(block)))
        yield " " * label_width + "".join(numbers)
        yield from _rows(rows, block, cells, (label_width, [digits + 1] * len(block)), style)
        yield ""
    yield from _listed([f"{i + 1:>{digits}} {label} {address}" for i, (label, address) in enumerate(columns)], style)


def _rows(
    rows: list[str],
    columns: list[Column],
    cells: dict[tuple[str, Column], Result],
    widths: tuple[int, list[int]],
    style: Style,
) -> Iterator[str]:
    label_width, column_widths = widths
    narrow = max(column_widths, default=0) <= 4
    for row in rows:
        line = row.ljust(label_width)
        for column, width in zip(columns, column_widths, strict=True):
            result = cells.get((row, column))
            glyph = style.cell(result)
            line += style.painted(glyph.rjust(width) if narrow else glyph.center(width), result)
        yield line.rstrip()


def _listed(entries: list[str], style: Style) -> Iterator[str]:
    """Entries in as many columns as fit."""
    width = max(len(entry) for entry in entries) + 3
    per_line = max(1, style.width // width)
    for start in range(0, len(entries), per_line):
        yield "".join(entry.ljust(width) for entry in entries[start : start + per_line]).rstrip()


def _legend(style: Style) -> Iterator[str]:
    meanings = [
        (style.glyph(True, True), "reached"),
        (style.glyph(False, False), "not reached"),
        (style.glyph(True, False), "should be reached, is not"),
        (style.glyph(False, True), "is reached, should not be"),
    ]
    yield "rows: from, columns: to    " + "   ".join(f"{glyph} {meaning}" for glyph, meaning in meanings)


def _differences(results: Sequence[Result], style: Style) -> Iterator[str]:
    wrong = [result for result in results if result.differs]
    if not wrong:
        yield f"all {len(results)} pairs are as the site file asks"
        return
    yield f"{len(wrong)} of {len(results)} pairs differ from what the site file asks:"
    for result in wrong:
        pair = result.pair
        way = f"{pair.source.label} {style.arrow()} {pair.target.label} ({result.column[1]})"
        found = "is not reached, and should be" if pair.expected else "is reached, and should not be"
        mark = style.painted(style.cell(result), result)
        yield f"  {mark} {way} {found}: {pair.rule}"
