"""``fedmq.simulate``: a federation in virtual time, once for each seed, in one call."""

import difflib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields, replace
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from federation.errors import ConfigError
from federation.protocol.messages import TrainSettings
from federation.task import Task, TaskContext, TaskFactory
from federation.tasks.data.frames import rows_at
from federation.tasks.registry import default_rounds, named_task
from fedmq.api.study import Seed, Study
from fedmq.api.trackers import Tracker, open_trackers
from fedmq.simulation.experiment.cli import TrainOptions, experiment_of
from fedmq.simulation.experiment.experiment import VersionFigures, run_report
from fedmq.simulation.experiment.options import resolve

__all__ = ["simulate"]

SEEDS_MAX = 1000
HELD_OUT = 0.2
"""Share of the rows that is the test where none is given; drawn, because rows may follow each other in a pattern."""

LINES = 15
"""Lines of progress for one seed, about."""

_TRAIN = tuple(field.name for field in fields(TrainSettings) if field.name not in {"seed", "extra"})


def simulate(  # noqa: PLR0913 - one parameter per thing that an experiment varies
    task: str | TaskFactory | None = None,
    *,
    model: Callable[[], Any] | None = None,
    data: Any = None,
    test: Any = None,
    loss: Callable[[Any, Any], Any] | None = None,
    nodes: int = 10,
    rounds: int | None = None,
    per_round: int | None = None,
    split: str | None = None,
    strategy: str | None = None,
    codec: str | None = None,
    seeds: int | Iterable[int] = 1,
    evaluate_every: int = 1,
    workers: int = 1,
    cluster: str = "",
    settings: Mapping[str, object] | None = None,
    name: str = "",
    log_to: Sequence[str | Tracker] = (),
    progress: bool = True,
    **train: float,
) -> Study:
    """Train a model on many simulated nodes: the coordinator, the strategy and the codec are the real ones.

    Args:
        task: A task's name, ``FILE.py:FUNCTION``, or a factory ``build(context)``; or give ``model`` and ``data``.
        model: Makes a torch model (a ``torch.nn.Module``).
        data: Of the whole federation: (inputs, targets) as tensors or arrays, or a map-style Dataset; or a function of
            the `TaskContext` that gives one node's own. With ``task``: its data folder.
        test: The same kinds. Left out, a fifth of the rows of a pair is held out, always the same.
        loss: Outputs and targets to a mean loss. Left out: cross entropy for whole-number targets, else the mean
            squared error.
        nodes: How many.
        rounds: Versions to make; by default the task's own number.
        per_round: Nodes that train at once; by default all.
        split: ``iid``, ``shards:N``, ``dirichlet:ALPHA`` or ``natural``.
        strategy: ``fedavg``, ``fedprox``, ``fedadam``, ...
        codec: Of the updates: ``lossless`` by default.
        seeds: So many runs from seed 0 on, or the seeds.
        evaluate_every: Evaluate each n-th version.
        workers: Processes that train.
        cluster: Where they train: ``local``, ``dask://HOST:PORT`` or ``ray://HOST:PORT``.
        settings: Further settings of a coordinator, such as ``{"round.buffer": 4}``.
        name: Of the study, in legends; by default what it varies.
        log_to: ``tensorboard``, ``mlflow``, ``wandb`` (each may say ``:PLACE``), or a `Tracker`: hears every version.
        progress: Say on standard error how far it is.
        train: Local training: ``learning_rate``, ``local_epochs``, ``batch_size``, ``momentum``, ``weight_decay``,
            ``max_steps``, ``proximal_mu``.

    Returns:
        One run for each seed, with curves, pictures and the model.

    Raises:
        ConfigError: An argument is unknown, out of range, or does not go with another.
        TaskError: The model or the data cannot be used.
    """
    chosen = _seeds(seeds)
    _check_counts(nodes=nodes, rounds=rounds, per_round=per_round, workers=workers)
    _check_texts(split=split, strategy=strategy, codec=codec, name=name, cluster=cluster)
    if not isinstance(settings or {}, Mapping):
        raise ConfigError("settings", 'must be a dict, such as {"round.buffer": 4}', source="fedmq.simulate")
    training = _train_settings(train)
    _check_source(task, model=model, data=data)
    title, say = name or _title(task, strategy, split, codec), _say if progress else _silent
    factory = None if isinstance(task, str) else _factory(task, model, data, test, loss)
    with nullcontext(str(task)) if factory is None else named_task(factory) as named:
        options = TrainOptions(
            task=named,
            nodes=int(nodes),
            rounds=default_rounds(named) if rounds is None else int(rounds),
            per_round=per_round,
            codec=codec,
            strategy=strategy,
            partition=split,
            data=None if task is None or data is None else Path(data),
            evaluate_every=evaluate_every,
            workers=workers,
            cluster=cluster,
            settings=tuple(_setting(key, value) for key, value in {**training, **(settings or {})}.items()),
        )
        trackers = [log_to] if isinstance(log_to, str) else log_to
        runs = [_run(replace(options, seed=seed), title, trackers, say) for seed in chosen]
    return Study(name=title, task=named, nodes=int(nodes), seeds=tuple(runs))


