"""Flower's clients as tasks, unchanged: a `ClientApp`, or the ``client_fn`` of a `NumPyClient` or `Client`.

```python
from my_app.client_app import app
from my_app.task import Net
from federation.tasks.adapters.flower import flower_task

build = flower_task(app, initial=lambda: Net().state_dict())
```

A round is one message to the client, as Flower's server would send it, and its reply. The client keeps its `Context`,
whose ``state`` is stored with the node.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Final

import numpy as np
from flwr.app import Array as FlowerArray
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MessageType, Metadata, RecordDict
from flwr.app.message.message import make_message
from flwr.client import Client, NumPyClient
from flwr.clientapp import ClientApp
from flwr.common import (
    Code,
    EvaluateIns,
    FitIns,
    GetParametersIns,
    MessageTypeLegacy,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.compat.common import recorddict_compat as legacy
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict

from federation.errors import TaskError
from federation.protocol.messages import TrainSettings
from federation.task import TEST_EXAMPLES, Array, Metrics, Parameters, Stop, TaskContext, TaskFactory, TrainResult
from federation.tasks.drawing import drawn_alike
from update_codec import Role

__all__ = ["FlowerTask", "flower_task"]

ROUND: Final = "server-round"
"""Name of the counter of versions, from which the client's configuration has its round."""

STATE: Final = "flower.state"
"""Name under which the node keeps the client's ``context.state``."""

TTL_S: Final = 43_200.0
"""Flower's default for a message's life, in seconds; nothing here lasts so long."""

NAMES: Final = {"eval_loss": "loss", "train_loss": "loss", "eval_acc": "accuracy", "eval_accuracy": "accuracy"}
"""What Flower's templates call the numbers that are shown."""

STATISTICS: Final = ("*running_mean", "*running_var")


def flower_task(
    client: ClientApp | Callable[[Context], Client | NumPyClient],
    *,
    initial: Callable[[], Any] | None = None,
    evaluate: Callable[..., Any] | None = None,
    run_config: Mapping[str, Any] | None = None,
    train_config: Callable[[TrainSettings], Mapping[str, Any]] | None = None,
) -> TaskFactory:
    """A factory for the tasks of one Flower app: call it ``build``.

    Args:
        client: The app, or the function that makes a client.
        initial: The initial model, which a `ServerApp` would have: a ``state_dict``, arrays by name, a list of arrays
            or an `ArrayRecord`. Without it a client made by ``client_fn`` is asked for its parameters.
        evaluate: The server's evaluation, as the strategy would take it: ``(round, ArrayRecord) -> MetricRecord``
            beside an app, ``(round, arrays, config) -> (loss, metrics)`` beside a ``client_fn``.
        run_config: What ``pyproject.toml`` says under ``[tool.flwr.app.config]``.
        train_config: From the run's settings to further entries of the configuration that the client gets.

    Raises:
        TaskError: The client is neither an app nor a function.
    """
    if not isinstance(client, ClientApp) and not callable(client):
        raise TaskError(f"flower_task takes a ClientApp or a client_fn, not {type(client).__name__}")
    app = client if isinstance(client, ClientApp) else ClientApp(_asking(client))
    # Flower has two kinds of messages, and an app that was made from a client_fn takes the older one.
    old = app._call is not None  # noqa: SLF001 - there is no other way to ask
    spec = _Spec(app, old, initial, evaluate, dict(run_config or {}), train_config)
    return lambda context: FlowerTask(context, spec)


@dataclass(frozen=True)
class _Spec:
    app: ClientApp
    old: bool
    initial: Callable[[], Any] | None
    evaluate: Callable[..., Any] | None
    run_config: dict[str, Any]
    train_config: Callable[[TrainSettings], Mapping[str, Any]] | None


