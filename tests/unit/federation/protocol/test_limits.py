"""What a user's task says is cut to what a message can carry."""

import math

from hypothesis import given
from hypothesis import strategies as st

from federation.protocol.limits import METRICS_MAX, REASON_BYTES_MAX, fit_metrics, fit_text
from federation.protocol.messages import Activity, Decline, Progress
from federation.protocol.wire import decode_message, encode_message
from federation.types import RoundId, RunId

ANY_TEXT = st.text(st.characters(), max_size=300)


@given(ANY_TEXT)
def test_fitted_text_can_always_be_said(text: str) -> None:
    decline = Decline(run=RunId("0" * 16), round=RoundId(1), reason=fit_text(text))
    assert decode_message(encode_message(decline)) == decline


@given(st.dictionaries(ANY_TEXT, st.floats() | st.integers(-9, 9), max_size=40))
def test_fitted_metrics_can_always_be_said(metrics: dict[str, float]) -> None:
    progress = Progress(round=RoundId(1), activity=Activity.IDLE, metrics=fit_metrics(metrics))
    assert decode_message(encode_message(progress)) == progress


def test_text_is_cut_at_a_whole_character() -> None:
    assert fit_text("é" * REASON_BYTES_MAX) == "é" * (REASON_BYTES_MAX // 2)


def test_what_is_not_printable_becomes_a_space() -> None:
    assert fit_text("a\nb\x1b") == "a b "


def test_numbers_that_are_not_finite_are_dropped_and_the_rest_is_kept_in_order() -> None:
    assert fit_metrics({"loss": math.nan, "accuracy": 1, "": 1.0}) == {"accuracy": 1.0}
    assert fit_metrics({"text": "x", "none": None, "huge": 10**400, "count": 3}) == {"count": 3.0}  # type: ignore[dict-item]
    many = {f"m{index}": 0.0 for index in range(METRICS_MAX + 5)}
    assert list(fit_metrics(many)) == list(many)[:METRICS_MAX]
