"""Who else speaks for the coordinator, what was wiped while it runs, and what the broker drops."""

from dataclasses import replace

import pytest

from coordinator.engine import effects, events
from coordinator.engine.effects import PublishModel, PublishState
from coordinator.engine.events import ANSWER_WAIT_S
from coordinator.engine.fencing import (
    ASKED_MAX,
    ASTRAY_PAUSE_S,
    HEAL_PAUSE_S,
    OWED_MAX,
    PROOF_PAUSE_S,
    PROOF_WAIT_S,
    REPLACE_S,
    SEEN_WAIT_S,
    STOPPED_S,
    YOUNG_S,
)
from coordinator.engine.timers import MAIL_S
from coordinator.engine.transfers import UNHEARD_MAX, UNHEARD_PER_S, UNHEARD_RETRY_S
from coordinator.records import Restored, RoundRecord
from federation.protocol.cohort import EVERYONE, cohort_of
from federation.protocol.messages import Presence, RetryAfter
from federation.types import Digest, Epoch, Incarnation, ModelVersion, NodeId, RoundId, RunId, SeenRun, Start, UpdateId
from tests.rigs.coordinator_rig import RUN, Rig, engine, fresh, transcript

OTHER = RunId("f" * 16)
AGAIN = ["publish state online epoch 1", "publish model 0", "announce round 0 of version 0"]


def test_an_older_twin_leaves_without_a_word_when_a_newer_one_is_online() -> None:
    """FED-63: to say that it is offline would bury the newer one, and to answer an offer would cost the update."""
    rig = Rig()
    rig.start("ann", "bob")
    assert transcript(rig.heard(Presence.ONLINE, epoch=2, retained=True), notes=True) == ["note fenced", "stop fenced"]
    assert transcript(rig.offer("ann", 0)) == []
    assert rig.machine.deadline() is None


@pytest.mark.parametrize(
    ("ours", "theirs", "leaves"), [(7, 8, True), (7, 6, False), (7, None, False), (None, 8, True), (None, None, False)]
)
def test_of_two_starts_with_one_epoch_the_lower_one_leaves(ours: int | None, theirs: int | None, leaves: bool) -> None:
    """FED-96: a copied folder has the epoch of its original; an older coordinator names no start, and counts as 0."""
    rig = Rig(start=ours)
    rig.start("ann", "bob")
    said = transcript(rig.heard(Presence.ONLINE, epoch=1, start=theirs, retained=True))
    assert said == (["stop fenced"] if leaves else [])


def test_the_start_is_said_in_the_state_and_its_low_half_in_the_announcement() -> None:
    """FED-96."""
    rig = Rig(start=2**40 + 5)
    said = [effect.state.start for effect in rig.connect() if isinstance(effect, PublishState)]
    assert said == [2**40 + 5]
    rig.state("ann")
    rig.state("bob")
    assert rig.announced is not None
    assert rig.announced.start_low == 5


@pytest.mark.parametrize("presence", [Presence.LOST, Presence.OFFLINE])
def test_a_newer_one_that_is_gone_is_a_reason_to_hold_and_not_to_leave(presence: Presence) -> None:
    """FED-97: this state is older than one that has led, and nodes that have obeyed it obey no older one."""
    rig = Rig()
    rig.start("ann", "bob")
    assert transcript(rig.heard(presence, epoch=2, start=5), notes=True) == ["note behind", "note waiting"]
    assert transcript(rig.offer("ann", 0)) == []
    assert rig.waiting_for == "behind"
    assert rig.get("behind") == {
        "nodes": 0,
        "said_by": [],
        "epoch": 2,
        "round": None,
        "our_epoch": 1,
        "our_rounds": 1,
    }


def test_what_was_wiped_is_published_again_but_not_without_a_pause() -> None:
    """FED-64."""
    rig = Rig()
    rig.start("ann", "bob")
    effects = rig.heard()
    assert transcript(effects) == AGAIN
    assert [effect.lost for effect in effects if isinstance(effect, PublishModel)] == [True]
    assert transcript(rig.heard(Presence.LOST)) == []
    assert transcript(rig.heard(Presence.ONLINE, epoch=0)) == []
    assert transcript(rig.wait(4.9)) == []
    assert transcript(rig.wait(0.1)) == AGAIN
    assert transcript(rig.wait(60.0))[:1] != AGAIN[:1]
    assert rig.get("counters") == {"retained_lost": 2, "leases_expired": 2}


def test_a_model_that_a_node_asked_for_in_vain_is_published_again() -> None:
    """FED-90: on the word of whoever was asked for it, also after its lease, and once per round."""
    rig = Rig(engine(concurrency=2, buffer=2, lease_s=60.0))
    rig.start("ann", "bob")
    assert transcript(rig.starve("dan", 0)) == ["tell dan rebirth"]
    rig.wait(60.0)
    effects = rig.starve("ann", 0)
    assert [effect.lost for effect in effects if isinstance(effect, PublishModel)] == [True]
    assert "publish model 0" not in transcript([*rig.starve("bob", 0), *rig.wait(10.0)])
    assert rig.get("counters") == {"leases_expired": 2, "declines": 3, "retained_lost": 1}


def test_a_node_that_starves_for_an_older_version_gets_nothing_again() -> None:
    """FED-90: the parts of a former head are cleared when their time has come."""
    rig = Rig(engine(concurrency=2, buffer=1, max_staleness=5, refill=1))
    rig.start("ann", "bob")
    rig.offer("ann", 0)
    assert rig.get("version") == 1
    rig.starve("bob", 0)
    counters = rig.get("counters")
    assert isinstance(counters, dict)
    assert "retained_lost" not in counters


def test_our_own_word_and_what_stood_there_before_change_nothing() -> None:
    rig = Rig()
    rig.start("ann", "bob")
    assert rig.heard(Presence.ONLINE) == []
    assert rig.heard(Presence.LOST, retained=True) == []
    assert rig.heard(retained=True) == []


