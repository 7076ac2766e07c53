"""Who is asked alone, and when everybody is told: what a large fleet hears of a run that goes on fast."""

from collections.abc import Mapping

import pytest

from coordinator.engine.announcer import BIRTHS_PER_S, QUIET_S_PER_NODE, UNTOLD_BYTES_MAX
from coordinator.engine.effects import (
    ClearModel,
    Effect,
    Invite,
    PublishAnnouncement,
    PublishModel,
    PublishState,
    SaveRound,
)
from coordinator.engine.settings import FederatedEvaluationSettings
from federation.protocol.cohort import includes
from federation.protocol.messages import Activity, RoundAnnouncement
from federation.types import Epoch, Incarnation, RoundId, SeenRun
from tests.rigs.coordinator_rig import RUN, Rig, engine, fresh, transcript

SETTINGS: Mapping[str, object] = {
    "concurrency": 4,
    "buffer": 2,
    "refill": 1,
    "max_staleness": 8,
    "nodes_min": 10,
    "lease_s": 600.0,
}
NAMES = tuple(f"node-{number}" for number in range(10))


def fleet(*, old: int = 0, **changes: object) -> Rig:
    """Ten nodes, of which the first ones are of an earlier release."""
    rig = Rig(engine(**{**SETTINGS, **changes}))
    rig.connect()
    for number, name in enumerate(NAMES):
        rig.state(name, invitable=None if number < old else True)
    return rig


def standing(rig: Rig) -> RoundAnnouncement:
    assert rig.announced is not None
    return rig.announced


def asked(rig: Rig) -> list[str]:
    """Who holds a slot and has not offered, with its round."""
    held = rig.machine._state.assignments
    return [f"{slot.round}-{node}" for node in held if (slot := held.get(node)) is not None]


def deliver(rig: Rig) -> list[Effect]:
    """One of those who were asked offers."""
    number, _, node = asked(rig)[0].partition("-")
    return rig.offer(node, int(number))


def told(effects: list[Effect]) -> list[str]:
    return [type(effect).__name__ for effect in effects if isinstance(effect, Invite | PublishAnnouncement)]


def test_a_free_place_is_filled_by_an_invitation_that_nobody_else_hears() -> None:
    """FED-190: its round is on disk before, and its cohort is the one who is asked."""
    rig = fleet()
    assert len(standing(rig).cohort.fingerprints) == 4 * 4
    effects = deliver(rig)
    (invite,) = [effect for effect in effects if isinstance(effect, Invite)]
    (saved,) = [effect.record for effect in effects if isinstance(effect, SaveRound)]
    assert (invite.announcement.round, invite.nodes) == (saved.round, saved.nodes)
    assert includes(invite.announcement.cohort, RUN, saved.round, invite.nodes[0])
    kinds = [type(effect) for effect in effects]
    assert kinds.index(SaveRound) < kinds.index(Invite)
    assert told(effects) == ["Invite"]


def test_a_node_of_an_earlier_release_is_asked_as_ever() -> None:
    """FED-190: what it does not read it is never sent, and everybody hears the round that asks it."""
    rig = fleet(old=10)
    for _ in range(6):
        assert told(deliver(rig)) == ["PublishAnnouncement"]
    mixed = fleet(old=5)
    for _ in range(12):
        effects = deliver(mixed)
        for invite in (effect for effect in effects if isinstance(effect, Invite)):
            assert not {f"node-{number}" for number in range(5)} & set(invite.nodes)


def test_of_versions_that_follow_fast_all_are_told_of_some() -> None:
    """FED-191: and once enough time has passed, of the newest."""
    rig = fleet()
    before = standing(rig)
    effects = [effect for _ in range(6) for effect in deliver(rig)]
    assert told(effects) == ["Invite"] * 6
    assert [e.record.version for e in effects if isinstance(e, PublishModel)] == [1, 2, 3]
    assert not [effect for effect in effects if isinstance(effect, ClearModel)]
    rig.wait(QUIET_S_PER_NODE * 10 + 0.001)
    effects = deliver(rig)
    assert told(effects) == ["PublishAnnouncement"]
    # FED-192: what the announcement before it names stays, and what invitations named goes.
    assert [effect.named for effect in effects if isinstance(effect, ClearModel)] == [before.model.parts]


def test_a_version_that_half_of_the_nodes_are_asked_for_is_told_to_all() -> None:
    """FED-191: a synchronous round is one announcement, however fast the rounds are."""
    rig = fleet(concurrency=5, buffer=5, refill=5, max_staleness=0)
    for _ in range(3):
        effects = [effect for _ in range(5) for effect in deliver(rig)]
        assert told(effects) == ["PublishAnnouncement"]


def test_a_version_to_be_evaluated_is_told_to_all() -> None:
    """FED-191."""
    rig = fleet(federated_evaluation=FederatedEvaluationSettings(every=2))
    words = [told(deliver(rig)) for _ in range(4)]
    assert words == [["Invite"], ["Invite"], ["Invite"], ["PublishAnnouncement"]]


