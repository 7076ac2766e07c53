"""What a sensor task is told: columns, window, model, and how a score is made; the first two have no default."""

import difflib
import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from federation.errors import ConfigError
from federation.readings.windows import GAP_MAX_S, WindowSpec

__all__ = ["Kind", "Points", "SensorPlan", "read_plan"]

HOLDOUT = 0.2
"""Share of a device's readings, the last ones, that tests the model on it where the task needs no whole life."""

NORMAL_QUANTILE = 0.99
"""One window of a hundred of normal running alarms."""

Points = Literal["all", "any", "mean", "last"]
"""How scores of windows become that of a point; see `rules.point_scores`."""


class Kind(StrEnum):
    """What a task learns of a window."""

    RECONSTRUCTION = "reconstruction"
    FORECAST = "forecast"
    CLASS = "class"
    REMAINING = "remaining"


def _as_list(value: Any) -> Any:
    """A list; in a task's name it is a text with commas."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_as_list)]
Rows = Annotated[int, Field(ge=1, le=1_000_000)]
Share = Annotated[float, Field(ge=0, lt=1)]


class SensorPlan(BaseModel):
    """The arguments of the tasks ``sensors/…``.

    Attributes:
        columns: The sensors, in the order of the model's inputs.
        window: Rows of one window.
        model: ``dense``, ``conv`` or ``gru``.
        width: Width of the model's widest layer.
        stride: Rows between the starts of two windows that train.
        horizon: Rows that a forecaster tells ahead.
        target: The column with the class, or with the rows that are left; the latter need not be there in data that
            ends with the failure.
        classes: What the target can say, in one order on every device.
        cap: More rows than this are not told apart by ``sensors/remaining-life``.
        time: The column with the time, in seconds or as ``2020-03-09 10:14:33``; tables need it for ``period_s``.
        period_s: Seconds of one row; nothing takes rows as they come.
        gap: What becomes of a missing value: ``hold``, ``linear`` or ``drop``; without ``period_s`` it is ``drop``.
        gap_max_s: The longest gap that is filled, in seconds.
        rows: Train on the first rows of each file only, as long as a machine was known to be well; 0 is all.
        holdout: Share of the rows, the last ones, that tests the model on the device and does not train it. Whole files
            where a file is a life. Nothing is 0.2 for ``autoencoder`` and ``forecaster``, else 0.
        scaler: ``own`` (mean and deviation of the device's own training rows), ``none``, or a JSON file in the data
            folder that federated statistics have made.
        scaler_digest: What that file must be: the begin of its SHA-256, in hex, at least 16 digits.
        threshold: ``own`` (a quantile of the device's own training scores), ``federated`` (of all nodes'), or a number.
        quantile: Which quantile.
        factor: The threshold is so many times the quantile.
        points: How scores of windows become scores of points.
        sep: What separates cells; nothing finds it out.
        decimal: The decimal mark.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    columns: Annotated[Names, Field(min_length=1)]
    window: Annotated[int, Field(ge=2, le=10_000)]
    model: Literal["dense", "conv", "gru"] = "conv"
    width: Annotated[int, Field(ge=2, le=1024)] = 32
    stride: Rows = 1
    horizon: Annotated[int, Field(ge=1, le=1000)] = 1
    target: str = ""
    classes: Names = ()
    cap: Annotated[float, Field(gt=0)] = 125.0
    time: str = ""
    period_s: Annotated[float, Field(gt=0)] | None = None
    gap: Literal["hold", "linear", "drop"] = "hold"
    gap_max_s: Annotated[float, Field(gt=0)] = GAP_MAX_S
    rows: Annotated[int, Field(ge=0)] = 0
    holdout: Share | None = None
    scaler: str = "own"
    scaler_digest: Annotated[str, Field(pattern=r"^([0-9a-f]{16,64})?$")] = ""
    threshold: Literal["own", "federated"] | float = "own"
    quantile: Annotated[float, Field(gt=0, le=1)] = NORMAL_QUANTILE
    factor: Annotated[float, Field(gt=0)] = 1.0
    points: Points = "all"
    sep: Annotated[str, Field(max_length=1)] = ""
    decimal: Literal[".", ","] = "."

    @model_validator(mode="after")
    def _fits_together(self) -> "SensorPlan":
        for what, names in (("columns", self.columns), ("classes", self.classes)):
            if len(set(names)) != len(names) or not all(names):
                raise ValueError(f"{what} must be names, each once")
        if self.target in self.columns:
            raise ValueError(f"{self.target!r} cannot be a column and the target: a model would only copy it")
        if isinstance(self.threshold, float) and not math.isfinite(self.threshold):
            raise ValueError("threshold must be finite")
        return self

    @property
    def spec(self) -> WindowSpec:
        """How readings become the windows of the model."""
        return WindowSpec(self.columns, self.window, self.stride, self.period_s, self.gap, self.gap_max_s)

    def held_out(self, kind: Kind) -> float:
        """The share that tests on the device."""
        if self.holdout is not None:
            return self.holdout
        return HOLDOUT if kind in {Kind.RECONSTRUCTION, Kind.FORECAST} else 0.0


def read_plan(arguments: Mapping[str, Any], kind: Kind) -> SensorPlan:
    """Check what a sensor task is told.

    Raises:
        ConfigError: It names the argument, and what is right.
    """
    try:
        plan = SensorPlan.model_validate(dict(arguments))
    except ValidationError as error:
        raise _explained(error) from None
    if kind is Kind.CLASS and (len(plan.classes) < 2 or not plan.target):
        problem = 'needs the column with the class and what it can say: target = "state", classes = ["ok", "worn"]'
        raise ConfigError("task.arguments.target", f"sensors/classifier {problem}")
    if kind in {Kind.CLASS, Kind.REMAINING} and isinstance(plan.threshold, str) and "threshold" in arguments:
        problem = f"is for autoencoder and forecaster; this task takes a number, not {plan.threshold!r}"
        raise ConfigError("task.arguments.threshold", problem)
    return plan


def _explained(error: ValidationError) -> ConfigError:
    """The first thing that is wrong; an unknown name first, since it is what a missing one was called by mistake."""
    details = sorted(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    place, kind = [str(each) for each in details[0]["loc"]], details[0]["type"]
    key = ".".join(["task.arguments", *place[:1]])
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(place[0], SensorPlan.model_fields, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else f": there are {', '.join(SensorPlan.model_fields)}"
        return ConfigError(key, f"there is no such argument{hint}")
    if kind == "missing":
        example = "columns" if place[0] == "columns" else "window"
        return ConfigError(key, f"a sensor task needs it, such as {_EXAMPLES[example]}")
    problem = str(details[0]["msg"]).removeprefix("Value error, ")
    return ConfigError(key, problem if details[0]["loc"] else f"do not fit together: {problem}")


_EXAMPLES = {"columns": 'columns = ["Pressure", "Current"]', "window": "window = 60"}
