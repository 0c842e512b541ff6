"""The files of examples/, and what they need of the kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from ductwork.app import lacking

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))
_NEEDS = {"d3-macvlan-vlans": ["vlan"], "d4-router": ["vlan"]}


def skip_where_it_cannot_run(name: str) -> None:
    """Where it can, in the tier `vm`, it is tested (tests/vm/heart.py, tests/vm/test_lab_vlans.py)."""
    if missing := lacking(_NEEDS.get(name, [])):
        pytest.skip("; ".join(missing.values()))
