"""Ports of the host that containers' labels have opened: whose each is, and what of them stays.

Invariant: a port is one container's, the first's that has asked for it, as long as that one runs, asks for it, and the site
permits it; what a site's file or `ductwork publish` has, no label takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from ductwork import serial
from ductwork.errors import LabelError
from ductwork.goals import LABEL, PUBLISH
from ductwork.reconciler import Reconciler
from ductwork.services import ports
from ductwork.site.model import Attachment, PublishedPort, Site
from ductwork.store import Store

if TYPE_CHECKING:
    from ductwork.engine import AttachRequest

LABEL_PORTS = "label ports"
"""In the store: SITE/CONTAINER → what its labels have opened."""

Requests = Mapping[str, "tuple[AttachRequest, ...]"]
"""Running container → what it asks for."""


def placed(port: PublishedPort, attachment: Attachment) -> PublishedPort:
    """What is asked for, as the attachment's."""
    its, interface = attachment.id
    return replace(port, container=its, interface=interface, network=attachment.network, host=attachment.host, origin=LABEL)


def given_up(container: str, its: Iterable[PublishedPort], opened: Iterable[PublishedPort]) -> tuple[PublishedPort, ...]:
    """Of what labels have opened, what is to be closed for a container's ports: its own of before, and what they meet, which
    has been refused unless its container has ended."""
    new = list(its)
    former = (port for port in opened if port not in new)
    return tuple(port for port in former if port.container == container or any(ports.meets(port, each) for each in new))


class LabelPorts:
    """What is remembered of them, for one engine."""

    def __init__(self, reconciler: Reconciler, store: Store) -> None:
        self._reconciler = reconciler
        self._store = store
        self._decoded: dict[str, tuple[object, tuple[PublishedPort, ...]]] = {}

    def opened(self) -> Iterator[tuple[str, PublishedPort]]:
        """(site, port) of all."""
        for key, its in self._known().items():
            yield from ((key.partition("/")[0], port) for port in its)

    def _known(self) -> dict[str, tuple[PublishedPort, ...]]:
        """SITE/CONTAINER → its ports. What was read before is not decoded again."""
        found = {}
        for key, value in self._store.remembered(LABEL_PORTS).items():
            known = self._decoded.get(key)
            found[key] = known if known and known[0] is value["ports"] else (value["ports"], serial.decode(value["ports"]))
        self._decoded = found
        return {key: its for key, (_, its) in found.items()}

    def staying(self, site: Site, requests: Requests, silent: frozenset[str]) -> tuple[PublishedPort, ...]:
        """Of a site's, those that their containers ask for still; of a `silent` runtime's, whose containers may run or not,
        those that the site permits."""
        its = (port for name, port in self.opened() if name == site.name)
        return tuple(
            port
            for port in its
            if _is_asked_for(port, requests) or (port.container.partition(":")[0] in silent and _is_permitted(port, site))
        )

    def unknown(self, site: str, requests: Requests, taken: Iterable[tuple[str, PublishedPort]]) -> list[PublishedPort]:
        """What is asked for by containers of which nothing is remembered, and that nobody has: it may be open, if the store was
        lost. `taken`: (site, port) of everybody."""
        known = self._store.remembered(LABEL_PORTS)
        new = [port for name, its in requests.items() if f"{site}/{name}" not in known for r in its for port in r.ports]
        others = [other for _, other in taken] if new else []
        return [port for port in new if not any(ports.meets(port, other) for other in others)]

    def refuse_taken(self, its: Iterable[PublishedPort], site: str, taken: Iterable[tuple[str, PublishedPort]]) -> None:
        """`taken`: (site, port) of everybody. Errors: `LabelError`, with the holder."""
        others = list(taken)
        for port in its:
            for whose, other in others:
                if ports.meets(port, other) and not self._gives_way(other, port, own=whose == site):
                    where = f"{other.container}:{other.to}"
                    holder = {LABEL: "by its label", PUBLISH: "by `ductwork publish`"}.get(other.origin, f"by site {whose}")
                    message = f"port {other.listen}/{other.protocol} leads to {where} already, {holder}"
                    raise LabelError(message, "ask for another, or for none")

    def _gives_way(self, other: PublishedPort, port: PublishedPort, *, own: bool) -> bool:
        """Whether it is of the same container's labels, or of one that has ended."""
        if other.origin != LABEL:
            return False
        if other.container == port.container:
            return own
        return bool(self._reconciler.resolver.stopped([other.container]))

    def remember(self, site: str, container: str, its: tuple[PublishedPort, ...]) -> tuple[PublishedPort, ...]:
        """What a container's labels open now, and what they have opened before. Whoever has had it, has it no longer."""
        key, known = f"{site}/{container}", self._known()
        former = known.get(key, ())
        if former == its:
            return former
        for name, theirs in known.items():
            left = tuple(port for port in theirs if not any(ports.meets(port, new) for new in its))
            if name != key and left != theirs:
                self._write(name, left)
        self._write(key, its)
        return former

    def settle(self, site: Site, requests: Requests, silent: frozenset[str]) -> None:
        """Forget what does not stay."""
        stays = frozenset(self.staying(site, requests, silent))
        for key, its in self._known().items():
            left = tuple(port for port in its if port in stays)
            if key.partition("/")[0] == site.name and left != its:
                self._write(key, left)

    def _write(self, key: str, its: tuple[PublishedPort, ...]) -> None:
        self._store.remember(LABEL_PORTS, key, {"ports": serial.encode(its)} if its else None)


def _is_asked_for(port: PublishedPort, requests: Requests) -> bool:
    plain = replace(port, container="", interface="", network="", host="", origin="site")
    return any(request.network == port.network and plain in request.ports for request in requests.get(port.container, ()))


def _is_permitted(port: PublishedPort, site: Site) -> bool:
    """By the site's labels, and the file has not taken it."""
    permission = site.labels.get(port.network)
    taken = any(other.host == port.host and ports.meets(port, other) for other in site.ports)
    return permission is not None and permission.permits(port.protocol, port.first, port.last) and not taken
