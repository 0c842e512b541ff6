"""Every command, option, site key and error code has a heading in docs/reference."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

import ductwork
from ductwork.cli.main import root
from ductwork.errors import DuctworkError
from ductwork.site.schema import json_schema

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
COMMON = "Common options"
"""The section of commands.md whose options need no heading under each command."""


def headings(page: str) -> list[tuple[int, str]]:
    """(level, text) of each heading, code blocks left out."""
    text = re.sub(r"^```.*?^```", "", (REFERENCE / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    return [(len(marks), words) for marks, words in re.findall(r"^(#{1,6}) +(.+?)$", text, re.MULTILINE)]


def terms(heading: str) -> set[str]:
    """What a heading explains: each of its words in code style, without what follows the first word (`--host NAME`)."""
    return {code.split()[0] for code in re.findall(r"`([^`]+)`", heading)}


def sections() -> dict[str, set[str]]:
    """commands.md: a command (or the common options) → the options with a heading of their own below it."""
    found: dict[str, set[str]] = {}
    current = ""
    for level, heading in headings("commands.md"):
        if level == 2:
            current = heading.replace("`", "")
            found[current] = set()
        elif level > 2:
            found[current] |= terms(heading)
    return found


def commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """Each command that does something, by its full name."""
    if not isinstance(command, click.Group):
        yield path, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        child = command.get_command(context, name)
        assert child
        yield from () if child.hidden else commands(child, f"{path} {name}")


def all_commands() -> dict[str, click.Command]:
    found = dict(commands(root, "ductwork"))
    assert found
    return found


def site_keys(schema: Any) -> Iterator[str]:
    """Every property name in a JSON Schema, those of its definitions included."""
    if isinstance(schema, dict):
        properties = schema.get("properties")
        if isinstance(properties, dict):
            yield from properties
        for value in schema.values():
            yield from site_keys(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from site_keys(value)


def error_codes(error: type[DuctworkError]) -> Iterator[str]:
    yield error.code
    for child in error.__subclasses__():
        yield from error_codes(child)


def test_every_command_has_a_heading() -> None:
    documented = sections()
    assert not [name for name in all_commands() if name not in documented]


def test_no_command_is_described_that_is_not_there() -> None:
    known = set(all_commands())
    assert not [s for s in sections() if s.startswith("ductwork ") and s not in known]


def test_every_option_has_a_heading() -> None:
    documented = sections()
    missing = []
    for name, command in all_commands().items():
        for option in (p for p in command.params if isinstance(p, click.Option) and not p.hidden):
            names = [o for o in (*option.opts, *option.secondary_opts) if o.startswith("--")]
            missing += [f"{name} {o}" for o in names if o not in documented.get(name, set()) | documented[COMMON]]
    assert not missing


def test_every_site_key_has_a_heading() -> None:
    documented = {term for _, heading in headings("site-file.md") for term in terms(heading)}
    assert not set(site_keys(json_schema())) - documented


def test_every_error_code_has_a_heading() -> None:
    for module in pkgutil.walk_packages(ductwork.__path__, "ductwork."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    documented = {term for _, heading in headings("errors.md") for term in terms(heading)}
    assert not set(error_codes(DuctworkError)) - documented