@dataclass
class FlowerTask:
    """See `flower_task`.

    Attributes:
        context: Which node this is.
        spec: What the factory was told.
        flower: The client's context; its ``state`` is the client's own.
    """

    context: TaskContext
    spec: _Spec
    flower: Context = field(init=False, repr=False)
    _roles: Mapping[str, Role] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        """Make the context of a client that has not been called yet."""
        index = self.context.node_index or 0
        where = {} if self.context.data is None else {"data": str(self.context.data)}
        node = {"partition-id": index, "num-partitions": self.context.node_count, **where}
        self.flower = Context(1, index + 1, node, RecordDict(), dict(self.spec.run_config))

    def initial_parameters(self, seed: int) -> Parameters:
        """The app's model, and the counter of versions; what it draws at random comes from the seed.

        Raises:
            TaskError: There is no initial model, or the client failed.
        """
        with _told(), drawn_alike(seed):
            if self.spec.initial is not None:
                arrays = _named(self.spec.initial())
            elif self.spec.old:
                arrays = _named(self._ask_for_parameters())
            else:
                raise TaskError(
                    "a ClientApp has no model of its own: give flower_task(app, initial=lambda: Net().state_dict())"
                )
        return {**arrays, ROUND: np.zeros((), np.int64)}

    def roles(self) -> Mapping[str, Role]:
        """BatchNorm's statistics by their names in a ``state_dict``; whole numbers are counters."""
        if self._roles is None:
            arrays = self.initial_parameters(0)
            found = [name for name in arrays if any(fnmatchcase(name, pattern) for pattern in STATISTICS)]
            self._roles = dict.fromkeys(found, Role.STATISTIC)
        return self._roles

    def restore(self, state: Parameters) -> None:
        """Take the client's ``context.state`` as it was after its last training."""
        kept = state.get(STATE)
        proto = ProtoRecordDict() if kept is None else ProtoRecordDict.FromString(kept.tobytes())
        self.flower.state = recorddict_from_proto(proto)

    def train(self, parameters: Parameters, settings: TrainSettings, stop: Stop) -> TrainResult:
        """One training message, and the reply to it.

        Raises:
            TaskError: The client failed, or its reply does not fit.
        """
        if stop():
            raise TaskError("stopped before the client was asked")
        arrays, number = _without_round(parameters)
        with _told(), drawn_alike(settings.seed + 7919 * self.flower.node_id):
            config = self._config(settings, number)
            trained, examples, metrics = (self._train_old if self.spec.old else self._train)(arrays, config)
        trained = _like(arrays, trained) | {ROUND: np.array(number, np.int64)}
        kept = np.frombuffer(recorddict_to_proto(self.flower.state).SerializeToString(), np.uint8)
        return TrainResult(
            parameters=trained,
            num_examples=examples,
            metrics=_numbers(metrics),
            kept={STATE: kept} if kept.size else {},
        )

    def evaluate(self, parameters: Parameters) -> Metrics:
        """The client's evaluation on a node; at the coordinator the server's, where there is one.

        Raises:
            TaskError: It failed.
        """
        arrays, number = _without_round(parameters)
        with _told():
            if self.context.node_index is None:
                return _numbers(self._evaluate_centrally(arrays, number - 1))
            examples, metrics = (self._evaluate_old if self.spec.old else self._evaluate)(arrays, number)
            return {**_numbers(metrics), TEST_EXAMPLES: float(examples)} if metrics else {}

    def _config(self, settings: TrainSettings, number: int) -> dict[str, Any]:
        """What the client is told; names with hyphens for an app, with underscores for an older client."""
        told = {
            ROUND: number,
            "local-epochs": settings.local_epochs,
            "batch-size": settings.batch_size,
            "lr": settings.learning_rate,
            "learning-rate": settings.learning_rate,
            "momentum": settings.momentum,
            "weight-decay": settings.weight_decay,
            "max-steps": settings.max_steps,
            "proximal-mu": settings.proximal_mu,
        }
        config = {name.replace("-", "_") if self.spec.old else name: value for name, value in told.items()}
        more = {} if self.spec.train_config is None else self.spec.train_config(settings)
        return {**config, **settings.extra, **more}

    def _reply(self, kind: str, content: RecordDict, number: int) -> RecordDict:
        metadata = Metadata(1, f"{kind}-{number}", 0, self.flower.node_id, "", str(number), 0.0, TTL_S, kind)
        metadata.delivered_at = ""
        reply: Message = self.spec.app(make_message(metadata=metadata, content=content), self.flower)
        if reply.has_error():
            raise TaskError(f"the Flower client answered with an error: {reply.error.reason}")
        return reply.content

    def _train(self, arrays: Parameters, config: dict[str, Any]) -> tuple[Any, int, Mapping[str, Any]]:
        content = RecordDict({"arrays": _record(arrays), "config": ConfigRecord(config)})
        reply = self._reply(MessageType.TRAIN, content, config[ROUND])
        metrics = _metrics_of(reply)
        (record,) = reply.array_records.values()
        return _named(record), int(metrics.pop("num-examples")), metrics

    def _evaluate(self, arrays: Parameters, number: int) -> tuple[int, Mapping[str, Any]]:
        content = RecordDict({"arrays": _record(arrays), "config": ConfigRecord({ROUND: number})})
        if "evaluate.default" not in self.spec.app._registered_funcs:  # noqa: SLF001 - an app need not have one
            return 0, {}
        metrics = _metrics_of(self._reply(MessageType.EVALUATE, content, number))
        return int(metrics.pop("num-examples")), metrics

    def _train_old(self, arrays: Parameters, config: dict[str, Any]) -> tuple[Any, int, Mapping[str, Any]]:
        asked = FitIns(ndarrays_to_parameters(list(arrays.values())), config)
        reply = self._reply(
            MessageType.TRAIN, legacy.fitins_to_recorddict(asked, keep_input=True), config["server_round"]
        )
        answer = legacy.recorddict_to_fitres(reply, keep_input=True)
        _check_status(answer.status)
        return _named(parameters_to_ndarrays(answer.parameters), arrays), answer.num_examples, answer.metrics

    def _evaluate_old(self, arrays: Parameters, number: int) -> tuple[int, Mapping[str, Any]]:
        asked = EvaluateIns(ndarrays_to_parameters(list(arrays.values())), {"server_round": number})
        reply = self._reply(MessageType.EVALUATE, legacy.evaluateins_to_recorddict(asked, keep_input=True), number)
        answer = legacy.recorddict_to_evaluateres(reply)
        if answer.status.code is Code.EVALUATE_NOT_IMPLEMENTED:
            return 0, {}
        _check_status(answer.status)
        return answer.num_examples, {"loss": answer.loss, **answer.metrics}

    def _ask_for_parameters(self) -> Sequence[Array]:
        content = legacy.getparametersins_to_recorddict(GetParametersIns({}))
        reply = self._reply(MessageTypeLegacy.GET_PARAMETERS, content, 0)
        answer = legacy.recorddict_to_getparametersres(reply, keep_input=True)
        _check_status(answer.status)
        arrays: Sequence[Array] = parameters_to_ndarrays(answer.parameters)
        return arrays

    def _evaluate_centrally(self, arrays: Parameters, number: int) -> Mapping[str, Any]:
        if self.spec.evaluate is None:
            return {}
        if not self.spec.old:
            return dict(self.spec.evaluate(number, _record(arrays)) or {})
        found = self.spec.evaluate(number, list(arrays.values()), {})
        return {} if found is None else {"loss": found[0], **found[1]}


