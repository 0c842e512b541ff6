"""What the kernel cannot tell again: former values of what is not ours, and what undo leads back to.

Invariant: written before the operation that it is about; it lives in /run, as long as the kernel's state does, in a
directory of the host namespace's cookie. A value is put back only while the present one is still ours.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ductwork import serial
from ductwork.errors import BusyError
from ductwork.netns import RUN_DIRECTORY
from ductwork.resources import HOST, Key, Resource

_LOCK_SECONDS = 60.0
_UNDER_WAY, _LAST, _FORMERS, _GUESTS = "under-way.json", "last", "formers.json", "guests.json"
_LENT, _DATABASES, _CONFIRM = "lent.json", "databases.json", "confirm.json"


@dataclass(slots=True)
class Former:
    """A sysctl that we changed: its value before, ours, that of its `services.nat.governor` at the time ("" without one),
    and which sites need ours."""

    before: str
    ours: str
    governor: str = ""
    needed_by: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Change:
    """A change: `before` holds each key that it touched with what was there (None: nothing), `formers` what was known then of
    foreign values. Changes with the same `token`, unless it is empty, are one to `undo`."""

    title: str
    before: Mapping[Key, Resource | None]
    formers: Mapping[str, Former]
    token: str = ""


@dataclass(frozen=True, slots=True)
class Awaiting:
    """A change that is taken back unless somebody confirms it until `deadline` (CLOCK_BOOTTIME). `who` makes it in process
    `pid`, which began at the clock tick `started`; `applied`: it has come to its end."""

    token: str
    title: str
    who: str
    seconds: int
    deadline: float
    pid: int
    started: int
    applied: bool = False


class Journal:
    """The journal of one host namespace."""

    def __init__(self, cookie: int, run_directory: Path = RUN_DIRECTORY) -> None:
        self._directory = str(run_directory / str(cookie))
        self._locked = False
        self._token = ""
        self._crashed: Change | None = None

    @property
    def directory(self) -> str:
        return self._directory

    @contextmanager
    def lock(self) -> Iterator[None]:
        """One change at a time for each host namespace; waits, and says so by `BusyError` after a minute. Whoever has it may
        take it again."""
        if self._locked:
            yield
            return
        os.makedirs(self._directory, exist_ok=True, mode=0o700)
        with open(self._path("lock"), "a", opener=_for_root) as file:
            deadline = time.monotonic() + _LOCK_SECONDS
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        hint = f"see who holds {file.name} (`fuser -v {file.name}`), then try again"
                        raise BusyError("another ductwork has been changing this host for a minute", hint) from None
                    time.sleep(0.02)
            self._locked = True
            try:
                yield
            finally:
                self._locked = False

    @contextmanager
    def together(self) -> Iterator[None]:
        """All changes made within are one to `undo`; nobody else's come between them."""
        with self.lock():
            self._token = os.urandom(8).hex()
            try:
                yield
            finally:
                self._token = ""

    def formers(self) -> dict[str, Former]:
        """path below /proc/sys → what it was before us."""
        return _decoded_formers(self._read(_FORMERS) or {})

    def keep_formers(self, formers: Mapping[str, Former]) -> None:
        if not formers:
            self._remove(_FORMERS)
            return
        self._write(_FORMERS, _encoded_formers(formers))

    def guests(self) -> frozenset[str] | None:
        """The containers with links of ours that no mark on the host tells of; None: not known (any more)."""
        names = self._read(_GUESTS)
        return frozenset(names) if isinstance(names, list) else None

    def keep_guests(self, names: frozenset[str]) -> None:
        if names != self.guests():
            self._write(_GUESTS, sorted(names))

    def databases(self) -> frozenset[str]:
        """The addresses of the Open vSwitch databases that have had something of ours, beside the machine's own."""
        return frozenset(self._read(_DATABASES) or ())

    def add_databases(self, addresses: frozenset[str]) -> None:
        known = self.databases()
        if addresses - known:
            self._write(_DATABASES, sorted(known | addresses))

    def lent(self) -> dict[str, tuple[Resource, ...]]:
        """NIC that is in a container → what it had on the host."""
        return {device: serial.decode(its) for device, its in (self._read(_LENT) or {}).items()}

    def keep_lent(self, nics: Mapping[str, tuple[Resource, ...]]) -> None:
        if not nics:
            self._remove(_LENT)
            return
        self._write(_LENT, {device: serial.encode(its) for device, its in nics.items()})

    def awaiting(self) -> Awaiting | None:
        """The change that awaits confirmation."""
        try:
            entry = self._read(_CONFIRM)
            return entry and Awaiting(**entry)
        except TypeError:
            return None  # another version's

    def await_confirmation(self, awaiting: Awaiting | None) -> None:
        """From now on every change is part of it; None: it awaits none any more."""
        if awaiting is None:
            self._remove(_CONFIRM)
        else:
            self._write(_CONFIRM, asdict(awaiting))

    def last_change(self) -> Change | None:
        """The change under way when a process died, else the last one that was completed. Where one awaits confirmation, that
        one alone, as far as it has been begun."""
        under_way = self._read_change(_UNDER_WAY)
        changes = [change for name in self._completed() if (change := self._read_change(name))]
        if under_way:
            together = bool(changes) and changes[0].token == under_way.token != ""
            changes = [*changes, under_way] if together else [under_way]
        awaiting = self.awaiting()
        if not changes or (awaiting and changes[0].token != awaiting.token):
            return None
        before = {key: resource for change in reversed(changes) for key, resource in change.before.items()}
        return Change(changes[0].title, before, changes[0].formers, changes[0].token)

    def interrupted(self) -> tuple[str, ...]:
        """The containers of a change under way whose process died: what it parked in them, no mark on the host tells of."""
        crashed = self._read_change(_UNDER_WAY)
        return tuple(sorted({key.netns for key in crashed.before} - {HOST})) if crashed else ()

    def begin(self, title: str, before: Mapping[Key, Resource | None], *, again: bool = False) -> Change:
        """Note what is about to be touched; `again`: by the change that is under way already. After a crash half-way, what
        the dead process noted is still what undo leads back to."""
        formers: Mapping[str, Former] = self.formers()
        crashed = self._read_change(_UNDER_WAY)
        if crashed is not None:
            before, formers = {**before, **crashed.before}, crashed.formers
        if not again:
            self._crashed = crashed
        awaiting = self.awaiting()
        change = Change(title, before, formers, awaiting.token if awaiting else self._token)
        self._write_change(change)
        return change

    def complete(self, change: Change) -> None:
        """The change under way is the last one now, or one more of its token."""
        kind = f"{_LAST}-{change.token}-"
        completed = self._completed()
        same = [name for name in completed if change.token and name.startswith(kind)]
        target = f"{kind}{len(same):06}.json"
        for name in completed:
            if name not in same and name != target:
                self._remove(name)
        os.replace(self._path(_UNDER_WAY), self._path(target))

    def forget_change_under_way(self) -> None:
        """It was taken back: what was there before it, a dead process's change too, is as it was."""
        if self._crashed is not None:
            self._write_change(self._crashed)
        else:
            self._remove(_UNDER_WAY)

    def forget_changes(self) -> None:
        """There is none any more, nor does one await confirmation."""
        for name in (_UNDER_WAY, *self._completed(), _CONFIRM):
            self._remove(name)

    def _completed(self) -> list[str]:
        """The files of the last change that was completed, the oldest first."""
        try:
            return sorted(name for name in os.listdir(self._directory) if name.startswith(f"{_LAST}-"))
        except FileNotFoundError:
            return []

    def _write_change(self, change: Change) -> None:
        before = [[serial.encode(key), serial.encode(resource)] for key, resource in change.before.items()]
        formers = _encoded_formers(change.formers)
        self._write(_UNDER_WAY, {"title": change.title, "token": change.token, "formers": formers, "before": before})

    def _read_change(self, name: str) -> Change | None:
        entry = self._read(name)
        try:
            formers = _decoded_formers(entry["formers"]) if entry else {}
            return entry and Change(entry["title"], _decoded(entry["before"]), formers, entry["token"])
        except (KeyError, TypeError, ValueError):
            return None  # another version's

    def _path(self, name: str) -> str:
        return f"{self._directory}/{name}"

    def _read(self, name: str) -> Any:
        try:
            with open(self._path(name), encoding="utf-8") as file:
                return json.load(file)
        except (FileNotFoundError, ValueError):
            return None

    def _write(self, name: str, content: object) -> None:
        """Whole or not at all, for whoever reads after a crash of this process. The lock's holder has made the directory,
        unless somebody has removed it since."""
        scratch = self._path(f".{name}.{os.getpid()}")
        os.makedirs(self._directory, exist_ok=True, mode=0o700)
        with open(scratch, "w", encoding="utf-8", opener=_for_root) as file:
            file.write(json.dumps(content, separators=(",", ":")))
        os.replace(scratch, self._path(name))

    def _remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self._path(name))


def _for_root(path: str, flags: int) -> int:
    """The agent's group may reach its socket, in the same folder, and nothing else there."""
    return os.open(path, flags, 0o600)


def _decoded(before: list[list[Any]]) -> dict[Key, Resource | None]:
    return {serial.decode(key): serial.decode(resource) for key, resource in before}


def _encoded_formers(formers: Mapping[str, Former]) -> dict[str, dict[str, Any]]:
    return {path: {**asdict(former), "needed_by": sorted(former.needed_by)} for path, former in formers.items()}


def _decoded_formers(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Former]:
    return {path: Former(e["before"], e["ours"], e.get("governor", ""), set(e["needed_by"])) for path, e in entries.items()}
