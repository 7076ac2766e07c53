"""Evaluation on the nodes at the coordinator: who is asked, what a report is worth, when it is over."""

from collections.abc import Iterable

import pytest

from coordinator.engine import effects
from coordinator.engine.early_stopping import Source, StoppingSettings
from coordinator.engine.effects import Effect, Note
from coordinator.engine.federated_evaluation import RETURN_S
from coordinator.engine.settings import EngineSettings, FederatedEvaluationSettings
from coordinator.records import NodesEvaluation
from federation.protocol.cohort import NOBODY, evaluates
from federation.protocol.limits import INT64_MAX
from federation.protocol.messages import Presence, Reason
from federation.types import ModelVersion, NodeId, RunId
from tests.rigs.coordinator_rig import RUN, Rig, digest_of, engine, transcript

NODES = ("ann", "bob", "cid", "dan")


def surveying(*, every: int = 1, fraction: float = 1.0, nodes_min: int = 1, **changes: object) -> EngineSettings:
    return engine(
        federated_evaluation=FederatedEvaluationSettings(every=every, fraction=fraction, nodes_min=nodes_min), **changes
    )


def at_version_one(settings: EngineSettings | None = None, nodes: tuple[str, ...] = NODES) -> Rig:
    """A rig whose first version has been committed and announced."""
    rig = Rig(surveying() if settings is None else settings)
    rig.start(*nodes)
    for node in rig.store.rounds[max(rig.store.rounds)].nodes:
        rig.offer(node, 0)
    assert rig.store.versions[-1].version == 1
    return rig


def survey(rig: Rig, version: int = 1) -> NodesEvaluation:
    return rig.store.surveys[ModelVersion(version)]


def test_the_announcement_of_a_version_that_is_due_asks_nodes_that_need_not_train() -> None:
    """FED-70."""
    rig = at_version_one()
    assert rig.announced is not None
    assert rig.announced.evaluation == INT64_MAX
    assert len(rig.store.rounds[rig.announced.round].nodes) == 2 < len(NODES)
    assert survey(rig) == NodesEvaluation(version=ModelVersion(1), share=INT64_MAX)


def test_exactly_the_fraction_of_the_nodes_online_is_asked() -> None:
    """FED-70."""
    rig = at_version_one(surveying(fraction=0.5))
    asked = [node for node in NODES if evaluates(survey(rig).share, RUN, ModelVersion(1), NodeId(node))]
    assert len(asked) == 2
    for node in NODES:
        if node in asked:
            assert f"tell {node} evaluation 1 applied" in transcript(rig.report(node, 1))
        else:
            assert transcript(rig.report(node, 1)) == [f"tell {node} evaluation 1 refused not_assigned"]
    assert survey(rig).closed


def test_at_least_the_least_number_is_asked() -> None:
    rig = at_version_one(surveying(fraction=0.01, nodes_min=3))
    asked = [node for node in NODES if evaluates(survey(rig).share, RUN, ModelVersion(1), NodeId(node))]
    assert len(asked) == 3


def test_only_each_nth_version_is_evaluated_and_the_last_one() -> None:
    rig = Rig(surveying(every=2, versions=3))
    rig.start("ann", "bob")
    for number in range(3):
        rig.offer("ann", rig.store.rounds[max(rig.store.rounds)].round)
        rig.offer("bob", rig.store.rounds[max(rig.store.rounds)].round)
        assert rig.store.versions[-1].version == number + 1
    assert sorted(rig.store.surveys) == [2, 3]
    assert rig.announced is not None
    assert rig.announced.final
    assert rig.announced.evaluation == INT64_MAX


def test_a_result_is_on_disk_before_its_receipt() -> None:
    """FED-72."""
    rig = at_version_one()
    assert transcript(rig.report("ann", 1)) == ["save result of ann for 1", "tell ann evaluation 1 applied"]


def test_a_repeated_report_gets_the_same_receipt_and_counts_once() -> None:
    """FED-72."""
    rig = at_version_one()
    rig.report("ann", 1, metrics={"accuracy": 0.25})
    again = rig.report("ann", 1, metrics={"accuracy": 1.0})
    assert transcript(again) == ["tell ann evaluation 1 applied"]
    for node in NODES[1:]:
        rig.report(node, 1, num_examples=0, reason="no test data")
    assert survey(rig).closed
    assert (survey(rig).metrics, survey(rig).nodes) == ({"accuracy": 0.25}, 1)


def test_the_mean_is_weighted_and_made_when_everybody_who_is_there_has_reported() -> None:
    """FED-73."""
    rig = at_version_one()
    for examples, node in enumerate(NODES, start=1):
        assert not survey(rig).closed
        rig.report(node, 1, num_examples=examples, metrics={"accuracy": examples / 10})
    expected = sum(examples * examples / 10 for examples in range(1, 5)) / 10
    assert survey(rig).closed
    assert survey(rig).metrics["accuracy"] == pytest.approx(expected, abs=1e-15)
    assert survey(rig).num_examples == 10


