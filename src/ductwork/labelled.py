"""What containers ask for by their labels: each container's attachments, out of one look at what is written on it.

Invariant: only what `translate` lets through is done, with addresses in the ranges that the site permits; a container whose
labels are refused, or cannot be done, hinders nobody else. Names stay: while nobody else needs its address, a container that
comes back by its name has it, whatever became of it meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_interface
from typing import TYPE_CHECKING, Any

from ductwork import ipam, serial
from ductwork.errors import AllocationError, DuctworkError, LabelError
from ductwork.goals import LABEL, Attach, Detach, Labelled
from ductwork.naming import host_ifname, mac_address
from ductwork.reconciler import Preview, Reconciler, Report
from ductwork.resources import HOST, IPInterface, Link, Owner
from ductwork.runtimes import Sandbox, Tags
from ductwork.site.model import Attachment, Site
from ductwork.store import Store

if TYPE_CHECKING:
    from ductwork.engine import AttachRequest

TABLE = "labelled"
"""In the store: container → what its labels plugged in when it last ran."""

BY_HAND = "attachments"
"""In the store: CONTAINER/INTERFACE → what `attach` did."""

_PERHAPS = 9
"""Where the store has lost what a container had, so many names are looked for, less one."""

Translate = Callable[[str, Tags, Site, str], "tuple[AttachRequest, ...]"]
"""(container, what is written on it, site, host) → what it asks for. Errors: `LabelError`."""


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


@dataclass(frozen=True, slots=True)
class _Work:
    """One container's part: the goal, what is to be stored before it is carried out, and what undoes that."""

    goal: Attach
    leases: tuple[ipam.LeaseChange, ...]
    former_leases: tuple[ipam.LeaseChange, ...]
    record: dict[str, object]


