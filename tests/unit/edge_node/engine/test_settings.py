"""What a node agrees to (FED-34)."""

import pytest

from edge_node.engine.settings import NodeSettings, TrainBounds, objection
from federation.protocol.messages import TrainSettings
from tests.rigs.node_rig import NODE, announcement

BOUNDS = TrainBounds(local_epochs_max=5, batch_size_max=64, learning_rate_max=0.5)
SETTINGS = NodeSettings(node=NODE, task="toy", codecs=("lossless", "edge"), bounds=BOUNDS)


def test_settings_at_the_bounds_are_obeyed() -> None:
    """FED-34."""
    most = TrainSettings(local_epochs=5, batch_size=64, learning_rate=0.5)
    assert objection(announcement(1, settings=most), SETTINGS) is None


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (TrainSettings(local_epochs=6), "local_epochs 6 is above 5"),
        (TrainSettings(batch_size=65), "batch_size 65 is above 64"),
        (TrainSettings(learning_rate=0.6), "learning_rate 0.6 is above 0.5"),
        (TrainSettings(learning_rate=-0.6), "learning_rate 0.6 is above 0.5"),
    ],
)
def test_settings_beyond_a_bound_are_declined_with_the_number(asked: TrainSettings, reason: str) -> None:
    """FED-34."""
    assert objection(announcement(1, settings=asked), SETTINGS) == reason


@pytest.mark.parametrize(("steps", "fits"), [(0, False), (1, True), (10, True), (11, False)])
def test_a_bound_on_steps_asks_for_an_announcement_that_limits_them(steps: int, fits: bool) -> None:
    settings = NodeSettings(node=NODE, task="toy", bounds=TrainBounds(max_steps=10))
    reason = objection(announcement(1, settings=TrainSettings(max_steps=steps)), settings)
    assert (reason is None) == fits


@pytest.mark.parametrize(
    ("here", "there", "same"),
    [("toy", "toy", True), ("toy", "digits", False), ("/home/a/my.py:build", "/srv/my.py:build", True)],
)
def test_tasks_are_compared_without_their_folders(here: str, there: str, same: bool) -> None:
    reason = objection(announcement(1, task=there), NodeSettings(node=NODE, task=here))
    assert (reason is None) == same


@pytest.mark.parametrize(
    ("codec", "reason"),
    [("edge", None), ("deadzone(bpp=0.35,feedback=1)", None), ("fine", "codec fine"), ("zip", "codec zip")],
)
def test_only_listed_codecs_are_agreed_to_whatever_their_spelling(codec: str, reason: str | None) -> None:
    assert objection(announcement(1, codec=codec), SETTINGS) == reason


def test_an_empty_list_of_codecs_agrees_to_every_codec_that_exists() -> None:
    anything = NodeSettings(node=NODE, task="toy")
    assert objection(announcement(1, codec="extreme"), anything) is None
    assert objection(announcement(1, codec="zip"), anything) == "codec zip"
