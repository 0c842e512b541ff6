"""`publish` and `unpublish`: ports of a running container, opened and closed by hand, and remembered.

Invariant: one more port costs no reading of the others: what is looked at is the container, its pair's end on the host and the
elements themselves. Only where a network gets its first port, or loses its last, is the whole host looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NoReturn

from ductwork import desire, serial
from ductwork.errors import ConflictError, ContainerError, UsageError
from ductwork.goals import LABEL, NOT_VIGILANT, PUBLISH, KnownNetwork, Observation, Vigilance
from ductwork.labelled_ports import LABEL_PORTS, LabelPorts
from ductwork.naming import host_ifname
from ductwork.reconciler import Reconciler, Report
from ductwork.resources import (
    HOST,
    Address,
    Create,
    Delete,
    IPAddress,
    Key,
    Link,
    NftElement,
    Owner,
    Port,
    Resource,
    State,
    Sysctl,
)
from ductwork.services import ports
from ductwork.site.model import Permission, PublishedPort, Site
from ductwork.site.values import RELAYED_AT_MOST, RUNTIMES, Listen, PortTarget
from ductwork.store import Store

Protocol = Literal["tcp", "udp", "sctp"]
PUBLICATIONS = "publications"
_CLOSED = "closed publications"
"""Those that `undo` may open again."""
_BY_FILE = "ports"
"""Site → what its file publishes here."""
_NUMBERS = "numbers of ports"
"""Site → protocol → (first, last) of the same, joined: reading thousands of ports would take longer than all else."""
SERVED = "served"
"""SITE/NETWORK → the attachments that the site's file publishes ports of, and whether labels may: what `unpublish` has to
leave."""


@dataclass(frozen=True, slots=True)
class PublishRequest:
    """The values have passed `site.values`. `network`: which attachment is meant; "": the container's only one."""

    listen: Listen
    to: PortTarget
    protocol: Protocol = "tcp"
    network: str = ""


@dataclass(frozen=True, slots=True)
class _Found:
    """A container's attachment as it is. `returns`: see `ports.Target`."""

    owner: Owner
    known: KnownNetwork
    target: ports.Target

    @property
    def id(self) -> tuple[str, str]:
        return (self.owner.container, self.owner.interface)


@dataclass(frozen=True, slots=True)
class _Look:
    """Nothing is wanted: a look at one container, some links of the host and some elements."""

    container: str = ""
    links: frozenset[str] | None = frozenset()
    asked: Sequence[NftElement] = ()
    title: str = ""
    vigilance: Vigilance = NOT_VIGILANT
    needs: str = ""
    nics: Sequence[str] = ()
    databases: frozenset[str] = frozenset()
    thorough: bool = False

    def containers(self, host: Iterable[Resource]) -> list[str]:
        return [self.container] if self.container else []

    def elements(self, state: State) -> Iterable[NftElement]:
        return self.asked

    def desired(self, observation: Observation) -> dict[Key, Resource]:
        return {}

    def mine(self, resource: Resource, observed: State) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class _Change:
    """Some ports are to be open, others closed. `serving`: what their network needs on the host is to be made (True), to go
    (False), or left as it is (None), without the host being looked at as a whole. `hairpin`: whether the container's port of
    the bridge is to turn frames round."""

    title: str
    known: KnownNetwork
    machine: str
    id: tuple[str, str]
    opened: Mapping[Key, Resource] = field(default_factory=dict)
    closed: Mapping[Key, NftElement] = field(default_factory=dict)
    serving: bool | None = None
    hairpin: bool = True
    vigilance: Vigilance = NOT_VIGILANT
    nics: Sequence[str] = ()
    databases: frozenset[str] = frozenset()
    thorough: bool = False

    @property
    def links(self) -> frozenset[str] | None:
        return frozenset({host_ifname(*self.id), self.known.bridge}) if self.serving is None else None

    @property
    def needs(self) -> str:
        """Beside those of the site, which take them over when it is applied."""
        return "" if self.serving is None else f"{self.known.site}/{PUBLISH}"

    def containers(self, host: Iterable[Resource]) -> list[str]:
        return []

    def elements(self, state: State) -> Iterable[NftElement]:
        return [element for element in (*self.opened.values(), *self.closed.values()) if isinstance(element, NftElement)]

    def desired(self, observation: Observation) -> dict[Key, Resource]:
        found = dict(self.opened)
        port = observation.state.get(Key("port", HOST, (host_ifname(*self.id),)))
        if isinstance(port, Port) and port.owner:
            found[port.key] = replace(port, hairpin=self.hairpin)
        if self.serving is not None:
            its = self._of_the_network(observation)
            found |= its if self.serving else {}
            if not self.serving:
                found |= {r.key: replace(r, value="0") for r in its.values() if isinstance(r, Sysctl) and _is_loopback(r)}
        return found

    def mine(self, resource: Resource, observed: State) -> bool:
        if isinstance(resource, Port):
            return resource.key.ident == (host_ifname(*self.id),)
        if not isinstance(resource, NftElement) or resource.owner is None or resource.owner.site != self.known.site:
            return False
        about = resource.key in self.opened or resource.key in self.closed
        if ports.is_port(resource):
            return resource.owner.origin == PUBLISH and about
        return about or (
            self.serving is not None and resource.set_name in ports.SETS and resource.owner.network == self.known.network.name
        )

    def _of_the_network(self, observation: Observation) -> dict[Key, Resource]:
        network, bridge = self.known.network, self.known.bridge
        site = Site(self.known.site, {}, {network.name: network})
        sight = desire.view(site, self.known.host, self.machine, observation.facts, {})
        return {resource.key: resource for resource in ports.network_resources(network, bridge, sight)}