def test_nothing_is_published_again_without_a_broker() -> None:
    rig = Rig()
    rig.start("ann", "bob")
    rig.heard()
    rig.heard()
    rig.disconnect()
    assert rig.heard() == []
    assert transcript(rig.wait(600.0)) == []


class TestListening:
    """FED-97: nobody speaks, and nobody answers, before it has heard what stands in ``srv``."""

    def test_a_process_listens_before_it_speaks(self) -> None:
        rig = Rig(engine(settle_s=0.25))
        assert transcript(rig.connect()) == []
        assert rig.waiting_for == "settling"
        assert transcript(rig.wait(0.25)) == AGAIN[:2]

    def test_on_a_slow_link_it_listens_from_when_the_broker_has_answered(self) -> None:
        rig = Rig(engine(settle_s=0.25))
        rig.tell(events.BrokerConnected(answered=False))
        assert transcript(rig.wait(3.0)) == []
        assert transcript(rig.tell(events.BrokerConnected())) == []
        assert transcript(rig.wait(0.2)) == []
        assert transcript(rig.wait(0.05)) == AGAIN[:2]

    def test_what_it_hears_before_the_answer_counts(self) -> None:
        rig = Rig(engine(settle_s=0.25))
        rig.tell(events.BrokerConnected(answered=False))
        rig.heard(Presence.LOST, epoch=7, retained=True)
        rig.tell(events.BrokerConnected())
        assert transcript(rig.wait(60.0)) == []
        assert rig.waiting_for == "behind"

    def test_a_broker_that_does_not_answer_is_waited_for_and_its_late_answer_changes_nothing(self) -> None:
        rig = Rig(engine(settle_s=0.25))
        rig.tell(events.BrokerConnected(answered=False))
        assert transcript(rig.wait(ANSWER_WAIT_S - 0.1)) == []
        assert transcript(rig.wait(0.1)) == AGAIN[:2]
        assert transcript(rig.tell(events.BrokerConnected())) == []
        assert transcript(rig.wait(60.0)) == []
        assert rig.waiting_for != "settling"

    def test_an_answer_is_meant_for_its_own_connection(self) -> None:
        rig = Rig(engine(settle_s=0.25))
        rig.tell(events.BrokerConnected(answered=False))
        rig.disconnect()
        rig.tell(events.BrokerConnected(answered=False))
        assert transcript(rig.wait(5.0)) == []
        assert transcript(rig.tell(events.BrokerConnected())) == []
        assert transcript(rig.wait(0.25)) == AGAIN[:2]

    @pytest.mark.parametrize(
        ("presence", "run", "epoch"),
        [
            (Presence.ONLINE, RUN, 0),
            (Presence.ONLINE, RUN, 1),
            (Presence.LOST, RUN, 1),
            (Presence.OFFLINE, OTHER, 9),
            (Presence.LOST, OTHER, 9),
            (None, RUN, 0),
        ],
    )
    def test_once_it_has_led_it_speaks_at_once_when_what_stands_there_is_no_reason_not_to(
        self, presence: Presence | None, run: RunId, epoch: int
    ) -> None:
        rig = Rig(engine(settle_s=60.0))
        rig.connect()
        rig.wait(60.0)
        rig.disconnect()
        rig.connect()
        assert transcript(rig.heard(presence, run=run, epoch=epoch, retained=True)) == AGAIN[:2]
        assert transcript(rig.heard(Presence.ONLINE, epoch=1)) == []

    def test_at_its_start_it_asks_some_nodes_what_they_have_seen_and_waits_for_their_answers(self) -> None:
        """A copy that is started has the higher epoch, and a retained birth is as old as its node's process."""
        rig = Rig(engine(settle_s=1.0))
        rig.connect()
        assert transcript(rig.heard(Presence.ONLINE, epoch=0, retained=True)) == []
        asked = [transcript(rig.state(f"node-{number}")) for number in range(ASKED_MAX + 2)]
        assert asked == [[f"tell node-{number} rebirth"] for number in range(ASKED_MAX)] + [[], []]
        assert transcript(rig.state("node-3")) == [], "asked once"
        rig.state("node-3", seen=SeenRun(run=RUN, epoch=Epoch(0), start=Start(0), round=RoundId(40)))
        assert transcript(rig.wait(60.0)) == []
        assert rig.waiting_for == "behind"

    @pytest.mark.parametrize("presence", [Presence.ONLINE, Presence.LOST])
    def test_where_somebody_leads_it_waits_for_far_nodes_too(self, presence: Presence) -> None:
        """A copy that speaks first ends the run of whoever leads, and then finds that it may not go on itself."""
        rig = Rig(engine(settle_s=1.0))
        rig.connect()
        rig.heard(presence, epoch=0, retained=True)
        assert transcript(rig.state("ann")) == ["tell ann rebirth"]
        said = transcript(rig.wait(1.0))
        assert (said == []) is (presence is Presence.ONLINE)
        rig.state("ann", seen=SeenRun(run=RUN, epoch=Epoch(0), start=Start(0), round=RoundId(40)))
        assert transcript(rig.wait(60.0)) == []
        assert rig.waiting_for == "behind"

    def test_it_leads_when_the_last_of_them_has_answered_or_they_were_waited_for(self) -> None:
        for answers in (True, False):
            rig = Rig(engine(settle_s=1.0))
            rig.connect()
            rig.heard(Presence.ONLINE, epoch=0, retained=True)
            rig.wait(0.5)
            for node in ("ann", "bob"):
                rig.state(node)
            assert transcript(rig.wait(1.0)) == []
            rig.state("ann")
            if answers:
                assert transcript(rig.state("bob")) == []
                assert [line for line in transcript(rig.wait(1.0)) if line in AGAIN][:2] == AGAIN[:2]
            else:
                assert transcript(rig.wait(SEEN_WAIT_S - 1.001)) == []
                assert [line for line in transcript(rig.wait(0.002)) if line in AGAIN][:2] == AGAIN[:2]

    def test_nodes_that_come_one_by_one_do_not_hold_it_up(self) -> None:
        """No wait without a bound: who comes while others are waited for is not asked."""
        rig = Rig(engine(settle_s=1.0))
        rig.connect()
        rig.heard(Presence.ONLINE, epoch=0, retained=True)
        rig.wait(0.9)
        assert transcript(rig.state("ann")) == ["tell ann rebirth"]
        for node in ("bob", "cid"):
            assert transcript(rig.wait(0.9)) == []
            assert transcript(rig.state(node)) == []
        assert [line for line in transcript(rig.wait(0.201)) if line in AGAIN][:2] == AGAIN[:2]

    def test_where_a_copy_of_equal_epoch_has_led_it_waits_for_what_nodes_have_seen(self) -> None:
        """The higher start of the two would take over though it is the older state."""
        rig = Rig(engine(settle_s=1.0), start=9)
        rig.connect()
        assert transcript(rig.heard(Presence.ONLINE, epoch=1, start=3, retained=True)) == []
        rig.state("ann", seen=SeenRun(run=RUN, epoch=Epoch(1), start=Start(3), round=RoundId(40)))
        assert transcript(rig.wait(60.0)) == []
        assert rig.waiting_for == "behind"
        other = Rig(engine(settle_s=1.0), start=9)
        other.connect()
        other.heard(Presence.ONLINE, epoch=1, start=3, retained=True)
        assert transcript(other.wait(1.0)) == AGAIN[:2]

    def test_no_offer_is_answered_before(self) -> None:
        """A verdict is final, and to say nothing costs one more offer."""
        ann = (NodeId("ann"),)
        cohort = cohort_of(RUN, RoundId(0), ann)
        asked = RoundRecord(round=RoundId(0), version=ModelVersion(0), nodes=ann, cohort=cohort)
        rig = Rig(engine(settle_s=1.0), fresh(next_round=RoundId(1), open_rounds=(asked,)))
        rig.store.save_round(asked)
        rig.connect()
        rig.state("ann")
        assert transcript(rig.offer("ann", 0)) == []
        assert transcript(rig.offer("ann", 0, num_examples=0)) == []
        rig.wait(1.0)
        assert "tell ann stored 0-ann" in transcript(rig.offer("ann", 0))
        assert rig.get("counters") == {"offers_unanswered": 2}

    def test_what_was_offered_before_is_asked_for_once_when_it_leads(self) -> None:
        """FED-97: the node would offer again only after its back-off."""
        ann, bob = NodeId("ann"), NodeId("bob")
        cohort = cohort_of(RUN, RoundId(0), (ann, bob))
        asked = RoundRecord(round=RoundId(0), version=ModelVersion(0), nodes=(ann, bob), cohort=cohort)
        rig = Rig(engine(settle_s=1.0), fresh(next_round=RoundId(1), open_rounds=(asked,)))
        rig.store.save_round(asked)
        rig.connect()
        for node in (ann, bob, ann):
            rig.state(node)
            assert transcript(rig.offer(node, 0)) == []
        said = rig.wait(1.0)
        waits = [
            (effect.node, effect.command.update, effect.command.seconds)
            for effect in said
            if isinstance(effect, effects.SendCommand) and isinstance(effect.command, RetryAfter)
        ]
        assert waits == [(ann, "0-ann", UNHEARD_RETRY_S), (bob, "0-bob", UNHEARD_RETRY_S + 1 / UNHEARD_PER_S)]
        assert transcript(said)[0] == AGAIN[0], "its own word comes first"
        assert "retry" not in " ".join(transcript(rig.wait(600.0)))

    def test_one_node_cannot_fill_what_is_asked_for(self) -> None:
        rig = Rig(engine(settle_s=1.0))
        rig.connect()
        for number in range(50):
            rig.offer("ann", number)
        said = transcript(rig.wait(1.0))
        assert len([line for line in said if "retry" in line]) == UNHEARD_MAX

    def test_a_coordinator_that_is_behind_asks_for_nothing(self) -> None:
        rig = Rig(engine(settle_s=1.0))
        rig.connect()
        rig.state("ann", seen=SeenRun(run=RUN, epoch=Epoch(0), round=RoundId(40)))
        rig.offer("ann", 0)
        assert transcript(rig.wait(600.0)) == []

    def test_whoever_has_left_meanwhile_is_not_asked(self) -> None:
        rig = Rig(engine(settle_s=1.0))
        rig.connect()
        rig.state("ann")
        rig.offer("ann", 0)
        rig.tell(events.NodesEnrolled(nodes=frozenset(), digest="d"))
        assert "retry" not in " ".join(transcript(rig.wait(600.0)))

    def test_each_connection_is_listened_to_anew(self) -> None:
        rig = Rig(engine(settle_s=60.0))
        rig.connect()
        rig.heard(Presence.LOST, epoch=0, retained=True)
        rig.disconnect()
        assert transcript(rig.connect()) == []
        assert transcript(rig.heard(Presence.ONLINE, epoch=2, retained=True)) == ["stop fenced"]

    def test_at_each_connection_everything_is_published_again(self) -> None:
        """FED-22: its own former word, or its will, stands there."""
        rig = Rig(engine(settle_s=60.0))
        rig.connect()
        rig.heard(Presence.LOST, epoch=0, retained=True)
        for presence in (Presence.ONLINE, Presence.LOST):
            rig.disconnect()
            rig.connect()
            assert transcript(rig.heard(presence, retained=True)) == AGAIN[:2]

    def test_whoever_has_not_spoken_does_not_say_that_it_is_gone(self) -> None:
        rig = Rig(engine(settle_s=60.0))
        rig.connect()
        assert transcript(rig.tell(events.StopRequested())) == ["stop requested"]


