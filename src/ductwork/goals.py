"""What a command wants of the engine: which containers to look at, what is desired, and whose things may be changed.

Invariant: pure. The engine carries out any goal in the same way: read, think, plan, act, verify.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Protocol

from ductwork import desire
from ductwork.drivers import Facts, View, on_host
from ductwork.drivers.registry import DRIVERS
from ductwork.errors import ConflictError, DuctworkError
from ductwork.naming import host_ifname
from ductwork.relocation import facts_after
from ductwork.resources import (
    HOST,
    IPAddress,
    IPInterface,
    Key,
    Link,
    NftElement,
    NftTable,
    NicSpec,
    Owner,
    Resource,
    Route,
    State,
)
from ductwork.resources.base import SHARED
from ductwork.resources.probe import Probe
from ductwork.services import antispoof, ports, ruleset
from ductwork.site.model import Attachment, Network, PublishedPort, Site


@dataclass(frozen=True, slots=True)
class Vigilance:
    """How much a command looks out for other machines that have its addresses. `known`: which attachment had
    which address before, with which MAC on which wire (`duplicates.Wires`)."""

    enabled: bool = False
    known: frozenset[tuple[Key, Probe]] = field(default_factory=frozenset)


NOT_VIGILANT = Vigilance()
PUBLISH = "publish"
"""The origin (contract 1.8) of what `ductwork publish` brings."""

LABEL = "label"
"""The origin of what a container's labels have plugged in. It goes with the site, whose policy has let it."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """Which of a site's attachments by label stay: those `wanted` (container, network); and on `networks`, which the policy
    names, those of containers whose runtime is `silent`, so that nobody knows."""

    wanted: frozenset[tuple[str, str]] = frozenset()
    networks: frozenset[str] = frozenset()
    silent: frozenset[str] = frozenset()

    def keeps(self, owner: Owner) -> bool:
        return owner.network in self.networks and (
            (owner.container, owner.network) in self.wanted or owner.container.partition(":")[0] in self.silent
        )


@dataclass(frozen=True, slots=True)
class Observation:
    """What was read. `facts`: the same as drivers see it. `waiting`: container → why it is not there; `unseen`: those besides
    that something of ours may be in, and that are not there."""

    state: State
    facts: Facts
    waiting: Mapping[str, str] = field(default_factory=dict)
    unseen: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class KnownNetwork:
    """A network that was applied here: `bridge` is what attachments are plugged into; `reserved` are the addresses that its
    file writes."""

    site: str
    host: str
    bridge: str
    network: Network
    reserved: tuple[IPAddress, ...]


class Goal(Protocol):
    """`title`: for the journal. `links`: the host's links to look at, None for all that there is. `needs`: under which name
    the goal's needs of foreign sysctls are kept, "" if it has none; "*" stands for everybody's. `nics`: those that it is about;
    `databases`: of Open vSwitch, beside the machine's own; `thorough`: whether to look for what we have in containers although
    we believe to know.
    `vigilance`: how much to look out for others who have its addresses. `elements`: where `links` is given, the elements of the
    packet filter to look for; elsewhere all are read."""

    @property
    def title(self) -> str: ...
    @property
    def links(self) -> frozenset[str] | None: ...
    @property
    def needs(self) -> str: ...
    @property
    def nics(self) -> Sequence[str]: ...
    @property
    def databases(self) -> frozenset[str]: ...
    @property
    def thorough(self) -> bool: ...
    @property
    def vigilance(self) -> Vigilance: ...
    def containers(self, host: Iterable[Resource]) -> list[str]: ...
    def elements(self, state: State) -> Iterable[NftElement]: ...
    def desired(self, observation: Observation) -> dict[Key, Resource]: ...
    def mine(self, resource: Resource, observed: State) -> bool: ...


def owners_of(host: Iterable[Resource], is_meant: Callable[[Owner], bool]) -> list[str]:
    """The containers that the host's links with such a mark lead to."""
    owners = (link.owner for link in host if isinstance(link, Link) and link.owner and link.owner.container)
    return [owner.container for owner in owners if is_meant(owner)]