class Publisher:
    """`known`: a network that was applied here, by SITE/NETWORK. `by_labels`: what labels have opened."""

    def __init__(
        self,
        reconciler: Reconciler,
        store: Store,
        machine: str,
        known: Callable[[str], KnownNetwork],
        by_labels: LabelPorts,
    ) -> None:
        self._reconciler = reconciler
        self._store = store
        self._machine = machine
        self._known = known
        self._by_labels = by_labels

    def publish(self, request: PublishRequest) -> Report:
        """Errors: `ConflictError` where the port is somebody's already; `ContainerError`, `UsageError`."""
        found = self._find(request.to.container, request.network)
        (address, first, last), (_, to, to_last) = request.listen, request.to
        if to != to_last and to_last - to != last - first:
            raise UsageError("the ranges are not of one length", "name as many ports, or one of the container's for all")
        network, host = found.owner.network, found.known.host
        port = PublishedPort(*found.id, network, host, request.protocol, first, last, to, to == to_last, address, PUBLISH)
        self._refuse_unreached(port, found)
        for site, other in self.published(near=port):
            if other != port and ports.clash(port, other):
                _refuse_taken(site, other)
        self.refuse_held_at_loopback([port])
        its_network, bridge, site = found.known.network, found.known.bridge, found.owner.site
        opened = [
            *ports.elements(port, found.target.addresses, site),
            *ports.target_elements(its_network, found.target, bridge, site),
        ]
        served = ports.served(ports.device_of(its_network, bridge), Owner(site, "site", network))
        there = self._reconciler.observe(_Look(asked=[served])).state
        goal = _Change(
            title=f"publish {port.listen}",
            known=found.known,
            machine=self._machine,
            id=found.id,
            opened={element.key: element for element in opened},
            serving=None if served.key in there else True,
        )
        value: dict[str, object] = {"site": site, "port": serial.encode(port)}
        return self._carry_out(goal, _key(port), value)

    def unpublish(self, listen: Listen, protocol: Protocol) -> Report:
        """Errors: `UsageError` where nothing is published there by hand."""
        asked = PublishedPort("", "", "", "", protocol, listen.first, listen.last, 0, False, listen.address)
        known = self._store.remembered(PUBLICATIONS)
        value: Any = known.get(_key(asked))
        for part in (serial.decode(each["port"]) for each in known.values()) if value is None else ():
            if ports.clash(asked, part):
                message = f"port {asked.listen}/{protocol} is not published as such, but {part.listen} is"
                raise UsageError(message, f"`ductwork unpublish {part.listen}`, and publish what is to stay")
        value = value or self._marked(asked)
        for site, port in self._by_labels.opened() if value is None else ():
            if _key(port) == _key(asked):
                hint = f"start it without the label, or take the port out of `labels` in the file of site {site}"
                raise UsageError(f"port {port.listen}/{protocol} is published by the label of {port.container}", hint)
        if value is None:
            message = f"port {asked.listen}/{protocol} is not published by `ductwork publish`"
            raise UsageError(
                message, "`ductwork ports` shows what is; what a site file publishes goes when the file no longer says so"
            )
        return self._close(value["site"], serial.decode(value["port"]))

    def close_all(self, container: str, interface: str) -> None:
        """Those of an attachment that is about to go."""
        for value in self._store.remembered(PUBLICATIONS).values():
            port = serial.decode(value["port"])
            if port.id == (container, interface):
                self._close(str(value["site"]), port)

    def remembered(self, site: str, host: str) -> tuple[PublishedPort, ...]:
        """What is published by hand to a site's networks on a host."""
        values = [value for value in self._store.remembered(PUBLICATIONS).values() if value["site"] == site]
        return tuple(port for port in (serial.decode(value["port"]) for value in values) if port.host == host)

    def published(self, *, but: str = "", near: PublishedPort | None = None) -> Iterator[ports.Other]:
        """(site, port) of everything that files, people and labels publish here, whether or not its container runs. `but`: a
        site whose file's and labels' are left out; `near`: of files, what has to do with its numbers."""
        numbers = self._store.remembered(_NUMBERS)
        sites = {name for name, its in numbers.items() if name != but and (near is None or _is_near(its, near))}
        by_file: Mapping[str, Any] = self._store.remembered(_BY_FILE) if sites else {}
        for site in (name for name in by_file if name in sites):
            found = (serial.decode(port) for port in by_file[site]["ports"] if near is None or _overlap(port, near))
            yield from ((site, port) for port in found)
        for value in self._store.remembered(PUBLICATIONS).values():
            yield str(value["site"]), serial.decode(value["port"])
        yield from (other for other in self._by_labels.opened() if other[0] != but)

    def at_loopback(self, wanted: Callable[[str, int], bool]) -> set[tuple[str, int]]:
        """(protocol, port) of what the agent relays now."""
        return {place for place, who in self._reconciler.traffic.at_loopback(wanted).items() if not who}

    def relayed(self) -> dict[tuple[Protocol, int], tuple[IPAddress, int]]:
        """(protocol, port) → where it leads, of the ports that are open at ::1 too; IPv6 rather than IPv4. A port on ::1 comes
        before one on all. Of more than `RELAYED_AT_MOST`, the longest ranges are left out."""
        open_there = [port for _, port in self.published() if ports.at_loopback(port) and port.protocol != "sctp"]
        open_there.sort(key=lambda port: (port.address != ports.LOOPBACK6, port.last - port.first))
        leads_to: dict[tuple[str, str], IPAddress] = {}
        for container in dict.fromkeys(port.container for port in open_there):
            for found in self._attachments(container):
                addresses = found.target.addresses
                if addresses:
                    leads_to[found.id] = addresses[max(addresses)]
        leads: dict[tuple[Protocol, int], tuple[IPAddress, int]] = {}
        for port in open_there:
            if port.id in leads_to and len(leads) + port.last - port.first < RELAYED_AT_MOST:
                for number in range(port.first, port.last + 1):
                    to = port.to if port.to_one else port.to + number - port.first
                    leads.setdefault((port.protocol, number), (leads_to[port.id], to))
        return leads

    def note(self, site: Site, host: str) -> None:
        """What a site that has been applied publishes: that `unpublish` leaves what it needs."""
        by_file = [port for port in site.ports if port.host == host and port.origin != PUBLISH]
        for kind, its in ((_BY_FILE, {"ports": serial.encode(by_file)}), (_NUMBERS, _numbers(by_file))):
            told = its if by_file else None
            if self._store.remembered(kind).get(site.name) != told:
                self._store.remember(kind, site.name, told)
        served: dict[str, set[tuple[str, str]]] = {
            f"{site.name}/{name}": set() for name, its in site.labels.items() if its.ports
        }
        for port in by_file:
            served.setdefault(f"{site.name}/{port.network}", set()).add(port.id)
        known = self._store.remembered(SERVED)
        for key in {*served, *(key for key in known if key.partition("/")[0] == site.name)}:
            value: dict[str, object] | None = {"of": sorted(map(list, served[key]))} if key in served else None
            if value and site.labels.get(key.partition("/")[2], Permission()).ports:
                value["labels"] = True
            if known.get(key) != value:
                self._store.remember(SERVED, key, value)

    def forget(self, site: str | None) -> None:
        """With the site's networks, what was published to them is gone."""
        for key, value in self._store.remembered(PUBLICATIONS).items():
            if site in (None, value["site"]):
                self._store.remember(PUBLICATIONS, key, None)
                self._store.remember(_CLOSED, key, value)
        for kind in (SERVED, _BY_FILE, _NUMBERS, LABEL_PORTS):
            for key in self._store.remembered(kind):
                if site in (None, key.partition("/")[0]):
                    self._store.remember(kind, key, None)

    def undone(self, report: Report) -> None:
        """What `undo` has closed again is no longer remembered; what it has opened again, is."""
        closed = {o.before.key for o in report.operations if isinstance(o, Delete) and _is_published(o.before)}
        opened = {o.after.key for o in report.operations if isinstance(o, Create) and _is_published(o.after)}
        for kind, other, keys in ((PUBLICATIONS, _CLOSED, closed), (_CLOSED, PUBLICATIONS, opened)):
            for key, value in self._store.remembered(kind).items() if keys else ():
                port = serial.decode(value["port"])
                if not keys.isdisjoint(ports.keys(port)):
                    self._store.remember(kind, key, None)
                    self._store.remember(other, key, value)

    def _close(self, site: str, port: PublishedPort) -> Report:
        network = f"{site}/{port.network}"
        others = [
            other
            for key, value in self._store.remembered(PUBLICATIONS).items()
            if value["site"] == site and key != _key(port)
            for other in (serial.decode(value["port"]),)
            if other.network == port.network
        ]
        served: Any = self._store.remembered(SERVED).get(network, {"of": ()})
        left = {(container, interface) for container, interface in served["of"]} | {other.id for other in others}
        left |= {other.id for whose, other in self._by_labels.opened() if (whose, other.network) == (site, port.network)}
        known = self._known(network)
        closed = list(ports.elements(port, ports.ANYWHERE, site))
        for found in self._attachments(port.container) if port.id not in left else ():
            if found.id == port.id:
                closed += ports.elsewhere(known.network, found.target.addresses.values(), known.bridge, site)
        goal = _Change(
            title=f"unpublish {port.listen}",
            known=known,
            machine=self._machine,
            id=port.id,
            closed={element.key: element for element in closed},
            serving=None if left or "labels" in served else False,
            hairpin=port.id in left,
        )
        report = self._carry_out(goal, _key(port), None)
        self._store.remember(_CLOSED, _key(port), {"site": site, "port": serial.encode(port)})
        return report

    def _carry_out(self, goal: _Change, key: str, value: dict[str, object] | None) -> Report:
        """Remembered, or forgotten, before the kernel tells the agent of it."""
        former = self._store.remembered(PUBLICATIONS).get(key)
        if former != value:
            self._store.remember(PUBLICATIONS, key, value)
        try:
            return self._reconciler.carry_out(goal)
        except BaseException:
            if former != value:
                self._store.remember(PUBLICATIONS, key, former)
            raise

    def refuse_taken(self, site: Site, host: str) -> None:
        """Of what a file publishes. Errors: `ConflictError`."""
        mine = [port for port in site.ports if port.host == host]
        for taken in ports.clashing(mine, self.published(but=site.name)) if mine else ():
            _refuse_taken(*taken)
        self.refuse_held_at_loopback(mine)

    def refuse_held_at_loopback(self, its: Iterable[PublishedPort]) -> None:
        """Where the agent relays, no element meets whoever listens. Errors: `ConflictError`, but for ports that are published
        already."""
        there = [port for port in its if ports.at_loopback(port)]
        found = self._reconciler.traffic.at_loopback(ports.covering(there)) if there else {}
        held = {place: who for place, who in found.items() if who}
        if not held:
            return
        known = ports.covering(port for _, port in self.published() if ports.at_loopback(port))
        for (protocol, number), who in held.items():
            if not known(protocol, number):
                message = f"port {number}/{protocol} of this host is held by {who}, at ::1: nothing was touched"
                raise ConflictError(message, "choose another port, or end what holds it")

    @staticmethod
    def _refuse_unreached(port: PublishedPort, found: _Found) -> None:
        network = f"network {found.owner.network}"
        if found.known.network.internal:
            raise UsageError(f"{network} is internal: nothing comes in", "publish it on another network of the container's")
        if not found.target.addresses:
            hint = "on a macvlan or ipvlan, `host_access` gives the host an interface beside the containers'"
            raise UsageError(f"{network}: this host has no way to {found.owner.container} there", hint)
        if port.address is not None and port.address.version not in found.target.addresses and port.address != ports.LOOPBACK6:
            has = ", ".join(f"IPv{version}" for version in found.target.addresses)
            raise UsageError(
                f"{port.address}: the host reaches {port.container} by {has} alone", "name another address, or none"
            )

    # finding

    def _find(self, reference: str, network: str) -> _Found:
        found: list[_Found] = []
        for name in _spellings(reference):
            found = list(self._attachments(name))
            if found:
                break
        if not found:
            raise ContainerError(
                f"{reference} is not running, or not attached by ductwork",
                "`ductwork ps` lists what is; a container that is not running can have its ports in the site file",
            )
        meant = [each for each in found if network in ("", each.owner.network, f"{each.owner.site}/{each.owner.network}")]
        if len(meant) != 1:
            names = ", ".join(each.owner.network for each in found)
            raise UsageError(f"{reference} is in network {names}", "--network, one of these")
        return meant[0]

    def _attachments(self, name: str) -> Iterator[_Found]:
        """Those of a container that is called so where it was attached."""
        state = self._reconciler.observe(_Look(name)).state
        inside = [r.name for r in state.values() if isinstance(r, Link) and r.netns == name]
        if not inside:
            return
        observation = self._reconciler.observe(_Look(name, frozenset(host_ifname(name, each) for each in inside)))
        links = [r for r in observation.state.values() if isinstance(r, Link) and r.netns == name and r.owner]
        for link in links:
            owner = link.owner
            assert owner
            yield _found(owner._replace(device="", home=0), self._known(f"{owner.site}/{owner.network}"), observation)

    def _marked(self, asked: PublishedPort) -> Any:
        """What the kernel's marks tell, where the store has lost it: of a range, what it led to, too."""
        for port in (replace(asked, to=asked.first), replace(asked, to_one=True), asked):
            looked_up = {element.key: element for element in ports.elements(port, ports.ANYWHERE, "")}
            state = self._reconciler.observe(_Look(asked=list(looked_up.values()))).state
            owner = next((state[key].owner for key in looked_up if key in state and _is_published(state[key])), None)
            if owner:
                return {"site": owner.site, "port": serial.encode(replace(port, network=owner.network, origin=PUBLISH))}
        return None