class TestStoodStill:
    """FED-97: a leader that hung may have been replaced, and the end of its connection is still in its inbox."""

    def hung(self, seconds: float) -> Rig:
        rig = Rig(engine(settle_s=0.25, quorum=1, max_wait_s=30.0))
        rig.connect()
        rig.heard(Presence.LOST, epoch=0, retained=True)
        rig.state("ann")
        rig.state("bob")
        rig.wait(0.25)
        rig.offer("ann", 0)
        rig.wait(29.0)
        assert rig.waiting_for == "assignments"
        rig.now += 1.0 + seconds
        return rig

    def test_it_commits_nothing_before_it_has_listened_again(self) -> None:
        rig = self.hung(STOPPED_S + 1.0)
        assert transcript(rig.offer("bob", 0)) == []
        rig.disconnect()
        rig.connect()
        assert transcript(rig.heard(Presence.ONLINE, epoch=2, retained=True)) == ["stop fenced"]
        assert rig.get("version") == 0

    def test_it_goes_on_where_the_connection_still_stands(self) -> None:
        rig = self.hung(STOPPED_S + 1.0)
        rig.tell(None)
        assert "commit 1 of 0-ann@0 because max_wait" in transcript(rig.wait(MAIL_S))

    def test_a_short_delay_is_nothing(self) -> None:
        rig = self.hung(STOPPED_S - 1.0)
        rig.tell(None)
        assert "commit 1 of 0-ann@0 because max_wait" in transcript(rig.wait(MAIL_S))

    @pytest.mark.parametrize("settle_s", [0.0, 0.25])
    @pytest.mark.parametrize("seconds", [62.0, 80.0, STOPPED_S + 60.0])
    def test_offers_that_waited_for_it_count(self, settle_s: float, seconds: float) -> None:
        """Both were sent in time; the leases and the patience that ended meanwhile were nobody's fault."""
        rig = Rig(engine(settle_s=settle_s, quorum=1, lease_s=60.0, max_wait_s=61.0, max_staleness=0))
        rig.connect()
        rig.state("ann")
        rig.state("bob")
        rig.wait(settle_s)
        rig.now += seconds
        rig.offer("ann", 0)
        said = transcript(rig.offer("bob", 0))
        if settle_s > 0:  # it listens first, and nodes offer again what was not answered
            rig.wait(settle_s)
            rig.offer("ann", 0)
            said = transcript(rig.offer("bob", 0))
        assert "commit 1 of 0-ann@0 0-bob@0 because buffer_full" in said

    def test_without_a_broker_it_listens_at_the_next_connection_anyway(self) -> None:
        rig = self.hung(0.0)
        rig.disconnect()
        rig.now += 10_000.0
        assert "stood_still" not in " ".join(transcript(rig.tell(None), notes=True))


