"""A node that is asked to evaluate: when it does, what it reports, and how long it repeats it."""

from dataclasses import replace

import numpy as np
import pytest

from edge_node.engine.effects import PublishEvent, StartEvaluation
from edge_node.engine.events import EvaluationFinished, ModelReady
from edge_node.training.adoption import manifest_of
from edge_node.training.evaluation import EvaluationJob, evaluation_event
from edge_node.training.worker import TrainingSetup, evaluated
from federation.errors import TaskError
from federation.privacy.metrics import metric_terms
from federation.privacy.terms import helpers_digest
from federation.protocol.cohort import NOBODY
from federation.protocol.limits import INT64_MAX
from federation.protocol.messages import EvaluationReceipt, EvaluationReport, Presence, ReceiptStatus, RoundAnnouncement
from federation.protocol.sum_messages import MaskedEvaluation, PrivacyTerms
from federation.task import Metrics, Parameters, TaskContext
from federation.tasks.builtin.synthetic import QuadraticTask
from federation.tasks.scaffold import scaffolded, with_controls
from federation.types import Digest, HelperId, ModelVersion, NodeId, RunId
from tests.rigs.node_doubles import MANIFEST, ToyTask, vectors
from tests.rigs.node_rig import OTHER_RUN, RUN, Script, announcement, entry, holding, keyframe, model, version_digest


def asking(round_id: int, version: int, *, trains: bool = False, **changes: object) -> RoundAnnouncement:
    """An announcement that asks everybody to evaluate."""
    plain = announcement(round_id, version, **changes)  # type: ignore[arg-type]
    return replace(plain, evaluation=INT64_MAX) if trains else replace(plain, evaluation=INT64_MAX, cohort=NOBODY)


def found(script: Script, version: int, run: RunId = RUN) -> list[str]:
    """The worker has evaluated."""
    report = EvaluationReport(
        run=run, version=ModelVersion(version), digest=version_digest(version), num_examples=12, metrics={"loss": 0.5}
    )
    return script.on(EvaluationFinished(report=report))


def receipt(script: Script, version: int, run: RunId = RUN) -> list[str]:
    return script.command(EvaluationReceipt(run=run, version=ModelVersion(version), status=ReceiptStatus.APPLIED))


def test_a_node_outside_the_cohort_evaluates_the_announced_model_and_reports_once() -> None:
    """FED-70, FED-71."""
    script = Script(holding(3))
    assert script.announce(asking(7, 3)) == ["evaluate 3"]
    assert found(script, 3) == ["report 3: 12 examples"]
    assert receipt(script, 3) == []
    assert script.machine.deadline() is None
    assert script.announce(asking(8, 3)) == []


def test_a_node_whose_hash_is_not_below_the_share_does_nothing() -> None:
    """FED-70."""
    script = Script(holding(3))
    assert script.announce(replace(asking(7, 3), evaluation=1)) == []
    assert script.announce(replace(asking(8, 3), evaluation=None)) == []


def test_a_model_that_is_not_held_is_pulled_first() -> None:
    """FED-70."""
    script = Script()
    assert script.announce(asking(7, 3)) == [f"enter {RUN}", "subscribe 3/k0"]
    assert script.pull(keyframe(3))[-1].startswith("adopt 3")
    assert script.ready(3) == ["evaluate 3"]


def test_a_node_that_is_asked_for_both_evaluates_before_it_trains() -> None:
    """FED-71."""
    script = Script(holding(3))
    assert script.announce(asking(7, 3, trains=True)) == ["evaluate 3"]
    assert found(script, 3) == ["train 7 from 3", "report 3: 12 examples"]


def test_a_node_that_is_training_evaluates_the_newest_version_afterwards() -> None:
    script = Script(holding(3))
    assert script.announce(announcement(7, 3)) == ["train 7 from 3"]
    assert script.announce(asking(8, 4)) == []
    assert "subscribe 4/k0" in script.trained(7)


