"""A helper that is killed at every point: the same batch has the same bytes, and no update is in two of them.

FED-151, FED-152: members are used on disk before the first byte leaves.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from federation.privacy.boxes import Kem, KeyPair
from federation.privacy.classes import assign_classes, classes, classes_of
from federation.protocol.chunking import Bitmap, chunk_count, payload_digest
from federation.protocol.enumerations import Presence, PrivacyUnit, SumReason
from federation.protocol.messages import CoordinatorState, Grant
from federation.protocol.sum_messages import SumOffer, SumRefusal, SumRequest, transfer_id
from federation.protocol.wire import PROTOCOL_MIN, PROTOCOL_VERSION
from federation.runtime.failpoint import watch
from federation.types import Digest, Epoch, ModelVersion, RunId, Start
from sum_helper.engine.events import RequestReceived, StopRequested
from sum_helper.records import Budget, HelperRules, Keeping
from tests.rigs.helper_rig import (
    BASE,
    HELPER,
    RUN,
    TOPICS,
    HelperRig,
    MaskedUpdate,
    fleet,
    request,
    terms,
    unmasked,
)

TERMS = terms()


class Killed(BaseException):
    """SIGKILL, as a test plays it."""


@pytest.fixture(autouse=True)
def nobody_watches_afterwards() -> Iterator[None]:
    yield
    watch(None)


def drive(rig: HelperRig, updates: list[MaskedUpdate], asked: SumRequest) -> SumOffer:
    """What a coordinator does until it has the sum: it says everything again, however often the helper dies."""
    for _ in range(50):
        try:
            for update in updates:
                rig.hear(update.sealed())
            answer = rig.ask(asked)
        except Killed:
            rig.restart()
            continue
        assert isinstance(answer, SumOffer)
        return answer
    raise AssertionError("it never answers")


def points(folder: Path) -> Counter[str]:
    """Every failpoint that one sum passes, and how often."""
    passed: Counter[str] = Counter()
    nodes = fleet(5)
    rig = HelperRig(folder, nodes)
    watch(lambda name: passed.update([name]))
    updates = [node.update(1, TERMS, [rig.public]) for node in nodes]
    drive(rig, updates, request(updates, TERMS))
    watch(None)
    rig.close()
    return passed


def test_a_helper_that_is_killed_at_any_point_gives_the_bytes_that_it_would_have_given(tmp_path: Path) -> None:
    passed = points(tmp_path / "look")
    assert {"helper_before_used", "helper_after_used", "helper_commit_used", "helper_fsync"} <= passed.keys()
    cases = [(name, hit) for name, hits in sorted(passed.items()) for hit in range(1, hits + 1)]
    assert len(cases) > 20
    for index, (name, hit) in enumerate(cases):
        nodes = fleet(5)
        rig = HelperRig(tmp_path / str(index), nodes)
        updates = [node.update(1, TERMS, [rig.public]) for node in nodes]
        left = [hit]

        def kill(passing: str, name: str = name, left: list[int] = left) -> None:
            left[0] -= passing == name
            if passing == name and left[0] == 0:
                raise Killed

        watch(kill)
        asked = request(updates, TERMS)
        first = drive(rig, updates, asked)
        watch(None)
        assert left[0] <= 0
        rig.restart()
        assert rig.ask(asked) == first
        assert first.inline is not None
        assert (unmasked(updates, [first.inline], TERMS) == sum(update.integers for update in updates)).all()
        assert [row[0] for row in rig.store._database.execute("SELECT releases FROM ledger")] == [1] * 5
        rig.close()


def test_nothing_was_said_of_what_is_not_on_the_disk(tmp_path: Path) -> None:
    """Killed before the disk has answered: the other set may be asked for; after it: never."""
    for index, (name, other_is_answered) in enumerate(
        [("helper_before_used", True), ("helper_commit_used", True), ("helper_after_used", False)]
    ):
        nodes = fleet(6)
        rig = HelperRig(tmp_path / str(index), nodes)
        updates = [node.update(1, TERMS, [rig.public]) for node in nodes]
        rig.hold(*updates)

        def kill(passing: str, name: str = name) -> None:
            if passing == name:
                raise Killed

        watch(kill)
        with pytest.raises(Killed):
            rig.ask(request(updates[:5], TERMS))
        watch(None)
        assert rig.take() == []
        rig.restart()
        answer = rig.ask(request(updates[1:], TERMS))
        assert isinstance(answer, SumOffer if other_is_answered else SumRefusal)
        rig.close()


def test_any_three_of_four_helpers_reveal_the_sum_and_one_that_joins_late_gives_its_classes(tmp_path: Path) -> None:
    """FED-149: classes that a helper was not asked for first stay answerable, for the same batch."""
    nodes, count, threshold = fleet(5), 4, 3
    under = replace(TERMS, count=count, threshold=threshold)
    rigs = [HelperRig(tmp_path / str(place), nodes) for place in range(count)]
    updates = [node.update(1, under, [rig.public for rig in rigs]) for node in nodes]
    for place, rig in enumerate(rigs):
        for update in updates:
            rig.hear(update.sealed(place))
    every = range(len(classes(count, threshold)))
    for down in range(count):
        there = [place for place in range(count) if place != down]
        asked = assign_classes(every, there, count=count, threshold=threshold)
        answers: dict[int, bytes] = {}
        for place, numbers in asked.items():
            rigs[place].take()
            rigs[place].hear(request(updates, under, asked=numbers))
            for said in rigs[place].take():
                assert isinstance(said, SumOffer)
                assert said.inline is not None
                answers[said.part] = said.inline
        assert answers.keys() == set(every)
        total = unmasked(updates, list(answers.values()), under)
        assert (total == sum(update.integers for update in updates)).all()
    for place, rig in enumerate(rigs):
        others = set(every) - set(classes_of(place, count, threshold))
        refused = rig.ask(request(updates, under, asked=tuple(sorted(others))))
        assert isinstance(refused, SumRefusal)
        assert refused.reason is SumReason.NOT_OURS
        assert rig.store._database.execute("SELECT COUNT(*) FROM seeds").fetchone()[0] < 15
        assert {row[0] for row in rig.store._database.execute("SELECT releases FROM ledger")} == {1}
        rig.close()


def test_a_large_sum_goes_in_granted_chunks(tmp_path: Path) -> None:
    """FED-148: the bitmap says what has arrived, the window how much may follow; a wrong one changes nothing."""
    under = terms(dimension=4_000, tail=0)
    nodes = fleet(5)
    rig = HelperRig(tmp_path, nodes, chunk_bytes=1_024)
    updates = [node.update(1, under, [rig.public]) for node in nodes]
    rig.hold(*updates)
    offer = rig.ask(request(updates, under))
    assert isinstance(offer, SumOffer)
    assert (offer.inline, offer.payload_bytes, offer.chunk_bytes) == (None, 2_500, 1_024)
    transfer = transfer_id(offer.batch, offer.part)
    count, arrived, parts = chunk_count(2_500, 1_024), Bitmap(3), dict[int, bytes]()
    assert count == 3
    for wrong in (b"", b"\xff", bytes(2)):
        rig.hear(Grant(update=transfer, bitmap=wrong, window=9))
    rig.hear(Grant(update=transfer_id(Digest(b"?" * 16), 0), bitmap=bytes(1), window=9))
    rig.hear(Grant(update=updates[0].update, bitmap=bytes(1), window=9))
    assert rig.said.published == []
    while not arrived.complete:
        rig.hear(Grant(update=transfer, bitmap=arrived.to_bytes(), window=2))
        for topic, body, _ in rig.said.published:
            index = int(topic.rpartition("/")[2])
            assert topic == TOPICS.helper_chunk(HELPER, transfer, index)
            assert arrived.add(index)
            parts[index] = body
        rig.said.published.clear()
    whole = b"".join(parts[index] for index in range(3))
    assert payload_digest(whole) == offer.payload_digest
    assert (unmasked(updates, [whole], under) == sum(update.integers for update in updates)).all()
    rig.close()


def test_a_broker_with_small_packets_gets_an_offer_without_the_sum(tmp_path: Path) -> None:
    nodes = fleet(5)
    rig = HelperRig(tmp_path, nodes, packet_bytes_max=400)
    under = terms(dimension=2_000)
    updates = [node.update(1, under, [rig.public]) for node in nodes]
    rig.hold(*updates)
    offer = rig.ask(request(updates, under))
    assert isinstance(offer, SumOffer)
    assert (offer.inline, offer.payload_bytes) == (None, 1_258)
    rig.close()


def test_requests_that_come_while_a_sum_is_computed_wait_their_turn(tmp_path: Path) -> None:
    """What is known of members cannot change between the look and the mark."""
    nodes = fleet(6)
    rig = HelperRig(tmp_path, nodes)
    updates = [node.update(1, TERMS, [rig.public]) for node in nodes]
    rig.hold(*updates)
    one, two = request(updates[:5], TERMS), request(updates[1:], TERMS)
    again = replace(one, version=one.version)
    for asked in (one, two, again, two):
        for effect in rig.machine.handle(RequestReceived(request=asked), 0.0):
            for event in rig.executor.execute(effect):
                for more in rig.machine.handle(event, 0.0):
                    list(rig.executor.execute(more))
    assert len(rig.summing.jobs) == 1
    (done,) = rig.summing.finished()
    assert rig.machine.handle(done, 0.0) != []
    rig.step(done)
    answers = rig.take()
    assert [type(answer) for answer in answers] == [SumOffer, SumRefusal]
    assert rig.machine.handle(done, 0.0) == []  # a second time: nothing is computed any more
    rig.close()


def noisy(**changes: object) -> HelperRules:
    return HelperRules(members_min=5, budget=Budget(epsilon=3.3, delta=1e-5), **changes)  # type: ignore[arg-type]


def test_noise_is_the_same_for_the_same_batch_and_charged_once_until_the_budget_ends(tmp_path: Path) -> None:
    """FED-154."""
    nodes = fleet(5)
    rig = HelperRig(tmp_path, nodes, rules=noisy())
    under = terms(tail=0, clip=1.0, step=0.1, noise=4.0, unit=PrivacyUnit.NODES, bits=12)
    for number in range(1, 20):
        updates = [node.update(number, under, [rig.public]) for node in nodes]
        rig.hold(*updates)
        asked = request(updates, under, version=number)
        answer = rig.ask(asked)
        if isinstance(answer, SumRefusal):
            break
        assert isinstance(answer, SumOffer)
        assert answer.inline is not None
        rig.restart()
        assert rig.ask(asked) == answer
        off = unmasked(updates, [answer.inline], under) - sum(update.integers for update in updates)
        assert 20 < np.std(off) < 60  # noise of 4 clips of 10 steps
        ledger = rig.store._database.execute("SELECT releases, spent FROM ledger").fetchall()
        assert [tuple(row) for row in ledger] == [(number, number / 16)] * 5
    assert isinstance(answer, SumRefusal)
    assert answer.reason is SumReason.BUDGET
    assert number == 10  # ten sums at z = 4 are epsilon 3.34141
    rig.close()


def test_without_the_secret_the_noise_cannot_be_made_again(tmp_path: Path) -> None:
    """FED-154: two helpers draw other noise for the same batch."""
    under = terms(tail=0, clip=1.0, step=0.1, noise=4.0, unit=PrivacyUnit.NODES, bits=12)
    nodes, drawn = fleet(5), []
    for name in ("one", "two"):
        rig = HelperRig(tmp_path / name, nodes)
        updates = [node.update(1, under, [rig.public]) for node in nodes]
        rig.hold(*updates)
        answer = rig.ask(request(updates, under))
        assert isinstance(answer, SumOffer)
        assert answer.inline is not None
        drawn.append(unmasked(updates, [answer.inline], under) - sum(update.integers for update in updates))
        rig.close()
    assert (drawn[0] != drawn[1]).mean() > 0.8


def test_a_state_is_said_when_it_connects_when_the_coordinator_is_new_and_at_the_end(tmp_path: Path) -> None:
    rig = HelperRig(tmp_path, fleet(5))
    (born,) = rig.states()
    assert (born.presence, born.incarnation, born.members_min) == (Presence.ONLINE, 1, 5)
    assert (born.kem, born.key) == (int(rig.public.kem), rig.public.raw)
    rig.said.published.clear()

    def online(epoch: int, presence: Presence = Presence.ONLINE) -> CoordinatorState:
        return CoordinatorState(
            presence=presence,
            run=RUN,
            epoch=Epoch(epoch),
            protocol_min=PROTOCOL_MIN,
            protocol_max=PROTOCOL_VERSION,
            start=Start(7),
        )

    for state in (online(1), online(1), online(2, Presence.LOST), online(2)):
        rig.hear(state, topic=TOPICS.coordinator_state)
    assert len(rig.states()) == 2
    rig.step(StopRequested())
    assert rig.states()[-1].presence is Presence.OFFLINE
    assert rig.executor.stopped
    rig.restart()
    (again,) = rig.states()
    assert (again.incarnation, again.state_id) == (2, born.state_id)
    rig.close()


def test_a_helper_whose_disk_is_lost_cannot_open_what_was_sealed_before(tmp_path: Path) -> None:
    """FED-153, FED-155: what was used is lost with the keys, so nothing can be revealed a second time."""
    nodes = fleet(5)
    rig = HelperRig(tmp_path / "first", nodes)
    updates = [node.update(1, TERMS, [rig.public]) for node in nodes]
    rig.hold(*updates)
    before = rig.store.identity.state_id
    rig.close()
    anew = HelperRig(tmp_path / "second", nodes)
    assert anew.store.identity.state_id != before
    assert {word.reason for word in anew.hold(*updates)} == {SumReason.BAD_BOX}
    anew.close()


def test_a_new_key_is_made_in_time_and_older_ones_open_until_they_are_deleted(tmp_path: Path) -> None:
    nodes = fleet(3)
    rig = HelperRig(tmp_path, nodes, keeping=Keeping(rotate_s=0.0, keep_s=3600.0))
    first = rig.public
    late = nodes[0].update(1, TERMS, [first])
    rig.now += 3600.0
    rig.said.published.clear()
    rig.step(None)
    assert rig.public != first
    assert rig.states()[-1].key == rig.public.raw
    assert [word.reason for word in rig.hold(late)] == [SumReason.NONE]
    rig.store._database.execute("UPDATE keys SET made_s = made_s - 7200")
    rig.now += 3600.0
    rig.step(None)
    assert [word.reason for word in rig.hold(nodes[1].update(1, TERMS, [first]))] == [SumReason.BAD_BOX]
    rig.close()


def test_seeds_that_nobody_asks_for_are_given_up_and_used_ones_are_gone_at_once(tmp_path: Path) -> None:
    """FED-153: forward secrecy: whoever takes the helper later finds no seed of what was revealed."""
    nodes = fleet(6)
    rig = HelperRig(tmp_path, nodes)
    updates = [node.update(1, TERMS, [rig.public]) for node in nodes]
    rig.hold(*updates)
    seeds = [bytes(row[0]) for row in rig.store._database.execute("SELECT seed FROM seeds")]
    assert isinstance(rig.ask(request(updates[:5], TERMS)), SumOffer)
    left = [bytes(row[0]) for row in rig.store._database.execute("SELECT seed FROM seeds")]
    assert len(left) == 1
    files = b"".join(path.read_bytes() for path in (tmp_path / "state").iterdir())
    assert [seed in files for seed in seeds].count(True) == 1
    rig.store._database.execute("UPDATE updates SET held_s = held_s - 40 * 86400")
    rig.now += 3600.0
    rig.step(None)
    assert rig.store._database.execute("SELECT COUNT(*) FROM seeds").fetchone()[0] == 0
    refused = rig.ask(request(updates[1:], TERMS))
    assert isinstance(refused, SumRefusal)
    assert refused.reason is SumReason.UNKNOWN_UPDATE
    rig.step(None)  # before its time: nothing is looked for
    assert rig.machine.deadline() == rig.now + 3600.0
    rig.close()


def test_an_answer_of_long_ago_is_gone_and_never_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sum_helper.storage.store.ANSWERS_KEPT", 1)
    nodes = fleet(5)
    rig = HelperRig(tmp_path, nodes)
    asked = []
    for number in (1, 2):
        updates = [node.update(number, TERMS, [rig.public]) for node in nodes]
        rig.hold(*updates)
        asked.append(request(updates, TERMS, version=number))
        assert isinstance(rig.ask(asked[-1]), SumOffer)
    refused = rig.ask(asked[0])
    assert isinstance(refused, SumRefusal)
    assert refused.reason is SumReason.GONE
    assert isinstance(rig.ask(asked[1]), SumOffer)
    rig.close()


def test_a_class_whose_seeds_are_too_old_is_gone(tmp_path: Path) -> None:
    nodes = fleet(5)
    under = replace(TERMS, count=4, threshold=3)
    rig = HelperRig(tmp_path, nodes)
    others = [KeyPair.make(Kem.X25519).public for _ in range(3)]
    updates = [node.update(1, under, [rig.public, *others]) for node in nodes]
    rig.hold(*updates)
    assert isinstance(rig.ask(request(updates, under, asked=(0,))), SumOffer)
    rig.store._database.execute("UPDATE updates SET held_s = held_s - 40 * 86400")
    rig.now += 3600.0
    rig.step(None)
    refused = rig.ask(request(updates, under, asked=(0, 1)))
    assert isinstance(refused, SumRefusal)
    assert refused.reason is SumReason.GONE
    assert isinstance(rig.ask(request(updates, under, asked=(0,))), SumOffer)
    rig.close()


def test_two_runs_do_not_know_each_other(tmp_path: Path) -> None:
    """FED-151: equal names of updates, other bases, other versions."""
    nodes, other = fleet(5), RunId("f" * 16)
    rig = HelperRig(tmp_path, nodes)
    here = [node.update(1, TERMS, [rig.public]) for node in nodes]
    there = [node.update(1, TERMS, [rig.public], base=(3, Digest(b"B" * 16)), run=other) for node in nodes]
    assert {word.reason for word in rig.hold(*here, *there)} == {SumReason.NONE}
    for updates in (here, there):
        answer = rig.ask(request(updates, TERMS))
        assert isinstance(answer, SumOffer)
        assert answer.inline is not None
        assert (unmasked(updates, [answer.inline], TERMS) == sum(update.integers for update in updates)).all()
    assert rig.store.base_digest(RUN, ModelVersion(3)) == BASE
    rig.close()


def test_a_restored_run_makes_its_versions_again_and_the_operator_hears_of_it(tmp_path: Path) -> None:
    """FED-153: other models under the numbers of before are no reason to hold nothing any more."""
    nodes = fleet(5)
    rig = HelperRig(tmp_path, nodes)
    before = [node.update(1, TERMS, [rig.public]) for node in nodes]
    rig.hold(*before)
    assert isinstance(rig.ask(request(before, TERMS)), SumOffer)
    again = [node.update(2, TERMS, [rig.public], base=(3, Digest(b"B" * 16))) for node in nodes]
    assert {word.reason for word in rig.hold(*again)} == {SumReason.NONE}
    assert isinstance(rig.ask(request(again, TERMS)), SumOffer)
    rig.close()
