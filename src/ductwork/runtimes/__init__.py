"""Container runtimes: a container's name → its network namespace. One file per runtime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A running container's network namespace.

    `open`: a new file descriptor of the namespace, checked to be that container's still; raises `ContainerError` when the
    container is gone. `place`: what `ip … netns` takes: a name of `ip netns`, or a path (a PID could be such a name).
    `mode`: `bridge`, `host`, `none`, `container:NAME`.
    """

    runtime: str
    name: str
    place: str
    open: Callable[[], int]
    mode: str = "none"


class Runtime(Protocol):
    name: ClassVar[str]

    def find(self, names: list[str]) -> dict[str, Sandbox | None]:
        """For each name that this runtime knows: its sandbox, or None where it is not running; unknown names are left out.

        Errors: `ContainerError` where the runtime cannot be asked (its daemon does not answer)."""
