"""The systemd unit: what the how-to shows is what is shipped, systemd takes it, and it allows what the agent keeps."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from ductwork.agent.privileges import KEPT

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "packaging" / "ductwork.service"
EXPOSURE = 40
"""Tenths, by systemd's own judgement (252: 37); 96 without any of it. A program that runs the network cannot have much less."""

analyze = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")


def settings() -> dict[str, str]:
    lines = [line for line in UNIT.read_text().splitlines() if "=" in line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)  # type: ignore[misc]


def test_the_how_to_shows_it() -> None:
    assert f"```ini\n{UNIT.read_text()}```" in (ROOT / "docs" / "how-to" / "keep-it-with-systemd.md").read_text()


def test_it_keeps_what_the_agent_keeps() -> None:
    assert settings()["CapabilityBoundingSet"].split() == list(KEPT)


@analyze
@pytest.mark.parametrize(
    "words", [("verify",), ("security", "--offline=true", f"--threshold={EXPOSURE}")], ids=["valid", "tight"]
)
def test_systemd_takes_it(tmp_path: Path, words: tuple[str, ...]) -> None:
    """An ordering cycle would be told by `verify` too."""
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/usr/local/bin/ductwork", "/bin/true"))  # what is not there is a mistake
    done = subprocess.run(["systemd-analyze", *words, str(copy)], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr
