"""Who coordinates, what is said about the node, and how it leaves (FED-11, FED-18 to FED-23)."""

from edge_node.engine.effects import Note, PublishState
from edge_node.engine.events import CoordinatorStateReceived, MessageRefused, StopRequested
from federation.protocol.messages import CoordinatorState, NodeState, Presence, Rebirth, ReceiptStatus
from federation.types import Epoch
from tests.rigs.node_rig import OTHER_RUN, RUN, STATE, Script, announcement, entry, holding, model

IDLE = "state online #7 idle None"
ENDED = ["state offline #7 idle None", "stop: finished"]


def birth(node: Script) -> NodeState:
    return next(effect.state for effect in node.effects if isinstance(effect, PublishState))


def test_the_birth_message_says_what_the_node_can_do() -> None:
    """FED-17, FED-23, FED-99."""
    node = Script(holding(3), device="cpu", codecs=("edge", "lossless"))
    node.announce(announcement(5, 3, codec="edge"))
    assert node.command(Rebirth()) == ["state online #7 training 5"]
    said = birth(node)
    assert (said.task, said.device, said.codecs) == ("toy", "cpu", ("edge", "lossless"))
    assert said.protocol_min <= said.protocol_max
    assert said.state_id == STATE


def test_a_node_that_knows_its_release_says_it_while_it_is_there() -> None:
    """FED-266."""
    node = Script(holding(3), release="0.3.0")
    assert node.command(Rebirth())
    assert birth(node).release == "0.3.0"
    node.on(StopRequested())
    assert [
        (effect.state.presence, effect.state.release) for effect in node.effects if isinstance(effect, PublishState)
    ] == [(Presence.OFFLINE, None)]
    silent = Script(holding(3))
    assert silent.command(Rebirth())
    assert birth(silent).release is None, "as it was before there was such a field"


def test_bytes_that_are_no_message_are_counted_and_never_answered() -> None:
    """FED-18."""
    node = Script(holding(3))
    assert node.on(MessageRefused(topic="fl/f/round", reason="noise")) == []
    assert node.effects == []
    assert node.machine.snapshot()["messages_refused"] == 1


def test_an_announcement_of_an_older_epoch_is_ignored() -> None:
    """FED-20."""
    node = Script(holding(3))
    node.coordinator(epoch=4)
    assert node.announce(announcement(5, 3, epoch=3)) == []
    assert node.announce(announcement(5, 3, epoch=4)) == ["train 5 from 3"]


def test_a_state_of_an_older_epoch_does_not_make_the_coordinator_absent() -> None:
    """FED-20: the delayed will of its former process."""
    node = Script(holding(3, outbox=[entry(4)]))
    node.coordinator(epoch=4)
    node.coordinator(Presence.LOST, epoch=3)
    assert node.wait_until(node.now + 10.0) == ["offer 4-pi-3", "state online #7 uploading 4"]


def test_a_newer_epoch_in_an_announcement_is_a_reason_to_offer_again() -> None:
    """FED-52."""
    node = Script(holding(3, outbox=[entry(4)]))
    node.announce(announcement(5, 3, epoch=1))
    node.announce(announcement(6, 3, epoch=2))
    assert node.machine.snapshot()["epoch"] == 2
    assert node.grant(4, 3, [], 3) == ["send 4-pi-3 chunks [0, 1, 2]"]


def test_a_node_without_history_joins_the_first_run_that_it_hears_of() -> None:
    node = Script()
    assert node.coordinator(run=RUN) == [f"enter {RUN}", IDLE]
    assert node.machine.snapshot()["run"] == RUN
    other = Script()
    assert other.announce(announcement(1, model(0, seed=3), run=OTHER_RUN)) == [
        f"enter {OTHER_RUN}",
        "make 0 from seed 3",
    ]
    assert other.machine.snapshot()["run"] == OTHER_RUN


def test_the_epochs_of_two_runs_are_not_compared() -> None:
    """FED-19, FED-20."""
    node = Script(holding(3))
    node.coordinator(epoch=9)
    node.coordinator(epoch=1, run=OTHER_RUN)
    assert node.announce(announcement(1, model(0, seed=3), run=OTHER_RUN, epoch=1)) == ["make 0 from seed 3"]