def _found(owner: Owner, known: KnownNetwork, observation: Observation) -> _Found:
    network = known.network
    versions = ports.reached(network, known.host)
    addresses: dict[int, IPAddress] = {}
    for address in (r for r in observation.state.values() if isinstance(r, Address) and r.netns == owner.container):
        here = address.link == owner.interface and network.subnet_of(address.address) is not None
        if here and address.address.version in versions:
            addresses.setdefault(address.address.version, address.address)
    routes = sorted(observation.facts.containers[owner.container].default_routes, key=lambda route: route.metric)
    first = {version: next((r for r in routes if r.to.version == version), None) for version in addresses}
    out = [version for version, route in first.items() if route and route.link == owner.interface]
    returns = (version for version in out if ports.holds_gateway(network, version, known.host))
    return _Found(owner, known, ports.Target(addresses, frozenset(returns)))


def _spellings(reference: str) -> Iterator[str]:
    """In the site file a container may be called with its runtime or without."""
    yield reference
    runtime, colon, name = reference.partition(":")
    yield from (name,) if colon and runtime in RUNTIMES else (f"{each}:{reference}" for each in RUNTIMES)


def _refuse_taken(site: str, other: PublishedPort) -> NoReturn:
    """By what a site, or somebody, publishes. Errors: `ConflictError`."""
    protocol = "" if other.protocol == "tcp" else f" --protocol {other.protocol}"
    whose, first = {
        PUBLISH: ("`ductwork publish`", f"`ductwork unpublish {other.listen}{protocol}`"),
        LABEL: ("its label", "start it without the label"),
    }.get(other.origin, (f"site {site}", "delete it from the site's file"))
    raise ConflictError(
        f"port {other.listen}/{other.protocol} is published already by {whose}, to {other.container}:{other.to}: "
        "nothing was touched",
        f"{first} first, or choose another port",
    )


def _numbers(published: Iterable[PublishedPort]) -> dict[str, object]:
    spans: dict[str, list[list[int]]] = {}
    for port in sorted(published, key=lambda port: port.first):
        its = spans.setdefault(port.protocol, [])
        if its and port.first <= its[-1][1] + 1:
            its[-1][1] = max(its[-1][1], port.last)
        else:
            its.append([port.first, port.last])
    return dict(spans)


def _is_near(numbers: Mapping[str, Any], port: PublishedPort) -> bool:
    return any(first <= port.last and port.first <= last for first, last in numbers.get(port.protocol, ()))


def _overlap(stored: Mapping[str, Any], port: PublishedPort) -> bool:
    """Of one as it is stored, since decoding is what takes its time."""
    return bool(stored["protocol"] == port.protocol and stored["first"] <= port.last and port.first <= stored["last"])


def _key(port: PublishedPort) -> str:
    return f"{port.protocol}/{port.listen}"


def _is_published(resource: Resource) -> bool:
    by_hand = resource.owner is not None and resource.owner.origin == PUBLISH
    return by_hand and ports.is_port(resource)


def _is_loopback(sysctl: Sysctl) -> bool:
    return sysctl.path.endswith("/route_localnet")
