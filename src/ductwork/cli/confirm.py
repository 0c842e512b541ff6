"""`confirm`, and what `apply --confirm` says of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ductwork.cli.common import open_engine, state_options

if TYPE_CHECKING:
    from ductwork.confirmation import Guard
    from ductwork.engine import Engine

_A_DAY = 86400

CONFIRM = click.option(
    "--confirm",
    "seconds",
    type=click.IntRange(1, _A_DAY),
    metavar="SECONDS",
    help="Take it all back unless `ductwork confirm` follows in time.",
)


def guard_of(seconds: int | None, state: Path, store: Path | None) -> Guard | None:
    """The guard that `--confirm` asks for."""
    if seconds is None:
        return None
    from ductwork.guard import guard

    return guard(seconds, state, store)


def echo_awaiting(engine: Engine) -> None:
    """How to confirm what was just applied."""
    from ductwork.guard import command

    awaiting = engine.awaiting()
    if awaiting is None:
        click.echo("nothing was changed, so there is nothing to confirm")
    else:
        click.echo(f"to be confirmed within {awaiting.seconds} s, or it is taken back: {command()}")


@click.command()
@state_options
def confirm(state: Path, store: str, quiet: bool, verbose: bool) -> None:
    """Keep the change that awaits confirmation, made by `apply --confirm`.

    To be run in the network namespace in which it was made; `undo` takes it back instead.
    """
    with open_engine(state, store) as engine:
        confirmed = engine.confirm()
    if not quiet:
        click.echo(f"{confirmed.title}: confirmed")
