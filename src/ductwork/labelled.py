"""What containers ask for by their labels: each container's attachments, out of one look at what is written on it.

Invariant: only what `translate` lets through is done, with addresses in the ranges that the site permits; a container whose
labels are refused, or cannot be done, hinders nobody else. Names stay: while nobody else needs its address, a container that
comes back by its name has it, whatever became of it meanwhile, as long as it is one of the last thousand that are gone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from ipaddress import ip_interface
from typing import TYPE_CHECKING, Any, NamedTuple

from ductwork import ipam, serial
from ductwork.drivers.registry import DRIVERS
from ductwork.errors import AllocationError, DuctworkError, LabelError
from ductwork.goals import LABEL, Attach, Detach, Labelled, Observation, links_of
from ductwork.labelled_ports import LabelPorts, given_up, placed
from ductwork.naming import host_ifname, mac_address
from ductwork.publishing import Publisher
from ductwork.reconciler import Preview, Reconciler, Report
from ductwork.resources import HOST, IPInterface, Key, Link, Owner
from ductwork.runtimes import Sandbox, Tags
from ductwork.services import ports
from ductwork.site.model import Attachment, Network, PublishedPort, Site
from ductwork.store import Store

if TYPE_CHECKING:
    from ductwork.engine import AttachRequest

TABLE = "labelled"
"""In the store: container → what its labels plugged in when it last ran."""

BY_HAND = "attachments"
"""In the store: CONTAINER/INTERFACE → what `attach` did."""

USED = "used"
"""In the store: SITE/NETWORK/CONTAINER/INTERFACE → what it had in somebody else's LAN: addresses, their MAC and wire. Nobody is
asked for them again."""

_MOST_GONE = 1000
"""Containers that are gone, whose addresses are remembered."""

_AT_ONCE = 100
"""So many new names, and it is looked which containers are gone."""

_PERHAPS = 9
"""Where the store has lost what a container had, so many names are looked for, less one."""

Translate = Callable[[str, Tags, Site, str], "tuple[AttachRequest, ...]"]
"""(container, what is written on it, site, host) → what it asks for. Errors: `LabelError`."""


CarryOut = Callable[[Attach | Detach], Report]
Ports = list[tuple[str, PublishedPort]]
"""(site, port)."""


@dataclass(frozen=True, slots=True)
class Asked:
    """`requests`: running container → what it asks for; `refused`: another one → why it gets nothing; `silent`: the runtimes
    that do not answer."""

    requests: Mapping[str, tuple[AttachRequest, ...]] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    silent: frozenset[str] = frozenset()

    def stays(self, site: Site) -> Labelled:
        wanted = frozenset((container, r.network) for container, its in self.requests.items() for r in its)
        return Labelled(wanted, frozenset(site.labels), self.silent)


class _Had(NamedTuple):
    """Of an attachment that labels have made: what is asked of the thousands that are remembered."""

    container: str
    interface: str
    network: str
    mac: str

    @property
    def id(self) -> tuple[str, str]:
        return self.container, self.interface


@dataclass(frozen=True, slots=True)
class _Work:
    """One container's part: the goal, what is to be stored before it is carried out, and what undoes that."""

    goal: Attach
    leases: tuple[ipam.LeaseChange, ...]
    former_leases: tuple[ipam.LeaseChange, ...]
    record: dict[str, object]
    ports: tuple[PublishedPort, ...]


