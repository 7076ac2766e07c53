"""Long random walks over the rules of `Life`: deeper than what Hypothesis draws, and the same for the same seed."""

from random import Random

import pytest

from edge_node.records import RecoveredNode
from federation.protocol.messages import Presence, ReceiptStatus
from tests.rigs import repetitions
from tests.rigs.node_rig import entry, holding
from tests.unit.edge_node.engine.test_machine_properties import Life

STEPS = 1_500


def walk(seed: int) -> Life:
    """One node's life; every step checks what must never happen, and that nothing that is due was left undone."""
    rng, life = Random(seed), Life()
    recovered = rng.choice((RecoveredNode(), holding(0), holding(1, last_round=2, outbox=[entry(1), entry(2)])))
    life.starts(recovered=recovered, fails=[], draw=0.0 if seed % 2 else 0.5, trusts=True)
    for _ in range(STEPS):
        _step(life, rng)
    return life


def _step(life: Life, rng: Random) -> None:
    draw = rng.randrange(100)
    if draw < 50:
        _work(life, rng)
    elif draw < 60:
        life.process_is_stopped(pause_s=rng.choice((0.5, 2.0, 11.0, 40.0)))
    elif draw < 70:
        life.time_passes(pause_s=rng.choice((0.1, 1.0, 11.0, 400.0)))
    elif draw < 80:
        life.disk_runs_full(full=rng.random() < 0.4)
    elif draw < 95:
        _settle(life, rng)
    elif draw < 97:
        life.connection_breaks()
    else:
        life.coordinator_says(
            presence=rng.choice((Presence.ONLINE, Presence.ONLINE, Presence.LOST)),
            restarted=rng.random() < 0.3,
            dice=rng.choice((0, 0, 0, 9)),
        )


def _work(life: Life, rng: Random) -> None:
    draw = rng.randrange(5)
    if draw == 4:
        life.evaluation_ends(late=rng.random() < 0.2, receipted=rng.random() < 0.5)
    elif draw == 0:
        life.chunks_arrive(count=4)
    elif draw == 1:
        life.worker_ends(size=rng.choice((3, 11, 40)), well=rng.random() < 0.9)
    else:
        life.round_is_announced(
            newer=rng.choice((0, 0, 0, 1)),
            skipped=1,
            asks=rng.random() < 0.9,
            whole=True,
            old=2,
            spread_s=rng.choice((0.0, 4.0)),
            evaluates=rng.random() < 0.3,
        )


def _settle(life: Life, rng: Random) -> None:
    if not life.world.on_disk:
        return
    if rng.random() < 0.7:
        life.receipt_arrives(which=rng.randrange(9), status=rng.choice(tuple(ReceiptStatus)))
    else:
        life.grant_arrives(which=rng.randrange(9), arrived=rng.randrange(16), window=2)


@pytest.mark.parametrize("seed", repetitions.of(range(100), few=range(25)))
def test_a_random_walk_says_nothing_unsaved_and_saves_nothing_twice(seed: int) -> None:
    """FED-27, FED-37, FED-41, FED-50, also where a stopped process finds a deadline and an event at one moment."""
    world = walk(seed).world
    assert world.receipts


def test_the_same_seed_walks_the_same_way() -> None:
    assert walk(5).world.machine.snapshot() == walk(5).world.machine.snapshot()
