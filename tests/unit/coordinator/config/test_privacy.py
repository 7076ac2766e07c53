"""``[privacy]``: what it asks of nodes, what it needs, and what it excludes."""

import pytest

from coordinator.config.sections import CoordinatorConfig, read_config
from coordinator.config.settings import engine_settings
from federation.errors import ConfigError
from federation.privacy.budget import epsilon_of, turn_of
from federation.types import ExamplePrivacy, SampledSteps

BASE: dict[str, object] = {
    "federation.id": "f",
    "broker.url": "mqtt://h:1883",
    "task.name": "mnist-mlp",
    "round.versions": 20,
    "train.batch_size": 60,
    "train.local_epochs": 1,
    "train.max_steps": 5,
    "privacy.unit": "examples",
    "privacy.sampling_rate": 0.1,
}


def config(**given: object) -> CoordinatorConfig:
    return read_config(None, BASE | {key.replace("__", "."): value for key, value in given.items()}, environ={})


def test_a_given_noise_is_what_nodes_are_asked_for() -> None:
    asked = engine_settings(config(privacy__noise=2.0, privacy__epsilon=3.0, privacy__row_clip=0.5))
    expected = ExamplePrivacy(clip=0.5, noise=2.0, sampling_rate=0.1, epsilon=3.0, delta=1e-5)
    assert asked.train.privacy == expected
    assert asked.needs == {"private_examples": 1.0}


def test_without_a_noise_it_is_the_least_that_all_versions_fit_in() -> None:
    settings = engine_settings(config(privacy__epsilon=2.0)).train
    assert settings.privacy is not None
    assert turn_of(settings, settings.privacy).steps == 5
    spent = [SampledSteps(sampling_rate=0.1, noise=settings.privacy.noise, steps=100)]
    assert 1.99 < epsilon_of(spent, 1e-5) <= 2.0


def test_without_a_unit_nothing_changes() -> None:
    plain = {key: value for key, value in BASE.items() if not key.startswith("privacy.")}
    asked = engine_settings(read_config(None, plain, environ={}))
    assert (asked.train.privacy, asked.needs) == (None, {})


@pytest.mark.parametrize(
    ("key", "given"),
    [
        ("privacy.sampling_rate", {"privacy__sampling_rate": None, "privacy__noise": 1.0}),
        ("privacy.noise", {"round__versions": 0}),
        ("privacy.epsilon", {"privacy__noise": 0.2, "privacy__epsilon": 0.5}),
        ("train.batch_size", {"train__batch_size": 0, "privacy__noise": 1.0}),
        ("strategy.name", {"strategy__name": "scaffold", "strategy__nodes": 20, "privacy__noise": 1.0}),
        ("evaluation.nodes_every", {"evaluation__nodes_every": 1, "privacy__noise": 1.0}),
        ("train.optimizer_state", {"train__optimizer_state": "kept", "privacy__noise": 1.0}),
        ("train.mixed_precision", {"train__mixed_precision": "bfloat16", "privacy__noise": 1.0}),
    ],
)
def test_what_does_not_go_together_is_refused(key: str, given: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as refused:
        engine_settings(config(**given))
    assert refused.value.key == key
