"""The tutorial, typed: its fenced `sh` blocks run in order, and what the `text` block after one shows is what they print.

In the text, `…` stands for anything within a line and, alone on a line, for any lines. Everything happens in a network
and a mount namespace of its own, so that the tutorial may call its containers what it likes.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = "-- end of the block --"


def steps() -> Iterator[tuple[str, str]]:
    """(commands, what they print); a file to write is a step too, that prints nothing."""
    blocks = BLOCK.findall(TUTORIAL.read_text())
    for number, (kind, body) in enumerate(blocks):
        following = blocks[number + 1 :]
        if kind == "sh":
            shown = following[0][1] if following and following[0][0] == "text" else "…\n"
            yield body, shown
        elif kind == "yaml":
            yield f"cat > first.yaml <<'END'\n{body}END\n", "…\n"
        else:
            assert kind == "text", f"a block of a kind that nobody runs: {kind}"


def pattern(shown: str) -> re.Pattern[str]:
    """What an output must match, blanks at the ends of lines aside."""
    lines = ["(?:.*\n)*?" if line == "…" else re.escape(line).replace("…", ".+?") + "\n" for line in shown.splitlines()]
    return re.compile("".join(lines))


@pytest.mark.netns
def test_tutorial(tmp_path: Path) -> None:
    if os.geteuid() != 0 and os.environ.get("CI") != "true":
        pytest.skip("needs root")
    found = list(steps())
    script = "mkdir -p /run/netns; mount -t tmpfs tmpfs /run/netns; ip link set dev lo up\n"
    script += "".join(f"(set -e\n{commands}) 2>&1\necho '{MARK}' $?\n" for commands, _ in found)
    path = f"{Path(sys.executable).parent}:/usr/sbin:/sbin:{os.environ['PATH']}"
    places = {"DUCTWORK_RUN": str(tmp_path / "run"), "DUCTWORK_STATE": str(tmp_path / "state"), "PATH": path}
    argv = ["unshare", "--net", "--mount", "--propagation", "private", "sh"]
    done = subprocess.run(
        argv, input=script, cwd=tmp_path, env={**os.environ, **places}, capture_output=True, text=True, check=False
    )
    printed = re.findall(rf"(.*?){MARK} (\d+)\n", done.stdout, re.DOTALL)
    assert len(printed) == len(found) > 10, done
    for (commands, shown), (output, code) in zip(found, printed, strict=True):
        tidy = "".join(f"{line.rstrip()}\n" for line in output.splitlines())
        assert pattern(shown).fullmatch(tidy), f"{commands}\n--- shown\n{shown}\n--- printed\n{tidy}"
        assert (code == "0") == ("error:" not in shown), f"{commands}: exit code {code}"
