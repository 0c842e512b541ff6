"""YAML to plain Python values, with the place of every value kept at hand.

Invariant: whatever the text, `parse` returns a `Document` or raises `Unreadable`; it never recurses deeper than
`MAX_DEPTH`, and shared (aliased) nodes are read once, so that no file is worth more work than it has characters.

Scalars follow YAML 1.2's core schema (https://yaml.org/spec/1.2.2/#103-core-schema): PyYAML's own resolvers are 1.1's,
for which `on` is true and 02:00:00:00:00:01 a number in base 60.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.reader import Reader, ReaderError

from ductwork.errors import Problem

MAX_DEPTH = 40
"""A site file needs six levels. libyaml's composer recurses in C: at some 20,000 levels it overflows the stack."""

_PLAIN = "plain"
_TAG = "tag:yaml.org,2002:"
_NOT_TEXT = frozenset("-+.0123456789tTfFnN~")
"""The first characters of whatever is no string in the core schema, the empty scalar apart."""

_NULLS = frozenset(["", "~", "null", "Null", "NULL"])
_BOOLS = {word: word.lower() == "true" for word in ("true", "True", "TRUE", "false", "False", "FALSE")}
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")

_ADVICE = {
    "mapping values are not allowed": "put a value that has `: ` in it in quotes, or check the indentation",
    "found character that cannot start any token": "indent with spaces, not tabs, and put values with @, ` or % in quotes",
    "could not find expected ':'": "each line of a mapping is `key: value`, with a space behind the colon",
    "found undefined alias": "define it with `&NAME` above, or put a value that starts with `*` in quotes",
    "found another document": "one file is one site: delete the `---` and what belongs to another file",
    "did not find expected key": "check the indentation: keys of one mapping start in the same column",
    "did not find expected '-'": "check the indentation: items of one list start with `-` in the same column",
    "did not find expected ',' or": "close the bracket, and put commas between the entries",
    "did not find expected node content": "close the bracket, or write the value that is missing",
    "nested too deeply": "a site file has six levels at most",
}


class Unreadable(Exception):
    """The text is no YAML; `problem` says where and why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Composes nodes without deciding what plain scalars are: that is done when they are read."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def resolve(self, kind: type[Node], value: str, implicit: Any) -> str:
        return _PLAIN if kind is ScalarNode and implicit[0] else f"{_TAG}{_KINDS[kind]}"

    def descend_resolver(self, parent: Node | None, index: object) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH and parent is not None:
            raise yaml.composer.ComposerError(None, None, "values are nested too deeply", parent.start_mark)

    def ascend_resolver(self) -> None:
        self._depth -= 1


_KINDS: dict[type[Node], str] = {ScalarNode: "str", SequenceNode: "seq", MappingNode: "map"}


@dataclass(slots=True)
class Document:
    """A parsed file: its value, the node graph behind it, and the mistakes that are not about meaning."""

    root: Node | None
    data: object = None
    problems: list[Problem] = field(default_factory=list)
    _children: dict[int, dict[str, tuple[Node, Node]]] = field(default_factory=dict)
    """Of each mapping on the way to a problem: key → its node and its value's."""

    def locate(self, path: tuple[str | int, ...], on_key: bool = False) -> tuple[int, int]:
        """Line and column, from 1, of the value at `path`, or of its key. A path that leads further than the file goes
        (a key that is missing, the item of a list written as one value) ends at the last value there is."""
        node, mark = self.root, None
        for part in path:
            found = self._child(node, part)
            if found is None and part == "":  # one value for all hosts
                continue
            if found is None:
                mark = None
                break
            key, node = found
            mark = key.start_mark if key is not None else node.start_mark
        if node is None:
            return 1, 1
        if not on_key or mark is None:
            mark = node.start_mark
        return mark.line + 1, mark.column + 1

    def _child(self, node: Node | None, part: str | int) -> tuple[Node | None, Node] | None:
        if isinstance(node, SequenceNode):
            return (None, node.value[part]) if isinstance(part, int) and part < len(node.value) else None
        if not isinstance(node, MappingNode) or isinstance(part, int):
            return None
        if id(node) not in self._children:  # of a key that is there twice, the first counts
            pairs = ((key.value, (key, value)) for key, value in reversed(node.value) if isinstance(key, ScalarNode))
            self._children[id(node)] = dict(pairs)
        return self._children[id(node)].get(part)


