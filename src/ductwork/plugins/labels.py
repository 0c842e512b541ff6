"""A container's labels → what it asks the engine for, as far as the site permits it.

Invariant: whatever is written on a container, the outcome is requests that the site's `labels` permits, or a `LabelError`;
never another exception. It is all or nothing: a container with one bad label is plugged in nowhere by its labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from ductwork.engine import AttachRequest
from ductwork.errors import LabelError
from ductwork.naming import mac_address
from ductwork.plugins import label_policy, pipework_variables
from ductwork.resources import IPAddress
from ductwork.runtimes import LABEL_PREFIX, Tags
from ductwork.services import ports
from ductwork.site import values
from ductwork.site.model import PublishedPort, Site
from ductwork.site.values import Refused, closest, describe, listing

_NETWORKS = f"{LABEL_PREFIX}networks"
_MOST_LABELS = 64
_LONGEST_VALUE = 1000
_MOST_ADDRESSES = 16
_MOST_PORTS = 64
_MOST_NUMBERS = 65_535
"""Of ports, whatever addresses they are on: there are as many in 127.0.0.0/8 as one likes."""

Problem = tuple[str, Refused]
"""(where it is written, what is wrong)"""


def requests(container: str, tags: Tags, site: Site, host: str) -> tuple[AttachRequest, ...]:
    """What `container` (RUNTIME:NAME) asks for, in the order of the networks' names, then of its variables.

    Errors: `LabelError`.
    """
    problems: list[Problem] = []
    found: list[tuple[str, AttachRequest]] = []
    try:
        values.container(container)
    except Refused as error:
        raise LabelError(error.message, error.hint) from None
    labels = {key: value for key, value in tags.labels.items() if key.startswith(LABEL_PREFIX)}
    for where, value in (*labels.items(), *tags.variables.items()):
        if len(where) + len(value) > _LONGEST_VALUE:
            problems.append((where, Refused(f"it has {len(where) + len(value)} characters", f"{_LONGEST_VALUE} are the most")))
    if len(labels) + len(tags.variables) > _MOST_LABELS:
        count = len(labels) + len(tags.variables)
        problems.append((LABEL_PREFIX, Refused(f"{count} labels and variables", f"{_MOST_LABELS} are the most")))
    if not problems:
        found += _by_labels(container, labels, problems)
        found += pipework_variables.requests(container, tags, site, host, problems.append)
    for where, request in found:
        problems += [(where, error) for error in label_policy.mistakes(request, site, host, tags.identity)]
    problems += _together([request for _, request in found])
    if problems:
        raise _told(problems)
    return tuple(request for _, request in found)


def _by_labels(container: str, labels: Mapping[str, str], problems: list[Problem]) -> Iterator[tuple[str, AttachRequest]]:
    asked: dict[str, dict[str, Any]] = {}
    places: dict[str, str] = {}
    for label, value in sorted(labels.items()):
        try:
            if label == _NETWORKS:
                for network in _network_names(value):
                    asked.setdefault(network, {})
                    places.setdefault(network, label)
                continue
            network, key, read = _key(label)
            asked.setdefault(network, {})[key] = read(value)
            places[network] = label
        except Refused as error:
            problems.append((label, error))
    for network, wanted in sorted(asked.items()):
        yield places[network], AttachRequest(container, network, **wanted)


def _network_names(value: str) -> list[str]:
    names = [name.strip() for name in value.split(",")]
    if not all(names):
        raise Refused(f"{describe(value)} is no list of networks", "write their names with commas between them: `lan,pods`")
    return names


def _key(label: str) -> tuple[str, str, Callable[[str], object]]:
    """(network, field of `AttachRequest`, what reads the value)"""
    network, dot, key = label.removeprefix(LABEL_PREFIX).partition(".")
    if dot and network and key in _KEYS:
        return network, *_KEYS[key]
    forms = f"labels: {_NETWORKS}, {', '.join(f'{LABEL_PREFIX}NETWORK.{each}' for each in _KEYS)}"
    near = closest(key, _KEYS) if dot else closest(network, ["networks"])
    raise Refused("there is no such label", f"{near}{forms}")


def _addresses(value: str) -> tuple[IPAddress, ...]:
    words = value.split(",")
    if len(words) > _MOST_ADDRESSES:
        raise Refused(f"{len(words)} addresses", f"{_MOST_ADDRESSES} are the most")
    return tuple(values.address(word.strip()) for word in words)


def _gateway(value: str) -> bool | IPAddress:
    return values.container_gateway({"true": True, "false": False}.get(value, value))


def _ports(value: str) -> tuple[PublishedPort, ...]:
    words = value.split(",")
    if len(words) > _MOST_PORTS:
        raise Refused(f"{len(words)} ports", f"{_MOST_PORTS} are the most; a range counts as one")
    return tuple(values.published(word.strip()) for word in words)


def _mac(value: str) -> str:
    word = values.mac(value)
    return mac_address("seed", word.removeprefix("seed:")) if word.startswith("seed:") else word


_KEYS: dict[str, tuple[str, Callable[[str], object]]] = {
    "address": ("addresses", _addresses),
    "interface": ("interface", values.interface_name),
    "mac": ("mac", _mac),
    "gateway": ("gateway", _gateway),
    "ports": ("ports", _ports),
}


def _together(found: Iterable[AttachRequest]) -> Iterator[Problem]:
    """What goes wrong only among a container's requests."""
    interfaces: set[str] = set()
    ways: set[int] = set()
    addresses: set[tuple[str, IPAddress]] = set()
    opened: list[PublishedPort] = []
    numbers = 0
    for request in found:
        refused = partial(_refused, request)
        if request.interface in interfaces:
            yield refused(f"interface `{request.interface}` is asked for twice", "give each a name of its own")
        if request.interface:
            interfaces.add(request.interface)
        for address in request.addresses:
            if (request.network, address) in addresses:
                yield refused(f"`{address}` is asked for twice", "write it once")
            addresses.add((request.network, address))
        for port in request.ports:
            if any(ports.meets(port, other) for other in opened):
                yield refused(f"port `{port.listen}/{port.protocol}` is asked for twice", "write it once")
            opened.append(port)
            numbers += port.last - port.first + 1
        if request.gateway is None or isinstance(request.gateway, bool):
            continue
        if request.gateway.version in ways:
            yield refused("a second default gateway", "let one network have it, and give the other `gateway=false`")
        ways.add(request.gateway.version)
    if numbers > _MOST_NUMBERS:
        yield f"{LABEL_PREFIX}NETWORK.ports", Refused(f"{numbers} ports", f"{_MOST_NUMBERS} are the most")


def _refused(request: AttachRequest, message: str, hint: str) -> Problem:
    return f"network {values.listing([request.network])}", Refused(message, hint)


def _told(problems: list[Problem]) -> LabelError:
    """The first of them: one line, however much is written."""
    where, error = problems[0]
    others = len(problems) - 1
    more = f" (and {others} more mistake{'s' if others > 1 else ''})" if others else ""
    return LabelError(f"{listing([where])}: {error.message}{more}", error.hint)
