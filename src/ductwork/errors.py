"""Every error a person can meet.

    DuctworkError                     exit 1
    ├── UsageError                    exit 2: wrong command line; nothing was touched
    │   └── SiteError                 exit 2: the site file's mistakes, all at once
    ├── ConflictError                 an object that is not ours is in the way
    ├── ApplyError                    the kernel or a tool refused; what was begun was taken back
    │   └── RollbackError             … and taking it back failed too; the message says what is left
    ├── ContainerError                a container that cannot be attached
    ├── AddressInUseError             another machine of the LAN has the address
    ├── LabelError                    a container's labels ask for what cannot be, or what the site does not permit
    ├── AllocationError               no address left, or the one asked for is taken
    ├── BusyError                     another ductwork holds the lock (try again)
    ├── MissingToolError              a program, kernel feature or right that this needs is not there
    ├── NothingToUndoError            undo without a recorded change
    ├── AgentError                    no agent, or none that answers as one
    ├── AwaitingError                 another change awaits confirmation (try again)
    ├── NothingToConfirmError         confirm without a change that awaits it
    └── RefusedError                  who asks the agent may not (`agent/admission.py`)

Invariant: an error has a stable `code`, says what was wanted and found, and carries the next step as `hint`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


class DuctworkError(Exception):
    """What went wrong, in one sentence, with the next step in `hint`."""

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1
    retry: ClassVar[bool] = False

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(DuctworkError):
    code = "usage"
    exit_code = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a site file.

    `path` leads to the value in the file (`("networks", "pods", "subnet")`); `on_key` points at the key, not its value.
    `line` and `column` start at 1; 0 means that the position is not known yet.
    """

    path: tuple[str | int, ...]
    message: str
    hint: str = ""
    on_key: bool = False
    line: int = 0
    column: int = 0


class SiteError(UsageError):
    """All mistakes of one site file."""

    code = "site"

    def __init__(self, file: str, problems: Sequence[Problem]) -> None:
        self.file = file
        self.problems = tuple(problems)
        count = len(self.problems)
        super().__init__(f"{file}: {count} mistake{'s' if count != 1 else ''}; nothing was touched")


class ConflictError(DuctworkError):
    code = "conflict"


class ApplyError(DuctworkError):
    code = "apply"


class RollbackError(ApplyError):
    code = "rollback"


class ContainerError(DuctworkError):
    code = "container"


class AddressInUseError(DuctworkError):
    code = "address-in-use"


class AllocationError(DuctworkError):
    code = "allocation"


class LabelError(DuctworkError):
    code = "label"


class BusyError(DuctworkError):
    code = "busy"
    retry = True


class MissingToolError(DuctworkError):
    code = "missing-tool"


class NothingToUndoError(DuctworkError):
    code = "nothing-to-undo"


class AgentError(DuctworkError):
    code = "agent"


class AwaitingError(DuctworkError):
    code = "awaiting"
    retry = True


class NothingToConfirmError(DuctworkError):
    code = "nothing-to-confirm"


class Interrupted(KeyboardInterrupt):
    """By ctrl-C, while somebody else was at it; says what becomes of that."""