class TestAnotherRun:
    """FED-98."""

    def test_a_start_that_hears_a_live_one_leaves_without_a_word(self) -> None:
        rig = Rig(engine(settle_s=60.0))
        rig.connect()
        left = rig.heard(Presence.ONLINE, run=OTHER, epoch=9, retained=True)
        assert transcript(left, notes=True) == ["note other_coordinator", "stop other_run"]
        assert [effect.other_run for effect in left if isinstance(effect, effects.Stop)] == [OTHER]
        assert rig.machine.deadline() is None

    def test_a_start_that_was_told_to_replaces_it(self) -> None:
        rig = Rig(engine(settle_s=60.0, replaces=True))
        rig.connect()
        assert transcript(rig.heard(Presence.ONLINE, run=OTHER, epoch=9, retained=True)) == AGAIN[:2]
        assert transcript(rig.heard(Presence.ONLINE, run=OTHER, epoch=9)) == AGAIN[:2]

    def test_one_that_has_replaced_gives_way_later(self) -> None:
        """Two that were told to replace each other do not take turns for ever."""
        rig = Rig(engine(settle_s=0.0, replaces=True))
        rig.connect()
        rig.wait(REPLACE_S)
        assert transcript(rig.heard(Presence.ONLINE, run=OTHER, retained=True)) == ["stop replaced"]

    def test_one_that_leads_says_its_word_once_more_and_leaves_when_the_other_insists(self) -> None:
        rig = Rig()
        rig.start("ann", "bob")
        rig.wait(YOUNG_S)
        assert transcript(rig.heard(Presence.ONLINE, run=OTHER)) == AGAIN
        assert transcript(rig.heard(Presence.ONLINE, run=OTHER)) == ["stop replaced"]
        assert rig.get("counters") == {"other_coordinators": 2, "retained_lost": 1}

    def test_it_does_not_leave_before_its_own_word_was_said(self) -> None:
        rig = Rig()
        rig.start("ann", "bob")
        rig.wait(YOUNG_S)
        rig.heard(Presence.LOST)
        assert transcript(rig.heard(Presence.ONLINE, run=OTHER)) == []
        assert transcript(rig.heard(Presence.ONLINE, run=OTHER)) == []
        assert transcript(rig.wait(HEAL_PAUSE_S)) == AGAIN
        assert transcript(rig.heard(Presence.ONLINE, run=OTHER)) == ["stop replaced"]

    def test_one_that_comes_back_and_was_replaced_meanwhile_leaves(self) -> None:
        rig = Rig(engine(settle_s=1.0))
        rig.connect()
        rig.wait(YOUNG_S + 1.0)
        rig.disconnect()
        rig.connect()
        assert transcript(rig.heard(Presence.ONLINE, run=OTHER, retained=True)) == ["stop replaced"]

    @pytest.mark.parametrize(("other", "leaves"), [(OTHER, True), (RunId("0" * 16), False)])
    def test_of_two_that_start_at_once_one_leaves(self, other: RunId, leaves: bool) -> None:
        rig = Rig()
        rig.start("ann", "bob")
        assert transcript(rig.heard(Presence.ONLINE, run=other)) == (["stop replaced"] if leaves else AGAIN)


