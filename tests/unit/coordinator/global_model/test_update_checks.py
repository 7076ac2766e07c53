"""A frame is validated once, and only the very same bytes are taken for it again."""

from typing import Any

import pytest

from coordinator.global_model import update_checks
from coordinator.global_model.update_checks import Inspections
from tests.rigs.model_values import MANIFEST, arrived, update
from update_codec import FrameError, FrameInfo, inspect


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
