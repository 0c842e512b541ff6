"""Namespaces of containers that a NIC of the host's is in, held open: a virtual NIC dies with its namespace (a real one comes
home by itself, down and bare), and so lives until it is fetched.

Invariant: a namespace is held only while a NIC that we have lent is in it, since what is held keeps answering for a dead
container's addresses. Its inode is nobody else's meanwhile, so that whoever has the same one is in it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from ductwork import desire, netns
from ductwork.goals import Observation
from ductwork.resources import HOST, Create, Link, NicSpec, Operation
from ductwork.runtimes import Sandbox, Tags
from ductwork.system import Resolve, Visit


@dataclass(frozen=True, slots=True)
class _Held:
    fd: int
    cookie: int

    def is_dead(self) -> bool:
        """Nobody is in it, nor does `ip netns` have a name for it. Runtimes are not asked: one that does not answer, as when
        it is started anew, says nothing about its containers."""
        return netns.identity(f"/proc/self/fd/{self.fd}") not in netns.all_identities()


class HeldNamespaces:
    """Finds containers as `resolver` does, but dead ones in their stead when it is told to. `cookie`: of the namespace in which
    it is called."""

    def __init__(self, resolver: Resolve, visitor: Visit, cookie: Callable[[], int]) -> None:
        self._resolver = resolver
        self._visitor = visitor
        self._cookie = cookie
        self._held: dict[str, _Held] = {}
        self._back: Mapping[str, int] = {}
        """Those that are found in place of the living."""

    @property
    def notes(self) -> list[str]:
        return self._resolver.notes

    def resolve(self, references: Iterable[str]) -> dict[str, Sandbox | None]:
        asked = list(references)
        found = self._resolver.resolve(name for name in asked if name not in self._back)
        return {name: self._sandbox(name) if name in self._back else found[name] for name in asked}

    def tagged(self) -> tuple[dict[str, Tags], frozenset[str]]:
        return self._resolver.tagged()

    def gone(self, references: Iterable[str]) -> set[str]:
        return self._resolver.gone(references)

    def stopped(self, references: Iterable[str]) -> set[str]:
        return self._resolver.stopped(references)

    def _sandbox(self, name: str) -> Sandbox:
        fd = self._held[name].fd
        return Sandbox(name.partition(":")[0], name, f"/proc/{os.getpid()}/fd/{fd}", partial(os.dup, fd))

    def expect(self, operations: Iterable[Operation], observation: Observation, open_netns: Callable[[str], int]) -> None:
        """Before any NIC leaves: the container may die at the next moment."""
        for o in operations:
            known = observation.facts.containers.get(o.target.netns)
            if known and isinstance(o, Create) and isinstance(o.after, Link) and isinstance(o.after.spec, NicSpec):
                self._hold(o.target.netns, known.cookie, open_netns)

    def keep(self, observation: Observation, open_netns: Callable[[str], int]) -> None:
        """Hold those that have a NIC by now; let those go that have none any more. What was not looked at stays."""
        having = {link.netns for link in desire.lent(observation.state).values()} - {HOST}
        for name, known in observation.facts.containers.items():
            held = self._held.get(name)
            if held and held.cookie == known.cookie and name not in having:
                self._let_go(name)
            elif name in having:
                self._hold(name, known.cookie, open_netns)

    @property
    def cookies(self) -> dict[str, int]:
        """Container → that of its namespace, of those that are held."""
        return {name: held.cookie for name, held in self._held.items()}

    def dead(self) -> dict[str, int]:
        """Container → the cookie of its former namespace, of those that have died, or run in another one by now."""
        gone = {name: held.cookie for name, held in self._held.items() if held.is_dead()}
        return gone | {name: self._held[name].cookie for name in self._held.keys() - gone.keys() if self._is_elsewhere(name)}

    @contextmanager
    def standing_in(self, names: Mapping[str, int]) -> Iterator[None]:
        """Within, these are found in the namespaces that are held."""
        self._back = names
        try:
            yield
        finally:
            self._back = {}

    def close(self) -> None:
        for name in list(self._held):
            self._let_go(name)

    def _hold(self, name: str, cookie: int, open_netns: Callable[[str], int]) -> None:
        if name in self._held and self._held[name].cookie == cookie:
            return
        try:
            fd = open_netns(name)
        except Exception:
            return  # it has died just now
        if self._visitor.visit([(partial(os.dup, fd), self._cookie)]) == [cookie]:
            if name in self._held:
                self._let_go(name)
            self._held[name] = _Held(fd, cookie)
        else:
            os.close(fd)

    def _let_go(self, name: str) -> None:
        os.close(self._held.pop(name).fd)

    def _is_elsewhere(self, name: str) -> bool:
        sandbox = self._resolver.resolve([name])[name]
        if sandbox is None:
            return False
        [cookie] = self._visitor.visit([(sandbox.open, self._cookie)])
        return not isinstance(cookie, Exception) and cookie != self._held[name].cookie
