"""`events`: what the agent does, as it does it."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import click

from ductwork.cli.common import JSON, state_options, store_path
from ductwork.errors import AgentError
from ductwork.notices import Notice


@click.command()
@JSON
@state_options
def events(as_json: bool, state: Path, store: str, quiet: bool, verbose: bool) -> None:
    """Follow what the agent of this host does: containers plugged in, what was mended, what waits, errors.

    Ends with the agent, or by ctrl-C. With --quiet, only what somebody should look at: warnings and errors.
    """
    from ductwork.front.client import Client, NoAgentError, socket_path

    try:
        for notice in Client(socket_path(), (state, store_path(store))).notices():
            if quiet and notice.level == "info":
                continue
            click.echo(json.dumps(asdict(notice)) if as_json else _line(notice))
    except NoAgentError as reason:
        hint = "`ductwork agent --site SITE` starts one; this looks for that of the network namespace that it is run in"
        raise AgentError(f"no agent tells what it does here: {reason}", hint) from None
    except KeyboardInterrupt:
        return
    raise AgentError("the agent has ended", "`systemctl status ductwork`, or its log, tells why")


def _line(notice: Notice) -> str:
    when = datetime.fromisoformat(notice.time).astimezone().strftime("%H:%M:%S.%f")[:-3]
    colour = {"warning": "yellow", "error": "red"}.get(notice.level)
    return f"{when} {click.style(f'{notice.kind:12}', fg=colour)} {notice.message}"
