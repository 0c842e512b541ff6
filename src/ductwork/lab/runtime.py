"""The lab's stand-in for every container runtime: a container of the file is the lab's namespace for it.

Invariant: no daemon is asked; what the file does not name is not there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import ClassVar

from ductwork.lab.namespaces import open_namespace
from ductwork.lab.topology import Topology
from ductwork.runtimes import Runtime, Sandbox

_EVERY = ("docker", "podman", "netns", "pid")


class LabRuntime:
    """`name` is also what has the containers that the file names without a runtime."""

    name: ClassVar[str] = "lab"

    def __init__(self, stands_for: str, places: Mapping[str, str]) -> None:
        """`stands_for`: a runtime; `places`: container's name → namespace."""
        self._stands_for = stands_for
        self._places = places

    def find(self, names: list[str]) -> dict[str, Sandbox | None]:
        places = {name: self._places[name] for name in names if name in self._places}
        return {name: Sandbox(self._stands_for, name, place, partial(open_namespace, place)) for name, place in places.items()}


def runtimes(lab: Topology, host: str) -> dict[str, Callable[[], Runtime]]:
    """One runtime for each that there is. The engine also asks for containers of other files, whose marks it has found in
    namespaces of this machine's: they are not running."""
    places: dict[str, dict[str, str]] = {runtime: {} for runtime in _EVERY}
    for container in lab.containers:
        if container.host == host:
            qualified = [reference for reference in container.references if ":" in reference]
            for reference in qualified or [f"{LabRuntime.name}:{container.name}"]:
                runtime, _, name = reference.partition(":")
                places.setdefault(runtime, {})[name] = container.netns
    return {runtime: partial(LabRuntime, runtime, its) for runtime, its in places.items()}
