"""Our nftables tables and the elements in their sets: by way of the program `nft`, and what concerns single elements of the
bridge table, of which each attachment has some, or published ports, by our own codec.

Invariant: one call of `apply` is one transaction: all of it happens or nothing. Tables of other names are never looked at. The
codec's socket is opened in the first call, and belongs to the namespace that it was made in, the host's.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ductwork.backends.netlink import nfnetlink
from ductwork.backends.program import Result, run
from ductwork.errors import MissingToolError
from ductwork.resources import HOST, Create, Delete, Key, NftElement, NftTable, Operation, Outcome, Owner, Resource, Update
from ductwork.resources.base import SHARED

TABLE = "ductwork"
TABLES = (("inet", TABLE), ("bridge", TABLE))
PACKAGE = "nftables"

Json = dict[str, Any]


class NftablesBackend:
    """Reads and changes NftTable and NftElement."""

    kinds: frozenset[type] = frozenset({NftTable, NftElement})

    def __init__(self, gate: Callable[[str], None] = lambda _: None) -> None:
        self._gate = gate
        self._opened: nfnetlink.NfnetlinkSocket | None = None

    def close(self) -> None:
        if self._opened:
            self._opened.close()
            self._opened = None

    @property
    def _socket(self) -> nfnetlink.NfnetlinkSocket:
        self._opened = self._opened or nfnetlink.NfnetlinkSocket()
        return self._opened

    def read(self, netns: str, links: frozenset[str] | None) -> list[Resource]:
        """Our tables, and their elements, of which `links` keeps those that name one of them. Only the host has any."""
        if netns != HOST:
            return []
        try:
            found = _parse(_listing())
        except MissingToolError:
            return []  # without nft nothing of ours can be there, and networks that need none of it go on
        table = self._socket.bridge_table(TABLE)
        if table:
            found += [table, *self._socket.bridge_elements(TABLE)]
        if links is None:
            return found
        return [r for r in found if not isinstance(r, NftElement) or not links.isdisjoint(r.parts)]

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
        if all(nfnetlink.is_known(operation.target) for operation in operations):
            return self._change(operations)
        result = self._commit(operations)
        if result.code:
            # Deleting what is not there aborts the transaction; asking beforehand would cost every call a listing.
            absent = self._absent(operations)
            if absent:
                result = self._commit([o for o in operations if o not in absent])
        error = _words(result.err) if result.code else ""
        return [Outcome(operation, error) for operation in operations]

    def _change(self, operations: Sequence[Operation]) -> list[Outcome]:
        """By the codec; again without what is to be deleted and is not there, which aborts the transaction."""
        left = [step for operation in operations for step in _steps(operation)]
        refused: dict[int, int] = {}
        while left:
            self._gate("before")
            refused = self._socket.change(left)
            self._gate("after")
            absent = {at for at, code in refused.items() if at >= 0 and code == errno.ENOENT and not left[at].is_new}
            left = [step for at, step in enumerate(left) if at not in absent]
            if not absent:
                break
        errors = [_refusal(left[at].element if at >= 0 else None, code) for at, code in refused.items()] if left else []
        return [Outcome(operation, errors[0] if errors else "") for operation in operations]

    def _commit(self, operations: Sequence[Operation]) -> Result:
        script = "\n".join(line for operation in operations for line in _statements(operation))
        if not script:
            return Result(0, "", "")
        self._gate("before")
        result = run(["nft", "-f", "-"], script + "\n", PACKAGE)
        self._gate("after")
        return result

    def _absent(self, operations: Sequence[Operation]) -> list[Operation]:
        """The deletions of what is not there, and was not made by an operation before them."""
        there = {resource.key for resource in self.read(HOST, None)}
        absent: list[Operation] = []
        for operation in operations:
            key = operation.target.key
            if not isinstance(operation, Delete):
                there.add(key)
            elif key in there:
                there.discard(key)
                if isinstance(operation.before, NftTable):
                    there = {other for other in there if not _within(other, operation.before)}
            else:
                absent.append(operation)
        return absent


def _within(key: Key, table: NftTable) -> bool:
    return key.kind == "nft-element" and key.ident[:2] == (table.family, table.name)


def _steps(operation: Operation) -> Iterator[nfnetlink.Step]:
    if not isinstance(operation, Create):
        assert isinstance(operation.before, NftElement)
        yield nfnetlink.Step(operation.before, is_new=False)
    if not isinstance(operation, Delete):
        assert isinstance(operation.after, NftElement)
        yield nfnetlink.Step(operation.after, is_new=True)


def _refusal(element: NftElement | None, code: int) -> str:
    if element and code == errno.ENOENT:
        return f"table {element.family} {element.table} has no set {element.set_name} any more: apply the network's site again"
    return os.strerror(code)


def _statements(operation: Operation) -> Iterator[str]:
    match operation:
        case Create(NftTable(script=script)) | Update(after=NftTable(script=script)):
            yield script
        case Delete(NftTable(family=family, name=name)):
            yield f"delete table {family} {name}"
        case Create(NftElement() as element):
            yield _add(element)
        case Delete(NftElement() as element):
            yield _delete(element)
        case Update(NftElement() as before, NftElement() as after):
            yield _delete(before)
            yield _add(after)
        case _:
            raise AssertionError(f"not for nftables: {operation}")


def _add(element: NftElement) -> str:
    return f"add element {element.family} {element.table} {element.set_name} {{ {element.text} }}"


def _delete(element: NftElement) -> str:
    return f"delete element {element.family} {element.table} {element.set_name} {{ {element.key_text} }}"


def _listing() -> Json:
    """Our inet table as nft's JSON."""
    result = run(["nft", "-j", f"list table inet {TABLE}"], package=PACKAGE)
    return {"nftables": []} if result.code else json.loads(result.out)


