"""Container runtimes: a container's name → its network namespace. One file per runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

LABEL_PREFIX = "ductwork."
VARIABLE_PART = "pipework_cmd"
COMPOSE_PREFIX = "com.docker.compose."


@dataclass(frozen=True, slots=True)
class Tags:
    """What a container's maker has written on it, and that may be meant for us: labels that begin with `ductwork.` or
    Compose's prefix, environment variables with `pipework_cmd` in their names. Anybody may write anything there."""

    name: str
    identity: str
    hostname: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def asks(self) -> bool:
        """Whether there is anything for us in it."""
        return bool(self.variables) or any(key.startswith(LABEL_PREFIX) for key in self.labels)


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A running container's network namespace.

    `open`: a new file descriptor of the namespace, checked to be that container's still; raises `ContainerError` when the
    container is gone. `place`: what `ip … netns` takes: a name of `ip netns`, or a path (a PID could be such a name).
    `mode`: `bridge`, `host`, `none`, `container:NAME`. `tags`: where the runtime has such things.
    """

    runtime: str
    name: str
    place: str
    open: Callable[[], int]
    mode: str = "none"
    tags: Tags | None = None


class Runtime(Protocol):
    name: ClassVar[str]

    def find(self, names: list[str]) -> dict[str, Sandbox | None]:
        """For each name that this runtime knows: its sandbox, or None where it is not running; unknown names are left out.

        Errors: `ContainerError` where the runtime cannot be asked (its daemon does not answer)."""


@runtime_checkable
class Tagging(Protocol):
    """A runtime whose containers have labels."""

    def tagged(self) -> dict[str, Tags]:
        """The running containers that ask for something, by name. Errors: as `Runtime.find`."""
