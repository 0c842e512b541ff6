"""Requests carried out by an engine of this process.

Invariant: a request's values are as hostile as a site file's: what is wrong with them is a `UsageError`, before anything is
opened. Each request has an engine of its own, which lives no longer, so that any thread may carry it out.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ductwork.engine import AttachRequest, Engine
from ductwork.errors import UsageError
from ductwork.front.changes import changes_of
from ductwork.naming import mac_address
from ductwork.requests import (
    Apply,
    Attach,
    Confirm,
    Confirmed,
    Destroy,
    Detach,
    Done,
    Plan,
    Planned,
    Ports,
    Ps,
    Publish,
    Published,
    Request,
    Seen,
    SiteFile,
    Unconfirmed,
    Undo,
    Unpublish,
)
from ductwork.resources import IPAddress, Link, Resource

if TYPE_CHECKING:
    from ductwork.confirmation import Guard
    from ductwork.reconciler import Report
    from ductwork.site.model import Site

A = TypeVar("A")
_A_DAY = 86400
_MTU = range(68, 65536)


class Around(Protocol):
    """What surrounds each change, once all that it needs has been read: the notes that it gives are told with what was done."""

    def __call__(self, request: Request[Any], site: Site | None, engine: Engine) -> AbstractContextManager[list[str]]: ...


def nothing_around(request: Request[Any], site: Site | None, engine: Engine) -> AbstractContextManager[list[str]]:
    return nullcontext([])


class Local:
    """`build`: makes an engine of the calling thread's namespace. `state`, `store`: its memory, for the guard of a change that
    is to be confirmed. `who`: asks, "" for whoever runs this process."""

    def __init__(
        self, build: Callable[[], Engine], state: Path, store: Path | None, around: Around = nothing_around, who: str = ""
    ) -> None:
        self.build = build
        self.around = around
        self._state = state
        self._store = store
        self._who = who

    def do(self, request: Request[A]) -> A:
        answer: A = _DOERS[type(request)](self, request)
        return answer

    def guard(self, seconds: int | None) -> Guard | None:
        if seconds is None:
            return None
        from ductwork.guard import guard

        if not 0 < seconds <= _A_DAY:
            raise UsageError(f"{seconds} seconds to confirm a change in", f"from 1 to {_A_DAY}, which is a day")
        return guard(seconds, self._state, self._store, self._who)


def read_site(file: SiteFile) -> Site:
    from ductwork.site.load import load_text

    return load_text(file.text, file.name, socket.gethostname())


def pick_host(site: Site, given: str, engine: Engine) -> str:
    """Which host of the file this is: the one named, else by this machine's name, else by an address it holds."""
    if not site.hosts:
        if given:
            raise UsageError(
                f"the file has no hosts, so none is called {given}", "leave --host out, or add `hosts:` to the file"
            )
        return ""
    known = ", ".join(site.hosts)
    if given:
        if given not in site.hosts:
            raise UsageError(f"the file has no host {given}", f"it has {known}")
        return given
    name = socket.gethostname()
    for candidate in (name, name.partition(".")[0]):
        if candidate in site.hosts:
            return candidate
    held = engine.host_addresses()
    holding = [host.name for host in site.hosts.values() if host.address and host.address.ip in held]
    if len(holding) != 1:
        raise UsageError(f"none of the file's hosts is this machine, {name}, by name or by address", f"--host, one of {known}")
    return holding[0]


# what is done for each request


def _plan(front: Local, request: Plan) -> Planned:
    site = read_site(request.site)
    with front.build() as engine:
        host = pick_host(site, request.host, engine)
        preview = engine.plan(site, host)
        changes = changes_of(preview.plan.operations, engine.place if request.detail else None)
        return Planned(host, changes, preview.notes, dict(preview.observation.waiting))


def _apply(front: Local, request: Apply) -> Done:
    site, guard = read_site(request.site), front.guard(request.confirm_seconds)
    with front.build() as engine:
        host = pick_host(site, request.host, engine)
        with front.around(request, site, engine) as notes:
            report = engine.apply(site, host, dad=request.dad, guard=guard)
            awaiting = engine.awaiting() if guard else None
        return _done(report, f"{site.name} on {host}" if host else site.name, notes, awaiting.seconds if awaiting else None)


def _destroy(front: Local, request: Destroy) -> Done:
    if (request.site is None) == (not request.everything):
        raise UsageError("destroy takes a site file, or --all", "ductwork destroy site.yaml")
    site = None if request.site is None else read_site(request.site)
    name = None if site is None else site.name
    with front.build() as engine:
        with front.around(request, site, engine) as notes:
            report = engine.destroy(name)
        return _done(report, f"{name or 'everything'} destroyed", notes)


