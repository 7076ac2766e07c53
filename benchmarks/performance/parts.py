"""The programs whose figures the page shows, and how each one's JSON is read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.table import Figure

__all__ = ["PARTS", "Measured", "Part"]

SITES = (4, 48)
"""Nodes at a site: few, and many. `benchmarks.site_sums` prints those between."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What one program said: its figures, and by name why others are missing."""

    figures: Sequence[Figure]
    skipped: Mapping[str, str]


def shown(told: Any) -> Measured:
    """What `benchmarks.table.show` writes as JSON."""
    rows = ({name: value for name, value in row.items() if name != "reached"} for row in told["figures"])
    return Measured([Figure(**row) for row in rows], told["skipped"])


def _load(told: Any, *bars: Figure) -> Measured:
    spent = f"{told['updates']} updates in {told['seconds']:.0f} s, {told['coordinator_cpu_s']:.1f} s of its CPU"
    beside = f"broker {told['broker_cpu_s']:.1f} s of CPU, the clients {told['load_cpu_s']:.1f} s"
    notes = {
        "updates_per_cpu_s": f"{spent}; {told['update_bytes'] / 1e3:.1f} kB an update; {beside}",
        "receipt_p50_ms": f"p99 {told['receipt_p99_ms']} ms",
    }
    figures, skipped = list[Figure](), dict[str, str]()
    for bar in bars:
        key, _, what = bar.what.partition(": ")
        if told[key] is None:
            skipped[what] = "the broker did not answer in time"
        else:
            scale = 1e6 if bar.unit == "MB" else 1e3 if bar.unit == "kB" else 1.0
            figures.append(replace(bar, what=what, measured=told[key] / scale, note=notes.get(key, "")))
    return Measured(figures, skipped)


def fleet_of(nodes: int) -> Callable[[Any], Measured]:
    """How the JSON of a load of many nodes with small updates is read."""

    def read(told: Any) -> Measured:
        of = f"{nodes:,} nodes, asynchronous"
        return _load(
            told,
            _bar(f"updates_per_cpu_s: updates per CPU second of the coordinator, {of}", 400.0, at_least=True),
            _bar(f"deliveries_per_update: deliveries per update, {of}", 12.0),
            _bar(f"bytes_down_per_update: bytes down per update, {of}", 4.0, "kB"),
            _bar(f"coordinator_rss_max_bytes: the coordinator's largest memory, {of}", 120.0, "MB"),
            _bar(f"receipt_p50_ms: from offer to receipt, p50, {of}", None, "ms"),
            _bar(f"dropped: messages that the broker dropped, {of}", 0.0),
            _bar(f"lost: updates lost, {of}", 0.0),
        )

    return read


def four_kilobytes(told: Any) -> Measured:
    """How the JSON of a load of updates of 4 kB is read."""
    what = "updates_per_cpu_s: updates of 4 kB per CPU second of the coordinator"
    return _load(told, _bar(what, 2_000.0, at_least=True))


def _bar(what: str, bar: float | None, unit: str = "", *, at_least: bool = False) -> Figure:
    return Figure(what=what, measured=0.0, bar=bar, unit=unit, at_least=at_least)


def failover(told: Any) -> Measured:
    """How the JSON of killed leaders is read."""
    note = f"{told['ratio']} of the time of a restart on one machine ({told['restart_p95_s']} s)"
    takeover = Figure(
        what="a leader killed: until the other leads, p95",
        measured=float(told["takeover_p95_s"]),
        bar=float(told["bar_s"]),
        unit="s",
        note=note,
    )
    audit = Figure(what="the audit after it holds", measured=float(bool(told["audit"])), bar=1.0, at_least=True)
    return Measured([takeover, audit], {})


