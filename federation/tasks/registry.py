"""Find a task by name: a built-in one, ``file.py:function`` or ``package.module:function``.

Looking up a name or its default settings imports nothing heavy: a built-in task's module is imported only when its
factory is asked for, and torch only when that task trains or evaluates.
"""

import difflib
import importlib
import importlib.util
import re
import sys
from collections.abc import Coroutine, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial, wraps
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, cast

import numpy as np

from federation.errors import ConfigError, FederationError, TaskError, described, user_code
from federation.process_state import process_state_kept
from federation.protocol.messages import TrainSettings
from federation.task import ADAM_KEY, Task, TaskContext, TaskFactory, task_label
from federation.tasks.arguments import divided
from federation.tasks.drawing import IMPORT_SEED, built_alike, made_alike

_KEY = "task"

_EXTRAS = {
    "flax": "jax",
    "flwr": "flower",
    "jax": "jax",
    "keras": "keras",
    "optax": "jax",
    "peft": "lora",
    "sklearn": "sklearn",
    "torch": "torch",
    "torchvision": "torch",
    "transformers": "lora",
}
"""Extras of this package, by the modules that they bring."""

ROUNDS = 10
"""Committed versions after which a user's task is done that does not say its own number."""

_SIZED_NAME = re.compile(r"(?P<name>[a-z]+)-(?P<size>[1-9][0-9]{0,8})")


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltinTask:
    """A task that comes with the project.

    Attributes:
        factory: ``module:function`` in `federation.tasks`; the function takes a context.
        summary: What it is, in one line.
        settings: Local training that reaches a good model with few rounds.
        rounds: Committed versions after which it is done.
        sized: Whether ``name-N`` makes a model of N parameters (``build(context, size=N)``).
    """

    factory: str
    summary: str
    settings: TrainSettings
    rounds: int
    sized: bool = False


_ADAM = TrainSettings(local_epochs=1, batch_size=32, learning_rate=0.001, extra={ADAM_KEY: 1.0})

BUILTIN_TASKS: Mapping[str, BuiltinTask] = MappingProxyType(
    {
        "digits": BuiltinTask(
            factory="builtin.digits:build",
            summary="MLP 64-64-10 on scikit-learn's 1,797 handwritten digits; no download",
            settings=TrainSettings(local_epochs=2, batch_size=8, learning_rate=0.2),
            rounds=60,
        ),
        "mnist-mlp": BuiltinTask(
            factory="builtin.mnist:build_mlp",
            summary="MLP 784-128-64-10 on MNIST (job J1)",
            settings=TrainSettings(local_epochs=1, batch_size=32, learning_rate=0.01),
            rounds=5,
        ),
        "mnist-logreg": BuiltinTask(
            factory="builtin.mnist:build_logreg",
            summary="logistic regression 784-10 on MNIST, four local steps (job J3)",
            settings=TrainSettings(local_epochs=1, batch_size=32, learning_rate=0.1, max_steps=4),
            rounds=100,
        ),
        "mnist-wide": BuiltinTask(
            factory="builtin.mnist:build_wide",
            summary="MLP 784-256-10 on MNIST, ten full-batch steps (job J0)",
            settings=TrainSettings(local_epochs=10, batch_size=0, learning_rate=0.1),
            rounds=10,
        ),
        "mnist-cnn": BuiltinTask(
            factory="builtin.mnist:build_cnn",
            summary="small CNN on MNIST, two label shards per node, FedProx (job J4)",
            settings=TrainSettings(local_epochs=1, batch_size=32, learning_rate=0.1, max_steps=10, proximal_mu=0.01),
            rounds=100,
        ),
        "boston": BuiltinTask(
            factory="builtin.boston:build",
            summary="MLP 13-32-24-16-1 on Boston housing prices, a regression (job J2)",
            settings=TrainSettings(local_epochs=1, batch_size=8, learning_rate=0.001),
            rounds=100,
        ),
        "har": BuiltinTask(
            factory="builtin.har:build",
            summary="softmax regression 561-6 on UCI HAR, each node a subject, unseen subjects as the test (job J5)",
            settings=TrainSettings(local_epochs=1, batch_size=32, learning_rate=0.05),
            rounds=100,
        ),
        "null": BuiltinTask(
            factory="builtin.synthetic:build_null",
            summary="trains nothing: for latency; null-N has N parameters (1,000)",
            settings=TrainSettings(),
            rounds=10,
            sized=True,
        ),
        "quadratic": BuiltinTask(
            factory="builtin.synthetic:build_quadratic",
            summary="every node a different optimum: for simulation; quadratic-N has N parameters (50)",
            settings=TrainSettings(local_epochs=5, learning_rate=0.1),
            rounds=20,
            sized=True,
        ),
    }
)
"""The tasks that come with the project, by name."""

