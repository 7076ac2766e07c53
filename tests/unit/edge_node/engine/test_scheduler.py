"""The one round at work: which one, from which model, and when it ends (FED-26 to FED-39)."""

from dataclasses import replace
from typing import Any

import pytest

from edge_node.engine.effects import AdoptModel, Effect, PublishProgress, PublishState, SaveOutbox, StartTraining
from edge_node.engine.events import (
    BrokerDisconnected,
    ModelReady,
    ModelRejected,
    StorageFailed,
    TrainingFailed,
    TrainingFinished,
)
from edge_node.engine.settings import TrainBounds
from federation.protocol.cohort import NOBODY
from federation.protocol.messages import Activity, TrainSettings
from federation.types import ModelVersion, RoundId
from tests.rigs.node_rig import (
    OTHER_RUN,
    RUN,
    Script,
    announcement,
    delta,
    holding,
    keyframe,
    model,
    result,
    version_digest,
)


def attempt_of(node: Script) -> int:
    """The attempt that the last event has begun."""
    return next(effect.attempt for effect in node.effects if isinstance(effect, StartTraining))


def training(round_id: int = 5, version: int = 3) -> Script:
    node = Script(holding(version))
    assert node.announce(announcement(round_id, version)) == [f"train {round_id} from {version}"]
    return node


def fetching(about: int = 4, **changes: Any) -> Script:
    """Holds version 3, pulls the keyframe of another one for round 5."""
    node = Script(holding(3), **changes)
    assert node.announce(announcement(5, about)) == [f"subscribe {about}/k0"]
    return node


def rejected(version: int, reason: str = "digest") -> ModelRejected:
    return ModelRejected(version=ModelVersion(version), reason=reason)


# --- which round ----------------------------------------------------------------------------------------------------


def test_a_round_that_was_finished_before_the_restart_is_not_taken_again() -> None:
    """FED-27."""
    node = Script(holding(3, last_round=5))
    assert node.announce(announcement(5, 3)) == []
    assert node.announce(announcement(6, 3)) == ["train 6 from 3"]


def test_an_announcement_that_is_heard_twice_or_out_of_order_is_taken_once() -> None:
    """FED-27."""
    node = training(5)
    assert node.announce(announcement(5, 3)) == []
    assert node.announce(announcement(4, 3)) == []
    node.trained(5)
    assert node.announce(announcement(5, 3)) == []


def test_a_round_beyond_the_bounds_is_declined_once_and_the_work_at_hand_goes_on() -> None:
    """FED-30, FED-34."""
    node = training(5)
    greedy = announcement(6, 3, settings=TrainSettings(local_epochs=1000))
    assert node.announce(greedy) == ["save round 6", "decline 6: local_epochs 1000 is above 100 (600 s)"]
    assert node.announce(greedy) == []
    assert node.trained(5) == ["save update 5-pi-3"]


def test_a_newer_round_during_the_fetch_of_an_old_version_replaces_it() -> None:
    """FED-31."""
    node = fetching(4)
    assert node.announce(announcement(6, 5)) == ["unsubscribe 4/k0", "subscribe 5/k0"]
    assert node.machine.snapshot()["work"] == {
        "round": 6,
        "stage": "fetching",
        "version": 5,
        "overdue": False,
        "next_round": None,
    }


def test_a_newer_round_with_the_same_model_keeps_what_was_fetched() -> None:
    node = fetching(4)
    node.chunk(keyframe(4), 0)
    assert node.announce(announcement(6, 4)) == []
    assert node.notes() == ["round_joined"]
    node.chunk(keyframe(4), 1)
    assert node.chunk(keyframe(4), 2) == ["unsubscribe 4/k0", "adopt 4 from keyframe 4"]
    assert node.ready(4) == ["train 6 from 4"]


def test_a_round_that_asks_others_leaves_a_good_fetch_alone() -> None:
    """FED-31."""
    node = fetching(4)
    assert node.announce(announcement(6, 5, cohort=NOBODY, min_base=4)) == []
    node.pull(keyframe(4))
    assert node.ready(4) == ["train 5 from 4"]


def test_a_fetch_that_has_nothing_of_a_part_that_was_cleared_moves_to_the_newest_version() -> None:
    """FED-35, FED-31: the announcement before is kept, too; what only an older one named never comes."""
    node = fetching(4)
    assert node.announce(announcement(6, 5, cohort=NOBODY)) == []
    assert node.announce(announcement(7, 6, cohort=NOBODY)) == ["unsubscribe 4/k0", "subscribe 6/k0"]
    node.pull(keyframe(6))
    assert node.ready(6) == ["train 5 from 6"]


