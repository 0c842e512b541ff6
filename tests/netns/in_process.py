"""The command line in this process, in the host's namespace: a hundred commands cost no hundred interpreters."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Protocol

import pytest
from conftest import inside
from host import Done, World

from ductwork import netns
from ductwork.app import build_engine
from ductwork.cli import main


class Cli(Protocol):
    def __call__(self, *words: str | Path, code: int | None = 0) -> Done: ...


def command_line(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Each command must end with `code` (None: whichever), without a traceback or colours."""
    monkeypatch.setitem(build_engine.__kwdefaults__, "run_directory", world.run_directory)
    monkeypatch.setattr(netns, "RUN_DIRECTORY", world.run_directory)
    monkeypatch.setenv("DUCTWORK_STATE", str(world.state))
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")

    def call(*words: str | Path, code: int | None = 0) -> Done:
        monkeypatch.setattr(sys, "argv", ["ductwork", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exited:
            inside(world.host, main.main)
        out, err = capsys.readouterr()
        ended = exited.value.code
        assert isinstance(ended, int) and code in (None, ended), out + err
        assert "Traceback" not in err
        assert "\x1b" not in out + err
        assert ended in (0, 3) or err
        return Done(ended, out, err)

    return call
