"""JAX pytrees as tasks: Flax's parameters, or any tree of arrays, trained with optax.

```python
import jax, numpy, optax
from flax import linen
from federation.tasks.adapters.jax import jax_task

MODEL = linen.Dense(3)
def loss(params, x, y):
    return optax.softmax_cross_entropy_with_integer_labels(MODEL.apply(params, x), y).mean()

def build(context):
    x, y = ...
    return jax_task(context, init=lambda key: MODEL.init(key, x[:1]), loss=loss, apply=MODEL.apply, data=(x, y))
```

Every leaf of the tree is an array of the model, named by its path (``params/kernel``). A step is ``jax.value_and_grad``
and the update of optax, compiled once for all nodes of a process.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
import optax

from federation.errors import TaskError
from federation.protocol.messages import TrainSettings
from federation.task import TEST_EXAMPLES, Metrics, Parameters, Stop, TaskContext, TrainResult
from federation.tasks.data.examples import Examples, Pair, gap_in
from update_codec import Role

__all__ = ["JaxTask", "jax_task"]

Tree = Any
"""A pytree of arrays."""

EVALUATION_ROWS: Final = 1000


def sgd(settings: TrainSettings) -> optax.GradientTransformation:
    """Plain SGD as the settings say it; its state begins anew each round."""
    decay = optax.add_decayed_weights(settings.weight_decay)
    return optax.chain(decay, optax.sgd(settings.learning_rate, momentum=settings.momentum or None))


def jax_task(  # noqa: PLR0913 - the functions that make a model are apart in JAX
    context: TaskContext,
    *,
    init: Callable[[jax.Array], Tree],
    loss: Callable[[Tree, Any, Any], jax.Array],
    data: Any,
    test_data: Any = None,
    apply: Callable[[Tree, Any], jax.Array] | None = None,
    optimizer: Callable[[TrainSettings], optax.GradientTransformation] = sgd,
) -> "JaxTask":
    """A task around a tree of parameters.

    Args:
        context: What the factory was given.
        init: From a random key to the parameters; float leaves are trained, leaves of whole numbers are counters.
        loss: Parameters, inputs and targets to the mean loss of the batch.
        data: (inputs, targets) of the whole federation, or a function that gives this node's own.
        test_data: The same kinds; None evaluates nothing.
        apply: Parameters and inputs to scores; with it the accuracy is told where the targets are classes.
        optimizer: From the run's settings to optax's optimizer.
    """
    return JaxTask(Examples(context, data, test_data), _Model(init, loss, apply, optimizer))


_TRIES, _ALIKE = 3, 1e-5
"""Parameters with which a loss is tried, and how near two losses are that are one, as a share of them."""


@dataclass(frozen=True)
class _Model:
    init: Callable[[jax.Array], Tree]
    loss: Callable[[Tree, Any, Any], jax.Array]
    apply: Callable[[Tree, Any], jax.Array] | None
    optimizer: Callable[[TrainSettings], optax.GradientTransformation]


@dataclass
class JaxTask:
    """See `jax_task`.

    Attributes:
        examples: What is trained on and evaluated on.
        model: The functions.
    """

    examples: Examples
    model: _Model

    def initial_parameters(self, seed: int) -> Parameters:
        """The leaves of what ``init`` makes of this seed's key."""
        with _told():
            leaves, _ = jax.tree_util.tree_flatten_with_path(self.model.init(jax.random.key(seed)))
            return {_name(path): np.array(leaf) for path, leaf in leaves}

    def roles(self) -> Mapping[str, Role]:
        """All leaves have the default role."""
        return {}

    def prepare(self) -> None:
        """Read this node's data, and compile the step's shapes.

        Raises:
            TaskError: It cannot be used.
        """
        with _told():
            inputs, targets = self.examples.training
            tree = self.model.init(jax.random.key(0))
            jax.eval_shape(self.model.loss, tree, jnp.asarray(inputs[:2]), jnp.asarray(targets[:2]))
            if _compares_all_pairs(self.model.loss, tree, inputs, targets):
                raise TaskError(
                    f"the targets are {list(targets.shape)}, and the loss compares each output with the targets of all"
                    " rows: give outputs and targets one shape, such as outputs[:, 0]"
                )

    def columns_unsaid(self) -> Sequence[str]:
        """The columns of this node's own data frame, in their order, once it was read."""
        return self.examples.columns_unsaid()

    def train(self, parameters: Parameters, settings: TrainSettings, stop: Stop) -> TrainResult:
        """Steps of the optimizer over shuffled batches; ``stop`` is asked before each.

        Raises:
            TaskError: The data, the parameters or the settings cannot be used, or the training diverged.
        """
        with _told():
            tree = base = self._tree(parameters)
            inputs, targets = self.examples.training
            step, begin = _compiled(self.model.loss, self.model.optimizer, _Hashed(settings))
            state, total, steps = begin(tree), jnp.zeros(()), 0
            for rows in self._batches(len(inputs), settings):
                if stop():
                    break
                tree, state, value = step(tree, base, state, inputs[rows], targets[rows])
                total, steps = total + value, steps + 1
            arrays = self._arrays(tree)
        if not all(np.isfinite(array).all() for array in arrays.values()):
            gap = gap_in((np.asarray(inputs), np.asarray(targets)))
            raise TaskError(f"local training diverged: {gap or f'lower learning_rate ({settings.learning_rate})'}")
        return TrainResult(parameters=arrays, num_examples=len(inputs), metrics={"loss": float(total) / max(1, steps)})

    def evaluate(self, parameters: Parameters) -> Metrics:
        """``loss``, and ``accuracy`` where there are scores and classes; empty where there is no test data.

        Raises:
            TaskError: The data or the parameters cannot be used.
        """
        with _told():
            found = self.examples.evaluation
            if found is None:
                return {}
            metrics = self._measured(self._tree(parameters), found)
            on_a_node = self.examples.context.node_index is not None
            return metrics | ({TEST_EXAMPLES: float(len(found[0]))} if on_a_node else {})

    def _measured(self, tree: Tree, examples: Pair) -> dict[str, float]:
        inputs, targets = examples
        total, right = 0.0, 0
        classes = self.model.apply is not None and targets.ndim == 1 and targets.dtype.kind in "iu"
        for start in range(0, len(inputs), EVALUATION_ROWS):
            x, y = (jnp.asarray(each[start : start + EVALUATION_ROWS]) for each in examples)
            total += float(self.model.loss(tree, x, y)) * len(x)
            if classes and self.model.apply is not None:
                right += int((self.model.apply(tree, x).argmax(-1) == y).sum())
        metrics = {"loss": total / len(inputs)}
        return metrics | {"accuracy": right / len(inputs)} if classes else metrics

    def tree(self, parameters: Parameters) -> Tree:
        """The parameters as the tree that ``init`` makes, to go on with in JAX.

        Raises:
            TaskError: They are not those of the model.
        """
        with _told():
            return self._tree(parameters)

    def _tree(self, parameters: Parameters) -> Tree:
        names, structure = self._structure
        if names != set(parameters):
            raise TaskError(f"these are not the model's arrays: {', '.join(sorted(names ^ set(parameters))[:4])}")
        paths, _ = jax.tree_util.tree_flatten_with_path(structure.unflatten(range(structure.num_leaves)))
        return structure.unflatten([jnp.asarray(parameters[_name(path)]) for path, _ in paths])

    @functools.cached_property
    def _structure(self) -> tuple[set[str], Any]:
        shapes = jax.eval_shape(self.model.init, jax.random.key(0))
        leaves, structure = jax.tree_util.tree_flatten_with_path(shapes)
        return {_name(path) for path, _ in leaves}, structure

    def _arrays(self, tree: Tree) -> dict[str, Any]:
        return {_name(path): np.array(leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}

    def _batches(self, count: int, settings: TrainSettings) -> Iterator[Any]:
        """The rows of every step."""
        rng = np.random.default_rng([abs(settings.seed), self.examples.context.node_index or 0])
        size, left = settings.batch_size or count, settings.max_steps or np.inf
        for _ in range(settings.local_epochs):
            order = rng.permutation(count)
            for start in range(0, count, size):
                if (left := left - 1) < 0:
                    return
                yield order[start : start + size]


def _compares_all_pairs(loss: Any, tree: Tree, inputs: Any, targets: Any) -> bool:
    """Whether the loss of three rows depends on their targets, and not on which of them belongs to which row.

    So it is where outputs of shape (rows, 1) and targets of shape (rows,) broadcast. At first all outputs may be alike,
    so other parameters are tried, and targets of a size that is theirs.
    """
    if targets.ndim != 1 or targets.dtype.kind != "f" or not np.std(targets) > 0:
        return False
    rows = [int(np.argmin(targets)), int(np.argmax(targets)), int(np.argmin(targets))]
    x, y = inputs[rows], ((targets[rows] - np.mean(targets)) / np.std(targets)).astype(targets.dtype)
    rng, found = np.random.default_rng(0), []
    for _ in range(_TRIES):
        other = jax.tree.map(lambda leaf: _moved(leaf, rng), tree)
        try:
            tried = ((x, y), (x, y[[1, 0, 2]]), (x, y[[0, 0, 0]]), (x[[0, 0, 0]], y))
            own, swapped, same, alone = (float(loss(other, jnp.asarray(a), jnp.asarray(b))) for a, b in tried)
        except Exception:  # noqa: BLE001 - a loss need not take three rows, nor these targets
            return False
        depends = not math.isclose(own, same, rel_tol=_ALIKE) and not math.isclose(own, alone, rel_tol=_ALIKE)
        found.append(math.isfinite(own) and depends and math.isclose(own, swapped, rel_tol=_ALIKE))
    return all(found)


def _moved(leaf: Any, rng: np.random.Generator) -> Any:
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return leaf
    return leaf + jnp.asarray(rng.normal(scale=0.5, size=leaf.shape), leaf.dtype)


@dataclass(frozen=True)
class _Hashed:
    """Settings of which two with the same optimizer are equal."""

    settings: TrainSettings

    def _key(self) -> tuple[Any, ...]:
        own = self.settings
        known = (own.learning_rate, own.momentum, own.weight_decay, own.proximal_mu)
        return (*known, *sorted(own.extra.items()))

    def __hash__(self) -> int:
        return hash(self._key())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hashed) and self._key() == other._key()


