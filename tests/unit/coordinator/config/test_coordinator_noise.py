"""``privacy.noise_by = "coordinator"``: a trusted coordinator adds the noise; what does not go with that is refused."""

import math

import pytest

from coordinator.config.combinations import round_size
from coordinator.config.noise import check_noised_model, coordinator_noise
from coordinator.config.sections import CoordinatorConfig, read_config
from coordinator.config.settings import committer_settings, engine_settings, update_norm_max
from coordinator.engine.settings import NoiseSettings, ReleaseBudget
from federation.errors import ConfigError
from federation.privacy.accountant import gaussian_epsilon

BASE: dict[str, object] = {
    "federation.id": "f",
    "broker.url": "mqtt://h:1883",
    "task.name": "digits",
    "round.versions": 100,
    "round.concurrency": 10,
    "privacy.unit": "nodes",
    "privacy.noise_by": "coordinator",
    "privacy.clip": 2.0,
    "privacy.epsilon": 8.0,
}


def config(**given: object) -> CoordinatorConfig:
    return read_config(None, BASE | {key.replace("__", "."): value for key, value in given.items()}, environ={})


def test_without_a_noise_it_is_the_least_that_all_versions_fit_in() -> None:
    made = config()
    noise = coordinator_noise(made, round_size(made))
    assert noise is not None
    epsilon = gaussian_epsilon(math.sqrt(100) / noise.noise, 1e-5)
    assert 7.999 < epsilon <= 8.0
    assert (noise.clip, noise.members) == (2.0, 10)


def test_engine_and_committer_are_told_the_same() -> None:
    made = config(privacy__noise=5.0, round__buffer=6, strategy__name="fedadam", codec__up="edge")
    engine, committer = engine_settings(made), committer_settings(made)
    assert engine.noise == NoiseSettings(noise=5.0, clip=2.0, budget=ReleaseBudget(epsilon=8.0, delta=1e-5))
    assert committer.noise is not None
    assert (committer.noise.noise, committer.noise.clip, committer.noise.members) == (5.0, 2.0, 6)
    assert committer.masked is None
    assert engine.masking is None
    assert committer.limits.step_norm_max == math.inf
    assert update_norm_max(made) == math.inf, "nothing is refused by its length, which would tell of it"
    assert update_norm_max(config(privacy__unit=None, privacy__noise_by="helpers")) == 1e5


def test_nobody_adds_noise_where_it_is_not_asked_for() -> None:
    plain = config(privacy__unit=None, privacy__noise_by="helpers", privacy__clip=None)
    assert coordinator_noise(plain, round_size(plain)) is None
    assert engine_settings(plain).noise is None
    assert committer_settings(plain).noise is None


MASKED = {"privacy__masked": True, "privacy__helpers": ["one=" + "61" * 32, "two=" + "62" * 32]}


@pytest.mark.parametrize(
    ("key", "given"),
    [
        ("privacy.noise_by", {"privacy__unit": None}),
        ("privacy.noise_by", {"privacy__unit": "examples", "privacy__sampling_rate": 0.1}),
        ("privacy.noise_by", MASKED),
        ("privacy.clip", {"privacy__clip": None}),
        ("privacy.noise", {"round__versions": 0}),
        ("privacy.epsilon", {"privacy__noise": 0.1, "privacy__epsilon": 1.0}),
        ("privacy.row_clip", {"privacy__row_clip": 1.0}),
        ("privacy.bandwidth", {"privacy__bandwidth": 4}),
        ("privacy.separation", {"privacy__separation": 4}),
        ("privacy.adaptive_clip", {"privacy__adaptive_clip": True}),
        ("privacy.bit_noise", {"privacy__bit_noise": 3.0}),
        ("privacy.helpers", {"privacy__helpers": ["one=" + "61" * 32]}),
        ("privacy.importance_cap", {"privacy__importance_cap": 10}),
        ("privacy.step", {"privacy__step": 0.1}),
        ("strategy.name", {"strategy__name": "fedasync", "round__buffer": 1}),
        ("strategy.name", {"strategy__name": "scaffold", "strategy__nodes": 10}),
        ("strategy.mixing", {"strategy__mixing": True, "round__buffer": 1, "round__quorum": 1}),
        ("strategy.staleness", {"strategy__staleness": "polynomial"}),
        ("strategy.importance", {"strategy__importance": "examples"}),
        ("strategy.sums", {"strategy__sums": "per_base"}),
        ("strategy.robust", {"strategy__robust": "median", "codec__up": "balanced"}),
        ("limits.clip_norm", {"limits__clip_norm": 1.0}),
        ("limits.update_norm_max", {"limits__update_norm_max": 10.0}),
        ("limits.step_norm_max", {"limits__step_norm_max": 10.0}),
        ("round.per_node_quota", {"round__per_node_quota": 2}),
        ("round.fraction", {"round__fraction": 0.5}),
        ("gateways", {"gateways__members_max": {"shop": 64}}),
        ("evaluation.nodes_every", {"evaluation__nodes_every": 1}),
    ],
)
def test_what_does_not_go_together_is_refused_with_its_reason(key: str, given: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as refused:
        engine_settings(config(**given))
    assert refused.value.key == key
    assert len(str(refused.value)) > len(key) + 20, "a reason, or what to do"


def test_a_model_with_statistics_is_refused() -> None:
    made = config()
    check_noised_model(coordinator_noise(made, round_size(made)), 0)
    check_noised_model(None, 7)
    with pytest.raises(ConfigError, match="7 statistics beside its parameters"):
        check_noised_model(coordinator_noise(made, round_size(made)), 7)


def test_participations_bound_what_one_node_pays() -> None:
    few, all_of_them = config(privacy__participations=25), config()
    found = coordinator_noise(few, round_size(few))
    other = coordinator_noise(all_of_them, round_size(all_of_them))
    assert found is not None
    assert other is not None
    assert found.noise == pytest.approx(other.noise / 2, rel=1e-5)
