"""What one run of a program costs: wall-clock time, processor time (its own and its children's) and peak memory.

Invariant: run as a program of its own (`python -I -S process.py OUTPUT ARGV…`), it stays small. The peak that Linux reports
for a child is at least the size of the process it was forked from, so a big benchmark would measure itself.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple


class Cost(NamedTuple):
    milliseconds: float
    cpu_milliseconds: float
    peak_mib: float


def cost(*argv: str, expect: int = 0) -> Cost:
    """Run it; anything but the expected exit code is an error, with its output."""
    with tempfile.TemporaryFile("w+") as output:
        helper = [sys.executable, "-I", "-S", __file__, str(output.fileno()), *argv]
        done = subprocess.run(helper, capture_output=True, text=True, check=True, pass_fds=[output.fileno()])
        measured = json.loads(done.stdout)
        if measured["code"] != expect:
            output.seek(0)
            raise RuntimeError(f"{' '.join(argv)}: exit {measured['code']}: {output.read()[-3000:]}")
    return Cost(measured["milliseconds"], measured["cpu_milliseconds"], measured["peak_kib"] / 1024)


def _main(output: int, argv: list[str]) -> None:
    redirect = [(os.POSIX_SPAWN_DUP2, output, 1), (os.POSIX_SPAWN_DUP2, output, 2)]
    started = time.perf_counter()
    child = os.posix_spawnp(argv[0], argv, os.environ, file_actions=redirect)
    _, status, usage = os.wait4(child, 0)
    milliseconds = (time.perf_counter() - started) * 1000
    cpu = (usage.ru_utime + usage.ru_stime) * 1000
    found = {"milliseconds": milliseconds, "cpu_milliseconds": cpu, "peak_kib": usage.ru_maxrss}
    print(json.dumps(found | {"code": os.waitstatus_to_exitcode(status)}))


if __name__ == "__main__":
    _main(int(sys.argv[1]), sys.argv[2:])
