"""`agent`: keep a site file true on this host."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from ductwork import __version__
from ductwork.cli.common import HOST, NO_DAD, open_engine, read_site, state_options, store_path

if TYPE_CHECKING:
    from ductwork.agent.door import Tcp
    from ductwork.agent.keeping import Wishes
    from ductwork.engine import Engine
    from ductwork.events import Source
    from ductwork.requests import Front
    from ductwork.site.model import Site


class _AsJson(logging.Formatter):
    """One object a line."""

    def format(self, record: logging.LogRecord) -> str:
        import json
        from dataclasses import asdict

        told = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        notice = getattr(record, "notice", None)
        if notice:
            told |= {name: value for name, value in asdict(notice).items() if value or name == "kind"}
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
@click.option(
    "--socket",
    "unix",
    type=click.Path(path_type=Path),
    help="Where to serve its API (default: below /run/ductwork).",
)
@click.option("--listen", default="", metavar="HOST:PORT", help="Also serve TCP there, with TLS and a token.")
@click.option("--tls-cert", type=click.Path(path_type=Path), help="Its certificate, and what leads to the authority's; PEM.")
@click.option("--tls-key", type=click.Path(path_type=Path), help="The certificate's key; PEM.")
@click.option("--token-file", type=click.Path(path_type=Path), help="A file with the token that clients on TCP must send.")
@HOST
@NO_DAD
@state_options
def agent(
    site: Path,
    resync: float,
    log_format: str,
    unix: Path | None,
    listen: str,
    tls_cert: Path | None,
    tls_key: Path | None,
    token_file: Path | None,
    host: str,
    no_dad: bool,
    state: Path,
    store: str,
    quiet: bool,
    verbose: bool,
) -> None:
    """Keep this host's part of a site file true, until stopped.

    A container that starts is plugged in at once, with the address and the MAC that it had; links, addresses, routes and rules
    that somebody removes come back; a changed file is applied. Stopped, it leaves everything as it is.
    """
    from ductwork.agent import privileges
    from ductwork.agent.door import tcp_door, unix_door

    privileges.drop()
    gc.enable()  # it lives on
    _set_up_log(log_format, logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)
    tcp = tcp_door(listen, tls_cert, tls_key, token_file)
    with open_engine(state, store, fetches=True) as engine:

        def load() -> Wishes:
            from ductwork.agent.keeping import Wishes
            from ductwork.front.local import pick_host

            loaded = read_site(site)
            return Wishes(loaded, pick_host(loaded, host, engine), not no_dad)

        load()
        with unix_door(unix) as door:
            _Run(site, state, store, engine, load, resync).until_stopped(door, tcp)


@dataclass(frozen=True, slots=True)
class _Run:
    """Puts the agent's parts together."""

    site: Path
    state: Path
    store: str
    engine: Engine
    load: Callable[[], Wishes]
    resync_seconds: float

    def until_stopped(self, door: socket.socket, tcp: Tcp | None) -> None:
        from ductwork.agent.agent import Agent
        from ductwork.agent.api import Api, Identity
        from ductwork.agent.hub import Hub
        from ductwork.agent.keeping import Keeping
        from ductwork.agent.looks import Looks
        from ductwork.agent.metrics import Metrics
        from ductwork.agent.relay import Relay
        from ductwork.app import event_sources
        from ductwork.front.local import Local

        metrics = Metrics()
        hub = Hub(metrics.heed)
        keeping = Keeping(self.load(), lambda: read_site(self.site), str(self.site), hub.tell)
        store = store_path(self.store)
        identity = Identity(__version__, os.path.realpath(self.state), os.path.realpath(store) if store else "")
        heard, wake = socket.socketpair()
        wake.setblocking(False)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)

        def front(who: str) -> Front:
            return Local(self._open, self.state, store, keeping.change, who)

        with Looks(self._open) as looks, Api(front, hub, metrics, identity, door, tcp) as api:

            def sources(its: Site, name: str) -> Mapping[str, Callable[[], Source]]:
                return event_sources(its, name, self.site)

            woken = heard.fileno()
            keeper = Agent(self.engine, looks, hub, keeping, sources, self.load, self.resync_seconds, woken, Relay())
            metrics.read_from(lambda: (keeping.figures, {"events": keeper.pending, "requests": api.waiting}))

            def end(number: int, frame: FrameType | None) -> None:
                keeper.stop()

            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, end)
            gc.collect()
            gc.freeze()  # what is there now stays
            keeper.run()

    def _open(self) -> Engine:
        return open_engine(self.state, self.store, fetches=True)


def _set_up_log(log_format: str, level: int) -> None:
    handler = logging.StreamHandler(sys.stderr)
    by_journald = "JOURNAL_STREAM" in os.environ  # which notes the time itself
    text = logging.Formatter("%(message)s" if by_journald else "%(asctime)s %(message)s")
    handler.setFormatter(_AsJson() if log_format == "json" else text)
    logger = logging.getLogger("ductwork")
    logger.addHandler(handler)
    logger.setLevel(level)
