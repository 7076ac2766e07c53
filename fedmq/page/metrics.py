"""The run's numbers for Prometheus; no metric has a label that nodes can invent, so there are as many as below."""

import datetime as dt
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from coordinator.monitoring.presence import online_by_release
from federation import RELEASE
from fedmq.run_view import Snapshot

__all__ = ["CONTENT_TYPE", "exposition"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

METRICS_MAX = 32
"""Numbers of the newest evaluation that are told; a task may have more."""

COUNTERS_MAX = 64


def exposition(snapshot: Snapshot) -> bytes:
    """All metrics in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Run(snapshot))
    text: bytes = generate_latest(registry)
    return text


class _Run(Collector):
    def __init__(self, snapshot: Snapshot) -> None:
        self._summary, self._snapshot = snapshot.summary, snapshot

    def collect(self) -> Iterator[Metric]:
        summary, waiting = self._summary, self._summary["waiting"]
        yield InfoMetricFamily(
            "fedmq_run", "Which run this is.", value={"run": summary["run"], "task": summary["task"] or ""}
        )
        yield _gauge("fedmq_coordinator_up", "1 while a coordinator runs on this store.", float(waiting["running"]))
        yield _gauge("fedmq_nodes_online", "Nodes that are online.", waiting["online"])
        yield _gauge("fedmq_nodes_away", "Nodes that are away by the pace until they check in.", waiting["away"])
        yield from self._releases()
        yield _gauge("fedmq_nodes_known", "Nodes that have taken part, or were asked.", summary["nodes"])
        yield _gauge("fedmq_model_version", "The newest model version.", summary["head"] or 0)
        yield _gauge("fedmq_model_parameters", "Parameters of the model.", summary["parameters"])
        yield from self._waiting()
        for name, what in (("up", "sent by nodes"), ("down", "sent to nodes")):
            yield CounterMetricFamily(f"fedmq_{name}_bytes", f"Bytes {what}.", value=summary[f"bytes_{name}"])
        yield from self._updates()
        yield from self._evaluation()
        yield self._certificates()

    def _waiting(self) -> Iterator[Metric]:
        """Who has ended waits for nothing, and a run that is over needs nobody; that it is over stays so."""
        told = self._summary["waiting"]
        waits = told["running"] and not told["over"] and bool(told["reason"])
        yield _gauge(
            "fedmq_waiting_seconds",
            "For how long it has waited for the same thing; 0 while nobody waits.",
            told["since_s"] if waits else 0.0,
        )
        reason = GaugeMetricFamily(
            "fedmq_waiting", "1 for what the coordinator waits for, or why the run is over.", labels=["reason"]
        )
        if waits or told["over"]:
            reason.add_metric([str(told["reason"])], 1.0)
        yield reason

    def _releases(self) -> Iterator[Metric]:
        """Nodes may tell any text: what is counted is only whether it is this release."""
        counts = {"same": 0, "other": 0, "not_told": 0}
        if self._summary["waiting"]["connected"]:
            for release, names in online_by_release(self._snapshot.presence).items():
                counts["not_told" if not release else "same" if release == RELEASE else "other"] += len(names)
        nodes = GaugeMetricFamily(
            "fedmq_nodes_by_release", "Nodes that are online, by whether they run this release.", labels=["release"]
        )
        for release, count in counts.items():
            nodes.add_metric([release], count)
        yield nodes

    def _certificates(self) -> Metric:
        """Of the first that ends: names of nodes are no labels."""
        first = GaugeMetricFamily(
            "fedmq_certificate_end_timestamp_seconds",
            "When the first certificate of the federation ends or has ended, in seconds since 1970.",
        )
        ends = [dt.datetime.fromisoformat(at).timestamp() for at in self._summary["certificates"].values()]
        if ends:
            first.add_metric([], min(ends))
        return first

    def _updates(self) -> Iterator[Metric]:
        updates = CounterMetricFamily("fedmq_updates", "Updates by what became of them.", labels=["status"])
        for status in ("applied", "stale", "refused"):
            updates.add_metric([status], self._summary["updates_by_status"][status])
        yield updates
        events = CounterMetricFamily("fedmq_events", "What the coordinator has counted.", labels=["event"])
        for name, count in sorted(self._summary["counters"].items())[:COUNTERS_MAX]:
            events.add_metric([name], count)
        yield events
        refused = sum(sum(kinds.values()) for kinds in self._summary["incidents"].values())
        yield CounterMetricFamily("fedmq_refused_messages", "Messages refused, and attempts denied.", value=refused)

    def _evaluation(self) -> Iterator[Metric]:
        found: Mapping[str, Any] = next(
            (one["metrics"] for one in reversed(self._snapshot.versions) if one["metrics"]), {}
        )
        metrics = GaugeMetricFamily("fedmq_evaluation", "The newest evaluation, by metric.", labels=["metric"])
        for name, value in sorted(found.items())[:METRICS_MAX]:
            metrics.add_metric([name], value)
        yield metrics


def _gauge(name: str, what: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, what, value=value)
