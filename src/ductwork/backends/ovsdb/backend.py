"""Bridges and ports of Open vSwitch, read and changed in its database.

Invariant: what one call of `apply` changes in a database is one transaction, all of it or nothing, and it is done when
ovs-vswitchd has done it. Only a port that is deleted and made again takes two: Open vSwitch would see no change in one.
Nothing is written while ovs-vswitchd does not run: with the data path `netdev` it would leave the devices of a bridge that is
deleted meanwhile behind for ever (3.1).
"""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from ductwork.backends.ovsdb import guard, rows
from ductwork.backends.ovsdb.client import SWITCH, TIMEOUT_SECONDS, Client, DatabaseError, Request, default_address
from ductwork.errors import DuctworkError, MissingToolError
from ductwork.resources import HOST, Create, Delete, Operation, Outcome, OvsDeaf, OvsGuard, Resource, Update
from ductwork.resources.ovs import OvsBridge, OvsPort

_FEW_NAMES = 8
"""So many ports are asked for by name; for more, the whole table (a search by name goes through it as well)."""


class OvsdbBackend:
    """Reads and changes OvsBridge and OvsPort. `databases`: addresses beside this machine's own, which is ""; those of the
    resources that are applied are added. `wait_seconds`: how long ovs-vswitchd may take."""

    kinds: frozenset[type] = frozenset({OvsBridge, OvsPort, OvsGuard, OvsDeaf})

    def __init__(
        self,
        gate: Callable[[str], None] = lambda _: None,
        databases: Iterable[str] = (),
        wait_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        self._gate = gate
        self._wait_seconds = wait_seconds
        self.databases = {"", *databases}

    def available(self, database: str = "") -> str:
        """Why nothing can be changed there, with the next command to type; empty where it can."""
        try:
            with Client(_address(database)) as client:
                if not client.switch_runs():
                    return f"{SWITCH} does not run: systemctl start openvswitch-switch"
        except DuctworkError as error:
            return f"{error.message}: {error.hint}" if error.hint else error.message
        return ""

    def read(self, netns: str, links: frozenset[str] | None) -> list[Resource]:
        """The bridges and ports of the databases that answer; of `links`, the bridges and ports of these names. Only the host
        has any."""
        if netns != HOST:
            return []
        found: list[Resource] = []
        for address, database in {_address(database): database for database in sorted(self.databases)}.items():
            try:
                with Client(address) as client:
                    there = _snapshot(client, database, links)
            except MissingToolError:
                continue  # what does not run forwards nothing, and networks that need none of it go on
            found += (bridge for name, bridge in sorted(there.bridges.items()) if links is None or name in links)
            found += (port for _, port in sorted(there.ports.items()))
        return found + guard.read(resource for resource in found if isinstance(resource, OvsBridge))

    def apply(self, netns: str, operations: Sequence[Operation]) -> list[Outcome]:
        """Guards after the ports that they are of, as they come."""
        outcomes: list[Outcome] = []
        for is_guard, run in itertools.groupby(operations, key=lambda o: isinstance(o.target, OvsGuard | OvsDeaf)):
            its = list(run)
            outcomes += guard.apply(its, self._gate) if is_guard else self._change(its)
        return outcomes

    def _change(self, operations: Sequence[Operation]) -> list[Outcome]:
        grouped: dict[str, list[Operation]] = {}
        for operation in operations:
            self.databases.add(_database(operation))
            grouped.setdefault(_address(_database(operation)), []).append(operation)
        errors: dict[int, str] = {}
        for address, its in grouped.items():
            errors |= {id(operation): error for operation, error in self._apply(address, its)}
        return [Outcome(operation, errors[id(operation)]) for operation in operations]

    def _apply(self, address: str, operations: list[Operation]) -> Iterator[tuple[Operation, str]]:
        """Each operation with its error."""
        error = ""
        own: dict[str, str] = {}
        try:
            with Client(address) as client:
                if not client.switch_runs():
                    raise MissingToolError(f"{SWITCH} does not run")
                names = {_name(operation.target) for operation in operations}
                there = _snapshot(client, "", frozenset(names) if len(names) <= _FEW_NAMES else None)
                for batch in _batches(operations, there):
                    self._commit(client, batch.requests)
                    own |= _complaints(client, batch.made)
        except DuctworkError as refused:
            error = refused.message
        yield from ((operation, error or own.get(_name(operation.target), "")) for operation in operations)

    def _commit(self, client: Client, requests: list[Request]) -> None:
        if not requests:
            return
        self._gate("before")
        try:
            results = client.transact([*requests, *rows.next_generation()])
        finally:
            self._gate("after")
        found = results[-1]["rows"]
        if not found:
            raise DatabaseError("the database of Open vSwitch is empty: ovs-vsctl init")
        late = client.await_switch(found[0]["next_cfg"], self._wait_seconds)
        if late:
            raise DatabaseError(late)


@dataclass(slots=True)
class _Batch:
    """One transaction. `made`: the interfaces that it makes; `gone`: the bridges and ports that it removes."""

    requests: list[Request] = field(default_factory=list)
    made: list[str] = field(default_factory=list)
    gone: set[str] = field(default_factory=set)


def _batches(operations: Sequence[Operation], there: rows.Snapshot) -> Iterator[_Batch]:
    """The transactions, in order: one, or two where a port is removed and made again. Errors: `DatabaseError`, for what
    cannot be, before any is given."""
    found = [_Batch()]
    bridges, ports = dict(there.bridges), dict(there.ports)
    for operation in operations:
        if isinstance(operation, Create) and isinstance(operation.after, OvsPort):
            _drop_dead(operation.after, ports, there, found[-1])
    for number, operation in enumerate(operations):
        batch = found[-1]
        match operation:
            case Create(OvsBridge() as bridge):
                if _is_new(bridge, bridges.get(bridge.name)):
                    batch = _behind(found, bridge.name)
                    bridges[bridge.name] = bridge
                    batch.requests += rows.create_bridge(bridge, number)
                    batch.made.append(bridge.name)
            case Create(OvsPort() as port):
                if port.bridge not in bridges:
                    raise DatabaseError(f"there is no Open vSwitch bridge {port.bridge}")
                if _is_new(port, ports.get(port.link)):
                    batch = _behind(found, port.link)
                    ports[port.link] = port
                    batch.requests += rows.create_port(port, number, 0 if port.internal else link_index(port.link))
                    batch.made.append(port.link)
            case Delete(OvsBridge(name=name) as before):
                if name in bridges:
                    _refuse_foreign(before, bridges.pop(name))
                    batch.requests += rows.delete_bridge(there.bridge_uuids[name])
                    batch.gone |= {name, *(link for link, port in ports.items() if port.bridge == name)}
                    ports = {link: port for link, port in ports.items() if port.bridge != name}
            case Delete(OvsPort(link=link) as before):
                if link in ports:
                    _refuse_foreign(before, ports[link])
                    batch.requests += rows.delete_port(ports.pop(link).bridge, there.port_uuids[link])
                    batch.gone.add(link)
            case Update(OvsBridge() as before, OvsBridge() as bridge):
                _refuse_foreign(before, bridges.get(bridge.name))
                batch.requests += rows.update_bridge(before, bridge)
            case Update(OvsPort() as before, OvsPort() as port):
                _refuse_foreign(before, ports.get(port.link))
                batch.requests += rows.update_port(before, port)
            case _:
                raise AssertionError(f"not for Open vSwitch: {operation}")
    yield from found


def _behind(batches: list[_Batch], name: str) -> _Batch:
    """The last batch, or one behind it where that one removes what is made under `name`."""
    if name in batches[-1].gone:
        batches.append(_Batch())
    return batches[-1]


def _drop_dead(port: OvsPort, ports: dict[str, OvsPort], there: rows.Snapshot, batch: _Batch) -> None:
    """A dead port of ours is in nobody's way."""
    found = ports.get(port.link)
    if found and found.dead and found.owner and not port.dead:
        batch.requests += rows.delete_port(found.bridge, there.port_uuids[port.link])
        batch.gone.add(port.link)
        del ports[port.link]


def _is_new(want: OvsBridge | OvsPort, found: OvsBridge | OvsPort | None) -> bool:
    if found is not None and found != want:
        whose = "" if found.owner else ", and is not ductwork's"
        raise DatabaseError(f"there is {found.key} already{whose}")
    return found is None


def _refuse_foreign(before: OvsBridge | OvsPort, found: OvsBridge | OvsPort | None) -> None:
    """Somebody may have made another under the name since it was read."""
    if found is None:
        raise DatabaseError(f"there is no {before.key} any more")
    if before.owner and not found.owner:
        raise DatabaseError(f"{found.key} is not ductwork's any more")


def _complaints(client: Client, made: list[str]) -> dict[str, str]:
    """What ovs-vswitchd could not set up, by name: its commit succeeds all the same."""
    if not made:
        return {}
    answers = client.transact([rows.interface_state(name) for name in made])
    found = ((name, rows.complaint(answer["rows"])) for name, answer in zip(made, answers, strict=True))
    return {name: complaint for name, complaint in found if complaint}


def _snapshot(client: Client, database: str, names: frozenset[str] | None) -> rows.Snapshot:
    answers = client.transact(rows.selects(names))
    return rows.snapshot((row for answer in answers for row in answer["rows"]), database, link_index)


def link_index(name: str) -> int:
    """In the namespace of the calling thread; 0: there is none of that name."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0


def _name(resource: Resource) -> str:
    assert isinstance(resource, OvsBridge | OvsPort)
    return resource.name if isinstance(resource, OvsBridge) else resource.link


def _database(operation: Operation) -> str:
    assert isinstance(operation.target, OvsBridge | OvsPort)
    return operation.target.database


def _address(database: str) -> str:
    return database or default_address()
