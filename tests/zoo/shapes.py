"""The zoo: shapes of models and data that people bring, each as a task and as what plain torch does with it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from torch.utils.data import DataLoader, Dataset, default_collate

from federation.protocol.messages import TrainSettings
from federation.task import TaskContext
from federation.tasks import TorchTask

__all__ = ["REFUSED", "SHAPES", "Shape"]

TRAIN, TEST = 720, 600
NODES, ROUNDS = 3, 100
DEFAULT_SETTINGS = TrainSettings(local_epochs=1, batch_size=40, learning_rate=0.3)
DEFAULT_ROUNDS = ROUNDS
PREFIX = "shape_"
"""A shape's function in this file is called by this and its name."""

Rows = list[Any]
Score = Callable[[Any, Any], Tensor]
"""Of the output for a batch, and the batch: how right each example is, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One shape.

    Attributes:
        model: Makes it.
        rows: All examples, those to train on first.
        call: What plain torch does with a batch: the output, from the model and the batch.
        loss: Of output and batch, in plain torch.
        task_loss: What the task is given as its loss.
        score: How right an output is.
        twin: The model of the plain training, where it cannot train ours.
        more: Further arguments of the task.
        rate: The learning rate, here and in plain torch.
        batches: From this node's rows to what the task trains on; None is a data set of them.
        collate: Makes a batch of rows; with it the task trains on loaders.
        optimizer: Makes the optimizer of a round, here and in plain torch; None is SGD.
    """

    model: Callable[[], nn.Module]
    rows: Callable[[], Rows]
    call: Callable[[nn.Module, Any], Any]
    loss: Callable[[Any, Any], Tensor]
    task_loss: Callable[[Any, Any], Tensor]
    score: Score
    twin: Callable[[], nn.Module] | None = None
    more: dict[str, Any] = field(default_factory=dict)
    rate: float = 0.3
    batches: Callable[[Rows], Any] | None = None
    collate: Callable[[Rows], Any] = default_collate
    optimizer: Callable[[nn.Module, TrainSettings], Any] | None = None

    def build(self, context: TaskContext) -> TorchTask:
        """The task."""
        rows = self.rows()
        train: Any = Listed(rows[:TRAIN])
        test: Any = Listed(rows[TRAIN:])
        if self.batches is not None:
            train = partial(self.batches, part_of(rows, context.node_index or 0))
        if self.collate is not default_collate:
            train = partial(self.loader, part_of(rows, context.node_index or 0))
            test = self.loader(rows[TRAIN:])
        return TorchTask(
            context,
            model=self.model,
            loss=self.task_loss,
            train_data=train,
            test_data=test,
            optimizer=self.optimizer,
            **self.more,
        )

    def loader(self, rows: Rows) -> DataLoader[Any]:
        """Batches of the size that all train with."""
        return DataLoader(Listed(rows), batch_size=DEFAULT_SETTINGS.batch_size, shuffle=True, collate_fn=self.collate)


class Listed(Dataset[Any]):
    """Rows as a map-style data set."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.rows[index]


def part_of(rows: Rows, node: int) -> Rows:
    """A node's rows, where it brings its own."""
    return rows[:TRAIN][node::NODES]


# Data.


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(TRAIN + TEST, *shape, generator=torch.Generator().manual_seed(seed))


X = drawn(8)
KIND = X[:, :3].argmax(1)
YES = (X[:, 0] > X[:, 1]).long()
AMOUNT = X[:, :4].sum(1)
COUNT = (2 * X[:, 0].abs() + X[:, 1].abs()).round().long()
TOKENS = (torch.arange(6) + torch.randint(12, (TRAIN + TEST, 1), generator=torch.Generator().manual_seed(2))) % 12
PICTURES = drawn(1, 6, 6) + 3 * functional.one_hot(KIND, 3).float().repeat_interleave(12, 1).reshape(-1, 1, 6, 6)


def zipped(*columns: Any) -> Callable[[], Rows]:
    return lambda: [tuple(column[place] for column in columns) for place in range(TRAIN + TEST)]


def by_name(**columns: Tensor) -> Callable[[], Rows]:
    return lambda: [{name: column[place] for name, column in columns.items()} for place in range(TRAIN + TEST)]


# What is right.


def right(output: Tensor, batch: Any) -> Any:
    return (output.argmax(1) == batch[-1]).float()


def right_places(output: Tensor, batch: Any) -> Any:
    return (output.argmax(-1) == batch[-1])[batch[-1] >= 0].float()


