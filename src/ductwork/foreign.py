"""Foreign sysctls that we change: what they were, who needs ours, and when they go back.

Invariant: a former value is journalled before it is changed, and put back only while the present one is still ours: nobody
has written it since, nor the switch that resets it (`services.nat.governor`), and no site needs it any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from ductwork.journal import Former, Journal
from ductwork.relocation import uplinks
from ductwork.resources import HOST, Key, Link, Operation, Resource, State, Sysctl, Update
from ductwork.services.nat import governor, lent_paths
from ductwork.services.uplink import no_ipv6_path

EVERYBODY = "*"
"""The needs of all sites at once."""


class SysctlReader(Protocol):
    def read_paths(self, paths: Iterable[str]) -> dict[str, str]: ...


def _is_part(name: str, needs: str) -> bool:
    """A site's needs stand for those of its parts, `SITE/PART`."""
    return name == needs or name.startswith(f"{needs}/")


class ForeignValues:
    """`needs`, everywhere: the site that asks, or EVERYBODY, or "" for who needs none and lets none go."""

    def __init__(self, journal: Journal, sysctls: SysctlReader) -> None:
        self._journal = journal
        self._sysctls = sysctls

    def without_us(self, values: Mapping[str, str], state: State) -> dict[str, str]:
        """The values as they would be if there were no ductwork here."""
        return {**values, **{path: former.before for path, former in self._ours(state).items() if path in values}}

    def to_put_back(self, needs: str, needed: Iterable[str], state: State) -> list[Resource]:
        """What nobody but `needs` needed, and it needs no more."""
        wanted = set(needed)
        return [
            Sysctl(HOST, path, former.before)
            for path, former in self._ours(state).items()
            if needs and path not in wanted and (needs == EVERYBODY or all(_is_part(name, needs) for name in former.needed_by))
        ]

    def note(self, needs: str, needed: Iterable[str], operations: Iterable[Operation], state: State) -> None:
        """Before the operations are done: what they change for `needs`."""
        formers = self._known(state)
        wanted = set(needed)
        for operation in operations:
            if isinstance(operation, Update) and isinstance(operation.after, Sysctl) and isinstance(operation.before, Sysctl):
                path = operation.after.path
                if path in wanted and path not in formers:
                    ruled_by = governor(path)
                    value = self._sysctls.read_paths([ruled_by]).get(ruled_by, "") if ruled_by else ""
                    formers[path] = Former(operation.before.value, operation.after.value, value)
        for path in wanted & formers.keys():
            formers[path].needed_by.add(needs)
        if formers:
            self._journal.keep_formers(formers)

    def settle(self, needs: str, needed: Iterable[str], state: State) -> None:
        """After the change: forget what has been put back, or is not ours any more."""
        left = self._ours(state)
        wanted = set(needed)
        for path, former in left.items() if needs else ():
            if path in wanted:
                former.needed_by.add(needs)
            else:
                former.needed_by -= {name for name in former.needed_by if _is_part(name, needs)}
        self._journal.keep_formers(left)

    def go_back_to(self, formers: Mapping[str, Former]) -> None:
        """After undo: what was known before the change is what is known."""
        self._journal.keep_formers(self._still_ours(formers))

    def _ours(self, state: State) -> dict[str, Former]:
        return self._still_ours(self._known(state))

    def _known(self, state: State) -> dict[str, Former]:
        """What is journalled; where the journal was lost, what our marks tell: then every site that is here may need it."""
        formers = self._journal.formers()
        lost = [path for path in lent_paths(state.values()) if path not in formers]
        if lost:
            sites = {r.owner.site for r in state.values() if isinstance(r, Link) and r.kind == "bridge" and r.owner}
            formers |= {path: Former("0", "1", "0" if governor(path) else "", set(sites)) for path in lost}
        for nic, bridge in uplinks(state.values()).items():
            if no_ipv6_path(nic) not in formers and not self._had_no_ipv6(bridge):
                site = next(r.owner.site for r in (state[Key("link", HOST, (bridge,))],) if r.owner)
                formers[no_ipv6_path(nic)] = Former("0", "1", "", {site})
        return formers

    def _had_no_ipv6(self, bridge: str) -> bool:
        """Whether the bridge's NIC had no IPv6 before us: then the bridge was given none either."""
        path = no_ipv6_path(bridge)
        return self._sysctls.read_paths([path]).get(path) == "1"

    def _still_ours(self, formers: Mapping[str, Former]) -> dict[str, Former]:
        if not formers:
            return {}
        present = self._sysctls.read_paths({*formers, *filter(None, map(governor, formers))})
        return {
            path: former
            for path, former in formers.items()
            if present.get(path) == former.ours and present.get(governor(path), "") == former.governor
        }
