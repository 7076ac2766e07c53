"""Any sequence of events: nothing is lost, nothing counts twice, no slot leaks, no busy loop (I1, I2, I3, I6)."""

from random import Random

import pytest
from hypothesis import HealthCheck, settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from coordinator.engine import events
from coordinator.engine.settings import FederatedEvaluationSettings
from federation.protocol.messages import Activity, Presence, Reason
from federation.types import ModelVersion, NodeId, RoundId, UpdateId
from tests.rigs.coordinator_rig import SAVES, Rig, digest_of, engine, offer_of

NODES = ("ann", "bob", "cid", "dan")
CHUNKS = (b"0123", b"4567", b"89")
LARGE = {"inline": None, "payload_bytes": 10, "chunk_bytes": 4}

SHAPES = {
    "sync": engine(concurrency=3, buffer=3, refill=3, quorum=2, nodes_min=2),
    "fedasync": engine(concurrency=2, buffer=1, refill=1, nodes_min=1, max_staleness=2),
    "fedbuff": engine(concurrency=3, buffer=2, refill=1, nodes_min=1, max_staleness=1, per_node_quota=2),
    "selective": engine(concurrency=4, buffer=2, refill=4, nodes_min=1, transfers_max=1, settle_s=0.5),
    "evaluated": engine(
        concurrency=3,
        buffer=2,
        refill=1,
        nodes_min=1,
        evaluate_every=1,
        federated_evaluation=FederatedEvaluationSettings(every=1, nodes_min=2),
    ),
    "short": engine(concurrency=2, buffer=2, refill=2, nodes_min=1, versions=3),
}

nodes = strategies.sampled_from(NODES)
rounds = strategies.integers(0, 12)


