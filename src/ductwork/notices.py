"""What the agent tells: a record of each thing that it does or meets, from which its log, `ductwork events` and its figures
are made.

Invariant: `message` says in words what the other fields say; who wants to compute reads the fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_NAMED = 3
"""So many things are written out in a message."""


@dataclass(frozen=True, slots=True)
class Notice:
    """`kind`: see docs/reference/api.md; `level`: debug, info, warning, error. `time`: UTC, as in RFC 3339. `resources`: what
    was changed; `cause`: what led to it; `code`: of an error; `seconds`: how long it took, or will last; `number`: how
    many."""

    kind: str
    message: str
    level: str = "info"
    time: str = ""
    container: str = ""
    resources: tuple[str, ...] = ()
    cause: str = ""
    code: str = ""
    seconds: float | None = None
    number: int | None = None


def named(things: Sequence[str]) -> str:
    """The first ones, and how many more there are."""
    more = f" and {len(things) - _NAMED} more" if len(things) > _NAMED else ""
    return ", ".join(things[:_NAMED]) + more
