"""The agent's loop: what has happened → what the engine is asked for.

Invariant: all is changed by the engine, as a command would; whatever happens (a runtime that is gone, a file with mistakes, a
kernel that refuses), the agent goes on with what it has. A container that starts is seen to at once: looking at the whole,
which takes longer, is done beside (`looks.py`), and changes nothing; only where that finds something is the whole applied.
"""

from __future__ import annotations

import logging
import select
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from ductwork.agent.hub import Hub
from ductwork.agent.keeping import Keeping, Wishes
from ductwork.agent.looks import Found, Looks
from ductwork.agent.patience import Patience
from ductwork.agent.relay import Relay
from ductwork.agent.systemd import Notifier
from ductwork.engine import Engine
from ductwork.errors import DuctworkError
from ductwork.events import Event, Following, Source
from ductwork.notices import Notice, named
from ductwork.reconciler import Report
from ductwork.site.model import Site

log = logging.getLogger("ductwork.agent")

SITE_FILE = "site file"
"""The name of the source that tells of its changes."""
_QUIET_SECONDS = 0.05
"""What is told comes in bursts: this long after an event nothing more must come before we look …"""
_IMPATIENT_SECONDS = 0.5
"""… but no longer than this after the first."""
_REOPEN_SECONDS = 0.5
_RETRY_SECONDS = 5.0
_REMEMBERED = 1000
_LONGEST_CHANGE_SECONDS = 600.0
"""Whoever has the turn for longer hangs."""
_TROUBLE = (DuctworkError, OSError)
"""What the world does to us; an `OSError` is that there are no descriptors left, say, or no room. All else is a defect, and
ends the agent, which systemd starts anew."""
_OF_PEOPLE = ("start", "the site file changed")
"""Why the whole is applied, where it is not to mend what others have done."""

Sources = Mapping[str, Callable[[], Source]]