def close(output: Tensor, batch: Any) -> Any:
    """As a share of the spread that is explained: within a quarter of it."""
    wanted = batch[-1].float()
    return ((output.reshape(wanted.shape) - wanted).abs() < wanted.std() / 2).float()


def positive(output: Tensor, batch: Any) -> Any:
    return ((output.reshape(batch[-1].shape) > 0) == (batch[-1] > 0)).float()


# Models.


def mlp(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 24), *layers, nn.ReLU(), nn.Linear(24, 3))


class Own(nn.Module):
    """A model of a function over parts."""

    def __init__(self, forward: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            if isinstance(part, nn.Module | nn.Parameter):
                setattr(self, name, part)
            else:
                self.register_buffer(name, part)
        self._run = forward

    def forward(self, inputs: Tensor) -> Any:
        return self._run(self, inputs)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.out = nn.Linear(4, 16), nn.Linear(4, 16), nn.Linear(16, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        made: Tensor = self.out(torch.relu(self.left(left) + self.right(right)))
        return made


class ByName(nn.Module):
    """As Hugging Face's models are called: by name, the loss within."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()

    def forward(self, values: Tensor, mask: Tensor | None = None, labels: Tensor | None = None) -> dict[str, Any]:
        logits = self.body(values if mask is None else values * mask)
        return {"logits": logits, "loss": None if labels is None else functional.cross_entropy(logits, labels)}


class Language(nn.Module):
    """A small transformer with one matrix for its first and its last layer, and a mask as a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.places = nn.Embedding(12, 16), nn.Parameter(torch.zeros(6, 16))
        self.block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.out = nn.Linear(16, 12, bias=False)
        self.out.weight = self.embed.weight
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(6))

    def forward(self, tokens: Tensor) -> Tensor:
        made: Tensor = self.out(self.block(self.embed(tokens) + self.places, src_mask=self.mask))
        return made


class Bounded(nn.Linear):
    """The twin: weights bounded in place."""

    def __init__(self) -> None:
        super().__init__(8, 3)

    def bounded(self) -> Tensor:
        return torch.renorm(self.weight.detach(), 2, 0, 2.0)

    def bound(self) -> None:
        with torch.no_grad():
            self.weight.copy_(self.bounded())

    def forward(self, inputs: Tensor) -> Tensor:
        self.bound()
        return super().forward(inputs)


class BoundedData(Bounded):
    def bound(self) -> None:
        self.weight.data = self.bounded()


class BoundedParameter(Bounded):
    def bound(self) -> None:
        self.weight = nn.Parameter(self.bounded())


class Centred(nn.Module):
    """The twin: a running mean, changed in place."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))
        self.body = mlp()

    def learn(self, inputs: Tensor) -> None:
        self.mean.mul_(0.9).add_(0.1 * inputs.mean(0))

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.learn(inputs)
        made: Tensor = self.body(inputs - self.mean)
        return made


class CentredAnew(Centred):
    def learn(self, inputs: Tensor) -> None:
        self.mean = 0.9 * self.mean + 0.1 * inputs.mean(0)


class Kept(nn.Module):
    """Keeps a table for the longest row so far."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(12, 16), nn.Linear(16, 12)
        self.table: Tensor | None = None

    def forward(self, tokens: Tensor) -> Tensor:
        if self.table is None or len(self.table) < tokens.shape[1]:
            self.table = torch.sin(torch.arange(tokens.shape[1])[:, None] / torch.arange(1, 17)) / 4
        made: Tensor = self.out(self.embed(tokens) + self.table[: tokens.shape[1]])
        return made


class Followed(nn.Module):
    """A teacher that follows by hand, beside what is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.teacher = mlp(), mlp().requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                for own, other in zip(self.teacher.parameters(), self.body.parameters(), strict=True):
                    own.mul_(0.9).add_(0.1 * other)
        made: Tensor = self.body(inputs)
        return made


def recurrent(kind: Any) -> nn.Module:
    return Own(
        lambda self, x: self.out(self.mix(self.embed(x))[0]),
        embed=nn.Embedding(12, 8),
        mix=kind(8, 16, batch_first=True),
        out=nn.Linear(16, 12),
    )


def adapted() -> nn.Module:
    frozen = nn.Linear(8, 64).requires_grad_(False)
    return Own(
        lambda self, x: self.head(torch.relu(self.base(x) + self.up(self.down(x)))),
        base=frozen,
        down=nn.Linear(8, 4, bias=False),
        up=nn.Linear(4, 64, bias=False),
        head=nn.Linear(64, 3),
    )


def pictures() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 3)
    )


def painted() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 2, 1))


class Attending(nn.Module):
    """Attention over four places, beside what came in."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Linear(2, 16), nn.Linear(64, 3)
        self.mix = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, inputs: Tensor) -> Tensor:
        places = self.embed(inputs.reshape(-1, 4, 2))
        made: Tensor = self.out(torch.relu(places + self.mix(places, places, places, need_weights=False)[0]).flatten(1))
        return made


