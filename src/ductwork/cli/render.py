"""What was answered, as text for a person."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import click

from ductwork.requests import Change, Done

_SIGNS = {"create": ("+", "green"), "update": ("~", "yellow"), "delete": ("-", "red")}
_COUNTED = {"create": "created", "update": "changed", "delete": "removed"}


def counted(changes: Sequence[Change]) -> str:
    """`3 created, 1 changed, 2 removed`, or that there is nothing to do."""
    parts = [(sum(change.action == action for change in changes), word) for action, word in _COUNTED.items()]
    return ", ".join(f"{number} {word}" for number, word in parts if number) or "nothing to do"


def as_lines(changes: Iterable[Change]) -> Iterator[str]:
    """One line a change."""
    for change in changes:
        sign, colour = _SIGNS[change.action]
        yield f"{click.style(sign, fg=colour, bold=True)} {change.line}"


def echo_done(done: Done, *, quiet: bool, verbose: bool) -> None:
    if verbose:
        for line in as_lines(done.changes):
            click.echo(line, err=True)
        if done.rounds > 1:
            click.echo(f"it took {done.rounds} rounds, which is a defect of ductwork: please report it", err=True)
    for note in done.notes:
        click.echo(f"note: {note}", err=True)
    if quiet:
        return
    for name, reason in done.waiting.items():
        click.echo(f"waiting: {name} ({reason})")
    for name, reason in done.refused.items():
        click.echo(f"refused: {name}: {reason}")
    for text in done.kept:
        click.echo(f"kept: {text}")
    click.echo(f"{done.title}: {counted(done.changes)}")