def test_a_node_that_vanishes_is_not_waited_for() -> None:
    """FED-73."""
    rig = at_version_one()
    for node in NODES[:3]:
        rig.report(node, 1)
    assert not survey(rig).closed
    rig.state("dan", Presence.LOST)
    assert survey(rig).closed
    assert survey(rig).nodes == 3


def test_a_silent_node_holds_an_evaluation_for_a_lease_at_most() -> None:
    """FED-73."""
    rig = at_version_one(surveying(lease_s=60.0))
    rig.report("ann", 1)
    rig.wait(59.0)
    assert not survey(rig).closed
    rig.wait(2.0)
    assert survey(rig).closed
    assert survey(rig).nodes == 1


def test_the_time_without_a_broker_does_not_count() -> None:
    rig = at_version_one(surveying(lease_s=60.0))
    rig.disconnect()
    rig.wait(600.0)
    assert not survey(rig).closed


def test_a_report_after_the_end_is_kept_and_does_not_count() -> None:
    """FED-73."""
    rig = at_version_one()
    for node in NODES[:3]:
        rig.report(node, 1, metrics={"accuracy": 0.5})
    rig.state("dan", Presence.LOST)
    late = rig.report("dan", 1, metrics={"accuracy": 0.0})
    assert transcript(late)[-2:] == ["save result of dan for 1 too late", "tell dan evaluation 1 stale"]
    assert survey(rig).metrics == {"accuracy": 0.5}
    assert transcript(rig.report("dan", 1)) == ["tell dan evaluation 1 stale"]


def test_the_next_evaluation_ends_the_one_before() -> None:
    """FED-73."""
    rig = at_version_one(nodes=("ann", "bob"))
    rig.report("ann", 1)
    for node in ("ann", "bob"):
        rig.offer(node, 1)
    assert survey(rig, 1).closed
    assert not survey(rig, 2).closed
    assert "tell bob evaluation 1 stale" in transcript(rig.report("bob", 1))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": ModelVersion(0)}, Reason.UNKNOWN_ROUND),
        ({"digest": digest_of(7)}, Reason.BASE_MISMATCH),
        ({"num_examples": 10**9}, Reason.BAD_NUM_EXAMPLES),
    ],
)
def test_a_report_that_cannot_be_right_is_refused_with_a_reason(changes: dict[str, object], reason: Reason) -> None:
    """FED-72."""
    rig = at_version_one()
    refused = transcript(rig.report("ann", **({"version": 1} | changes)))  # type: ignore[arg-type]
    assert refused == [f"tell ann evaluation {changes.get('version', 1)} refused {reason.value}"]
    assert rig.store.results == {}


@pytest.mark.parametrize(
    ("node", "changes", "word"),
    [
        ("ann", {"nodes": 4, "num_examples": 4 * 10**6}, "applied"),
        ("ann", {"nodes": 4, "num_examples": 4 * 10**6 + 1}, "refused bad_num_examples"),
        ("ann", {"nodes": 9}, "refused not_assigned"),
        ("bob", {"nodes": 2}, "refused codec"),
        ("bob", {"nodes": 1}, "applied"),
    ],
)
def test_who_is_named_speaks_for_as_many_nodes_as_it_may(node: str, changes: dict[str, int], word: str) -> None:
    """FED-283."""
    rig = at_version_one(surveying(gateways={NodeId("ann"): 8}, num_examples_max=10**6))
    said = transcript(rig.report(node, 1, **changes))
    assert f"tell {node} evaluation 1 {word}" in said
    kept = rig.store.results.get((ModelVersion(1), NodeId(node)))
    assert (None if kept is None else kept.nodes) == (changes["nodes"] if word == "applied" else None)


def test_a_site_counts_for_the_least_number_of_results() -> None:
    """FED-283."""
    rig = at_version_one(surveying(nodes_min=4, gateways={NodeId("ann"): 8}))
    for node in ("bob", "cid", "dan"):
        rig.report(node, 1, num_examples=0)
    assert not survey(rig).closed
    rig.report("ann", 1, nodes=4)
    assert survey(rig).closed
    assert survey(rig).nodes == 4


@pytest.mark.parametrize("changes", [{"run": RunId("f" * 16)}, {"version": ModelVersion(9)}])
def test_a_report_that_only_somebody_else_can_judge_is_not_answered(changes: dict[str, object]) -> None:
    """FED-97, FED-98: of another run, or of a version that we do not know yet."""
    rig = at_version_one()
    assert transcript(rig.report("ann", **({"version": 1} | changes))) == []  # type: ignore[arg-type]
    assert rig.get("counters") == {"reports_unanswered": 1}
    assert transcript(rig.report("ann", 1)) == ["save result of ann for 1", "tell ann evaluation 1 applied"]


