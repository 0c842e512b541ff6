"""ductwork itself: by the engine inside this process, and by its command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.hosts import PREFIX, inside
from bench.peers import GATEWAY, Namespaced
from ductwork.app import build_engine
from ductwork.engine import AttachRequest, Engine
from ductwork.site.load import load_site

NETWORK = "bench"
DUCTWORK = str(Path(sys.executable).with_name("ductwork"))
ENGINE_TARGET_MS = 2.5


class _Ours(Namespaced):
    """The network comes from a site file; NAT as by default. Its one container is never there."""

    def __init__(self, name: str, host: str) -> None:
        super().__init__(name, host)
        self._folder = tempfile.TemporaryDirectory(prefix=PREFIX)
        self.state = Path(self._folder.name, "state")
        self.site = Path(self._folder.name, "bench.yaml")

    def prepare(self) -> None:
        network = {"driver": "bridge", "subnet": f"{GATEWAY.rpartition('.')[0]}.0/24", "gateway": GATEWAY}
        waiting = {"container": "netns:dwb-not-there", "network": NETWORK}
        self.site.write_text(json.dumps({"name": "bench", "networks": {NETWORK: network}, "attachments": [waiting]}))

    def close(self) -> None:
        self._folder.cleanup()


class ByEngine(_Ours):
    """One engine for all, as in the agent."""

    target = ENGINE_TARGET_MS
    note = "read, plan, remember, apply, verify, tell neighbours; told the interface, and allocates the address, as CNI does"
    _engine: Engine | None = None

    def prepare(self) -> None:
        super().prepare()
        with inside(self.host):
            self._engine = build_engine(self.state)
            self._engine.apply(load_site(self.site), "")

    def attach(self, number: int) -> None:
        assert self._engine
        self._engine.attach(AttachRequest(f"netns:{self.container(number)}", NETWORK, "eth1"))

    def close(self) -> None:
        if self._engine:
            self._engine.close()
        super().close()


class ByCommand(_Ours):
    note = "a process of its own; finds a free interface name too"

    def prepare(self) -> None:
        super().prepare()
        with inside(self.host):
            self._run("apply", str(self.site))

    def attach(self, number: int) -> None:
        self._run("attach", f"netns:{self.container(number)}", NETWORK)

    def _run(self, *words: str) -> None:
        env = {**os.environ, "DUCTWORK_STATE": str(self.state)}
        done = subprocess.run([DUCTWORK, *words], env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"ductwork {' '.join(words)}: exit {done.returncode}: {done.stderr}")


def in_one_process(
    file: Path, state: Path, rounds: int, one_more: AttachRequest, expect: Callable[[bool], None]
) -> dict[str, list[float]]:
    """Milliseconds of each step on the calling thread's host. `expect` is told whether the site is there now."""
    samples: dict[str, list[float]] = {}

    def timed(step: str, action: Callable[[], object]) -> None:
        started = time.perf_counter()
        action()
        samples.setdefault(step, []).append((time.perf_counter() - started) * 1000)

    with build_engine(state) as engine:
        site = load_site(file)
        for _ in range(rounds):
            timed("load the site file", lambda: load_site(file))
            timed("plan", lambda: engine.plan(site, ""))
            timed("attach", lambda: engine.apply(site, ""))
            expect(True)
            timed("no-op", lambda: engine.apply(site, ""))
            timed("plan, nothing to do", lambda: engine.plan(site, ""))
            timed("attach one more", lambda: engine.attach(one_more))
            timed("detach it", lambda: engine.detach(one_more.container, one_more.network))
            timed("destroy", lambda: engine.destroy(site.name))
            expect(False)
    return samples