def links_of(network: Network, host: str, plugged_into: str, attachment: tuple[str, str]) -> frozenset[str] | None:
    """The host's links that an attachment is about; None: all there is, where the host has a way to the container besides, or
    a NIC leaves it with all that is on it."""
    if any(on_host(getattr(network.options, key, {}), host) is not None for key in ("host_access", "device")):
        return None
    return frozenset({plugged_into, *desire.nics_of(network, host), host_ifname(*attachment)})


def _owned(resource: Resource, site: str, observed: State, labelled: Labelled) -> bool:
    """Whether it is the site's: by its file, or by a label that it does not heed (any more)."""
    owner = resource.owner
    if owner is None:
        return False
    if owner == SHARED:
        return not _others_forward(site, observed)
    if isinstance(resource, NftElement) and owner.site == site and antispoof.is_orphan(resource, observed):
        return True  # of a container that was attached by hand, and has died
    if owner.site == site and owner.origin == LABEL:
        if ports.is_port(resource):
            return True
        if isinstance(resource, NftElement):  # its mark names no container
            port = observed.get(Key("link", HOST, (resource.parts[0],)))
            owner = port.owner if port and port.owner else owner
        return not labelled.keeps(owner)
    return (owner.site, owner.origin) == (site, "site") or not owner.site


def _of_attachment(resource: Resource, owner: Owner) -> bool:
    """Whether it is part of the attachment that has this mark."""
    if resource.owner is None:
        return False
    if isinstance(resource, NftElement):
        port = host_ifname(owner.container, owner.interface)
        return resource.owner[:3] == owner[:3] and antispoof.is_of_a_port(resource) and resource.parts[0] == port
    return resource.owner[:5] == owner[:5]


def _others_forward(site: str, observed: State) -> bool:
    """Whether another site has a network here that is more than internal, and so needs what is shared."""
    elements = [r for r in observed.values() if isinstance(r, NftElement) and r.owner and r.owner.site != site]
    internal = {element.parts for element in elements if element.set_name == "internal"}
    return any(e.set_name.startswith("leg_nets") or (e.set_name == "bridges" and e.parts not in internal) for e in elements)


@dataclass(frozen=True, slots=True, eq=False)
class ApplySite:
    """One host's part of a site file. `addresses`: of each attachment, written or allocated. `labelled`: what else stays.
    `spared`: the ports of attachments that the file has not, which are seen to with them."""

    site: Site
    host: str
    machine: str
    addresses: Mapping[tuple[str, str], tuple[IPInterface, ...]]
    vigilance: Vigilance = NOT_VIGILANT
    labelled: Labelled = Labelled()
    links: frozenset[str] | None = None
    thorough: bool = False
    spared: frozenset[Key] = frozenset()

    @property
    def title(self) -> str:
        return f"apply {self.site.name}"

    @property
    def nics(self) -> Sequence[str]:
        return desire.nics(self.site, self.host)

    @property
    def databases(self) -> frozenset[str]:
        return desire.databases(self.site, self.host)

    @property
    def needs(self) -> str:
        return self.site.name

    def containers(self, host: Iterable[Resource]) -> list[str]:
        wanted = [attachment.container for attachment in self.site.on(self.host)]
        return list(dict.fromkeys(wanted + owners_of(host, self._is_ours)))

    def _is_ours(self, owner: Owner) -> bool:
        return owner.site == self.site.name and (
            owner.origin == "site" or (owner.origin == LABEL and not self.labelled.keeps(owner))
        )

    def elements(self, state: State) -> Iterable[NftElement]:
        return ()

    def view(self, facts: Facts) -> View:
        """The host as it will be when its NICs are where the site wants them."""
        wanted = desire.uplinks(self.site, self.host)
        ours = {nic: bridge for nic, bridge in facts.taken.items() if _site_of(facts.links.get(bridge)) == self.site.name}
        given_up = {bridge: nic for nic, bridge in ours.items() if wanted.get(nic) != bridge}
        return desire.view(self.site, self.host, self.machine, facts_after(facts, wanted, given_up), self.addresses)

    def desired(self, observation: Observation) -> dict[Key, Resource]:
        """With what ports that stay need of what is there."""
        found, state = desire.desired_on_host(self.view(observation.facts)), observation.state
        elements = [r for key, r in state.items() if isinstance(r, NftElement) and key not in found]
        others = [e for e in elements if ports.is_port(e) and not self.mine(e, state)]
        led_to = {element.value.partition(" . ")[0] for element in others}
        return found | {e.key: e for e in elements if e.set_name in ports.ELSEWHERE and e.parts[0] in led_to}

    def mine(self, resource: Resource, observed: State) -> bool:
        """Ports by `ductwork publish` too, but none that is not remembered: a lost store is no reason to close them."""
        owner = resource.owner
        if resource.key in self.spared and owner and owner.origin != "site":
            return False
        if owner and (owner.site, owner.origin) == (self.site.name, PUBLISH):
            return resource.key in _published_by_hand(self)
        return _owned(resource, self.site.name, observed, self.labelled)


