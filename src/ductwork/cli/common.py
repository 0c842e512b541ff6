"""What several commands share: their options, and the way from options to a site, a host and an engine."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ductwork.errors import MissingToolError, UsageError

if TYPE_CHECKING:
    from ductwork.engine import Engine
    from ductwork.reconciler import Report
    from ductwork.site.model import Site

F = TypeVar("F", bound=Callable[..., Any])

SITE = click.argument("site", type=click.Path(path_type=Path))
HOST = click.option("--host", default="", help="Which host of the file this machine is (default: by its name or address).")
NO_DAD = click.option("--no-dad", is_flag=True, help="Do not ask the LAN whether another machine has an address.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def state_options(command: F) -> F:
    """--state, --store, --quiet, --verbose."""
    for option in (
        click.option("--verbose", is_flag=True, help="Say more: each operation, and tracebacks."),
        click.option("--quiet", is_flag=True, help="Say nothing but errors and results."),
        click.option("--store", default="", help="Where addresses are remembered: sqlite:///PATH."),
        click.option(
            "--state",
            type=click.Path(path_type=Path, file_okay=False, readable=False),
            default=Path("/var/lib/ductwork"),
            envvar="DUCTWORK_STATE",
            show_default=True,
            help="Folder of what is remembered.",
        ),
    ):
        command = option(command)
    return command


def open_engine(state: Path, store: str = "", *, fetches: bool = False) -> Engine:
    """The engine of this process's network namespace. `fetches`: see `build_engine`."""
    from ductwork.app import build_engine

    if os.geteuid() != 0:
        raise MissingToolError("looking into and changing the network of containers needs root", "use sudo")
    return build_engine(state, store_path=store_path(store), fetches=fetches)


def read_site(path: Path) -> Site:
    from ductwork.site.load import load_site

    return load_site(path, socket.gethostname())


def pick_host(site: Site, given: str, engine: Engine) -> str:
    """Which host of the file this is: the one named, else by this machine's name, else by an address it holds."""
    if not site.hosts:
        if given:
            raise UsageError(
                f"the file has no hosts, so none is called {given}", "leave --host out, or add `hosts:` to the file"
            )
        return ""
    known = ", ".join(site.hosts)
    if given:
        if given not in site.hosts:
            raise UsageError(f"the file has no host {given}", f"it has {known}")
        return given
    name = socket.gethostname()
    for candidate in (name, name.partition(".")[0]):
        if candidate in site.hosts:
            return candidate
    held = engine.host_addresses()
    holding = [host.name for host in site.hosts.values() if host.address and host.address.ip in held]
    if len(holding) != 1:
        raise UsageError(f"none of the file's hosts is this machine, {name}, by name or by address", f"--host, one of {known}")
    return holding[0]


def echo_report(report: Report, done: str, *, quiet: bool, verbose: bool) -> None:
    """What was done, for a person."""
    from ductwork.cli.render import as_lines, counted
    from ductwork.resources import Link

    if verbose:
        for line in as_lines(report.operations):
            click.echo(line, err=True)
        if report.rounds > 1:
            click.echo(f"it took {report.rounds} rounds, which is a defect of ductwork: please report it", err=True)
    for note in report.notes:
        click.echo(f"note: {note}", err=True)
    if quiet:
        return
    for name, reason in report.waiting.items():
        click.echo(f"waiting: {name} ({reason})")
    for name, reason in report.refused.items():
        click.echo(f"refused: {name}: {reason}")
    for resource in report.kept:
        if isinstance(resource, Link) and resource.kind == "bridge":
            click.echo(
                f"kept: bridge {resource.name}, with all of its network: others are plugged into it; `ductwork ps` lists ours"
            )
        elif isinstance(resource, Link) and resource.kind == "vlan":
            click.echo(f"kept: {resource.name}: others' interfaces are on it")
    click.echo(f"{done}: {counted(report.operations)}")


def store_path(url: str) -> Path | None:
    """Where the store is; None: in the state folder."""
    if not url:
        return None
    if not url.startswith("sqlite:///"):
        scheme = url.partition("://")[0]
        hint = "this version of ductwork has sqlite:///PATH" + (" and not etcd yet" if scheme == "etcd" else "")
        raise UsageError(f"--store {url}: not a store that this version knows", hint)
    return Path("/" + url.removeprefix("sqlite:///").lstrip("/"))