def masked(mask: Tensor) -> nn.Module:
    return Own(lambda self, x: self.body(x), body=mlp(), mask=mask)


def twice() -> nn.Module:
    return Own(
        lambda self, x: self.out(torch.tanh(self.body(torch.tanh(self.body(x))))),
        body=nn.Linear(8, 8),
        out=nn.Linear(8, 3),
    )


class TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.kind, self.amount = nn.BatchNorm1d(8), nn.Linear(8, 3), nn.Linear(8, 1)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        inputs = self.norm(inputs)
        return self.kind(inputs), self.amount(inputs).squeeze(1)


class Detector(nn.Module):
    """As torchvision's: lists of pictures and targets to losses in training, to answers in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.kind, self.box = nn.Conv2d(1, 6, 3), nn.Linear(24, 3), nn.Linear(24, 4)

    def forward(self, pictures: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        pooled = [functional.adaptive_avg_pool2d(torch.relu(self.body(each[None])), 2) for each in pictures]
        features = torch.cat(pooled).flatten(1)
        answers = [
            {"scores": scores, "box": box} for scores, box in zip(self.kind(features), self.box(features), strict=True)
        ]
        if not self.training:
            return answers
        assert targets is not None
        return {"kind": kind_loss(answers, targets), "box": box_loss(answers, targets)}


def kind_loss(answers: Any, targets: Any) -> Any:
    found = torch.stack([each["scores"] for each in answers])
    return CROSS_ENTROPY(found, torch.stack([each["labels"][0] for each in targets]))


def box_loss(answers: Any, targets: Any) -> Any:
    return functional.mse_loss(
        torch.stack([each["box"] for each in answers]), torch.stack([each["boxes"].mean(0) for each in targets])
    )


def seen() -> Rows:
    """Pictures of several sizes, each with as many boxes as there are things in it."""
    made = []
    for place, (picture, kind) in enumerate(zip(PICTURES, KIND, strict=True)):
        count = 1 + place % 3
        target = {"boxes": torch.full((count, 4), float(kind)), "labels": kind.expand(count)}
        made.append((functional.pad(picture, (0, place % 2, 0, 0)), target))
    return made


def unzipped(rows: Rows) -> Any:
    return tuple(zip(*rows, strict=True))


def in_halves(module: nn.Module, batch: Any, optimizer: Any) -> Tensor:
    """A whole step of one's own: the gradients of two halves are gathered."""
    optimizer.zero_grad()
    total, rows = torch.zeros(()), len(batch[0])
    for inputs, targets in zip(batch[0].chunk(2), batch[1].chunk(2), strict=True):
        loss = CROSS_ENTROPY(module(inputs), targets, reduction="sum") / rows
        loss.backward()
        total += loss.detach()
    optimizer.step()
    return total


# Shapes.

CROSS_ENTROPY: Any = functional.cross_entropy


def classes(model: Callable[[], nn.Module], **changes: Any) -> Shape:
    """Pairs of inputs and classes."""
    fields: dict[str, Any] = {
        "rows": zipped(X, KIND),
        "call": lambda made, batch: made(batch[0]),
        "loss": lambda output, batch: CROSS_ENTROPY(output, batch[-1]),
        "task_loss": CROSS_ENTROPY,
        "score": right,
    }
    return Shape(model=model, **{**fields, **changes})


def places(model: Callable[[], nn.Module], targets: Tensor = (TOKENS + 1) % 12, **changes: Any) -> Shape:
    """Scores of (rows, places, classes)."""

    def loss(output: Tensor, target: Tensor) -> Any:
        return CROSS_ENTROPY(output.flatten(0, 1), target.flatten())

    fields: dict[str, Any] = {
        "rows": zipped(TOKENS, targets),
        "loss": lambda output, batch: loss(output, batch[-1]),
        "task_loss": loss,
        "score": right_places,
    }
    return classes(model, **{**fields, **changes})