def test_an_evaluation_that_runs_is_followed_by_training_when_a_newer_round_asks_for_it() -> None:
    script = Script(holding(3))
    script.announce(asking(7, 3))
    assert script.announce(asking(8, 3, trains=True)) == []
    assert found(script, 3) == ["train 8 from 3", "report 3: 12 examples"]


def test_an_evaluation_is_not_followed_by_training_for_which_there_is_no_room() -> None:
    """FED-30: the outbox is as full after an evaluation as it was before."""
    script = Script(holding(3, outbox=[entry(2)]), outbox_max=1)
    script.announce(asking(7, 3))
    assert script.announce(asking(8, 3, trains=True)) == []
    said = ["report 3: 12 examples", "save round 8", "decline 8: outbox_full (30 s)"]
    assert sorted(found(script, 3)) == sorted(said)


def test_an_evaluation_is_not_followed_by_training_that_the_owner_does_not_allow_any_more() -> None:
    reasons = [None, "power: on battery", "power: on battery"]
    script = Script(holding(3), gate=lambda: reasons.pop(0))
    script.announce(asking(7, 3))
    assert script.announce(asking(8, 3, trains=True)) == []
    said = ["report 3: 12 examples", "save round 8", "decline 8: power: on battery (600 s)"]
    assert sorted(found(script, 3)) == sorted(said)


def test_an_evaluation_of_an_older_version_gives_way_to_the_newer_one() -> None:
    script = Script(holding(3))
    script.announce(asking(7, 3))
    assert script.announce(asking(8, 4)) == ["subscribe 4/k0"]
    assert found(script, 3) == []


def test_a_version_with_the_bits_of_the_next_one_is_not_evaluated_in_its_name() -> None:
    """FED-70: the hash is the announced version's, and an update of nothing but zeros leaves the digest as it was."""
    script = Script()
    script.announce(announcement(7, 3))
    same = asking(8, 4)
    script.announce(replace(same, model=replace(same.model, digest=version_digest(3))))
    assert script.pull(keyframe(3))[-1].startswith("adopt 3")
    assert script.ready(3) == ["train 7 from 3"]


def test_training_from_a_version_with_the_bits_of_the_next_one_gives_way_to_the_next_one() -> None:
    """FED-44: what was trained from the older number would be stale."""
    script = Script()
    script.announce(announcement(7, 3))
    same = announcement(8, model(4), min_base=4)
    script.announce(replace(same, model=replace(same.model, digest=version_digest(3))))
    assert script.pull(keyframe(4))[-1].startswith("adopt 4")
    assert script.on(ModelReady(version=ModelVersion(4), digest=version_digest(3))) == ["train 8 from 4"]


def test_an_evaluation_outlasts_an_announcement_of_the_same_version_that_asks_nobody_to_train() -> None:
    script = Script(holding(3))
    script.announce(asking(7, 3))
    assert script.announce(asking(8, 3)) == []
    assert found(script, 3) == ["report 3: 12 examples"]


def test_a_cancelled_round_does_not_end_the_evaluation() -> None:
    """FED-32."""
    script = Script(holding(3))
    script.announce(asking(7, 3, trains=True))
    assert script.cancel(7) == ["save round 7"]
    assert found(script, 3) == ["report 3: 12 examples"]


def test_a_report_is_repeated_with_growing_pauses_until_its_receipt() -> None:
    """FED-71."""
    script = Script(holding(3), reoffer_s=10.0)
    script.announce(asking(7, 3))
    found(script, 3)
    times = []
    for _ in range(3):
        before = script.now
        assert [line for line in script.wait_until(before + 9.0) if line] == []
        while not (lines := script.wait()):
            pass
        assert lines == ["report 3: 12 examples"]
        times.append(script.now - before)
    assert times == [10.0, 20.0, 40.0]
    receipt(script, 3)
    assert script.machine.deadline() is None


def test_a_receipt_of_another_run_or_version_settles_nothing() -> None:
    script = Script(holding(3))
    script.announce(asking(7, 3))
    found(script, 3)
    receipt(script, 3, OTHER_RUN)
    receipt(script, 2)
    assert script.wait() == ["report 3: 12 examples"]