def test_an_announcement_of_a_run_that_ended_meanwhile_is_not_taken() -> None:
    """FED-19: what was kept back is only taken when its own run's coordinator shows up."""
    node = Script(holding(3))
    node.announce(announcement(8, 3, run=OTHER_RUN))
    assert node.coordinator(run=RUN) == [IDLE]
    assert node.machine.snapshot()["run"] == RUN
    assert node.announce(announcement(5, 3)) == ["train 5 from 3"]


def test_a_coordinator_of_another_protocol_version_is_said_to_be_incompatible() -> None:
    """FED-17."""
    node = Script(holding(3))
    state = CoordinatorState(presence=Presence.ONLINE, run=RUN, epoch=Epoch(1), protocol_min=200, protocol_max=201)
    assert node.on(CoordinatorStateReceived(state=state)) == [IDLE]
    assert [effect for effect in node.effects if isinstance(effect, Note)] == [
        Note(event="coordinator_incompatible", fields={"protocol_min": 200, "protocol_max": 201})
    ]


def test_the_end_of_the_run_does_not_end_a_node_that_stays() -> None:
    """FED-33."""
    node = Script(holding(3, outbox=[entry(4)]))
    assert node.announce(announcement(5, 3, final=True)) == []
    assert "run_finished" in node.notes()
    node.receipt(4, ReceiptStatus.STALE)
    assert node.machine.snapshot()["stopped"] is False
    assert node.announce(announcement(6, 3)) == ["train 6 from 3"]


def test_a_run_that_goes_on_after_its_end_keeps_the_node() -> None:
    node = Script(holding(3, outbox=[entry(4)]), exit_when_finished=True)
    node.announce(announcement(5, 3, final=True))
    assert node.announce(announcement(6, 3)) == ["train 6 from 3"]
    assert node.receipt(4, ReceiptStatus.APPLIED) == ["settle 4-pi-3, applied"]


def test_a_node_with_an_empty_outbox_leaves_at_the_end() -> None:
    """FED-33, FED-11."""
    node = Script(holding(3), exit_when_finished=True)
    assert node.announce(announcement(5, 3, final=True)) == ENDED
    assert node.connect() == []
    assert node.machine.snapshot()["stopped"] is True


def test_the_end_that_a_former_run_left_behind_does_not_end_a_node_at_once() -> None:
    """A retained final announcement of a coordinator that has left: another run may be about to begin."""
    node = Script(exit_when_finished=True)
    node.coordinator(run=RUN)
    node.coordinator(Presence.OFFLINE, run=RUN)
    assert node.announce(announcement(5, 3, final=True)) == []
    assert node.coordinator(run=OTHER_RUN) == [f"enter {OTHER_RUN}"]
    assert node.wait() == [IDLE]
    assert node.machine.deadline() is None

    alone = Script(exit_when_finished=True)
    alone.coordinator(run=RUN)
    alone.coordinator(Presence.OFFLINE, run=RUN)
    alone.announce(announcement(5, 3, final=True))
    assert alone.wait() == ENDED


def test_the_snapshot_is_plain_data_about_what_waits_for_what() -> None:
    node = Script(holding(3, last_round=5, outbox=[entry(4, stored=True), entry(5)]))
    node.announce(announcement(6, 3))
    node.trained(6)
    known = node.machine.snapshot()
    assert known["outbox"] == [
        {"update": "4-pi-3", "state": "stored", "attempts": 1, "bytes": 25},
        {"update": "5-pi-3", "state": "offered", "attempts": 1, "bytes": 25},
        {"update": "6-pi-3", "state": "unsaved", "attempts": 0, "bytes": 5},
    ]
    assert (known["held_version"], known["last_round"], known["incarnation"]) == (3, 6, 7)
    assert (known["connected"], known["obstacle"]) == (True, None)
    assert Script().machine.snapshot()["held_version"] is None


def test_where_a_wildcard_misses_retained_states_the_node_says_again_who_it_is_to_every_coordinator_that_comes() -> (
    None
):
    """FED-86."""
    node = Script(holding(3), named_chunks_max=25)
    assert node.coordinator(epoch=1) == ["state online #7 idle None"]
    assert node.coordinator(epoch=2) == ["state online #7 idle None"]
    assert node.coordinator(Presence.LOST, epoch=2) == []
    assert node.coordinator(epoch=1) == [IDLE]  # a former one learns what was seen since
    ordinary = Script(holding(3))
    ordinary.coordinator(epoch=1)
    assert ordinary.coordinator(epoch=1) == []