def test_a_fetch_to_which_something_comes_goes_on_until_it_stops() -> None:
    """FED-35: what the broker has sent is on its way, whatever was cleared behind it; then the newest is pulled."""
    node = fetching(4)
    node.chunk(keyframe(4), 0)
    for round_id, version in ((6, 5), (7, 6), (8, 7)):
        assert node.announce(announcement(round_id, version, cohort=NOBODY)) == []
    node.now += 5.0
    node.chunk(keyframe(4), 1)
    assert node.wait() == ["unsubscribe 4/k0", "subscribe 7/k0"]
    assert node.now == 115.0, "after one time-out, not six"


def test_a_fetch_of_a_part_that_is_still_listed_is_left_alone() -> None:
    """FED-36."""
    node = Script(holding(3))
    chain = [keyframe(3, 95), delta(4, 25), delta(5, 25), delta(6, 25)]
    assert node.announce(announcement(5, model(4, chain[:2]))) == ["subscribe 4/d0"]
    assert node.announce(announcement(6, model(5, chain[:3]), cohort=NOBODY)) == []
    assert node.announce(announcement(7, model(6, chain), cohort=NOBODY)) == []
    assert node.wait() == ["unsubscribe 4/d0", "subscribe 4/d0"]
    assert node.pull(delta(4, 25))[-1] == "adopt 4 from delta 4"


def test_a_fetch_that_waits_for_a_connection_does_not_ask_for_what_was_cleared() -> None:
    """FED-35."""
    node = Script(holding(3), online=False)
    node.announce(announcement(5, model(4, [keyframe(4)])))
    node.announce(announcement(6, 5, cohort=NOBODY))
    node.announce(announcement(7, 6, cohort=NOBODY))
    assert node.connect()[1:] == ["subscribe 6/k0"]


def test_a_fetch_that_would_lead_to_a_stale_update_moves_to_the_newest_version() -> None:
    """FED-31."""
    node = fetching(4)
    assert node.announce(announcement(9, 7, cohort=NOBODY, min_base=5)) == ["unsubscribe 4/k0", "subscribe 7/k0"]
    node.pull(keyframe(7))
    assert node.ready(7) == ["train 5 from 7"]


def test_a_waiting_assignment_is_replaced_by_a_newer_one() -> None:
    node = Script(holding(3), draw=0.5)
    node.announce(announcement(5, 3, spread_s=10.0))
    assert node.announce(announcement(6, 3, spread_s=20.0)) == []
    assert node.machine.deadline() == 110.0
    assert node.wait() == ["train 6 from 3"]


def test_the_random_wait_is_at_most_the_lease() -> None:
    """FED-28."""
    node = Script(holding(3), draw=0.5)
    node.announce(announcement(5, 3, spread_s=1e6, lease_s=60.0))
    assert node.machine.deadline() == 130.0


def test_the_update_names_the_round_that_asked_and_the_version_it_was_trained_from() -> None:
    node = Script(holding(3), draw=0.5)
    node.announce(announcement(5, 3, spread_s=10.0))
    node.announce(announcement(6, 4, cohort=NOBODY))
    node.wait()
    node.pull(keyframe(4))
    node.ready(4)
    started = next(effect for effect in node.effects if isinstance(effect, StartTraining))
    assert (started.announcement.round, started.announcement.model.version) == (5, 4)
    node.trained(5)
    offer = next(effect.offer for effect in node.effects if isinstance(effect, SaveOutbox))
    assert (offer.round, offer.base_version, offer.base_digest) == (5, 4, version_digest(4))
    assert (offer.run, offer.incarnation, offer.num_examples, offer.train_s) == (RUN, 7, 10, 2.0)
    assert (offer.payload_bytes, offer.fetched_bytes, offer.inline) == (5, 25, None)


# --- the next round -------------------------------------------------------------------------------------------------


def test_only_the_newest_round_waits_behind_the_work() -> None:
    """FED-31."""
    node = training(5)
    node.announce(announcement(6, 3))
    node.announce(announcement(7, 3))
    assert node.trained(5) == ["save update 5-pi-3", "train 7 from 3"]
    assert node.trained(7) == ["save update 7-pi-3"]