def test_a_report_waits_for_the_broker_and_for_the_coordinator() -> None:
    """FED-71: at a new epoch, after a reconnect, and not to an absent coordinator."""
    script = Script(holding(3))
    script.coordinator(Presence.LOST)
    script.announce(asking(7, 3))
    assert found(script, 3) == []
    assert script.coordinator() == ["report 3: 12 examples"]
    assert "report 3: 12 examples" in script.coordinator(epoch=2)
    assert "report 3: 12 examples" in script.connect()


def test_another_run_forgets_the_report() -> None:
    """FED-19."""
    script = Script(holding(3))
    script.coordinator()
    script.announce(asking(7, 3))
    found(script, 3)
    script.coordinator(run=OTHER_RUN)
    assert script.wait() == ["state online #7 idle None"]
    assert script.machine.deadline() is None


def test_a_restarted_node_evaluates_again_because_the_announcement_still_stands() -> None:
    """FED-71."""
    script = Script(holding(3, last_round=7))
    assert script.announce(asking(7, 3, trains=True)) == ["evaluate 3"]
    assert found(script, 3) == ["report 3: 12 examples"]


def test_a_node_of_another_task_says_so_once() -> None:
    """FED-71."""
    script = Script(holding(3))
    assert script.announce(asking(7, 3, task="other")) == ["report 3: 0 examples, task is toy"]
    receipt(script, 3)
    assert script.announce(asking(8, 3, task="other")) == []


def test_an_owners_condition_that_is_not_met_is_the_reason_of_the_report() -> None:
    """FED-71."""
    script = Script(holding(3), gate=lambda: "power: on battery")
    assert script.announce(asking(7, 3)) == ["report 3: 0 examples, power: on battery"]


def test_a_model_that_cannot_be_had_is_the_reason_of_the_report() -> None:
    script = Script()
    plain = asking(7, 3)
    unreachable = replace(plain, model=replace(plain.model, parts=()))
    assert script.announce(unreachable) == [f"enter {RUN}", "report 3: 0 examples, no parts lead to version 3"]


def test_the_last_version_is_evaluated_before_a_node_leaves() -> None:
    """FED-33: the final announcement may ask for an evaluation."""
    script = Script(holding(3), exit_when_finished=True)
    assert script.announce(asking(9, 3, final=True)) == ["evaluate 3"]
    assert found(script, 3) == ["report 3: 12 examples"]
    assert receipt(script, 3)[-1] == "stop: finished"


def test_a_node_that_nobody_receipts_leaves_all_the_same() -> None:
    script = Script(holding(3), exit_when_finished=True, exit_linger_s=30.0)
    script.announce(asking(9, 3, final=True))
    began = script.now
    while script.machine.deadline() is not None:
        lines = script.wait()
    assert lines[-1] == "stop: finished"
    assert script.now == began + 30.0


def test_a_birth_says_what_the_device_has() -> None:
    """FED-74."""
    script = Script(holding(3), has=lambda: {"memory_bytes": 1e9, "mains": 1.0})
    assert script.capabilities == {"memory_bytes": 1e9, "mains": 1.0, "cosine_frames": 1.0}
    assert Script(holding(3)).capabilities == {"cosine_frames": 1.0}, "FED-235"


class Measuring(ToyTask):
    """Finds what a test tells it."""

    def __init__(self, metrics: Metrics | BaseException) -> None:
        super().__init__()
        self.found = metrics

    def evaluate(self, parameters: Parameters) -> Metrics:
        if isinstance(self.found, BaseException):
            raise self.found
        weight = float(np.asarray(parameters["weight"], np.float64).mean())
        return {**self.found, "weight": weight} if self.found else {}


class Watch:
    """Half a second passes."""

    def __init__(self) -> None:
        self.readings = [10.0, 10.5]

    def now(self) -> float:
        return self.readings.pop(0)


def reported(metrics: Metrics | BaseException) -> EvaluationReport:
    job = EvaluationJob(run=RUN, version=ModelVersion(4), digest=version_digest(4), model=vectors(2.0))
    return evaluation_event(Measuring(metrics), MANIFEST, job, Watch()).report