@lru_cache(2)
def _published_by_hand(goal: ApplySite) -> frozenset[Key]:
    return frozenset(key for port in goal.site.ports if port.origin == PUBLISH for key in ports.keys(port))


def _site_of(link: Link | None) -> str | None:
    return link.owner.site if link and link.owner else None


@dataclass(frozen=True, slots=True)
class DestroySite:
    """Nothing of a site is to be left here; `site` None: nothing of ours at all."""

    site: str | None
    vigilance: Vigilance = NOT_VIGILANT
    links: frozenset[str] | None = None
    nics: Sequence[str] = ()
    databases: frozenset[str] = frozenset()
    thorough: bool = True

    @property
    def title(self) -> str:
        return f"destroy {self.site or '--all'}"

    @property
    def needs(self) -> str:
        return self.site or "*"

    def containers(self, host: Iterable[Resource]) -> list[str]:
        return list(dict.fromkeys(owners_of(host, self._is_meant)))

    def _is_meant(self, owner: Owner) -> bool:
        return self.site is None or (owner.site == self.site and owner.origin in ("site", LABEL))

    def elements(self, state: State) -> Iterable[NftElement]:
        return ()

    def desired(self, observation: Observation) -> dict[Key, Resource]:
        return {}

    def mine(self, resource: Resource, observed: State) -> bool:
        if self.site is None:
            return resource.owner is not None
        if resource.owner and (resource.owner.site, resource.owner.origin) == (self.site, PUBLISH):
            return True  # whom it led to is no longer in the network
        return _owned(resource, self.site, observed, Labelled())