class TestAstray:
    """FED-321: a node that has heard a late word of another run's coordinator waits for that one.

    Found by simulation (seeds 14615 and 15571): a message that came again took a node back into the run that was over.
    """

    SEEN = SeenRun(run=OTHER, epoch=Epoch(1), start=Start(3))

    def test_whoever_leads_says_its_word_once_more(self) -> None:
        rig = Rig(engine(lease_s=1e6))
        rig.start("ann", "bob")
        rig.wait(REPLACE_S)
        assert transcript(rig.state("ann", seen=self.SEEN)) == AGAIN[:1]
        assert rig.get("counters") == {"nodes_recalled": 1}

    def test_all_hear_it_so_it_is_said_at_a_bounded_rate(self) -> None:
        rig = Rig(engine(lease_s=1e6))
        rig.start("ann", "bob")
        rig.wait(REPLACE_S)
        rig.state("ann", seen=self.SEEN)
        assert transcript(rig.state("bob", seen=self.SEEN)) == []
        assert transcript(rig.wait(ASTRAY_PAUSE_S - 0.1)) == []
        assert transcript(rig.wait(0.1)) == AGAIN[:1]
        assert transcript(rig.wait(ASTRAY_PAUSE_S)) == []

    def test_a_young_one_waits_as_its_word_would_contradict_another_one(self) -> None:
        rig = Rig(engine(lease_s=1e6))
        rig.start("ann", "bob")
        rig.wait(REPLACE_S - 10.0)
        assert transcript(rig.state("ann", seen=self.SEEN)) == []
        assert rig.machine.deadline() is not None
        assert transcript(rig.wait(10.0)) == AGAIN[:1]

    def test_whoever_follows_this_run_is_not_astray(self) -> None:
        rig = Rig(engine(lease_s=1e6))
        rig.start("ann", "bob")
        rig.wait(REPLACE_S)
        assert transcript(rig.state("ann", seen=replace(self.SEEN, run=RUN))) == []


class TestBehind:
    """FED-97: what nodes say of a later coordinator, or of later rounds, ends every decision, and no work."""

    def test_an_offer_of_a_round_that_was_never_reserved_stops_us_and_not_the_update(self) -> None:
        rig = Rig()
        rig.start("ann", "bob")
        said = transcript(rig.offer("ann", 7), notes=True)
        assert said == ["note behind", "note waiting"]
        assert transcript(rig.offer("bob", 0)) == []
        lines = transcript(rig.wait(600.0))
        assert all(line.endswith("rebirth") or line.startswith("close") for line in lines)
        assert (rig.waiting_for, rig.get("version")) == ("behind", 0)
        row = rig.get("behind")
        assert row == {"nodes": 1, "said_by": ["ann"], "epoch": 1, "round": 7, "our_epoch": 1, "our_rounds": 1}

    def test_an_update_from_a_version_that_we_do_not_know_stops_us_and_not_the_update(self) -> None:
        """The round's number is ours, too: unanswered, such updates filled the outboxes of all nodes, for ever."""
        rig = Rig()
        rig.start("ann", "bob")
        assert transcript(rig.offer("ann", 0, base_version=ModelVersion(4)), notes=True) == [
            "note behind",
            "note waiting",
        ]
        assert rig.get("counters") == {"updates_ahead": 1, "behind": 1}
        row = rig.get("behind")
        assert isinstance(row, dict)
        assert (row["round"], row["version"], row["our_version"]) == (0, 4, 0)
        assert transcript(rig.offer("bob", 0)) == []

    @pytest.mark.parametrize(
        ("seen", "behind"),
        [
            (SeenRun(run=RUN, epoch=Epoch(2)), True),
            (SeenRun(run=RUN, epoch=Epoch(1), start=Start(8)), True),
            (SeenRun(run=RUN, epoch=Epoch(1), start=Start(6), round=RoundId(5)), True),
            (SeenRun(run=RUN, epoch=Epoch(1), start=Start(7), round=RoundId(0)), False),
            (SeenRun(run=RUN, epoch=Epoch(0), start=Start(9)), False),
            (SeenRun(run=OTHER, epoch=Epoch(9), round=RoundId(99)), False),
        ],
    )
    def test_a_birth_that_has_seen_more_is_enough(self, seen: SeenRun, behind: bool) -> None:
        rig = Rig(start=7)
        rig.start("ann", "bob")
        rig.state("ann", incarnation=Incarnation(2), seen=seen)
        assert (rig.waiting_for == "behind") is behind
        assert bool(rig.get("behind")) is behind

    def test_nodes_that_let_their_first_lease_expire_are_asked_what_they_have_seen(self) -> None:
        """Whom nobody obeys knows it within a lease."""
        rig = Rig(engine(lease_s=10.0))
        rig.start("ann", "bob")
        asked = [line for line in transcript(rig.wait(10.0)) if line.endswith("rebirth")]
        assert sorted(asked) == ["tell ann rebirth", "tell bob rebirth"]

    def test_a_node_that_is_revoked_has_said_nothing(self) -> None:
        """One that lies stops the run, and its name is in the log: whoever is shut out does not stop it any longer."""
        rig = Rig()
        rig.start("ann", "bob", "cid")
        rig.offer("ann", 7)
        said = rig.tell(events.NodesEnrolled(nodes=frozenset({NodeId("bob"), NodeId("cid")}), digest="x"))
        assert "note not_behind" in transcript(said, notes=True)
        assert rig.waiting_for != "behind"

    def test_nothing_is_stored_or_committed_while_behind(self) -> None:
        rig = Rig(engine(concurrency=2, buffer=2, quorum=1, max_wait_s=5.0))
        rig.start("ann", "bob")
        rig.offer("ann", 0)
        rig.offer("bob", 9)
        assert not [line for line in transcript(rig.wait(60.0)) if line.startswith(("commit", "store", "announce"))]