class CoordinatorSteps(RuleBasedStateMachine):
    """Nodes, broker, disk and operator do what they like; the store model fails on each broken promise."""

    @initialize(
        shape=strategies.sampled_from(sorted(SHAPES)), seed=strategies.integers(0, 3), awake=strategies.booleans()
    )
    def begin(self, shape: str, seed: int, awake: bool) -> None:
        self.rig = Rig(SHAPES[shape], seed=seed)
        self.rig.tell(None)
        if awake:
            self.rig.start(*NODES)
            self.rig.wait(1.0)

    @rule()
    def connect(self) -> None:
        self.rig.connect()

    @rule()
    def disconnect(self) -> None:
        self.rig.disconnect()

    @rule(node=nodes, presence=strategies.sampled_from(Presence), incarnation=strategies.integers(1, 3), at=rounds)
    def state(self, node: str, presence: Presence, incarnation: int, at: int) -> None:
        working = {"activity": Activity.TRAINING, "round": RoundId(at)} if at % 2 else {}
        self.rig.state(node, presence, incarnation=incarnation, **working)

    @rule(which=strategies.integers(0, 7), large=strategies.booleans())
    def offer(self, which: int, large: bool) -> None:
        """A node answers one of the last rounds, in time or late, once or again."""
        asked = [(record.round, node) for record in self.rig.store.rounds.values() for node in record.nodes]
        if asked:
            round_id, node = asked[-1 - which % len(asked)]
            self.rig.offer(node, round_id, **(LARGE if large else {}))

    @rule(which=strategies.integers(0, 3))
    def upload(self, which: int) -> None:
        """Everything of one transfer arrives."""
        transfers = list(self.rig.store.transfers.values())
        if transfers:
            record = transfers[which % len(transfers)].record
            for index, body in enumerate(CHUNKS):
                self.rig.chunk(record.node, record.update, index, body)

    @rule(node=nodes, base=strategies.integers(0, 4), examples=strategies.integers(0, 2), at=rounds)
    def odd_offer(self, node: str, base: int, examples: int, at: int) -> None:
        """Of a round and a version that were, whatever else it says; later ones stop the machine (FED-97)."""
        if not self.rig.store.rounds:
            return
        at, base = min(at, max(self.rig.store.rounds)), min(base, self.rig.store.versions[-1].version)
        changes = {"base_version": ModelVersion(base), "base_digest": digest_of(base), "num_examples": examples}
        known = self.rig.store.verdicts.get(UpdateId(f"{at}-{node}"))
        offer = offer_of(node, at, **changes)
        asked = self.rig.store.rounds.get(RoundId(at))
        self.rig.tell(events.OfferReceived(node=NodeId(node), offer=offer, known=known, asked=asked))

    @rule(which=strategies.integers(0, 5), index=strategies.integers(-1, 3), short=strategies.booleans())
    def chunk(self, which: int, index: int, short: bool) -> None:
        transfers = list(self.rig.store.transfers.values())
        if transfers:
            record = transfers[which % len(transfers)].record
            body = CHUNKS[index] if 0 <= index < 3 else b"0123"
            self.rig.chunk(record.node, record.update, index, body[:1] if short else body)

    @rule(node=nodes, back=strategies.integers(0, 2), seconds=strategies.sampled_from([0.0, 3.0, 1e9]))
    def decline(self, node: str, back: int, seconds: float) -> None:
        self.rig.decline(node, max(0, max(self.rig.store.rounds, default=0) - back), seconds)

    @rule(seconds=strategies.sampled_from([0.1, 1.0, 31.0, 61.0, 700.0]))
    def wait(self, seconds: float) -> None:
        self.rig.wait(seconds)

    @rule(seconds=strategies.sampled_from([0.1, 2.0, 31.0, 61.0, 700.0]))
    def stopped(self, seconds: float) -> None:
        """``SIGSTOP``: deadlines pass, and what has arrived meanwhile is handled before any of them."""
        self.rig.now += seconds

    @rule(node=nodes, back=strategies.integers(0, 2), examples=strategies.integers(0, 2))
    def report(self, node: str, back: int, examples: int) -> None:
        """A node has evaluated one of the last versions, asked or not."""
        self.rig.report(node, max(0, self.rig.store.versions[-1].version - back), examples, metrics={"loss": 1.0})

    @rule()
    def evaluated(self) -> None:
        """The coordinator's own evaluation ends."""
        if self.rig.evaluations:
            version = self.rig.evaluations.pop(0)
            self.rig.found(version, accuracy=version / 8)

    @rule(failing=strategies.booleans())
    def disk(self, failing: bool) -> None:
        self.rig.failing = failing

    @rule(reason=strategies.sampled_from([None, Reason.NOT_FINITE]))
    def frames(self, reason: Reason | None) -> None:
        self.rig.rejecting = reason

    @rule(blamed=strategies.booleans())
    def commit_fails(self, blamed: bool) -> None:
        culprits = tuple(self.rig.store.stored()[:1]) if blamed else ()
        self.rig.commit_failure = events.CommitFailed(culprits=culprits, reason=Reason.NORM, detail="step too long")

    @rule()
    def kill(self) -> None:
        self.rig.evaluations.clear()
        self.rig.restart()

    @invariant()
    def each_update_is_in_at_most_one_version(self) -> None:
        """I1: the store model has checked each commit; the counts agree."""
        if not hasattr(self, "rig"):
            return
        applied = sum(verdict.version is not None for verdict in self.rig.store.verdicts.values())
        assert applied == sum(record.accepted for record in self.rig.store.versions)

    @invariant()
    def no_slot_outlives_its_lease(self) -> None:
        if hasattr(self, "rig"):
            machine, live = self.rig.machine, self.rig.get("live")
            assert isinstance(live, int)
            assert 0 <= live <= len(NODES)
            assert live == 0 or not self.rig.get("connected") or machine.deadline() is not None

    def teardown(self) -> None:
        if hasattr(self, "rig"):
            self.heal()

    def heal(self) -> None:
        """With everybody there and healthy, what is stored is settled, and versions go on (I2, I6)."""
        rig = self.rig
        rig.failing, rig.rejecting, rig.commit_failure = False, None, None
        rig.connect()
        rig.wait(70.0)
        for node in NODES:
            rig.state(node, incarnation=9)
        before = rig.store.versions[-1].version
        stored = rig.store.stored()
        for _ in range(60):
            for update in rig.store.stored():
                round_id, node = update.split("-")
                rig.offer(node, int(round_id))
            for update, transfer in list(rig.store.transfers.items()):
                for index in sorted(set(range(3)) - transfer.arrived):
                    rig.chunk(transfer.record.node, update, index, CHUNKS[index])
            for record in list(rig.store.rounds.values())[-4:]:
                for node in record.nodes:
                    rig.offer(node, record.round)
            rig.wait(61.0)
        assert rig.get("finished") or rig.store.versions[-1].version > before, "no progress"
        assert all(rig.store.verdicts[update].status.final for update in stored), "a stored update was forgotten"
        while rig.evaluations:
            self.evaluated()
        rig.tell(None)
        assert not rig.machine._versions.evaluating, "an evaluation is waited for that nobody makes"