@functools.lru_cache(maxsize=16)
def _compiled(loss: Any, optimizer: Any, hashed: _Hashed) -> tuple[Any, Any]:
    """One step, and what an optimizer begins with; compiled once for all nodes that a process simulates."""
    rule, mu = optimizer(hashed.settings), hashed.settings.proximal_mu

    def with_pull(tree: Tree, base: Tree, x: Any, y: Any) -> Any:
        pull = sum(jnp.sum(jnp.square(a - b)) for a, b in zip(*map(jax.tree.leaves, (tree, base)), strict=True))
        return loss(tree, x, y) + (mu / 2 * pull if mu else 0)

    @jax.jit  # type: ignore[untyped-decorator]
    def step(tree: Tree, base: Tree, state: Any, x: Any, y: Any) -> tuple[Tree, Any, Any]:
        value, gradient = jax.value_and_grad(with_pull, allow_int=True)(tree, base, x, y)
        changes, state = rule.update(gradient, state, tree)
        return optax.apply_updates(tree, changes), state, value

    return step, rule.init


def _name(path: Any) -> str:
    """``params/Dense_0/kernel``; a tree that is one array is ``value``."""
    return jax.tree_util.keystr(path, simple=True, separator="/") or "value"


@contextmanager
def _told() -> Iterator[None]:
    """Turn what the library or the user's functions raise into `TaskError`."""
    try:
        yield
    except (TaskError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise TaskError(f"the task's model, data or loss failed: {type(error).__name__}: {error}") from error