@dataclass(frozen=True, slots=True, eq=False)
class Attach:
    """Attachments of one container, of networks already applied: `site` holds just these. `origin`: who plugs in (contract
    1.8). `former`: addresses by the store, where an attachment has others now. `closed`: labels' ports that are to go."""

    site: Site
    host: str
    machine: str
    addresses: Mapping[tuple[str, str], tuple[IPInterface, ...]]
    origin: str = "attach"
    former: tuple[IPAddress, ...] = ()
    closed: tuple[PublishedPort, ...] = ()
    vigilance: Vigilance = NOT_VIGILANT
    needs: str = ""
    nics: Sequence[str] = ()
    thorough: bool = False

    @property
    def databases(self) -> frozenset[str]:
        return desire.databases(self.site, self.host)

    @property
    def links(self) -> frozenset[str] | None:
        found: set[str] = set()
        for attachment in self.site.attachments:
            its = links_of(self._network(attachment), self.host, self._device(attachment), attachment.id)
            if its is None:
                return None
            found |= its
        return frozenset(found)

    @property
    def title(self) -> str:
        networks = ", ".join(attachment.network for attachment in self.site.attachments)
        return f"attach {self.site.attachments[0].container} {networks}"

    def containers(self, host: Iterable[Resource]) -> list[str]:
        return list(dict.fromkeys(attachment.container for attachment in self.site.attachments))

    def desired(self, observation: Observation) -> dict[Key, Resource]:
        there = {**observation.facts.links, **observation.facts.lent}
        for attachment in self.site.attachments:
            if self._device(attachment) not in there:
                hint = f"`ductwork apply` the file of site {self.site.name} again"
                device = f"the device {self._device(attachment)} of network {attachment.network}"
                raise DuctworkError(f"{device} is not here", hint)
        sight = desire.view(self.site, self.host, self.machine, observation.facts, self.addresses, self.origin)
        return desire.desired_attachments(sight)

    def elements(self, state: State) -> Iterable[NftElement]:
        """By what the container has; a dead one, or one that has been, had what the store tells."""
        yield from _published_of(self).values()
        for attachment, owner in zip(self.site.attachments, self._owners, strict=True):
            if self.former or Key("link", attachment.container, (attachment.interface,)) not in state:
                addresses = (*self.former, *(address.ip for address in self.addresses.get(attachment.id, ())))
                yield from antispoof.perhaps(host_ifname(*attachment.id), attachment.mac, addresses, owner)
            yield from antispoof.found_on(owner, state)

    def mine(self, resource: Resource, observed: State) -> bool:
        if isinstance(resource, NftElement) and resource.set_name in ports.MAPS | ports.ELSEWHERE:
            wanted = _published_of(self).get(resource.key)
            return bool(wanted and wanted.owner and resource.owner and wanted.owner[:2] == resource.owner[:2])
        return any(_of_attachment(resource, owner) for owner in self._owners)

    def _network(self, attachment: Attachment) -> Network:
        return self.site.networks[attachment.network]

    def _device(self, attachment: Attachment) -> str:
        network = self._network(attachment)
        return DRIVERS[network.driver].ifname(network, self.host)

    @property
    def _owners(self) -> list[Owner]:
        return [Owner(self.site.name, self.origin, a.network, *a.id) for a in self.site.attachments]


@lru_cache(2)
def _published_of(goal: Attach) -> dict[Key, NftElement]:
    """All that there may be of the attachments' ports, on any address that the host reaches them by, and any way to reply; and
    of those that are to be closed."""
    found: list[NftElement] = []
    for port in goal.closed:
        found += ports.elements(port, ports.ANYWHERE, goal.site.name)
    for attachment in goal.site.attachments:
        addresses: dict[int, IPAddress] = {a.version: a.ip for a in reversed(goal.addresses.get(attachment.id, ()))}
        its = [port for port in goal.site.ports if (port.id, port.host) == (attachment.id, goal.host)]
        for port in its:
            found += ports.elements(port, addresses, goal.site.name)
        if its:
            network = goal.site.networks[attachment.network]
            plugged_into = desire.plugged_into(network, goal.host)
            found += ports.elsewhere(network, addresses.values(), plugged_into, goal.site.name)
    return {element.key: element for element in found}


@dataclass(frozen=True, slots=True)
class Detach:
    """Take one attachment by hand back. `mac`, `addresses`: what it had, by the store, since a dead container tells nothing."""

    owner: Owner
    links: frozenset[str] | None
    mac: str = ""
    addresses: tuple[IPAddress, ...] = ()
    vigilance: Vigilance = NOT_VIGILANT
    needs: str = ""
    nics: Sequence[str] = ()
    databases: frozenset[str] = frozenset()
    thorough: bool = False

    @property
    def title(self) -> str:
        return f"detach {self.owner.container} {self.owner.network}"

    def containers(self, host: Iterable[Resource]) -> list[str]:
        return [self.owner.container] if self.owner.container else []

    def desired(self, observation: Observation) -> dict[Key, Resource]:
        return {}

    def elements(self, state: State) -> Iterable[NftElement]:
        if self.mac:
            port = host_ifname(self.owner.container, self.owner.interface)
            yield from antispoof.perhaps(port, self.mac, self.addresses, self.owner)
        yield from antispoof.found_on(self.owner, state)

    def mine(self, resource: Resource, observed: State) -> bool:
        return _of_attachment(resource, self.owner)


