"""Settings are checked where they are read, and each error names its key, its source and a remedy."""

from pathlib import Path

import pytest

from coordinator.config.sections import CoordinatorConfig, read_config
from coordinator.config.settings import committer_settings, down_spec, engine_settings, strategy_name
from coordinator.engine.early_stopping import Source, StoppingSettings
from coordinator.strategies.lag_compensation import LagCompensation
from coordinator.strategies.learning_rate import RateSchedule, ScheduleKind
from coordinator.strategies.strategy import Averaging
from federation.errors import ConfigError
from federation.tasks.registry import default_settings

LEAST = {"federation.id": "demo", "broker.url": "mqtt://localhost"}


def config(**flags: object) -> CoordinatorConfig:
    given = {key.replace("__", "."): value for key, value in flags.items()}
    return read_config(None, LEAST | given, environ={})


def checked(**flags: object) -> None:
    chosen = config(**flags)
    committer_settings(chosen)
    engine_settings(chosen)


def own_strategy(chosen: CoordinatorConfig) -> Averaging:
    """The strategy below the compensation of the codec's lag."""
    strategy = committer_settings(chosen).strategy
    assert isinstance(strategy, LagCompensation)
    assert isinstance(strategy.strategy, Averaging)
    return strategy.strategy


def wrong(**flags: object) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        checked(**flags)
    return caught.value


def test_two_keys_are_enough() -> None:
    settings = engine_settings(config())
    assert (settings.concurrency, settings.buffer, settings.refill) == (5, 5, 5)
    assert (settings.quorum, settings.nodes_min, settings.max_staleness) == (2, 2, 0)
    assert strategy_name(config()) == "fedavg"


def test_a_buffer_below_the_concurrency_is_asynchronous_in_all_its_defaults() -> None:
    chosen = config(round__concurrency=8, round__buffer=3)
    settings = engine_settings(chosen)
    assert (settings.buffer, settings.refill, settings.quorum, settings.max_staleness) == (3, 1, 1, 10)
    assert strategy_name(chosen) == "fedbuff"
    strategy = own_strategy(chosen)
    assert strategy.by_count


def test_what_is_given_wins_over_what_follows_from_the_rest() -> None:
    chosen = config(
        round__buffer=2,
        round__refill=2,
        round__quorum=2,
        round__nodes_min=4,
        round__max_staleness=3,
        strategy__name="fedavgm",
        strategy__server_learning_rate=0.5,
    )
    settings = engine_settings(chosen)
    assert (settings.refill, settings.quorum, settings.nodes_min, settings.max_staleness) == (2, 2, 4, 3)
    strategy = own_strategy(chosen)
    assert (strategy.optimizer.name, strategy.optimizer.learning_rate) == ("momentum", 0.5)


def test_the_optimizer_travels_among_the_further_numbers() -> None:
    def extra(**flags: object) -> dict[str, float]:
        return dict(engine_settings(config(**flags)).train.extra)

    assert extra() == {}
    assert extra(train__optimizer="adam", train__clip_norm=2.0) == {"adam": 1.0, "clip_norm": 2.0}
    assert extra(train__optimizer="adamw") == {"adam": 1.0, "adam_decoupled": 1.0}
    assert extra(train__optimizer="sgd", train__extra={"adam": 1.0, "mine": 3.0}) == {"mine": 3.0}
    assert engine_settings(config(train__optimizer="adam")).train.momentum == 0.0
    assert wrong(train__optimizer="adam", train__momentum=0.9).key == "train.momentum"
    scaffold = {"strategy__name": "scaffold", "strategy__nodes": 9, "train__momentum": 0.0}
    assert wrong(**scaffold, train__clip_norm=1.0).key == "train.optimizer"


def test_the_learning_rate_has_a_schedule() -> None:
    plain = engine_settings(config())
    assert plain.rates.rate(0.5, 7, 0) == 0.5
    chosen = config(train__schedule="cosine", train__warmup=2, train__decay=0.5, round__versions=10)
    assert engine_settings(chosen).rates == RateSchedule(kind=ScheduleKind.COSINE, warmup=2, factor=0.5)
    assert wrong(train__schedule="cosine").key == "train.schedule"
    assert wrong(train__schedule="step").key == "train.decay_every"