def test_a_waiting_round_that_no_longer_is_the_current_one_starts_from_the_newest_model() -> None:
    node = training(5)
    node.announce(announcement(6, 3))
    node.announce(announcement(7, 4, cohort=NOBODY))
    assert node.trained(5) == ["save update 5-pi-3", "subscribe 4/k0"]


def test_a_waiting_round_whose_lease_has_passed_is_left_to_others() -> None:
    """FED-29."""
    node = training(5)
    node.announce(announcement(6, 3, lease_s=50.0))
    node.announce(announcement(7, 3, cohort=NOBODY))
    node.now += 51.0
    assert node.trained(5) == ["save update 5-pi-3"]
    assert node.machine.snapshot()["activity"] == "uploading"


def test_a_waiting_round_that_still_is_the_current_one_is_taken_after_its_lease() -> None:
    node = training(5)
    node.announce(announcement(6, 3, lease_s=50.0))
    node.now += 51.0
    assert node.trained(5) == ["save update 5-pi-3", "train 6 from 3"]


def test_a_waiting_round_finds_the_outbox_full() -> None:
    """FED-30."""
    node = Script(holding(3), outbox_max=1)
    node.announce(announcement(5, 3))
    node.announce(announcement(6, 3))
    declined = ["save round 6", "decline 6: outbox_full (30 s)"]
    assert node.trained(5) == ["save update 5-pi-3", *declined]


def test_a_cancelled_round_makes_room_for_the_one_that_waits() -> None:
    """FED-32."""
    node = training(5)
    node.announce(announcement(6, 3))
    assert node.cancel(5) == ["stop training 5", "save round 5", "train 6 from 3"]


def test_a_round_that_waits_can_be_cancelled() -> None:
    """FED-32."""
    node = training(5)
    node.announce(announcement(6, 3))
    assert node.cancel(6) == []
    assert node.trained(5) == ["save update 5-pi-3"]


def test_a_cancel_of_an_unknown_round_or_of_another_run_changes_nothing() -> None:
    """FED-32."""
    node = training(5)
    node.announce(announcement(6, 3))
    assert node.cancel(4) == []
    assert node.cancel(5, run=OTHER_RUN) == []
    assert node.trained(5) == ["save update 5-pi-3", "train 6 from 3"]


def test_a_fetch_is_cancelled_with_its_subscription() -> None:
    """FED-32."""
    assert fetching(4).cancel(5) == ["unsubscribe 4/k0", "save round 5"]


# --- the model ------------------------------------------------------------------------------------------------------


def test_a_seed_that_does_not_give_the_digest_leads_to_the_keyframe() -> None:
    """FED-38."""
    node = Script()
    assert node.announce(announcement(1, model(0, seed=5))) == [f"enter {RUN}", "make 0 from seed 5"]
    assert node.on(rejected(0)) == ["subscribe 0/k0"]
    assert node.pull(keyframe(0)) == ["unsubscribe 0/k0", "adopt 0 from keyframe 0"]
    assert node.ready(0) == ["train 1 from 0"]


def test_a_newcomer_pulls_only_deltas_and_falls_back_to_the_keyframe_when_its_own_version_0_is_another() -> None:
    """FED-38, FED-39."""
    node = Script()
    about = model(2, [keyframe(0), delta(1), delta(2)], seed=5)
    assert node.announce(announcement(3, about)) == [f"enter {RUN}", "subscribe 1/d0"]
    assert node.pull(delta(1)) == ["unsubscribe 1/d0", "subscribe 2/d0"]
    assert node.pull(delta(2)) == ["unsubscribe 2/d0", "adopt 2 from delta 1, delta 2"]
    assert node.on(rejected(2)) == ["subscribe 0/k0"]


def test_a_seed_is_not_needed_when_the_version_is_held() -> None:
    """FED-38."""
    assert Script(holding(0)).announce(announcement(1, model(0, seed=5))) == ["train 1 from 0"]


def test_the_same_version_with_another_digest_is_pulled() -> None:
    """FED-39."""
    about = replace(model(3), digest=version_digest(99))
    node = Script(holding(3))
    assert node.announce(announcement(5, about)) == ["subscribe 3/k0"]
    node.pull(keyframe(3))
    other = ModelReady(version=ModelVersion(3), digest=version_digest(99))
    assert node.on(other) == ["train 5 from 3"]


