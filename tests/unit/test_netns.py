"""Namespaces of processes, some of which end meanwhile."""

from __future__ import annotations

import os
from typing import Any

import pytest

from ductwork import netns


def test_a_process_that_ends_meanwhile_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one that is ending, /proc says "no such process", which is another error than "no such file"."""
    stat = os.stat

    def ending(path: Any, **options: Any) -> os.stat_result:
        if str(path).startswith(f"/proc/{os.getppid()}/ns"):
            raise ProcessLookupError(3, "No such process", str(path))
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", ending)
    assert netns.all_identities()
