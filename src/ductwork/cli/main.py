"""The `ductwork` command: which commands there are, and how every error reaches a person.

Invariant: results on stdout, all else on stderr; no traceback without --verbose. A command's module is imported when the
command is used, so that `ductwork version` costs no more than Python's own start.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
import threading
from types import FrameType
from typing import NoReturn

import click

from ductwork import __version__
from ductwork.errors import DuctworkError, Interrupted, SiteError

_COMMANDS = {
    "plan": "ductwork.cli.site:plan",
    "apply": "ductwork.cli.site:apply",
    "confirm": "ductwork.cli.confirm:confirm",
    "undo": "ductwork.cli.site:undo",
    "destroy": "ductwork.cli.site:destroy",
    "attach": "ductwork.cli.attach:attach",
    "detach": "ductwork.cli.attach:detach",
    "ps": "ductwork.cli.look:ps",
    "ports": "ductwork.cli.ports:ports",
    "publish": "ductwork.cli.ports:publish",
    "unpublish": "ductwork.cli.ports:unpublish",
    "agent": "ductwork.cli.agent:agent",
    "events": "ductwork.cli.events:events",
    "lab": "ductwork.cli.lab:lab",
    "schema": "ductwork.cli.about:schema",
    "version": "ductwork.cli.about:version",
}
_NOT_YET = frozenset({"bridges", "fdb", "trace", "doctor", "pipework"})


class _Commands(click.Group):
    """Imports a command when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _NOT_YET:
            ctx.fail(f"`{cmd_name}` is not in this version of ductwork yet; `ductwork --help` lists what is")
        if cmd_name not in _COMMANDS:
            if not cmd_name.startswith("-") and not ctx.resilient_parsing:
                from ductwork.site.values import closest

                ctx.fail(f"no such command `{cmd_name}`: {closest(cmd_name, _COMMANDS)}`ductwork --help` lists what there is")
            return None
        module, _, attribute = _COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="ductwork", message="%(prog)s %(version)s")
def root() -> None:
    """Declarative networking for containers across hosts.

    One file says which container is plugged into which network; ductwork makes it so, shows what it will do before, and
    takes it back.

    \b
      ductwork plan site.yaml       what would change on this host
      ductwork apply site.yaml      make it so; a second time changes nothing
      ductwork lab test site.yaml   rehearse it here, and see who reaches whom
      ductwork destroy site.yaml    remove it all
    """


def main() -> NoReturn:
    gc.disable()  # a command is short, and makes records that stay: collecting costs a tenth of its time, and finds nothing
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = root.main(prog_name="ductwork", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else 0)
    except (click.exceptions.Abort, KeyboardInterrupt) as end:
        told = end.__cause__ if isinstance(end.__cause__, Interrupted) else "interrupted; nothing was begun, or all was done"
        click.echo(f"ductwork: {told}", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except DuctworkError as error:
        if "--verbose" in sys.argv:
            import traceback

            traceback.print_exc()
        _show(error)
        sys.exit(error.exit_code)
    except Exception as error:
        if "--verbose" in sys.argv:
            raise
        click.echo(f"ductwork: internal error: {type(error).__name__}: {error}", err=True)
        click.echo("  this is a defect of ductwork; run it again with --verbose and report what it prints", err=True)
        sys.exit(1)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """SIGTERM is ctrl-C: what was begun is taken back."""
    raise KeyboardInterrupt


def _show(error: DuctworkError) -> None:
    if isinstance(error, SiteError):
        for problem in error.problems:
            where = f"{error.file}:{problem.line}:{problem.column}" if problem.line else error.file
            click.echo(f"{where}: {problem.message}", err=True)
            if problem.hint:
                click.echo(f"    {problem.hint}", err=True)
    click.echo(f"ductwork: {click.style('error', fg='red', bold=True)}: {error.message}", err=True)
    if error.hint:
        click.echo(f"  {error.hint}", err=True)
