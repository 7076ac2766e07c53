"""While a node is there that reads no cosine frames, versions go down without [FED-235]."""

from coordinator.engine import effects
from tests.rigs.coordinator_rig import Rig, engine

NEW = {"cosine_frames": 1.0}


def published(told: list[effects.Effect]) -> list[tuple[int, bool]]:
    return [(one.record.version, one.plain) for one in told if isinstance(one, effects.PublishModel)]


def committed(told: list[effects.Effect]) -> list[bool]:
    return [one.plain for one in told if isinstance(one, effects.CommitVersion)]


def test_a_version_is_plain_from_the_next_question_after_such_a_node_comes() -> None:
    rig = Rig(engine(concurrency=1, buffer=1, refill=1, quorum=1, nodes_min=1))
    rig.connect()
    rig.state("ann", capabilities=NEW)
    round_id = max(rig.store.rounds)
    assert committed(rig.offer("ann", round_id)) == [False]
    told = rig.state("old")
    told += rig.offer("ann", max(rig.store.rounds))
    assert committed(told) == [True]
    assert published(told)[-1] == (2, True)


def test_the_head_is_published_again_for_it_and_not_a_third_time() -> None:
    rig = Rig(engine(concurrency=2, buffer=2, refill=1, quorum=2))
    rig.connect()
    told = rig.state("ann", capabilities=NEW)
    assert published(told) in ([], [(0, False)])
    told = rig.state("old")
    assert published(told) == [(0, True)]
    assert published(rig.state("older")) == []
