"""A frame is validated once, and only the very same bytes are taken for it again."""

from typing import Any

import pytest

from coordinator.global_model import update_checks
from coordinator.global_model.update_checks import Inspections, check_update
from federation.protocol.messages import Reason
from tests.rigs.model_values import MANIFEST, arrived, update
from update_codec import FrameError, FrameInfo, Vectors, inspect


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The frames that were really validated."""
    frames: list[bytes] = []

    def counting(frame: bytes, *rest: Any, **named: Any) -> FrameInfo:
        frames.append(frame)
        return inspect(frame, *rest, **named)

    monkeypatch.setattr(update_checks, "inspect", counting)
    return frames


def test_a_frame_is_validated_once(looked_at: list[bytes]) -> None:
    examine, frame = Inspections(MANIFEST), arrived("a", update(1.0)).payload
    assert examine(frame) == examine(bytes(frame)) == inspect(frame, MANIFEST)
    assert looked_at == [frame]


def test_the_newest_small_updates_are_remembered_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update_checks, "KEPT_BYTES_MAX", 2 * MANIFEST.fp32_bytes)
    examine = Inspections(MANIFEST)
    frames = [arrived("a", update(float(value))).payload for value in (1, 2, 3)]
    for frame in frames:
        assert examine(frame).values is not None
    assert [examine(frame).values is not None for frame in frames] == [False, True, True]


def test_updates_of_large_models_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update_checks, "KEPT_MODEL_BYTES_MAX", MANIFEST.fp32_bytes - 1)
    assert Inspections(MANIFEST)(arrived("a", update(1.0)).payload).values is None


def test_other_bytes_under_a_known_frame_s_digest_are_refused() -> None:
    examine, frame = Inspections(MANIFEST), arrived("a", update(1.0)).payload
    examine(frame)
    forged = frame[:60] + bytes([frame[60] ^ 1]) + frame[61:]
    with pytest.raises(FrameError):
        examine(forged)


def test_what_is_remembered_is_bounded(looked_at: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update_checks, "INSPECTIONS_MAX", 2)
    examine = Inspections(MANIFEST)
    frames = [arrived("a", update(float(value))).payload for value in (1, 2, 3)]
    for frame in [*frames, frames[0], frames[2]]:
        examine(frame)
    assert looked_at == [*frames, frames[0]]


@pytest.mark.parametrize(
    ("vectors", "what"),
    [
        (update(0.0, statistics=2.0**24 * 1.01), "statistic"),
        (update(0.0, statistics=-(2.0**24) * 1.01), "statistic"),
        (update(0.0, counters=(2**63 - 1, 0)), "counter"),
        (update(0.0, counters=(0, -(2**63))), "counter"),
    ],
)
def test_statistics_and_counters_have_bounds_as_parameters_have(vectors: Vectors, what: str) -> None:
    sent = arrived("a", vectors)
    refusal = check_update(sent.record, sent.payload, Inspections(MANIFEST), 1e5)
    assert refusal is not None
    assert refusal[0] is Reason.NORM
    assert what in refusal[1]


def test_honest_statistics_and_counters_pass() -> None:
    sent = arrived("a", update(1.0, statistics=1e7, counters=(10**9, -100)))
    assert check_update(sent.record, sent.payload, Inspections(MANIFEST), 1e5) is None
