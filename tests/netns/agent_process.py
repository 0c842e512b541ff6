"""`ductwork agent` as a process of its own, on a host in a namespace."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from conftest import until
from host import World, cookie


class AgentProcess:
    """Runs from `with` to its end, and must then have ended well, unless it was killed."""

    def __init__(
        self,
        world: World,
        site: Path,
        *options: str | Path,
        env: dict[str, str] | None = None,
        through: Sequence[str | Path] = (),
    ) -> None:
        self._world = world
        self._site = site
        self._options = options
        self._environment = env
        self._through = through
        self._log = site.with_suffix(".log")
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._log.write_text("")
        words = ("agent", "--site", self._site, "--log-format", "json", *self._options)
        log = open(self._log, "a")
        with log:
            self._process = self._world.start(*words, env=self._environment, stderr=log, through=self._through)
        try:
            assert until(lambda: self.said("keeps") or self._process.poll() is not None, 60), self.log()
            assert self._process.poll() is None, self.log()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process
        if self._process.returncode == -signal.SIGKILL:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise
        assert kind or code == 0, self.log()
        assert "Traceback" not in self.log()

    @property
    def socket(self) -> Path:
        """That of its API."""
        return self._world.run_directory / str(cookie(self._world.host)) / "api.sock"

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    def memory_kib(self) -> int:
        """Resident, now."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))

    def kill(self) -> None:
        """As the out-of-memory killer does."""
        assert self._process
        self._process.kill()
        self._process.wait()

    def log(self) -> str:
        return self._log.read_text()

    def lines(self) -> list[str]:
        """The whole ones: of one of some thousand characters, half may have been written."""
        return [json.loads(line)["message"] for line in self.log().rpartition("\n")[0].splitlines()]

    def said(self, word: str) -> list[str]:
        return [line for line in self.lines() if word in line]
