"""A plug-in of pytest, in the guests: machines that share a list of tests, and each runs what the other has not begun.

Invariant: each test is run by one machine. A claim is a file in their common folder, made by the first to ask.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDER = Path("/run/results/claims")


def pytest_runtestloop(session: pytest.Session) -> bool:
    if session.config.option.collectonly or session.testsfailed:
        return False
    FOLDER.mkdir(exist_ok=True)
    mine = _mine(session.items)
    item = next(mine, None)
    while item and not session.shouldstop and not session.shouldfail:
        following = next(mine, None)  # pytest must know which fixtures it can keep
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        item = following
    return True


def _mine(items: list[pytest.Item]) -> Iterator[pytest.Item]:
    kept: dict[str, bool] = {}
    for number, item in enumerate(items):
        together = item.nodeid.split("::")[0] if item.get_closest_marker("one_machine") else str(number)
        if together not in kept:
            kept[together] = _claim(str(number))
        if kept[together]:
            yield item


def _claim(name: str) -> bool:
    try:
        os.close(os.open(FOLDER / name, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True
