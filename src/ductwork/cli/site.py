"""`plan`, `apply`, `undo`, `destroy`: a site file and this host."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from ductwork.cli.common import (
    HOST,
    JSON,
    NO_DAD,
    SITE,
    echo_report,
    open_engine,
    pick_host,
    read_site,
    state_options,
    store_path,
)
from ductwork.cli.confirm import CONFIRM, echo_awaiting, guard_of
from ductwork.errors import UsageError

_MANY = 100


@click.command()
@SITE
@click.option(
    "--format",
    "format_",
    type=click.Choice(["text", "commands", "json"]),
    default="text",
    show_default=True,
    help="Text to read, commands that a shell can run, or JSON.",
)
@click.option("--exit-code", is_flag=True, help="Exit with 3 if anything would change.")
@JSON
@HOST
@state_options
def plan(
    site: Path, format_: str, exit_code: bool, as_json: bool, host: str, state: Path, store: str, quiet: bool, verbose: bool
) -> None:
    """Show what `apply` would change on this host. Nothing is touched."""
    from ductwork.cli import render

    loaded = read_site(site)
    with open_engine(state, store) as engine:
        name = pick_host(loaded, host, engine)
        preview = engine.plan(loaded, name)
        operations = preview.plan.operations
        if as_json or format_ == "json":
            click.echo(json.dumps(render.as_json(preview, name, engine.place), indent=2))
        elif format_ == "commands":
            for line in render.as_commands(operations, engine.place):
                click.echo(line)
        else:
            for line in render.as_lines(operations):
                click.echo(line)
    for note in preview.notes:
        click.echo(f"note: {note}", err=True)
    if not quiet:
        for container, reason in preview.observation.waiting.items():
            click.echo(f"waiting: {container} ({reason})", err=True)
        if format_ == "text" and not as_json:
            click.echo(f"would be {render.counted(operations)}" if operations else "nothing to do", err=True)
    if exit_code and operations:
        sys.exit(3)


@click.command()
@SITE
@HOST
@CONFIRM
@NO_DAD
@state_options
def apply(
    site: Path, host: str, seconds: int | None, no_dad: bool, state: Path, store: str, quiet: bool, verbose: bool
) -> None:
    """Make this host's part of SITE true, and look whether it is.

    What the file has no longer, and this site brought, is removed. A failure half-way is taken back. A container that is
    not running is waiting: the next `apply` attaches it.
    """
    loaded = read_site(site)
    with open_engine(state, store) as engine:
        name = pick_host(loaded, host, engine)
        number = len(loaded.on(name))
        if number >= _MANY and sys.stderr.isatty() and not quiet:
            click.echo(f"{number} attachments …", err=True)
        report = engine.apply(loaded, name, dad=not no_dad, guard=guard_of(seconds, state, store_path(store)))
        echo_report(report, f"{loaded.name} on {name}" if name else loaded.name, quiet=quiet, verbose=verbose)
        if seconds and not quiet:
            echo_awaiting(engine)


@click.command()
@state_options
def undo(state: Path, store: str, quiet: bool, verbose: bool) -> None:
    """Take the last change on this host back: what it touched becomes what it was."""
    with open_engine(state, store) as engine:
        report = engine.undo()
    echo_report(report, report.title, quiet=quiet, verbose=verbose)


@click.command()
@click.argument("site", type=click.Path(path_type=Path), required=False)
@click.option("--all", "everything", is_flag=True, help="All that ductwork owns here, of every site and origin.")
@state_options
def destroy(site: Path | None, everything: bool, state: Path, store: str, quiet: bool, verbose: bool) -> None:
    """Remove all that SITE owns on this host. Remembered addresses stay remembered."""
    if (site is None) == (not everything):
        raise UsageError("destroy takes a site file, or --all", "ductwork destroy site.yaml")
    name = None if site is None else read_site(site).name
    with open_engine(state, store) as engine:
        report = engine.destroy(name)
    echo_report(report, f"{name or 'everything'} destroyed", quiet=quiet, verbose=verbose)
