"""The mean over the nodes, and the median that decides: no report alone moves either where it should not."""

import math
import sys
from dataclasses import replace
from statistics import median_low

import pytest

from coordinator.engine.early_stopping import EarlyStopping, Source, StoppingSettings
from coordinator.records import NodeResult, NodesEvaluation
from coordinator.storage.evaluations import _typical, mean_of
from federation.types import ModelVersion, NodeId

LARGEST = sys.float_info.max


def found(node: str, num_examples: int, **metrics: float) -> NodeResult:
    return NodeResult(version=ModelVersion(1), node=NodeId(node), num_examples=num_examples, metrics=metrics)


def closed(*results: NodeResult, version: int = 1) -> NodesEvaluation:
    return mean_of(NodesEvaluation(version=ModelVersion(version), share=1), results)


def test_the_mean_is_weighted_by_examples() -> None:
    made = closed(found("a", 10, accuracy=1.0), found("b", 30, accuracy=0.2))
    assert made.metrics == pytest.approx({"accuracy": 0.4})


@pytest.mark.parametrize("value", [1.01, -0.01, 1e308])
def test_an_accuracy_that_is_none_does_not_count(value: float) -> None:
    made = closed(found("a", 10, accuracy=value, test_accuracy=value), found("b", 10, accuracy=0.5))
    assert made.metrics == made.medians == {"accuracy": 0.5}


def test_the_largest_numbers_of_a_message_do_not_overflow() -> None:
    made = closed(*(found(name, 999_983 + i, loss=LARGEST, mse=1e100) for i, name in enumerate("abc")))
    assert "loss" not in made.metrics
    assert math.isfinite(made.metrics["mse"])


def test_examples_count_ten_times_the_median_at_most() -> None:
    made = closed(found("liar", 1_000_000, loss=0.0), found("b", 100, loss=1.0), found("c", 100, loss=1.0))
    assert made.metrics["loss"] == pytest.approx(2 / 12)
    assert made.num_examples == 1_000_200


@pytest.mark.parametrize(("metric", "worse", "better"), [("accuracy", 0.4, 0.9), ("loss", 0.9, 0.4)])
def test_of_two_in_the_middle_the_worse_decides(metric: str, worse: float, better: float) -> None:
    assert closed(found("a", 10, **{metric: better}), found("b", 10, **{metric: worse})).medians == {metric: worse}


def test_one_report_neither_fixes_the_best_version_nor_ends_the_run() -> None:
    stopping = EarlyStopping(StoppingSettings(source=Source.NODES, patience=3))
    for version in range(1, 8):
        lie = found("liar", 100 if version > 1 else 10_000, accuracy=1.0 if version == 1 else 0.5)
        honest = [found(name, 100, accuracy=0.5 + 0.05 * version) for name in ("a", "b")]
        made = closed(lie, *honest, version=version)
        stopping.observe(Source.NODES, ModelVersion(version), made.decisive, kept=True)
    assert (stopping.best, stopping.exhausted) == (7, False)


def test_an_evaluation_of_an_earlier_release_decides_by_its_mean() -> None:
    former = NodesEvaluation(version=ModelVersion(1), share=1, closed=True, metrics={"loss": 1.0})
    assert former.decisive == {"loss": 1.0}


def site(node: str, nodes: int, num_examples: int, **metrics: float) -> NodeResult:
    return replace(found(node, num_examples, **metrics), nodes=nodes)


def test_a_site_counts_as_the_nodes_that_it_has() -> None:
    """FED-283."""
    flat = closed(*(found(f"n{index}", 10, loss=0.25) for index in range(20)), found("b", 10, loss=1.0))
    tree = closed(site("g", 20, 200, loss=0.25), found("b", 10, loss=1.0))
    assert tree == flat
    assert (tree.nodes, tree.num_examples) == (21, 210)


def test_a_site_that_claims_examples_counts_as_ten_median_nodes_for_each_of_its_own() -> None:
    """FED-283."""
    honest = [found(f"n{index}", 100, loss=1.0) for index in range(9)]
    made = closed(site("liar", 2, 10**9, loss=0.0), *honest)
    assert made.metrics["loss"] == pytest.approx(900 / (900 + 2 * 10 * 100))
    assert made.medians["loss"] == 1.0


def test_without_sites_the_typical_node_is_the_lower_median_as_ever() -> None:
    for counts in ([5], [3, 9], [1, 4, 4, 1000], [7, 7, 8, 9, 100]):
        results = [found(f"n{index}", count, loss=float(index)) for index, count in enumerate(counts)]
        assert _typical(results) == median_low(counts)
    assert _typical([]) == 0
