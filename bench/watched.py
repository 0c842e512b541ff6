"""The command `ductwork`, noting how long the parts of plugging in take: `python -m bench.watched FILE agent …`.

Invariant: the command does what it does otherwise; one JSON object a line for each container that was plugged in, its times in
seconds on the clock that all processes share (CLOCK_MONOTONIC), its parts as lengths.
"""

from __future__ import annotations

import functools
import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from ductwork.cli.main import main
from ductwork.engine import Engine
from ductwork.events import Event
from ductwork.reconciler import Reconciler
from ductwork.runtimes.docker_events import DockerEvents
from ductwork.runtimes.resolver import Resolver

PARTS = {
    "asking": (Resolver, "resolve"),
    "reading": (Reconciler, "_read"),
    "planning": (Reconciler, "_plan"),
    "executing": (Reconciler, "_execute"),
}
"""Part → the method in which it is spent; reading includes asking."""


def _watch(file: str) -> None:
    spent: dict[str, float] = {}
    heard = 0.0
    main_thread = threading.current_thread()

    def timed(part: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(*args: Any, **options: Any) -> Any:
            began = time.monotonic()
            try:
                return method(*args, **options)
            finally:
                if threading.current_thread() is main_thread:
                    spent[part] = spent.get(part, 0.0) + time.monotonic() - began

        return call

    for part, (owner, name) in PARTS.items():
        setattr(owner, name, timed(part, getattr(owner, name)))
    take, plug_in = DockerEvents.take, Engine.plug_in

    def taken(self: DockerEvents) -> Sequence[Event]:
        nonlocal heard
        found = take(self)
        heard = time.monotonic() if any(event.started for event in found) else heard
        return found

    def plugged(*args: Any, **options: Any) -> Any:
        spent.clear()
        began = time.monotonic()
        report = plug_in(*args, **options)
        with open(file, "a") as output:
            output.write(json.dumps({"container": args[3], "heard": heard, "began": began, "ended": time.monotonic(), **spent}))
            output.write("\n")
        return report

    DockerEvents.take = taken  # type: ignore[method-assign]
    Engine.plug_in = plugged  # type: ignore[method-assign]


if __name__ == "__main__":
    _watch(sys.argv.pop(1))
    main()