TOLD_TASKS: Mapping[str, BuiltinTask] = MappingProxyType(
    {
        "sensors/autoencoder": BuiltinTask(
            factory="sensors.task:build_autoencoder",
            summary="windows of sensors, learnt from normal running: an alarm where one cannot be told again",
            settings=_ADAM,
            rounds=20,
        ),
        "sensors/forecaster": BuiltinTask(
            factory="sensors.task:build_forecaster",
            summary="the next rows of sensors: an alarm where they come otherwise",
            settings=_ADAM,
            rounds=20,
        ),
        "sensors/classifier": BuiltinTask(
            factory="sensors.task:build_classifier",
            summary="which class a window of sensors is",
            settings=_ADAM,
            rounds=20,
        ),
        "sensors/remaining-life": BuiltinTask(
            factory="sensors.task:build_remaining_life",
            summary="how many rows are left until a machine fails",
            settings=TrainSettings(local_epochs=1, batch_size=64, learning_rate=0.05),
            rounds=200,
        ),
    }
)
"""Those that must be told something, such as the columns of a table: see `federation.tasks.arguments`."""


_program_tasks: dict[str, TaskFactory] = {}


@contextmanager
def named_task(factory: TaskFactory) -> Iterator[str]:
    """Inside, a task that lives in this program only has a name, for `load_task`; forked processes know it, too."""
    name = f"program-task-{id(factory):x}"
    _program_tasks[name] = factory
    try:
        yield name
    finally:
        del _program_tasks[name]


def load_task(name: str) -> TaskFactory:
    """The factory of a task.

    Args:
        name: A built-in name, ``file.py:function`` or ``package.module:function``; without ``:function`` it is
            ``build``. Arguments may follow, or a file may stand for both (`federation.tasks.arguments`).

    Raises:
        ConfigError: There is no such task; the message lists the names and the near ones.
    """
    if name in _program_tasks:
        build = _program_tasks[name]
        return _guarded(getattr(build, "__name__", "of this program"), build)
    name, arguments = divided(name)
    build = _factory(name)
    if not arguments:
        return build
    return lambda context: build(replace(context, arguments={**arguments, **context.arguments}))


def _factory(name: str) -> TaskFactory:
    found = _builtin(name)
    if found is None:
        return _function(name)
    builtin, size = found
    module, _, function = builtin.factory.partition(":")
    build: Any = getattr(importlib.import_module(f"federation.tasks.{module}"), function)
    return cast("TaskFactory", build if size is None else partial(build, size=size))


def default_settings(name: str) -> TrainSettings:
    """The local training that suits a task: a user's module may name its own as ``DEFAULT_SETTINGS``.

    Raises:
        ConfigError: There is no such task, or its ``DEFAULT_SETTINGS`` are no `TrainSettings`.
    """
    if name in _program_tasks:
        return TrainSettings()
    name = divided(name)[0]
    found = _builtin(name)
    if found is not None:
        return found[0].settings
    settings = getattr(_module_of(name), "DEFAULT_SETTINGS", TrainSettings())
    if not isinstance(settings, TrainSettings):
        raise ConfigError(_KEY, f"DEFAULT_SETTINGS must be a TrainSettings, not {settings!r}", source=name)
    return replace(settings, **{each.name: _plain(getattr(settings, each.name)) for each in fields(settings)})


def default_rounds(name: str) -> int:
    """The number of committed versions that suits a task: a user's module may name its own as ``DEFAULT_ROUNDS``.

    Raises:
        ConfigError: There is no such task, or its ``DEFAULT_ROUNDS`` is no number of at least 1.
    """
    if name in _program_tasks:
        return ROUNDS
    name = divided(name)[0]
    found = _builtin(name)
    if found is not None:
        return found[0].rounds
    rounds = getattr(_module_of(name), "DEFAULT_ROUNDS", ROUNDS)
    rounds = _plain(rounds)
    if not isinstance(rounds, int) or rounds < 1:
        raise ConfigError(_KEY, f"DEFAULT_ROUNDS must be a whole number of at least 1, not {rounds!r}", source=name)
    return rounds


def is_builtin(name: str) -> bool:
    """Whether the task comes with the project and is told nothing: then its model follows from its name."""
    name, arguments = divided(name)
    return not arguments and _builtin(name) is not None


