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
from federation.units import counted, human_metric

__all__ = ["Best", "GrowingProgress", "RunProgress", "read_run_progress", "run_progress_lines", "run_progress_row"]

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
        return GrowingProgress().read(store, read_stopping(folder))


class GrowingProgress:
    """The same for one who looks again and again: of the evaluations only new ones are counted.

    It is of one start of one coordinator: a later start may undo a commit.
    """

    def __init__(self) -> None:
        self._settings: StoppingSettings | None = None
        self._progress = EarlyStopping(StoppingSettings())
        self._newest, self._seen, self._counted = -1, 0, 0

    def read(self, store: ReadOnlyStore, told: StoppingRule | None) -> RunProgress | None:
        """How the run stands, by the rule that its coordinator has told.

        Raises:
            StorageError: The store cannot be read.
        """
        central, on_nodes = store.evaluation_counts()
        rule = told or _unsaid(Source.CENTRAL if central else Source.NODES)
        settings = rule.settings
        self._follow(store, settings, central if settings.source is Source.CENTRAL else on_nodes)
        if not self._counted and not settings.patience:
            return None
        best, progress = store.best(), self._progress
        metrics = {} if best is None else _found(store, settings.source, best - 1).get(best, {})
        return RunProgress(
            source=settings.source,
            best=_best(best, progress.metric, metrics),
            evaluations=self._counted,
            waited=progress.waited,
            patience=settings.patience,
            stopped_early=progress.exhausted and not 0 < rule.versions <= (store.head() or 0),
        )

    def _follow(self, store: ReadOnlyStore, settings: StoppingSettings, count: int) -> None:
        """Count what is new, in the machine's order; all again where something older has come, or the rule is new."""
        new = _found(store, settings.source, self._newest)
        if settings != self._settings or self._seen + len(new) != count:
            self._settings, self._progress = settings, EarlyStopping(settings)
            self._newest, self._seen, self._counted = -1, 0, 0
            new = _found(store, settings.source, -1)
        for version, metrics in sorted(new.items()):
            self._progress.observe(settings.source, version, metrics, kept=True)
            self._counted += self._progress.metric in metrics
            self._newest = version
        self._seen += len(new)


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
        yield f"best version: {best.version}, {best.metric} {human_metric(best.metric, best.value)} ({whose})"
    if run_progress.stopped_early:
        waited = counted(run_progress.waited, "evaluation")
        yield f"stopped early: {waited} in a row without improvement (stopping.patience)"
    elif run_progress.patience:
        waited = f"{run_progress.waited} of {counted(run_progress.patience, 'evaluation')}"
        yield f"early stopping: {waited} without improvement ({whose})"


def _unsaid(source: Source) -> StoppingRule:
    """The defaults, where no coordinator has said its settings."""
    return StoppingRule(settings=StoppingSettings(source=source), versions=0)


def _found(store: ReadOnlyStore, source: Source, after: int) -> Mapping[ModelVersion, Mapping[str, float]]:
    """The evaluations of later versions that count."""
    if source is Source.CENTRAL:
        return store.evaluated(after)
    return {survey.version: survey.decisive for survey in store.evaluated_on_nodes(after) if survey.closed}


def _best(version: ModelVersion | None, metric: str, metrics: Mapping[str, float]) -> Best | None:
    return (
        Best(version=version, metric=metric, value=metrics[metric])
        if version is not None and metric in metrics
        else None
    )