def test_a_node_that_is_not_known_is_asked_who_it_is() -> None:
    rig = at_version_one()
    assert "tell eve rebirth" in transcript(rig.report("eve", 1))


def test_an_evaluation_goes_on_after_a_restart_with_what_was_there() -> None:
    """FED-22, FED-70: the same share for the same version."""
    rig = at_version_one()
    share = survey(rig).share
    rig.report("ann", 1, metrics={"accuracy": 1.0})
    rig.restart()
    rig.start(*NODES)
    assert rig.announced is not None
    assert (rig.announced.model.version, rig.announced.evaluation) == (1, share)
    assert transcript(rig.report("ann", 1)) == ["tell ann evaluation 1 applied"]
    for node in NODES[1:]:
        rig.report(node, 1, metrics={"accuracy": 0.0})
    rig.wait(RETURN_S)
    assert survey(rig).closed
    assert survey(rig).nodes == 4
    assert survey(rig).metrics == {"accuracy": 0.25}


def test_a_node_that_could_not_evaluate_does_not_count_as_a_result_after_a_restart_either() -> None:
    """FED-73: with fewer results than are wanted, the evaluation waits for the others until its lease is over."""
    rig = at_version_one(surveying(nodes_min=2), nodes=("ann", "bob"))
    rig.report("ann", 1, num_examples=0)
    rig.report("bob", 1, num_examples=0)
    rig.restart()
    rig.start("ann", "bob")
    rig.wait(RETURN_S)
    assert not survey(rig).closed
    rig.wait(rig.settings.lease_s + rig.settings.spread_s)
    assert survey(rig).closed


def test_an_evaluation_that_a_crash_left_open_behind_the_newest_is_closed() -> None:
    rig = at_version_one()
    rig.store.surveys = {
        ModelVersion(0): NodesEvaluation(version=ModelVersion(0), share=INT64_MAX),
        **rig.store.surveys,
    }
    assert "close evaluation of 0" in transcript(rig.restart() + rig.connect())
    assert survey(rig, 0).closed
    assert not survey(rig, 1).closed


def test_a_full_disk_receipts_no_result_and_the_mean_is_made_after_the_pause() -> None:
    """FED-72."""
    rig = at_version_one(nodes=("ann", "bob"))
    rig.report("ann", 1)
    rig.failing = True
    assert "tell bob evaluation 1 applied" not in transcript(rig.report("bob", 1))
    assert transcript(rig.report("bob", 1)) == []
    rig.failing = False
    rig.wait(5.0)
    assert "tell bob evaluation 1 applied" in transcript(rig.report("bob", 1))
    assert survey(rig).closed


def test_a_mean_that_did_not_reach_the_disk_is_made_again() -> None:
    rig = at_version_one(nodes=("ann", "bob"))
    rig.report("ann", 1)
    rig.failing, rig.failing_kinds = True, (type(None), *(kind for kind in rig.failing_kinds if "Close" in str(kind)))
    rig.report("bob", 1)
    assert not survey(rig).closed
    rig.failing = False
    rig.wait(5.0)
    assert survey(rig).closed
    assert survey(rig).nodes == 2


def test_a_head_that_nobody_is_asked_to_train_from_is_evaluated_all_the_same() -> None:
    """FED-70: the announcement has a cohort of nobody."""
    rig = Rig(surveying(concurrency=3, buffer=1, refill=3, quorum=1, max_staleness=5))
    rig.start("ann", "bob", "cid")
    first = max(rig.store.rounds)
    done = transcript(rig.offer(rig.store.rounds[first].nodes[0], first))
    assert f"announce round {first + 1} of version 1 to be evaluated" in done
    assert rig.announced is not None
    assert rig.announced.cohort == NOBODY
    assert not rig.announced.final
    assert rig.get("live") == 1


def test_a_finished_run_waits_for_its_last_evaluation_and_then_leaves() -> None:
    rig = at_version_one(surveying(versions=1, exit_when_finished=True), nodes=("ann", "bob"))
    assert rig.announced is not None
    assert rig.announced.final
    assert rig.announced.cohort == NOBODY
    rig.report("ann", 1)
    assert transcript(rig.report("bob", 1))[-2:] == ["publish state offline epoch 1", "stop finished"]


def stopping(patience: int, source: Source = Source.NODES, **changes: object) -> EngineSettings:
    settings = StoppingSettings(source=source, patience=patience)
    return engine(federated_evaluation=FederatedEvaluationSettings(every=1), stopping=settings, **changes)


