"""A run as plain rows, whatever it is read from: a state folder, a configuration or a report."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, repeat
from pathlib import Path
from typing import Any

from coordinator.config.sections import read_config
from coordinator.monitoring.figures import nodes_metrics, participation_row, version_figures
from coordinator.monitoring.noised_sums import nodes_report, nodes_row
from coordinator.monitoring.presence import read_presence
from coordinator.monitoring.privacy import privacy_report, privacy_row
from coordinator.monitoring.report import evaluation_columns, update_columns
from coordinator.storage.places import has_store
from coordinator.storage.read_only import ReadOnlyStore
from federation.documents import read_file, read_json
from federation.errors import ConfigError, StorageError
from federation.protocol.messages import ReceiptStatus

__all__ = [
    "EvaluationPoint",
    "NewsPoint",
    "NodeTotals",
    "Run",
    "SpentEpsilon",
    "UpdatePoint",
    "VersionPoint",
    "load_run",
    "load_runs",
    "run_of_report",
]

NAME_MAX = 32
"""Characters of a run's name in a legend or a table."""

REPORT_BYTES_MAX = 64 << 20
"""Of a report of a run, in bytes."""

_UNTELLING = frozenset({"state", "coordinator", "store", "report"})
"""Names of folders and files that say nothing about the run: its folder's name is used too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionPoint:
    """One version, with what the run had cost until then.

    Attributes:
        version: Its number.
        time_s: Seconds since the run began.
        bytes_up: Bytes that nodes had sent by then.
        bytes_down: Bytes that nodes had been sent by then.
        applied: Updates that it is made of.
        stale: Updates found stale while it was being made.
        refused: Updates refused while it was being made.
        metrics: Its evaluation; empty when there was none.
    """

    version: int
    time_s: float
    bytes_up: int
    bytes_down: int
    applied: int = 0
    stale: int = 0
    refused: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def bytes_total(self) -> int:
        """Bytes in both directions."""
        return self.bytes_up + self.bytes_down


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTotals:
    """What became of one node's updates."""

    node: str
    applied: int
    stale: int
    refused: int
    waiting: int = 0

    @property
    def updates(self) -> int:
        """All updates that it sent."""
        return self.applied + self.stale + self.refused + self.waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdatePoint:
    """One update.

    Attributes:
        node: Who trained it.
        base_version: The version that it was trained from.
        status: What became of it.
        staleness: Versions that it lagged behind when it was applied.
        loss: The node's mean training loss, or None when its task reports none.
        version: The version that it is part of, or None.
    """

    node: str
    base_version: int
    status: str
    staleness: int
    loss: float | None
    version: int | None = None

    @property
    def applied(self) -> bool:
        """Whether it is part of a version."""
        return self.status == ReceiptStatus.APPLIED.value


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationPoint:
    """What one node found when it evaluated one version on its own test data.

    Attributes:
        node: Who.
        version: The version.
        accuracy: 0 to 1, or None when its task has none.
    """

    node: str
    version: int
    accuracy: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewsPoint:
    """What happened to a node, and at which version: ``killed``, ``lost``, ``left``, ``back`` or ``restarted``."""

    node: str
    version: int
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SpentEpsilon:
    """What one node has spent under differential privacy.

    Attributes:
        node: Who.
        epsilon: Spent, at ``delta``.
        delta: The delta.
        budget: Most that may be spent; None where it is not known.
        unit: What is protected.
        adjacency: Which two runs are compared.
    """

    node: str
    epsilon: float
    delta: float
    budget: float | None
    unit: str
    adjacency: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Everything that is drawn, compared and exported.

    Attributes:
        name: For legends, at most `NAME_MAX` characters.
        source: What it was read from.
        versions: In order.
        nodes: By name.
        updates: In order of arrival; empty for a report that was written without them.
        evaluations: Of single nodes, by version; empty where nodes do not evaluate.
        news: Who came and went, in order.
        plain_bytes: What the updates would have cost as plain float32; 0 is not known.
        virtual: Its time is a simulation's.
        spent: Under differential privacy what each node has spent, by unit and node.
    """

    name: str
    source: Path
    versions: Sequence[VersionPoint]
    nodes: Sequence[NodeTotals]
    updates: Sequence[UpdatePoint]
    evaluations: Sequence[EvaluationPoint] = ()
    news: Sequence[NewsPoint] = ()
    plain_bytes: int = 0
    virtual: bool = False
    spent: Sequence[SpentEpsilon] = ()

    def metric_names(self) -> list[str]:
        """The metrics of its evaluations: the coordinator's accuracy and loss first, then the nodes' means of them."""
        names = dict.fromkeys(name for point in self.versions for name in point.metrics)
        order = {name: place for place, name in enumerate(("accuracy", "loss", "nodes_accuracy", "nodes_loss"))}
        return sorted(names, key=lambda name: order.get(name, len(order)))


def load_runs(paths: Iterable[Path]) -> list[Run]:
    """Read several runs; two of one name get numbers.

    Raises:
        ConfigError: One is neither a state folder, nor a configuration, nor a report.
        StorageError: One cannot be read.
    """
    runs: list[Run] = []
    for path in paths:
        run = load_run(path)
        same = sum(each.name.partition(" #")[0] == run.name for each in runs)
        runs.append(replace(run, name=f"{run.name} #{same + 1}") if same else run)
    return runs


def load_run(path: Path) -> Run:
    """Read one run; its coordinator may be at work.

    Raises:
        ConfigError: It is neither a state folder, nor a configuration, nor a report.
        StorageError: It cannot be read.
    """
    if has_store(path):
        return _run_of_state(path, path)
    if path.is_dir() or path.suffix == ".toml":
        return _run_of_state(read_config(path, {}).store.folder, path)
    try:
        report = read_json(read_file(path, bytes_max=REPORT_BYTES_MAX))
    except (OSError, ValueError, RecursionError) as error:
        raise StorageError(f"{path} cannot be read as the report of a run: {error}") from error
    return run_of_report(report, path)


def run_of_report(report: object, source: Path) -> Run:
    """Read what `coordinator.monitoring.report.build_report` made.

    Raises:
        ConfigError: It is something else.
    """
    if not isinstance(report, Mapping) or not isinstance(report.get("rounds"), list):
        raise ConfigError("RUN", f"{source} is no report of a run: it has no list of rounds", source="command line")
    try:
        return _assemble(source, report["rounds"], report)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise ConfigError("RUN", f"{source} is no report of a run: {error!r}", source="command line") from error


def _run_of_state(folder: Path, source: Path) -> Run:
    with ReadOnlyStore(folder) as store:
        points, nodes = store.curves(), store.participation()
        on_nodes = nodes_metrics(points)
        versions = [version_figures(row, on_nodes.get(row.record.version)) for row in store.history()]
        rest = {
            "nodes_detail": [participation_row(node) for node in nodes],
            "updates": update_columns(store.updates()),
            "evaluations": evaluation_columns(points),
            "news": [
                {"node": one.node, "version": one.version, "what": one.what.value}
                for one in read_presence(folder, store.run).news
            ],
            "bytes_up_fp32": store.manifest().fp32_bytes * sum(sum(node.statuses.values()) for node in nodes),
            "privacy": privacy_row(privacy_report(store)),
            "nodes_privacy": nodes_row(nodes_report(store)),
        }
    return _assemble(source, versions, rest)


def _assemble(source: Path, rounds: Sequence[Mapping[str, Any]], rest: Mapping[str, Any]) -> Run:
    return Run(
        name=_name_of(source),
        source=source,
        versions=tuple(_version_points(rounds)),
        nodes=tuple(_totals(row) for row in rest.get("nodes_detail", ())),
        updates=tuple(_update_points(rest.get("updates", {}))),
        evaluations=tuple(_evaluation_points(rest.get("evaluations", {}))),
        news=tuple(_news_points(rest.get("news", ()))),
        plain_bytes=int(rest.get("bytes_up_fp32") or 0),
        virtual=bool(rest.get("virtual")),
        spent=tuple(_spent(rest.get("privacy"))) + tuple(_spent(rest.get("nodes_privacy"))),
    )


def _news_points(rows: Iterable[Mapping[str, Any]]) -> Iterator[NewsPoint]:
    for row in rows:
        yield NewsPoint(node=str(row["node"]), version=int(row["version"]), what=str(row["what"]))


def _spent(row: Mapping[str, Any] | None) -> Iterator[SpentEpsilon]:
    """What a row of `coordinator.monitoring.privacy` or `noised_sums` says; none where it is of neither."""
    if row is None:
        return
    for node, told in sorted(row.get("nodes", {}).items()):
        budget = told.get("budget", row.get("budget"))
        yield SpentEpsilon(
            node=str(node),
            epsilon=float(told["epsilon"]),
            delta=float(told.get("delta", row.get("delta"))),
            budget=None if budget is None else float(budget),
            unit=str(row["unit"]),
            adjacency=str(row["adjacency"]),
        )


def _version_points(rounds: Sequence[Mapping[str, Any]]) -> Iterator[VersionPoint]:
    times = accumulate(float(row["wall_s"]) for row in rounds)
    ups = accumulate(int(row["bytes_up"]) for row in rounds)
    downs = accumulate(int(row["bytes_down"]) for row in rounds)
    for row, time_s, bytes_up, bytes_down in zip(rounds, times, ups, downs, strict=True):
        yield VersionPoint(
            version=int(row["version"]),
            time_s=time_s,
            bytes_up=bytes_up,
            bytes_down=bytes_down,
            applied=int(row["accepted"]),
            stale=int(row["stale"]),
            refused=int(row["refused"]),
            metrics=_metrics(row),
        )


def _metrics(row: Mapping[str, Any]) -> Mapping[str, float]:
    """A report of an older release names only accuracy and loss, outside of ``metrics``."""
    found = row.get("metrics") or {name: row.get(name) for name in ("accuracy", "loss")}
    return {str(name): float(value) for name, value in found.items() if value is not None}


def _totals(row: Mapping[str, Any]) -> NodeTotals:
    counts = {name: int(row.get(f"updates_{name}", 0)) for name in ("applied", "stale", "refused", "waiting")}
    return NodeTotals(node=str(row["id"]), **counts)


def _update_points(columns: Mapping[str, Sequence[Any]]) -> Iterator[UpdatePoint]:
    names = ("node", "base_version", "status", "staleness", "loss")
    rows = zip(*(columns.get(name, ()) for name in names), strict=True)
    # A report of an older release does not say it.
    versions = columns.get("version") or repeat(None)
    for (node, base_version, status, staleness, loss), version in zip(rows, versions, strict=False):
        yield UpdatePoint(
            node=str(node),
            base_version=int(base_version),
            status=str(status),
            staleness=int(staleness),
            loss=None if loss is None else float(loss),
            version=None if version is None else int(version),
        )


def _evaluation_points(columns: Mapping[str, Sequence[Any]]) -> Iterator[EvaluationPoint]:
    names = ("node", "version", "accuracy")
    for node, version, accuracy in zip(*(columns.get(name, ()) for name in names), strict=True):
        share = None if accuracy is None else float(accuracy)
        yield EvaluationPoint(node=str(node), version=int(version), accuracy=share)


def _name_of(source: Path) -> str:
    path = source.resolve()
    name = f"{path.parent.name}/{path.stem}" if path.stem in _UNTELLING else path.stem
    return name if len(name) <= NAME_MAX else f"{name[: NAME_MAX - 1]}…"
