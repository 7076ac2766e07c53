"""Known nodes: presence by incarnation, and who may be asked."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from coordinator.engine import registry as registry_module
from coordinator.engine.registry import REST_BASE_S, REST_MAX_S, RETRY_AFTER_MAX_S, Registry, Sighting
from federation.protocol.messages import NodeState, Presence
from federation.types import Incarnation, NodeId, StateId

ANN, BOB = NodeId("ann"), NodeId("bob")
ALIVE = NodeState(presence=Presence.ONLINE, incarnation=Incarnation(5), protocol_min=1, protocol_max=1)
LOST = replace(ALIVE, presence=Presence.LOST)


def known(*nodes: NodeId, quota: int = 1) -> Registry:
    registry = Registry(task="digits", codecs=("deadzone(bpp=1)",), quota=quota)
    for node in nodes:
        registry.observe(node, ALIVE)
    return registry


def asked(registry: Registry) -> tuple[Sequence[NodeId], Sequence[NodeId]]:
    return list(registry.candidates), list(registry.suspects)


def test_a_delayed_will_cannot_bury_a_node_that_is_back() -> None:
    """FED-21: births and wills of an older incarnation are ignored."""
    registry = known(ANN)
    older = Incarnation(4)
    assert registry.observe(ANN, replace(LOST, incarnation=older)) is Sighting.OUTDATED
    assert registry.observe(ANN, replace(ALIVE, incarnation=older)) is Sighting.OUTDATED
    assert registry.online == 1


class TestLives:
    """FED-99: a life is known by the id of its store; only within one store do counters order."""

    FIRST = replace(ALIVE, incarnation=Incarnation(17), state_id=StateId(1))
    SECOND = replace(ALIVE, incarnation=Incarnation(1), state_id=StateId(2))

    def test_a_node_that_lost_its_state_is_another_life_whatever_its_counter(self) -> None:
        registry = known()
        registry.observe(ANN, self.FIRST)
        assert registry.observe(ANN, self.SECOND) is Sighting.BORN
        assert registry.observe(ANN, self.SECOND) is Sighting.HERE
        assert registry.online == 1

    @pytest.mark.parametrize("presence", [Presence.LOST, Presence.OFFLINE])
    @pytest.mark.parametrize("state_id", [None, StateId(1)])
    def test_a_counter_that_went_back_after_the_end_of_a_life_is_another_one(
        self, presence: Presence, state_id: StateId | None
    ) -> None:
        """A release without state ids on a new card, or the image of a card as it was: nobody else will speak."""
        registry = known()
        registry.observe(ANN, replace(self.FIRST, state_id=state_id))
        registry.rest(ANN, 0.0, RETRY_AFTER_MAX_S)
        registry.observe(ANN, replace(self.FIRST, state_id=state_id, presence=presence))
        back = replace(self.FIRST, state_id=state_id, incarnation=Incarnation(1))
        assert registry.observe(ANN, replace(back, presence=presence)) is Sighting.OUTDATED
        assert registry.observe(ANN, back) is Sighting.BORN
        assert asked(registry) == ([ANN], [])
        assert registry.observe(ANN, replace(back, presence=presence)) is Sighting.GONE

    @pytest.mark.parametrize("presence", [Presence.LOST, Presence.OFFLINE])
    def test_what_is_said_of_a_former_life_s_end_does_not_bury_the_new_one(self, presence: Presence) -> None:
        registry = known()
        registry.observe(ANN, self.FIRST)
        registry.observe(ANN, self.SECOND)
        assert registry.observe(ANN, replace(self.FIRST, presence=presence)) is Sighting.OUTDATED
        assert registry.observe(ANN, replace(LOST, incarnation=Incarnation(99))) is Sighting.OUTDATED
        assert registry.observe(ANN, replace(self.SECOND, presence=presence)) is Sighting.GONE

    def test_a_new_life_begins_without_the_rests_and_failures_of_the_former_one(self) -> None:
        registry = known()
        registry.observe(ANN, self.FIRST)
        registry.assign(ANN)
        registry.release(ANN)
        registry.rest(ANN, 0.0, RETRY_AFTER_MAX_S)
        registry.suspect(ANN, 0.0, 60.0)
        assert asked(registry) == ([], [])
        registry.observe(ANN, self.SECOND)
        assert asked(registry) == ([ANN], [])
        assert registry.record(ANN).asked == 0

    def test_what_its_former_life_has_on_the_way_still_counts_in_its_quota(self) -> None:
        registry = known()
        registry.observe(ANN, self.FIRST)
        registry.take(ANN)
        registry.observe(ANN, self.SECOND)
        assert asked(registry) == ([], [])
        registry.give(ANN)
        assert asked(registry) == ([ANN], [])

    def test_a_node_that_names_no_store_goes_on_as_ever(self) -> None:
        """Its own store gets an id when it is updated, and none when it is set back."""
        registry = known(ANN)
        named = replace(ALIVE, incarnation=Incarnation(6), state_id=StateId(1))
        assert registry.observe(ANN, replace(named, incarnation=Incarnation(4))) is Sighting.OUTDATED
        assert registry.observe(ANN, named) is Sighting.BORN
        assert registry.observe(ANN, replace(ALIVE, incarnation=Incarnation(5))) is Sighting.OUTDATED
        assert registry.observe(ANN, replace(ALIVE, incarnation=Incarnation(7))) is Sighting.BORN
        assert registry.observe(ANN, replace(LOST, incarnation=Incarnation(7))) is Sighting.GONE


def test_a_lower_incarnation_that_was_asked_about_is_another_life() -> None:
    registry = known(ANN)
    registry.rest(ANN, 0.0, RETRY_AFTER_MAX_S)
    back = replace(ALIVE, incarnation=Incarnation(1))
    assert registry.observe(ANN, back) is Sighting.OUTDATED
    assert registry.observe(ANN, back, repeated=True) is Sighting.BORN
    assert asked(registry) == ([ANN], [])
    assert registry.observe(ANN, replace(LOST, incarnation=Incarnation(1))) is Sighting.GONE
    assert registry.online == 0


def test_sightings_tell_births_returns_and_deaths_apart() -> None:
    registry = known()
    newer = Incarnation(6)
    assert registry.observe(ANN, LOST) is Sighting.AWAY
    assert registry.observe(ANN, LOST) is Sighting.AWAY
    assert registry.observe(ANN, ALIVE) is Sighting.BACK
    assert registry.observe(ANN, ALIVE) is Sighting.HERE
    assert registry.observe(ANN, LOST) is Sighting.GONE
    assert registry.observe(ANN, replace(ALIVE, incarnation=newer)) is Sighting.BORN
    assert registry.observe(ANN, replace(LOST, incarnation=Incarnation(7))) is Sighting.GONE
    assert registry.online == 0
    assert len(registry) == 1


def test_only_so_many_nodes_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "NODES_MAX", 1)
    registry = known(ANN)
    assert registry.observe(BOB, ALIVE) is Sighting.OVERFLOW
    assert registry.observe(ANN, ALIVE) is Sighting.HERE
    assert BOB not in registry


@pytest.mark.parametrize(
    ("changes", "asked_for"),
    [
        ({}, True),
        ({"task": "digits"}, True),
        ({"task": "mnist"}, False),
        ({"codecs": ("deadzone",)}, True),
        ({"codecs": ("lossless", "deadzone(bpp=1)")}, True),
        ({"codecs": ("lossless",)}, False),
        ({"protocol_min": 2, "protocol_max": 3}, False),
        ({"protocol_min": 0, "protocol_max": 0}, False),
        ({"presence": Presence.OFFLINE}, False),
    ],
)
def test_only_compatible_nodes_that_are_there_are_candidates(changes: dict[str, object], asked_for: bool) -> None:
    registry = known()
    registry.observe(ANN, replace(ALIVE, **changes))  # type: ignore[arg-type]
    assert (ANN in registry.candidates) is asked_for


def test_a_node_with_a_slot_or_at_its_quota_is_not_asked() -> None:
    registry = known(ANN, quota=2)
    registry.assign(ANN)
    assert ANN not in registry.candidates
    registry.release(ANN)
    registry.take(ANN)
    assert ANN in registry.candidates
    registry.take(ANN)
    assert ANN not in registry.candidates
    registry.give(ANN)
    registry.give(ANN)
    assert ANN in registry.candidates
    assert registry.used(ANN) == 0


def test_a_node_that_declined_rests_as_long_as_it_asked_for() -> None:
    """FED-30: it is not asked before its time."""
    registry = known(ANN)
    registry.rest(ANN, 100.0, 60.0)
    registry.wake(159.9)
    assert asked(registry) == ([], [])
    assert registry.next_timer() == 160.0
    registry.wake(160.0)
    assert asked(registry) == ([ANN], [])
    assert registry.next_timer() is None


def test_a_node_that_was_started_again_does_not_rest_as_long_as_it_asked_for() -> None:
    """FED-30: its owner has mended what it declined for; only failures in a row are still waited for."""
    registry = known(ANN)
    registry.rest(ANN, 100.0, 600.0)
    registry.observe(ANN, ALIVE)
    assert registry.next_timer() == 700.0
    registry.observe(ANN, replace(ALIVE, incarnation=Incarnation(ALIVE.incarnation + 1)))
    assert asked(registry) == ([], [])
    assert registry.next_timer() == 100.0 + REST_BASE_S
    registry.wake(100.0 + REST_BASE_S)
    assert asked(registry) == ([ANN], [])
    registry.rest(ANN, 200.0, 600.0)
    registry.observe(ANN, replace(ALIVE, incarnation=Incarnation(ALIVE.incarnation + 2)))
    assert registry.next_timer() == 200.0 + 2 * REST_BASE_S


def test_rests_double_in_a_row_are_bounded_and_end_with_praise() -> None:
    registry = known(ANN)
    rests = []
    for _ in range(20):
        registry.rest(ANN, 0.0)
        rests.append(registry.next_timer())
    assert rests[:3] == [REST_BASE_S, 2 * REST_BASE_S, 4 * REST_BASE_S]
    assert rests[-1] == REST_MAX_S
    registry.praise(ANN)
    registry.rest(ANN, 0.0)
    assert registry.next_timer() == REST_BASE_S
    registry.rest(ANN, 0.0, 1e12)
    assert registry.next_timer() == RETRY_AFTER_MAX_S


def test_a_silent_node_is_suspected_until_it_shows_a_sign_of_life_or_its_time_is_over() -> None:
    registry = known(ANN, BOB)
    registry.suspect(ANN, 0.0, 60.0)
    registry.suspect(BOB, 0.0, 60.0)
    assert asked(registry) == ([], [ANN, BOB])
    registry.alive(BOB)
    assert asked(registry) == ([BOB], [ANN])
    registry.wake(60.0)
    assert sorted(registry.candidates) == [ANN, BOB]


def test_silence_and_refusal_are_counted_apart() -> None:
    registry = known(ANN)
    for _ in range(5):
        registry.suspect(ANN, 0.0, 60.0)
    assert registry.next_timer() == 60.0 * 2.0**4
    registry.rest(ANN, 0.0)
    assert registry.next_timer() == REST_BASE_S


def test_what_an_unknown_node_did_leaves_nothing_behind() -> None:
    registry = known()
    registry.rest(ANN, 0.0)
    registry.suspect(ANN, 0.0, 60.0)
    registry.praise(ANN)
    assert registry.next_timer() is None
    assert ANN not in registry


def test_what_nodes_say_alike_is_held_once() -> None:
    """10,000 nodes with one dictionary each were 2.3 MB of the coordinator's memory."""
    registry = known()
    for node, cores in ((ANN, 4.0), (BOB, 4.0), (NodeId("cyd"), 8.0)):
        registry.observe(node, replace(ALIVE, capabilities={"cores": cores}))
    ann, bob, cyd = (registry.record(NodeId(node)).capabilities for node in ("ann", "bob", "cyd"))
    assert ann is bob
    assert (dict(ann), dict(cyd)) == ({"cores": 4.0}, {"cores": 8.0})


