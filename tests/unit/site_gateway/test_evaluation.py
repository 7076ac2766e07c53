"""Evaluation through a gateway: its nodes are asked, their numbers come up as one exact mean, whatever is killed."""

from fractions import Fraction
from pathlib import Path

import pytest

from federation.protocol.limits import INT64_MAX
from federation.protocol.messages import EvaluationReport, ModelRef
from federation.types import Digest, ModelVersion, NodeId, UpdateId
from site_gateway.engine.events import EvaluationAsked
from site_gateway.runtime.summing import summed_report
from tests.rigs.gateway_rig import GATEWAY, RUN, Rig, examples, measured

FIRST, SECOND = UpdateId(f"0-{GATEWAY}"), UpdateId(f"1-{GATEWAY}")
KILLS = range(0, 60, 4)


def at_version_one(rig: Rig) -> Rig:
    """Version 1 is made of the site's sum; from now on whoever can evaluates."""
    rig.above.announce()
    rig.until_offered(FIRST)
    rig.above.judge(FIRST)
    rig.above.evaluation = INT64_MAX
    return rig


def mean(rig: Rig, name: str, version: int = 1) -> float:
    """The exact mean over the nodes that have the number, rounded once."""
    found = [(measured(node, version), examples(node)) for node in rig.nodes]
    having = [(Fraction(numbers[name]), weight) for numbers, weight in found if name in numbers]
    return float(sum(value * weight for value, weight in having) / sum(weight for _, weight in having))


def check(report: EvaluationReport, rig: Rig, version: int = 1) -> None:
    assert (report.version, report.nodes, report.reason) == (version, 3, "")
    assert report.digest == rig.above.versions[version].digest()
    assert report.num_examples == sum(map(examples, rig.nodes))
    assert report.metrics == {name: mean(rig, name, version) for name in ("accuracy", "loss")}


def test_the_sites_nodes_evaluate_what_is_announced_above_and_then_train(tmp_path: Path) -> None:
    """FED-282."""
    rig = at_version_one(Rig(tmp_path))
    rig.above.announce()
    rig.until_offered(SECOND)
    rig.die()
    (report,) = rig.above.reports
    check(report, rig)
    assert all(node.evaluated == {1} and not node.reports for node in rig.nodes.values())
    assert rig.above.offers[SECOND][0] == rig.flat(rig.nodes[NodeId("n0")].asked[-1].round)


def test_the_last_version_is_evaluated_after_the_end(tmp_path: Path) -> None:
    """FED-282."""
    rig = at_version_one(Rig(tmp_path))
    rig.above.announce(asked=False)
    for _ in range(4):
        rig.turn()
    rig.die()
    (report,) = rig.above.reports
    check(report, rig)


@pytest.mark.parametrize("after", KILLS)
def test_a_gateway_that_is_killed_says_the_same_or_asks_again(after: int, tmp_path: Path) -> None:
    """FED-282."""
    rig = at_version_one(Rig(tmp_path))
    rig.kill_after = rig.effects + after
    rig.above.announce()
    rig.until_offered(SECOND)
    rig.die()
    assert rig.above.reports
    for report in rig.above.reports:
        check(report, rig)


def test_a_site_where_nobody_is_says_so_and_trains_nothing_less(tmp_path: Path) -> None:
    rig = at_version_one(Rig(tmp_path))
    for node in rig.nodes:
        rig.leave(node)
    rig.above.announce()
    rig.turn()
    rig.die()
    (report,) = rig.above.reports
    assert (report.num_examples, report.nodes, report.reason) == (0, None, "no node of the site is there")


def test_a_node_that_is_not_heard_is_waited_for_no_longer_than_a_lease(tmp_path: Path) -> None:
    rig = at_version_one(Rig(tmp_path))
    rig.nodes[NodeId("n2")].evaluated.add(ModelVersion(1))
    rig.above.announce()
    rig.turn()
    assert rig.above.reports == []
    rig.pass_time(1e6)
    rig.turn()
    rig.die()
    # One report, said until it is receipted.
    assert {(one.version, one.nodes) for one in rig.above.reports} == {(1, 2)}


def test_what_nobody_has_evaluated_has_a_reason() -> None:
    digest = Digest(bytes(16))
    model = ModelRef(version=ModelVersion(1), digest=digest, manifest_digest=digest, seed=None, parts=())
    asked = EvaluationAsked(model=model, run=RUN)
    assert summed_report(asked, ()).reason == "no node has evaluated it in time"