CoordinatorSteps.TestCase.settings = settings(
    max_examples=25, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestCoordinatorSteps = CoordinatorSteps.TestCase


def walk(seed: int, steps: int) -> CoordinatorSteps:
    """A long random walk over the same rules: deeper than what Hypothesis draws, and the same for the same seed."""
    rng = Random(seed)
    world = CoordinatorSteps()
    world.begin(shape=rng.choice(sorted(SHAPES)), seed=seed, awake=True)
    for _ in range(steps):
        _step(world, rng)
        world.each_update_is_in_at_most_one_version()
        world.no_slot_outlives_its_lease()
    world.heal()
    return world


def _step(world: CoordinatorSteps, rng: Random) -> None:  # noqa: PLR0912 - one branch per rule
    node, draw = rng.choice(NODES), rng.randrange(100)
    if draw < 35:
        world.offer(which=rng.randrange(8), large=rng.random() < 0.3)
    elif draw < 45:
        world.chunk(which=rng.randrange(6), index=rng.randrange(-1, 4), short=rng.random() < 0.1)
    elif draw < 50:
        world.upload(which=rng.randrange(4))
    elif draw < 65:
        presence = rng.choice([Presence.ONLINE, Presence.ONLINE, Presence.LOST])
        world.state(node=node, presence=presence, incarnation=rng.randrange(1, 4), at=rng.randrange(9))
    elif draw < 70:
        world.report(node=node, back=rng.randrange(3), examples=rng.randrange(3))
    elif draw < 72:
        world.evaluated()
    elif draw < 75:
        world.stopped(seconds=rng.choice([2.0, 31.0, 61.0, 700.0]))
    elif draw < 80:
        world.wait(seconds=rng.choice([0.1, 1.0, 5.0, 31.0, 61.0, 700.0]))
    elif draw < 82:
        world.decline(node=node, back=rng.randrange(3), seconds=rng.choice([0.0, 3.0]))
    elif draw < 84:
        world.odd_offer(node=node, base=rng.randrange(4), examples=rng.randrange(3), at=rng.randrange(9))
    elif draw < 88:
        # Sometimes only some of the saves fail: the disk fills up between two of one batch.
        world.rig.failing_kinds = SAVES if rng.random() < 0.5 else tuple(rng.sample(SAVES, 2))
        world.disk(failing=rng.random() < 0.5)
    elif draw < 91:
        world.frames(reason=rng.choice([None, None, Reason.NOT_FINITE]))
    elif draw < 93:
        world.commit_fails(blamed=rng.random() < 0.7)
    elif draw < 95:
        world.kill()
    elif draw < 97:
        world.disconnect()
    else:
        world.connect()


@pytest.mark.parametrize("seed", range(30))
def test_a_random_walk_loses_nothing_and_goes_on(seed: int) -> None:
    """FED-43, FED-49: I1, I2, I3, I6."""
    world = walk(seed, 150)
    assert world.rig.store.verdicts


def test_the_same_seed_gives_the_same_transcript() -> None:
    first, second = walk(3, 80).rig, walk(3, 80).rig
    assert first.store.verdicts == second.store.verdicts
    assert first.machine.snapshot() == second.machine.snapshot()