def test_a_node_slower_than_the_lease_rests_no_longer_for_its_first_decline() -> None:
    """Found by simulation: after a dozen expired leases one decline for a full outbox cost an hour."""
    registry = known(ANN)
    for expiry in range(12):
        registry.suspect(ANN, float(expiry), 10.0)
        registry.alive(ANN)
    registry.rest(ANN, 20.0, 30.0)
    assert registry.next_timer() == 50.0


def test_a_node_that_has_too_little_is_present_and_no_candidate_until_it_says_otherwise() -> None:
    """FED-74."""
    registry = Registry(task="digits", codecs=("deadzone(bpp=1)",), quota=1, needs={"memory_bytes": 1e9})
    registry.observe(ANN, replace(ALIVE, capabilities={"memory_bytes": 5e8}))
    registry.observe(BOB, replace(ALIVE, capabilities={"memory_bytes": 2e9}))
    assert asked(registry) == ([BOB], [])
    assert list(registry.present()) == [ANN, BOB]
    assert registry.record(BOB).capabilities == {"memory_bytes": 2e9}
    registry.observe(ANN, replace(ALIVE, capabilities={"memory_bytes": 3e9}))
    assert asked(registry) == ([BOB, ANN], [])


TURNED = replace(ALIVE, capabilities={"cosine_frames": 1.0})