def parse(text: str) -> Document:
    """Raises `Unreadable` where the text is no YAML at all; lesser mistakes are in the document's `problems`."""
    try:
        document = Document(_Loader(text).get_single_node())
    except ReaderError:
        raise Unreadable(_unprintable(text)) from None
    except UnicodeEncodeError as error:
        raise Unreadable(_at_offset(text, error.start, "a lone surrogate is no character")) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = f"not YAML: {error.problem or error.context}"
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise Unreadable(Problem((), message, _advice(message), line=line, column=column)) from None
    if document.root is not None:
        document.data = _Reader(document.problems).read(document.root)
    return document


def _advice(message: str) -> str:
    return next((text for start, text in _ADVICE.items() if start in message), "check the quotes and the indentation there")


def _unprintable(text: str) -> Problem:
    found = Reader.NON_PRINTABLE.search(text)
    at = found.start() if found else 0
    return _at_offset(text, at, f"the character U+{ord(text[at]):04X} is not allowed in YAML" if found else "not YAML")


def _at_offset(text: str, offset: int, message: str) -> Problem:
    line, column = text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)
    return Problem((), message, "delete it, or save the file as UTF-8 text", line=line, column=column)


class _Reader:
    """Nodes to values; each node once, so that aliases cost nothing."""

    def __init__(self, problems: list[Problem]) -> None:
        self._problems = problems
        self._done: dict[int, object] = {}
        self._open: set[int] = set()

    def read(self, node: Node) -> object:
        if isinstance(node, ScalarNode):
            return self._scalar(node)
        if id(node) in self._done:
            return self._done[id(node)]
        if id(node) in self._open:
            return self._refuse(node, "this value contains itself", "write it out instead of using its alias")
        self._open.add(id(node))
        value: object
        if isinstance(node, SequenceNode):
            self._check_tag(node, "seq")
            value = [self.read(item) for item in node.value]
        else:
            self._check_tag(node, "map")
            value = self._mapping(node)
        self._open.discard(id(node))
        self._done[id(node)] = value
        return value

    def _mapping(self, node: Node) -> dict[str, object]:
        """Keys are text, whatever they look like: a network may be called `10`."""
        mapping: dict[str, object] = {}
        for key, value in node.value:
            if not isinstance(key, ScalarNode):
                self._refuse(key, "a key must be text, not a list or a mapping", "write `key: value`")
            elif key.value in mapping:
                hint = "delete one of the two, or give it a name of its own"
                self._refuse(key, f"`{shorten(key.value)}` is here twice", hint)
            else:
                mapping[key.value] = self.read(value)
        return mapping

    def _scalar(self, node: ScalarNode) -> object:
        text: str = node.value
        if node.tag == _PLAIN:
            if text and text[0] not in _NOT_TEXT:
                return text
            return self._core(node, text)
        if node.tag == f"{_TAG}str":
            return text
        return self._tagged(node, text)

    def _core(self, node: ScalarNode, text: str) -> object:
        if text in _NULLS:
            return None
        if text in _BOOLS:
            return _BOOLS[text]
        if _INT.fullmatch(text):
            return self._number(node, text, _integer)
        if _FLOAT.fullmatch(text):
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        return text

    def _number(self, node: ScalarNode, text: str, convert: Callable[[str], object]) -> object:
        try:
            return convert(text)
        except ValueError:  # Python converts 4,300 digits at most
            return self._refuse(node, "this number is too long", "put it in quotes if it is meant as text")

    def _tagged(self, node: ScalarNode, text: str) -> object:
        """`!!int "3"` and the like: the tag must be what the text is in the core schema."""
        kind = node.tag.removeprefix(_TAG)
        if kind not in {"int", "float", "bool", "null"} or not node.tag.startswith(_TAG):
            self._check_tag(node, "str")
            return text
        value = self._core(node, text)
        if type(value).__name__ != {"null": "NoneType"}.get(kind, kind):
            return self._refuse(node, f"`{shorten(text)}` is not what its tag `!!{kind}` says", "delete the tag")
        return value

    def _check_tag(self, node: Node, kind: str) -> None:
        if node.tag != f"{_TAG}{kind}":
            shown = shorten(node.tag.replace(_TAG, "!!"))
            self._refuse(node, f"the tag `{shown}` means nothing in a site file", "delete the tag")

    def _refuse(self, node: Node, message: str, hint: str) -> object:
        """What is read in its place is None; nothing is made of a document with problems."""
        mark = node.start_mark
        self._problems.append(Problem((), message, hint, line=mark.line + 1, column=mark.column + 1))
        return None


def _integer(text: str) -> int:
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
    return int(text, base)


def shorten(text: str, limit: int = 60) -> str:
    """Text from the file as messages quote it: on one line, and not for ever."""
    flat = text if text.isprintable() else text.encode("unicode_escape").decode()
    return flat if len(flat) <= limit else f"{flat[: limit - 1]}…"
