"""A least interval between versions, and how a coordinator says for how many nodes it waits."""

from coordinator.engine.effects import Note
from tests.rigs.coordinator_rig import Rig, engine, transcript


def test_after_a_version_nobody_is_asked_before_the_interval_is_over() -> None:
    rig = Rig(engine(interval_min_s=20.0))
    rig.start("ann", "bob")
    rig.offer("ann", 0)
    done = transcript(rig.offer("bob", 0))
    assert rig.get("version") == 1
    assert not [line for line in done if line.startswith("announce")]
    assert rig.get("waiting_for")["reason"] == "interval"  # type: ignore[index]
    assert rig.machine.deadline() is not None
    assert rig.machine.deadline() <= rig.now + 20.0  # type: ignore[operator]
    rig.now += 19.9
    assert not [line for line in transcript(rig.tell(None)) if line.startswith("announce")]
    rig.now += 0.1
    assert [line for line in transcript(rig.tell(None)) if line.startswith("announce")] == [
        "announce round 1 of version 1"
    ]


def test_what_arrives_meanwhile_makes_its_version_when_it_is_over_and_nothing_spins() -> None:
    """Asynchronous: the buffer may be full long before; a deadline in the past would make the loop turn for nothing."""
    rig = Rig(
        engine(concurrency=3, buffer=1, refill=1, max_staleness=5, nodes_min=3, interval_min_s=20.0, max_wait_s=1.0)
    )
    rig.start("ann", "bob", "cid")
    rig.offer("ann", 0)
    assert rig.get("version") == 1
    rig.offer("bob", 0)
    rig.offer("cid", 0)
    for _ in range(4):
        rig.now += 4.0
        rig.tell(None)
        assert rig.get("version") == 1
        deadline = rig.machine.deadline()
        assert deadline is not None
        assert deadline > rig.now
    rig.now += 4.0
    rig.tell(None)
    assert rig.get("version") == 2


def test_without_an_interval_the_next_round_follows_at_once() -> None:
    rig = Rig()
    rig.start("ann", "bob")
    rig.offer("ann", 0)
    assert any(line.startswith("announce round 1") for line in transcript(rig.offer("bob", 0)))


def test_the_log_says_how_many_of_how_many_nodes_are_there() -> None:
    """Not one line for each of thousands: another tenth of them is news."""
    rig = Rig(engine(concurrency=4, buffer=4, refill=4, nodes_min=40))
    told = list(rig.connect())
    for number in range(39):
        told += rig.state(f"n{number}")
    words = [
        one.fields["why"] for one in told if isinstance(one, Note) and one.event == "waiting" and "why" in one.fields
    ]
    assert words[0] == "0 of 40 online (round.nodes_min)"
    assert words[-1] == "36 of 40 online (round.nodes_min)"
    assert len(words) == 10
