"""What several commands share: their options, and the way from options to a site and to who carries it out."""

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
    from ductwork.requests import Front, Request, SiteFile
    from ductwork.site.model import Site

A = TypeVar("A")
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


def open_front(state: Path, store: str = "", *, verbose: bool = False) -> Front:
    """Who carries out what this command asks for: the agent, where it runs for this host with the same memory, else this
    process."""
    from ductwork.front.client import AgentOrSelf, Client, socket_path

    def say(which: str) -> None:
        if verbose:
            click.echo(which, err=True)

    path = store_path(store)
    return AgentOrSelf(Client(socket_path(), (state, path)), _Self(state, store, path), say)


class _Self:
    """This process, with its engine: imported where it is needed."""

    def __init__(self, state: Path, store: str, path: Path | None) -> None:
        self._state = state
        self._store = store
        self._path = path

    def do(self, request: Request[A]) -> A:
        from ductwork.front.local import Local

        return Local(lambda: open_engine(self._state, self._store), self._state, self._path).do(request)


def open_engine(state: Path, store: str = "", *, fetches: bool = False) -> Engine:
    """The engine of this process's network namespace. `fetches`: see `build_engine`."""
    from ductwork.app import build_engine

    if os.geteuid() != 0:
        raise MissingToolError(
            "looking into and changing the network of containers needs root",
            f"use sudo; where an agent runs with `--state {state}`, members of the group `ductwork` need none",
        )
    return build_engine(state, store_path=store_path(store), fetches=fetches)


def read_site(path: Path) -> Site:
    from ductwork.site.load import load_site

    return load_site(path, socket.gethostname())


def site_file(path: Path) -> SiteFile:
    """Errors: `SiteError`, where it cannot be read at all."""
    from ductwork.requests import SiteFile
    from ductwork.site.read import read_text

    return SiteFile(read_text(path), str(path).encode(errors="replace").decode())


def store_path(url: str) -> Path | None:
    """Where the store is; None: in the state folder."""
    if not url:
        return None
    if not url.startswith("sqlite:///"):
        scheme = url.partition("://")[0]
        hint = "this version of ductwork has sqlite:///PATH" + (" and not etcd yet" if scheme == "etcd" else "")
        raise UsageError(f"--store {url}: not a store that this version knows", hint)
    return Path("/" + url.removeprefix("sqlite:///").lstrip("/"))
