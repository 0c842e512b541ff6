"""Every file in examples/ says what it is, is right, is listed in a README or the docs, and names commands that there are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from ductwork.cli.main import root
from ductwork.site.load import load_site

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = sorted((REPOSITORY / "examples").glob("*.yaml"))
PAGES = [REPOSITORY / "README.md", REPOSITORY / "examples" / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]

each = pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)


def header(path: Path) -> list[str]:
    """The comment lines before the first key, without their `#`."""
    lines = path.read_text().splitlines()
    end = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    return [line[1:].strip() for line in lines[:end]]


def commands(lines: list[str]) -> Iterator[list[str]]:
    """Each `ductwork …` in a line, as words: up to a semicolon, a comment, or more than one blank."""
    for line in lines:
        yield from (found.split() for found in re.findall(r"(?:^|[\s`])ductwork ([^`;#]*?)(?=`|;|#| {2}|$)", line))


def problems(words: list[str], folder: Path) -> Iterator[str]:
    """What of a command line is not there: the command, an option, a site file."""
    command: click.Command | None = root
    rest = words[: words.index("--")] if "--" in words else words
    while isinstance(command, click.Group) and rest:
        name, *rest = rest
        command = command.get_command(click.Context(command), name)
        if command is None:
            yield f"no command {name}"
            return
    assert command
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    yield from (f"no option {word}" for word in rest if word.startswith("--") and word.partition("=")[0] not in options)
    files = (word for word in rest if word.endswith(".yaml"))
    yield from (f"no file {file}" for file in files if not (folder / file).exists())


@each
def test_it_says_what_it_is(path: Path) -> None:
    lines = header(path)
    assert lines
    assert len(lines[0]) > 40
    found = list(commands(lines))
    assert not [problem for words in found for problem in problems(words, path.parent)]


@each
def test_it_is_right(path: Path) -> None:
    """Every key and value of it: a site file with a key that does not exist is refused."""
    site = load_site(path, "machine")
    assert site.attachments


@each
def test_it_is_listed(path: Path) -> None:
    assert [page for page in PAGES if path.name in page.read_text()]
    listed = (path.parent / "README.md").read_text()
    assert f"({path.name})" in listed


def test_nothing_is_listed_that_is_not_there() -> None:
    for page in PAGES:
        named = set(re.findall(r"examples/([\w-]+\.yaml)", page.read_text()))
        assert named <= {path.name for path in EXAMPLES}, page


def test_commands_are_found() -> None:
    line = "on alpha: ip netns add web; ductwork apply site.yaml --host alpha    # or `ductwork lab test x.yaml`"
    assert list(commands([line])) == [["apply", "site.yaml", "--host", "alpha"], ["lab", "test", "x.yaml"]]
    assert list(problems(["lab", "exec", "b3-snat.yaml", "web", "--", "ping", "--no"], REPOSITORY / "examples")) == []
    assert list(problems(["apply", "nowhere.yaml", "--hots"], REPOSITORY)) == ["no option --hots", "no file nowhere.yaml"]
    assert list(problems(["lab", "tset"], REPOSITORY)) == ["no command tset"]