class TestNewerVersion:
    """FED-97, FED-112: the leader has made a version, and announced no round since: only receipts tell of it."""

    def test_a_copy_from_before_a_version_holds(self) -> None:
        rig = Rig(engine(settle_s=1.0))
        rig.connect()
        rig.state("ann", seen=SeenRun(run=RUN, epoch=Epoch(0), version=ModelVersion(1)))
        assert transcript(rig.wait(60.0)) == []
        row = rig.get("behind")
        assert isinstance(row, dict)
        assert (row["version"], row["our_version"], row["round"]) == (1, 0, None)
        assert rig.waiting_for == "behind"

    def test_whoever_has_made_the_version_leads(self) -> None:
        rig = Rig()
        rig.start("ann", "bob")
        for node in ("ann", "bob"):
            rig.offer(node, 0)
        assert rig.get("version") == 1
        rig.state("ann", seen=SeenRun(run=RUN, epoch=Epoch(1), round=RoundId(0), version=ModelVersion(1)))
        assert rig.get("behind") == {}
        rig.restart()
        rig.connect()
        rig.state("ann", seen=SeenRun(run=RUN, epoch=Epoch(1), round=RoundId(0), version=ModelVersion(1)))
        assert rig.get("behind") == {}

    @pytest.mark.parametrize(("version", "behind"), [(3, False), (4, True)])
    def test_a_head_that_was_repaired_is_no_copy(self, version: int, behind: bool) -> None:
        """What was damaged and undone was heard of all the same."""
        rig = Rig(engine(settle_s=1.0), fresh(newest=ModelVersion(3)))
        rig.connect()
        rig.state("ann", seen=SeenRun(run=RUN, epoch=Epoch(0), version=ModelVersion(version)))
        assert bool(rig.get("behind")) is behind

    @pytest.mark.parametrize(("round_id", "behind"), [(None, False), (499, False), (500, True), (501, True)])
    def test_after_a_restore_only_versions_of_later_rounds_count(self, round_id: int | None, behind: bool) -> None:
        """Nodes have heard of versions that are lost; what is named by a round since then was made since then."""
        again = Restored(epoch=Epoch(1), version=ModelVersion(0), first_round=RoundId(1), next_round=RoundId(500))
        rig = Rig(engine(settle_s=1.0), fresh(restored=again, next_round=RoundId(501 + 1)))
        rig.connect()
        seen_round = None if round_id is None else RoundId(round_id)
        rig.state("ann", seen=SeenRun(run=RUN, epoch=Epoch(0), round=seen_round, version=ModelVersion(300)))
        assert bool(rig.get("behind")) is behind

    def test_those_whose_updates_are_here_or_who_hold_a_slot_are_asked_too(self) -> None:
        """A receipt of a later version went to one of them."""
        nodes = [NodeId(f"node-{number}") for number in range(40)]
        cohort = cohort_of(RUN, RoundId(0), tuple(nodes[20:]))
        asked = RoundRecord(round=RoundId(0), version=ModelVersion(0), nodes=tuple(nodes[20:]), cohort=cohort)
        rig = Rig(engine(settle_s=1.0), fresh(next_round=RoundId(1), open_rounds=(asked,)))
        rig.store.save_round(asked)
        rig.connect()
        called = [node for node in nodes if f"tell {node} rebirth" in transcript(rig.state(node))]
        assert called == [*nodes[:ASKED_MAX], *nodes[20:]]

    def test_no_more_of_them_are_asked_than_a_start_can_hear(self) -> None:
        nodes = [NodeId(f"node-{number}") for number in range(200)]
        asked = RoundRecord(round=RoundId(0), version=ModelVersion(0), nodes=tuple(nodes), cohort=EVERYONE)
        rig = Rig(engine(settle_s=1.0), fresh(next_round=RoundId(1), open_rounds=(asked,)))
        rig.store.save_round(asked)
        rig.connect()
        called = [node for node in nodes if f"tell {node} rebirth" in transcript(rig.state(node))]
        assert len(called) == ASKED_MAX + OWED_MAX


def signed_rig(**changes: object) -> Rig:
    """A run whose messages are signed, with a round that is asked."""
    rig = Rig(engine(signed=True, **changes), start=7)
    rig.start("ann", "bob")
    return rig


def proof(rig: Rig, node: str, *proved: SeenRun) -> list[str]:
    """What follows from what this coordinator's own key has signed."""
    return transcript(rig.tell(events.ProofReceived(node=NodeId(node), proved=proved)), notes=True)