@dataclass(frozen=True, slots=True)
class Fetch:
    """Bring home the NICs that dead containers have, with all else of ours that is in there. `cookies`: container → that of its
    former namespace; the same name may have another one by now. `quiet`: the NICs themselves stay, and say nothing any more."""

    cookies: Mapping[str, int]
    quiet: bool = False
    title: str = "fetch NICs back"
    vigilance: Vigilance = NOT_VIGILANT
    links: frozenset[str] | None = None
    needs: str = ""
    nics: Sequence[str] = ()
    databases: frozenset[str] = frozenset()
    thorough: bool = False

    def containers(self, host: Iterable[Resource]) -> list[str]:
        return list(self.cookies)

    def desired(self, observation: Observation) -> dict[Key, Resource]:
        for device, nic in observation.facts.lent.items():
            if nic.netns in self.cookies and device in observation.facts.links and not self.quiet:
                message = f"{device}, which {nic.netns} had until it ended, cannot come home: another link has its name"
                raise ConflictError(message, f"rename or remove that one: ip link set dev {device} name OTHER")
        return {}

    def elements(self, state: State) -> Iterable[NftElement]:
        return ()

    def mine(self, resource: Resource, observed: State) -> bool:
        owner = resource.owner
        if owner is None or owner.cookie == 0 or self.cookies.get(owner.container) != owner.cookie:
            return False
        return not (self.quiet and isinstance(resource, Link) and isinstance(resource.spec, NicSpec))


@dataclass(frozen=True, slots=True)
class Restore:
    """Back to what was there before a change, as far as the change went: the keys of `before`."""

    title: str
    before: Mapping[Key, Resource | None]
    vigilance: Vigilance = NOT_VIGILANT
    links: frozenset[str] | None = None
    needs: str = ""
    nics: Sequence[str] = ()
    databases: frozenset[str] = frozenset()
    thorough: bool = False

    def containers(self, host: Iterable[Resource]) -> list[str]:
        named = {resource.owner.container for resource in self.before.values() if resource and resource.owner}
        return sorted((named | {key.netns for key in self.before}) - {HOST})

    def elements(self, state: State) -> Iterable[NftElement]:
        return ()

    def desired(self, observation: Observation) -> dict[Key, Resource]:
        """Containers that are gone, or have started anew, have nothing to go back to; nor has what was on a link that came with
        the change (it is known where taking back was begun before)."""
        cookies = {name: known.cookie for name, known in observation.facts.containers.items()}
        absent = {key for key, resource in self.before.items() if resource is None}
        parked = [r.unpark() for r in self.before.values() if isinstance(r, Route) and r.is_parked]
        found = {
            key: _as_it_was_made(resource, displaces=observation.state.get(key) in parked)
            for key, resource in self.before.items()
            if resource is not None
            and absent.isdisjoint(resource.requires())
            and (not key.netns or key.netns in cookies)
            and not (
                resource.owner and resource.owner.container and cookies.get(resource.owner.container) != resource.owner.cookie
            )
        }
        there = {**observation.state, **found}
        return {key: r for key, r in found.items() if not (isinstance(r, NftElement) and antispoof.is_orphan(r, there))}

    def mine(self, resource: Resource, observed: State) -> bool:
        return resource.key in self.before and resource.owner is not None


def _as_it_was_made(resource: Resource, *, displaces: bool) -> Resource:
    """A table that was read is known by its digests alone; what makes it again is what this version makes. `displaces`: the
    foreign default route that is there now is parked again."""
    if isinstance(resource, Route):
        return replace(resource, displaces=displaces)
    if not isinstance(resource, NftTable):
        return resource
    make = {"bridge": ruleset.bridge_table, "inet": ruleset.inet_table, "netdev": ruleset.deaf_table}
    return make[resource.family](SHARED)
