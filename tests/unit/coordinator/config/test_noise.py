"""``privacy.unit = "nodes"``: how much noise helpers are told to add, and what does not go with it."""

import math

import pytest

from coordinator.config.combinations import round_size
from coordinator.config.noise import nodes_noise
from coordinator.config.sections import CoordinatorConfig, read_config
from coordinator.config.settings import committer_settings, engine_settings
from coordinator.engine.settings import ReleaseBudget
from coordinator.global_model.masked import NodesNoise
from federation.errors import ConfigError
from federation.privacy.accountant import gaussian_epsilon
from federation.privacy.sum_noise import correlated_mu

BASE: dict[str, object] = {
    "federation.id": "f",
    "broker.url": "mqtt://h:1883",
    "task.name": "digits",
    "round.versions": 100,
    "round.concurrency": 10,
    "privacy.masked": True,
    "privacy.helpers": ["one=" + "61" * 32, "two=" + "62" * 32],
    "privacy.unit": "nodes",
    "privacy.clip": 2.0,
    "privacy.epsilon": 8.0,
}
CORRELATED = {"privacy__bandwidth": 8, "privacy__separation": 10, "round__nodes_min": 100}


def config(**given: object) -> CoordinatorConfig:
    return read_config(None, BASE | {key.replace("__", "."): value for key, value in given.items()}, environ={})


def noise(**given: object) -> NodesNoise:
    made = config(**given)
    found = nodes_noise(made, round_size(made))
    assert found is not None
    return found


def test_without_a_noise_it_is_the_least_that_all_versions_fit_in() -> None:
    found = noise()
    epsilon = gaussian_epsilon(math.sqrt(100) / found.noise, 1e-5)
    assert 7.999 < epsilon <= 8.0
    assert (found.bandwidth, found.participation, found.bit_noise) == (1, None, None)


def test_fewer_participations_need_less_noise() -> None:
    assert noise(privacy__participations=25).noise == pytest.approx(noise().noise / 2, rel=1e-5)


def test_correlated_noise_is_planned_for_nodes_that_rest() -> None:
    found = noise(**CORRELATED)
    assert found.participation is not None
    assert (found.participation.releases, found.participation.separation) == (116, 10)
    assert found.participation.participations == 12
    assert gaussian_epsilon(correlated_mu(8, found.noise, found.participation), 1e-5) == pytest.approx(8.0, rel=1e-4)


def test_clip_bits_are_paid_for_out_of_the_same_budget() -> None:
    found = noise(privacy__adaptive_clip=True)
    assert found.bit_noise is not None
    mu = math.sqrt(100 * (found.noise**-2 + (2 * found.bit_noise) ** -2))
    assert gaussian_epsilon(mu, 1e-5) == pytest.approx(8.0, rel=1e-4)
    assert found.noise > noise().noise
    given = noise(privacy__adaptive_clip=True, privacy__bit_noise=50.0)
    assert given.bit_noise == 50.0


def test_engine_and_committer_are_told() -> None:
    made = config(privacy__levels=3)
    masking, masked = engine_settings(made).masking, committer_settings(made).masked
    assert masking is not None
    assert masking.budget == ReleaseBudget(epsilon=8.0, delta=1e-5)
    assert masked is not None
    assert masked.noise == noise()
    assert engine_settings(made).train.privacy is None
    assert engine_settings(made).needs == {}


@pytest.mark.parametrize(
    ("key", "given"),
    [
        ("privacy.masked", {"privacy__masked": False, "privacy__helpers": []}),
        ("privacy.clip", {"privacy__clip": None}),
        (
            "privacy.threshold",
            {"privacy__threshold": 3, "privacy__helpers": [f"{n}={n * 32}" for n in ("61", "62", "63", "64")]},
        ),
        ("privacy.importance_cap", {"privacy__importance_cap": 10}),
        ("privacy.row_clip", {"privacy__row_clip": 1.0}),
        ("privacy.sampling_rate", {"privacy__sampling_rate": 0.5}),
        ("privacy.noise", {"round__versions": 0}),
        ("privacy.bit_noise", {"privacy__bit_noise": 4.0}),
        ("privacy.bit_noise", {"privacy__bit_noise": 0.5, "privacy__adaptive_clip": True}),
        ("privacy.epsilon", {"privacy__noise": 0.1, "privacy__epsilon": 1.0}),
        ("privacy.separation", {"privacy__separation": 3}),
        ("privacy.separation", {"privacy__bandwidth": 3}),
        ("round.nodes_min", {"privacy__bandwidth": 3, "privacy__separation": 10, "round__nodes_min": 99}),
        ("round.versions", CORRELATED | {"round__versions": 0, "privacy__noise": 3.0}),
        ("round.versions", CORRELATED | {"round__versions": 9_500}),
        ("privacy.participations", {"privacy__unit": None, "privacy__participations": 3}),
        ("evaluation.nodes_every", {"evaluation__nodes_every": 1}),
    ],
)
def test_what_does_not_go_together_is_refused(key: str, given: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as refused:
        engine_settings(config(**given))
    assert refused.value.key == key