class TestClaims:
    """FED-130: where messages are signed a node's word holds a moment, and only the coordinator's own holds on."""

    def test_a_member_that_lies_stops_nobody(self) -> None:
        rig = signed_rig(lease_s=600.0)
        said = transcript(rig.offer("ann", 2**32 - 1), notes=True)
        assert said == ["note claim_without_proof", "tell ann rebirth", "note waiting"]
        assert (rig.waiting_for, rig.get("behind")) == ("settling", {})
        assert rig.get("claims") == {"nodes": 1, "said_by": ["ann"], "epoch": 1, "round": 2**32 - 1}
        assert transcript(rig.offer("bob", 0)) == []
        rig.wait(PROOF_WAIT_S)
        assert "store 0-bob" in transcript(rig.offer("bob", 0))
        for _ in range(100):
            assert "tell ann refused" not in " ".join(transcript(rig.offer("ann", 2**32 - 1)))
        rig.offer("ann", 0)
        assert rig.get("version") == 1
        assert rig.get("claims") != {}

    def test_a_version_that_was_never_made_is_asked_for_its_proof_and_a_lie_stops_nobody(self) -> None:
        rig = signed_rig(lease_s=600.0)
        said = transcript(rig.offer("ann", 0, base_version=ModelVersion(4)), notes=True)
        assert said == ["note claim_without_proof", "tell ann rebirth", "note waiting"]
        assert transcript(rig.offer("bob", 0)) == []
        rig.wait(PROOF_WAIT_S)
        assert "store 0-bob" in transcript(rig.offer("bob", 0))

    def test_a_lie_in_a_birth_stops_nobody(self) -> None:
        rig = signed_rig()
        for incarnation in range(2, 30):
            rig.state("ann", incarnation=Incarnation(incarnation), seen=SeenRun(run=RUN, epoch=Epoch(2**32 - 1)))
            rig.wait(PROOF_WAIT_S if incarnation == 2 else 0.0)
            assert rig.waiting_for == "assignments"

    def test_a_node_is_asked_for_its_proof_at_a_bounded_rate(self) -> None:
        rig = signed_rig(lease_s=6_000.0)
        asked = []
        for _ in range(300):
            asked += [line for line in transcript(rig.offer("ann", 9)) if line == "tell ann rebirth"]
            rig.wait(1.0)
        assert len(asked) == 300 / PROOF_PAUSE_S

    def test_a_fleet_that_lies_is_named_and_asked_at_a_bounded_rate(self) -> None:
        rig = signed_rig()
        nodes = [f"n{number}" for number in range(300)]
        for node in nodes:
            rig.state(node)
        rig.wait(10.0)
        asked = []
        for node in nodes:
            asked += [line for line in transcript(rig.offer(node, 9)) if line == f"tell {node} rebirth"]
        # Whoever is first holds everybody's offers; so births tell the rest.
        for node in nodes:
            seen = SeenRun(run=RUN, epoch=Epoch(9))
            asked += [line for line in transcript(rig.state(node, seen=seen)) if line == f"tell {node} rebirth"]
        assert 1 <= len(asked) <= 100
        row = rig.get("claims")
        assert isinstance(row, dict)
        assert (row["nodes"], len(row["said_by"])) == (300, 10)

    @pytest.mark.parametrize(
        "seen",
        [
            SeenRun(run=RUN, epoch=Epoch(2)),
            SeenRun(run=RUN, epoch=Epoch(1), start=Start(8)),
            SeenRun(run=RUN, epoch=Epoch(0), round=RoundId(1), version=ModelVersion(1)),
        ],
    )
    @pytest.mark.parametrize("claims", [False, True])
    def test_a_true_proof_holds_whoever_has_shown_it(self, seen: SeenRun, claims: bool) -> None:
        rig = signed_rig()
        if claims:
            rig.offer("ann", 7)
        assert proof(rig, "ann", SeenRun(run=RUN, epoch=Epoch(0)), seen)[0] == "note behind"
        rig.wait(PROOF_WAIT_S)
        assert (rig.waiting_for, rig.get("claims")) == ("behind", {})
        rig.tell(events.NodesEnrolled(nodes=frozenset({NodeId("bob")}), digest="x"))
        assert rig.waiting_for == "behind", "what it has shown is true without it"
        assert transcript(rig.offer("bob", 0)) == []

    @pytest.mark.parametrize(
        "seen",
        [
            SeenRun(run=OTHER, epoch=Epoch(9), start=Start(9), round=RoundId(99)),
            SeenRun(run=RUN, epoch=Epoch(0), start=Start(2**64 - 1)),
            SeenRun(run=RUN, epoch=Epoch(1), start=Start(6)),
            SeenRun(run=RUN, epoch=Epoch(1), start=Start(7)),
            SeenRun(run=RUN, epoch=Epoch(1), round=RoundId(0), version=ModelVersion(0)),
        ],
    )
    def test_what_is_of_another_run_or_not_beyond_us_is_no_proof(self, seen: SeenRun) -> None:
        rig = signed_rig()
        rig.offer("ann", 7)
        assert proof(rig, "ann", seen) == []
        assert proof(rig, "ann") == []
        rig.wait(PROOF_WAIT_S)
        assert rig.waiting_for == "assignments"
        counters = rig.get("counters")
        assert isinstance(counters, dict)
        assert counters["proofs_void"] == 2

    def test_a_coordinator_that_starts_waits_for_the_proof_before_it_speaks(self) -> None:
        """The births that stand at the broker claim; a verdict in the moment before the proof would be final."""
        rig = Rig(engine(signed=True, settle_s=0.25), start=7)
        rig.connect()
        rig.state("ann", seen=SeenRun(run=RUN, epoch=Epoch(3)))
        assert transcript(rig.heard(Presence.LOST, epoch=0, retained=True)) == []
        assert transcript(rig.wait(1.0)) == []
        assert proof(rig, "ann", SeenRun(run=RUN, epoch=Epoch(3)))[0] == "note behind"
        assert transcript(rig.wait(60.0)) == []
        liar = Rig(engine(signed=True, settle_s=0.25), start=7)
        liar.connect()
        liar.state("ann", seen=SeenRun(run=RUN, epoch=Epoch(3)))
        assert transcript(liar.wait(PROOF_WAIT_S)) == AGAIN[:2]

    def test_a_liar_that_is_revoked_is_not_named_any_more(self) -> None:
        rig = signed_rig()
        rig.offer("ann", 7)
        rig.wait(PROOF_WAIT_S)
        rig.tell(events.NodesEnrolled(nodes=frozenset({NodeId("bob")}), digest="x"))
        assert rig.get("claims") == {}

    def test_without_signatures_a_nodes_word_is_enough(self) -> None:
        """Anybody could say it in the coordinator's own name there."""
        rig = Rig()
        rig.start("ann", "bob")
        assert transcript(rig.offer("ann", 7), notes=True) == ["note behind", "note waiting"]


def test_messages_that_the_broker_drops_are_an_alarm() -> None:
    """What it had dropped before we came is no news."""
    rig = Rig()
    rig.start("ann", "bob")
    dropped = [rig.tell(events.BrokerDropped(total=total)) for total in (7, 7, 9, 9, 12)]
    assert [transcript(effects, notes=True) for effects in dropped] == [
        [],
        [],
        ["note broker_drops"],
        [],
        ["note broker_drops"],
    ]
    assert rig.get("counters") == {"broker_dropped": 5}
    rig.tell(events.BrokerDropped(total=1))  # the broker has been restarted
    assert transcript(rig.tell(events.BrokerDropped(total=2)), notes=True) == ["note broker_drops"]