class LabelledContainers:
    """The engine's part that is about labels. `machine`: as the engine's."""

    def __init__(self, reconciler: Reconciler, store: Store, machine: str, translate: Translate) -> None:
        self._reconciler = reconciler
        self._store = store
        self._machine = machine
        self._translate = translate

    # what is asked for

    def look(self, site: Site, host: str) -> Asked:
        """Of all running containers; nobody is asked where the site permits nothing."""
        if not site.labels:
            return Asked()
        tagged, silent = self._reconciler.tagged()
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

    # the store

    def holders(self, site: Site, host: str) -> set[ipam.Holder]:
        """Whose leases are kept: a name's, as long as the policy lets it have the network."""
        return {
            (host, *attachment.id)
            for record in self._records(site.name).values()
            for attachment in serial.decode(record["attachments"])
            if attachment.network in site.labels
        }

    def concerns(self, site: Site, container: str) -> bool:
        return container in self._records(site.name)

    def networks_of(self, site: str, container: str) -> set[str]:
        """By its name, with or without its runtime's."""
        records = self._records(site).items()
        found = [record for name, record in records if container in (name, name.partition(":")[2])]
        return {attachment.network for record in found for attachment in serial.decode(record["attachments"])}

    def gone(self, site: Site, leases: Mapping[str, ipam.Leases]) -> tuple[ipam.LeaseChange, ...]:
        """The leases of containers that are not there any more, to be forgotten when addresses run out."""
        names = set(self._records(site.name))
        held = {holder[1] for its in leases.values() for holder in its if holder[1] in names}
        gone = self._reconciler.gone(held) if held else set()
        return tuple(
            ipam.LeaseChange(network, holder, ()) for network, its in leases.items() for holder in its if holder[1] in gone
        )

    def _records(self, site: str) -> dict[str, dict[str, Any]]:
        return {name: record for name, record in self._store.remembered(TABLE).items() if record["site"] == site}

    # doing

    def previews(self, site: Site, host: str, asked: Asked) -> Iterator[Preview]:
        """What carrying each of them out would do; what hinders one is a note."""
        with self._reconciler.acquainted(asked.requests) as sandboxes:
            for container, requests in asked.requests.items():
                try:
                    _refuse_shared(sandboxes[container])
                    yield self._reconciler.preview(self._work(site, host, container, requests).goal)
                except DuctworkError:
                    continue  # `apply` says so

    def plug_in(
        self, site: Site, host: str, asked: Asked, carry_out: Callable[[Attach], Report], into: Report | None
    ) -> Report | None:
        """Each container by itself. `carry_out`: how the engine does it; `into`: what has been done before."""
        refused = dict(asked.refused)
        with self._reconciler.acquainted(asked.requests) as sandboxes:
            for container, requests in asked.requests.items():
                try:
                    _refuse_shared(sandboxes[container])
                    report = self._plug_in(self._work(site, host, container, requests), container, carry_out)
                except DuctworkError as error:
                    refused[container] = _said(error)
                else:
                    into = into.joined(report) if into else report
        if refused and into is None:
            into = Report.of_nothing()
        return replace(into, refused={**into.refused, **refused}) if into else None

    def _plug_in(self, work: _Work, container: str, carry_out: Callable[[Attach], Report]) -> Report:
        """Addresses are stored before the kernel gets them, and given back if it does not."""
        site = work.goal.site.name
        if work.leases:
            self._store.lease_all(site, work.leases)
        try:
            report = carry_out(work.goal)
        except DuctworkError:
            if work.leases:
                self._store.lease_all(site, work.former_leases)
            raise
        if self._store.remembered(TABLE).get(container) != work.record:
            self._store.remember(TABLE, container, work.record)
        return report

    def _work(self, site: Site, host: str, container: str, requests: tuple[AttachRequest, ...]) -> _Work:
        attachments = self._attachments(site, host, container, requests)
        leases = {name: dict(self._store.leases(site.name, name)) for name in dict.fromkeys(a.network for a in attachments)}
        known = {name: dict(its) for name, its in leases.items()}
        try:
            addresses = _assigned(site, host, attachments, leases)
        except AllocationError:
            for change in self.gone(site, leases):
                del leases[change.network][change.holder]
            addresses = _assigned(site, host, attachments, leases)
        for attachment in attachments:
            leases[attachment.network][host, *attachment.id] = tuple(each.ip for each in addresses[attachment.id])
        changes, former = _difference(known, leases), _difference(leases, known)
        its = {attachment.id for attachment in attachments}
        gone = tuple(ip for change in former if change.holder[1:] in its for ip in change.addresses)
        goal = Attach(replace(site, attachments=attachments), host, self._machine, addresses, LABEL, former=gone)
        return _Work(goal, changes, former, {"site": site.name, "attachments": serial.encode(attachments)})

    def _attachments(
        self, site: Site, host: str, container: str, requests: tuple[AttachRequest, ...]
    ) -> tuple[Attachment, ...]:
        names = self._interfaces(site, host, container, requests)
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

    def _interfaces(self, site: Site, host: str, container: str, requests: tuple[AttachRequest, ...]) -> list[str]:
        """Those asked for, else those that it had, by the store or by the kernel, else the first of eth1, eth2, … that it has
        not."""
        if all(request.interface for request in requests):
            return [request.interface or "" for request in requests]
        record = self._records(site.name).get(container)
        had = {a.network: a.interface for a in serial.decode(record["attachments"])} if record else {}
        perhaps = had.values() if record else (f"eth{n}" for n in range(1, _PERHAPS))
        ends = frozenset(host_ifname(container, name) for name in perhaps)
        seen = self._reconciler.observe(Detach(Owner(site.name, LABEL, "", container), ends)).state
        links = [r for r in seen.values() if isinstance(r, Link) and r.netns != HOST]
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
        for value in self._store.remembered(BY_HAND).values():
            its: Attachment = serial.decode(value["attachment"])
            if (value["site"], value["network"], its.mac) == (site.name, network, mac):
                raise LabelError(f"MAC {mac} is {its.container}'s in network {network}", "ask for another, or for none")
        others = {
            name
            for name, record in self._records(site.name).items()
            for attachment in serial.decode(record["attachments"])
            if name != container and (attachment.network, attachment.mac) == (network, mac)
        }
        here = others - self._reconciler.gone(others) if others else set()
        if here:
            raise LabelError(f"MAC {mac} is {min(here)}'s in network {network}", "ask for another, or for none")


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
    for name, its in leases.items():
        network = ipam.narrowed(site.networks[name], host, site.labels[name])
        mine = tuple(attachment for attachment in attachments if attachment.network == name)
        holders = {(host, *attachment.id) for attachment in mine}
        others = {ip: holder for holder, theirs in its.items() if holder not in holders for ip in theirs}
        for attachment in mine:
            found[attachment.id] = attachment.addresses
            for address in attachment.addresses:
                if address.ip in others:
                    hint = "ask for another one, or for none: then one is allocated"
                    raise AllocationError(f"{address.ip} belongs to {others[address.ip][1]}", hint)
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
    changes = [
        ipam.LeaseChange(network, holder, after[network].get(holder, ()))
        for network in after
        for holder in {**before[network], **after[network]}
        if before[network].get(holder, ()) != after[network].get(holder, ())
    ]
    return tuple(sorted(changes, key=lambda change: bool(change.addresses)))


def _said(error: DuctworkError) -> str:
    return f"{error.message}: {error.hint}" if error.hint else error.message