def test_the_task_evaluates_the_model_and_its_test_examples_are_the_weight() -> None:
    report = reported({"accuracy": 0.5, "test_examples": 120.0})
    assert (report.num_examples, report.metrics) == (120, {"accuracy": 0.5, "weight": 2.0})
    assert (report.version, report.digest, report.evaluate_s, report.reason) == (4, version_digest(4), 0.5, "")


def test_a_task_that_does_not_count_its_test_examples_weighs_one() -> None:
    assert reported({"accuracy": 0.5}).num_examples == 1


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        ({}, "the task evaluates nothing on this node"),
        (TaskError("no test data"), "no test data"),
        (ZeroDivisionError("by zero"), "ZeroDivisionError: by zero"),
        (SystemExit(3), "SystemExit: 3"),
    ],
)
def test_a_task_that_fails_costs_its_numbers_and_not_the_worker(outcome: Metrics | BaseException, reason: str) -> None:
    report = reported(outcome)
    assert (report.num_examples, report.metrics) == (0, {})
    assert report.reason.split(" (")[0] == reason, "the place follows"


def test_a_model_with_control_variates_is_evaluated_without_them_and_with_what_the_node_keeps() -> None:
    class Keeping(QuadraticTask):
        kept: Parameters = {}  # noqa: RUF012 - replaced, never changed

        def restore(self, state: Parameters) -> None:
            self.kept = state

    task = Keeping(TaskContext(node_index=0, node_count=1), size=3)
    setup = TrainingSetup(node=NodeId("ann"), task=task, manifest=manifest_of(task))
    under = scaffolded(task)
    arrays = dict(under.initial_parameters(1))
    manifest = with_controls(setup.manifest)
    job = EvaluationJob(
        run=RUN,
        version=ModelVersion(4),
        digest=version_digest(4),
        model=manifest.flatten(arrays),
        manifest_digest=manifest.digest,
        state={"head": np.ones(1), "control.point": np.ones(3)},
    )
    report = evaluated(setup, job, Watch()).report
    assert report.metrics == task.evaluate({"point": arrays["point"]})
    assert task.kept.keys() == {"head"}
    plain = replace(job, model=setup.manifest.flatten({"point": arrays["point"]}), manifest_digest=b"")
    assert evaluated(setup, plain, Watch()).report.metrics == report.metrics


# --- a device that uses the model -------------------------------------------------------------------------------------


def test_a_device_that_uses_the_model_takes_every_version_and_reports_none_that_nobody_asked_for() -> None:
    script = Script(holding(3), uses_model=True)
    assert script.announce(replace(announcement(7, 3), cohort=NOBODY)) == ["evaluate 3"]
    assert found(script, 3) == []
    assert "subscribe 4/k0" in script.announce(replace(announcement(8, 4), cohort=NOBODY))


def test_what_is_asked_for_later_is_evaluated_again_and_reported() -> None:
    script = Script(holding(3), uses_model=True)
    script.announce(replace(announcement(7, 3), cohort=NOBODY))
    found(script, 3)
    assert script.announce(asking(8, 3)) == ["evaluate 3"]
    assert found(script, 3) == ["report 3: 12 examples"]


def test_a_device_that_may_not_work_now_is_offered_the_version_later() -> None:
    reasons: list[str | None] = ["power: on battery", None]
    script = Script(holding(3), gate=lambda: reasons.pop(0), uses_model=True)
    assert script.announce(replace(announcement(7, 3), cohort=NOBODY)) == []
    assert script.wait() == ["evaluate 3"]
    assert found(script, 3) == []
    assert script.machine.deadline() is None


def test_versions_are_offered_at_the_pace_that_flash_memory_stands_and_the_last_one_at_once() -> None:
    script = Script(holding(3), uses_model=True, model_every_s=3_600.0)
    script.announce(replace(announcement(7, 3), cohort=NOBODY))
    found(script, 3)
    assert script.announce(replace(announcement(8, 4), cohort=NOBODY)) == []
    assert "subscribe 4/k0" in script.wait()
    assert "subscribe 5/k0" in script.announce(replace(announcement(9, 5), cohort=NOBODY, final=True))


