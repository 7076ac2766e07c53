"""``privacy.groups``: masks and a robust rule together, and what they need."""

import pytest

from coordinator.config.sections import CoordinatorConfig, read_config
from coordinator.config.settings import committer_settings, engine_settings
from coordinator.strategies.robust.coordinate_wise import CoordinateMedian
from federation.errors import ConfigError

BASE: dict[str, object] = {
    "federation.id": "f",
    "broker.url": "mqtt://h:1883",
    "task.name": "digits",
    "round.concurrency": 41,
    "privacy.masked": True,
    "privacy.helpers": ["one=" + "61" * 32, "two=" + "62" * 32],
    "privacy.groups": 5,
    "strategy.robust": "median",
}


def config(**given: object) -> CoordinatorConfig:
    return read_config(None, BASE | {key.replace("__", "."): value for key, value in given.items()}, environ={})


def test_groups_have_terms_of_their_size_and_a_quorum_for_all() -> None:
    made = config()
    engine, masked = engine_settings(made), committer_settings(made).masked
    assert engine.masking is not None
    assert (engine.masking.groups, engine.quorum) == (5, 40)
    assert masked is not None
    assert masked.members == 9
    assert isinstance(committer_settings(made).limits.rule, CoordinateMedian)


@pytest.mark.parametrize(
    ("key", "given"),
    [
        ("round.buffer", {"round__concurrency": 39}),
        ("round.quorum", {"round__quorum": 39}),
        ("privacy.groups", {"strategy__robust": "none"}),
        ("privacy.groups", {"privacy__groups": 2}),
        ("strategy.robust", {"strategy__robust": "krum"}),
        ("strategy.robust", {"privacy__groups": 1}),
        ("privacy.groups", {"privacy__unit": "nodes", "privacy__clip": 1.0, "round__versions": 10}),
        ("privacy", {"privacy__masked": False, "privacy__helpers": []}),
    ],
)
def test_what_does_not_go_together_is_refused(key: str, given: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as refused:
        engine_settings(config(**given))
    assert refused.value.key == key
