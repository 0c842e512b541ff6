"""Requests, answers and errors as JSON and back.

Invariant: what is decoded has the types that its record says, or it is a `ValueError`: the other side may be another version.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from ductwork.errors import DuctworkError, Problem, SiteError

VERSION_HEADER, STATE_HEADER, STORE_HEADER = "Ductwork-Version", "Ductwork-State", "Ductwork-Store"
"""By which a command says for whom alone an agent may answer it: one of its own version, with the same memory."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An error: `code` as in docs/reference/errors.md, `hint` the next step, `retry`: it may succeed later. A site file's has
    the `file` and its mistakes."""

    code: str
    message: str
    hint: str = ""
    retry: bool = False
    file: str = ""
    problems: tuple[Problem, ...] = ()


def failure_of(error: DuctworkError) -> Failure:
    if isinstance(error, SiteError):
        return Failure(error.code, error.message, error.hint, error.retry, error.file, error.problems)
    return Failure(error.code, error.message, error.hint, error.retry)


def error_of(failure: Failure) -> DuctworkError:
    """The error as it was raised."""
    if failure.code == SiteError.code:
        return SiteError(failure.file, failure.problems)
    return _kinds(DuctworkError).get(failure.code, DuctworkError)(failure.message, failure.hint)


def encode(record: object) -> Any:
    """A record as what `json.dumps` takes."""
    return asdict(record)  # type: ignore[call-overload]


def decode(kind: Any, value: Any) -> Any:
    """A value of the type `kind`: a record, or what records have in them. Errors: `ValueError`."""
    if kind is Any:
        return value
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _one_of(get_args(kind), value)
    if origin is tuple and isinstance(value, list):
        return tuple(decode(get_args(kind)[0], item) for item in value)
    if origin is Mapping and isinstance(value, dict):
        return {key: decode(get_args(kind)[1], item) for key, item in value.items()}
    if is_dataclass(kind) and isinstance(value, dict):
        return _record(kind, value)
    if isinstance(kind, type) and type(value) is kind:
        return value
    if kind is float and type(value) is int:
        return float(value)
    raise ValueError(f"{value!r:.60} is no {getattr(kind, '__name__', kind)}")


def _record(kind: Any, value: dict[str, Any]) -> Any:
    hints = _hints(kind)
    try:
        return kind(**{name: decode(hints[name], item) for name, item in value.items()})
    except (KeyError, TypeError) as error:
        raise ValueError(f"{kind.__name__}: {error}") from None


def _one_of(kinds: tuple[Any, ...], value: Any) -> Any:
    for kind in kinds:
        try:
            return decode(kind, value)
        except ValueError:
            pass
    raise ValueError(f"{value!r:.60} is none of {kinds}")


@cache
def _hints(kind: Any) -> dict[str, Any]:
    known = get_type_hints(kind)
    return {field.name: known[field.name] for field in fields(kind)}


def _kinds(error: type[DuctworkError]) -> dict[str, type[DuctworkError]]:
    """A kind without a code of its own is its parent to whoever is told of it."""
    found = {error.code: error}
    for child in error.__subclasses__():
        found = _kinds(child) | found
    return found
