"""The conventions that a reader would otherwise have to watch over: sizes, docstrings, frozen records, no shell."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "src" / "ductwork"
MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 60
CORE = {
    *("resources", "drivers", "services", "site.model", "runtimes", "store"),
    *("planner", "kernel_model", "ipam", "naming", "errors", "desire", "goals", "ownership"),
}
"""Whose dataclasses are values. (What the loader works with while it reads a site file is not.)"""


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((REPOSITORY / folder).rglob("*.py"))]


def name(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


@pytest.mark.parametrize("path", sources("src", "bench", "tests"), ids=name)
def test_files_are_short(path: Path) -> None:
    assert path.read_text().count("\n") <= MAX_FILE_LINES, "split it at the second reason to change"


@pytest.mark.parametrize("path", sources("src", "bench"), ids=name)
def test_functions_are_short(path: Path) -> None:
    functions = [n for n in ast.walk(tree(path)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert not [f.name for f in functions if (f.end_lineno or 0) - f.lineno >= MAX_FUNCTION_LINES]


@pytest.mark.parametrize("path", sources("src", "bench", "tests"), ids=name)
def test_modules_say_what_they_are(path: Path) -> None:
    assert not path.read_text().strip() or ast.get_docstring(tree(path))


@pytest.mark.parametrize("path", sources("src", "bench", "tests"), ids=name)
def test_there_is_no_drawer_for_odds_and_ends(path: Path) -> None:
    assert path.stem not in ("utils", "util", "helpers", "misc")


@pytest.mark.parametrize("path", sources("src", "bench", "tests"), ids=name)
def test_no_command_runs_through_a_shell(path: Path) -> None:
    calls = [n for n in ast.walk(tree(path)) if isinstance(n, ast.Call)]
    shells = [c.lineno for c in calls for k in c.keywords if k.arg == "shell" and not is_false(k.value)]
    shells += [c.lineno for c in calls if ast.unparse(c.func) in ("os.system", "os.popen", "subprocess.getoutput")]
    assert not shells


def is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def core_dataclasses() -> Iterator[tuple[str, ast.Call | None]]:
    """(file:class, its decorator's call) of each dataclass that is a value of the core."""
    for path in sources("src"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if not {parts[0], ".".join(parts)} & CORE:
            continue
        for node in ast.walk(tree(path)):
            for decorator in node.decorator_list if isinstance(node, ast.ClassDef) else ():
                call = decorator if isinstance(decorator, ast.Call) else None
                if ast.unparse(call.func if call else decorator).endswith("dataclass"):
                    assert isinstance(node, ast.ClassDef)
                    yield f"{name(path)}:{node.name}", call


def test_core_values_are_frozen_and_slotted() -> None:
    found = dict(core_dataclasses())
    assert found
    assert not [where for where, call in found.items() if not {"frozen", "slots"} <= set_to_true(call)]


def set_to_true(call: ast.Call | None) -> set[str | None]:
    return {k.arg for k in call.keywords if ast.unparse(k.value) == "True"} if call else set()
