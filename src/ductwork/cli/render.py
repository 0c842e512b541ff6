"""Plans as text, as commands and as JSON."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

from ductwork.planner import changed_fields
from ductwork.resources import Argv, Create, Delete, Operation, Owner, Resource, Update, key_of

if TYPE_CHECKING:
    from ductwork.reconciler import Preview

_SIGNS = {Create: ("+", "green"), Update: ("~", "yellow"), Delete: ("-", "red")}
_SILENT = frozenset({"netns", "owner", "script", "digests", "index", "peer_index", "master_index"})


def counted(operations: Sequence[Operation]) -> str:
    """`3 created, 1 changed, 2 removed`, or that there is nothing to do."""
    words = ((Create, "created"), (Update, "changed"), (Delete, "removed"))
    parts = [(sum(isinstance(o, kind) for o in operations), word) for kind, word in words]
    return ", ".join(f"{number} {word}" for number, word in parts if number) or "nothing to do"


def as_lines(operations: Iterable[Operation]) -> Iterator[str]:
    """One line an operation."""
    for operation in operations:
        sign, colour = _SIGNS[type(operation)]
        yield click.style(sign, fg=colour, bold=True) + f" {key_of(operation)}{_detail(operation)}"


def _detail(operation: Operation) -> str:
    if isinstance(operation, Delete):
        return ""
    if isinstance(operation, Update):
        before, after = _plain(operation.before), _plain(operation.after)
        changes = sorted(changed_fields(operation.before, operation.after) - _SILENT)
        return ": " + ", ".join(f"{name} {before[name]} → {after[name]}" for name in changes) if changes else ""
    ident = set(map(str, operation.after.key.ident))
    shown = {n: v for n, v in _plain(operation.after).items() if v not in (None, "", 0, False) and str(v) not in ident}
    return f" ({', '.join(f'{name} {value}' for name, value in shown.items() if name not in _SILENT)})" if shown else ""


def as_commands(operations: Iterable[Operation], place: Callable[[str], str]) -> Iterator[str]:
    """The change as commands that a shell can run, in order."""
    for operation in operations:
        for argv in operation.argv(place):
            yield shlex.join(_inside(argv, operation.target.netns, place))


def _inside(argv: Argv, netns: str, place: Callable[[str], str]) -> Argv:
    """The command as run from the host: `ip` enters a named namespace by itself, all else is led in."""
    if not netns:
        return argv
    where = place(netns)
    if where.isdigit():
        return ["nsenter", f"--net=/proc/{where}/ns/net", "--", *argv]
    return ["ip", "-n", where, *argv[1:]] if argv[0] == "ip" else ["ip", "netns", "exec", where, *argv]


def as_json(preview: Preview, host: str, place: Callable[[str], str]) -> dict[str, Any]:
    """The object that contract section 3 names."""
    return {"host": host, "changes": [_change(operation, place) for operation in preview.plan.operations]}


def _change(operation: Operation, place: Callable[[str], str]) -> dict[str, Any]:
    before = None if isinstance(operation, Create) else operation.before
    after = None if isinstance(operation, Delete) else operation.after
    return {
        "action": type(operation).__name__.lower(),
        "resource": str(key_of(operation)),
        "before": _plain(before) if before else None,
        "after": _plain(after) if after else None,
        "commands": list(as_commands([operation], place)),
    }


def _plain(resource: Resource) -> dict[str, Any]:
    return {
        field.name: _plain_value(getattr(resource, field.name))
        for field in fields(resource)  # type: ignore[arg-type]
        if field.name not in ("index", "peer_index", "master_index", "script", "digests")
    }


def _plain_value(value: object) -> object:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Owner):
        return value._asdict()
    if isinstance(value, tuple):
        return [_plain_value(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return {field.name: _plain_value(getattr(value, field.name)) for field in fields(value)}  # type: ignore[arg-type]
    return str(value)