def test_a_model_that_is_ready_but_is_another_one_is_not_trained_from() -> None:
    """FED-39."""
    node = fetching(4)
    node.pull(keyframe(4))
    assert node.ready(2) == ["save round 5", "decline 5: another model was adopted (30 s)"]


def test_a_model_that_is_ready_when_nobody_waits_is_kept() -> None:
    node = Script(holding(3))
    assert node.ready(4) == []
    assert node.announce(announcement(5, 4)) == ["train 5 from 4"]


def test_no_part_that_leads_to_the_version_is_a_reason_to_decline() -> None:
    node = Script(holding(3))
    assert node.announce(announcement(9, model(7, [delta(7)]))) == [
        "save round 9",
        "decline 9: no parts lead to version 7 (30 s)",
    ]


def test_a_model_beyond_the_bound_is_declined_before_anything_is_pulled() -> None:
    """FED-34, FED-40."""
    node = Script(holding(3), bounds=TrainBounds(model_bytes_max=24))
    assert node.announce(announcement(5, 4)) == ["save round 5", "decline 5: the model has 25 bytes (30 s)"]


def test_a_payload_that_belies_its_digest_leads_from_the_chain_to_the_keyframe() -> None:
    """FED-39, FED-40."""
    lie = replace(delta(4), payload_digest=version_digest(1))
    node = Script(holding(3))
    assert node.announce(announcement(5, model(4, [keyframe(4), lie]))) == ["subscribe 4/d0"]
    assert node.chunk(lie, 0) == ["unsubscribe 4/d0", "subscribe 4/k0"]
    assert node.notes() == ["model_fallback"]


def test_a_model_that_the_shell_does_not_hold_after_all_is_pulled() -> None:
    """FED-39: the state folder was repaired behind the machine's back."""
    node = training(5, version=3)
    assert node.on(rejected(3, "not held")) == ["subscribe 3/k0"]


@pytest.mark.parametrize("version", [2, 3])
def test_a_rejection_of_something_else_changes_nothing(version: int) -> None:
    node = fetching(4)
    assert node.on(rejected(version)) == []
    assert node.on(rejected(4)) == []
    assert Script(holding(3)).on(rejected(3)) == []
    assert training(5, version=9).on(rejected(version)) == []


def test_a_model_that_cannot_be_saved_is_like_a_rejected_one() -> None:
    node = fetching(4)
    node.pull(keyframe(4))
    adopt: Effect = next(effect for effect in node.effects if isinstance(effect, AdoptModel))
    failed = StorageFailed(detail="disk full", effect=adopt)
    assert node.on(failed) == ["save round 5", "decline 5: disk full (30 s)"]


def test_a_fetch_that_becomes_due_without_a_broker_begins_at_the_reconnect() -> None:
    node = Script(holding(3), draw=0.5)
    node.announce(announcement(5, 4, spread_s=10.0))
    assert node.on(BrokerDisconnected(reason="cut")) == []
    assert node.wait() == []
    assert node.connect() == ["state online #7 fetching 5", "subscribe 4/k0"]


def test_training_needs_no_broker() -> None:
    node = training(5)
    assert node.on(BrokerDisconnected(reason="cut")) == []
    assert node.trained(5) == ["save update 5-pi-3"]
    assert node.saved() == []
    assert node.connect() == ["state online #7 uploading 5", "offer 5-pi-3 inline"]


def test_chunks_without_a_fetch_are_ignored() -> None:
    assert training(5).pull(keyframe(4)) == []
    assert Script(holding(3)).pull(keyframe(4)) == []


# --- what is said ---------------------------------------------------------------------------------------------------


def test_telemetry_says_what_the_node_is_doing() -> None:
    """FED-53."""

    def said(node: Script) -> list[Activity]:
        return [effect.progress.activity for effect in node.effects if isinstance(effect, PublishProgress)]

    node = fetching(4, progress_after_s=1.0)
    node.wait()
    assert said(node) == [Activity.FETCHING]
    assert node.machine.snapshot()["activity"] == "fetching"
    node.pull(keyframe(4))
    node.ready(4)
    assert said(node) == [], "a short training speaks for itself"
    node.wait()
    assert said(node) == [Activity.TRAINING]
    assert node.machine.snapshot()["activity"] == "training"