def one_round(rig: Rig, accuracy: float) -> None:
    """Everybody evaluates the head, and then trains from it."""
    version = rig.store.versions[-1].version
    if version:
        for node in ("ann", "bob"):
            rig.report(node, version, metrics={"accuracy": accuracy})
    if not rig.machine.snapshot()["finished"]:
        for node in ("ann", "bob"):
            rig.offer(node, max(rig.store.rounds))


def test_a_run_ends_when_the_nodes_find_nothing_better_for_so_long() -> None:
    rig = Rig(stopping(2))
    rig.start("ann", "bob")
    for accuracy in (0.0, 0.5, 0.6, 0.6, 0.55):
        one_round(rig, accuracy)
    assert rig.machine.snapshot()["finished"]
    assert rig.store.versions[-1].version == 4
    assert rig.announced is not None
    assert rig.announced.final
    assert rig.store.best == 2


def test_what_arrives_after_an_early_stop_is_stale_and_what_was_asked_is_called_back() -> None:
    """FED-33."""
    rig = Rig(stopping(1, Source.CENTRAL, evaluate_every=1))
    rig.start("ann", "bob")
    for version in (1, 2):
        for node in ("ann", "bob"):
            rig.offer(node, max(rig.store.rounds))
        if version == 1:
            rig.found(1, accuracy=0.9)
    rig.offer("ann", max(rig.store.rounds))
    ended = transcript(rig.found(2, accuracy=0.1))
    assert "save 2-ann stale finished" in ended
    assert "tell bob cancel 2" in ended
    assert "announce round 3 of version 2 final" in [line.removesuffix(" to be evaluated") for line in ended]


def test_an_early_stop_is_still_one_after_a_restart() -> None:
    rig = Rig(stopping(1, Source.CENTRAL, evaluate_every=1))
    rig.start("ann", "bob")
    for version, accuracy in ((1, 0.9), (2, 0.1)):
        for node in ("ann", "bob"):
            rig.offer(node, max(rig.store.rounds))
        rig.found(version, accuracy=accuracy)
    assert rig.machine.snapshot()["finished"]
    said = notes(rig.restart())
    rig.connect()
    assert rig.machine.snapshot()["finished"]
    assert rig.store.best == 1
    # The process that found it out may have been killed before it could say so.
    assert said.count("stopping_early") == 1
    assert "stopping_early" not in notes(rig.tell(None))


def notes(done: Iterable[Effect]) -> list[str]:
    return [effect.event for effect in done if isinstance(effect, Note)]


def test_the_best_model_is_kept_while_the_head_moves_on() -> None:
    rig = Rig(engine(evaluate_every=1))
    rig.start("ann", "bob")
    for version, accuracy in ((1, 0.5), (2, 0.9), (3, 0.4), (4, 0.3)):
        for node in ("ann", "bob"):
            rig.offer(node, max(rig.store.rounds))
        rig.found(version, accuracy=accuracy)
    assert rig.store.best == 2
    assert rig.store.retained == frozenset()
    rig.restart()
    rig.start("ann", "bob")
    for node in ("ann", "bob"):
        rig.offer(node, max(rig.store.rounds))
    assert rig.store.best == 2


def test_a_slow_evaluation_keeps_its_version_until_it_ends() -> None:
    rig = Rig(engine(evaluate_every=1))
    rig.start("ann", "bob")
    for _ in range(4):
        for node in ("ann", "bob"):
            rig.offer(node, max(rig.store.rounds))
    assert rig.store.retained == {1, 2, 3}
    rig.found(1, accuracy=0.9)
    rig.found(2, accuracy=0.1)
    assert rig.store.best == 1
    assert rig.store.retained == {3}


def test_what_has_ended_early_stays_ended_when_a_version_made_since_turns_out_better() -> None:
    rig = Rig(stopping(1, Source.CENTRAL, evaluate_every=1))
    rig.start("ann", "bob")
    for _ in range(3):
        for node in ("ann", "bob"):
            rig.offer(node, max(rig.store.rounds))
    for version, accuracy in ((1, 0.5), (2, 0.4), (3, 0.9)):
        rig.found(version, accuracy=accuracy)
    assert rig.machine.snapshot()["finished"]
    assert rig.waiting_for == "stopped_early"
    assert rig.announced is not None
    assert rig.announced.final
    assert rig.store.best == 3


def test_the_best_version_is_kept_though_the_process_was_killed_before_it_could_say_so() -> None:
    """The next process knows it from the evaluation, which is on disk; two versions later the model would be gone."""
    rig = Rig(engine(evaluate_every=1))
    rig.start("ann", "bob")
    rig.offer("ann", 0)
    rig.offer("bob", 0)
    rig.failing, rig.failing_kinds = True, (effects.RetainModels,)
    rig.found(1, accuracy=0.5)
    rig.failing = False
    rig.restart()
    assert "retain [] best 1" in transcript(rig.connect())
    assert rig.store.best == 1