class LabelledContainers:
    """The engine's part that is about labels. `machine`: as the engine's."""

    def __init__(
        self,
        reconciler: Reconciler,
        store: Store,
        machine: str,
        publisher: Publisher,
        by_labels: LabelPorts,
        translate: Translate,
    ) -> None:
        self._reconciler = reconciler
        self._store = store
        self._publisher = publisher
        self._by_labels = by_labels
        self._machine = machine
        self._translate = translate
        self._known: dict[str, tuple[object, tuple[_Had, ...]]] = {}

    # what is asked for

    def look(self, site: Site, host: str) -> Asked:
        """Of all running containers; nobody is asked where the site permits nothing."""
        if not site.labels:
            return Asked()
        tagged, silent = self._reconciler.resolver.tagged()
        return self.read(site, host, tagged, silent)

    def read(self, site: Site, host: str, tagged: Mapping[str, Tags], silent: frozenset[str] = frozenset()) -> Asked:
        requests: dict[str, tuple[AttachRequest, ...]] = {}
        refused: dict[str, str] = {}
        for container, tags in sorted(tagged.items()):
            try:
                its = self._translate(container, tags, site, host) if tags.asks else ()
            except LabelError as error:
                refused[container] = _said(error)
            else:
                if its:
                    requests[container] = its
        return Asked(requests, refused, silent)

    # what they publish

    def spared(self, site: Site, asked: Asked) -> frozenset[Key]:
        """What is open of the containers that stay, by their labels, or by hand (`site.ports`)."""
        stays = {
            attachment.id
            for container, its in self._had(site.name).items()
            if container in asked.requests or container.partition(":")[0] in asked.silent
            for attachment in its
            if attachment.network in site.labels
        }
        found = [port for port in site.ports if port.id in stays]
        found += self._by_labels.staying(site, asked.requests, asked.silent)
        found += self._by_labels.unknown(site.name, asked.requests, self._publisher.published())
        return frozenset(key for port in found for key in ports.keys(port))

    def settle(self, site: Site, asked: Asked) -> None:
        """Of what was open, forget what the host has been rid of."""
        self._by_labels.settle(site, asked.requests, asked.silent)

    def _written(self, site: Site, asked: Asked) -> Ports:
        """What others than the site and its labels publish, by which requests are judged."""
        return list(self._publisher.published(but=site.name)) if asked.requests else []

    def _opened(self, site: Site) -> Ports:
        return [(name, port) for name, port in self._by_labels.opened() if name == site.name]

    # the store

    def holders(self, site: Site, host: str) -> set[ipam.Holder]:
        """Whose leases are kept: a name's, as long as the policy lets it have the network."""
        return {
            (host, *attachment.id)
            for its in self._had(site.name).values()
            for attachment in its
            if attachment.network in site.labels
        }

    def concerns(self, site: Site, container: str) -> bool:
        return self._record(site.name, container) is not None

    def networks_of(self, site: str, container: str) -> set[str]:
        """By its name, with or without its runtime's."""
        had = self._had(site).items()
        return {a.network for name, its in had if container in (name, name.partition(":")[2]) for a in its}

    def gone(self, site: Site, leases: Mapping[str, ipam.Leases]) -> tuple[ipam.LeaseChange, ...]:
        """The leases of containers that are not there any more, to be forgotten when addresses run out."""
        names = self._records(site.name).keys()
        held = {holder[1] for its in leases.values() for holder in its if holder[1] in names}
        gone = self._reconciler.resolver.gone(held) if held else set()
        return tuple(
            ipam.LeaseChange(network, holder, ()) for network, its in leases.items() for holder in its if holder[1] in gone
        )

    def _records(self, site: str) -> dict[str, dict[str, Any]]:
        return {name: record for name, record in self._store.remembered(TABLE).items() if record["site"] == site}

    def _record(self, site: str, container: str) -> dict[str, Any] | None:
        record = self._store.remembered(TABLE, container).get(container)
        return record if record and record["site"] == site else None

    def _had(self, site: str) -> dict[str, tuple[_Had, ...]]:
        """Container → what its labels plugged in when it last ran. What was read before is not read again."""
        found = {}
        for name, record in self._records(site).items():
            known = self._known.get(name)
            found[name] = known if known and known[0] is record["attachments"] else _had(record["attachments"])
        self._known = found
        return {name: its for name, (_, its) in found.items()}

    def _left(
        self, site: Site, host: str, record: Mapping[str, Any] | None, now: Iterable[Attachment] = ()
    ) -> list[Attachment]:
        """What a record has, and is neither in what is asked for now, nor what the file or somebody's `attach` has."""
        if not record:
            return []
        others = {a.id for a in (*site.on(host), *now)} | {key.rpartition("/")[::2] for key in self._store.remembered(BY_HAND)}
        return [a for a in serial.decode(record["attachments"]) if a.id not in others]

    def _forget_gone(self, site: Site, host: str) -> None:
        """Names of chance come by the thousand; those that were seen last are kept."""
        records = self._records(site.name)
        if len(records) <= _MOST_GONE or len(records) % _AT_ONCE:
            return
        gone = list(self._reconciler.resolver.gone(records))
        gone.sort(key=lambda name: (records[name].get("hour", 0), name), reverse=True)
        forgotten = gone[_MOST_GONE:][-_MOST_GONE:]  # no more at once: others wait meanwhile
        its = [attachment for container in forgotten for attachment in self._left(site, host, records[container])]
        self._store.lease_all(site.name, [ipam.LeaseChange(a.network, (host, *a.id), ()) for a in its])
        for key in {"/".join((site.name, a.network, *a.id)) for a in its} & self._store.remembered(USED).keys():
            self._store.remember(USED, key, None)
        for container in forgotten:
            self._store.remember(TABLE, container, None)

    # doing

    def previews(self, site: Site, host: str, asked: Asked) -> Iterator[Preview | tuple[str, str]]:
        """What carrying each of them out would do; else (container, why nobody knows)."""
        written = self._written(site, asked)
        opened = [(site.name, port) for port in self._by_labels.staying(site, asked.requests, asked.silent)]
        with self._reconciler.acquainted(asked.requests) as sandboxes:
            for container, requests in asked.requests.items():
                try:
                    _refuse_shared(sandboxes[container])
                    seen = self._seen(site, container)
                    work = self._work(site, host, container, requests, seen, written, opened)
                    yield self._reconciler.preview(work.goal)
                    opened += [(site.name, port) for port in work.ports]
                except DuctworkError as error:
                    yield container, _said(error)

    def plug_in(self, site: Site, host: str, asked: Asked, carry_out: CarryOut, into: Report | None) -> Report | None:
        """Each container by itself. `carry_out`: how the engine does it; `into`: what has been done before."""
        refused, written = dict(asked.refused), self._written(site, asked)
        with self._reconciler.acquainted(asked.requests) as sandboxes:
            for container, requests in asked.requests.items():
                try:
                    _refuse_shared(sandboxes[container])
                    report = self._plug_in(site, host, container, requests, carry_out, written)
                except DuctworkError as error:
                    refused[container] = _said(error)
                else:
                    into = into.joined(report) if into else report
        if refused and into is None:
            into = Report.of_nothing()
        return replace(into, refused={**into.refused, **refused}) if into else None

    def _plug_in(
        self,
        site: Site,
        host: str,
        container: str,
        requests: tuple[AttachRequest, ...],
        carry_out: CarryOut,
        written: Ports,
    ) -> Report:
        """Addresses are stored before the kernel gets them, and given back if it does not."""
        seen = self._seen(site, container)
        former = self._under_another_name(site, container, seen)
        reports = [carry_out(self._detachment(site, host, attachment)) for attachment in former]
        if former:
            seen = self._seen(site, container)
        work = self._work(site, host, container, requests, seen, written, self._opened(site), former)
        if work.leases:
            self._store.lease_all(site.name, work.leases)
        former_ports = self._by_labels.remember(site.name, container, work.ports)
        try:
            reports.append(carry_out(work.goal))
        except DuctworkError:
            if work.leases:
                self._store.lease_all(site.name, work.former_leases)
            self._by_labels.remember(site.name, container, former_ports)
            raise
        known = self._store.remembered(TABLE, container).get(container)
        if known != work.record:
            self._store.remember(TABLE, container, work.record)
        if known is None:
            self._forget_gone(site, host)
        return reduce(Report.joined, reports)

    def _seen(self, site: Site, container: str) -> Observation:
        """What the container has, and the host's ends of what is ours in it, by the store, or by guess where it has nothing."""
        record = self._record(site.name, container)
        its = [a.interface for a in serial.decode(record["attachments"])] if record else [f"eth{n}" for n in range(1, _PERHAPS)]
        ends = frozenset(host_ifname(container, name) for name in its)
        return self._reconciler.observe(Detach(Owner(site.name, LABEL, "", container), ends))

    def _under_another_name(self, site: Site, container: str, seen: Observation) -> list[_Had]:
        """What a container that was renamed as it ran has by its former name: the store tells of it, and the host's end, whose
        mark names this very namespace, proves it."""
        links = [r for r in seen.state.values() if isinstance(r, Link) and r.netns == container and r.owner is None]
        strange = {(link.name, link.mac) for link in links if link.kind == "veth"}
        perhaps = {
            host_ifname(*a.id): Owner(site.name, LABEL, a.network, *a.id)
            for name, its in (self._had(site.name).items() if strange else ())
            for a in its
            if name != container and (a.interface, a.mac) in strange and a.network in site.networks
        }
        if not perhaps:
            return []
        there = self._reconciler.observe(Detach(Owner(site.name, LABEL, "", container), frozenset(perhaps)))
        cookie = there.facts.containers[container].cookie
        ends = {r.name: r.owner for r in there.state.values() if isinstance(r, Link) and r.netns == HOST and r.owner}
        proven = {owner[3:5] for end, owner in perhaps.items() if ends.get(end) == owner._replace(cookie=cookie)}
        return [a for its in self._had(site.name).values() for a in its if a.id in proven]

    def _detachment(self, site: Site, host: str, attachment: _Had) -> Detach:
        network = site.networks[attachment.network]
        return Detach(
            Owner(site.name, LABEL, network.name, *attachment.id),
            links_of(network, host, DRIVERS[network.driver].ifname(network, host), attachment.id),
            attachment.mac,
            self._store.leases(site.name, network.name).get((host, *attachment.id), ()),
        )

    def _work(
        self,
        site: Site,
        host: str,
        container: str,
        requests: tuple[AttachRequest, ...],
        seen: Observation,
        written: Ports,
        opened: Ports,
        former: Iterable[_Had] = (),
    ) -> _Work:
        """`opened`: the ports by the site's labels; `written`: everybody else's. `former`: what it had by another
        name, and has no longer: it may ask for those addresses."""
        attachments = self._attachments(site, host, container, requests, seen)
        its_ports = tuple(placed(port, a) for r, a in zip(requests, attachments, strict=True) for port in r.ports)
        if its_ports:
            self._by_labels.refuse_taken(its_ports, site.name, [*written, *opened])
            self._publisher.refuse_held_at_loopback(its_ports)
        left = self._left(site, host, self._record(site.name, container), attachments)
        networks = dict.fromkeys(a.network for a in (*attachments, *left))
        leases = {name: dict(self._store.leases(site.name, name)) for name in networks}
        known = {name: dict(its) for name, its in leases.items()}
        asked = {(a.network, address.ip) for a in attachments for address in a.addresses}
        for attachment in left:
            leases[attachment.network].pop((host, *attachment.id), None)
        for former_one in former:
            theirs, holder = leases.get(former_one.network, {}), (host, *former_one.id)
            if any((former_one.network, ip) in asked for ip in theirs.get(holder, ())):
                theirs.pop(holder, None)
        try:
            addresses = _assigned(site, host, attachments, leases)
        except AllocationError:
            for change in self.gone(site, leases):
                del leases[change.network][change.holder]
            addresses = _assigned(site, host, attachments, leases)
        for attachment in attachments:
            leases[attachment.network][host, *attachment.id] = tuple(each.ip for each in addresses[attachment.id])
        changes, back = _difference(known, leases), _difference(leases, known)
        its = {attachment.id for attachment in attachments}
        gone = tuple(ip for change in back if change.holder[1:] in its for ip in change.addresses)
        by_hand = (port for name, port in written if (name, port.container, port.host) == (site.name, container, host))
        its_site = replace(site, attachments=attachments, ports=(*by_hand, *its_ports))
        closed = given_up(container, its_ports, (port for _, port in opened))
        goal = Attach(its_site, host, self._machine, addresses, LABEL, gone, closed)
        record = {"site": site.name, "attachments": serial.encode(attachments), "hour": int(time.time() // 3600)}
        return _Work(goal, changes, back, record, its_ports)

    def _attachments(
        self, site: Site, host: str, container: str, requests: tuple[AttachRequest, ...], seen: Observation
    ) -> tuple[Attachment, ...]:
        names = self._interfaces(site, host, container, requests, seen)
        found = []
        for request, interface in zip(requests, names, strict=True):
            network = site.networks[request.network]
            mac = request.mac or mac_address(host or self._machine, container, interface)
            self._refuse_taken(mac if request.mac else "", network.name, container, site)
            addresses = tuple(
                ip_interface((address, subnet.prefixlen))
                for address in request.addresses
                if (subnet := network.subnet_of(address))
            )
            found.append(Attachment(container, host, network.name, interface, mac, addresses, request.gateway))
        return tuple(found)

    def _interfaces(
        self, site: Site, host: str, container: str, requests: tuple[AttachRequest, ...], seen: Observation
    ) -> list[str]:
        """Those asked for, else those that it had, by the store or by the kernel, else the first of eth1, eth2, … that it has
        not."""
        if all(request.interface for request in requests):
            return [request.interface or "" for request in requests]
        record = self._record(site.name, container)
        had = {a.network: a.interface for a in serial.decode(record["attachments"])} if record else {}
        links = [r for r in seen.state.values() if isinstance(r, Link) and r.netns != HOST]
        ours = {link.name: link.owner for link in links if link.owner and link.owner[:2] == (site.name, LABEL)}
        had = {owner.network: name for name, owner in ours.items()} | had
        taken = {link.name for link in links if link.name not in ours}
        plain = container.partition(":")[2]
        taken |= {a.interface for a in site.on(host) if a.container in (container, plain)}
        taken |= {request.interface for request in requests if request.interface}
        names: list[str] = []
        for request in requests:
            name = request.interface or had.get(request.network, "")
            if not request.interface and (not name or name in taken):
                reserved = taken | set(had.values())
                name = next(f"eth{n}" for n in range(1, 10_000) if f"eth{n}" not in reserved)
            taken.add(name)
            names.append(name)
        return names

    def _refuse_taken(self, mac: str, network: str, container: str, site: Site) -> None:
        """A MAC that another container of the network has by `attach` or by its labels."""
        if not mac:
            return
        if mac in self._our_macs(site.networks[network], site):
            raise LabelError(f"MAC {mac} is a host's own in network {network}", "ask for another, or for none")
        for value in self._store.remembered(BY_HAND).values():
            its: Attachment = serial.decode(value["attachment"])
            if (value["site"], value["network"], its.mac) == (site.name, network, mac):
                raise LabelError(f"MAC {mac} is {its.container}'s in network {network}", "ask for another, or for none")
        others = {
            name
            for name, its in self._had(site.name).items()
            for attachment in its
            if name != container and (attachment.network, attachment.mac) == (network, mac)
        }
        here = others - self._reconciler.resolver.gone(others) if others else set()
        if here:
            raise LabelError(f"MAC {mac} is {min(here)}'s in network {network}", "ask for another, or for none")

    def _our_macs(self, network: Network, site: Site) -> set[str]:
        """Those that the hosts' own devices are given in a network: who has one, gets what is meant for a gateway."""
        names = {network.name, getattr(network.options, "bridge", "") or network.name}
        hosts = [host or self._machine for host in site.hosts_of(network.name)]
        kinds = ("bridge", "vtep", "access", "ovs")
        return {mac_address(host, name, kind) for host in hosts for name in names for kind in kinds}


def _had(encoded: Any) -> tuple[object, tuple[_Had, ...]]:
    return encoded, tuple(_Had(*(its[name] for name in _Had._fields)) for its in encoded)


def _refuse_shared(sandbox: Sandbox | None) -> None:
    """It may be somebody else's, whose labels ask for nothing."""
    if sandbox and sandbox.mode.startswith("container:"):
        other = sandbox.mode.partition(":")[2]
        raise LabelError(f"it shares the network of {other}", "put the labels on that one")


def _assigned(
    site: Site, host: str, attachments: tuple[Attachment, ...], leases: Mapping[str, ipam.Leases]
) -> dict[tuple[str, str], tuple[IPInterface, ...]]:
    """Asked for, or allocated in the ranges that labels may have. Errors: `AllocationError`."""
    found: dict[tuple[str, str], tuple[IPInterface, ...]] = {}
    for name in dict.fromkeys(attachment.network for attachment in attachments):
        its = leases[name]
        network = ipam.narrowed(site.networks[name], host, site.labels[name].addresses)
        mine = tuple(attachment for attachment in attachments if attachment.network == name)
        holders = {(host, *attachment.id) for attachment in mine}
        found |= {attachment.id: attachment.addresses for attachment in mine}
        asked = {address.ip for attachment in mine for address in attachment.addresses}
        for holder, theirs in its.items() if asked else ():
            if holder not in holders and (held := asked.intersection(theirs)):
                hint = "ask for another one, or for none: then one is allocated"
                raise AllocationError(f"{min(held, key=str)} belongs to {holder[1]}", hint)
        allocated = tuple(attachment for attachment in mine if not attachment.addresses)
        if not allocated or not network.subnets:
            continue
        written = tuple(address.ip for attachment in mine for address in attachment.addresses)
        taken = (*ipam.reserved(site.networks[name], site), *written)
        known = {**its, ("", "the site file", ""): taken}
        part = Site(site.name, {}, {name: network}, allocated)
        found |= ipam.assign(part, host, {name: known}).addresses
    return found


def _difference(before: Mapping[str, ipam.Leases], after: Mapping[str, ipam.Leases]) -> tuple[ipam.LeaseChange, ...]:
    """From one to the other; what is given back comes first."""
    changes = []
    for network, now in after.items():
        former = before[network]
        changes += [ipam.LeaseChange(network, holder, ()) for holder, its in former.items() if its and holder not in now]
        changes += [ipam.LeaseChange(network, holder, its) for holder, its in now.items() if former.get(holder, ()) != its]
    return tuple(sorted(changes, key=lambda change: bool(change.addresses)))


def _said(error: DuctworkError) -> str:
    return f"{error.message}: {error.hint}" if error.hint else error.message