def test_who_reads_no_cosine_frames_is_counted_while_it_is_there() -> None:
    """FED-235."""
    registry = known()
    registry.observe(ANN, TURNED)
    assert registry.plain == 0
    registry.observe(BOB, ALIVE)
    assert (registry.plain, registry.online) == (1, 2)
    registry.observe(BOB, LOST)
    assert registry.plain == 0
    registry.observe(BOB, replace(ALIVE, incarnation=Incarnation(6)))
    assert registry.plain == 1
    registry.observe(BOB, replace(TURNED, incarnation=Incarnation(7)))
    assert registry.plain == 0, "it was upgraded"
    registry.observe(ANN, replace(ALIVE, incarnation=Incarnation(6), task="other"))
    assert registry.plain == 0, "it takes no part"
    registry.observe(ANN, replace(ALIVE, incarnation=Incarnation(7)))
    registry.remove(ANN)
    assert (registry.plain, registry.online) == (0, 1)


def test_a_codec_of_the_cosine_kind_is_for_those_who_know_it() -> None:
    """FED-236."""
    registry = Registry(task="digits", codecs=("compact", "edge"), quota=1)
    registry.observe(ANN, TURNED)
    registry.observe(BOB, ALIVE)
    assert [registry.codec_for(node) for node in (ANN, BOB, NodeId("new"))] == ["compact", "edge", "compact"]
    registry.observe(ANN, replace(TURNED, codecs=("edge",)))
    assert registry.codec_for(ANN) == "edge"
    alone = Registry(task="digits", codecs=("compact",), quota=1)
    alone.observe(BOB, ALIVE)
    assert not alone.is_present(BOB)
