"""`ports`, `publish`, `unpublish`: ports of the host's that lead to containers."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import click

from ductwork.cli.common import JSON, open_front, state_options
from ductwork.cli.render import echo_done
from ductwork.requests import Ports, Publish, Unpublish

_PROTOCOLS = ("tcp", "udp", "sctp")
_ANY_WIDTH = 1000

PROTOCOL = click.option("--protocol", type=click.Choice(_PROTOCOLS), help="Default: tcp.")


def _with_protocol(word: str, given: str | None) -> tuple[str, str]:
    """`53/udp` says its protocol, as for Docker."""
    head, slash, protocol = word.rpartition("/")
    return (head, given or protocol) if slash and protocol in _PROTOCOLS else (word, given or "tcp")


@click.command()
@click.argument("listen")
@click.argument("to", metavar="CONTAINER:PORT")
@click.option("--network", default="", help="Which of its networks is meant, where the container has several.")
@PROTOCOL
@state_options
def publish(
    listen: str, to: str, network: str, protocol: str | None, state: Path, store: str, quiet: bool, verbose: bool
) -> None:
    """Let a port of this host lead to a running container's.

    LISTEN is PORT, FIRST-LAST, ADDRESS:PORT or [V6]:PORT, as in the site file. It is remembered; `unpublish` takes it back, and
    `apply` leaves it alone.
    """
    target, its_protocol = _with_protocol(to, protocol)
    done = open_front(state, store, verbose=verbose).do(Publish(listen, target, its_protocol, network))
    echo_done(done, quiet=quiet, verbose=verbose)


@click.command()
@click.argument("listen")
@PROTOCOL
@state_options
def unpublish(listen: str, protocol: str | None, state: Path, store: str, quiet: bool, verbose: bool) -> None:
    """Take back what `publish` opened. Connections by it end."""
    where, its_protocol = _with_protocol(listen, protocol)
    done = open_front(state, store, verbose=verbose).do(Unpublish(where, its_protocol))
    echo_done(done, quiet=quiet, verbose=verbose)


@click.command()
@JSON
@state_options
def ports(as_json: bool, state: Path, store: str, quiet: bool, verbose: bool) -> None:
    """List the ports of this host that lead to containers: where to, by whom, and how many connections came."""
    found = open_front(state, store, verbose=verbose).do(Ports()).rows
    if as_json:
        click.echo(json.dumps([asdict(row) for row in found], indent=2))
        return
    if not found:
        if not quiet:
            click.echo("nothing is published here", err=True)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="" if os.environ.get("NO_COLOR") else "bold")
    for heading in ("LISTEN", "PROTOCOL", "TARGET", "ADDRESSES", "NETWORK", "BY", "STATE", "CONNECTIONS"):
        table.add_column(heading, no_wrap=True)
    for row in found:
        target, by = f"{row.container}:{row.port}", f"{row.origin} {row.site}"
        shown = (row.listen, row.protocol, target, "\n".join(row.addresses), row.network, by, row.state, str(row.connections))
        table.add_row(*map(Text, shown))
    Console(width=_ANY_WIDTH, soft_wrap=True, emoji=False, markup=False, highlight=False).print(table)
