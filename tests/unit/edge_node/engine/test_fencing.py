"""Who is obeyed: the highest epoch and start of each run, also after a restart (FED-20, FED-79, FED-110 to FED-112)."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from edge_node.engine.effects import PublishEvent, PublishState, SaveSeen
from edge_node.engine.events import CommandReceived
from edge_node.engine.fencing import BIRTH_S_MIN, BIRTHS_S_MAX, Births, Fence
from edge_node.records import RecoveredNode, RecoveredRun, Seen
from federation.protocol.limits import PROVEN_RECEIPT_BYTES_MAX
from federation.protocol.messages import (
    CoordinatorState,
    Presence,
    Proof,
    Rebirth,
    Receipt,
    ReceiptStatus,
    RoundAnnouncement,
)
from federation.protocol.sealed_messages import SealingKey
from federation.protocol.wire import encode_message
from federation.types import Epoch, ModelVersion, RoundId, RunId, SeenRun, Start, update_id
from tests.rigs.node_rig import NODE, OTHER_RUN, RUN, Script, announcement, entry, holding, model

SEEN = Seen(run=RUN, epoch=Epoch(3), start=Start(7), began_ms=1_000, round=RoundId(9), version=ModelVersion(5))
IDLE = "state online #7 idle None"


def restarted(*, signed: bool = True, seen: Seen = SEEN) -> Script:
    return Script(replace(holding(5, last_round=7, outbox=[entry(7, version=4)]), seen=seen), signed=signed)


def saved(node: Script) -> list[Seen]:
    """What the last event wanted to be remembered."""
    return [effect.seen for effect in node.effects if isinstance(effect, SaveSeen)]


def births(node: Script) -> list[SeenRun | None]:
    """What the births of the last event say of the coordinator."""
    return [effect.state.seen for effect in node.effects if isinstance(effect, PublishState)]


def worked(lines: Sequence[str]) -> bool:
    """Whether anything was done for a round."""
    return any(line.startswith(("train", "subscribe", "make", "adopt")) for line in lines)


def started(round_id: int, version: int, *, start: int, epoch: int = 3) -> RoundAnnouncement:
    """An announcement that names its start."""
    return replace(announcement(round_id, version, epoch=epoch), start_low=start & 0xFFFF_FFFF)


# --- what is remembered ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signed", [False, True])
def test_what_is_heard_is_saved_before_anything_follows_from_it(signed: bool) -> None:
    """FED-79: save, then train."""
    node = Script(holding(5), signed=signed)
    node.coordinator(epoch=2, start=4, began_ms=1_000)
    first = Seen(run=RUN, epoch=Epoch(2), start=Start(4), began_ms=1_000)
    assert saved(node) == [first]
    assert node.announce(announcement(8, 5, epoch=2)) == ["train 8 from 5"]
    assert isinstance(node.effects[0], SaveSeen)
    assert saved(node) == [replace(first, round=RoundId(8), version=ModelVersion(5))]
    node.coordinator(epoch=2, start=4, began_ms=1_000)
    assert node.effects == []


@pytest.mark.parametrize(
    ("round_id", "version", "epoch", "why"),
    [(8, 5, 3, "a round that came before"), (10, 4, 3, "an older version"), (10, 5, 2, "an older epoch")],
)
def test_an_old_announcement_is_not_obeyed_after_a_restart(round_id: int, version: int, epoch: int, why: str) -> None:
    """FED-79."""
    node = restarted()
    assert node.announce(announcement(round_id, version, epoch=epoch)) == [], why
    assert node.machine.snapshot()["work"] == Script().machine.snapshot()["work"]


def test_the_round_that_was_at_hand_goes_on_after_a_restart() -> None:
    """FED-79: the newest announcement is the retained one, and no replay."""
    assert restarted().announce(announcement(9, 5, epoch=3)) == ["train 9 from 5"]
    node = restarted()
    node.coordinator(epoch=4, start=1)
    assert node.announce(announcement(9, 5, epoch=4)) == ["train 9 from 5"], "a restarted coordinator says it again"
    assert "coordinator_went_back" not in node.notes()


def test_a_round_that_is_finished_is_not_begun_again_for_a_restarted_coordinator() -> None:
    """FED-22, FED-27."""
    node = Script(replace(holding(5, last_round=9), seen=SEEN))
    node.coordinator(epoch=4, start=1)
    assert node.announce(announcement(9, 5, epoch=4)) == []
    assert node.machine.snapshot()["last_round"] == 9


def test_an_old_round_that_a_broker_shows_again_does_not_undo_the_newest() -> None:
    """FED-79, FED-27: without signatures it is read, and what was finished since stays finished."""
    node = Script(replace(holding(5, last_round=9), seen=SEEN))
    assert node.announce(announcement(8, 4, epoch=3)) == []
    assert saved(node) == []
    assert node.announce(announcement(9, 5, epoch=3)) == []
    assert node.announce(announcement(10, 5, epoch=3)) == ["train 10 from 5"]


# --- the pair of epoch and start ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("epoch", "start"), [(2, 99), (3, 6), (3, None), (2, None)])
@pytest.mark.parametrize("signed", [False, True])
def test_a_lower_start_is_not_obeyed_and_named_once(epoch: int, start: int | None, signed: bool) -> None:
    """FED-20, FED-110: also after a restart; one that says no start has 0."""
    node = restarted(signed=signed)
    assert node.coordinator(epoch=epoch, start=start) == ["state online #7 uploading 7"]
    assert node.notes() == ["out_of_date_ignored"]
    assert births(node) == [SeenRun(run=RUN, epoch=Epoch(3), start=Start(7), round=RoundId(9), version=ModelVersion(5))]
    assert not worked(node.announce(announcement(10, 6, epoch=2)))
    node.coordinator(epoch=epoch, start=start)
    assert node.notes() == []


def test_the_last_will_of_a_former_start_does_not_make_the_coordinator_absent() -> None:
    """FED-20, FED-79."""
    node = restarted()
    node.coordinator(epoch=3, start=7)
    node.coordinator(Presence.LOST, epoch=3, start=6)
    node.coordinator(Presence.OFFLINE, epoch=2)
    assert "offer 7-pi-3" in node.wait_until(node.now + BIRTH_S_MIN)


@pytest.mark.parametrize(("epoch", "start"), [(3, 8), (4, 1), (4, None)])
@pytest.mark.parametrize("signed", [False, True])
def test_a_higher_start_is_obeyed_though_its_rounds_and_versions_went_back(
    epoch: int, start: int | None, signed: bool
) -> None:
    """FED-111: a store that was restored from a copy; what is beyond it is given up, and the outbox waits."""
    node = Script(
        replace(holding(300, last_round=500, outbox=[entry(499, version=299)]), seen=replace(SEEN, round=RoundId(500))),
        signed=signed,
    )
    node.coordinator(epoch=epoch, start=start)
    said = node.announce(announcement(401, 240, epoch=epoch))
    assert "subscribe 240/k0" in said
    assert "coordinator_went_back" in node.notes()
    known = node.machine.snapshot()
    assert (known["held_version"], known["last_round"]) == (None, None)
    assert [one["update"] for one in known["outbox"]] == ["499-pi-3"]  # type: ignore[attr-defined]
    assert node.receipt(499, ReceiptStatus.REFUSED) == ["settle 499-pi-3, give back"]


def test_a_restored_coordinator_that_was_lifted_above_all_rounds_is_obeyed_from_its_older_version() -> None:
    """FED-111."""
    node = Script(replace(holding(300, last_round=500), seen=replace(SEEN, version=ModelVersion(300))), signed=True)
    node.coordinator(epoch=60, start=1)
    assert worked(node.announce(announcement(600, 240, epoch=60)))
    assert node.machine.snapshot()["last_round"] == 500


def test_a_node_that_remembers_no_start_follows_a_restored_coordinator() -> None:
    """FED-111: it was upgraded from a release that kept none."""
    node = Script(holding(300, last_round=500))
    node.coordinator(epoch=6)
    assert worked(node.announce(announcement(401, 240, epoch=6)))


def test_work_for_a_store_that_is_no_more_is_stopped() -> None:
    """FED-111."""
    node = Script(holding(300))
    node.coordinator(epoch=3, start=7)
    assert node.announce(announcement(500, 300, epoch=3)) == ["train 500 from 300"]
    node.coordinator(epoch=3, start=8)
    said = node.announce(announcement(401, 240, epoch=3))
    assert said[0] == "stop training 500"
    assert worked(said[1:])


def test_a_round_whose_update_still_waits_is_not_trained_twice() -> None:
    """FED-27: a coordinator that was not lifted above it asks for the same round again."""
    node = Script(holding(5, last_round=9, outbox=[entry(8, version=5)]))
    node.coordinator(epoch=4)
    assert not worked(node.announce(announcement(8, 5, epoch=4)))


def test_an_announcement_of_the_start_that_does_not_lead_is_not_obeyed() -> None:
    """FED-110: two starts with one epoch; the announcement names the low half of its start."""
    node = Script(holding(5))
    node.coordinator(epoch=3, start=2**40 + 7)
    assert node.announce(started(10, 5, start=6)) == []
    assert node.announce(started(10, 5, start=2**40 + 7)) == ["train 10 from 5"]


def test_an_announcement_that_came_before_the_state_of_its_start_is_not_lost() -> None:
    """FED-110: retained messages come in any order."""
    node = Script(holding(5))
    node.coordinator(epoch=3, start=7)
    assert node.announce(started(10, 5, start=8)) == []
    assert "train 10 from 5" in node.coordinator(epoch=3, start=8)


def test_an_announcement_tells_the_epoch_and_the_state_that_follows_its_start() -> None:
    """FED-110: it is one start, so nothing is offered anew, and nothing has gone back."""
    node = Script(holding(5))
    node.coordinator(epoch=2, start=9)
    assert node.announce(started(10, 5, epoch=3, start=7)) == ["train 10 from 5"]
    node.coordinator(epoch=3, start=7)
    heard = Seen(run=RUN, epoch=Epoch(3), start=Start(7), round=RoundId(10), version=ModelVersion(5))
    assert saved(node) == [heard]
    node.coordinator(epoch=3, start=8)
    assert saved(node) == [Seen(run=RUN, epoch=Epoch(3), start=Start(8))]


# --- runs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("began_ms", [None, 0, 999, 1_000, 2_000])
@pytest.mark.parametrize("signed", [False, True])
def test_a_run_is_followed_whatever_its_clock_said_when_it_began(began_ms: int | None, signed: bool) -> None:
    """FED-19, FED-121: it costs nothing, since what the node has of the former run waits for it."""
    node = restarted(signed=signed)
    assert node.coordinator(run=OTHER_RUN, epoch=1, began_ms=began_ms) == [f"enter {OTHER_RUN}", IDLE]
    assert node.announce(announcement(1, model(0, seed=3), run=OTHER_RUN)) == ["make 0 from seed 3"]


def test_each_run_has_a_fence_of_its_own() -> None:
    """FED-110, FED-113."""
    node = restarted()
    node.coordinator(run=OTHER_RUN, epoch=1, start=2)
    assert node.coordinator(run=RUN, epoch=2) == []
    assert node.machine.snapshot()["run"] == OTHER_RUN, "an old copy of the former run's coordinator"
    assert node.coordinator(run=RUN, epoch=3, start=7)[0] == f"enter {RUN}"
    assert node.coordinator(run=OTHER_RUN, epoch=1, start=1) == []
    assert node.machine.snapshot()["run"] == RUN


def test_the_fences_of_hidden_runs_are_remembered_over_a_restart() -> None:
    """FED-110, FED-113."""
    hidden = RecoveredRun(run=RUN, seen=SEEN)
    node = Script(RecoveredNode(run=OTHER_RUN, hidden=(hidden,)))
    node.coordinator(run=RUN, epoch=3, start=6)
    assert node.machine.snapshot()["run"] == OTHER_RUN


# --- births that say what was seen ----------------------------------------------------------------------------------


def test_a_birth_says_what_was_seen() -> None:
    """FED-112."""
    node = restarted()
    node.connect()
    assert births(node) == [SeenRun(run=RUN, epoch=Epoch(3), start=Start(7), round=RoundId(9), version=ModelVersion(5))]
    node = Script()
    node.connect()
    assert births(node) == [None]


def test_another_start_is_answered_with_a_birth_at_a_bounded_rate() -> None:
    """FED-112: the newest is said in the end."""
    node = Script(holding(5))
    said = []
    for epoch in range(1, 100):
        node.coordinator(epoch=epoch)
        said += births(node)
        node.now += 1.0
        node.on(None)
        said += births(node)
    node.wait_until(node.now + BIRTH_S_MIN)
    said += births(node)
    assert len(said) <= 99 / BIRTH_S_MIN + 2
    assert said[-1] == SeenRun(run=RUN, epoch=Epoch(99))


def test_no_birth_is_due_without_a_connection() -> None:
    node = Script(holding(5), online=False)
    node.coordinator()
    assert births(node) == []
    assert node.machine.deadline() is None
    node.connect()
    assert births(node) == [SeenRun(run=RUN, epoch=Epoch(1))], "it says so at once, and once"
    assert node.machine.deadline() is None


def test_the_fleet_does_not_answer_at_one_moment() -> None:
    """FED-112."""
    late = Births(lambda: 0.5, 4.0)
    late.want(10.0)
    late.want(11.0)
    assert late.deadline() == 12.0
    assert [late.due(11.9), late.due(12.0), late.due(12.1)] == [False, True, False]


# --- what proves it ---------------------------------------------------------------------------------------------------


def proofs(node: Script) -> list[object]:
    """What the node has said of the last event, but for its births."""
    return [effect.message for effect in node.effects if isinstance(effect, PublishEvent)]


def round_of(number: int, *, epoch: int) -> tuple[RoundAnnouncement, bytes]:
    """An announcement, and its bytes."""
    made = announcement(number, 5, epoch=epoch)
    return made, encode_message(made)


def test_the_words_of_the_highest_pair_and_of_the_highest_round_are_kept_and_shown() -> None:
    """FED-130: a copy with a higher pair has lower rounds, and its node can prove both."""
    node = Script(holding(5), signed=True)
    node.coordinator(epoch=3, start=7, payload=b"first")
    high, low = round_of(10, epoch=3), round_of(4, epoch=4)
    node.announce(*high)
    assert saved(node)[-1].proof == Proof(state=b"first", announcement=high[1])
    node.coordinator(Presence.LOST, epoch=3, start=7, payload=b"its will")
    node.coordinator(epoch=2, start=9, payload=b"a lower one")
    node.coordinator(epoch=4, start=1, payload=b"second")
    node.announce(*low)
    kept = Proof(state=b"second", announcement=high[1])
    assert saved(node)[-1].proof == kept
    assert node.command(Rebirth(proof=True)) == ["proof", "state online #7 training 4"]
    assert proofs(node) == [kept]
    node.announce(*round_of(11, epoch=4))
    assert saved(node)[-1].proof == Proof(state=b"second", announcement=round_of(11, epoch=4)[1])


def test_a_proof_is_shown_to_whom_asks_for_it_and_after_a_restart() -> None:
    """FED-130."""
    kept = Proof(state=b"srv", announcement=round_of(9, epoch=3)[1])
    node = restarted(signed=True)
    node.command(Rebirth(proof=True))
    assert proofs(node) == [], "an older release has kept none"
    node = Script(replace(holding(5), seen=replace(SEEN, proof=kept)), signed=True)
    for asked in (Rebirth(), Rebirth(proof=False)):
        node.command(asked)
        assert proofs(node) == []
    node.command(Rebirth(proof=True))
    assert proofs(node) == [kept]


def test_a_proof_is_closed_with_the_key_of_whoever_asks() -> None:
    """FED-290."""
    kept = Proof(state=b"srv", announcement=round_of(9, epoch=3)[1])
    node = Script(replace(holding(5), seen=replace(SEEN, proof=kept)), signed=True)
    key = SealingKey(kem=0x0020, key=bytes(32))
    for asked in (key, None):
        node.command(Rebirth(proof=True, seal=asked))
        assert [effect.reader for effect in node.effects if isinstance(effect, PublishEvent)] == [asked]


def test_the_first_announcement_of_an_epoch_is_followed_by_the_word_that_proves_its_start() -> None:
    """FED-130."""
    node = Script(holding(5), signed=True)
    node.coordinator(epoch=2, start=9, payload=b"two")
    told = started(10, 5, epoch=3, start=7)
    node.announce(told, encode_message(told))
    node.coordinator(epoch=3, start=7, payload=b"three")
    assert saved(node)[-1].proof == Proof(state=b"three", announcement=encode_message(told))


@pytest.mark.parametrize("kept", [b"of another release", encode_message(Rebirth())])
def test_a_proof_that_cannot_be_read_gives_way(kept: bytes) -> None:
    node = Script(replace(holding(5), seen=replace(SEEN, proof=Proof(state=b"srv", announcement=kept))), signed=True)
    node.announce(*round_of(10, epoch=3))
    assert saved(node)[-1].proof == Proof(state=b"srv", announcement=round_of(10, epoch=3)[1])


def test_without_signatures_nothing_is_kept() -> None:
    """FED-130: it would prove nothing."""
    node = Script(holding(5))
    node.coordinator(epoch=3, start=7, payload=b"first")
    node.announce(*round_of(10, epoch=3))
    assert saved(node)[-1].proof is None


def settled(node: Script, version: int | None, status: ReceiptStatus = ReceiptStatus.APPLIED) -> list[str]:
    """The update of round 7 has come to its end; the coordinator's bytes name the version."""
    named = None if version is None else ModelVersion(version)
    receipt = Receipt(run=RUN, update=update_id(RoundId(7), NODE), status=status, version=named)
    return node.on(CommandReceived(command=receipt, payload=f"receipt {version}".encode()))