def test_training_is_the_tasks_own_choice_unless_it_is_given() -> None:
    own = default_settings("mnist-mlp")
    chosen = engine_settings(config(task__name="mnist-mlp", task__seed=4, train__learning_rate=0.5)).train
    assert (chosen.local_epochs, chosen.batch_size, chosen.learning_rate) == (own.local_epochs, own.batch_size, 0.5)
    assert chosen.seed == 4
    assert engine_settings(config(task__seed=4, train__seed=9)).train.seed == 9


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("local_epochs", 1 << 32, "needs an integer from 0 to 4294967295"),
        ("batch_size", 1 << 32, "needs an integer from 0 to 4294967295"),
        ("max_steps", 1 << 32, "needs an integer from 0 to 4294967295"),
        ("extra", {"x" * 200: 1.0}, "needs"),
        ("extra", {f"n{at}": 1.0 for at in range(200)}, "needs at most"),
    ],
)
def test_how_to_train_has_room_in_an_announcement(name: str, value: object, said: str) -> None:
    """The first node that came ended the coordinator with a traceback, and again after each start."""
    error = wrong(**{f"train__{name}": value})
    assert (error.key, str(error).startswith(f"train.{name}: {said}")) == (f"train.{name}", True)


@pytest.mark.parametrize("key", ["round__max_staleness", "store__audit_versions"])
def test_how_far_a_store_looks_back_has_a_bound(key: str) -> None:
    """Both are added up, and the sum went to a database that has 64 bits."""
    with pytest.raises(ConfigError, match=r"less than or equal to 4294967296 \(from command line\)"):
        config(**{key: 1 << 33})


@pytest.mark.parametrize("key", ["task.data", "task.initial"])
def test_a_place_that_no_system_looks_up_is_one_line(key: str) -> None:
    given: dict[str, object] = {"federation.id": "f", "broker.url": "mqtt://h:1883", key: "/" + "x" * 300}
    with pytest.raises(ConfigError, match=f"^{key}: .* cannot be used: File name too long"):
        read_config(None, given, environ={})


def test_the_model_goes_down_as_small_as_the_updates_come_up() -> None:
    asked = ("edge", "extreme", "balanced", "fine", "compact", "lossless")
    assert [str(down_spec(config(codec__up=up))) for up in asked] == [
        "cosine(bpp=0.116667,feedback=1)",
        "cosine(bpp=0.1,feedback=1)",
        "cosine(bpp=0.3,feedback=1)",
        "cosine(bpp=0.3,feedback=1)",
        "compact",
        "lossless",
    ]
    assert str(down_spec(config(codec__down="fine"))) == "fine"
    assert committer_settings(config()).downlink.spec == down_spec(config())


def test_small_models_and_nodes_of_an_earlier_release_get_versions_as_they_did() -> None:
    def plain(**flags: object) -> tuple[str, float]:
        made = committer_settings(config(**flags)).plainly()
        versions = made.strategy.versions if isinstance(made.strategy, LagCompensation) else 0.0
        return str(made.downlink.spec), round(versions, 6)

    assert plain() == ("edge", 4.0)
    assert plain(codec__up="balanced") == ("lossless", 0.0)
    assert plain(codec__down="fine", codec__lag_versions=0) == ("fine", 0.0)
    assert committer_settings(config()).downlink.plain_outside == (16_384, 4_194_304)
    assert committer_settings(config(codec__down="compact")).downlink.plain_outside is None


def test_a_codec_that_some_nodes_do_not_know_has_a_fallback() -> None:
    assert engine_settings(config(codec__up="compact")).codec_fallbacks == ("edge",)
    assert engine_settings(config(codec__up="compact", codec__fallbacks=("fine",))).codec_fallbacks == ("fine",)
    assert engine_settings(config()).codec_fallbacks == ()


def test_the_lag_is_compensated_where_the_codec_holds_back_unless_it_is_said_otherwise() -> None:
    def lag(**flags: object) -> float:
        strategy = committer_settings(config(**flags)).strategy
        return strategy.versions if isinstance(strategy, LagCompensation) else 0.0

    assert lag() == pytest.approx(6.0)
    assert lag(codec__up="balanced") == pytest.approx(0.25)
    assert lag(codec__up="balanced", codec__down="lossless") == 0.0
    assert lag(codec__lag_versions=0) == 0.0
    assert lag(codec__lag_versions=2.5, codec__up="lossless") == 2.5
    assert lag(strategy__name="fedasync", round__buffer=1) == 0.0
    assert wrong(codec__lag_versions=99).key == "codec.lag_versions"


def test_a_codec_is_kept_in_its_canonical_spelling() -> None:
    assert config(codec__up="deadzone(bpp=0.35,feedback=1)").codec.up == "edge"