def numbers(loss: Any, targets: Tensor, score: Score = close, **changes: Any) -> Shape:
    """One output for each row."""

    def by_target(output: Tensor, target: Tensor) -> Any:
        return loss(output.reshape(target.shape), target.float())

    fields: dict[str, Any] = {
        "rows": zipped(X, targets),
        "loss": lambda output, batch: by_target(output, batch[-1]),
        "task_loss": by_target,
        "score": score,
    }
    return classes(changes.pop("model", lambda: nn.Linear(8, 1)), **{**fields, **changes})


def named(task_loss: Any, call: Any, rows: Any) -> Shape:
    return Shape(
        model=ByName,
        rows=rows,
        call=call,
        loss=lambda output, batch: CROSS_ENTROPY(output["logits"], batch["labels"]),
        task_loss=task_loss,
        score=lambda output, batch: (output["logits"].argmax(1) == batch["labels"]).float(),
    )


def both(output: Any, target: Any) -> Any:
    return CROSS_ENTROPY(output[0], target[0]) + functional.mse_loss(output[1], target[1])


BCE: Any = functional.binary_cross_entropy_with_logits
HALVES = (X[:, :4], X[:, 4:])
PADDED = ((TOKENS + 1) % 12).masked_fill(torch.arange(6) > 3, -100)
BRIGHT = (PICTURES[:, 0] > 1).long().masked_fill(torch.arange(6) == 5, 255)
SHAPES: dict[str, Shape] = {
    "linear": classes(lambda: nn.Linear(8, 3)),
    "mlp": classes(mlp),
    "dropout": classes(lambda: mlp(nn.Dropout(0.1))),
    "double": classes(lambda: mlp().double(), rows=zipped(X.double(), KIND)),
    "batch_norm": classes(lambda: mlp(nn.BatchNorm1d(24))),
    "layer_norm": classes(lambda: mlp(nn.LayerNorm(24))),
    "conv_batch_norm": classes(pictures, rows=zipped(PICTURES, KIND)),
    "segmentation_with_void": classes(
        painted,
        rows=zipped(PICTURES, BRIGHT),
        loss=lambda output, batch: CROSS_ENTROPY(output, batch[-1], ignore_index=255),
        task_loss=partial(CROSS_ENTROPY, ignore_index=255),
        score=lambda output, batch: (output.argmax(1) == batch[-1])[batch[-1] < 2].float(),
    ),
    "attention": classes(Attending),
    "layer_used_twice": classes(twice, rate=0.1),
    "spectral_norm": classes(
        lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(8, 24)), nn.ReLU(), nn.Linear(24, 3))
    ),
    "weight_norm": classes(
        lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(8, 24)), nn.ReLU(), nn.Linear(24, 3)),
        rate=0.1,
    ),
    "orthogonal": classes(
        lambda: nn.Sequential(parametrizations.orthogonal(nn.Linear(8, 8)), nn.ReLU(), nn.Linear(8, 3)),
        rate=0.05,
    ),
    "compiled": classes(lambda: torch.compile(mlp(), backend="eager"), twin=mlp),  # type: ignore[arg-type, return-value]
    "adapters": classes(adapted),
    "bool_mask": classes(lambda: masked(torch.ones(4, 4, dtype=torch.bool))),
    "infinite_mask": classes(lambda: masked(torch.full((4, 4), -math.inf).triu(1))),
    "teacher": classes(Followed, more={"changing": ["teacher.*"]}),
    "weight_data_replaced": classes(BoundedData, twin=Bounded),
    "parameter_replaced": classes(BoundedParameter, twin=Bounded),
    "bounded_in_place": classes(Bounded),
    "buffer_assigned": classes(CentredAnew, twin=Centred),
    "buffer_in_place": classes(Centred),
    "gru": places(lambda: recurrent(nn.GRU)),
    "lstm": places(lambda: recurrent(nn.LSTM)),
    "tied_transformer": places(Language),
    "kept_table": places(Kept),
    "padded_places": places(lambda: recurrent(nn.GRU), PADDED),
    "regression": numbers(functional.mse_loss, AMOUNT),
    "counts": numbers(
        functional.poisson_nll_loss,
        COUNT,
        rate=0.1,
        score=lambda output, batch: ((output.exp().reshape(-1) - batch[-1]).abs() < 2).float(),
    ),
    "one_logit": numbers(BCE, YES, positive),
    "one_probability": numbers(
        functional.binary_cross_entropy,
        YES,
        lambda output, batch: ((output.reshape(-1) > 0.5) == (batch[-1] > 0)).float(),
        model=lambda: nn.Sequential(nn.Linear(8, 1), nn.Sigmoid()),
    ),
    "several_labels": numbers(BCE, torch.stack([YES, 1 - YES, (AMOUNT > 0).long()], 1), positive, model=mlp),
    "three_tensors": classes(TwoInputs, rows=zipped(*HALVES, KIND), call=lambda made, batch: made(batch[0], batch[1])),
    "two_inputs": classes(
        TwoInputs, rows=zipped(list(zip(*HALVES, strict=True)), KIND), call=lambda made, batch: made(*batch[0])
    ),
    "named_inputs": classes(
        TwoInputs,
        rows=lambda: [({"right": b, "left": a}, y) for a, b, y in zip(*HALVES, KIND, strict=True)],
        call=lambda made, batch: made(**batch[0]),
    ),
    "two_outputs": classes(
        TwoOutputs,
        rows=zipped(X, list(zip(KIND, AMOUNT, strict=True))),
        loss=lambda output, batch: both(output, batch[1]),
        task_loss=both,
        rate=0.02,
        score=lambda output, batch: right(output[0], batch[1][:1]),
    ),
    "dict_batches": named(
        lambda output, batch: output["loss"],
        lambda made, batch: made(**batch),
        by_name(values=X, mask=torch.ones(TRAIN + TEST, 1), labels=KIND),
    ),
    "own_loss_of_the_batch": named(
        lambda output, batch: CROSS_ENTROPY(output["logits"], batch["labels"]),
        lambda made, batch: made(batch["values"]),
        by_name(values=X, labels=KIND),
    ),
    "weighted_rows": classes(
        mlp,
        rows=zipped(X, KIND, torch.ones(TRAIN + TEST)),
        loss=lambda output, batch: CROSS_ENTROPY(output, batch[1]),
        task_loss=lambda output, rest: (CROSS_ENTROPY(output, rest[0], reduction="none") * rest[1]).mean(),
        score=lambda output, batch: right(output, batch[:2]),
    ),
    "detection": classes(
        Detector,
        rows=seen,
        call=lambda made, batch: made(*batch) if made.training else made(batch[0]),
        loss=lambda output, _: sum(output.values()),
        task_loss=lambda output, targets: kind_loss(output, targets) + box_loss(output, targets),
        more={"step": lambda module, batch: sum(module(*batch).values())},
        collate=unzipped,
        rate=0.1,
        score=lambda output, batch: torch.tensor(
            [
                float(answer["scores"].argmax() == target["labels"][0])
                for answer, target in zip(output, batch[1], strict=True)
            ]
        ),
    ),
    "own_step": classes(mlp, more={"step": in_halves}),
    "own_optimizer": classes(
        mlp, optimizer=lambda module, _: torch.optim.AdamW(module.parameters(), lr=0.01, weight_decay=0.1)
    ),
    "loader": classes(mlp, batches=lambda rows: DataLoader(Listed(rows), batch_size=16, shuffle=True)),
    "list_of_batches": classes(mlp, batches=lambda rows: list(DataLoader(Listed(rows), batch_size=16))),
}


