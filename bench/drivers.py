"""How long each driver takes to attach one container, by the engine.

Invariant: each driver has a stage of its own, and all attach alike: the interface and the address are told, and nobody is
asked whether he has the address.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench.hosts import PREFIX, namespaces
from bench.measure import Table, attaches, take_turns
from bench.ours import ENGINE_TARGET_MS
from bench.peers import Namespaced
from bench.stages import Kind, Ours, Stage

_NOTE = "every row: address and interface told; no duplicate address detection (`--no-dad`), which waits 200 ms on a LAN"


class ByDriver(Namespaced):
    """One engine for all its containers, as in the agent."""

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind.name, f"d-{kind.key}")
        self.stage = Stage(kind, f"d-{kind.key}")
        self.target = ENGINE_TARGET_MS if kind.key == "bridge" else None
        self.note = _NOTE if kind.key == "bridge" else ""
        self._folder = tempfile.TemporaryDirectory(prefix=PREFIX)
        self._ours: Ours | None = None

    def prepare(self) -> None:
        self.stage.build()
        self._ours = Ours(self.stage, "alpha", Path(self._folder.name))

    def attach(self, number: int) -> None:
        assert self._ours
        self._ours.attach(self.container(number), number)

    def close(self) -> None:
        if self._ours:
            self._ours.close()
        self.stage.close()
        self._folder.cleanup()


def table(kinds: list[Kind], rounds: int) -> Table:
    contenders = [ByDriver(kind) for kind in kinds]
    names = [name for c in contenders for name in (c.stage.alpha, c.stage.beta, *map(c.container, range(attaches(rounds))))]
    with ExitStack() as stack:
        stack.enter_context(namespaces(names))
        for contender in contenders:
            stack.callback(contender.close)
        for contender in contenders:
            contender.prepare()
        return Table(
            "attaching one container by the engine, driver by driver, in turns", tuple(take_turns(contenders, rounds)), "bridge"
        )
