"""Where the numbers of a run go while it goes on: TensorBoard, MLflow or Weights & Biases, by their own libraries."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any, Protocol

from federation.errors import ConfigError

__all__ = ["Tracker", "open_trackers"]

Tell = Callable[[int, Mapping[str, float]], None]


class Tracker(Protocol):
    """Hears a run, one after the other."""

    def begin(self, name: str, settings: Mapping[str, object]) -> None:
        """A run of this name begins with these settings."""

    def log(self, version: int, metrics: Mapping[str, float]) -> None:
        """A version was made; ``metrics`` are empty where it was not evaluated."""

    def end(self) -> None:
        """The run is over, or has failed."""


@contextmanager
def open_trackers(chosen: Sequence[str | Tracker], name: str, settings: Mapping[str, object]) -> Iterator[Tell]:
    """Inside, all of them hear what is told; each is ended, whatever happens.

    Raises:
        ConfigError: One is unknown, or its library is not installed.
    """
    trackers = [_make(one) if isinstance(one, str) else one for one in chosen]
    with ExitStack() as stack:
        for tracker in trackers:
            tracker.begin(name, settings)
            stack.callback(tracker.end)

        def tell(version: int, metrics: Mapping[str, float]) -> None:
            for tracker in trackers:
                tracker.log(version, metrics)

        yield tell


def _make(text: str) -> Tracker:
    kind, _, place = text.partition(":")
    kinds: Mapping[str, Callable[[str], Tracker]] = {"tensorboard": _TensorBoard, "mlflow": _MLflow, "wandb": _WandB}
    if kind not in kinds:
        problem = f"{kind!r} is unknown; choose {', '.join(kinds)}"
        raise ConfigError("log_to", problem, source="fedmq.simulate")
    return kinds[kind](place)


def _library(module: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        missing = f"needs {error.name}: pip install 'fedmq[{extra}]'"
        raise ConfigError("log_to", missing, source="this environment") from error


class _TensorBoard:
    """A folder of event files: ``tensorboard:FOLDER``, or ``runs``."""

    def __init__(self, place: str) -> None:
        self._library, self._place = _library("tensorboardX", "tensorboard"), place or "runs"

    def begin(self, name: str, settings: Mapping[str, object]) -> None:
        self._writer = self._library.SummaryWriter(f"{self._place}/{name.replace('/', '-')}")
        self._writer.add_text("settings", "\n".join(f"    {key} = {value}" for key, value in settings.items()))

    def log(self, version: int, metrics: Mapping[str, float]) -> None:
        for key, value in metrics.items():
            self._writer.add_scalar(f"evaluation/{key}", value, global_step=version)
        self._writer.flush()

    def end(self) -> None:
        self._writer.close()


class _MLflow:
    """An experiment of MLflow: ``mlflow:EXPERIMENT``, at the tracking server that its own settings name."""

    def __init__(self, place: str) -> None:
        self._library, self._place = _library("mlflow", "mlflow"), place or "fedmq"

    def begin(self, name: str, settings: Mapping[str, object]) -> None:
        self._library.set_experiment(self._place)
        self._run = self._library.start_run(run_name=name, nested=True)
        self._library.log_params({key: value for key, value in settings.items() if value is not None})

    def log(self, version: int, metrics: Mapping[str, float]) -> None:
        self._library.log_metrics(dict(metrics), step=version, run_id=self._run.info.run_id)

    def end(self) -> None:
        self._library.end_run()


class _WandB:
    """A project of Weights & Biases: ``wandb:PROJECT``; its own settings say where, and whether offline."""

    def __init__(self, place: str) -> None:
        self._library, self._place = _library("wandb", "wandb"), place or "fedmq"

    def begin(self, name: str, settings: Mapping[str, object]) -> None:
        self._run = self._library.init(project=self._place, name=name, config=dict(settings), reinit="create_new")

    def log(self, version: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=version)

    def end(self) -> None:
        self._run.finish()