# --- a run that was begun again from a backup -------------------------------------------------------------------------

LOST = Restored(epoch=Epoch(1000), version=ModelVersion(0), first_round=RoundId(1), next_round=RoundId(500))


def restored_rig() -> Rig:
    """The backup knew round 0 and version 0; rounds 1 to 499 may have been."""
    rig = Rig(recovered=fresh(epoch=Epoch(1001), next_round=RoundId(500), restored=LOST))
    rig.start("ann", "bob")
    return rig


def test_a_restored_run_is_above_what_nodes_have_seen_and_asks_at_once() -> None:
    """FED-122."""
    rig = restored_rig()
    seen = SeenRun(run=RUN, epoch=Epoch(9), start=Start(2**63), round=RoundId(400), version=ModelVersion(300))
    said = transcript(rig.state("ann", seen=seen), notes=True)
    assert "note behind" not in said
    assert rig.waiting_for == "assignments"
    assert rig.announced is not None
    assert rig.announced.round == 500


def test_work_of_a_lost_round_goes_back_once_and_its_id_stays_free() -> None:
    """FED-120: the node hangs on nothing, and the same id may belong to honest work."""
    rig = restored_rig()
    lost = rig.offer("ann", 400, base_version=ModelVersion(290), base_digest=Digest(b"l" * 16))
    assert transcript(lost) == ["tell ann refused 400-ann unknown_round"]
    assert UpdateId("400-ann") not in rig.store.verdicts
    assert transcript(rig.offer("ann", 400, base_version=ModelVersion(0))) == transcript(lost)
    assert "behind" not in rig.get("counters")  # type: ignore[operator]


def test_work_from_a_lost_version_goes_back_although_its_round_is_known() -> None:
    """FED-120: a node that pulled the model late has trained from a version that the backup has not."""
    rig = restored_rig()
    rig.store.rounds[RoundId(0)] = RoundRecord(
        round=RoundId(0), version=ModelVersion(0), nodes=(NodeId("ann"),), cohort=EVERYONE
    )
    lost = rig.offer("ann", 0, base_version=ModelVersion(7), base_digest=Digest(b"l" * 16))
    assert transcript(lost) == [
        "save 0-ann refused base_mismatch",
        "tell ann refused 0-ann base_mismatch",
    ]


def test_a_copy_of_a_restored_store_judges_nothing_of_after_itself() -> None:
    """FED-97 holds for what was asked since the restore."""
    rig = restored_rig()
    assert transcript(rig.offer("ann", 500, base_version=ModelVersion(9))) == []
    assert transcript(rig.offer("ann", 900)) == []
    assert rig.waiting_for == "behind"


def test_nothing_is_said_into_a_connection_that_has_ended_meanwhile() -> None:
    """FED-97: it would wait for the next connection, and be said before it is heard who leads by then."""
    rig = Rig(engine(settle_s=1.0))
    rig.connect()
    rig.now += 2.0  # the process was busy, and the end of its connection has arrived
    assert transcript(rig.disconnect()) == []
    assert transcript(rig.connect()) == []
    assert transcript(rig.wait(1.0)) == ["publish state online epoch 1", "publish model 0"]


@pytest.mark.parametrize("connected", [False, True])
def test_what_a_storage_pause_has_held_back_waits_until_it_is_heard_who_leads(connected: bool) -> None:
    """FED-97: the end of a pause is no reason to speak."""
    rig = Rig(engine(settle_s=10.0))
    rig.connect()
    rig.wait(10.0)
    rig.state("ann")
    rig.failing = True
    assert transcript(rig.state("bob")) == ["accept failure"]
    rig.disconnect()
    rig.failing = False
    said = transcript(rig.connect()) if connected else []
    said += transcript(rig.wait(1.0))
    assert not any(line.startswith(("publish", "announce")) for line in said), said
    if not connected:
        rig.connect()
    assert transcript(rig.wait(10.0)) == AGAIN


def test_what_a_storage_pause_has_held_back_waits_for_one_that_stood_still_to_listen_again() -> None:
    """FED-97: what was heard before is old by then."""
    rig = Rig(engine(settle_s=10.0))
    rig.connect()
    rig.wait(10.0)
    rig.state("ann")
    rig.failing = True
    rig.state("bob")
    rig.failing = False
    rig.now += STOPPED_S + 5.0
    assert not any(line.startswith(("publish", "announce")) for line in transcript(rig.tell(None)))
    assert AGAIN[0] in transcript(rig.wait(10.0))


@pytest.mark.parametrize(
    ("seen", "holds"),
    [
        (SeenRun(run=RUN, epoch=Epoch(0), start=Start(9), round=RoundId(3)), True),
        (SeenRun(run=RUN, epoch=Epoch(1), start=Start(6), round=RoundId(3)), True),
        (SeenRun(run=RUN, epoch=Epoch(0), start=Start(9), round=RoundId(2)), False),
        (SeenRun(run=RUN, epoch=Epoch(1), start=Start(7), round=RoundId(3)), False),
        (SeenRun(run=RUN, epoch=Epoch(1), round=RoundId(3)), False),
    ],
)
def test_a_round_of_an_earlier_start_that_was_unknown_at_our_own_is_beyond_us(seen: SeenRun, holds: bool) -> None:
    """FED-97: a copy may have given its number out again before it hears of it."""
    rig = Rig(recovered=fresh(next_round=RoundId(3)), start=7)
    rig.start("ann", "bob")
    assert max(rig.store.rounds) == 3
    assert ("note behind" in transcript(rig.state("ann", seen=seen), notes=True)) is holds