def _undo(front: Local, request: Undo) -> Done:
    with front.build() as engine:
        with front.around(request, None, engine) as notes:
            report = engine.undo()
        return _done(report, report.title, notes)


def _confirm(front: Local, request: Confirm) -> Confirmed:
    with front.build() as engine, front.around(request, None, engine):
        return Confirmed(engine.confirm().title)


def _attach(front: Local, request: Attach) -> Done:
    wanted = _attach_request(request)
    with front.build() as engine:
        with front.around(request, None, engine) as notes:
            report = engine.attach(wanted, dad=request.dad)
        return _done(report, f"{wanted.container} in {wanted.network}", notes)


def _detach(front: Local, request: Detach) -> Done:
    with front.build() as engine:
        with front.around(request, None, engine) as notes:
            report = engine.detach(request.container, request.network, request.interface)
        return _done(report, f"{request.container} out of {request.network}", notes)


def _ps(front: Local, request: Ps) -> Seen:
    from ductwork.inspect.ps import rows

    with front.build() as engine:
        found = rows(engine.observe(), engine.modes())
        wanted = request.container
        return Seen(tuple(row for row in found if wanted in ("", row.container, row.container.partition(":")[2])))


def _publish(front: Local, request: Publish) -> Done:
    from ductwork.publishing import PublishRequest
    from ductwork.site import values

    with _refusing():
        wanted = PublishRequest(
            values.listen(request.listen), values.port_target(request.to), values.protocol(request.protocol), request.network
        )
        values.refuse_unrelayed(wanted.listen, wanted.protocol)
    with front.build() as engine:
        with front.around(request, None, engine) as notes:
            report = engine.publisher.publish(wanted)
        return _done(report, f"{request.listen}/{request.protocol} to {request.to}", notes)


def _unpublish(front: Local, request: Unpublish) -> Done:
    from ductwork.site import values

    with _refusing():
        listen, protocol = values.listen(request.listen), values.protocol(request.protocol)
    with front.build() as engine:
        with front.around(request, None, engine) as notes:
            report = engine.publisher.unpublish(listen, protocol)
        return _done(report, f"{request.listen}/{request.protocol} closed", notes)


def _ports(front: Local, request: Ports) -> Published:
    from ductwork.inspect.ports import rows

    with front.build() as engine:
        return Published(tuple(rows(engine.publisher.published(), engine.observe().state, engine.publisher.at_loopback)))


_DOERS: dict[type[Request[Any]], Callable[[Local, Any], Any]] = {
    Plan: _plan,
    Apply: _apply,
    Destroy: _destroy,
    Undo: _undo,
    Confirm: _confirm,
    Attach: _attach,
    Detach: _detach,
    Publish: _publish,
    Unpublish: _unpublish,
    Ps: _ps,
    Ports: _ports,
}


def _done(report: Report, title: str, notes: list[str], confirm_seconds: int | None = None) -> Done:
    from ductwork.guard import command

    return Done(
        title,
        changes_of(report.operations),
        report.rounds,
        dict(report.waiting),
        tuple(text for resource in report.kept if (text := _kept(resource))),
        (*report.notes, *notes),
        Unconfirmed(confirm_seconds, command()) if confirm_seconds else None,
        dict(report.refused),
    )


def _kept(resource: Resource) -> str:
    match resource:
        case Link(kind="bridge", name=name):
            return f"bridge {name}, with all of its network: others are plugged into it; `ductwork ps` lists ours"
        case Link(kind="vlan", name=name):
            return f"{name}: others' interfaces are on it"
    return ""


def _attach_request(request: Attach) -> AttachRequest:
    """As in a site file."""
    from ductwork.site import values

    if request.mtu is not None and request.mtu not in _MTU:
        raise UsageError(f"an MTU of {request.mtu} bytes", f"from {_MTU[0]} to {_MTU[-1]}")
    with _refusing():
        container = values.container(request.container)
        interface = None if request.interface is None else values.interface_name(request.interface)
        mac = None if request.mac is None else values.mac(request.mac)
    if mac and mac.startswith("seed:"):
        mac = mac_address("seed", mac.removeprefix("seed:"))
    gateway = _address(request.gateway) if isinstance(request.gateway, str) else request.gateway
    addresses = tuple(map(_address, request.addresses))
    return AttachRequest(container, request.network, interface, addresses, gateway, mac, request.mtu)


def _address(text: str) -> IPAddress:
    try:
        return ip_address(text.partition("/")[0])
    except ValueError:
        raise UsageError(f"{text} is no IP address", "10.1.1.2, say, or fd00:1::2") from None


@contextmanager
def _refusing() -> Iterator[None]:
    from ductwork.site import values

    try:
        yield
    except values.Refused as refused:
        raise UsageError(refused.message, refused.hint) from None
