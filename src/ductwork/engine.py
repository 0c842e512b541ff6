"""What every front end calls: plan, apply, undo, destroy, attach, detach, look. It joins the site with what is remembered
and leaves the doing to the reconciler.

Invariant: addresses are stored before the kernel gets them, so that a crash never gives one to two containers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial, reduce
from ipaddress import ip_address, ip_interface
from typing import Any

from ductwork import ipam, serial
from ductwork.confirmation import Guard
from ductwork.drivers.registry import DRIVERS
from ductwork.duplicates import in_use
from ductwork.errors import AllocationError, DuctworkError, UsageError
from ductwork.goals import ApplySite, Attach, DestroySite, Detach, KnownNetwork, Observation, Vigilance, links_of
from ductwork.journal import Awaiting
from ductwork.labelled import BY_HAND, USED, Asked, LabelledContainers, Translate
from ductwork.labelled_ports import LabelPorts
from ductwork.naming import mac_address
from ductwork.publishing import Publisher
from ductwork.reconciler import Preview, Reconciler, Report
from ductwork.resources import HOST, Address, Create, IPAddress, IPInterface, IPNetwork, Key, Link, Owner, Probe
from ductwork.runtimes import Tags
from ductwork.services import ports
from ductwork.site.model import Attachment, Network, PublishedPort, Site
from ductwork.store import Store

_NETWORKS = "networks"


@dataclass(frozen=True, slots=True)
class AttachRequest:
    """`ductwork attach`: what is left out is chosen as for an attachment of the site file. The values have passed
    `site.values`."""

    container: str
    network: str
    interface: str | None = None
    addresses: tuple[IPAddress, ...] = ()
    gateway: bool | IPAddress | None = None
    mac: str | None = None
    mtu_bytes: int | None = None
    ports: tuple[PublishedPort, ...] = ()
    """By labels alone: whose they are, the rest of the request says."""


def _asks_for_nothing(container: str, tags: Tags, site: Site, host: str) -> tuple[AttachRequest, ...]:
    return ()


class Engine:
    """One host's engine. `machine`: this machine's name. `close` frees what it holds. `translate`: what labels mean."""

    def __init__(
        self,
        reconciler: Reconciler,
        store: Store,
        machine: str,
        close: Callable[[], None],
        translate: Translate = _asks_for_nothing,
    ) -> None:
        self._reconciler = reconciler
        self._store = store
        self._machine = machine
        by_labels = LabelPorts(reconciler, store)
        self.publisher = Publisher(reconciler, store, machine, self._known_network, by_labels)
        self._labelled = LabelledContainers(reconciler, store, machine, self.publisher, by_labels, translate)
        self.place = reconciler.place
        self.close = close

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # the site

    def plan(self, site: Site, host: str) -> Preview:
        """What the site would change here, and what was attached by hand or by labels to networks that are here."""
        self.publisher.refuse_taken(site, host)
        asked = self._labelled.look(site, host)
        goal, _ = self._site_goal(site, host)
        preview = self._reconciler.preview(self._heeding(asked, goal))
        for other in self._previews_by_hand(site.name):
            preview = preview.joined(other)
        refused: dict[str, str] = {}
        for its in self._labelled.previews(self._as_applied(site, host), host, asked):
            if isinstance(its, Preview):
                preview = preview.joined(its)
            else:
                refused |= [its]
        told = asked.refused if preview.plan.operations else {**asked.refused, **refused}  # operations may make it possible
        notes = [f"{container} gets nothing by its labels: {why}" for container, why in told.items()]
        return replace(preview, notes=(*preview.notes, *notes), unsure=bool(refused))

    def _previews_by_hand(self, site: str) -> Iterator[Preview]:
        its = list(self._by_hand(site))
        with self._reconciler.acquainted(attachment.container for _, attachment in its):
            for known, attachment in its:
                try:
                    yield self._reconciler.preview(self._hand_goal(known, attachment)[0])
                except DuctworkError:
                    continue  # its network is not here yet; or `apply` says so

    def apply(self, site: Site, host: str, *, dad: bool = True, guard: Guard | None = None, asked: bool = True) -> Report:
        """Bring what the file has, remove what the site has no longer, and see to what was attached by hand. `dad`: ask
        whether anybody else has an address before it is given. `guard`: takes it all back unless `confirm` comes in time.
        `asked`: by a person, who may `undo` it."""
        self.publisher.refuse_taken(site, host)
        self._reconciler.fetch_back()
        asked_for = self._labelled.look(site, host)
        goal, changes = self._site_goal(site, host, recover=bool(asked_for.requests))
        goal = replace(self._heeding(asked_for, goal), vigilance=self._vigilance(dad))

        with self._reconciler.confirmations.one_change(goal.title, guard) as arm:

            def prepare() -> None:
                arm()
                if changes:
                    self._store.lease_all(site.name, changes)

            report = self._reconciler.carry_out(goal, prepare, asked=asked)
            self._remember_networks(goal, report.observation)
            self._remember_used(goal, report)
            report = self._attach_again(site.name, report, dad, asked=asked)
            self._labelled.settle(site, asked_for)
            carry_out = partial(self._carry_out, dad=dad, asked=asked)
            return self._labelled.plug_in(self._as_applied(site, host), host, asked_for, carry_out, report) or report

    def _heeding(self, asked: Asked, goal: ApplySite) -> ApplySite:
        """The site's, that leaves what containers ask for."""
        spared = goal.spared | self._labelled.spared(goal.site, asked)
        return replace(goal, labelled=asked.stays(goal.site), spared=spared)

    def look_after_nics(self) -> None:
        """For whoever fetches NICs back: of those lent, by other engines too. Errors: as `apply`."""
        self._reconciler.fetch_back()
        self._reconciler.hold()

    def concerns(self, site: Site, host: str, container: str) -> bool:
        """Whether the file, or what was attached by hand or by labels, may mean a container RUNTIME:NAME."""
        if self._labelled.concerns(site, container):
            return True
        return any(_is_called(name, container) or _is_identifier(name) for name in self.references(site, host))

    def references(self, site: Site, host: str) -> set[str]:
        """The containers that the file has, or that somebody has attached, as they are named there."""
        by_hand = (key.rpartition("/")[0] for key in self._store.remembered(BY_HAND))
        return {attachment.container for attachment in site.on(host)}.union(by_hand)

    def plug_in(self, site: Site, host: str, container: str, *, dad: bool = True) -> Report | None:
        """A container (RUNTIME:NAME) that has started: what the file, `attach` and its labels plug it into, and nothing else is
        looked at. None: nothing does, by this name. It is no change that `undo` takes back. Errors: as `apply`."""
        self._reconciler.fetch_back()
        attachments = tuple(a for a in site.on(host) if _is_called(a.container, container))
        by_hand = [(known, a) for known, a in self._by_hand() if _is_called(a.container, container)]
        names = [*(a.container for a in attachments), *(a.container for _, a in by_hand), *([container] if site.labels else [])]
        if not names:
            return None
        with self._reconciler.acquainted(names) as sandboxes:
            report = self._plug_in_written(site, host, attachments, by_hand, dad)
            sandbox = sandboxes.get(container)
            if not sandbox or not sandbox.tags:
                return report
            asked_for = self._labelled.read(site, host, {container: sandbox.tags} if site.labels else {})
            carry_out = partial(self._carry_out, dad=dad, asked=False)
            return self._labelled.plug_in(self._as_applied(site, host), host, asked_for, carry_out, report)

    def _plug_in_written(
        self,
        site: Site,
        host: str,
        attachments: tuple[Attachment, ...],
        by_hand: list[tuple[KnownNetwork, Attachment]],
        dad: bool,
    ) -> Report | None:
        reports = []
        if attachments:
            whole, changes = self._site_goal(site, host)
            if changes:
                self._store.lease_all(site.name, changes)
            its = replace(self._as_applied(whole.site, host), attachments=attachments)
            goal = Attach(its, host, self._machine, whole.addresses, "site")
            reports.append(self._carry_out(goal, dad=dad, asked=False))
        reports += [self._plug_in(known, attachment, dad, asked=False) for known, attachment in by_hand]
        return reduce(Report.joined, reports) if reports else None

    def _carry_out(self, goal: Attach | Detach, *, dad: bool, asked: bool) -> Report:
        """Who else has an address is asked on LANs alone."""
        if isinstance(goal, Detach):
            return self._reconciler.carry_out(goal, asked=asked)
        if any(goal.site.networks[attachment.network].external for attachment in goal.site.attachments):
            goal = replace(goal, vigilance=self._vigilance(dad))
        report = self._reconciler.carry_out(goal, asked=asked)
        self._remember_used(goal, report)
        return report

    def destroy(self, site: str | None) -> Report:
        """Remove what a site (None: ductwork) has here, by labels too. Addresses stay remembered."""
        goal = DestroySite(site)
        with self._reconciler.confirmations.one_change(goal.title):
            report = self._reconciler.carry_out(goal)
        kept = {(r.owner.site, r.owner.network) for r in report.kept if r.owner}
        for key in self._store.remembered(_NETWORKS):
            name, _, network = key.partition("/")
            if site in (None, name) and (name, network) not in kept:
                self._store.remember(_NETWORKS, key, None)
        self.publisher.forget(site)
        if site is None:
            for key in self._store.remembered(BY_HAND):
                self._store.remember(BY_HAND, key, None)
        return report

    def plan_destroy(self, site: str | None) -> Preview:
        return self._reconciler.preview(DestroySite(site))

    def undo(self) -> Report:
        report = self._reconciler.undo()
        self.publisher.undone(report)
        return report

    def confirm(self) -> Awaiting:
        """Keep the change that awaits confirmation. Errors: `NothingToConfirmError`."""
        return self._reconciler.confirmations.confirm()

    def awaiting(self) -> Awaiting | None:
        """The change that awaits confirmation."""
        return self._reconciler.confirmations.awaiting()

    def take_back(self, due: Callable[[Awaiting], bool]) -> Report | None:
        """For the guard: undo the change that awaits confirmation, if it is due. None: it is not, or nothing was begun."""
        return self._reconciler.confirmations.take_back(due)

    def observe(self) -> Observation:
        """All that there is on the host and in the containers that we have something in."""
        return self._reconciler.observe(DestroySite(None))

    def host_addresses(self) -> frozenset[IPAddress]:
        """The addresses that this host holds."""
        nothing = Detach(Owner("", "", ""), None)
        state = self._reconciler.observe(nothing).state
        return frozenset(r.address for r in state.values() if isinstance(r, Address) and r.netns == HOST)

    def modes(self) -> dict[str, tuple[str, str]]:
        """Container → (runtime, mode), of the last look."""
        return self._reconciler.modes()

    def addresses(self, site: Site, host: str) -> Mapping[tuple[str, str], tuple[IPInterface, ...]]:
        """Attachment → its addresses on a host, written or as they would be allocated now."""
        return self._site_goal(site, host)[0].addresses

    def free_addresses(self, site: Site, host: str) -> dict[tuple[str, IPNetwork], int]:
        """(network, subnet) → how many addresses a host could still give to its containers there."""
        return {
            (name, subnet): number
            for name, network in site.networks.items()
            for subnet, number in ipam.free(network, site, host, self._store.leases(site.name, name)).items()
        }

    def _site_goal(self, site: Site, host: str, *, recover: bool = False) -> tuple[ApplySite, tuple[ipam.LeaseChange, ...]]:
        """The goal, and what is to be stored before it is carried out. `recover`: look for lost leases in any case, where a
        network has none."""
        leases = {name: dict(self._store.leases(site.name, name)) for name in site.networks}
        given_back = self._departed(site, host, leases)
        for change in given_back:
            del leases[change.network][change.holder]
        try:
            assignment = ipam.assign(site, host, leases)
        except AllocationError:
            gone = self._labelled.gone(site, leases)
            for change in gone:
                del leases[change.network][change.holder]
            given_back += gone
            assignment = ipam.assign(site, host, leases)
        site = replace(site, ports=(*site.ports, *self.publisher.remembered(site.name, host)))
        recovered: tuple[ipam.LeaseChange, ...] = ()
        if assignment.changes or (recover and not all(leases[name] for name in site.labels)):
            recovered = self._leases_in_use(site, host, leases)
            for change in recovered:
                leases[change.network][change.holder] = change.addresses
            assignment = ipam.assign(site, host, leases)
        guests = {key.rpartition("/")[::2] for key in self._store.remembered(BY_HAND)}
        spared = frozenset(key for port in site.ports if port.id in guests for key in ports.keys(port))
        goal = ApplySite(site, host, self._machine, assignment.addresses, spared=spared)
        return goal, (*given_back, *recovered, *assignment.changes)

    def _departed(self, site: Site, host: str, leases: Mapping[str, ipam.Leases]) -> tuple[ipam.LeaseChange, ...]:
        """The leases of attachments that neither the file nor anybody's `attach` has any more: their addresses are free."""
        present = {(host, *attachment.id) for attachment in site.on(host)}
        present |= {(host, *key.rpartition("/")[::2]) for key in self._store.remembered(BY_HAND)}
        present |= self._labelled.holders(site, host)
        return tuple(
            ipam.LeaseChange(name, holder, ())
            for name, its in leases.items()
            for holder in its
            if holder[0] == host and holder not in present
        )

    def _leases_in_use(self, site: Site, host: str, known: Mapping[str, ipam.Leases]) -> tuple[ipam.LeaseChange, ...]:
        """A lost store is made good by what our marks in the kernel tell: who has which address now."""
        allocated = {attachment.id for attachment in site.on(host) if not attachment.addresses}
        found: dict[tuple[str, ipam.Holder], tuple[IPAddress, ...]] = {}
        for resource in self.observe().state.values():
            owner = resource.owner
            if not (isinstance(resource, Address) and resource.netns and owner and owner.site == site.name):
                continue
            if owner.network in known and (owner.origin != "site" or owner[3:5] in allocated):
                key = (owner.network, (host, owner.container, owner.interface))
                found[key] = (*found.get(key, ()), resource.address)
        taken = {name: {ip for its in leases.values() for ip in its} for name, leases in known.items()}
        return tuple(
            ipam.LeaseChange(name, holder, addresses)
            for (name, holder), addresses in found.items()
            if holder not in known[name] and taken[name].isdisjoint(addresses)
        )

    def _remember_networks(self, goal: ApplySite, observation: Observation) -> None:
        """For `attach`, which has no file to read; written only where it says something new."""
        known = self._store.remembered(_NETWORKS)
        site, host = goal.site, goal.host
        sight = goal.view(observation.facts)
        present = {name: network for name, network in site.networks.items() if host in site.hosts_of(name)}
        for name, network in present.items():
            driver = DRIVERS[network.driver]
            value: dict[str, object] = {
                "host": host,
                "bridge": driver.ifname(network, host),
                "network": serial.encode(replace(network, mtu_bytes=driver.mtu_bytes(network, sight))),
                "reserved": serial.encode(sorted(ipam.reserved(network, site), key=lambda ip: (ip.version, ip))),
            }
            if known.get(f"{site.name}/{name}") != value:
                self._store.remember(_NETWORKS, f"{site.name}/{name}", value)
        for key in known:
            owner, _, name = key.partition("/")
            if owner == site.name and name not in present:
                self._store.remember(_NETWORKS, key, None)
        self.publisher.note(site, host)

    def _as_applied(self, site: Site, host: str) -> Site:
        """With the MTUs that the networks were given here: of a tunnel's it is the underlay's that decides, which nobody reads
        for one container."""
        known: Mapping[str, Any] = self._store.remembered(_NETWORKS)
        found = {name: known.get(f"{site.name}/{name}") for name, network in site.networks.items() if network.mtu_bytes is None}
        mtus = {name: its["network"]["mtu_bytes"] for name, its in found.items() if its and its["host"] == host}
        changed = {name: replace(site.networks[name], mtu_bytes=mtu) for name, mtu in mtus.items()}
        return replace(site, networks={**site.networks, **changed})

    def _vigilance(self, dad: bool) -> Vigilance:
        used = self._store.remembered(USED) if dad else {}
        return Vigilance(dad, frozenset(item for key, value in used.items() if "nic" in value for item in _had(key, value)))

    def _remember_used(self, goal: ApplySite | Attach, report: Report) -> None:
        """Of the attachments that were given an address just now. The MAC is that which the interface has: an ipvlan has its
        parent's, whatever the attachment says."""
        known, used = self._store.remembered(USED), dict[str, dict[str, object]]()
        for address, probe in in_use((o.after for o in report.operations if isinstance(o, Create)), report.observation.state):
            if address.owner and address.owner.container:
                key = "/".join((address.owner.site, *address.owner[2:5]))
                addresses = [str(each.ip) for each in goal.addresses[address.owner[3:5]]]
                used[key] = {"mac": probe.mac, "nic": probe.link, "vlan": probe.vlan, "addresses": addresses}
        for key, value in used.items():
            if known.get(key) != value:
                self._store.remember(USED, key, value)

    # by hand

    def attach(self, request: AttachRequest, *, dad: bool = True) -> Report:
        """Plug one container into a network that was applied here, and remember it: one that is not running is waiting,
        and attached by the next `apply`."""
        known = self._known_network(request.network)
        interface = request.interface or self._free_interface(request.container, known)
        attachment = self._attachment(request, known, interface)
        report = self._plug_in(known, attachment, dad)
        key = f"{request.container}/{interface}"
        self._store.remember(
            BY_HAND,
            key,
            {"site": known.site, "network": known.network.name, "attachment": serial.encode(attachment)},
        )
        return report

    def _plug_in(self, known: KnownNetwork, attachment: Attachment, dad: bool = True, *, asked: bool = True) -> Report:
        """Its address is stored before the kernel gets it, and given back if the kernel does not."""
        goal, lease, former = self._hand_goal(known, attachment)
        holder = (known.host, *attachment.id)
        if lease != former:
            self._store.lease(known.site, known.network.name, holder, lease)
        try:
            return self._carry_out(goal, dad=dad, asked=asked)
        except DuctworkError:
            if lease != former:
                self._store.lease(known.site, known.network.name, holder, former)
            raise

    def _hand_goal(
        self, known: KnownNetwork, attachment: Attachment
    ) -> tuple[Attach, tuple[IPAddress, ...], tuple[IPAddress, ...]]:
        """(the goal, the lease that it needs, that which is stored)."""
        published = self.publisher.remembered(known.site, known.host)
        site = Site(known.site, {}, {known.network.name: known.network}, (attachment,), published)
        leases = self._store.leases(site.name, known.network.name)
        former = leases.get((known.host, *attachment.id), ())
        addresses, lease = _assigned(site, known, attachment, leases)
        gone = former if former != lease else ()
        return Attach(site, known.host, self._machine, {attachment.id: addresses}, former=gone), lease, former

    def _by_hand(self, site: str | None = None) -> Iterator[tuple[KnownNetwork, Attachment]]:
        """What was attached by hand to networks (of a site, None: of any) that are known here."""
        for value in self._store.remembered(BY_HAND).values():
            key = f"{value['site']}/{value['network']}"
            if site in (None, value["site"]) and key in self._store.remembered(_NETWORKS):
                yield self._known_network(key), serial.decode(value["attachment"])

    def _attach_again(self, site: str, report: Report, dad: bool, *, asked: bool) -> Report:
        """What was attached by hand to the site's networks, where its container has been started anew."""
        for known, attachment in self._by_hand(site):
            report = report.joined(self._plug_in(known, attachment, dad, asked=asked))
        return report

    def detach(self, container: str, network: str, interface: str | None = None) -> Report:
        """Take back what `attach` did; its address is free again."""
        known = self._known_network(network)
        found = [
            key.rpartition("/")[2]
            for key, value in self._store.remembered(BY_HAND).items()
            if key.startswith(f"{container}/") and (value["site"], value["network"]) == (known.site, known.network.name)
        ]
        found = found or self._marked(container, known)
        chosen = [name for name in found if interface in (None, name)]
        if not chosen and known.network.name in self._labelled.networks_of(known.site, container):
            hint = f"start it without the label, or take {known.network.name} out of `labels` in the file of site {known.site}"
            raise UsageError(f"{container} is plugged into {network} by its own label", hint)
        if not chosen:
            raise UsageError(
                f"{container} was not attached to {network} by `ductwork attach`",
                "`ductwork ps` shows what is attached; what a site file attaches goes when the file no longer says so",
            )
        for name in chosen:
            self.publisher.close_all(container, name)
            report = self._reconciler.carry_out(self._detachment(container, name, known))
            self._store.lease(known.site, known.network.name, (known.host, container, name), ())
            self._store.remember(BY_HAND, f"{container}/{name}", None)
        return report

    def _detachment(self, container: str, interface: str, known: KnownNetwork) -> Detach:
        remembered = self._store.remembered(BY_HAND).get(f"{container}/{interface}")
        made = mac_address(known.host or self._machine, container, interface)
        return Detach(
            Owner(known.site, "attach", known.network.name, container, interface),
            links_of(known.network, known.host, known.bridge, (container, interface)),
            serial.decode(remembered["attachment"]).mac if remembered else made,
            self._store.leases(known.site, known.network.name).get((known.host, container, interface), ()),
        )

    def _marked(self, container: str, known: KnownNetwork) -> list[str]:
        """The interfaces that the kernel's marks tell of, where the store has lost them."""
        wanted = (known.site, "attach", known.network.name, container)
        links = (r for r in self.observe().state.values() if isinstance(r, Link))
        return list(dict.fromkeys(link.owner.interface for link in links if link.owner and link.owner[:4] == wanted))

    def _known_network(self, name: str) -> KnownNetwork:
        """By its name, or as SITE/NETWORK where two sites have one of that name."""
        entries = self._store.remembered(_NETWORKS)
        keys = [key for key in entries if name in (key, key.partition("/")[2])]
        if len(keys) != 1:
            several = f"there are {', '.join(keys)}: write which" if keys else "no network of that name was applied here"
            hint = "`ductwork attach CONTAINER SITE/NETWORK`" if keys else "`ductwork apply SITE` first"
            raise UsageError(f"network {name}: {several}", hint)
        return _decoded(keys[0].partition("/")[0], json.dumps(entries[keys[0]]))

    def _free_interface(self, container: str, known: KnownNetwork) -> str:
        """The interface that it was given before, else the first of eth1, eth2, … that the container has not."""
        for key, value in self._store.remembered(BY_HAND).items():
            if key.startswith(f"{container}/") and (value["site"], value["network"]) == (known.site, known.network.name):
                return key.rpartition("/")[2]
        look = Detach(Owner(known.site, "attach", known.network.name, container), frozenset({known.bridge}))
        state = self._reconciler.observe(look).state
        number = 1
        while Key("link", container, (f"eth{number}",)) in state:
            number += 1
        return f"eth{number}"

    def _attachment(self, request: AttachRequest, known: KnownNetwork, interface: str) -> Attachment:
        network = known.network
        return Attachment(
            container=request.container,
            host=known.host,
            network=network.name,
            interface=interface,
            mac=request.mac or mac_address(known.host or self._machine, request.container, interface),
            addresses=tuple(_in_network(address, network, known.reserved) for address in request.addresses),
            gateway=request.gateway,
            mtu_bytes=request.mtu_bytes,
        )


