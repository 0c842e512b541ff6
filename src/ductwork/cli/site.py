"""`plan`, `apply`, `undo`, `destroy`: a site file and this host."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from ductwork.cli.common import HOST, JSON, NO_DAD, SITE, open_front, site_file, state_options
from ductwork.cli.confirm import CONFIRM, echo_unconfirmed
from ductwork.cli.render import as_lines, counted, echo_done
from ductwork.errors import UsageError
from ductwork.requests import Apply, Destroy, Plan, Planned, Undo

_MANY = 100
_IN_JSON = ("action", "resource", "before", "after", "commands")
"""Of a change (contract, section 3)."""


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
    format_ = "json" if as_json else format_
    front = open_front(state, store, verbose=verbose)
    planned = front.do(Plan(site_file(site), host, detail=format_ != "text"))
    _print(planned, format_)
    for note in planned.notes:
        click.echo(f"note: {note}", err=True)
    if not quiet:
        for container, reason in planned.waiting.items():
            click.echo(f"waiting: {container} ({reason})", err=True)
        if format_ == "text":
            click.echo(f"would be {counted(planned.changes)}" if planned.changes else "nothing to do", err=True)
    if exit_code and planned.changes:
        sys.exit(3)


def _print(planned: Planned, format_: str) -> None:
    if format_ == "json":
        changes = [{name: getattr(change, name) for name in _IN_JSON} for change in planned.changes]
        click.echo(json.dumps({"host": planned.host, "changes": changes}, indent=2))
        return
    commands = (command for change in planned.changes for command in change.commands)
    for line in commands if format_ == "commands" else as_lines(planned.changes):
        click.echo(line)


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
    file = site_file(site)
    number = file.text.count("container:")
    if number >= _MANY and sys.stderr.isatty() and not quiet:
        click.echo(f"{number} attachments in the file …", err=True)
    done = open_front(state, store, verbose=verbose).do(Apply(file, host, not no_dad, seconds))
    echo_done(done, quiet=quiet, verbose=verbose)
    if seconds and not quiet:
        echo_unconfirmed(done.unconfirmed)


@click.command()
@state_options
def undo(state: Path, store: str, quiet: bool, verbose: bool) -> None:
    """Take the last change on this host back: what it touched becomes what it was."""
    echo_done(open_front(state, store, verbose=verbose).do(Undo()), quiet=quiet, verbose=verbose)


@click.command()
@click.argument("site", type=click.Path(path_type=Path), required=False)
@click.option("--all", "everything", is_flag=True, help="All that ductwork owns here, of every site and origin.")
@state_options
def destroy(site: Path | None, everything: bool, state: Path, store: str, quiet: bool, verbose: bool) -> None:
    """Remove all that SITE owns on this host. Remembered addresses stay remembered."""
    if (site is None) == (not everything):
        raise UsageError("destroy takes a site file, or --all", "ductwork destroy site.yaml")
    request = Destroy(None if site is None else site_file(site), everything)
    echo_done(open_front(state, store, verbose=verbose).do(request), quiet=quiet, verbose=verbose)
