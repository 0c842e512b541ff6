"""Running other programs.

Invariant: an argv list, no shell, the C locale, a limit in time. The child lives in the calling thread's network namespace.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from typing import NamedTuple

from ductwork.errors import MissingToolError

TIMEOUT_SECONDS = 30.0


class Result(NamedTuple):
    """`code`: the exit code; -1 where the program did not end in time, and what it did is unknown."""

    code: int
    out: str
    err: str


def run(argv: Sequence[str], stdin: str = "", package: str = "") -> Result:
    """Run `argv` to its end. Raises MissingToolError where it is not installed; `package`: Debian's, for the hint."""
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            argv, input=stdin, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, env=environment, check=False
        )
    except FileNotFoundError:
        hint = f"apt install {package or argv[0]}"
        raise MissingToolError(f"the program {argv[0]} is needed, and is not installed", hint) from None
    except subprocess.TimeoutExpired:
        return Result(-1, "", f"{argv[0]} did not answer within {TIMEOUT_SECONDS:.0f} s")
    return Result(done.returncode, done.stdout, done.stderr)
