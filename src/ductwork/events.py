"""What the agent waits for: things that happen, and where they are told.

Invariant: an event says where to look, never what to do; what is to be done comes from looking.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Event:
    """`text`: what has happened, for the log. `container`: to which (RUNTIME:NAME), "": to the host. `started`: it runs now,
    and was not there, or not by this name."""

    text: str
    container: str = ""
    started: bool = False


class Source(Protocol):
    """Where events are told. It is there from when it is made until it is closed; making one raises `OSError` or
    `DuctworkError` where nobody is there to listen to.

    `mask`: what poll(2) is to wait for at `fileno`.
    """

    mask: ClassVar[int]

    def fileno(self) -> int: ...

    def take(self) -> Sequence[Event]:
        """What has been told since; does not wait. Errors: `OSError`, when whoever tells has gone: make another one."""

    def close(self) -> None: ...


@runtime_checkable
class Following(Source, Protocol):
    """A source that hears only of those that it was asked for."""

    def follow(self, containers: Collection[str]) -> Sequence[Event]:
        """From now on of these, as attachments name them, and of no others. Gives what has become of them since it was last
        called."""
