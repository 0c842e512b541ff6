"""`agent`: keep a site file true on this host."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from functools import partial
from pathlib import Path
from types import FrameType

import click

from ductwork.cli.common import HOST, NO_DAD, open_engine, pick_host, read_site, state_options


class _AsJson(logging.Formatter):
    """One object a line."""

    def format(self, record: logging.LogRecord) -> str:
        import json

        told = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(told)


@click.command()
@click.option("--site", type=click.Path(path_type=Path), required=True, help="The site file; its changes are heeded.")
@click.option(
    "--resync",
    type=click.FloatRange(1, 86400),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="Look at the whole so often, whatever is told.",
)
@click.option(
    "--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Lines of text, or of JSON."
)
@HOST
@NO_DAD
@state_options
def agent(
    site: Path, resync: float, log_format: str, host: str, no_dad: bool, state: Path, store: str, quiet: bool, verbose: bool
) -> None:
    """Keep this host's part of a site file true, until stopped.

    A container that starts is plugged in at once, with the address and the MAC that it had; links, addresses, routes and rules
    that somebody removes come back; a changed file is applied. Stopped, it leaves everything as it is.
    """
    from ductwork.agent import privileges
    from ductwork.agent.agent import Agent, Wishes
    from ductwork.agent.looks import Looks
    from ductwork.app import event_sources

    privileges.drop()
    _set_up_log(log_format, logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)
    heard, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    opened = partial(open_engine, state, store, fetches=True)
    with opened() as engine, Looks(opened) as looks:

        def load() -> Wishes:
            loaded = read_site(site)
            return Wishes(loaded, pick_host(loaded, host, engine), not no_dad)

        keeper = Agent(engine, looks, lambda its, name: event_sources(its, name, site), load, resync, heard.fileno())

        def end(number: int, frame: FrameType | None) -> None:
            keeper.stop()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, end)
        keeper.run()


def _set_up_log(log_format: str, level: int) -> None:
    handler = logging.StreamHandler(sys.stderr)
    by_journald = "JOURNAL_STREAM" in os.environ  # which notes the time itself
    text = logging.Formatter("%(message)s" if by_journald else "%(asctime)s %(message)s")
    handler.setFormatter(_AsJson() if log_format == "json" else text)
    logger = logging.getLogger("ductwork")
    logger.addHandler(handler)
    logger.setLevel(level)