def test_a_device_that_trains_is_offered_what_it_trains_from() -> None:
    script = Script(holding(3), uses_model=True)
    assert script.announce(announcement(7, 3)) == ["evaluate 3"]
    assert found(script, 3) == ["train 7 from 3"]


# --- under masks ----------------------------------------------------------------------------------------------------


PINNED = {HelperId("alder"): b"a" * 32, HelperId("birch"): b"b" * 32}
TERMS = PrivacyTerms(
    scheme=1,
    helpers=helpers_digest(list(PINNED.values()), 2),
    count=2,
    threshold=2,
    dimension=6,
    tail=5,
    step=0.5,
    levels=1,
    members=8,
    bits=5,
)
METRICS = ("loss", "accuracy")


def hidden(round_id: int, version: int, **changes: object) -> RoundAnnouncement:
    """An announcement that asks everybody to evaluate under masks."""
    asked = MaskedEvaluation(share=INT64_MAX, metrics=METRICS)
    plain = {"evaluation": None, "codec": "masked", "privacy": TERMS, "masked_evaluation": asked}
    return replace(asking(round_id, version), **{**plain, **changes})  # type: ignore[arg-type]


def pinning() -> Script:
    return Script(holding(3), helpers=PINNED)


def test_a_node_that_is_asked_under_masks_evaluates_under_the_terms_of_its_helpers() -> None:
    """FED-195, FED-196."""
    script = pinning()
    script.announce(hidden(7, 3))
    started = [effect for effect in script.effects if isinstance(effect, StartEvaluation)]
    assert [effect.hidden for effect in started] == [(metric_terms(TERMS, len(METRICS)), METRICS)]


@pytest.mark.parametrize(
    "changes",
    [
        {"masked_evaluation": None, "evaluation": INT64_MAX},
        {"masked_evaluation": None, "evaluation": INT64_MAX, "privacy": None, "codec": "edge"},
        {"privacy": replace(TERMS, helpers=Digest(b"x" * 16))},
        {"codec": "edge"},
    ],
    ids=["in clear beside masks", "in clear", "other helpers", "another codec"],
)
def test_a_node_with_pinned_helpers_reports_no_number_that_is_not_masked_for_them(changes: dict[str, object]) -> None:
    """FED-195."""
    script = pinning()
    done = script.announce(hidden(7, 3, **changes))
    assert not any(line.startswith("evaluate") for line in done)
    reports = [effect.message for effect in script.effects if isinstance(effect, PublishEvent)]
    assert len(reports) == 1
    assert isinstance(reports[0], EvaluationReport)
    assert (reports[0].num_examples, reports[0].metrics, reports[0].masked) == (0, {}, None)
    assert reports[0].reason.startswith("helpers: ")


def test_a_node_without_helpers_reports_nothing_in_clear_in_a_masked_run() -> None:
    """FED-195."""
    script = Script(holding(3))
    clear = hidden(7, 3, masked_evaluation=None, evaluation=INT64_MAX)
    told = "helpers: the numbers of this node would be told in clear"
    assert script.announce(clear) == [f"report 3: 0 examples, {told}"]


def test_a_node_says_that_it_can_report_under_masks() -> None:
    """FED-74."""
    script = Script(holding(3), helpers=PINNED, online=False)
    script.connect()
    assert script.capabilities == {"cosine_frames": 1.0, "masked_reports": 1.0}


@pytest.mark.parametrize("uses_model", [False, True])
def test_a_version_that_a_restored_run_has_made_anew_is_another_one(uses_model: bool) -> None:
    """FED-71: its number is that of a version that was lost with what the backup had not."""
    script = Script(holding(3), uses_model=uses_model)
    script.announce(asking(7, 3))
    found(script, 3)
    receipt(script, 3)
    anew = replace(asking(20, 3, epoch=2), model=replace(model(3), digest=Digest(b"made anew" * 2)))
    if uses_model:
        anew = replace(anew, evaluation=None)
    assert "subscribe 3/k0" in script.announce(anew)
