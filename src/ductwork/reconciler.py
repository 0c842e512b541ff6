"""Observe → desire → plan → apply → verify: the only way by which anything is changed.

Invariant: one change at a time for each host namespace (the journal's lock); what is about to be touched is journalled
before it is; a failure is taken back; a plan that has been carried out is followed by one that finds nothing to do.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NoReturn

from ductwork import desire
from ductwork.confirmation import Confirmations
from ductwork.drivers import Facts
from ductwork.duplicates import Lookout
from ductwork.errors import ApplyError, ConflictError, ContainerError, MissingToolError, NothingToUndoError, RollbackError
from ductwork.foreign import ForeignValues
from ductwork.goals import Fetch, Goal, Observation, Restore
from ductwork.held import HeldNamespaces
from ductwork.journal import Change, Journal
from ductwork.lent import LentNics
from ductwork.openings import forget_stale, unanswered
from ductwork.ownership import ContainerReading, settle
from ductwork.planner import Plan, plan
from ductwork.refusals import (
    has_its_own_network,
    passing,
    refuse_conflicts,
    refuse_host_mode,
    refuse_impossible,
    unsettled,
    warnings,
)
from ductwork.resources import (
    HOST,
    Address,
    Create,
    Delete,
    Key,
    Link,
    NicFacts,
    Operation,
    Outcome,
    Resource,
    Sysctl,
)
from ductwork.runtimes import Sandbox
from ductwork.system import Resolve, System

_ROUNDS = 3
"""One suffices (design, section 3); the second verifies. A third means that something else changes the same things."""
_Build = Callable[[Callable[[str], int]], System]


@dataclass(frozen=True, slots=True)
class Preview:
    """What would be done, out of what was read and what is desired. `unsure`: some of it cannot be told before it is tried."""

    plan: Plan
    observation: Observation
    desired: Mapping[Key, Resource]
    notes: tuple[str, ...] = ()
    unsure: bool = False

    def joined(self, other: Preview) -> Preview:
        """This and then the other; what was seen first."""
        mine, its = self.plan, other.plan
        plan = replace(
            mine,
            operations=mine.operations + its.operations,
            kept=mine.kept + its.kept,
            lost=mine.lost + its.lost,
            announcements=mine.announcements + its.announcements,
        )
        notes, desired = tuple(dict.fromkeys(self.notes + other.notes)), {**self.desired, **other.desired}
        return Preview(plan, self.observation, desired, notes, self.unsure or other.unsure)


@dataclass(frozen=True, slots=True)
class Report:
    """What was done, and the `observation` afterwards. `rounds`: how many plans had something to do; more than one is a
    defect. `refused`: container → why nothing of what its labels ask for is done."""

    observation: Observation
    operations: tuple[Operation, ...]
    rounds: int
    waiting: Mapping[str, str]
    kept: tuple[Resource, ...] = ()
    notes: tuple[str, ...] = ()
    title: str = ""
    refused: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_nothing(cls) -> Report:
        """Nothing was looked at."""
        return cls(Observation({}, Facts()), (), 0, {})

    def joined(self, other: Report) -> Report:
        """This and then the other, as one."""
        return Report(
            other.observation,
            self.operations + other.operations,
            max(self.rounds, other.rounds),
            {**self.waiting, **other.waiting},
            self.kept + other.kept,
            self.notes + other.notes,
            self.title,
            {**self.refused, **other.refused},
        )


@dataclass(slots=True)
class _Transaction:
    """A change under way."""

    asked: bool
    before: dict[Key, Resource | None] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)
    rounds: int = 0
    change: Change | None = None


class Reconciler:
    """`system` is given `open_netns`, by which its link back end finds containers. `held`: of whoever fetches NICs back from
    dead containers, and then the `resolver` as well."""

    def __init__(self, system: _Build, resolver: Resolve, journal: Journal, held: HeldNamespaces | None = None) -> None:
        self._sandboxes: dict[str, Sandbox] = {}
        self._acquainted: dict[str, Sandbox | None] = {}
        self._system = system(self.open_netns)
        self.resolver = resolver
        self._journal = journal
        self._foreign = ForeignValues(journal, self._system.sysctls)
        self._lent = LentNics(journal, self._system.sysctls.read_paths)
        self._held = held
        self.confirmations = Confirmations(journal, self.undo)
        self._interrupted: tuple[str, ...] = ()
        self.traffic, self._cookie = self._system.traffic, self._system.cookie()
        self._backends = {
            kind: backend
            for backend in (self._system.links, self._system.sysctls, self._system.switches, *self._system.filters)
            for kind in backend.kinds
        }

    def open_netns(self, container: str) -> int:
        """A new descriptor of a container's namespace, as found by the last look."""
        if container not in self._sandboxes:
            raise ContainerError(f"{container} is not running")
        return self._sandboxes[container].open()

    def place(self, container: str) -> str:
        """What `ip … netns` takes for a container; its name where it is not running."""
        return its.place if (its := self._sandboxes.get(container)) else container.rpartition(":")[2]

    def modes(self) -> dict[str, tuple[str, str]]:
        """Container → (runtime, mode), of the last look."""
        return {name: (sandbox.runtime, sandbox.mode) for name, sandbox in self._sandboxes.items()}

    @contextmanager
    def acquainted(self, references: Iterable[str]) -> Iterator[Mapping[str, Sandbox | None]]:
        """Within, these containers are not asked about again, whatever number of goals are about them."""
        before, self._acquainted = self._acquainted, {**self._acquainted, **self.resolver.resolve(references)}
        known = dict(self._sandboxes)
        try:
            yield self._acquainted
        finally:
            running = {name: sandbox for name, sandbox in self._acquainted.items() if sandbox}
            self._sandboxes = {**running, **known}
            self._acquainted = before

    # commands

    def observe(self, goal: Goal) -> Observation:
        return self._read(goal)

    def preview(self, goal: Goal) -> Preview:
        """What carrying out the goal would do. Errors: `ConflictError`."""
        self._interrupted = self._journal.interrupted()
        observation = self._read(goal)
        desired, _ = self._desire(goal, observation)
        found = self._plan(goal, observation, desired)
        refuse_conflicts(found)
        refuse_impossible(found, observation.state, self.traffic, self._system.machine)
        return Preview(found, observation, desired, tuple(self.resolver.notes))

    def carry_out(self, goal: Goal, prepare: Callable[[], None] = lambda: None, *, asked: bool = True) -> Report:
        """Make it so, and look whether it is. `prepare` is called when nothing is in the way, before anything is touched.
        `asked`: by a person, who may `undo` it.

        Errors: `ConflictError` (nothing touched), `ApplyError` (taken back), `RollbackError` (not wholly).
        """
        with self._journal.lock():
            return self._transact(goal, prepare, asked=asked)

    def hold(self) -> None:
        """Those that other engines have lent NICs to."""
        if self._held and (self._held.cookies or self._journal.lent()):
            self._held.keep(self._read(Fetch(self._held.cookies)), self.open_netns)

    def fetch_back(self) -> None:
        """The NICs of dead containers that are held. Errors: as `carry_out`; then at least the dead say nothing any more."""
        if not self._held or not (dead := self._held.dead()):
            return
        with self._held.standing_in(dead):
            try:
                self.carry_out(Fetch(dead), asked=False)
            except (ApplyError, ConflictError):
                self.carry_out(Fetch(dead, quiet=True), asked=False)
                raise
            finally:
                self._sandboxes = {}

    def undo(self) -> Report:
        """Take the last change back; one that awaits confirmation does so no more. Errors: as `carry_out`;
        `NothingToUndoError`."""
        with self._journal.lock():
            last = self._journal.last_change()
            if last is None:
                self._journal.await_confirmation(None)
                raise NothingToUndoError(
                    "there is no change to undo here",
                    "a change can be undone once, on the host and in the namespace where it was made, until the next boot",
                )
            report = self._transact(Restore(f"undo {last.title}", last.before), lambda: None)
            self._foreign.go_back_to(last.formers)
            self._journal.forget_changes()
            return report

    # carrying out

    def _transact(self, goal: Goal, prepare: Callable[[], None], *, asked: bool = True) -> Report:
        transaction = _Transaction(asked)
        try:
            return self._go(goal, prepare, transaction)
        except KeyboardInterrupt:
            if transaction.change is None:
                raise
            self._take_back(transaction, ["interrupted"])

    def _go(self, goal: Goal, prepare: Callable[[], None], transaction: _Transaction) -> Report:
        """Round after round, until there is nothing to do."""
        self._interrupted = self._journal.interrupted()
        trusted, lost = False, list[str]()
        lookout = Lookout(self._system.machine.watch)
        while True:
            observation = self._read(goal, trusted)
            desired, needed = self._desire(goal, observation)
            found = self._plan(goal, observation, desired)
            if found.conflicts and transaction.change is None:
                refuse_conflicts(found)
            if transaction.rounds == 0:
                refuse_impossible(found, observation.state, self.traffic, self._system.machine)
                lookout.ask(found, observation.state, goal.vigilance)
                prepare()
            if not found.operations and not found.conflicts:
                break
            if found.conflicts or transaction.rounds == _ROUNDS:
                self._take_back(transaction, unsettled(found))
            transaction.rounds += 1
            transaction.before = {**found.before(observation.state), **transaction.before}
            transaction.change = self._journal.begin(goal.title, transaction.before, again=transaction.rounds > 1)
            self._expect_guests(found)
            self._lent.note(found.operations, observation.state)
            self._journal.add_databases(goal.databases)
            if goal.links is None:
                self._foreign.note(goal.needs, needed, found.operations, observation.state)
            outcomes = self._execute(found, observation)
            trusted = not any(outcome.error for outcome in outcomes)
            transaction.operations += found.operations
            errors = self._errors(outcomes, observation)
            if errors:
                self._take_back(transaction, errors)
        forget_stale(transaction.operations, self.traffic, just_read=goal.links is not None)
        if goal.links is None:
            self._foreign.settle(goal.needs, needed, observation.state)
            self._settle_guests(observation)
            lost = self._lent.settle(observation.state, sure=not self.resolver.notes)
            if self._held:
                self._held.keep(observation, self.open_netns)
        if transaction.change and (transaction.asked or self._journal.awaiting()):
            self._journal.complete(transaction.change)
        elif transaction.change:
            self._journal.forget_change_under_way()
        return Report(
            observation,
            tuple(transaction.operations),
            transaction.rounds,
            observation.waiting,
            found.kept,
            (
                *self.resolver.notes,
                *(f"{nic} is gone: it has died with the container that it was lent to" for nic in lost),
                *lookout.report(),
                *warnings(transaction.operations, self._system.machine, self._held is not None),
                *(unanswered(desired.values(), observation.state) if goal.links is None else ()),
                *self._system.machine.obstacles(passing(desired)),
            ),
            goal.title,
        )

    def _expect_guests(self, found: Plan) -> None:
        """Noted before they have anything of ours."""
        new = {o.after.netns for o in found.operations if isinstance(o, Create) and _is_guest(o.after)}
        if new:
            self._journal.keep_guests((self._journal.guests() or frozenset()) | new)

    def _settle_guests(self, observation: Observation) -> None:
        """Those that have something of ours, or cannot be looked at."""
        known = self._journal.guests() or frozenset()
        present = frozenset(r.netns for r in observation.state.values() if _is_guest(r) and r.owner)
        self._journal.keep_guests(present | (known & {*observation.waiting, *observation.unseen}))

    def _take_back(self, transaction: _Transaction, errors: list[str]) -> NoReturn:
        """Undo what was begun, and say why."""
        reason = "; ".join(errors[:5]) + (f"; and {len(errors) - 5} more" if len(errors) > 5 else "")
        goal = Restore("take back", transaction.before)
        left: list[str] = []
        for _ in range(_ROUNDS):
            observation = self._read(goal)
            desired, _ = self._desire(goal, observation)
            found = self._plan(goal, observation, desired)
            left = [str(conflict.wanted.key) for conflict in found.conflicts]
            if not found.operations:
                break
            left += self._errors(self._execute(found, observation), observation)
        if left:
            raise RollbackError(
                f"{reason}. Taking it back did not succeed either: {'; '.join(left)}",
                "see what is in the way, then run `ductwork undo`, or apply again",
            )
        if transaction.change:
            self._foreign.go_back_to(transaction.change.formers)
        self._journal.forget_change_under_way()
        raise ApplyError(f"{reason}. What was begun was taken back", "mend the cause, then apply again")

    def _execute(self, found: Plan, observation: Observation) -> list[Outcome]:
        """In the plan's order, and no further where something went wrong on the way from containers to the host or back."""
        if self._held:
            self._held.expect(found.operations, observation, self.open_netns)
        announcements: dict[str, list[Address]] = {}
        for address in found.announcements:
            announcements.setdefault(address.netns, []).append(address)
        runs = [(name, list(its)) for name, its in itertools.groupby(found.operations, key=lambda o: o.target.netns)]
        outcomes: list[Outcome] = []
        for is_host, its_runs in itertools.groupby(runs, key=lambda run: run[0] == HOST):
            if self._errors(outcomes, observation):
                break
            if is_host:
                for _, operations in its_runs:
                    outcomes += self._execute_here(HOST, operations)
            else:
                outcomes += self._execute_in_containers(list(its_runs), announcements, observation)
        return outcomes

    def _execute_in_containers(
        self,
        runs: Sequence[tuple[str, list[Operation]]],
        announcements: Mapping[str, Sequence[Address]],
        observation: Observation,
    ) -> list[Outcome]:
        visits = [
            (
                partial(self.open_netns, name),
                partial(self._execute_inside, name, its, _told(its, announcements.get(name, ())), observation),
            )
            for name, its in runs
        ]
        outcomes: list[Outcome] = []
        for (name, its), result in zip(runs, self._system.visitor.visit(visits), strict=True):
            if isinstance(result, Exception):
                outcomes += [Outcome(operation, f"{name}: {result}") for operation in its]
            else:
                outcomes += result
        return outcomes

    def _execute_here(self, name: str, operations: Sequence[Operation]) -> list[Outcome]:
        """In the namespace of the calling thread: runs of operations of one back end, each run in one call. What needs
        something that could not be made is left: a sysctl goes by its link's name, which a foreign link may have by now."""
        outcomes: list[Outcome] = []
        failed: set[Key] = set()
        for backend, run in itertools.groupby(operations, key=lambda o: self._backends[type(o.target)]):
            possible: list[Operation] = []
            for operation in run:
                lacking = [key for key in operation.target.requires() if key in failed]
                if lacking:
                    outcomes.append(Outcome(operation, f"not tried without {lacking[0]}"))
                else:
                    possible.append(operation)
            outcomes += backend.apply(name, possible) if possible else []
            failed = {outcome.operation.target.key for outcome in outcomes if outcome.error}
        return outcomes

    def _execute_inside(
        self, name: str, operations: Sequence[Operation], announced: Sequence[Address], observation: Observation
    ) -> list[Outcome]:
        if self._system.cookie() != observation.facts.containers[name].cookie:
            raise ContainerError("it was started anew in between")
        outcomes = self._execute_here(name, operations)
        if announced:
            self._system.links.announce(name, announced)
        return outcomes

    def _errors(self, outcomes: Sequence[Outcome], observation: Observation) -> list[str]:
        """What went wrong, less what a container that has died or restarted meanwhile explains: the next look sees it."""
        failed = [outcome for outcome in outcomes if outcome.error]
        if not failed:
            return []
        gone = self._gone({_container_of(outcome.operation.target) for outcome in failed} - {HOST}, observation)
        return [
            f"{outcome.operation.target.key}: {outcome.error}"
            for outcome in failed
            if _container_of(outcome.operation.target) not in gone
        ]

    def _gone(self, names: set[str], observation: Observation) -> set[str]:
        sandboxes = self.resolver.resolve(names) if names else {}
        running = {name: sandbox for name, sandbox in sandboxes.items() if sandbox}
        cookies = self._system.visitor.visit([(sandbox.open, self._system.cookie) for sandbox in running.values()])
        same = {
            name
            for name, cookie in zip(running, cookies, strict=True)
            if name in observation.facts.containers and cookie == observation.facts.containers[name].cookie
        }
        return names - same

    # reading

    def _read(self, goal: Goal, trusted: bool = False) -> Observation:
        """`trusted`: the containers that were just dealt with are there still; the runtimes need not be asked again."""
        links = goal.links
        host = self._system.links.read(HOST, links)
        self._system.switches.databases |= goal.databases | self._journal.databases()
        host += self._system.switches.read(HOST, links)
        if links is None:
            for backend in self._system.filters:
                host += backend.read(HOST, None)
        asked = list(dict.fromkeys((*goal.containers(host), *self._interrupted)))
        guests = self._guests(goal).difference(asked)
        readings, waiting = self._read_containers(asked, sorted(guests), trusted)
        unseen = guests & waiting.keys()
        state = settle(host, readings)
        if links is not None:
            wanted = {element.key: element for element in goal.elements(state)}
            state |= {element.key: element for element in self._system.elements.look_up(list(wanted.values()))}
        cookies = {HOST: self._cookie, **{name: reading.cookie for name, reading in readings.items()}}
        facts = desire.facts(state, cookies, {}, self._system.iptables)
        if links is None:
            known = self._system.sysctls.read_paths(desire.sysctl_paths(facts, goal.nics))
            facts = desire.facts(state, cookies, self._foreign.without_us(known, state), self._system.iptables)
            facts = replace(facts, nics=self._nics(goal, facts))
            _add_sysctls(state, known, {})
        return Observation(state, facts, {name: why for name, why in waiting.items() if name not in unseen}, unseen)

    def _guests(self, goal: Goal) -> frozenset[str]:
        if goal.links is not None:
            return frozenset()
        known = self._journal.guests()
        if known is not None and not goal.thorough:
            return known
        return (known or frozenset()) | {name for name in self._system.machine.guests() if self._can_be_asked_for(name)}

    def _can_be_asked_for(self, name: str) -> bool:
        """A mark in somebody's namespace may name anything."""
        try:
            self.resolver.resolve([name])
        except ContainerError:
            return False
        return True

    def _nics(self, goal: Goal, facts: Facts) -> dict[str, NicFacts]:
        """A closer look at those that are not ours yet."""
        new = [nic for nic in goal.nics if nic in facts.links and nic not in facts.taken]
        return self._system.machine.nics(new) if new else {}

    def _read_containers(
        self, asked: Sequence[str], guests: Sequence[str], trusted: bool
    ) -> tuple[dict[str, ContainerReading], dict[str, str]]:
        """`guests`: those that are only looked into for what we may have there; they may have become anything meanwhile."""
        sandboxes = self._resolved([*asked, *guests], trusted)
        waiting = {name: "not running" for name, sandbox in sandboxes.items() if sandbox is None}
        running = {name: sandbox for name, sandbox in sandboxes.items() if sandbox}
        others = [name for name in guests if name in running and not has_its_own_network(running[name])]
        waiting |= dict.fromkeys(others, "has no network of its own")
        running = {name: sandbox for name, sandbox in running.items() if name not in others}
        refuse_host_mode(running)
        self._sandboxes = running
        visits = [(sandbox.open, partial(self._read_container, name)) for name, sandbox in running.items()]
        readings: dict[str, ContainerReading] = {}
        for name, result in zip(running, self._system.visitor.visit(visits) if visits else [], strict=True):
            if isinstance(result, MissingToolError):
                raise result
            if isinstance(result, Exception):
                waiting[name] = str(result)
            else:
                readings[name] = result
        self._refuse_shared(readings)
        return readings, waiting

    def _resolved(self, references: Sequence[str], trusted: bool) -> dict[str, Sandbox | None]:
        if trusted:
            return {name: self._sandboxes.get(name) for name in references}
        known = {name: self._acquainted[name] for name in references if name in self._acquainted}
        new = [name for name in references if name not in known]
        return known | (self.resolver.resolve(new) if new else {})

    def _read_container(self, name: str) -> ContainerReading:
        found = self._system.links.read(name, None)
        return ContainerReading(self._system.cookie(), found)

    def _refuse_shared(self, readings: Mapping[str, ContainerReading]) -> None:
        seen: dict[int, str] = {self._cookie: HOST}
        for name, reading in readings.items():
            other = seen.setdefault(reading.cookie, name)
            if other == HOST:
                raise ContainerError(f"{name} runs in the host's own network namespace", "start it with a network of its own")
            if other != name:
                raise ContainerError(f"{name} and {other} share one network namespace", "attach one of the two")

    # thinking

    def _desire(self, goal: Goal, observation: Observation) -> tuple[dict[Key, Resource], set[str]]:
        """(what is desired, and the paths of the foreign sysctls in it)."""
        desired = goal.desired(observation)
        mine = partial(goal.mine, observed=observation.state)
        desired |= desire.unparked(desired, observation.state, mine)
        self._read_settings(desired, observation)
        if goal.links is not None:
            return desired, set()
        if "net/ipv6/conf/all/forwarding" not in observation.facts.sysctls:
            desired = desire.without_ipv6(desired)
        needed = {r.path for r in desired.values() if isinstance(r, Sysctl) and r.netns == HOST and not r.link}
        desired |= {r.key: r for r in self._foreign.to_put_back(goal.needs, needed, observation.state)}
        given = self._lent.to_give_back(desired, observation.state, mine)
        desired |= {r.key: r for r in given if r.key not in desired}
        wanted = {r.path: r.link for r in desired.values() if isinstance(r, Sysctl) and r.netns == HOST}
        wanted |= desire.sysctls_to_lose(desired, observation.state, mine)
        _add_sysctls(observation.state, self._system.sysctls.read_paths(wanted), wanted)
        return desired, needed

    def _read_settings(self, desired: Mapping[Key, Resource], observation: Observation) -> None:
        """Of containers' links, those that netlink does not tell along with them."""
        wanted: dict[str, dict[str, str]] = {}
        for resource in desired.values():
            if isinstance(resource, Sysctl) and resource.netns and not resource.path.startswith("net/ipv6/"):
                wanted.setdefault(resource.netns, {})[resource.path] = resource.link
        visits = [
            (partial(self.open_netns, name), partial(self._system.sysctls.read_paths, paths)) for name, paths in wanted.items()
        ]
        for name, found in zip(wanted, self._system.visitor.visit(visits) if visits else [], strict=True):
            for path, value in found.items() if isinstance(found, dict) else ():
                read = Sysctl(name, path, value, link=wanted[name][path])
                assert isinstance(observation.state, dict)
                observation.state[read.key] = read

    def _plan(self, goal: Goal, observation: Observation, desired: Mapping[Key, Resource]) -> Plan:
        lent = self._lent.to_mend(desired)
        return plan(desired, observation.state, lambda r: r.key in lent or goal.mine(r, observation.state))


def _is_guest(resource: Resource) -> bool:
    """Whether it is a link in a container that has no other end on the host."""
    return isinstance(resource, Link) and resource.commands_enter


def _told(operations: Sequence[Operation], addresses: Sequence[Address]) -> Sequence[Address]:
    """What a visit announces: nothing where it only takes away, and another one follows."""
    return () if all(isinstance(operation, Delete) for operation in operations) else addresses


def _container_of(resource: Resource) -> str:
    """Whose death explains that a resource could not be made."""
    return resource.netns or (resource.owner.container if resource.owner else HOST)


def _add_sysctls(state: object, values: Mapping[str, str], links: Mapping[str, str]) -> None:
    assert isinstance(state, dict)
    for path, value in values.items():
        resource = Sysctl(HOST, path, value, link=links.get(path, ""))
        state[resource.key] = resource
