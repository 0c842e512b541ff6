"""Each entry of a site file by itself: from plain values to models, and pydantic's errors in our words.

Invariant: every entry is validated alone, so that a mistake in one hides nothing in another. What the contract names and
this version does not have is called so, never "unknown".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ductwork.errors import Problem
from ductwork.site import schema, values
from ductwork.site.document import shorten
from ductwork.site.draft import Draft, Opening, Plug
from ductwork.site.schema import (
    AttachmentModel,
    HostModel,
    Model,
    NetworkModel,
    PortModel,
    RouteModel,
    RouterModel,
    SiteModel,
    network_models,
)
from ductwork.site.values import NOT_YET, closest, describe, listing

Path = tuple[str | int, ...]
SomeModel = TypeVar("SomeModel", bound=Model)

DRIVERS_TO_COME = {
    "routed": ("host_subnets", "host_prefix", "bridge", "cloud"),
}
"""The contract's drivers that this version does not have, with their keys."""

KEYS_TO_COME = {
    "bridge": ("cloud",),
    "vxlan": ("group", "cloud"),
    "attachment": (),
}
"""The contract's keys that this version does not have."""


@dataclass(slots=True)
class Shape:
    name: str = ""
    draft: Draft = field(default_factory=Draft)


def read_shape(data: object, machine: str) -> tuple[Shape, list[Problem]]:
    """What is right of the file, and what is wrong with the rest."""
    if not isinstance(data, dict):
        hint = "start with `networks:` and `attachments:`"
        return Shape(), [Problem((), f"a site file is a mapping, not {describe(data)}", hint)]
    problems = list(_top_level(data))
    hosts, networks = _entries(data, "hosts", problems), _entries(data, "networks", problems)
    draft = Draft(machine, frozenset(hosts), frozenset(networks))
    draft.hosts = _hosts(hosts, problems)
    draft.networks = _networks(networks, problems)
    draft.plugs = [Plug(*item) for item in _items(data, "attachments", AttachmentModel, "container", problems)]
    draft.routers = dict(_items(data, "routers", RouterModel, "name", problems))
    _read_labels(data.get("labels"), draft, problems)
    draft.ports = _ports(data, problems)
    draft.derive()
    return Shape(_name(data, problems), draft), problems


def _top_level(data: dict[str, object]) -> Iterable[Problem]:
    allowed = SiteModel.model_fields
    for key in data:
        if key not in allowed:
            yield _unknown_key((key,), allowed)


def _name(data: dict[str, object], problems: list[Problem]) -> str:
    if "name" not in data:
        return ""
    name = data["name"]
    if isinstance(name, str) and re.fullmatch(values.NETWORK_NAME.strip("^$"), name):
        return name
    hint = "write 1 to 63 of a-z, 0-9 and `-`, or leave the key out"
    problems.append(Problem(("name",), f"{describe(name)} cannot be the site's name", hint))
    return ""


def _entries(data: dict[str, object], section: str, problems: list[Problem]) -> dict[str, object]:
    value = data.get(section)
    if value is None:
        return {}
    if isinstance(value, dict):
        return value
    hint = f"write `{section}:`, and below it, indented, one `NAME:` for each"
    problems.append(Problem((section,), f"`{section}` is a mapping by name, not {describe(value)}", hint))
    return {}


def _hosts(entries: dict[str, object], problems: list[Problem]) -> dict[str, HostModel]:
    found = {}
    for name, value in entries.items():
        if not re.fullmatch(values.HOST_NAME.strip("^$"), name):
            hint = "write 1 to 63 of a-z, A-Z, 0-9 and, between them, `-`"
            problems.append(Problem(("hosts", name), f"{describe(name)} cannot be a host's name", hint, on_key=True))
        hint = f"write `{shorten(name)}: {{address: 10.99.0.1/24}}`"
        model = _validated(HostModel, value, ("hosts", name), problems, hint)
        if model is not None:
            found[name] = model
    return found


def _networks(entries: dict[str, object], problems: list[Problem]) -> dict[str, NetworkModel]:
    found = {}
    for name, value in entries.items():
        path = ("networks", name)
        if not re.fullmatch(values.NETWORK_NAME.strip("^$"), name):
            hint = "write 1 to 63 of a-z, 0-9 and `-`"
            problems.append(Problem(path, f"{describe(name)} cannot be a network's name", hint, on_key=True))
        driver = value.get("driver") if isinstance(value, dict) else None
        kind = network_models().get(driver) if isinstance(driver, str) else None
        if kind is None and isinstance(driver, str):
            problems.append(_unknown_driver((*path, "driver"), driver))
        hint = f"write `driver:` and more below `{shorten(name)}:`"
        model = _validated(kind or NetworkModel, value, path, problems, hint)
        if model is not None and kind is not None:
            found[name] = model
    return found


