"""Imports go one way (design, section 2), and what must stay pure or light stays so. Read from the sources alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "ductwork"

CORE = {
    *("planner", "kernel_model", "drivers", "services", "ipam", "naming", "site"),
    *("desire", "goals", "ownership", "relocation", "serial"),
}
ENGINE = {
    *("engine", "reconciler", "duplicates", "foreign", "journal", "lent", "held", "system", "confirmation"),
    *("refusals", "labelled", "labelled_ports", "openings", "publishing"),
}
FRONT = {"agent", "cli", "plugins", "lab", "doctor", "inspect"}
PROTOCOLS = {"backends", "runtimes", "store"}
"""Their packages hold the protocols, which the engine speaks; their modules the classes, which only app.py sees."""

BASE = {"errors", "resources", "events", "requests", "notices"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "events": set(),
    "requests": set(),
    "notices": set(),
    "resources": {"errors"},
    "netns": BASE,
}
MAY_IMPORT |= {component: BASE | {"netns"} for component in PROTOCOLS}
for component in CORE:
    MAY_IMPORT[component] = BASE | CORE
for component in ENGINE:
    MAY_IMPORT[component] = BASE | CORE | ENGINE | {"netns"}
for component in FRONT:
    MAY_IMPORT[component] = BASE | CORE | ENGINE
MAY_IMPORT["lab"] |= {"netns"}
MAY_IMPORT["guard"] = BASE | CORE | ENGINE | {"netns", "app"}
MAY_IMPORT["front"] = BASE | CORE | ENGINE | {"netns", "guard", "inspect"}
MAY_IMPORT["agent"] |= {"front", "inspect", "netns"}
MAY_IMPORT["cli"] |= {"app", "front"} | FRONT
MAY_IMPORT["app"] = set(MAY_IMPORT) - {"cli"}

EXCEPTIONS = {
    ("backends.fake", "kernel_model"),  # the fake kernel is the model, made strict
}

PURE = {"resources"} | CORE
IMPURE_MODULES = {
    *("socket", "os", "time", "logging", "random", "subprocess"),
    *("asyncio", "secrets", "selectors", "shutil", "signal", "tempfile", "threading"),
}
SLOW_MODULES = {"pydantic", "rich", "aiohttp", "yaml", "sqlite3", "asyncio"}
"""What `ductwork version` must not wait for; commands import it when they need it."""


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def dotted(path: Path) -> str:
    """A source's module below `ductwork`; empty for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import, those inside functions and under TYPE_CHECKING included."""
    package = path.parent.relative_to(PACKAGE.parent).parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            module = ".".join(base + ([node.module] if node.module else []))
            yield node.lineno, module
            yield from ((node.lineno, f"{module}.{a.name}") for a in node.names if is_module(f"{module}.{a.name}"))


def is_module(name: str) -> bool:
    if not name.startswith("ductwork."):
        return False
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").exists()


def violations(path: Path) -> Iterator[str]:
    source = dotted(path)
    component = source.partition(".")[0]
    for line, name in imports(path):
        if not name.startswith("ductwork."):
            continue
        target = name.removeprefix("ductwork.")
        other, _, module = target.partition(".")
        if other == component or not is_module(f"ductwork.{other}") or (source, other) in EXCEPTIONS:
            continue
        speaks_protocol = other in PROTOCOLS and not (module and is_module(name)) and component in ENGINE | FRONT
        if other not in MAY_IMPORT[component] and not speaks_protocol:
            yield f"{path.name}:{line}: {component} must not import {name}"


def ids(path: Path) -> str:
    return dotted(path) or "ductwork"


@pytest.mark.parametrize("path", modules(), ids=ids)
def test_every_module_has_its_place(path: Path) -> None:
    component = dotted(path).partition(".")[0]
    assert component in {"", "app", "__main__", *MAY_IMPORT}, "give it a place in MAY_IMPORT (tests/unit/test_imports.py)"


@pytest.mark.parametrize("path", [p for p in modules() if dotted(p) not in ("", "__main__")], ids=ids)
def test_imports_go_one_way(path: Path) -> None:
    assert not list(violations(path))


@pytest.mark.parametrize("path", modules(), ids=ids)
def test_only_the_site_package_and_the_api_know_pydantic(path: Path) -> None:
    users = [line for line, name in imports(path) if name.partition(".")[0] in ("pydantic", "pydantic_core")]
    assert not users or dotted(path).startswith("site") or dotted(path) == "agent.openapi"


@pytest.mark.parametrize("path", modules(), ids=ids)
def test_only_the_agent_serves(path: Path) -> None:
    users = [line for line, name in imports(path) if name.partition(".")[0] in ("aiohttp", "prometheus_client")]
    assert not users or dotted(path).startswith("agent.")


@pytest.mark.parametrize("path", modules(), ids=ids)
def test_pyroute2_is_the_tests_reader_alone(path: Path) -> None:
    assert not [line for line, name in imports(path) if name.partition(".")[0] == "pyroute2"]


@pytest.mark.parametrize("path", [p for p in modules() if dotted(p).partition(".")[0] in PURE], ids=ids)
def test_pure_packages_touch_nothing(path: Path) -> None:
    assert not [f"{path.name}:{line}: {name}" for line, name in imports(path) if name.split(".")[0] in IMPURE_MODULES]


def test_start_up_waits_for_nothing_slow() -> None:
    code = "import ductwork.cli.main, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not SLOW_MODULES & set(loaded)
