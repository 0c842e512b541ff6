"""From the site file's references to sandboxes: `RUNTIME:NAME`, or `NAME` alone.

Invariant: a runtime is built only when a reference may be its, and asked once per call; what cannot be found is
waiting, never an error, but a name that two runtimes have is never guessed at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from ductwork.errors import ContainerError
from ductwork.runtimes import Runtime, Sandbox, Tagging, Tags


class Resolver:
    """`runtimes`: what makes each runtime. `notes`: why the last call's containers could not even be asked about."""

    def __init__(self, runtimes: Mapping[str, Callable[[], Runtime]]) -> None:
        self._factories = runtimes
        self._built: dict[str, Runtime] = {}
        self.notes: list[str] = []

    def resolve(self, references: Iterable[str]) -> dict[str, Sandbox | None]:
        """Each reference's sandbox, or None while it is waiting: not there, or not running.

        Errors: `ContainerError` for a bare name that two runtimes have, running or not, and for a runtime unknown here.
        """
        self.notes = []
        found, split = self._ask(references)
        return {
            reference: next((its[name] for r, its in found.items() if runtime in (None, r) and name in its), None)
            for reference, (runtime, name) in split.items()
        }

    def tagged(self) -> tuple[dict[str, Tags], frozenset[str]]:
        """See `system.Resolve`."""
        found: dict[str, Tags] = {}
        silent = set()
        for name in self._factories:
            try:
                runtime = self._runtime(name)
                if isinstance(runtime, Tagging):
                    found |= {f"{name}:{container}": tags for container, tags in runtime.tagged().items()}
            except ContainerError:
                silent.add(name)
        return found, frozenset(silent)

    def gone(self, references: Iterable[str]) -> set[str]:
        """See `system.Resolve`."""
        found, split = self._ask(references)
        return {
            reference
            for reference, (runtime, name) in split.items()
            if runtime in found and (name not in found[runtime] or _asks_for_nothing(found[runtime][name]))
        }

    def stopped(self, references: Iterable[str]) -> set[str]:
        """See `system.Resolve`."""
        found, split = self._ask(references)
        return {
            reference for reference, (runtime, name) in split.items() if runtime in found and found[runtime].get(name) is None
        }

    def _ask(
        self, references: Iterable[str]
    ) -> tuple[dict[str, Mapping[str, Sandbox | None]], dict[str, tuple[str | None, str]]]:
        """(what each runtime that answers has of them, and how they are read)."""
        split = {reference: self._split(reference) for reference in references}
        bare = [name for runtime, name in split.values() if runtime is None]
        found: dict[str, Mapping[str, Sandbox | None]] = {}
        for runtime in self._factories:
            named = [name for its, name in split.values() if its == runtime]
            if named or bare:
                its = self._find(runtime, list(dict.fromkeys(named + bare)), wanted=bool(named))
                if its is not None:
                    found[runtime] = its
        _refuse_ambiguous(bare, found)
        return found, split

    def _split(self, reference: str) -> tuple[str | None, str]:
        runtime, colon, name = reference.partition(":")
        if not colon:
            return None, reference
        if runtime not in self._factories:
            known = ", ".join(f"{known}:" for known in self._factories)
            raise ContainerError(f"{reference}: there is no runtime {runtime!r}", f"there are {known}")
        return runtime, name

    def _runtime(self, name: str) -> Runtime:
        if name not in self._built:
            self._built[name] = self._factories[name]()
        return self._built[name]

    def _find(self, runtime: str, names: list[str], *, wanted: bool) -> dict[str, Sandbox | None] | None:
        """None: it does not answer, and so has nothing; that is worth a note only where the file speaks of it."""
        try:
            return self._runtime(runtime).find(names)
        except ContainerError as error:
            if wanted:
                self.notes.append(f"{error.message}: {error.hint}" if error.hint else error.message)
            return None


def _asks_for_nothing(sandbox: Sandbox | None) -> bool:
    return bool(sandbox and sandbox.tags and not sandbox.tags.asks)


def _refuse_ambiguous(names: Iterable[str], found: Mapping[str, Mapping[str, object]]) -> None:
    owners = {name: [f"{runtime}:{name}" for runtime in found if name in found[runtime]] for name in names}
    several = {name: theirs for name, theirs in owners.items() if len(theirs) > 1}
    if several:
        listed = "; ".join(f"{name} is {' and '.join(theirs)}" for name, theirs in several.items())
        raise ContainerError(f"more than one runtime has a container of this name: {listed}", "write which one is meant")