def sites(told: Any) -> Measured:
    """How the JSON of a site's sums is read."""
    figures = []
    for row in (one for one in told if one["nodes"] in SITES):
        of, note = f"{row['codec']}, {row['nodes']} nodes at a site", f"{row['updates']} B of updates"
        exact = row["exact"] / row["updates"]
        again = row["coded_again"] / row["updates"]
        figures += [
            Figure(what=f"uplink, exact sum / updates, {of}", measured=exact, bar=1 / 2, note=note),
            Figure(what=f"uplink, sum coded again / updates, {of}", measured=again, bar=1 / 30, note=note),
        ]
    return Measured(figures, {})


def scores(told: Any) -> Measured:
    """How the JSON of a score's latency is read."""
    training, idle = told["training"], told["idle"]
    note = f"{told['rows']} rows, {told['rounds_meanwhile']} rounds meanwhile; idle {idle['p99_ms']:.1f} ms"
    what = "a window in, its score out, while the device trains, p99"
    figure = Figure(what=what, measured=training["p99_ms"], bar=float(told["bar_ms"]), unit="ms", note=note)
    return Measured([figure], {})


def readings(told: Any) -> Measured:
    """How the JSON of a rate of readings is read."""
    rate = told["rate"]
    what, note = "readings a second, one core", f"eight a message: {rate['readings_s_eight']:,.0f}"
    figure = Figure(what=what, measured=rate["readings_s_one"], bar=2_000.0, at_least=True, note=note)
    return Measured([figure], {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One program.

    Attributes:
        title: Its heading on the page.
        module: What ``python -m`` runs.
        options: Its arguments, beside ``--json``.
        read: Makes figures of its JSON.
        limit_s: When it is given up.
    """

    title: str
    module: str
    options: tuple[str, ...] = ()
    read: Callable[[Any], Measured] = shown
    limit_s: float = 900.0

    @property
    def command(self) -> str:
        """What a person types to get these figures alone."""
        return " ".join(("python -m", self.module, *self.options))


PARTS: Mapping[str, Part] = {
    "main": Part(title="The main job", module="benchmarks.main_job", options=("--repeat", "5"), limit_s=1_800.0),
    "bytes": Part(
        title="Bytes, both ways", module="benchmarks.bytes", options=("--only", "kinds", "--codec", "balanced,edge")
    ),
    "codec": Part(title="The codec, one core", module="benchmarks.codec"),
    "start": Part(title="Start and memory", module="benchmarks.start"),
    "commands": Part(title="Commands that only look", module="benchmarks.commands"),
    "node-memory": Part(title="Memory of a node that trains", module="benchmarks.node_memory"),
    "connection": Part(title="A message's way through a client", module="benchmarks.connection"),
    "update": Part(title="What an update costs the coordinator", module="benchmarks.update_cost"),
    "small-updates": Part(
        title="A fleet with updates of 4 kB",
        module="benchmarks.load",
        options=("--nodes", "200", "--parameters", "1000", "--seconds", "30"),
        read=four_kilobytes,
    ),
    "fleet-1000": Part(
        title="A fleet of 1,000", module="benchmarks.load", options=("--nodes", "1000"), read=fleet_of(1_000)
    ),
    "fleet-10000": Part(
        title="A fleet of 10,000",
        module="benchmarks.load",
        options=("--nodes", "10000", "--seconds", "60"),
        read=fleet_of(10_000),
    ),
    "security": Part(title="Certificates, access rules and signatures", module="benchmarks.fleet"),
    "revocation": Part(title="A node that is revoked while it trains", module="benchmarks.revocation"),
    "sites": Part(title="A site behind one link", module="benchmarks.site_sums", read=sites),
    "failover": Part(
        title="A coordinator that outlives its machine",
        module="benchmarks.failover",
        options=("--kills", "20", "--stops", "1", "--reference-kills", "5"),
        read=failover,
    ),
    "page": Part(title="The page", module="benchmarks.page"),
    "masks": Part(title="Masked sums", module="benchmarks.privacy.masks"),
    "readings": Part(title="Sensors' readings", module="benchmarks.ingest", options=("--only", "rate"), read=readings),
    "scores": Part(
        title="A score on the device", module="benchmarks.score_latency", options=("--rows", "600"), read=scores
    ),
}
