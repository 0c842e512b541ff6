"""A plug-in of pytest, in the machines of one run: they share a list of tests, and each runs what no other has begun.

Invariant: each test is run by one machine. A claim is a file in their common folder, made by the first to ask.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

RESULTS = Path("/run/results")


def pytest_runtestloop(session: pytest.Session) -> bool | None:
    if session.config.option.collectonly or session.testsfailed:
        return None
    folder = _claims(RESULTS)
    folder.mkdir(exist_ok=True)
    (folder / "tests").write_text(str(len(session.items)))
    mine = _mine(folder, session.items)
    claimed = next(mine, None)
    while claimed and not session.shouldstop and not session.shouldfail:
        following = next(mine, None)  # pytest must know which fixtures it can keep
        number, item = claimed
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following[1] if following else None)
        (folder / f"{number}.ran").touch()
        claimed = following
    return True


def forgotten(results: Path) -> list[str]:
    """What is wrong with a run whose machines all ended well: tests that none of them ran."""
    folder = _claims(results)
    tests, ran = int((folder / "tests").read_text()), len(list(folder.glob("*.ran")))
    return [f"{ran} of {tests} tests were run"] if ran != tests else []


def _claims(results: Path) -> Path:
    return results / "claims"


def _mine(folder: Path, items: list[pytest.Item]) -> Iterator[tuple[int, pytest.Item]]:
    """Those with the mark `one_machine` are claimed by the file."""
    files: dict[str, bool] = {}
    for number, item in enumerate(items):
        file = item.nodeid.split("::")[0]
        if not item.get_closest_marker("one_machine"):
            mine = _claim(folder / str(number))
        elif file in files:
            mine = files[file]
        else:
            mine = files[file] = _claim(folder / str(number))
        if mine:
            yield number, item


def _claim(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True