class TestApplied:
    """FED-112: a version may be made after which no round is announced; whose update is in it knows of it."""

    def test_a_birth_names_the_newest_version_of_which_an_update_became_part(self) -> None:
        node = restarted()
        assert settled(node, 6) == ["settle 7-pi-3, applied"]
        assert isinstance(node.effects[0], SaveSeen), "it is remembered with the verdict"
        assert saved(node) == [replace(SEEN, applied=ModelVersion(6), proof=Proof(receipt=b"receipt 6"))]
        node.command(Rebirth())
        assert births(node) == [
            SeenRun(run=RUN, epoch=Epoch(3), start=Start(7), round=RoundId(9), version=ModelVersion(6))
        ]
        node.command(Rebirth(proof=True))
        assert proofs(node) == [Proof(receipt=b"receipt 6")]

    def test_an_announcement_of_a_version_before_is_no_repetition(self) -> None:
        """FED-79: the round that stands is of the version before, and this node may have to train it yet."""
        node = restarted()
        settled(node, 6)
        assert node.announce(announcement(9, 5, epoch=3)) == ["train 9 from 5"]

    def test_a_newer_announcement_is_newer(self) -> None:
        node = restarted()
        settled(node, 6)
        node.announce(announcement(10, 8, epoch=3))
        node.command(Rebirth())
        assert [one.version for one in births(node) if one is not None] == [8]

    def test_another_start_has_applied_nothing_yet(self) -> None:
        """Of a restored store: its versions begin lower."""
        node = restarted()
        settled(node, 6)
        node.coordinator(epoch=4, start=1)
        assert saved(node) == [Seen(run=RUN, epoch=Epoch(4), start=Start(1), proof=Proof(receipt=b"receipt 6"))]
        node.command(Rebirth())
        assert births(node) == [SeenRun(run=RUN, epoch=Epoch(4), start=Start(1))]

    @pytest.mark.parametrize(("version", "status"), [(None, ReceiptStatus.STALE), (6, ReceiptStatus.STORED)])
    def test_what_became_part_of_nothing_names_no_version(self, version: int | None, status: ReceiptStatus) -> None:
        node = restarted()
        settled(node, version, status)
        assert saved(node) == []

    def test_only_a_verdict_on_an_update_of_this_node_counts_and_the_newest_stays(self) -> None:
        seen = replace(SEEN, applied=ModelVersion(8))
        node = restarted(seen=seen)
        settled(node, 7)
        assert saved(node) == []
        settled(node, 9)
        assert saved(node) == [], "it has none any more"

    def test_without_signatures_it_is_named_and_not_proved(self) -> None:
        node = restarted(signed=False)
        settled(node, 6)
        assert saved(node) == [replace(SEEN, applied=ModelVersion(6))]

    def test_a_receipt_that_is_too_long_for_a_proof_is_none(self) -> None:
        fence = Fence([SEEN], signed=True)
        receipt = Receipt(
            run=RUN, update=update_id(RoundId(7), NODE), status=ReceiptStatus.APPLIED, version=ModelVersion(6)
        )
        fence.settle(receipt, bytes(PROVEN_RECEIPT_BYTES_MAX + 1))
        assert fence.proof(RUN) is None
        fence.settle(replace(receipt, run=OTHER_RUN))
        assert fence.seen(OTHER_RUN) is None


