"""`confirm`, and what `apply --confirm` says of it."""

from __future__ import annotations

from pathlib import Path

import click

from ductwork.cli.common import open_front, state_options
from ductwork.requests import Confirm, Unconfirmed

_A_DAY = 86400

CONFIRM = click.option(
    "--confirm",
    "seconds",
    type=click.IntRange(1, _A_DAY),
    metavar="SECONDS",
    help="Take it all back unless `ductwork confirm` follows in time.",
)


def echo_unconfirmed(unconfirmed: Unconfirmed | None) -> None:
    """How to confirm what was just applied."""
    if unconfirmed is None:
        click.echo("nothing was changed, so there is nothing to confirm")
    else:
        click.echo(f"to be confirmed within {unconfirmed.seconds} s, or it is taken back: {unconfirmed.command}")


@click.command()
@state_options
def confirm(state: Path, store: str, quiet: bool, verbose: bool) -> None:
    """Keep the change that awaits confirmation, made by `apply --confirm`.

    To be run in the network namespace in which it was made; `undo` takes it back instead.
    """
    confirmed = open_front(state, store, verbose=verbose).do(Confirm())
    if not quiet:
        click.echo(f"{confirmed.title}: confirmed")