def _unknown_driver(path: Path, driver: str) -> Problem:
    here = f"drivers: {listing(network_models())}"
    if driver in DRIVERS_TO_COME:
        return Problem(path, f"driver `{driver}` {NOT_YET}", here)
    return Problem(path, f"unknown driver {describe(driver)}", closest(driver, [*network_models(), *DRIVERS_TO_COME]) + here)


def _items(
    data: dict[str, object], section: str, kind: type[SomeModel], first_key: str, problems: list[Problem]
) -> list[tuple[int, SomeModel]]:
    """What is right of a list's entries, with their places in it."""
    items = data.get(section)
    if items is None:
        return []
    hint = f"write `- {first_key}: …`"
    if not isinstance(items, list):
        message = f"`{section}` is a list, not {describe(items)}"
        problems.append(Problem((section,), message, f"begin each {section[:-1]} with `- {first_key}: …`"))
        return []
    found = []
    for index, item in enumerate(items):
        model = _validated(kind, item, (section, index), problems, hint)
        if model is not None:
            found.append((index, model))
    return found


def _read_labels(value: object, draft: Draft, problems: list[Problem]) -> None:
    """`deny`, a list of networks, or networks with what labels may ask for in them."""
    entries: list[tuple[Path, object, object]] = []
    if isinstance(value, list):
        entries = [(("labels", index), name, True) for index, name in enumerate(value)]
    elif isinstance(value, dict):
        entries = [(("labels", name), name, permitted) for name, permitted in value.items()]
    elif value not in (None, "deny"):
        hint = "write `deny`, a list of networks, or `{NETWORK: [FIRST-LAST]}`"
        problems.append(Problem(("labels",), f"`labels` cannot be {describe(value)}", hint))
    for path, name, permitted in entries:
        if not isinstance(name, str):
            hint = "write the network's name; with ranges of addresses, `labels: {NETWORK: [FIRST-LAST]}`"
            problems.append(Problem(path, f"`labels`: {describe(name)} is no network's name", hint))
            continue
        try:
            draft.labels[name] = values.permission(permitted)
            draft.label_paths[name] = path
            draft.label_ranges_at[name] = (*path, "addresses") if isinstance(permitted, dict) else path
        except values.Refused as error:
            problems.append(Problem(path, f"`labels`: {error.message}", error.hint))


def _ports(data: dict[str, object], problems: list[Problem]) -> list[Opening]:
    items = data.get("ports")
    if items is None:
        return []
    if not isinstance(items, list):
        problems.append(Problem(("ports",), f"`ports` is a list, not {describe(items)}", "begin each port with `- listen: …`"))
        return []
    found = []
    for index, item in enumerate(items):
        model = _validated(PortModel, item, ("ports", index), problems, "write `- listen: …`")
        if model is not None:
            found.append(Opening(index, model))
    return found


def _validated(kind: type[SomeModel], value: object, path: Path, problems: list[Problem], hint: str) -> SomeModel | None:
    """The model, or None and what is wrong. An entry left empty has no keys."""
    if not isinstance(value, dict | None):
        problems.append(Problem(path, f"expected a mapping, not {describe(value)}", hint))
        return None
    try:
        return kind.model_validate(value or {})
    except ValidationError as error:
        details = error.errors(include_url=False)
        problems += [_problem(detail, path, kind) for detail in details if not _excused(detail, kind)]
        return None


def _excused(detail: ErrorDetails, kind: type[Model]) -> bool:
    """Keys of a network whose driver is wrong: whose keys they are is unknown."""
    return kind is NetworkModel and detail["type"] == "extra_forbidden" and len(detail["loc"]) == 1