def _had(key: str, value: Mapping[str, Any]) -> Iterable[tuple[Key, Probe]]:
    """One entry of what was used, as `Vigilance` has it."""
    container, interface = key.split("/")[2:]
    for text in value["addresses"]:
        probe = Probe(value["nic"], ip_address(text), value["vlan"], value["mac"])
        yield Key("address", container, (interface, text)), probe


def _is_called(reference: str, container: str) -> bool:
    """Whether an attachment's reference, RUNTIME:NAME or NAME, means a container RUNTIME:NAME."""
    return reference in (container, container.partition(":")[2])


def _is_identifier(reference: str) -> bool:
    """Whether it may be a container's ID, or the beginning of one, so that only its runtime knows which one is meant."""
    return bool(re.fullmatch(r"((docker|podman):)?[0-9a-f]{12,64}", reference))


def _assigned(
    site: Site, known: KnownNetwork, attachment: Attachment, leases: ipam.Leases
) -> tuple[tuple[IPInterface, ...], tuple[IPAddress, ...]]:
    """(the addresses of an attachment by hand, its lease): those asked for are leased too; nobody else is given them."""
    if attachment.addresses:
        return attachment.addresses, tuple(address.ip for address in attachment.addresses)
    if not known.network.subnets:
        return (), ()
    taken = {**leases, ("", "the site file", ""): known.reserved}
    addresses = ipam.assign(site, known.host, {known.network.name: taken}).addresses[attachment.id]
    return addresses, tuple(address.ip for address in addresses)


@lru_cache(64)
def _decoded(site: str, entry: str) -> KnownNetwork:
    """Whoever attaches many containers attaches them to few networks."""
    known = json.loads(entry)
    network, reserved = serial.decode(known["network"]), serial.decode(known["reserved"])
    return KnownNetwork(site, known["host"], known["bridge"], network, reserved)


def _in_network(address: IPAddress, network: Network, reserved: Iterable[IPAddress]) -> IPInterface:
    subnet = network.subnet_of(address)
    if subnet is None:
        subnets = ", ".join(map(str, network.subnets)) or "none"
        raise UsageError(f"{address} is not in network {network.name}", f"its subnets: {subnets}")
    if address in reserved:
        raise UsageError(f"{address} is taken by the site file of network {network.name}", "choose another address")
    return ip_interface((address, subnet.prefixlen))
