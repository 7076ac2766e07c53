"""How a model's answer becomes a score, and a score an alarm: as data, so that a device needs no torch for it.

A `ScoreRule` is what stands beside a written model (``model.json``). With it and ONNX Runtime alone:

```python
rule = ScoreRule.from_json(json.loads(text)["score"])
scores = rule.score(lambda inputs: session.run(None, {"input": inputs})[0], windows)     # float32 (N,)
alarms = rule.alarms(scores)                                                             # bool (N,)
```

Windows are float32 of shape (N, `ScoreRule.rows`, C), in the sensors' own units. This module uses NumPy only.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Self, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from federation.documents import read_json
from federation.errors import TaskError
from federation.readings.windows import WindowSpec
from federation.tasks.sensors.plan import Kind, Points

__all__ = [
    "BINS",
    "SHARES",
    "Model",
    "Scaler",
    "ScoreRule",
    "point_scores",
    "quantile_of_shares",
    "shares_of",
]

F32 = NDArray[np.float32]
Model = Callable[[F32], NDArray[Any]]
"""What a model answers to inputs, float32 of shape (n, length, columns); the first axis of both is the same."""

BATCH: Final = 256
"""Windows that are asked at once: it bounds the memory."""

BINS: Final = 256
SHARES: Final = "score_shares"
"""Buffer of a model that carries the fleet's histogram of scores, float32 (BINS,); see `shares_of`."""

_LEAST, _GREATEST = 1e-3, 1e3
"""Scores of scaled readings lie between these; neighbouring bins differ by 5.6 %."""

SCALER_BYTES_MAX: Final = 1 << 20

SCALED_MAX, UNSCALED_MAX = 1e6, 1e30
"""What is further from the mean counts as so far, in deviations, or in the sensor's units where nothing is scaled:
float32 has room for what a model makes of it, and the score of a sensor that says 1e38 is a number, and an alarm."""