class Late(nn.Module):
    """Makes its layer when it is first used."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.last: nn.Linear | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        if self.last is None:
            self.last = nn.Linear(8, 3)
        made: Tensor = self.last(self.first(inputs))
        return made


class Growing(Centred):
    def learn(self, inputs: Tensor) -> None:
        self.mean = inputs


REFUSED: dict[str, tuple[Shape, str]] = {
    "lazy": (classes(lambda: nn.LazyLinear(3)), "weight has no shape"),
    "made_when_used": (classes(Late), r"last\.weight"),
    "buffer_that_grows": (classes(Growing), "mean was"),
    "teacher_undeclared": (classes(Followed), r"teacher\.0\.weight"),
    "complex": (
        classes(lambda: Own(lambda self, x: self.body(x), body=mlp(), phase=torch.zeros(2, dtype=torch.complex64))),
        "phase has dtype",
    ),
    "generator": (
        classes(mlp, batches=lambda rows: (batch for batch in DataLoader(Listed(rows), batch_size=16))),
        "once only",
    ),
}


def _factories(shapes: Sequence[tuple[str, Shape]]) -> None:
    for name, shape in shapes:
        globals()[PREFIX + name] = shape.build


_factories([*SHAPES.items(), *((name, shape) for name, (shape, _) in REFUSED.items())])
