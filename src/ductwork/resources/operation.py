"""The three things that can be done to a resource, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ductwork.resources.base import Argv, Key, Place, Resource


@dataclass(frozen=True, slots=True)
class Create:
    after: Resource

    @property
    def target(self) -> Resource:
        return self.after

    def argv(self, place: Place) -> list[Argv]:
        return self.after.create_argv(place)


@dataclass(frozen=True, slots=True)
class Delete:
    before: Resource

    @property
    def target(self) -> Resource:
        return self.before

    def argv(self, place: Place) -> list[Argv]:
        return self.before.delete_argv(place)


@dataclass(frozen=True, slots=True)
class Update:
    """A change in place, atomic where the kernel has an atomic replace."""

    before: Resource
    after: Resource

    @property
    def target(self) -> Resource:
        return self.after

    def argv(self, place: Place) -> list[Argv]:
        return self.after.update_argv(self.before, place)


Operation = Create | Delete | Update


def key_of(operation: Operation) -> Key:
    return operation.target.key


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an operation; `error` is empty where it worked, else the kernel's or the tool's own words."""

    operation: Operation
    error: str = ""


class Backend(Protocol):
    """Reads and changes some kinds of resources, in the network namespace of the calling thread.

    `netns` is the name under which that namespace appears in keys (`HOST` or a container). `gate` is called with "before"
    and "after" around each send to the kernel (each system call or program that changes anything): the crash tests hang on it.
    """

    kinds: frozenset[type]

    def read(self, netns: str, links: frozenset[str] | None) -> list[Resource]:
        """What is there, foreign things included (owner None). `links`: only links of these names, and their ports."""

    def apply(self, netns: str, operations: Sequence[Operation]) -> list[Outcome]:
        """Do them in order; go on past errors; one outcome per operation, in order. "Not found" on Delete is success."""
