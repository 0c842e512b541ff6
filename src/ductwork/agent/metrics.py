"""What Prometheus reads, made from the agent's notices and from what its last look has found.

Invariant: no label comes from outside, but for networks of the site file that is kept.
"""

from __future__ import annotations

from collections import Counter as Count
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector

from ductwork.agent.keeping import Figures
from ductwork.notices import Notice

_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_OUTCOMES = {"looked": "nothing", "mended": "mended", "applied": "applied", "error": "failed"}


class Metrics:
    """`heed` takes every notice; `gauges` gives what is read when somebody asks."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._gauges: Callable[[], tuple[Figures, Mapping[str, int]]] = lambda: (Figures(), {})
        self._attach = Histogram(
            "ductwork_attach_seconds",
            "From when a container's start was told to when it was plugged in.",
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._reconciles = Counter(
            "ductwork_reconciles", "Looks at the whole, by what came of them.", ["outcome"], registry=self._registry
        )
        self._repaired = Counter(
            "ductwork_drift_repaired", "What others had removed or changed, by kind.", ["kind"], registry=self._registry
        )
        self._errors = Counter("ductwork_errors", "Errors, by code.", ["code"], registry=self._registry)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def read_from(self, gauges: Callable[[], tuple[Figures, Mapping[str, int]]]) -> None:
        """`gauges`: (what the last look has found, the length of each queue)."""
        self._gauges = gauges

    def heed(self, notice: Notice) -> None:
        if notice.kind == "plugged-in" and notice.seconds is not None:
            self._attach.observe(notice.seconds)
        if notice.kind in _OUTCOMES and not notice.container:
            self._reconciles.labels(_OUTCOMES[notice.kind]).inc()
        if notice.kind == "mended":
            for kind, number in Count(resource.partition(" ")[0] for resource in notice.resources).items():
                self._repaired.labels(kind).inc(number)
        if notice.code:
            self._errors.labels(notice.code).inc()

    def collect(self) -> Iterable[Metric]:
        """Prometheus' own protocol."""
        figures, queues = self._gauges()
        yield GaugeMetricFamily("ductwork_attachments", "Interfaces that containers have.", figures.attachments)
        yield GaugeMetricFamily("ductwork_waiting_containers", "Containers that do not run.", len(figures.waiting))
        free = GaugeMetricFamily("ductwork_free_addresses", "Addresses that are nobody's.", labels=["network", "subnet"])
        for (network, subnet), number in figures.free.items():
            free.add_metric([network, str(subnet)], number)
        yield free
        length = GaugeMetricFamily("ductwork_queue_length", "What waits to be seen to.", labels=["queue"])
        for name, number in queues.items():
            length.add_metric([name], number)
        yield length

    def text(self) -> bytes:
        return generate_latest(self._registry)
