"""Scores of what arrives, whatever arrives: a broken sensor is an alarm, and a clock that was wrong ends nothing."""

from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_node.model.saying import PAUSES_KEPT, SILENT_PAUSES, SILENT_S_MIN, Silence
from edge_node.model.service import Loaded, Scorer
from federation.errors import TaskError
from federation.readings.windows import WindowSpec
from federation.tasks.sensors.plan import Kind
from federation.tasks.sensors.rules import Scaler, ScoreRule

Row = list[tuple[float, str, float]]
RULE = ScoreRule(
    kind=Kind.RECONSTRUCTION,
    window=WindowSpec(("heat", "flow"), 2),
    scaler=Scaler((20.0, 3.0), (1.0, 0.1)),
    threshold=1.0,
)
NOW = 1_000.0


def scorer(answer: float = 0.0) -> Scorer:
    """With a model that answers the same to all."""

    def ask(inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.full_like(inputs, answer)

    made = Scorer()
    made.use(Loaded(SimpleNamespace(ask=ask, notes=None), RULE, 1))  # type: ignore[arg-type]  # all that is asked of it
    return made


def row(time: float, heat: float = 20.0, flow: float = 3.0) -> Row:
    return [(time, "heat", heat), (time, "flow", flow)]


@pytest.mark.parametrize("value", [1e38, -1e38, 3.4e38, 1e30, -1e7])
def test_a_sensor_that_says_the_impossible_is_an_alarm_with_a_number(value: float) -> None:
    one = scorer()
    one.scores(row(NOW))
    ((said, _),) = one.scores(row(NOW + 1, flow=value))
    assert np.isfinite(said.score)
    assert said.anomaly
    one.scores(row(NOW + 2))
    ((later, _),) = one.scores(row(NOW + 3))
    assert (later.score, later.anomaly) == (0.0, False)


def test_a_model_that_answers_no_number_is_told_and_never_said_to_be_well() -> None:
    one = scorer(float("nan"))
    one.scores(row(NOW))
    with pytest.raises(TaskError, match="no number"):
        one.scores(row(NOW + 1))
    assert one.failed == 1


def test_rows_of_a_clock_that_was_ahead_keep_nothing_from_being_scored() -> None:
    """All that came afterwards was too late, until that time had come: years, of a clock that was set wrong."""
    one = scorer()
    one.scores([*row(NOW + 1e8), *row(NOW + 1e8 + 1)])
    assert one.scores([*row(NOW), *row(NOW + 1)]) == []
    assert one.behind(NOW + 60)
    assert not one.behind(NOW + 60)
    found = one.scores([*row(NOW + 2), *row(NOW + 3)])
    assert [said.time for said, _ in found] == [NOW + 3]


def test_a_sensor_whose_clock_is_behind_is_named_and_counts_in_later_rows() -> None:
    """Each of its readings came after its row, and was left out: its first value stood in all scores, silently."""
    one = scorer()
    for second in range(50):
        found = one.scores([(NOW + second + 5, "heat", 20.0), (NOW + second, "flow", 3.0 if second < 45 else 9.0)])
    assert one.late == (49, "flow", 5.0)
    assert [said.score > 1 for said, _ in found] == [True]


def test_a_scorer_without_a_model_is_behind_nothing() -> None:
    assert not Scorer().behind(NOW)


def test_scores_that_stop_are_told_once_and_once_more_when_they_go_on() -> None:
    silence = Silence()
    assert not silence.begin(1e9), "nothing was scored yet"
    for second in range(PAUSES_KEPT):
        assert not silence.end(float(second))
        assert not silence.begin(float(second))
    last = PAUSES_KEPT - 1.0
    assert not silence.begin(last + SILENT_S_MIN - 0.1)
    assert [silence.begin(last + SILENT_S_MIN), silence.begin(last + 1e6)] == [True, False]
    assert [silence.end(last + 2e6), silence.end(last + 2e6 + 1)] == [True, False]
    assert not silence.begin(last + 2e6 + SILENT_S_MIN), "the silence itself is no pause"


def test_a_sensor_that_speaks_seldom_may_be_silent_for_longer() -> None:
    silence, pause_s = Silence(), 600.0
    for number in range(5):
        silence.end(number * pause_s)
    assert not silence.begin(4 * pause_s + SILENT_PAUSES * pause_s - 1)
    assert silence.begin(4 * pause_s + SILENT_PAUSES * pause_s)
