"""The best version, and when a run has stopped getting better."""

from collections.abc import Iterable

import pytest

from coordinator.engine.early_stopping import EarlyStopping, Goal, Source, StoppingSettings, goal_of, missing_metric
from federation.types import ModelVersion


def after(settings: StoppingSettings, values: Iterable[float], metric: str = "accuracy") -> EarlyStopping:
    progress = EarlyStopping(settings)
    for version, value in enumerate(values, start=1):
        progress.observe(Source.CENTRAL, ModelVersion(version), {metric: value}, kept=True)
    return progress


def test_the_best_version_has_the_best_value_and_the_first_of_equals_stays() -> None:
    progress = after(StoppingSettings(), [0.1, 0.7, 0.7, 0.3])
    assert (progress.best, progress.value) == (2, 0.7)
    assert not progress.exhausted


def test_a_loss_is_better_when_it_is_smaller() -> None:
    progress = after(StoppingSettings(), [3.0, 1.0, 2.0], metric="loss")
    assert (progress.best, progress.value) == (2, 1.0)


def test_the_patience_counts_evaluations_without_the_minimum_delta_in_a_row() -> None:
    settings = StoppingSettings(patience=2, min_delta=0.1)
    assert not after(settings, [0.5, 0.55]).exhausted
    assert after(settings, [0.5, 0.55, 0.59]).exhausted
    assert after(settings, [0.5, 0.55, 0.59]).best == 3
    assert not after(settings, [0.5, 0.55, 0.61, 0.62]).exhausted


def test_without_a_minimum_delta_what_is_equal_is_no_improvement() -> None:
    assert after(StoppingSettings(patience=3), [0.5, 0.5, 0.5, 0.5]).exhausted


def test_a_patience_of_zero_never_ends_a_run() -> None:
    assert not after(StoppingSettings(), [0.9] + [0.1] * 50).exhausted


def test_only_the_chosen_source_and_the_chosen_metric_count() -> None:
    progress = EarlyStopping(StoppingSettings(source=Source.NODES, metric="f1", patience=1))
    assert not progress.observe(Source.CENTRAL, ModelVersion(1), {"f1": 1.0}, kept=True)
    assert not progress.observe(Source.NODES, ModelVersion(2), {"accuracy": 1.0}, kept=True)
    assert progress.observe(Source.NODES, ModelVersion(3), {"f1": 0.2}, kept=True)
    assert progress.waited == 0


def test_an_evaluation_that_found_nothing_is_none_that_is_better() -> None:
    """A model that has diverged has a loss of NaN, which is left out; one that cannot be evaluated has nothing."""
    progress = after(StoppingSettings(metric="loss", patience=2), [1.0], metric="loss")
    for version, metrics in enumerate(({}, {"accuracy": 0.1}), start=2):
        assert not progress.exhausted
        assert not progress.observe(Source.CENTRAL, ModelVersion(version), metrics, kept=True)
    assert progress.exhausted
    assert (progress.best, progress.waited) == (1, 2)
    assert not progress.observe(Source.CENTRAL, ModelVersion(9), {}, kept=True)
    assert progress.waited == 2


def test_a_run_that_diverges_before_its_first_evaluation_ends_and_one_without_test_data_does_not() -> None:
    for source, ended in ((Source.CENTRAL, True), (Source.NODES, False)):
        progress = EarlyStopping(StoppingSettings(source=source, patience=2))
        for version in (1, 2):
            progress.observe(source, ModelVersion(version), {}, kept=True)
        assert progress.exhausted is ended


def test_a_version_is_counted_once_and_in_order() -> None:
    progress = after(StoppingSettings(patience=2), [0.5])
    for _ in range(3):
        assert not progress.observe(Source.CENTRAL, ModelVersion(1), {"accuracy": 0.4}, kept=True)
    assert progress.waited == 0


def test_a_version_whose_model_is_gone_ends_the_wait_but_is_not_the_best() -> None:
    progress = after(StoppingSettings(patience=2), [0.5])
    assert not progress.observe(Source.CENTRAL, ModelVersion(2), {"accuracy": 0.9}, kept=False)
    assert (progress.best, progress.waited) == (1, 0)
    assert progress.observe(Source.CENTRAL, ModelVersion(3), {"accuracy": 0.6}, kept=True)
    assert (progress.best, progress.waited) == (3, 1)


@pytest.mark.parametrize(
    ("metric", "goal"),
    [("accuracy", Goal.MAX), ("Loss", Goal.MIN), ("test_rmse", Goal.MIN), ("f1", Goal.MAX), ("perplexity", Goal.MIN)],
)
def test_the_name_of_a_metric_says_which_way_it_goes(metric: str, goal: Goal) -> None:
    assert goal_of(metric) is goal


def test_the_goal_can_be_given() -> None:
    progress = after(StoppingSettings(metric="distance", goal=Goal.MIN), [3.0, 1.0, 2.0], metric="distance")
    assert progress.best == 2


def test_the_metric_that_was_found_first_stays_the_one_that_counts() -> None:
    progress = EarlyStopping(StoppingSettings(patience=2))
    for version, metrics in enumerate([{"accuracy": 0.9, "loss": 1.0}, {"loss": 0.5}, {"loss": 0.1}], start=1):
        progress.observe(Source.CENTRAL, ModelVersion(version), metrics, kept=True)
    assert (progress.metric, progress.best, progress.value, progress.exhausted) == ("accuracy", 1, 0.9, True)


@pytest.mark.parametrize(
    ("settings", "metrics", "words"),
    [
        (StoppingSettings(metric="f1"), {"loss": 1.0, "accuracy": 0.5}, "no 'f1'; it reports accuracy, loss"),
        (StoppingSettings(metric="f1", patience=3), {}, "it reports nothing"),
        (StoppingSettings(patience=3), {"f1": 0.5}, "waits for accuracy or loss"),
    ],
)
def test_a_metric_that_nobody_reports_is_found_at_the_start(
    settings: StoppingSettings, metrics: dict[str, float], words: str
) -> None:
    assert words in str(missing_metric(settings, metrics))


@pytest.mark.parametrize(
    ("settings", "metrics"),
    [
        (StoppingSettings(), {}),
        (StoppingSettings(metric="f1", patience=3), {"f1": 0.5}),
        (StoppingSettings(patience=3), {"loss": 0.5}),
    ],
)
def test_a_metric_that_is_reported_is_nothing_to_complain_about(
    settings: StoppingSettings, metrics: dict[str, float]
) -> None:
    assert missing_metric(settings, metrics) is None