class Agent:
    """`looks`, `hub`, `keeping`: see there. `sources`: name → what makes it, for a site on a host. `load`: reads the site file
    again. `wake`: a descriptor that can be read when `stop` was called by a signal's handler."""

    def __init__(
        self,
        engine: Engine,
        looks: Looks,
        hub: Hub,
        keeping: Keeping,
        sources: Callable[[Site, str], Sources],
        load: Callable[[], Wishes],
        resync_seconds: float,
        wake: int,
        relay: Relay,
    ) -> None:
        self._engine = engine
        self._relay = relay
        self._looks = looks
        self._hub = hub
        self._keeping = keeping
        self._make_sources = sources
        self._load = load
        self._resync = resync_seconds
        self._wake = wake
        self._patience = Patience(resync_seconds)
        self._notifier = Notifier()
        self._makers: Sources = {}
        self._open: dict[str, Source] = {}
        self._silent: dict[str, float] = {}
        """Those that are not there → when to try again; 0 for the first time."""
        self._waiting: Mapping[str, str] = {}
        self._causes: dict[str, None] = {}
        self._first_cause = 0.0
        self._last_cause = 0.0
        self._next_look = 0.0
        self._refused: dict[str, str] = {}
        self._stopped = False

    def stop(self) -> None:
        """For a signal's handler: what is being done is done to its end."""
        self._stopped = True

    @property
    def pending(self) -> int:
        """How many things that have happened wait to be seen to."""
        return len(self._causes)

    @property
    def _wishes(self) -> Wishes:
        return self._keeping.wishes

    def run(self) -> None:
        """Until `stop`. What was plugged in stays so."""
        self._listen()
        self._apply("start")
        keeps = f"keeps {self._wishes.site.name} true" + (f" on {self._wishes.host}" if self._wishes.host else "")
        self._notifier.ready(keeps)
        self._hub.tell(Notice("started", keeps))
        while not self._stopped:
            for name, events in self._wait():
                if name == SITE_FILE and events:
                    self._reload()
                for event in events:
                    self._hear(event)
            self._reopen()
            self._look()
            self._notifier.alive()
        self._notifier.stopping()
        self._hub.tell(Notice("stopped", "stops; what is plugged in stays so"))
        self._relay.close()
        self._close()

    # listening

    def _listen(self) -> None:
        self._close()
        self._makers = dict(self._make_sources(self._wishes.site, self._wishes.host))
        self._silent = dict.fromkeys(self._makers, 0.0)
        self._reopen()

    def _close(self) -> None:
        for source in self._open.values():
            source.close()
        self._open = {}

    def _reopen(self) -> None:
        """Those that are not there (yet). Much may have happened before they came."""
        now = time.monotonic()
        for name in [name for name, at in self._silent.items() if at <= now]:
            try:
                self._open[name] = self._makers[name]()
            except _TROUBLE as error:
                if not self._silent[name]:
                    log.debug("%s does not tell what happens yet: %s", name, error)
                self._silent[name] = now + _REOPEN_SECONDS
            else:
                del self._silent[name]
                self._cause(f"{name} tells what happens")

    def _wait(self) -> Iterable[tuple[str, list[Event]]]:
        poll = select.poll()
        names = {source.fileno(): name for name, source in self._open.items()}
        for source in self._open.values():
            poll.register(source.fileno(), source.mask)
        for descriptor in (self._wake, self._looks.fileno(), self._keeping.fileno()):
            poll.register(descriptor, select.POLLIN)
        for descriptor, _ in poll.poll(max(0.0, self._until() - time.monotonic()) * 1000 + 1):
            name = names.get(descriptor)
            if descriptor == self._keeping.fileno():
                self._keeping.take()
                self._follow()
            if name is None:
                continue
            try:
                yield name, list(self._open[name].take())
            except OSError as error:
                self._open.pop(name).close()
                self._silent[name] = time.monotonic() + _REOPEN_SECONDS
                yield name, [Event(f"{name}: {error}")]

    def _follow(self) -> None:
        """Ask for those that are named now; where something has become of them, it is looked at the whole."""
        try:
            names = self._engine.references(self._wishes.site, self._wishes.host)
            for source in self._open.values():
                for event in source.follow(names) if isinstance(source, Following) else ():
                    self._cause(event.text)
        except _TROUBLE as error:
            log.debug("what is named is not asked for: %s", error)

    def _until(self) -> float:
        """When to wake up, though nothing happens."""
        times = [self._next_look, *self._silent.values()]
        if self._causes:
            times.append(self._due())
        if self._notifier.watchdog_seconds:
            times.append(time.monotonic() + self._notifier.watchdog_seconds)
        return min(times)

    # what has happened

    def _hear(self, event: Event) -> None:
        its_labels = event.started and bool(self._wishes.site.labels)
        concerned = not event.container or self._concerns(event.container)
        if event.started and (concerned or its_labels):
            self._container_started(event.container, concerned)
        elif concerned:
            self._cause(event.text)

    def _concerns(self, container: str) -> bool:
        try:
            return self._engine.concerns(self._wishes.site, self._wishes.host, container)
        except _TROUBLE:
            return True  # whoever sees to it meets the same, and tells

    def _cause(self, text: str) -> None:
        self._last_cause = time.monotonic()
        if not self._causes:
            self._first_cause = self._last_cause
        self._causes[text] = None

    def _container_started(self, container: str, concerned: bool) -> None:
        """`concerned`: we knew of it, before its labels were read."""
        began = time.monotonic()
        try:
            with self._turn():
                site = self._keeping.wanted()
                report = self._engine.plug_in(site, self._wishes.host, container, dad=self._wishes.dad)
        except _TROUBLE as error:
            text = f"{container}: {_said(error)}"
            self._hub.tell(Notice("error", text, "warning", container=container, code=_code(error)))
            self._cause(f"{container} started")
            return
        if report is None:
            if concerned:
                self._cause(f"{container} started")
            return
        self._tell_refused(report.refused)
        if report.operations:
            took = time.monotonic() - began
            text = f"{container} plugged in, {took * 1000:.0f} ms after it was told of"
            self._hub.tell(Notice("plugged-in", text, container=container, resources=_changed(report), seconds=took))
        self._pass_on()

    def _reload(self) -> None:
        try:
            wishes = self._load()
        except _TROUBLE as error:
            text = f"the site file is not heeded: {_said(error)}"
            self._hub.tell(Notice("site-refused", text, "error", code=_code(error)))
            return
        if wishes != self._wishes:
            with self._turn():
                self._keeping.keep(wishes)
            self._hub.tell(Notice("site-changed", f"the site file has changed; keeps {wishes.site.name} as it says now"))
            self._listen()
            self._apply("the site file changed")

    # the whole

    def _due(self) -> float:
        """When to look, for what was told."""
        return max(min(self._last_cause + _QUIET_SECONDS, self._first_cause + _IMPATIENT_SECONDS), self._patience.until)

    def _look(self) -> None:
        """Begins to look when it is time, and applies when what was found differs."""
        now = time.monotonic()
        found = self._looks.take()
        if found is not None:
            self._found(found)
            if not found.differs:
                self._pass_on()
        if self._looks.busy or not (now >= self._next_look or (self._causes and now >= self._due())):
            return
        self._follow()
        why = named(list(self._causes)) or "a look every so often"
        self._causes = {}
        self._next_look = now + self._resync
        self._looks.begin(self._wishes.site, self._wishes.host, why)

    def _found(self, found: Found) -> None:
        if found.figures:
            self._keeping.figures = found.figures
            self._tell_waiting(found.figures.waiting)
        if found.differs:
            self._apply(found.why)
        else:
            self._look_after_nics()
            self._hub.tell(Notice("looked", f"looked at the whole, and found it as it should be: {found.why}", "debug"))

    def _look_after_nics(self) -> None:
        """What is nobody's difference: a lent NIC is where it should be, or with a dead container."""
        try:
            with self._turn():
                self._engine.look_after_nics()
        except _TROUBLE as error:
            level = "info" if isinstance(error, DuctworkError) and error.retry else "error"
            self._hub.tell(Notice("error", _said(error), level, code=_code(error)))

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """To change something. A person's change under way is waited for, and systemd told meanwhile that we are alive: it may
        take longer than the watchdog's patience."""
        hangs = time.monotonic() + _LONGEST_CHANGE_SECONDS
        self._notifier.alive()
        while not self._keeping.turn.acquire(timeout=self._notifier.watchdog_seconds or -1):
            if time.monotonic() < hangs:
                self._notifier.alive()
        try:
            yield
        finally:
            self._keeping.turn.release()

    def _apply(self, why: str) -> None:
        now = time.monotonic()
        self._next_look = now + self._resync
        try:
            with self._turn():
                if self._keeping.rests:
                    self._engine.look_after_nics()
                    return
                report = self._engine.apply(self._wishes.site, self._wishes.host, dad=self._wishes.dad, asked=False)
        except _TROUBLE as error:
            level = "info" if isinstance(error, DuctworkError) and error.retry else "error"
            self._hub.tell(Notice("error", f"{_said(error)} ({why})", level, cause=why, code=_code(error)))
            self._next_look = now + min(_RETRY_SECONDS, self._resync)
            return
        self._tell(report, why)
        self._follow()
        self._pass_on()

    def _tell_refused(self, refused: Mapping[str, str]) -> None:
        """Each reason once, however often the container starts."""
        for container, reason in refused.items():
            if self._refused.get(container) != reason:
                text = f"{container} gets nothing by its labels: {reason}"
                self._hub.tell(Notice("labels-refused", text, "warning", container=container, cause=reason))
                self._refused[container] = reason
        for container in list(self._refused)[:-_REMEMBERED]:
            del self._refused[container]

    def _pass_on(self) -> None:
        """What is published now, at ::1."""
        try:
            self._relay.serve(self._engine.publisher.relayed())
        except DuctworkError as error:
            log.debug("ports at [::1]: %s", error)

    def _tell(self, report: Report, why: str) -> None:
        self._tell_waiting(report.waiting)
        for note in report.notes:
            self._hub.tell(Notice("note", note))
        self._tell_refused(report.refused)
        if not report.operations:
            return
        changed = _changed(report)
        kind = "applied" if why in _OF_PEOPLE else "mended"
        self._hub.tell(Notice(kind, f"{kind} {named(changed)}: {why}", resources=changed, cause=why))
        fought = tuple(map(str, self._patience.mended(changed, time.monotonic())))
        if fought:
            pause = self._patience.until - time.monotonic()
            text = f"somebody changes {named(fought)} again and again ({why}): not heeded for {pause:.0f} s"
            self._hub.tell(Notice("fought", text, "warning", resources=fought, cause=why, seconds=pause))

    def _tell_waiting(self, waiting: Mapping[str, str]) -> None:
        """Once for each container that is not there."""
        for name, reason in waiting.items():
            if self._waiting.get(name) != reason:
                self._hub.tell(Notice("waiting", f"{name} is waiting: {reason}", container=name))
        self._waiting = waiting


def _changed(report: Report) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(operation.target.key) for operation in report.operations))


def _code(error: Exception) -> str:
    return error.code if isinstance(error, DuctworkError) else DuctworkError.code


def _said(error: Exception) -> str:
    """With each mistake of a site file, and the next step."""
    hint = f" ({error.hint})" if isinstance(error, DuctworkError) and error.hint else ""
    problems = "; ".join(f"line {p.line}: {p.message}" for p in getattr(error, "problems", ()))
    return f"{error}{hint}{problems and f': {problems}'}"
