"""A machine that is switched off and on again: the unit as it is shipped, systemd, Docker, and what was there is there again.

Unlike the others in this folder it runs here, and boots machines of its own, one after the other on one disk.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, os.path.dirname(__file__))
from machine import REPOSITORY, Machine, fetch_kernel

from ductwork.agent.privileges import KEPT

DISK_BYTES = 1 << 30
PATIENCE_SECONDS = 600
SITE = """
networks:
  lan: {driver: bridge, bridge: br0, subnet: 10.1.1.0/24}
attachments:
  - {container: "docker:web", network: lan, address: 10.1.1.2}
  - {container: "netns:late", network: lan, address: 10.1.1.3}
"""


pytestmark = pytest.mark.skipif(
    os.environ.get("CI") != "true" and not shutil.which("qemu-system-x86_64"), reason="no qemu-system-x86_64 here"
)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """`mkfs` in a file."""
    path = tmp_path / "disk"
    path.touch()
    os.truncate(path, DISK_BYTES)
    subprocess.run(["/sbin/mkfs.ext4", "-q", "-F", str(path)], check=True)
    return path


def booted(number: int, disk: Path, folder: Path) -> dict[str, str]:
    """What the machine tells, until it has switched itself off."""
    command = ["exec", str(REPOSITORY / "tests" / "vm" / "reboot.sh"), "boot"]
    machine = Machine(number, fetch_kernel(), folder, command, disk)
    deadline = time.monotonic() + PATIENCE_SECONDS
    try:
        while machine.alive() and time.monotonic() < deadline:
            time.sleep(0.2)
    finally:
        machine.kill()
    log = machine.log.read_text(errors="replace") if machine.log.exists() else ""
    agent = folder / f"{number}.agent"
    told = f"{log}\n{agent.read_text() if agent.exists() else ''}\n{machine.last_words()}"
    assert machine.status() == 0, told
    assert "never:" not in log, told
    return {name: value.strip() for name, _, value in (line.partition(":") for line in log.splitlines())}


def test_all_is_there_again_after_a_boot(disk: Path, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "site.yaml").write_text(SITE)
    first = booted(1, disk, folder)
    assert "10.1.1.2/24" in first["web"]
    second = booted(2, disk, folder)
    assert second["web"] == first["web"]
    assert second["bridged by Docker"] == "reaches web"
    assert second["before Docker"] == "yes" and second["started again"] == "0 0"
    assert second["agent"] == "active" and second["journal"] == "1"
    assert second["NoNewPrivs"] == "1" and second["Seccomp"] == "2"
    assert int(second["CapEff"], 16) == sum(1 << number for number in KEPT.values())
