"""The same run in this process: the real coordinator's machine and store, and nodes that answer at once."""

from collections.abc import Callable
from dataclasses import replace

from coordinator.config.sections import CoordinatorConfig
from coordinator.config.settings import committer_settings, counting_config, engine_settings, statistics_request
from coordinator.global_model.initial import InitialRequest, initial_model
from coordinator.global_model.statistics import NORM_MAX
from edge_node.training.adoption import manifest_of
from edge_node.training.update import difference
from edge_node.training.worker import TrainingSetup
from federation.errors import ConfigError, TaskError
from federation.inputs import Inputs, agree
from federation.privacy.budget import merged
from federation.protocol.limits import fit_text
from federation.protocol.messages import Decline
from federation.task import TaskContext, TrainResult, task_label
from federation.tasks.registry import load_task
from federation.tasks.statistics.layout import PASSES
from federation.types import PRIVATE_EXAMPLES, NodeId
from fedmq.simulation.experiment.direct import DirectCoordinator, Question, Setup
from fedmq.statistics.findings import Findings, findings_in, why_left_out
from update_codec import Vectors

__all__ = ["Answer", "simulated", "train"]

PATIENCE_S = 3_600.0
"""Virtual seconds in which a question must come, or nobody can count any more."""
SHOWN = 3
RETRY_S = 60.0
TURNS_MAX = 20
"""Questions to each node after which the run gives up."""

Answer = Callable[[TrainingSetup, Question, Vectors], TrainResult | None]
"""What a node makes of a question and the model that it is about; None: it has vanished."""


def train(setup: TrainingSetup, question: Question, model: Vectors) -> TrainResult:
    """What an honest node does."""
    return setup.task.train(setup.manifest.unflatten(model), question.announcement.settings, lambda: False)


def simulated(config: CoordinatorConfig, nodes: int, answer: Answer = train) -> Findings:
    """Count what so many nodes of one task own.

    Args:
        config: The coordinator's settings; masks need helpers, and are left out.
        nodes: How many.
        answer: What they do; tests have others.

    Raises:
        ConfigError: Masks are asked for, or the columns are not known.
        TaskError: The task cannot be used, or nobody can count.
    """
    if config.privacy.masked:
        problem = "masks need helpers, which are not simulated here: set privacy.masked = false"
        raise ConfigError("privacy.masked", problem)
    config = counting_config(config)
    data = None if config.task.data is None else str(config.task.data)
    request = InitialRequest(
        task=config.task.name, data=data, seed=config.task.seed, statistics=statistics_request(config)
    )
    made = initial_model(request)
    engine = engine_settings(config)
    setup = Setup(
        manifest=made.manifest,
        initial=made.vectors,
        engine=replace(engine, payload_bytes_max=engine.payload_bytes_max or made.manifest.frame_bytes_max),
        committer=committer_settings(config),
        update_norm_max=NORM_MAX,
        capabilities={PRIVATE_EXAMPLES: 1.0},
    )
    names = [NodeId(f"node-{index}") for index in range(nodes)]
    coordinator = DirectCoordinator(setup, names)
    coordinator.store.save_task(task_label(config.task.name))
    if made.inputs is not None:
        coordinator.store.save_inputs(made.inputs)
    setups = {name: _node(config, name, index, nodes) for index, name in enumerate(names)}
    _count(coordinator, setups, made.inputs, answer)
    return findings_in(coordinator.store, setup.manifest.unflatten(coordinator.model), config.store.folder)


def _node(config: CoordinatorConfig, name: NodeId, index: int, count: int) -> TrainingSetup:
    context = TaskContext(node_index=index, node_count=count, data=config.task.data, seed=config.task.seed)
    task = load_task(config.task.name)(context)
    return TrainingSetup(node=name, task=task, manifest=manifest_of(task))


def _count(
    coordinator: DirectCoordinator, setups: dict[NodeId, TrainingSetup], inputs: str | None, answer: Answer
) -> None:
    for _ in range(TURNS_MAX * len(setups)):
        coordinator.wait_for_question(PATIENCE_S)
        if coordinator.finished or not coordinator.questions:
            break
        question = coordinator.questions.popleft()
        _answer(coordinator, question, setups[question.node], inputs, answer)
    if not coordinator.finished:
        found = [(part.node, why_left_out(part)) for part in coordinator.store.participation()]
        said = "; ".join(f"{node}: {why}" for node, why in found[:SHOWN])
        raise TaskError(
            f"{coordinator.version} of {PASSES} passes could be counted, then too few nodes answered: {said}"
        )


def _answer(
    coordinator: DirectCoordinator, question: Question, setup: TrainingSetup, inputs: str | None, answer: Answer
) -> None:
    model = coordinator.model
    setup = setup.suited(question.announcement.model.manifest_digest)
    try:
        agree(setup.task, None if inputs is None else Inputs.from_text(inputs).digest, inputs)
        result = answer(setup, question, model)
    except TaskError as error:
        run, asked = question.announcement.run, question.announcement.round
        decline = Decline(run=run, round=asked, reason=fit_text(str(error)), retry_after_s=RETRY_S)
        coordinator.decline(question.node, decline)
        return
    if result is None:
        coordinator.leave(question.node)
        return
    delta = difference(model, result.parameters, setup.manifest)
    assert isinstance(delta, Vectors)  # noqa: S101 - counts are NumPy's
    if result.spent is not None:
        coordinator.spent[question.node] = merged([*(coordinator.spent.get(question.node) or ()), result.spent])
    coordinator.answer(question, delta, result.num_examples)