@dataclass(frozen=True, slots=True)
class Scaler:
    """Mean and standard deviation of each column.

    Attributes:
        mean: In the columns' units and order.
        std: Above 0; 1 for a column that does not vary.
        source: ``own``, ``none``, or the SHA-256 of the file that it came from, in hex.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str = "own"

    def __post_init__(self) -> None:
        """Refuse what would make windows of other numbers than were meant.

        Raises:
            TaskError: It is no scaler.
        """
        sound = len(self.mean) == len(self.std) and all(map(math.isfinite, (*self.mean, *self.std)))
        if not sound or min(self.std, default=1.0) <= 0:
            raise TaskError(f"a scaler needs as many finite means as deviations above 0, not {self.mean}, {self.std}")

    @classmethod
    def of(cls, rows: NDArray[Any]) -> Self:
        """Of rows, float (n, columns); NaN is left out. A column that does not vary keeps its unit."""
        rows = np.asarray(rows, np.float64)
        known = np.isfinite(rows)
        count = np.maximum(known.sum(axis=0), 1)
        mean = np.where(known, rows, 0).sum(axis=0) / count
        std = np.sqrt((np.where(known, rows - mean, 0) ** 2).sum(axis=0) / count)
        std = np.where(std > 1e-6 * np.maximum(1.0, np.abs(mean)), std, 1.0)
        return cls(tuple(mean.tolist()), tuple(std.tolist()))

    @classmethod
    def none(cls, columns: int) -> Self:
        """One that changes nothing."""
        return cls((0.0,) * columns, (1.0,) * columns, "none")

    @classmethod
    def read(cls, path: Path, columns: tuple[str, ...], digest: str = "") -> Self:
        """A file of federated statistics: ``{"columns": {"Pressure": {"mean": 1.2, "std": 0.3}, …}}``.

        Args:
            path: The file.
            columns: Which columns, in which order.
            digest: The begin of the file's SHA-256 in hex; empty takes any.

        Raises:
            TaskError: It cannot be read, is another file, or lacks a column.
        """
        try:
            if path.stat().st_size > SCALER_BYTES_MAX:
                raise TaskError(f"the scaler {path} has more than {SCALER_BYTES_MAX:,} bytes")
            content = path.read_bytes()
            found = read_json(content)["columns"]
            pairs = [(float(found[name]["mean"]), float(found[name]["std"])) for name in columns]
        except KeyError as error:
            raise TaskError(f"the scaler {path} has no {error}: every column needs a mean and a std") from None
        except (OSError, ValueError, TypeError) as error:
            raise TaskError(f"the scaler {path} cannot be read: {error}") from error
        real = sha256(content).hexdigest()
        if not real.startswith(digest):
            raise TaskError(f"the scaler {path} has the digest {real[:16]}, and scaler_digest is {digest[:16]}")
        mean, std = zip(*pairs, strict=True)
        return cls(mean, tuple(each or 1.0 for each in std), real)

    def scaled(self, values: ArrayLike) -> F32:
        """Values, float (..., columns), in deviations from the mean, float32, at most `SCALED_MAX`; NaN stays."""
        mean, std = np.array(self.mean), np.array(self.std)
        most = UNSCALED_MAX if self.source == "none" else SCALED_MAX
        return np.asarray(((np.asarray(values, np.float64) - mean) / std).clip(-most, most), np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRule:
    """From windows and a model to scores and alarms.

    Attributes:
        kind: What the model answers: the window again, the next rows, scores of classes, or the rows that are left.
        window: Columns, rows, stride, period and gaps of a window as the model takes it.
        scaler: Makes inputs of readings.
        horizon: Rows after the model's window that a window needs, to be compared with a forecast; else 0.
        threshold: From where on a score is an alarm; None where nobody has set one.
        above: Whether an alarm is a score above the threshold; else below.
        points: How scores of windows become scores of points.
        classes: Names of the classes; empty where there are none.
        threshold_from: Where the threshold comes from, for people.
    """

    kind: Kind
    window: WindowSpec
    scaler: Scaler
    horizon: int = 0
    threshold: float | None = None
    above: bool = True
    points: Points = "all"
    classes: tuple[str, ...] = field(default=())
    threshold_from: str = ""

    @property
    def rows(self) -> int:
        """Rows that a window must have to be scored."""
        return self.window.length + self.horizon

    def inputs(self, windows: ArrayLike) -> F32:
        """What the model takes of windows: scaled, float32 of shape (n, length, columns).

        Raises:
            TaskError: They have another shape.
        """
        found = np.asarray(windows)
        if found.ndim != 3 or found.shape[1:] != (self.rows, len(self.window.columns)):
            raise TaskError(f"windows are (n, {self.rows}, {len(self.window.columns)}), not {found.shape}")
        return self.scaler.scaled(found[:, : self.window.length])

    def scores_of(self, outputs: NDArray[Any], windows: ArrayLike) -> F32:
        """The scores of windows to which a model has answered, float32 of shape (n,).

        A reconstruction's or a forecast's is the mean distance over rows and columns, in deviations; a class's the
        probability of the likeliest one; else the rows that are left.
        """
        outputs = np.asarray(outputs, np.float32)
        match self.kind:
            case Kind.RECONSTRUCTION:
                return _distance(outputs, self.inputs(windows))
            case Kind.FORECAST:
                return _distance(outputs, self.scaler.scaled(np.asarray(windows)[:, self.window.length :]))
            case Kind.CLASS:
                powers = np.exp(outputs - outputs.max(axis=1, keepdims=True))
                return np.asarray((powers / powers.sum(axis=1, keepdims=True)).max(axis=1), np.float32)
            case Kind.REMAINING:
                return outputs.reshape(len(outputs)).astype(np.float32)

    def score(self, model: Model, windows: ArrayLike) -> F32:
        """Ask the model, some windows at once.

        Returns:
            float32 of shape (n,).

        Raises:
            TaskError: The windows have another shape.
        """
        found = np.asarray(windows)
        parts = [found[start : start + BATCH] for start in range(0, len(found), BATCH)]
        scores = [self.scores_of(model(self.inputs(part)), part) for part in parts]
        return np.concatenate(scores) if scores else np.empty(0, np.float32)

    def answers(self, outputs: NDArray[Any]) -> NDArray[np.int64]:
        """The number of the likeliest class of each window, int64 of shape (n,)."""
        return np.asarray(np.argmax(outputs, axis=1), np.int64)

    def alarms(self, scores: ArrayLike) -> NDArray[np.bool]:
        """Which scores, of windows or of points, are alarms; NaN is none, and nothing is without a threshold."""
        found = np.asarray(scores)
        if self.threshold is None:
            return np.zeros(found.shape, bool)
        return np.asarray(found > self.threshold if self.above else found < self.threshold)

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``model.json``."""
        said = asdict(self) | {"kind": self.kind.value}
        plain: dict[str, Any] = read_json(json.dumps(said))
        return plain

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Self:
        """What `to_json` made; what a newer release has added is passed over.

        Raises:
            TaskError: It is something else.
        """
        try:
            window, scaler, threshold = said["window"], said["scaler"], said["threshold"]
            spec = {name: window[name] for name in ("length", "stride", "period_s", "gap", "gap_max_s")}
            return cls(
                kind=Kind(said["kind"]),
                window=WindowSpec(columns=tuple(map(str, window["columns"])), **spec),
                scaler=Scaler(
                    tuple(map(float, scaler["mean"])), tuple(map(float, scaler["std"])), str(scaler["source"])
                ),
                horizon=int(said["horizon"]),
                threshold=None if threshold is None else float(threshold),
                above=bool(said["above"]),
                points=_points(said["points"]),
                classes=tuple(map(str, said["classes"])),
                threshold_from=str(said["threshold_from"]),
            )
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise TaskError(f"the score rule cannot be read: {type(error).__name__}: {error}") from error