def _plain(value: Any) -> Any:
    """NumPy's numbers as Python's; everything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def _builtin(name: str) -> tuple[BuiltinTask, int | None] | None:
    """The built-in task of that name and the size that the name asks for, or None."""
    if found := BUILTIN_TASKS.get(name) or TOLD_TASKS.get(name):
        return found, None
    sized = _SIZED_NAME.fullmatch(name)
    if sized and sized["name"] in BUILTIN_TASKS and BUILTIN_TASKS[sized["name"]].sized:
        return BUILTIN_TASKS[sized["name"]], int(sized["size"])
    return None


def _function(name: str) -> TaskFactory:
    module = _module_of(name)
    function = _split_name(name)[1]
    build = getattr(module, function, None)
    if not callable(build):
        near = _near(function, [each for each in vars(module) if callable(getattr(module, each))])
        raise ConfigError(_KEY, f"{name!r}: there is no function {function!r} in it{near}", source=name)
    return _guarded(name, cast("TaskFactory", build))


def _guarded(name: str, build: TaskFactory) -> TaskFactory:
    @wraps(build)
    def built(context: TaskContext) -> Task:
        with user_code(f"the task {task_label(name)} cannot be built"), process_state_kept():
            task = built_alike(build, context)
        if task is None:
            raise TaskError(f"the task {task_label(name)} cannot be built: its function returns nothing")
        # A class that nobody has called, the model alone, what async and yield make, a pair.
        other = isinstance(task, tuple | list | dict | Generator | Coroutine) or hasattr(task, "forward")
        if isinstance(task, type) or other:
            kind = f"the class {task.__name__}" if isinstance(task, type) else f"a {type(task).__name__}"
            raise TaskError(
                f"the task {task_label(name)} cannot be built: its function returns {kind}, which is no task: return"
                " TorchTask(context, ...), or an object with the methods of federation.task.Task"
            )
        return task

    return built


def _split_name(name: str) -> tuple[str, str]:
    """Module or file, and function: the last colon that is followed by an identifier (a Windows path has another)."""
    where, colon, function = name.rpartition(":")
    return (where, function) if colon and function.isidentifier() else (name, "build")


def _module_of(name: str) -> ModuleType:
    where = _split_name(name)[0]
    if where.endswith(".py"):
        return _module_from_file(Path(where), name)
    if ":" not in name:
        raise ConfigError(_KEY, f"there is no task {name!r}{_near(name, [*BUILTIN_TASKS, *TOLD_TASKS])}; {_choices()}")
    return _module_from_package(where, name)


def _module_from_package(where: str, name: str) -> ModuleType:
    _append_to_path(Path.cwd())
    try:
        with _importing(name):
            return importlib.import_module(where)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{where}.".startswith(f"{error.name}."):
            raise _lacking(name, error) from error
        raise ConfigError(_KEY, f"{name!r}: there is no module {error.name!r}; {_choices()}", source=name) from error


def _module_from_file(path: Path, name: str) -> ModuleType:
    """Import one file once per process, as if it were a script: its neighbours can be imported."""
    path = path.expanduser().resolve()
    _append_to_path(path.parent)
    module_name = _module_name(path)
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, path) if path.is_file() else None
    if spec is None or spec.loader is None:
        raise ConfigError(_KEY, f"{name!r}: there is no file {path}; {_choices()}", source=name)
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickling workers look the module up by name while it runs.
    sys.modules[module_name] = module
    try:
        with _importing(name):
            spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        del sys.modules[module_name]
        raise _lacking(name, error) from error
    except BaseException:
        del sys.modules[module_name]
        raise
    return module


def _lacking(name: str, error: ModuleNotFoundError) -> ConfigError:
    """What a task imports is not installed: with which command, where an extra of ours brings it."""
    module = (error.name or "").partition(".")[0]
    extra = _EXTRAS.get(module)
    remedy = "install it" if extra is None else f"pip install 'fedmq[{extra}]'"
    return ConfigError(_KEY, f"{name!r} needs the module {error.name!r}: {remedy}", source=name)


def _module_name(path: Path) -> str:
    """The file's own name where an import finds the same file by it, so that processes that it starts find it, too."""
    stem = path.stem
    known = sys.modules.get(stem)
    importlib.invalidate_caches()
    spec = known.__spec__ if known is not None else importlib.util.find_spec(stem) if stem.isidentifier() else None
    if spec is not None and spec.origin is not None and Path(spec.origin).resolve() == path:
        return stem
    return "fedmq_task_" + re.sub(r"\W", "_", str(path))


@contextmanager
def _importing(name: str) -> Iterator[None]:
    """Import a user's module as every process does, and tell why it cannot be; what is missing the caller tells.

    Raises:
        ConfigError: It raised, or ended the process.
    """
    try:
        with made_alike(IMPORT_SEED), process_state_kept():
            yield
    except (FederationError, ModuleNotFoundError, KeyboardInterrupt):
        raise
    except SystemExit as error:
        problem = f"{name!r} ended the process when it was imported ({described(error)}): put what it runs as a program"
        raise ConfigError(_KEY, f"{problem} behind if __name__ == '__main__':", source=name) from error
    except BaseException as error:
        raise ConfigError(_KEY, f"{name!r} cannot be imported: {described(error)}", source=name) from error


def _append_to_path(folder: Path) -> None:
    """Last, so that a user's file never shadows an installed module."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _near(name: str, choices: list[str]) -> str:
    matches = difflib.get_close_matches(name, choices, n=2, cutoff=0.5)
    return f"; did you mean {' or '.join(repr(match) for match in matches)}?" if matches else ""


def _choices() -> str:
    own = "FILE.py:FUNCTION, PACKAGE.MODULE:FUNCTION or FILE.toml"
    return f"the built-in tasks are {', '.join([*BUILTIN_TASKS, *TOLD_TASKS])}; your own is {own}"
