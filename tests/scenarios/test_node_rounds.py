"""How a node takes part in rounds, as transcripts: what happens on the left, what it does about it on the right."""

from edge_node.engine.events import ModelRejected, StopRequested, TrainingFailed
from federation.protocol.cohort import NOBODY, cohort_of
from federation.protocol.messages import Presence, ReceiptStatus
from federation.types import ModelVersion, NodeId, RoundId
from tests.rigs.node_rig import NODE, RUN, Script, announcement, delta, holding, keyframe, model


def test_a_first_round_from_the_seed_to_the_receipt() -> None:
    """FED-27, FED-38, FED-41, FED-42, FED-51."""
    node = Script(online=False)
    assert node.connect() == ["state online #7 idle None"]
    assert node.coordinator() == [f"enter {RUN}", "state online #7 idle None"]
    assert node.announce(announcement(1, model(0, seed=5))) == ["make 0 from seed 5"]
    assert node.ready(0) == ["train 1 from 0"]
    assert node.trained(1) == ["save update 1-pi-3"]
    assert node.saved() == ["offer 1-pi-3 inline"]
    assert node.receipt(1, ReceiptStatus.STORED) == ["mark 1-pi-3 stored"]
    assert node.receipt(1, ReceiptStatus.APPLIED) == ["settle 1-pi-3, applied"]
    assert node.machine.deadline() is None


def test_the_next_round_needs_only_the_delta() -> None:
    """FED-36, FED-37."""
    step = delta(4, 25)
    node = Script(holding(3))
    assert node.announce(announcement(9, model(4, [keyframe(4, 95), step]))) == ["subscribe 4/d0"]
    assert node.chunk(step, 1) == []
    assert node.chunk(step, 2) == []
    assert node.chunk(step, 0) == ["unsubscribe 4/d0", "adopt 4 from delta 4"]
    assert node.ready(4) == ["train 9 from 4"]


def test_a_node_that_was_away_for_long_pulls_the_keyframe_in_segments() -> None:
    """FED-36, FED-37: 300 chunks are two segments, one subscription at a time."""
    whole = keyframe(90, 2_995)
    node = Script(holding(3))
    assert node.announce(announcement(91, model(90, [whole, delta(90), delta(89)]))) == ["subscribe 90/k0"]
    assert node.pull(whole) == [
        "unsubscribe 90/k0",
        "subscribe 90/k1",
        "unsubscribe 90/k1",
        "adopt 90 from keyframe 90",
    ]


def test_a_wrong_chain_leads_to_the_keyframe_and_a_wrong_keyframe_to_a_decline() -> None:
    """FED-39, FED-30."""
    whole, step = keyframe(4, 15), delta(4)
    node = Script(holding(3))
    assert node.announce(announcement(9, model(4, [whole, step]))) == ["subscribe 4/d0"]
    assert node.pull(step) == ["unsubscribe 4/d0", "adopt 4 from delta 4"]
    assert node.on(ModelRejected(version=ModelVersion(4), reason="digest")) == ["subscribe 4/k0"]
    assert node.pull(whole) == ["unsubscribe 4/k0", "adopt 4 from keyframe 4"]
    rejected = ModelRejected(version=ModelVersion(4), reason="digest")
    assert node.on(rejected) == ["save round 9", "decline 9: digest (30 s)"]
    assert node.announce(announcement(10, model(4, [whole, step]))) == ["subscribe 4/k0"]


def test_a_node_outside_the_cohort_does_nothing() -> None:
    """FED-26."""
    node = Script(holding(0))
    others = cohort_of(RUN, RoundId(1), [NodeId("somebody-else")])
    assert node.announce(announcement(1, cohort=others)) == []
    assert node.announce(announcement(2, cohort=cohort_of(RUN, RoundId(2), [NODE]))) == ["train 2 from 0"]


def test_the_random_wait_before_the_reaction_ends_at_the_newest_version() -> None:
    """FED-28: 0.5 of a spread of 8 s."""
    node = Script(holding(0), draw=0.5)
    assert node.announce(announcement(1, 0, spread_s=8.0)) == []
    assert node.machine.deadline() == 104.0
    assert node.announce(announcement(2, 1, cohort=NOBODY)) == []
    assert node.wait() == ["subscribe 1/k0"]
    assert node.pull(keyframe(1)) == ["unsubscribe 1/k0", "adopt 1 from keyframe 1"]
    assert node.ready(1) == ["train 1 from 1"]


def test_fresh_enough_work_is_finished_before_the_next_round_is_taken() -> None:
    """FED-31."""
    node = Script(holding(3))
    assert node.announce(announcement(5, 3)) == ["train 5 from 3"]
    assert node.announce(announcement(6, model(4, [delta(4)]), min_base=2)) == []
    assert node.trained(5) == ["save update 5-pi-3", "subscribe 4/d0"]
    assert node.saved() == ["offer 5-pi-3 inline"]


def test_work_that_would_be_stale_is_stopped() -> None:
    """FED-31."""
    node = Script(holding(3))
    assert node.announce(announcement(5, 3)) == ["train 5 from 3"]
    assert node.announce(announcement(9, model(6, [keyframe(6)]), min_base=4)) == ["stop training 5", "subscribe 6/k0"]
    assert node.on(TrainingFailed(round=RoundId(5), reason="stopped")) == []
    assert node.trained(5) == []


def test_a_cancelled_round_is_stopped_and_never_taken_again() -> None:
    """FED-32."""
    node = Script(holding(3))
    node.announce(announcement(5, 3))
    assert node.cancel(5) == ["stop training 5", "save round 5"]
    assert node.announce(announcement(5, 3)) == []


def test_a_failing_task_declines_the_round_and_takes_the_next() -> None:
    node = Script(holding(3))
    node.announce(announcement(5, 3))
    failed = TrainingFailed(round=RoundId(5), reason="ValueError: no data")
    assert node.on(failed) == ["save round 5", "decline 5: ValueError: no data (30 s)"]
    assert node.announce(announcement(6, 3)) == ["train 6 from 3"]


def test_an_orderly_stop_says_offline_first() -> None:
    """FED-11."""
    node = Script(holding(3))
    node.announce(announcement(5, 3))
    assert node.on(StopRequested()) == ["stop training 5", "state offline #7 idle None", "stop: requested"]
    assert node.coordinator(Presence.ONLINE) == []
    assert node.machine.deadline() is None