def point_scores(
    scores: ArrayLike, starts: ArrayLike, length: int, rows: int, points: Points = "all", *, stride: int = 1
) -> F32:
    """Scores of points from scores of the windows over them.

    Args:
        scores: Of windows, float (n,).
        starts: The first row of each window, each once, int (n,).
        length: Rows of a window.
        rows: How many points there are.
        points: ``all``: the least score of the windows over a point, which is above a threshold where all of them are,
            and NaN where not all are there that go over a point in the midst, as near the first and the last row;
            ``any``: the greatest; ``mean``; ``last``: that of the window that ends with the point, all that a device
            knows when the reading comes.
        stride: Rows between the starts of two windows.

    Returns:
        float32 (rows,); NaN where no window is.
    """
    found, first = np.asarray(scores, np.float32), np.asarray(starts, np.int64)
    made = np.full(rows, np.nan, np.float32)
    if points == "last":
        made[first + length - 1] = found
        return made
    total, count = np.zeros(rows), np.zeros(rows, np.int64)
    take = np.fmin if points == "all" else np.fmax
    for offset in range(length):
        place = first + offset
        made[place] = take(made[place], found)
        total[place] += found
        count[place] += 1
    if points == "mean":
        return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)
    return np.where(count >= max(1, length // stride), made, np.nan) if points == "all" else made


def shares_of(scores: ArrayLike) -> F32:
    """The share of the scores in each of `BINS` bins, of equal width in the logarithm, float32 (BINS,).

    The mean of these over nodes, weighed by how many scores each has, is that of all scores together: so an average of
    models that carry it says the quantiles of the whole fleet.
    """
    found = np.clip(np.asarray(scores, np.float64), _LEAST, _GREATEST)
    place = np.log(found / _LEAST) / np.log(_GREATEST / _LEAST) * BINS
    counts = np.bincount(np.minimum(place.astype(np.int64), BINS - 1), minlength=BINS)
    return np.asarray(counts / max(1, counts.sum()), np.float32)


def quantile_of_shares(shares: ArrayLike, quantile: float) -> float | None:
    """A quantile of what `shares_of` made; within a bin the logarithm is taken to rise evenly.

    None where they say nothing: before the first round. What is negative or no number counts as nothing, since it came
    over the network.
    """
    found = np.nan_to_num(np.asarray(shares, np.float64).clip(min=0), nan=0.0, posinf=0.0)
    total = found.sum()
    if found.shape != (BINS,) or not total > 0:
        return None
    upto = np.cumsum(found)
    wanted = quantile * total * (1 - 1e-6)  # what rounding has added to a sum is no score
    index = int(np.searchsorted(upto, wanted))
    place = index + 1 - (upto[index] - wanted) / found[index]
    return float(_LEAST * (_GREATEST / _LEAST) ** (place / BINS))


def _distance(one: NDArray[np.float32], other: F32) -> F32:
    if one.shape != other.shape:
        raise TaskError(f"the model answers {one.shape}, and {other.shape} is compared with it")
    return np.asarray(np.abs(one - other).mean(axis=(1, 2)), np.float32)


def _points(text: str) -> Points:
    found: Points | None = next((each for each in get_args(Points) if each == text), None)
    if found is None:
        raise ValueError(f"no rule for points is called {text!r}")
    return found
