"""What cannot be right together is refused by the name of the setting to change; the rest has the sizes that follow."""

import pytest

from coordinator.config.combinations import check_combination, round_size
from coordinator.config.sections import CoordinatorConfig, read_config
from coordinator.config.settings import committer_settings, engine_settings, train_settings
from coordinator.strategies.presets import STRATEGIES
from coordinator.strategies.robust import RULES
from federation.errors import ConfigError
from federation.identity.signing_keys import SigningKey


def config(**given: object) -> CoordinatorConfig:
    least = {"federation.id": "f", "broker.url": "mqtt://h:1883"}
    return read_config(None, least | {key.replace("__", "."): value for key, value in given.items()}, environ={})


SCAFFOLD: dict[str, object] = {"strategy__name": "scaffold", "strategy__nodes": 20}


@pytest.mark.parametrize(
    ("key", "given"),
    [
        ("round.buffer", {"strategy__name": "fedasync", "round__buffer": 2}),
        ("strategy.server", {"strategy__name": "fedasync", "round__buffer": 1, "strategy__server": "adam"}),
        ("strategy.mixing", {"strategy__mixing": True}),
        ("train.proximal_mu", {"strategy__name": "fedprox", "train__proximal_mu": 0.0}),
        ("round.buffer", {"strategy__robust": "median", "round__buffer": 2, "codec__up": "balanced"}),
        ("round.buffer", {"strategy__robust": "default", "strategy__name": "fedasync", "round__buffer": 1}),
        ("round.buffer", {"strategy__robust": "krum", "round__concurrency": 6, "strategy__attackers": 0.4}),
        ("round.quorum", {"strategy__robust": "krum", "round__concurrency": 10, "round__quorum": 2}),
        ("round.per_node_quota", {"strategy__robust": "default", "round__per_node_quota": 2}),
        ("limits.clip_norm", {"strategy__robust": "default", "limits__clip_norm": 1.0}),
        ("codec.up", {"strategy__robust": "median", "codec__up": "edge"}),
        (
            "codec.fallbacks",
            {"strategy__robust": "median", "codec__up": "balanced", "codec__fallbacks": ("lossless", "extreme")},
        ),
        ("codec.up", {"strategy__robust": "bulyan", "round__concurrency": 20, "codec__up": "edge"}),
        ("strategy.robust", {"strategy__robust": "medain"}),
        ("strategy.attackers", {"strategy__attackers": 0.5}),
        ("round.fraction", {"round__fraction": 0.1, "round__buffer": 3}),
        ("round.fraction", {"round__fraction": 0.1, "round__max_staleness": 2}),
        ("round.over_selection", {"round__over_selection": 1.3, "round__buffer": 3}),
        ("strategy.nodes", {"strategy__name": "scaffold"}),
        ("strategy.nodes", SCAFFOLD | {"round__concurrency": 21}),
        ("strategy.importance", SCAFFOLD | {"strategy__importance": "examples"}),
        ("strategy.robust", SCAFFOLD | {"strategy__robust": "median_norm_clip"}),
        ("train.momentum", SCAFFOLD | {"train__momentum": 0.9}),
        ("train.proximal_mu", SCAFFOLD | {"train__proximal_mu": 0.01}),
    ],
)
def test_a_combination_that_cannot_be_right_names_the_setting(key: str, given: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        engine_settings(config(**given))
    assert caught.value.key == key


ALDER, BIRCH = (f"{name}={SigningKey.new().public_hex}" for name in ("alder", "birch"))
MASKED: dict[str, object] = {
    "privacy__masked": True,
    "privacy__helpers": (ALDER, BIRCH),
    "round__concurrency": 16,
}


@pytest.mark.parametrize(
    ("key", "given"),
    [
        ("strategy.name", {"strategy__name": "fedasync", "round__buffer": 1}),
        ("strategy.name", {"strategy__name": "fedasync"}),
        ("strategy.mixing", {"strategy__mixing": True}),
        ("round.buffer", {"round__buffer": 7}),
        ("round.buffer", {"round__concurrency": 7}),
        ("round.quorum", {"round__quorum": 7}),
        ("strategy.name", {"strategy__name": "scaffold", "strategy__nodes": 20}),
        ("strategy.name", {"strategy__name": "my.module:factory"}),
        ("strategy.staleness", {"strategy__staleness": "polynomial", "round__buffer": 8}),
        ("strategy.importance", {"strategy__importance": "sqrt"}),
        ("strategy.importance", {"strategy__importance": "examples"}),
        ("privacy.importance_cap", {"strategy__importance": "uniform", "privacy__importance_cap": 100}),
        ("strategy.robust", {"strategy__robust": "median_norm_clip"}),
        ("strategy.robust", {"strategy__robust": "median"}),
        ("strategy.robust", {"strategy__robust": "krum", "round__buffer": 8}),
        ("limits.clip_norm", {"limits__clip_norm": 1.0}),
        ("limits.update_norm_max", {"limits__update_norm_max": 10.0}),
        ("round.per_node_quota", {"round__per_node_quota": 2}),
        ("codec.up", {"codec__up": "edge"}),
        ("codec.fallbacks", {"codec__fallbacks": ("edge",)}),
        ("privacy.levels", {"privacy__levels": 2**23 - 1, "round__concurrency": 300}),
        ("privacy.helpers", {"privacy__helpers": (ALDER, "birch=123")}),
        ("privacy.helpers", {"privacy__helpers": (ALDER, ALDER)}),
        ("privacy.threshold", {"privacy__threshold": 1}),
    ],
)
def test_masks_exclude_whatever_looks_at_one_update(key: str, given: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        engine_settings(config(**MASKED | given))
    assert caught.value.key == key
    assert key == "round.buffer" or len(str(caught.value)) > 40, "the reason is said"


def test_masks_go_with_noise_on_the_nodes() -> None:
    noise: dict[str, object] = {"privacy__unit": "examples", "privacy__sampling_rate": 0.1, "round__versions": 40}
    train: dict[str, object] = {"train__batch_size": 16, "train__max_steps": 10}
    engine = engine_settings(config(**MASKED | noise | train))
    assert engine.masking is not None
    assert engine.train.privacy is not None
    assert (engine.train.privacy.epsilon, engine.codec_up) == (8.0, "masked")


def test_masks_need_helpers() -> None:
    with pytest.raises(ConfigError, match="masked needs helpers"):
        config(privacy__masked=True)


def test_what_the_engine_and_the_committer_are_told_of_masks() -> None:
    given = config(**MASKED)
    engine, committer = engine_settings(given), committer_settings(given)
    assert engine.masking is not None
    assert sorted(engine.masking.helpers) == ["alder", "birch"]
    assert (engine.masking.threshold, engine.quorum, engine.codec_up) == (2, 8, "masked")
    assert committer.masked is not None
    assert (committer.masked.members, committer.masked.levels) == (16, 1)
    asynchronous = config(**MASKED | {"round__buffer": 8})
    masked = committer_settings(asynchronous).masked
    assert masked is not None
    assert (masked.members, masked.patience) == (8, 11)
    strategy = committer_settings(asynchronous).strategy
    assert "constant" in repr(strategy), "members weigh alike, however stale"
    assert engine_settings(config()).masking is None
    assert committer_settings(config()).masked is None


@pytest.mark.parametrize("rule", sorted(RULES))
@pytest.mark.parametrize("name", sorted(set(STRATEGIES) - {"fedasync", "scaffold"}))
def test_every_strategy_with_a_buffer_goes_with_every_rule(name: str, rule: str) -> None:
    sizes = {"round__concurrency": 30, "round__buffer": 15 if name == "fedbuff" else 30}
    chosen = config(strategy__name=name, strategy__robust=rule, codec__up="balanced", **sizes)
    engine = engine_settings(chosen)
    assert committer_settings(chosen).limits.rule is not None
    assert 3 <= engine.quorum <= engine.buffer


def test_a_robust_rule_raises_the_quorum_to_what_it_needs() -> None:
    assert round_size(config(strategy__robust="krum", round__concurrency=6)).quorum == 3
    assert round_size(config(strategy__robust="bulyan", round__concurrency=12, codec__up="balanced")).quorum == 7


def test_fedprox_brings_its_proximal_term_unless_the_configuration_has_one() -> None:
    assert train_settings(config(strategy__name="fedprox")).proximal_mu == 0.01
    assert train_settings(config(strategy__name="fedprox", train__proximal_mu=0.5)).proximal_mu == 0.5
    assert train_settings(config()).proximal_mu == 0.0


def test_fedasync_remembers_as_many_steps_as_updates_may_lag_behind() -> None:
    chosen = config(strategy__name="fedasync", round__buffer=1, round__concurrency=4, round__max_staleness=6)
    strategy = committer_settings(chosen).strategy
    assert getattr(strategy, "history", None) == 6


def test_a_fraction_is_bounded_by_the_concurrency_where_one_is_given() -> None:
    free = round_size(config(round__fraction=0.5))
    assert (free.concurrency, free.buffer, free.quorum, free.max_staleness) == (600, 600, 1, 0)
    bound = round_size(config(round__fraction=0.5, round__concurrency=40, round__over_selection=1.5))
    assert (bound.concurrency, bound.buffer) == (60, 40)


def test_over_selection_asks_more_than_it_waits_for() -> None:
    size = round_size(config(round__concurrency=10, round__over_selection=1.3))
    assert (size.concurrency, size.buffer, size.refill, size.max_staleness) == (13, 10, 13, 0)
    check_combination(config(round__concurrency=10, round__over_selection=1.3), size)


@pytest.mark.parametrize(("codec", "resolution"), [("lossless", 1 / 64), ("balanced", 0.5), ("edge", 2.0)])
def test_scaffold_tells_nodes_how_many_they_are_and_how_coarsely_controls_travel(codec: str, resolution: float) -> None:
    chosen = config(**SCAFFOLD, codec__up=codec)
    assert engine_settings(chosen).train.extra == {"scaffold_nodes": 20.0, "scaffold_resolution": resolution}
    strategy = committer_settings(chosen).strategy
    assert getattr(getattr(strategy, "strategy", strategy), "importance", None) == "uniform"
    own = config(**SCAFFOLD, train__extra={"scaffold_resolution": 0.25, "mine": 1.0})
    assert train_settings(own).extra == {"scaffold_nodes": 20.0, "scaffold_resolution": 0.25, "mine": 1.0}


@pytest.mark.parametrize("more", [{"round__buffer": 2}, {"round__fraction": 0.5}, {"strategy__server": "momentum"}])
def test_scaffold_goes_with_asynchronous_rounds_fractions_and_server_optimizers(more: dict[str, object]) -> None:
    assert engine_settings(config(**SCAFFOLD, **more)).train.extra["scaffold_nodes"] == 20.0


def test_masked_evaluation_is_over_as_many_nodes_as_a_masked_version() -> None:
    """FED-195."""
    engine = engine_settings(config(**MASKED | {"evaluation__nodes_every": 5, "evaluation__nodes_metrics": ("loss",)}))
    assert (engine.federated_evaluation.nodes_min, engine.federated_evaluation.metrics) == (8, ("loss",))
    clear = engine_settings(config(evaluation__nodes_every=5)).federated_evaluation
    assert (clear.nodes_min, clear.metrics) == (1, ())
    noised = {"privacy__unit": "nodes", "privacy__clip": 1.0, "round__versions": 10, "evaluation__nodes_every": 5}
    with pytest.raises(ConfigError) as caught:
        engine_settings(config(**MASKED | noised))
    assert caught.value.key == "evaluation.nodes_every"
    with pytest.raises(ConfigError, match="each metric once"):
        config(evaluation__nodes_metrics=("loss", "loss"))


SITES: dict[str, object] = {"gateways__members_max": {"press-shop": 64}}


@pytest.mark.parametrize(
    ("key", "given"),
    [
        ("strategy.robust", {"strategy__robust": "median", "codec__up": "balanced", "round__concurrency": 9}),
        ("strategy.importance", {"strategy__importance": "uniform"}),
        ("strategy.importance", SCAFFOLD),
        ("strategy.mixing", {"strategy__name": "fedasync", "round__buffer": 1}),
        ("limits.clip_norm", {"limits__clip_norm": 1.0}),
        ("strategy.name", {"strategy__name": "tests.rigs.small_federation:build"}),
        ("strategy.sums", {"strategy__sums": "per_update"}),
    ],
)
def test_what_looks_at_single_updates_is_refused_beside_sums_of_sites(key: str, given: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=key):
        engine_settings(config(**SITES, **given))


def test_gateways_weigh_staleness_once_per_base_and_so_can_a_flat_federation() -> None:
    assert committer_settings(config(**SITES)).limits.per_base
    assert committer_settings(config(strategy__sums="per_base")).limits.per_base
    assert not committer_settings(config()).limits.per_base
    assert engine_settings(config(**SITES)).gateways == {"press-shop": 64}
