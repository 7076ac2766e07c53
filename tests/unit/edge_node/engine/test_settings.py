"""What a node agrees to (FED-34)."""

from dataclasses import replace

import pytest

from edge_node.engine.settings import NodeSettings, TrainBounds, objection
from federation.privacy.terms import helpers_digest
from federation.protocol.messages import TrainSettings
from federation.protocol.sum_messages import PrivacyTerms
from federation.types import Digest, HelperId
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


HELPER_KEYS = {HelperId("alder"): b"a" * 32, HelperId("birch"): b"b" * 32}
MASKING_NODE = NodeSettings(node=NODE, task="toy", helpers=HELPER_KEYS)
TERMS = PrivacyTerms(
    scheme=1,
    helpers=helpers_digest(list(HELPER_KEYS.values()), 2),
    count=2,
    threshold=2,
    dimension=10,
    tail=5,
    step=0.01,
    levels=1,
    members=8,
    bits=5,
)


def test_a_node_masks_only_for_the_helpers_that_it_has_pinned() -> None:
    """FED-156."""
    assert objection(announcement(1, codec="masked", privacy=TERMS), MASKING_NODE) is None


@pytest.mark.parametrize(
    ("settings", "codec", "terms", "reason"),
    [
        (MASKING_NODE, "edge", None, "not masked"),
        (NodeSettings(node=NODE, task="toy"), "masked", TERMS, "none is pinned"),
        (replace(MASKING_NODE, helpers={HelperId("oak"): b"o" * 32}), "masked", TERMS, "not those that are pinned"),
        (MASKING_NODE, "masked", replace(TERMS, threshold=1), "not safe"),
        (MASKING_NODE, "masked", replace(TERMS, helpers=Digest(b"x" * 16)), "not those that are pinned"),
        (MASKING_NODE, "masked", replace(TERMS, scheme=2), "scheme 2"),
        (MASKING_NODE, "masked", None, "do not go together"),
        (MASKING_NODE, "edge", TERMS, "do not go together"),
    ],
)
def test_a_node_declines_what_would_not_be_hidden_as_it_wants(
    settings: NodeSettings, codec: str, terms: PrivacyTerms | None, reason: str
) -> None:
    """FED-156: a coordinator can neither switch masks off nor name other helpers."""
    found = objection(announcement(1, codec=codec, privacy=terms), settings)
    assert found is not None
    assert found.startswith("helpers: ")
    assert reason in found