def _asking(client_fn: Callable[[Any], Any]) -> Callable[[Any], Client]:
    """The same function, whose clients are ready for messages."""

    @functools.wraps(client_fn)
    def made(context: Any) -> Client:
        client: Client | NumPyClient = client_fn(context)
        return client.to_client() if isinstance(client, NumPyClient) else client

    return made


def _named(model: Any, like: Parameters | None = None) -> dict[str, Array]:
    """Arrays by name; those of a list by their place, or as the arrays that they stand for."""
    if isinstance(model, ArrayRecord):
        return {name: array.numpy() for name, array in model.items()}
    if isinstance(model, Mapping):
        return {str(name): np.array(array) for name, array in model.items()}
    names = map(str, range(len(model))) if like is None else like
    return dict(zip(names, map(np.asarray, model), strict=True))


def _record(arrays: Parameters) -> ArrayRecord:
    return ArrayRecord({name: FlowerArray(np.array(array)) for name, array in arrays.items()})


def _without_round(parameters: Parameters) -> tuple[dict[str, Array], int]:
    """The app's own arrays, writable, and the number of the round that this is: the first is 1."""
    own = {name: np.array(array) for name, array in parameters.items() if name != ROUND}
    return own, int(parameters[ROUND].item()) + 1


def _like(before: Parameters, after: Mapping[str, Array]) -> dict[str, Array]:
    """What came back, in the types that went out: training in float64 is rounded.

    Raises:
        TaskError: Another array came back.
    """
    shapes = [{name: array.shape for name, array in arrays.items()} for arrays in (before, after)]
    if shapes[0] != shapes[1]:
        different = sorted({str(item) for item in shapes[0].items() ^ shapes[1].items()})
        raise TaskError(f"the Flower client gave back other arrays than it got: {'; '.join(different[:4])}")
    return {name: np.array(after[name], array.dtype) for name, array in before.items()}


def _metrics_of(reply: RecordDict) -> dict[str, Any]:
    records = list(reply.metric_records.values())
    if len(records) != 1 or "num-examples" not in records[0]:
        raise TaskError("the Flower client's reply needs one MetricRecord with 'num-examples'")
    return dict(records[0])


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers, under the names that are shown."""
    found = {name: float(value) for name, value in metrics.items() if isinstance(value, int | float)}
    found = {name: value for name, value in found.items() if np.isfinite(value)}
    return {NAMES[name]: value for name, value in found.items() if name in NAMES} | {
        name: value for name, value in found.items() if name not in NAMES
    }


def _check_status(status: Any) -> None:
    if status.code is not Code.OK:
        raise TaskError(f"the Flower client cannot do this: {status.message or status.code.name}")


@contextmanager
def _told() -> Iterator[None]:
    """Whatever the client raises is a `TaskError` that says what it was."""
    try:
        yield
    except TaskError:
        raise
    except Exception as error:
        raise TaskError(f"the Flower client failed: {type(error).__name__}: {error}") from error
