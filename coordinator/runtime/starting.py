"""What a coordinator does before its loop begins: the task, version 0, and whether the run is still the one it was."""

from dataclasses import replace
from pathlib import Path

from coordinator.config.combinations import round_size
from coordinator.config.noise import check_noised_model, coordinator_noise
from coordinator.config.privacy import check_masked_model
from coordinator.config.sections import CoordinatorConfig
from coordinator.config.settings import committer_settings, engine_settings, statistics_request, uses_controls
from coordinator.engine.early_stopping import Source, StoppingSettings, missing_metric
from coordinator.engine.settings import EngineSettings
from coordinator.global_model.committer import Committer, first_commit
from coordinator.global_model.initial import InitialRequest, initial_model_apart
from coordinator.global_model.noised import CoordinatorNoise
from coordinator.global_model.resumption import check_resumed
from coordinator.records import VersionRecord
from coordinator.runtime.task_process import EvaluatedTask, TaskApart, TaskHere, TaskSettings, build_task
from coordinator.storage.sqlite_store import SqlStore
from federation.errors import ConfigError
from federation.inputs import Inputs
from federation.runtime.log import get_log, said_while_slow
from federation.task import task_label
from federation.tasks.arguments import divided
from federation.tasks.scaffold import of_scaffold
from update_codec import Manifest

__all__ = ["check_metric", "engine_of", "ensure_model", "evaluated_task", "repaired_head"]


def engine_of(config: CoordinatorConfig, *, replaces: bool) -> EngineSettings:
    """The settings of the engine; those of an own task are in its file, which imports what the task needs.

    Args:
        config: All settings.
        replaces: Whether a coordinator of another run that is online gives way to this one.

    Raises:
        ConfigError: A setting or the task's name is wrong.
        TaskError: The task's file cannot be imported.
    """
    if ":" not in divided(config.task.name)[0]:
        return replace(engine_settings(config), replaces=replaces)
    get_log("coordinator").info("loading_task", task=task_label(config.task.name), why="its settings are in its file")
    with said_while_slow(f"importing the task {task_label(config.task.name)}"):
        return replace(engine_settings(config), replaces=replaces)


def ensure_model(config: CoordinatorConfig, store: SqlStore, task: EvaluatedTask) -> None:
    """Make version 0 at the first start; at a later one, see that it is still the same task."""
    request = _request(config)
    began = store.manifest()
    if began is not None:
        _check_task(store, began, request, config.store.folder)
        return
    # Said at once: on a small device it is half a minute until the next line.
    get_log("coordinator").info("loading_task", task=task_label(request.task), why="version 0 is made by it")
    with said_while_slow(f"loading the task {task_label(request.task)} and its data"):
        # Where it evaluates the task is needed anyway: what it imports is loaded once.
        made = task.initial() if config.evaluation.every else initial_model_apart(request, config.store.folder)
    first = first_commit(made.vectors, made.manifest, committer_settings(config).downlink, seed=made.seed)
    store.initialise(made.manifest, first)
    store.save_task(task_label(request.task))
    if made.inputs is not None:
        store.save_inputs(made.inputs)
        described = Inputs.from_text(made.inputs)
        if described.target and not described.features:
            why = "the coordinator has no table: give csv_data features=, or columns are not compared between nodes"
            get_log("coordinator").warning("columns_unknown", why=why)


def _request(config: CoordinatorConfig) -> InitialRequest:
    counted = statistics_request(config)
    given = config.task.initial if counted is None else None
    return InitialRequest(
        task=config.task.name,
        data=None if config.task.data is None else str(config.task.data),
        seed=config.task.seed,
        file=None if given is None else str(given),
        controls=uses_controls(config),
        statistics=counted,
    )


def _check_task(store: SqlStore, began: Manifest, request: InitialRequest, folder: Path) -> None:
    """A run keeps its task and its model.

    Raises:
        ConfigError: Another one is configured.
    """
    why = check_resumed(began, store.task(), request, folder, store.inputs())
    if why:
        get_log("coordinator").warning("task_not_compared", why=why)
    elif store.task() is None:
        store.save_task(task_label(request.task))


def _check_model(config: CoordinatorConfig, committer: Committer, noise: CoordinatorNoise | None) -> None:
    """A run keeps the tensors that it began with, and masks only what can be masked.

    Raises:
        ConfigError: Only one of model and strategy has control variates; or masks would hide nothing.
    """
    check_noised_model(noise, committer.manifest.statistic_count)
    check_masked_model(committer.terms, committer.manifest.statistic_count, signs=bool(config.security.signing_key))
    if uses_controls(config) != any(map(of_scaffold, committer.manifest.tensors)):
        began = "without" if uses_controls(config) else "with"
        raise ConfigError(
            "strategy.name", f"the run in {config.store.folder} began {began} scaffold: take another store.folder"
        )


def check_metric(stopping: StoppingSettings, task: EvaluatedTask, committer: Committer) -> None:
    """An early stop waits for a number that evaluations have.

    Raises:
        ConfigError: They do not have it. An evaluation that fails is no reason: it may succeed later.
    """
    if stopping.source is not Source.CENTRAL or not (stopping.patience or stopping.metric):
        return
    try:
        metrics = task.evaluate(committer.manifest, committer.evaluated_model)
    except Exception:  # noqa: BLE001 - the user's code may raise anything; the evaluation of the head logs it
        return
    if why := missing_metric(stopping, metrics):
        raise ConfigError("stopping.metric", why)


def evaluated_task(config: CoordinatorConfig) -> EvaluatedTask:
    """What evaluates, and makes version 0: in a process of its own, or in this one."""
    evaluation, request = config.evaluation, _request(config)
    settings = TaskSettings(request=request, device=evaluation.device, threads=evaluation.threads)
    if evaluation.apart:
        return TaskApart(settings)
    return TaskHere(lambda: build_task(settings), request)


def repaired_head(config: CoordinatorConfig, committer: Committer, store: SqlStore) -> VersionRecord:
    """The head, whose parts are whole and not too large for the broker."""
    noise = coordinator_noise(config, round_size(config))
    _check_model(config, committer, noise)
    if noise is not None:
        # A backup of before the first noised version must know that there are some.
        store.batches.begin_noise(noise.noise)
    repaired = committer.repair(store)
    if repaired is None:
        return committer.head
    detail = f"what nodes pull of version {repaired.version} was damaged or too large: made again from the model"
    get_log("coordinator").error("head_repaired", detail=detail)
    return repaired
