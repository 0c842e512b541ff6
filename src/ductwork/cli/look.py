"""`ps`: what is there."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import click

from ductwork.cli.common import JSON, open_front, state_options
from ductwork.requests import Ps

_ANY_WIDTH = 1000


@click.command()
@click.argument("container", required=False)
@JSON
@state_options
def ps(container: str | None, as_json: bool, state: Path, store: str, quiet: bool, verbose: bool) -> None:
    """List the interfaces that ductwork has given to containers on this host, or to CONTAINER."""
    found = open_front(state, store, verbose=verbose).do(Ps(container or "")).rows
    if as_json:
        click.echo(json.dumps([asdict(row) for row in found], indent=2))
        return
    if not found:
        if not quiet:
            click.echo(f"nothing of ductwork's is in {container or 'a container here'}", err=True)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="" if os.environ.get("NO_COLOR") else "bold")
    for heading in ("CONTAINER", "INTERFACE", "NETWORK", "ADDRESSES", "MAC", "HOST SIDE", "BRIDGE OR PARENT", "VLAN"):
        table.add_column(heading, no_wrap=True)
    for row in found:
        named = (row.container, row.interface, row.network, "\n".join(row.addresses), row.mac)
        # As Text: in a str, Rich takes `:ab:` for an emoji and `[x]` for a style.
        table.add_row(*map(Text, (*named, row.host_interface, row.bridge or row.parent, str(row.vlan or ""))))
    # Addresses and MACs are copied and grepped: a line that is too long runs over, and is never folded within a word.
    Console(width=_ANY_WIDTH, soft_wrap=True, emoji=False, markup=False, highlight=False).print(table)