def test_large_models_do_not_pile_up_on_the_broker() -> None:
    """FED-191: all are told before what nobody else names takes much room there."""
    rig = fleet()
    rig.machine._announcer._untold_bytes = UNTOLD_BYTES_MAX + 1
    deliver(rig)
    assert told(deliver(rig)) == ["PublishAnnouncement"]


def test_a_broker_that_has_lost_everything_gets_an_announcement_of_what_is_there() -> None:
    """FED-22: what stood there may name parts that are gone; nobody is asked anew for that."""
    rig = fleet()
    for _ in range(2):
        deliver(rig)
    rig.disconnect()
    lines = transcript(rig.connect())
    assert "publish model 1" in lines
    number = standing(rig).round
    assert f"save round {number} of version 1 for" in lines
    assert f"announce round {number} of version 1" in lines
    assert lines.index(f"save round {number} of version 1 for") < lines.index(f"announce round {number} of version 1")


def test_an_invitation_that_did_not_reach_the_disk_is_not_said_and_holds_no_slot() -> None:
    """FED-24: the nodes are asked again after the pause, under another number."""
    rig = fleet()
    rig.failing = True
    effects = deliver(rig)
    assert not told(effects)
    rig.failing = False
    again = rig.wait(120.0)
    assert "Invite" in told(again) or "PublishAnnouncement" in told(again)


def test_a_node_that_is_born_without_the_round_is_asked_anew() -> None:
    """FED-190: an invitation is not retained; whoever has lost it holds no slot."""
    rig = fleet()
    (invite,) = [effect for effect in deliver(rig) if isinstance(effect, Invite)]
    rig.state(invite.nodes[0], invitable=True, incarnation=2)
    slot = rig.machine._state.assignments.get(invite.nodes[0])
    assert slot is None or slot.round > invite.announcement.round


def test_a_large_fleet_is_told_to_take_its_time() -> None:
    """FED-193: as many as were ever seen, or as are known by now; a small fleet is told nothing."""
    for known, seconds in ((400, None), (40_000, 40_000 / BIRTHS_PER_S)):
        rig = Rig(recovered=fresh(nodes_seen=known))
        (said,) = [effect.state for effect in rig.connect() if isinstance(effect, PublishState)]
        assert said.births_s == seconds


def invited(rig: Rig) -> tuple[str, int]:
    """Who was just invited, and its round."""
    (invite,) = [effect for effect in deliver(rig) if isinstance(effect, Invite)]
    return invite.nodes[0], invite.announcement.round


def test_who_has_not_read_its_invitation_yet_keeps_its_place() -> None:
    """What it says of itself was on its way: it trains, and asked once more its second update would be refused."""
    rig = fleet()
    node, number = invited(rig)
    before = SeenRun(run=RUN, epoch=Epoch(1), round=RoundId(number - 1))
    rig.state(node, invitable=True, seen=before)
    assert f"{number}-{node}" in asked(rig)


def test_after_a_new_connection_an_invitation_may_be_lost_and_who_does_not_say_that_it_trains_is_asked_anew() -> None:
    rig = fleet()
    node, number = invited(rig)
    rig.connect()
    rig.state(node, invitable=True, seen=SeenRun(run=RUN, epoch=Epoch(1), round=RoundId(number - 1)))
    assert f"{number}-{node}" not in asked(rig)


def test_who_has_read_its_invitation_and_trains_no_more_has_answered_and_keeps_its_place() -> None:
    """FED-328: its update comes on another connection than its state; a second question would take two places."""
    rig = fleet()
    node, number = invited(rig)
    rig.state(node, invitable=True, seen=SeenRun(run=RUN, epoch=Epoch(1), round=RoundId(number)))
    assert f"{number}-{node}" in asked(rig)
    rig.offer(node, number)
    assert f"{number}-{node}" not in asked(rig)


def test_who_has_obeyed_a_later_round_is_not_at_the_work_of_its_invitation_and_never_will_be() -> None:
    rig = fleet()
    node, number = invited(rig)
    rig.state(node, invitable=True, seen=SeenRun(run=RUN, epoch=Epoch(1), round=RoundId(number + 1)))
    assert f"{number}-{node}" not in asked(rig)


@pytest.mark.parametrize("incarnation", [1, 2])
def test_whose_update_is_on_its_way_keeps_its_place_in_another_life_too(incarnation: int) -> None:
    """FED-328: its state says for which round; the update is in its outbox, and is offered again."""
    rig = fleet()
    node, number = invited(rig)
    rig.connect()
    rig.state(
        node,
        invitable=True,
        incarnation=Incarnation(incarnation),
        activity=Activity.UPLOADING,
        round=RoundId(number),
        seen=SeenRun(run=RUN, epoch=Epoch(1), round=RoundId(number)),
    )
    assert f"{number}-{node}" in asked(rig)


def test_a_new_life_has_not_the_invitation_that_the_former_one_read() -> None:
    """The broker sends it once: what a killed process has acknowledged comes to nobody."""
    rig = fleet()
    node, number = invited(rig)
    seen = SeenRun(run=RUN, epoch=Epoch(1), round=RoundId(number))
    rig.state(node, invitable=True, incarnation=Incarnation(2), seen=seen)
    assert f"{number}-{node}" not in asked(rig)
