"""The guard of `apply --confirm` under systemd: a service of the system, which outlives whoever has started it.

systemd is the first process of a PID namespace of its own, with nothing to start but what is asked of it: its usual units
would clean up the machine that it takes for its own.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import run, sh, until

SOURCES = Path(__file__).parents[2] / "src"
SYSTEMD = "/lib/systemd/systemd"
TARGETS = ("t", "sysinit", "basic", "shutdown")
SITE = """
name: office
networks:
  lan: {driver: bridge, subnet: 10.1.1.0/24}
attachments:
  - {container: "netns:<web>", network: lan, address: 10.1.1.2}
"""
BOOT = """
set -eu
mount --make-rprivate /
mount -t proc proc /proc
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for place in /usr/lib/tmpfiles.d /usr/lib/systemd/system-generators /etc/systemd/system /usr/lib/systemd/system; do
  mount -t tmpfs none $place
done
for target in $2; do printf '[Unit]\\nDefaultDependencies=no\\n' >/etc/systemd/system/$target.target; done
export container=test
exec $1 --system --unit=t.target --log-target=null --show-status=no
"""

pytestmark = pytest.mark.skipif(not os.path.exists(SYSTEMD), reason="no systemd here")


@pytest.fixture
def host(netns: Callable[[str], str]) -> Iterator[str]:
    """A namespace whose first process is systemd; gives its name. A machine of this tier alone has a systemd to spare."""
    assert os.environ["DUCTWORK_VM"]
    assert os.uname().release.startswith("6.1.")
    name = netns("host")
    argv = ["ip", "netns", "exec", name, "unshare", "--pid", "--fork", "--kill-child", "--mount", "--cgroup"]
    process = subprocess.Popen([*argv, "sh", "-c", BOOT, "sh", SYSTEMD, " ".join(TARGETS)])
    try:
        yield name
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        shutil.rmtree("/run/systemd", ignore_errors=True)


def first_process(name: str) -> str:
    """The PID of systemd, seen from here; empty before it is there."""
    for pid in run("ip", "netns", "pids", name).split():
        with suppress(FileNotFoundError):  # others come and go
            if Path(f"/proc/{pid}/comm").read_text().strip() == "systemd":
                return pid
    return ""


def within(name: str, *argv: str | Path) -> str:
    """As somebody who is logged in."""
    enter = ["nsenter", "--target", first_process(name), "--mount", "--pid", "--net", "--cgroup", "--"]
    return run(*enter, *map(str, argv))


def test_the_guard_is_a_service(host: str, netns: Callable[[str], str], tmp_path: Path) -> None:
    site = tmp_path / "office.yaml"
    site.write_text(SITE.replace("<web>", netns("web")))
    assert until(lambda: bool(first_process(host)) and os.path.isdir("/run/systemd/system"), 60)
    assert until(lambda: os.path.exists("/run/systemd/private"), 60)
    places = [f"DUCTWORK_RUN={tmp_path}/run", f"DUCTWORK_STATE={tmp_path}/state", f"PYTHONPATH={SOURCES}"]
    command = ["env", *places, sys.executable, "-m", "ductwork"]
    assert "to be confirmed" in within(host, *command, "apply", site, "--confirm", "10")
    units = within(host, "systemctl", "list-units", "--no-legend", "--plain", "ductwork-guard-*")
    assert "active running" in units, units
    log = next((tmp_path / "run").rglob("guard.log"))
    assert until(lambda: "apply office was taken back: nobody confirmed it within 10 s" in log.read_text(), 60)
    assert "dw-lan" not in sh(host, "ip", "-br", "link")