def _parse(document: Json) -> list[Resource]:
    """One table. A rule without a comment has the digest "", which no rule of ours has."""
    digests: defaultdict[str, list[str]] = defaultdict(list)
    elements: list[NftElement] = []
    table: tuple[str, str] | None = None
    for entry in document["nftables"]:
        match entry:
            case {"table": body}:
                table = (body["family"], body["name"])
            case {"rule": body}:
                digests[body["chain"]].append(body.get("comment", ""))
            case {"set": body} | {"map": body}:
                elements += (_element(body, element) for element in body.get("elem", ()))
    if table is None:
        return []
    chains = tuple(sorted((chain, tuple(rules)) for chain, rules in digests.items()))
    return [NftTable(*table, chains, owner=SHARED), *elements]


def _element(body: Json, element: Any) -> NftElement:
    """An element is its key or, in a map, [key, value]; a key with a comment is wrapped in `elem`."""
    value = ""
    if isinstance(element, list):
        element, value = element[0], _part(element[1])
    comment, packets = "", 0
    if isinstance(element, dict) and "elem" in element:
        whole = element["elem"]
        comment, packets, element = whole.get("comment", ""), whole.get("counter", {}).get("packets", 0), whole["val"]
    parts = element["concat"] if isinstance(element, dict) and "concat" in element else [element]
    owner = Owner.from_comment(comment)
    return NftElement(body["family"], body["table"], body["name"], tuple(map(_part, parts)), value, owner, packets=packets)


def _part(value: Any) -> str:
    match value:
        case {"prefix": {"addr": address, "len": length}}:
            return f"{address}/{length}"
        case {"range": [first, last]}:
            return f"{first}-{last}"
        case {"concat": parts}:
            return " . ".join(map(_part, parts))
    return str(value)


def _words(stderr: str) -> str:
    """nft's first complaint, with the statement it means: `Error: WHAT` and, on the next line, the statement."""
    lines = stderr.strip().splitlines() or ["nft failed, and did not say why"]
    what = re.sub(r"^(\S*:\d+:\d+-\d+: )?Error: (Could not process rule: )?", "", lines[0])
    return f"{what}: {lines[1].strip()[:200]}" if len(lines) > 1 else what
