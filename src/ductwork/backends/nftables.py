"""Our nftables tables, which the program `nft` makes, and the elements in their sets, which our own codec reads and writes.

Invariant: what one call of `apply` does to tables is one transaction, and so is what it does to elements; nothing is done after
something that was refused. Tables of other names are never looked at. The codec's socket is opened in the first call, and
belongs to the namespace that it was made in, the host's.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from ductwork.backends.netlink.nfnetlink import NfnetlinkSocket, Step
from ductwork.backends.program import run
from ductwork.resources import HOST, Create, Delete, NftElement, NftTable, Operation, Outcome, Resource, Update

TABLE = "ductwork"
TABLES = (("inet", TABLE), ("bridge", TABLE))
PACKAGE = "nftables"


class NftablesBackend:
    """Reads and changes NftTable and NftElement."""

    kinds: frozenset[type] = frozenset({NftTable, NftElement})

    def __init__(self, gate: Callable[[str], None] = lambda _: None) -> None:
        self._gate = gate
        self._opened: NfnetlinkSocket | None = None

    def close(self) -> None:
        if self._opened:
            self._opened.close()
            self._opened = None

    @property
    def _socket(self) -> NfnetlinkSocket:
        self._opened = self._opened or NfnetlinkSocket()
        return self._opened

    def read(self, netns: str, links: frozenset[str] | None) -> list[Resource]:
        """Our tables, and their elements, of which `links` keeps those that name one of them. Only the host has any."""
        found: list[Resource] = []
        for family, name in TABLES if netns == HOST else ():
            table = self._socket.table(family, name)
            if table:
                elements = self._socket.elements(family, name)
                found += [table, *(e for e in elements if links is None or not links.isdisjoint(e.parts))]
        return found

    def look_up(self, elements: Sequence[NftElement]) -> list[NftElement]:
        """Those of them that are there; the sets themselves are not read. All of a port of a bridge's come and go in one
        transaction: a port that is not checked has no others."""
        found = self._look_up([element for element in elements if element.set_name == "checked"])
        checked = {element.parts[0] for element in found}
        others = [e for e in elements if e.set_name != "checked" and (e.family == "inet" or e.parts[0] in checked)]
        return found + self._look_up(others)

    def _look_up(self, elements: Sequence[NftElement]) -> list[NftElement]:
        return self._socket.look_up(elements) if elements else []

    def apply(self, netns: str, operations: Sequence[Operation]) -> list[Outcome]:
        """What lies in a table that goes is gone with it."""
        gone = {
            (o.target.family, o.target.name) for o in operations if isinstance(o, Delete) and isinstance(o.target, NftTable)
        }
        outcomes: list[Outcome] = []
        error = ""
        for are_tables, some in groupby(operations, key=lambda operation: isinstance(operation.target, NftTable)):
            its = list(some)
            if not error:
                error = self._tables(its) if are_tables else self._elements([o for o in its if not _goes_with(o, gone)])
            outcomes += [Outcome(operation, error) for operation in its]
        return [Outcome(outcome.operation, error) for outcome in outcomes] if error else outcomes

    def _tables(self, operations: Sequence[Operation]) -> str:
        """What went wrong, if anything."""
        self._gate("before")
        result = run(["nft", "-f", "-"], "".join(f"{_statement(operation)}\n" for operation in operations), PACKAGE)
        self._gate("after")
        return _words(result.err) if result.code else ""

    def _elements(self, operations: Sequence[Operation]) -> str:
        """What went wrong, if anything; again without what is to be deleted and is not there, which aborts the transaction."""
        left = [step for operation in operations for step in _steps(operation)]
        while left:
            self._gate("before")
            refused = self._socket.change(left)
            self._gate("after")
            absent = {at for at, code in refused.items() if at >= 0 and code == errno.ENOENT and not left[at].is_new}
            if not absent:
                return next((_refusal(left[at].element if at >= 0 else None, code) for at, code in refused.items()), "")
            left = [step for at, step in enumerate(left) if at not in absent]
        return ""


def _goes_with(operation: Operation, gone: set[tuple[str, str]]) -> bool:
    target = operation.target
    return isinstance(operation, Delete) and isinstance(target, NftElement) and (target.family, target.table) in gone


def _steps(operation: Operation) -> Iterator[Step]:
    if not isinstance(operation, Create):
        assert isinstance(operation.before, NftElement)
        yield Step(operation.before, is_new=False)
    if not isinstance(operation, Delete):
        assert isinstance(operation.after, NftElement)
        yield Step(operation.after, is_new=True)


def _refusal(element: NftElement | None, code: int) -> str:
    if element and code == errno.ENOENT:
        return f"table {element.family} {element.table} has no set {element.set_name} any more: apply the network's site again"
    said = f": add element {element.family} {element.table} {element.set_name} {{ {element.text} }}" if element else ""
    return os.strerror(code) + said


def _statement(operation: Operation) -> str:
    match operation:
        case Create(NftTable(script=script)) | Update(after=NftTable(script=script)):
            return script
        case Delete(NftTable(family=family, name=name)):  # of one that may be gone: nft 1.0.6 has no `destroy`
            return f"add table {family} {name}\ndelete table {family} {name}"
    raise AssertionError(f"not for nftables: {operation}")


def _words(stderr: str) -> str:
    """nft's first complaint, with the statement it means: `Error: WHAT` and, on the next line, the statement."""
    lines = stderr.strip().splitlines() or ["nft failed, and did not say why"]
    what = re.sub(r"^(\S*:\d+:\d+-\d+: )?Error: (Could not process rule: )?", "", lines[0])
    return f"{what}: {lines[1].strip()[:200]}" if len(lines) > 1 else what