def _run(options: TrainOptions, title: str, log_to: Sequence[str | Tracker], say: Callable[[str], None]) -> Seed:
    options, config = resolve(options)
    experiment = experiment_of(options, config)
    step = max(1, experiment.plan.engine.versions // LINES)
    with open_trackers(log_to, f"{title}, seed {options.seed}", _told(options)) as tell:

        def hear(figures: VersionFigures) -> None:
            tell(figures.version, figures.metrics)
            if figures.version % step == 0 or figures.version == experiment.plan.engine.versions:
                measured = ", ".join(f"{key} {value:.4f}" for key, value in sorted(figures.metrics.items()))
                say(f"{title}, seed {options.seed}: version {figures.version}, {measured or 'not evaluated'}")
            if standing := experiment.coordinator.standing():
                say(f"{title}, seed {options.seed}: nothing is learnt: {standing}")

        result = experiment.run(hear)
    report = run_report(experiment, result, strategy=options.strategy or "", codec=options.codec or "")
    parameters = experiment.manifest.unflatten(experiment.coordinator.model)
    return Seed(
        seed=options.seed or 0,
        digest=result.digest,
        report=report,
        parameters={key: np.array(value) for key, value in parameters.items()},
        pool=experiment.pool,
    )


def _factory(task: TaskFactory | None, model: Any, data: Any, test: Any, loss: Any) -> TaskFactory:
    if task is not None:
        return task

    def build(context: TaskContext) -> Task:
        from federation.tasks import TorchTask  # noqa: PLC0415 - tasks that are named need not load it

        train_data, test_data = (data, test) if test is not None or callable(data) else _held_out(data)

        def own(source: Any) -> Any:
            return (lambda: source(context)) if callable(source) else source

        objective = loss or _default_loss(train_data)
        return TorchTask(context, model=model, train_data=own(train_data), test_data=own(test_data), loss=objective)

    return build


def _held_out(data: Any) -> tuple[Any, Any]:
    """A fifth of the rows is the test, the same in each run; of a Dataset nothing is held out."""
    if not isinstance(data, tuple) or not data or any(not hasattr(part, "__getitem__") for part in data):
        return data, None
    data = tuple(np.asarray(part) if isinstance(part, list) else part for part in data)
    if len({len(part) for part in data}) > 1:
        return data, None  # the task says so, with their lengths
    tested = np.random.default_rng(0).random(len(data[0])) < HELD_OUT
    kept, held_out = np.flatnonzero(~tested), np.flatnonzero(tested)
    return tuple(rows_at(part, kept) for part in data), tuple(rows_at(part, held_out) for part in data)


def _default_loss(data: Any) -> Callable[[Any, Any], Any]:
    """The loss that suits the targets of a pair.

    Raises:
        ConfigError: The data is no pair: its targets are not known.
    """
    if not isinstance(data, tuple) or len(data) != 2:
        raise ConfigError("loss", "say which, such as torch.nn.functional.cross_entropy", source="fedmq.simulate")
    from federation.tasks.training.local_data import as_tensor  # noqa: PLC0415 - torch costs seconds
    from federation.tasks.training.torch_arrays import loss_for  # noqa: PLC0415 - as above

    return loss_for(as_tensor(data[1]))


def _check_source(task: object, *, model: object, data: object) -> None:
    if task is None and (model is None or data is None):
        raise ConfigError("task", "give a task, or model= and data=", source="fedmq.simulate")
    if task is not None and not (model is None and isinstance(data, str | Path | None)):
        problem = "has its own model and data: leave out model=, and give only a folder as data="
        raise ConfigError("task", problem, source="fedmq.simulate")


def _check_counts(**counts: object) -> None:
    """Whole numbers of at least 1, or None where there is a default.

    Raises:
        ConfigError: One is something else.
    """
    for name, value in counts.items():
        if value is None and name != "nodes":
            continue
        if not isinstance(value, Integral) or isinstance(value, bool) or int(value) < 1:
            raise ConfigError(name, f"must be a whole number of at least 1, not {value!r}", source="fedmq.simulate")


def _check_texts(**texts: object) -> None:
    for name, value in texts.items():
        if value is not None and not isinstance(value, str):
            raise ConfigError(name, f"must be text, not {value!r}", source="fedmq.simulate")


def _seeds(seeds: int | Iterable[int]) -> Sequence[int]:
    chosen = tuple(seeds) if isinstance(seeds, Iterable) else range(int(seeds))
    if not 1 <= len(chosen) <= SEEDS_MAX or len(set(chosen)) < len(chosen):
        raise ConfigError("seeds", f"needs 1 to {SEEDS_MAX} different ones, not {seeds!r}", source="fedmq.simulate")
    return chosen


def _train_settings(train: Mapping[str, float]) -> dict[str, object]:
    for key in train:
        if key not in _TRAIN:
            near = difflib.get_close_matches(key, _TRAIN, n=1)
            hint = f"did you mean {near[0]}?" if near else f"local training has {', '.join(_TRAIN)}"
            raise ConfigError(key, f"there is no such argument; {hint}", source="fedmq.simulate")
    return {f"train.{key}": value for key, value in train.items()}


def _setting(key: str, value: object) -> str:
    """As ``--set`` takes it."""
    shown = str(value).lower() if isinstance(value, bool) else value
    return f"{key}={shown}"


def _title(task: object, *varied: str | None) -> str:
    """What a legend says where no name was given."""
    what = Path(task).name if isinstance(task, str) else getattr(task, "__name__", "model")
    return " ".join((what, *filter(None, varied)))


def _told(options: TrainOptions) -> Mapping[str, object]:
    kept = ("nodes", "rounds", "per_round", "codec", "strategy", "partition", "seed")
    return {key: getattr(options, key) for key in kept} | dict(each.split("=", 1) for each in options.settings)


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _silent(_line: str) -> None:
    pass
