"""What the hub tells Prometheus; docs/metrics.md has the table."""

import math
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric

from models.durations import BOUNDS
from models.figures import Figures

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The metrics of one hub, in a registry of their own. What is observed may be so by any thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.sync = self._histogram("sync", "Time the hub took to answer an agent whose poll it did not hold.")
        self.report = self._histogram("report", "Time from an agent's report until it was committed.")
        self.transaction = self._histogram("transaction", "Time of a transaction that stores what agents report.")
        self.task_creation = self._histogram("task_creation", "Time to create a task that the REST API was asked for.")
        self._now = _Now()
        self.registry.register(self._now)
        ProcessCollector(registry=self.registry)

    def expose(self, polls: int, figures: Figures | None) -> bytes:
        """All of them as text; without what only the database knows where it does not answer."""
        self._now.polls, self._now.figures = polls, figures
        return generate_latest(self.registry)

    def _histogram(self, what: str, text: str) -> Histogram:
        return Histogram(f"fleetflow_{what}_seconds", text, buckets=_SECONDS, registry=self.registry)


class _Now:
    """What is counted anew each time."""

    def __init__(self) -> None:
        self.polls = 0
        self.figures: Figures | None = None

    def collect(self) -> Iterable[Metric]:
        figures = self.figures
        yield GaugeMetricFamily("fleetflow_open_polls", "Polls of agents that this hub holds.", self.polls)
        yield GaugeMetricFamily("fleetflow_database_up", "1 where the database answers, else 0.", figures is not None)
        for name, (label, text) in _COUNTED.items():
            family = GaugeMetricFamily(f"fleetflow_{name}", text, labels=(label,))
            for value, number in (getattr(figures, name) if figures else {}).items():
                family.add_metric((value,), number)
            yield family
        yield _durations(figures)
        oldest = GaugeMetricFamily("fleetflow_delivery_oldest_queued_seconds", "Age of the oldest command that its agent has not taken.")
        if figures:
            oldest.add_metric((), figures.oldest)
        yield oldest


def _durations(figures: Figures | None) -> Metric:
    family = HistogramMetricFamily("fleetflow_command_seconds", "Time of a command on its host.", labels=("executor", "state"))
    for key, found in (figures.durations if figures else {}).items():
        family.add_metric(key, [(_spelled(bound), count) for bound, count in zip(BOUNDS, found.counts, strict=True)], found.seconds)
    return family


def _spelled(bound: float) -> str:
    return "+Inf" if math.isinf(bound) else str(bound)


_COUNTED = {  # what of `Figures`: its label, and what it is
    "agents": ("state", "Agents by presence, and those that wait for approval."),
    "deliveries": ("state", "Commands on their way through agents."),
    "executions": ("state", "Executions of the tasks that have not ended."),
    "executions_running": ("executor", "Executions that run now."),
}