@pytest.mark.parametrize("late", ["finished", "failed"])
def test_what_was_begun_before_another_run_was_heard_does_not_answer_for_what_was_begun_after(late: str) -> None:
    """The same round of the same run: its residual and its state are of before they were forgotten."""
    node = training(5)
    first = attempt_of(node)
    node.coordinator(run=OTHER_RUN, epoch=1)
    node.coordinator(run=RUN, epoch=2)
    node.announce(announcement(5, 4, epoch=2))
    node.pull(keyframe(4))
    assert node.ready(4) == ["train 5 from 4"]
    second = attempt_of(node)
    old, new = (replace(result(5, run=RUN), attempt=attempt) for attempt in (first, second))
    if late == "finished":
        assert node.on(TrainingFinished(result=old)) == []
    else:
        assert node.on(TrainingFailed(round=RoundId(5), reason="stopped", run=RUN, attempt=first)) == []
    assert node.on(TrainingFinished(result=new)) == ["save update 5-pi-3"]


def test_a_failure_of_a_round_that_is_over_or_of_another_run_is_ignored() -> None:
    node = training(5)
    assert node.on(TrainingFailed(round=RoundId(4), reason="late")) == []
    assert node.on(TrainingFailed(round=RoundId(5), reason="late", run=OTHER_RUN)) == []
    assert node.on(TrainingFailed(round=RoundId(5), reason="oops", run=RUN)) == [
        "save round 5",
        "decline 5: oops (30 s)",
    ]
    assert node.on(TrainingFailed(round=RoundId(5), reason="oops", run=RUN)) == []


def test_a_failure_text_is_cut_to_what_a_message_can_carry() -> None:
    """FED-30."""
    node = training(5)
    (_, line) = node.on(TrainingFailed(round=RoundId(5), reason="x" * 5000))
    assert line == f"decline 5: {'x' * 200} (30 s)"


def test_the_offer_names_the_codec_that_made_the_frame() -> None:
    node = training(5)
    node.on(TrainingFinished(result=replace(result(5), codec="deadzone(bpp=0.1,feedback=1)")))
    (save,) = [effect for effect in node.effects if isinstance(effect, SaveOutbox)]
    assert save.offer.codec == "deadzone(bpp=0.1,feedback=1)"


def test_a_training_beyond_the_owners_time_is_stopped_and_declined() -> None:
    """FED-34: whatever the lease says."""
    node = Script(holding(3), bounds=TrainBounds(train_s_max=60.0))
    began = node.now
    node.announce(announcement(5, 3, lease_s=6_000.0))
    node.announce(announcement(6, 3, lease_s=6_000.0))
    assert node.wait_until(began + 59.0) == []
    declined = "decline 5: training took 60 s, the bound of bounds.train_s_max (600 s)"
    assert node.wait() == ["stop training 5", "save round 5", declined, "train 6 from 3"]
    assert node.now == began + 60.0
    assert node.trained(5) == []


def test_a_training_in_time_is_offered_and_later_stopped_by_nobody() -> None:
    node = Script(holding(3), bounds=TrainBounds(train_s_max=60.0))
    node.announce(announcement(5, 3))
    assert node.trained(5) == ["save update 5-pi-3"]
    node.saved()
    assert not [line for line in node.wait_until(node.now + 100.0) if "stop" in line or "decline" in line]


class TestInvitations:
    """FED-190 and FED-192: asked on the node's own topic, beside what stands for all."""

    def test_it_is_obeyed_as_an_announcement(self) -> None:
        script = Script(holding(0))
        script.announce(announcement(1, cohort=NOBODY))
        assert script.announce(announcement(2), invited=True)[-1] == "train 2 from 0"
        assert script.announce(announcement(2), invited=True) == []
        assert script.announce(announcement(1)) == []

    def test_what_it_names_is_pulled_until_all_are_told_of_something_newer(self) -> None:
        script = Script(holding(0))
        script.announce(announcement(1, 1, cohort=NOBODY))
        script.announce(announcement(2, 2), invited=True)
        found = script.announce(announcement(6, 4, cohort=NOBODY))
        assert any(line.startswith("unsubscribe 2/") for line in found), found
        assert any(line.startswith("subscribe 4/") for line in found), found

    def test_a_birth_says_that_invitations_are_read(self) -> None:
        script = Script()
        script.connect()
        (state,) = [effect.state for effect in script.effects if isinstance(effect, PublishState)]
        assert state.invitable is True