def _problem(detail: ErrorDetails, base: Path, kind: type[Model]) -> Problem:
    path = (*base, *detail["loc"])
    key = next((part for part in reversed(detail["loc"]) if isinstance(part, str) and part), "")
    owner: type[Model] = RouteModel if detail["loc"][0] == "routes" and len(detail["loc"]) > 2 else kind
    given, context = detail["input"], detail.get("ctx", {})
    match detail["type"]:
        case "extra_forbidden":
            return _extra_key(path, key, owner)
        case "missing":
            return Problem(base + detail["loc"][:-1], f"`{key}` is missing", f"add `{key}:` ({_help(owner, key)})")
        case _ if given is None or given == (None,):
            return _no_value(path, key)
        case schema.REFUSED:
            return Problem(path, f"`{key}`: {detail['msg']}", str(context["hint"]))
        case "literal_error":
            options = re.findall(r"'([^']*)'", str(context["expected"]))
            choice = f"write one of {listing(options)}" if len(options) > 1 else f"write `{options[0]}`, or delete the key"
            hint = f"{closest(given, options) if isinstance(given, str) else ''}{choice}"
            return Problem(path, f"`{key}` cannot be {describe(given)}", hint)
        case _:
            label = f" ({_help(owner, key)})" if _help(owner, key) else ""
            return _wrong_type(detail, path, key, label)


def _no_value(path: Path, key: str) -> Problem:
    return Problem(path, f"`{key}` has no value", "write one, or delete the key")


def _wrong_type(detail: ErrorDetails, path: Path, key: str, explained: str) -> Problem:
    given, limits = detail["input"], detail.get("ctx", {})
    match detail["type"]:
        case "string_type":
            simple = isinstance(given, (int, float)) and not isinstance(given, bool)
            return Problem(path, f"`{key}` is text, not {describe(given)}", "put it in quotes" if simple else "write one value")
        case "int_type" | "int_from_float":
            digits = isinstance(given, str) and given.isdigit()
            return Problem(
                path,
                f"`{key}` is a whole number, not {describe(given)}",
                "delete the quotes" if digits else f"write a number{explained}",
            )
        case "bool_type":
            return Problem(path, f"`{key}` is true or false, not {describe(given)}", "write true or false, without quotes")
        case "greater_than_equal" | "less_than_equal":
            hint = f"write {limits['ge']} or more" if "ge" in limits else f"write {limits['le']} or less"
            return Problem(path, f"`{key}` cannot be {describe(given)}", hint + explained)
        case "string_pattern_mismatch" | "string_too_long" | "string_too_short":
            rule = f"it must match {limits['pattern']}" if "pattern" in limits else f"it has {len(str(given))} characters"
            return Problem(path, f"`{key}` cannot be {describe(given)}", rule + explained)
        case "dict_type" | "model_type" | "model_attributes_type":
            return Problem(
                path, f"`{key}` has entries that are mappings, not {describe(given)}", f"write `{{KEY: VALUE}}`{explained}"
            )
        case "tuple_type" | "list_type":
            return Problem(
                path, f"`{key}` is a list, not {describe(given)}", f"write `[…]`, or items that begin with `- `{explained}"
            )
    return Problem(path, f"`{key}` cannot be {describe(given)}", f"see `{key}` in the reference of the site file{explained}")


def _extra_key(path: Path, key: str, owner: type[Model]) -> Problem:
    if owner is AttachmentModel and key in KEYS_TO_COME["attachment"]:
        return Problem(path, f"`{key}` {NOT_YET}", "delete it", on_key=True)
    if issubclass(owner, NetworkModel):
        driver = next(name for name, model in network_models().items() if model is owner)
        if key in KEYS_TO_COME.get(driver, ()):
            return Problem(path, f"`{key}` {NOT_YET}", "delete it", on_key=True)
        others = [name for name, model in network_models().items() if key in model.OPTION_NAMES]
        if others:
            hint = f"delete it, or write `driver: {others[0]}`"
            return Problem(path, f"`{key}` is a key of the driver `{others[0]}`, not of `{driver}`", hint, on_key=True)
        to_come = [name for name, keys in DRIVERS_TO_COME.items() if key in keys]
        if to_come:
            message = f"`{key}` is a key of the driver `{to_come[0]}`, which {NOT_YET}"
            return Problem(path, message, "delete it", on_key=True)
    return _unknown_key(path, owner.model_fields)


def _unknown_key(path: Path, allowed: Iterable[str]) -> Problem:
    key, known = str(path[-1]), sorted(allowed)
    return Problem(
        path, f"unknown key {describe(key)}", f"{closest(key, known)}allowed here: {listing(known, 40)}", on_key=True
    )


def _help(owner: type[Model], key: str) -> str:
    found = owner.model_fields.get(key)
    return (found.description or "") if found else ""
