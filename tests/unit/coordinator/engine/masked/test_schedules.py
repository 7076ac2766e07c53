"""Random schedules: losses, duplicates, kills between two effects, helpers that are down; what must hold afterwards.

Each helper reveals every update in at most one batch, every version has the sums of all classes of its own batch, and
every update is in one version or has another verdict: the rig's store and helpers refuse everything else.
"""

from functools import partial
from random import Random

import pytest

from coordinator.engine.effects import Effect
from coordinator.engine.events import Event
from coordinator.engine.masked.events import HelperSpoke
from federation.protocol.messages import Presence, ReceiptStatus
from federation.protocol.sum_messages import Held, PrivacyTerms, SumOffer, SumRefusal
from federation.types import HelperId, NodeId, RoundId, UpdateId
from tests.rigs.masked_rig import HELPERS, MaskedRig, masked_engine, terms

SEEDS = 24
STEPS = 160
LOSS = DUPLICATE = 0.15
KILL = 0.02


class Killed(Exception):  # noqa: N818 - no error
    """The coordinator's process is gone, between two effects."""


class Schedule(MaskedRig):
    """One federation whose messages wait in a bag."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.mortal = False
        self.kills = 0
        synchronous = self.random.random() < 0.5
        more = {} if synchronous else {"max_staleness": 3, "refill": 1, "buffer": 2}
        super().__init__(
            masked_engine(concurrency=3, buffer=3, max_wait_s=20.0, **more)
            if synchronous
            else masked_engine(concurrency=4, max_wait_s=20.0, **more),
            seed,
        )
        self.nodes = [f"n{number}" for number in range(self.random.randint(5, 8))]
        self.answers: list[tuple[HelperId, Held | SumOffer | SumRefusal]] = []
        self.outbox: dict[UpdateId, PrivacyTerms | None] = {}

    def _run(self, effect: Effect) -> list[Event]:
        if self.mortal and self.random.random() < KILL:
            raise Killed
        return super()._run(effect)

    def again(self) -> None:
        """The next process on the same disk."""
        self.kills += 1
        self.mortal = False
        self.restart()
        self.mail.clear()
        self.start(*self.nodes)
        self.mortal = True

    def start(self, *nodes: str) -> list[Effect]:
        self.connect()
        for name in HELPERS:
            self.hear_helper(name, Presence.LOST if name in self.down else Presence.ONLINE)
        return [self.state(node, codecs=("edge", "masked")) for node in nodes][-1]

    def act(self) -> None:
        """Something happens."""
        what = self.random.random()
        if what < 0.35:
            self._offer()
        elif what < 0.6 and self.mail:
            name, command = self.mail.pop(self.random.randrange(len(self.mail)))
            if name not in self.down and self.random.random() > LOSS:
                self.answers += [(name, answer) for answer in self.helpers[name].hear(command)]
        elif what < 0.85 and self.answers:
            name, answer = self.answers.pop(self.random.randrange(len(self.answers)))
            if self.random.random() < DUPLICATE:
                self.answers.append((name, answer))
            if self.random.random() > LOSS:
                self.tell(HelperSpoke(helper=name, message=answer))
        elif what < 0.88:
            self._helper_changes()
        else:
            self.wait(self.random.choice((0.5, 3.0, 12.0)))

    def _offer(self) -> None:
        rounds = list(self.store.rounds.values())[-4:]
        asked = [(node, record.round) for record in rounds for node in record.nodes]
        if asked:
            node, round_id = self.random.choice(asked)
            under = self.outbox.setdefault(UpdateId(f"{round_id}-{node}"), self.store.terms)
            self.offer_masked(node, round_id, under=under)

    def _helper_changes(self) -> None:
        name = self.random.choice(HELPERS)
        if name in self.down:
            self.come(name)
        elif self.random.random() < 0.1:
            self.helpers[name].lose_disk()
            self.hear_helper(name)
        else:
            self.go(name)


@pytest.mark.parametrize("first", range(0, SEEDS, 8))
def test_no_schedule_loses_doubles_or_reveals(first: int) -> None:
    versions = kills = 0
    for seed in range(first, first + 8):
        rig = Schedule(seed)
        rig.next_terms = partial(_maybe_other, rig.random)
        rig.start(*rig.nodes)
        rig.mortal = True
        for _ in range(STEPS):
            try:
                rig.act()
            except Killed:
                rig.again()
        _heal(rig)
        _check(rig, seed)
        versions += rig.store.versions[-1].version
        kills += rig.kills
    assert versions > 48
    assert kills > 8


def _maybe_other(random: Random, now: PrivacyTerms) -> PrivacyTerms:
    return terms(step=now.step / 2) if random.random() < 0.3 else now


def _heal(rig: Schedule) -> None:
    """Everybody is there and nothing is lost: what is under way comes to its end, and there is progress."""
    rig.mortal = False
    for name in list(rig.down):
        rig.come(name)
    before = rig.store.versions[-1].version
    for _ in range(20):
        rig.deliver()
        for name, answer in rig.answers:
            rig.tell(HelperSpoke(helper=name, message=answer))
        rig.answers.clear()
        for record in list(rig.store.rounds.values())[-4:]:
            for node in record.nodes:
                if rig.status(f"{record.round}-{node}") is None:
                    rig.offer_masked(node, record.round)
        rig.wait(10.0)
    assert rig.store.versions[-1].version > before + 3, "no progress"


def _check(rig: Schedule, seed: int) -> None:
    for helper in rig.helpers.values():
        revealed: dict[bytes, bytes] = {}
        for request in helper.answered:
            for ticket in request.tickets:
                assert revealed.setdefault(ticket, request.batch) == request.batch, f"seed {seed}: two batches"
    for update, verdict in rig.store.verdicts.items():
        is_member = update in rig.store.versions_of
        assert is_member == (verdict.status is ReceiptStatus.APPLIED), f"seed {seed}: {update}"
    quota = sum(1 for _ in rig.store.stored())
    assert rig.machine.snapshot()["quota_used"] == quota, f"seed {seed}"
    assert rig.machine.snapshot()["buffered"] == quota, f"seed {seed}"
    assert NodeId("n0") in {record.node for record in rig.store.updates.values()} or RoundId(0) in rig.store.rounds
