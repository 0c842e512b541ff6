"""A site file, read: either a `Site` in which everything is right, or a `SiteError` with all that is wrong.

Invariant: no text whatever raises anything but `SiteError`; each problem has its line and column (0 where the file itself
could not be read) and says what to write instead. Positions are looked up only for problems.
"""

from __future__ import annotations

import dataclasses
import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ductwork.drivers.registry import DRIVERS
from ductwork.errors import Problem, SiteError
from ductwork.site.checks import find_problems
from ductwork.site.convert import to_site
from ductwork.site.document import Document, Unreadable, parse
from ductwork.site.model import Site
from ductwork.site.read import read_text, whole
from ductwork.site.shape import read_shape


def load_site(path: Path, host_name: str = "") -> Site:
    """The site that a file describes. `host_name`: this machine's, the seed of MACs where the file has no hosts.

    Raises `SiteError` with every mistake, also where the file cannot be read at all.
    """
    return load_text(read_text(path), str(path), host_name)


def load_text(text: str, file_name: str = "site.yaml", host_name: str = "") -> Site:
    """The site that a text describes; `file_name` is named in errors and gives the site its default name."""
    with _no_garbage_collection():
        try:
            document = parse(text)
        except Unreadable as error:
            raise SiteError(file_name, [error.problem]) from None
        if document.data is None and not document.problems:
            hint = "start with `networks:` and `attachments:`; `ductwork schema` prints all there is"
            raise whole(file_name, "the file is empty", hint, line=1, column=1)
        shape, problems = read_shape(document.data, host_name)
        problems = [*document.problems, *problems, *find_problems(shape.draft)]
        if problems:
            raise SiteError(file_name, _located(document, problems))
        site = to_site(shape.draft, shape.name or _default_name(file_name))
        problems = list(_driver_problems(site))
        if problems:
            raise SiteError(file_name, _located(document, problems))
        return site


def _driver_problems(site: Site) -> Iterator[Problem]:
    """What only a network's driver knows; it gives paths within its network."""
    for name, network in site.networks.items():
        for problem in DRIVERS[network.driver].check(network, site):
            yield dataclasses.replace(problem, path=("networks", name, *problem.path))


def _located(document: Document, problems: list[Problem]) -> list[Problem]:
    """With positions, and sorted by them. Where the YAML is wrong, what it would mean is not gone into."""
    unread = {(problem.line, problem.column) for problem in document.problems}
    placed = []
    for problem in dict.fromkeys(problems):
        line, column = (problem.line, problem.column) if problem.line else document.locate(problem.path, problem.on_key)
        if problem.line or (line, column) not in unread:
            placed.append(dataclasses.replace(problem, line=line, column=column))
    return sorted(placed, key=lambda problem: (problem.line, problem.column))


def _default_name(file_name: str) -> str:
    plain = re.sub(r"[^a-z0-9-]+", "-", Path(file_name).stem.lower()).strip("-")
    return plain[:63].strip("-") or "site"


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Loading makes many objects and no garbage: the collector would only look through them, again and again (a fifth of
    the time)."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