def test_a_task_file_is_announced_without_its_folder(tmp_path: Path) -> None:
    file = tmp_path / "my_task.py"
    file.write_text("def build(context): ...\n")
    assert engine_settings(config(task__name=f"{file}:build")).task == "my_task.py:build"


@pytest.mark.parametrize(
    ("key", "flags"),
    [
        ("round.buffer", {"round__buffer": 6}),
        ("round.refill", {"round__refill": 6}),
        ("round.quorum", {"round__quorum": 6}),
        ("round.buffer", {"strategy__name": "fedasync"}),
        ("strategy.name", {"strategy__name": "fedfoo"}),
        ("strategy.staleness", {"strategy__staleness": "linear"}),
        ("task", {"task__name": "no-such-task"}),
        ("task.data", {"task__data": "/no/such/folder"}),
        ("task.initial", {"task__initial": "/no/such/file"}),
        ("codec.up", {"codec__up": "gzip"}),
        ("round.concurrency", {"round__concurrency": 0}),
        ("round.concurrency", {"round__concurrency": 100_001}),
        ("round.lease_s", {"round__lease_s": 1e9}),
        ("round.spread_s", {"round__spread_s": 1e9}),
        ("round.max_wait_s", {"round__max_wait_s": 1e12}),
        ("federation.id", {"federation__id": "not/a/level"}),
        ("broker.client_id", {"broker__client_id": "a b"}),
        ("round.concurency", {"round__concurency": 5}),
        ("rounds", {"rounds__buffer": 5}),
    ],
)
def test_a_wrong_setting_is_named(key: str, flags: dict[str, object]) -> None:
    assert wrong(**flags).key == key


def test_an_unknown_key_in_a_file_is_an_error_with_a_suggestion_and_its_file(tmp_path: Path) -> None:
    file = tmp_path / "coordinator.toml"
    file.write_text('[federation]\nid = "x"\n[broker]\nurl = "mqtt://h"\n[round]\nmax_stalenes = 1\n')
    with pytest.raises(ConfigError, match=r"round\.max_stalenes.*max_staleness.*coordinator\.toml"):
        read_config(file, {}, environ={})


def test_the_environment_wins_over_the_file_and_flags_over_both(tmp_path: Path) -> None:
    file = tmp_path / "coordinator.toml"
    file.write_text('[federation]\nid = "x"\n[broker]\nurl = "mqtt://file"\n[round]\nversions = 1\n')
    environ = {"FEDMQ_COORDINATOR__BROKER__URL": "mqtt://environ", "FEDMQ_COORDINATOR__ROUND__VERSIONS": "2"}
    chosen = read_config(file, {"round.versions": 3, "store.folder": None}, environ=environ)
    assert (chosen.broker.url, chosen.round.versions) == ("mqtt://environ", 3)


def test_a_missing_broker_is_named() -> None:
    with pytest.raises(ConfigError, match=r"broker\.url.*required"):
        read_config(None, {"federation.id": "x"}, environ={})


def test_a_context_keeps_the_versions_that_an_update_may_be_based_on_and_those_of_the_audit() -> None:
    spec = "deadzone(bpp=0.35,feedback=1,context=1)"
    changed = {"codec.up": spec, "round.concurrency": 4, "round.buffer": 2, "store.audit_versions": 3}
    settings = committer_settings(config(**changed))
    assert settings.contexts == 10 + 1 + 3
    assert committer_settings(config()).contexts == 0


def test_stopping_listens_to_the_evaluations_that_are_made() -> None:
    assert engine_settings(config()).stopping.source is Source.CENTRAL
    assert engine_settings(config(evaluation__every=0, evaluation__nodes_every=2)).stopping.source is Source.NODES
    both = config(evaluation__nodes_every=2, stopping__on="nodes", stopping__patience=3, stopping__metric="f1")
    assert engine_settings(both).stopping == StoppingSettings(source=Source.NODES, patience=3, metric="f1")
    assert engine_settings(both).federated_evaluation.every == 2


def test_stopping_that_waits_for_evaluations_that_nobody_makes_names_the_setting() -> None:
    assert wrong(evaluation__every=0, stopping__patience=3).key == "evaluation.every"
    assert wrong(stopping__on="nodes").key == "evaluation.nodes_every"


def test_needs_have_known_names() -> None:
    assert engine_settings(config(round__needs={"battery": 0.3})).needs == {"battery": 0.3}
    assert "round.needs" in wrong(round__needs={"memory": 1.0}).key
