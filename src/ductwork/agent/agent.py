"""The agent's loop: what has happened → what the engine is asked for.

Invariant: all is changed by the engine, as a command would; whatever happens (a runtime that is gone, a file with mistakes, a
kernel that refuses), the agent goes on with what it has. A container that starts is seen to at once: looking at the whole,
which takes longer, is done beside (`looks.py`), and changes nothing; only where that finds something is the whole applied.
"""

from __future__ import annotations

import logging
import select
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ductwork.agent.looks import Looks
from ductwork.agent.patience import Patience
from ductwork.agent.systemd import Notifier
from ductwork.engine import Engine
from ductwork.errors import DuctworkError
from ductwork.events import Event, Source
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
_NAMED = 3
"""So many causes and operations are written out in a line of the log."""

Sources = Mapping[str, Callable[[], Source]]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the agent keeps true: a site's part on `host`. `dad`: whether to ask for addresses that are new here."""

    site: Site
    host: str
    dad: bool = True


class Agent:
    """`looks`: see there. `sources`: name → what makes it, for a site on a host. `load`: reads the site file again. `wake`: a
    descriptor that can be read when `stop` was called by a signal's handler."""

    def __init__(
        self,
        engine: Engine,
        looks: Looks,
        sources: Callable[[Site, str], Sources],
        load: Callable[[], Wishes],
        resync_seconds: float,
        wake: int,
    ) -> None:
        self._engine = engine
        self._looks = looks
        self._make_sources = sources
        self._load = load
        self._resync = resync_seconds
        self._wake = wake
        self._wishes = load()
        self._patience = Patience(resync_seconds)
        self._notifier = Notifier()
        self._open: dict[str, Source] = {}
        self._silent: dict[str, float] = {}
        """Those that are not there → when to try again; 0 for the first time."""
        self._causes: dict[str, None] = {}
        self._first_cause = 0.0
        self._last_cause = 0.0
        self._next_look = 0.0
        self._refused: dict[str, str] = {}
        self._stopped = False

    def stop(self) -> None:
        """For a signal's handler: what is being done is done to its end."""
        self._stopped = True

    def run(self) -> None:
        """Until `stop`. What was plugged in stays so."""
        self._listen()
        self._apply("start")
        self._notifier.ready(f"keeps {self._wishes.site.name} true")
        log.info("keeps %s true%s", self._wishes.site.name, self._wishes.host and f" on {self._wishes.host}")
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
            except (OSError, DuctworkError) as error:
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
        for descriptor in (self._wake, self._looks.fileno()):
            poll.register(descriptor, select.POLLIN)
        for descriptor, _ in poll.poll(max(0.0, self._until() - time.monotonic()) * 1000 + 1):
            name = names.get(descriptor)
            if name is None:
                continue
            try:
                yield name, list(self._open[name].take())
            except OSError as error:
                self._open.pop(name).close()
                self._silent[name] = time.monotonic() + _REOPEN_SECONDS
                yield name, [Event(f"{name}: {error}")]

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
        concerned = not event.container or self._engine.concerns(self._wishes.site, self._wishes.host, event.container)
        if event.started and (concerned or its_labels):
            self._container_started(event.container, concerned)
        elif concerned:
            self._cause(event.text)

    def _cause(self, text: str) -> None:
        self._last_cause = time.monotonic()
        if not self._causes:
            self._first_cause = self._last_cause
        self._causes[text] = None

    def _container_started(self, container: str, concerned: bool) -> None:
        """`concerned`: we knew of it, before its labels were read."""
        began = time.monotonic()
        try:
            report = self._engine.plug_in(self._wishes.site, self._wishes.host, container, dad=self._wishes.dad)
        except DuctworkError as error:
            log.warning("%s: %s", container, _said(error))
            self._cause(f"{container} started")
            return
        if report is None:
            if concerned:
                self._cause(f"{container} started")
            return
        self._tell_refused(report.refused)
        if report.operations:
            log.info("%s plugged in, %.0f ms after it was told of", container, (time.monotonic() - began) * 1000)

    def _reload(self) -> None:
        try:
            wishes = self._load()
        except (DuctworkError, OSError) as error:
            log.error("the site file is not heeded: %s", _said(error))
            return
        if wishes != self._wishes:
            self._wishes = wishes
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
        if found is not None and found.differs:
            self._apply(found.why)
        if self._looks.busy or not (now >= self._next_look or (self._causes and now >= self._due())):
            return
        why = ", ".join(list(self._causes)[:_NAMED]) or "a look every so often"
        log.debug("looks at the whole: %s", why)
        self._causes = {}
        self._next_look = now + self._resync
        self._looks.begin(self._wishes.site, self._wishes.host, why)

    def _apply(self, why: str) -> None:
        now = time.monotonic()
        self._next_look = now + self._resync
        try:
            report = self._engine.apply(self._wishes.site, self._wishes.host, dad=self._wishes.dad, asked=False)
        except DuctworkError as error:
            log.log(logging.INFO if error.retry else logging.ERROR, "%s (%s)", _said(error), why)
            self._next_look = now + min(_RETRY_SECONDS, self._resync)
            return
        self._tell(report, why)

    def _tell_refused(self, refused: Mapping[str, str]) -> None:
        """Each reason once, however often the container starts."""
        for container, reason in refused.items():
            if self._refused.get(container) != reason:
                log.warning("%s gets nothing by its labels: %s", container, reason)
                self._refused[container] = reason
        for container in list(self._refused)[:-_REMEMBERED]:
            del self._refused[container]

    def _tell(self, report: Report, why: str) -> None:
        for note in report.notes:
            log.info("%s", note)
        self._tell_refused(report.refused)
        if not report.operations:
            return
        keys = list(dict.fromkeys(str(operation.target.key) for operation in report.operations))
        more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
        log.info("mended %s%s: %s", ", ".join(keys[:_NAMED]), more, why)
        fought = self._patience.mended(keys, time.monotonic())
        if fought:
            log.warning(
                "somebody changes %s again and again (%s): not heeded for %.0f s",
                ", ".join(map(str, fought[:_NAMED])),
                why,
                self._patience.until - time.monotonic(),
            )


def _said(error: BaseException) -> str:
    """With each mistake of a site file, and the next step."""
    hint = f" ({error.hint})" if isinstance(error, DuctworkError) and error.hint else ""
    problems = "; ".join(f"line {p.line}: {p.message}" for p in getattr(error, "problems", ()))
    return f"{error}{hint}{problems and f': {problems}'}"
