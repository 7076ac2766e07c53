"""How a run stands: its best version, and how far early stopping is; for ``coordinator status``.

The evaluations and the best version are in the store. What counts as better, and for how long the run waits for it, the
coordinator tells in its status file.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from coordinator.engine.early_stopping import EarlyStopping, Source, StoppingSettings
from coordinator.monitoring.state_files import StoppingRule, read_stopping
from coordinator.storage.read_only import ReadOnlyStore
from federation.types import ModelVersion

__all__ = ["Best", "RunProgress", "read_run_progress", "run_progress_lines", "run_progress_row"]

WHOSE: Mapping[Source, str] = {Source.CENTRAL: "the coordinator's evaluations", Source.NODES: "evaluations on nodes"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The best version.

    Attributes:
        version: Its number.
        metric: What it is measured by.
        value: In the metric's own unit.
    """

    version: ModelVersion
    metric: str
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunProgress:
    """What the evaluations of a run say so far.

    Attributes:
        source: Whose evaluations count.
        best: None before the first one that counts.
        evaluations: How many have counted.
        waited: How many in a row brought no improvement.
        patience: So many of them end the run; 0 is never.
        stopped_early: They have ended it.
    """

    source: Source
    best: Best | None
    evaluations: int
    waited: int
    patience: int
    stopped_early: bool


def read_run_progress(folder: Path) -> RunProgress | None:
    """How the run of this state folder stands; None where nothing is evaluated and nothing waits for evaluations.

    Raises:
        StorageError: There is no store, or it cannot be read.
    """
    with ReadOnlyStore(folder) as store:
        found = {Source.CENTRAL: store.evaluated(), Source.NODES: _surveyed(store)}
        best, head = store.best(), store.head() or 0
    rule = read_stopping(folder) or _unsaid(Source.CENTRAL if found[Source.CENTRAL] else Source.NODES)
    settings = rule.settings
    progress, evaluations = _replay(settings, found[settings.source])
    if not evaluations and not settings.patience:
        return None
    metrics = {} if best is None else found[settings.source].get(best, {})
    return RunProgress(
        source=settings.source,
        best=_best(best, progress.metric, metrics),
        evaluations=evaluations,
        waited=progress.waited,
        patience=settings.patience,
        stopped_early=progress.exhausted and not 0 < rule.versions <= head,
    )


def run_progress_row(run_progress: RunProgress | None) -> Mapping[str, object]:
    """As plain data: ``best`` and ``stopping``, each None where there is nothing to say."""
    if run_progress is None:
        return {"best": None, "stopping": None}
    stopping: dict[str, object] = asdict(run_progress)
    best = stopping.pop("best")
    return {"best": best, "stopping": stopping | {"source": run_progress.source.value}}


def run_progress_lines(run_progress: RunProgress) -> Iterable[str]:
    """For a person."""
    best, whose = run_progress.best, WHOSE[run_progress.source]
    if best is not None:
        yield f"best version: {best.version}, {best.metric} {best.value:.4g} ({whose})"
    if run_progress.stopped_early:
        yield f"stopped early: {run_progress.waited} evaluations in a row without improvement (stopping.patience)"
    elif run_progress.patience:
        waited = f"{run_progress.waited} of {run_progress.patience}"
        yield f"early stopping: {waited} evaluations without improvement ({whose})"


def _unsaid(source: Source) -> StoppingRule:
    """The defaults, where no coordinator has said its settings."""
    return StoppingRule(settings=StoppingSettings(source=source), versions=0)


def _surveyed(store: ReadOnlyStore) -> dict[ModelVersion, Mapping[str, float]]:
    return {survey.version: survey.decisive for survey in store.evaluated_on_nodes() if survey.closed}


def _replay(settings: StoppingSettings, found: Mapping[ModelVersion, Mapping[str, float]]) -> tuple[EarlyStopping, int]:
    """What the machine has counted, from the same evaluations in the same order, and how many there were."""
    progress, counted = EarlyStopping(settings), 0
    for version, metrics in sorted(found.items()):
        progress.observe(settings.source, version, metrics, kept=True)
        counted += progress.metric in metrics
    return progress, counted


def _best(version: ModelVersion | None, metric: str, metrics: Mapping[str, float]) -> Best | None:
    return (
        Best(version=version, metric=metric, value=metrics[metric])
        if version is not None and metric in metrics
        else None
    )
