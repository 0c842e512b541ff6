"""NICs that are in containers: what they had on the host, which the kernel forgets when they leave, and when it comes back.

Invariant: kept in the journal before a NIC leaves; given back when nobody is to have the NIC any more and it is there again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ductwork import desire
from ductwork.journal import Journal
from ductwork.resources import HOST, Address, Create, Key, Link, NicSpec, Operation, Resource, Route, State, Sysctl
from ductwork.services.uplink import device_paths


class LentNics:
    """`read_paths`: the values of parameters below /proc/sys."""

    def __init__(self, journal: Journal, read_paths: Callable[[Iterable[str]], dict[str, str]]) -> None:
        self._journal = journal
        self._read_paths = read_paths

    def note(self, operations: Iterable[Operation], state: State) -> None:
        """Before they leave: all that others have put on them."""
        leaving = [
            o.after.spec.device
            for o in operations
            if isinstance(o, Create) and isinstance(o.after, Link) and isinstance(o.after.spec, NicSpec)
        ]
        known = self._journal.lent()
        for device in leaving:
            if device not in known and _is_at_home(device, state):
                known[device] = (*self._on(device, state), *self._parameters(device))
        if leaving:
            self._journal.keep_lent(known)

    def to_give_back(self, desired: State, state: State, mine: Callable[[Resource], bool]) -> list[Resource]:
        """What belongs on the NICs that are to be at home: nobody wants them, and whoever has them lets them go."""
        kept, away = self._journal.lent(), desire.lent(state)
        there = {device for device in kept if (mine(away[device]) if device in away else _is_at_home(device, state))}
        there -= desire.lent(desired).keys()
        return [resource for device, its in kept.items() if device in there for resource in its]

    def to_mend(self, desired: State) -> set[Key]:
        """The NICs that are to be as they were: whoever brought one home may have been killed before it was."""
        return {Key("link", HOST, (device,)) for device in self._journal.lent()} & desired.keys()

    def settle(self, state: State, *, sure: bool) -> list[str]:
        """Forget those that are at home again, with all that they had; and those that are nowhere, which are given, where it is
        `sure` that all containers have been looked at."""
        kept, away = self._journal.lent(), desire.lent(state)
        lost = [device for device in kept if device not in away and not _is_at_home(device, state)]
        left = {device: its for device, its in kept.items() if device in away or (device in lost and not sure)}
        if left != kept:
            self._journal.keep_lent(left)
        return lost if sure else []

    @staticmethod
    def _on(device: str, state: State) -> list[Resource]:
        return [
            r
            for r in state.values()
            if r.netns == HOST
            and not r.owner
            and (
                (isinstance(r, Link) and r.name == device)
                or (isinstance(r, Address | Route) and r.link == device and not (isinstance(r, Route) and r.protocol == 2))
            )
        ]

    def _parameters(self, device: str) -> list[Sysctl]:
        """Those that are not what a link gets that comes into the namespace."""
        own = self._read_paths(device_paths([device]))
        usual = self._read_paths(device_paths(["default"]))
        return [
            Sysctl(HOST, path, value, link=device)
            for path, value in own.items()
            if value != usual.get(path.replace(f"/{device}/", "/default/"))
        ]


def _is_at_home(device: str, state: State) -> bool:
    return Key("link", HOST, (device,)) in state