def test_the_list_of_those_that_were_named_is_bounded() -> None:
    fence = Fence([SEEN], signed=False)
    for start in range(1_000):
        run, epoch = RunId(RUN), Epoch(2)
        state = CoordinatorState(
            presence=Presence.ONLINE, run=run, epoch=epoch, protocol_min=1, protocol_max=1, start=Start(start + 1)
        )
        assert len(fence.tell(state)) == 1
    assert len(fence._told) <= 64


def test_a_large_fleet_takes_the_time_that_the_coordinator_names() -> None:
    """FED-193: at most BIRTHS_S_MAX, and never less than a node's own spread."""
    for asked, due in ((0.0, 2.0), (1.0, 2.0), (80.0, 40.0), (31_622_400.0, BIRTHS_S_MAX / 2)):
        births = Births(lambda: 0.5, 4.0)
        births.want(100.0, asked)
        assert births.deadline() == 100.0 + due


def test_a_birth_is_about_the_run_whose_coordinator_has_spoken_last() -> None:
    """FED-112, found by simulation (seed 101624): a copy of the run led it further, then another run took its nodes.

    When the run's own coordinator came back, it was not obeyed, and no birth told it why: all were of the other run.
    """
    node = restarted(seen=replace(SEEN, proof=Proof(state=b"of the copy")))
    node.coordinator(epoch=1, run=OTHER_RUN, start=5, payload=b"of the other")
    node.command(Rebirth())
    (said,) = births(node)
    assert said is not None
    assert said.run == OTHER_RUN
    behind = SeenRun(run=RUN, epoch=Epoch(3), start=Start(7), round=RoundId(9), version=ModelVersion(5))
    node.coordinator(epoch=3, start=6)
    node.wait_until(node.now + BIRTHS_S_MAX)
    node.command(Rebirth(proof=True))
    assert births(node) == [behind]
    assert proofs(node) == [Proof(state=b"of the copy")]
    # The will of a coordinator that is gone asks nothing, and whoever is obeyed is told of his own run.
    node.coordinator(epoch=1, run=OTHER_RUN, start=5)
    node.coordinator(Presence.LOST, epoch=3, start=6)
    node.command(Rebirth(proof=True))
    assert births(node) == [said]
    assert proofs(node) == [Proof(state=b"of the other")]
