"""A simulated disk: what survives a killed process, and what a power cut takes with it."""

import os
import random
import resource
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from coordinator.records import RoundRecord, UpdateRecord, Verdict
from coordinator.storage.store import Commit, Figures
from edge_node.records import Seen
from edge_node.storage.store import NodeStore
from federation.errors import StorageError
from federation.protocol.cohort import EVERYONE
from federation.storage import sqlite
from federation.types import Epoch, ModelVersion, NodeId, RoundId, RunId, StateId
from fedmq.simulation.world import disks
from fedmq.simulation.world.disks import Disk, allow_disks
from fedmq.simulation.world.ram_folders import put_away, ram_folder
from fedmq.simulation.world.stores import ObservedStore, coordinator_disk, node_disk
from tests.rigs.model_values import INITIAL, MANIFEST, Arrived, arrived, committer, initialised, update
from tests.rigs.node_values import RUN, entry, model, residual

OURS = RunId("00000000000000aa")
SEEN = Seen(run=RUN, epoch=Epoch(4), began_ms=1, round=RoundId(9), version=ModelVersion(3))


class Diary:
    """A ledger that writes down what it hears."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def reserved(self, record: RoundRecord) -> None:
        self.heard.append(f"round {record.round}")

    def stored(self, record: UpdateRecord) -> None:
        self.heard.append(f"stored {record.update}")

    def judged(self, verdict: Verdict) -> None:
        self.heard.append(f"judged {verdict.update}")

    def committed(self, commit: Commit) -> None:
        self.heard.append(f"version {commit.record.version}")

    def evaluated(self, run: RunId, result: object) -> None:
        self.heard.append("evaluated")

    def surveyed(self, evaluation: object) -> None:
        self.heard.append("surveyed")

    def summed(self, evaluation: object) -> None:
        self.heard.append("summed")

    def frozen(self, batch: object) -> None:
        self.heard.append("frozen")

    def dropped(self, verdicts: object) -> None:
        self.heard.append("dropped")


@pytest.fixture
def folder() -> Iterator[Path]:
    made = ram_folder()
    yield made / "here"
    put_away(made, _opened)
    _opened.clear()


_opened: list[Disk[NodeStore] | Disk[ObservedStore]] = []


def of_node(folder: Path) -> Disk[NodeStore]:
    lives = count(5)
    disk = node_disk(folder, lambda: StateId(next(lives)))
    _opened.append(disk)
    return disk


def of_coordinator(folder: Path, diary: Diary) -> Disk[ObservedStore]:
    disk = coordinator_disk(folder, OURS, diary, audit=True)
    _opened.append(disk)
    with disk:
        initialised(disk.store)
        disk.store.wait_later()
    return disk


def restart(disk: Disk[NodeStore] | Disk[ObservedStore], power_cut: int | None = None) -> None:
    disk.stop(None if power_cut is None else random.Random(power_cut))
    with disk:
        disk.reopen()


def a_round(number: int) -> RoundRecord:
    nodes = (NodeId("a"),)
    return RoundRecord(round=RoundId(number), version=ModelVersion(0), nodes=nodes, cohort=EVERYONE)


def test_a_copied_database_begins_like_a_new_one(folder: Path) -> None:
    node, coordinator = of_node(folder / "n"), of_coordinator(folder / "c", Diary())
    assert node.store.incarnation == 1
    assert (coordinator.store.run, coordinator.store.epoch) == (OURS, 1)
    assert coordinator.store.recovered(recent=1).head.digest == INITIAL.digest()
    assert coordinator.store.manifest() == MANIFEST


def test_a_killed_process_loses_nothing(folder: Path) -> None:
    disk = of_node(folder)
    with disk:
        disk.store.save_outbox(entry(7), b"frame", residual(0.5))
        disk.store.save_seen(SEEN)
        disk.store.save_model(model())
    restart(disk)
    assert disk.store.incarnation == 2
    assert [one.offer.round for one in disk.store.outbox()] == [7]
    assert disk.store.recovered().seen == SEEN
    assert disk.store.held_model() is not None


def test_a_power_cut_takes_what_nobody_has_waited_for_and_nothing_else(folder: Path) -> None:
    kept: set[Seen | None] = set()
    for seed in range(20):
        disk = of_node(folder / str(seed))
        with disk:
            disk.store.save_outbox(entry(7), b"frame", residual(0.5))
            assert disk.waited
            disk.store.save_seen(SEEN)
            assert not disk.waited
        restart(disk, power_cut=seed)
        assert [one.offer.round for one in disk.store.outbox()] == [7]
        assert disk.store.incarnation == 2
        kept.add(disk.store.recovered().seen)
    assert None in kept, "no power cut has taken what was not synchronised"


def test_what_waits_for_a_batch_is_lost_before_the_wait_and_kept_after_it(folder: Path) -> None:
    """FED-12: so nothing may be said in between."""
    numbers = set()
    for seed in range(10):
        diary = Diary()
        disk = of_coordinator(folder / str(seed), diary)
        with disk:
            disk.store.save_round(a_round(0))
            assert (diary.heard, disk.pending) == ([], 1)
            disk.store.sync()
            assert (diary.heard, disk.pending) == (["round 0"], 0)
            disk.store.save_round(a_round(1))
        restart(disk, power_cut=seed)
        numbers.add(disk.store.recovered(recent=1).next_round)
        assert disk.pending == 0
        assert ("round 1" in diary.heard) is (disk.store.recovered(recent=1).next_round == 2)
    assert 1 in numbers


def test_what_a_killed_process_has_saved_is_heard_of_when_the_next_one_has_waited(folder: Path) -> None:
    diary = Diary()
    disk = of_coordinator(folder, diary)
    with disk:
        disk.store.save_round(a_round(0))
    restart(disk)
    assert diary.heard == ["round 0"]
    assert disk.store.recovered(recent=1).next_round == 1


def test_a_process_that_dies_right_after_its_transaction_has_saved_it(folder: Path) -> None:
    class Dead(BaseException):
        pass

    passages: list[int] = []

    def die() -> None:
        passages.append(1)
        if len(passages) == 3:  # before the update, before its commit, after both
            raise Dead

    diary, sent = Diary(), arrived("a", update(1.0))
    disk = of_coordinator(folder, diary)
    disk.passage = die
    with disk, pytest.raises(Dead):
        disk.store.save_update(sent.record, sent.payload)
    assert disk.pending == 1
    disk.passage = lambda: None
    restart(disk)
    assert diary.heard == [f"stored {sent.record.update}"]
    assert disk.store.payload(sent.record.update) == sent.payload


def test_a_version_that_was_synchronised_has_its_arrays_after_a_power_cut(folder: Path) -> None:
    for seed in range(10):
        disk = of_coordinator(folder / str(seed), Diary())
        sent = [arrived(name, update(0.5)) for name in ("a", "b")]
        with disk:
            a_version(disk.store, sent)
            disk.store.sync()
        restart(disk, power_cut=seed)
        assert disk.store.alarms == []
        head = disk.store.recovered(recent=1).head
        assert (head.version, disk.store.model(head.version).shadow.digest()) == (1, head.digest)


def test_a_blob_that_was_never_synchronised_can_be_lost(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that forgets to synchronise a version's arrays is found out at the next start."""
    monkeypatch.setattr(Disk, "fsync", lambda disk, _handle: disk._log_synced(disk._log_size()))
    alarms = []
    for seed in range(10):
        disk = of_coordinator(folder / str(seed), Diary())
        with disk:
            a_version(disk.store, [arrived("a", update(0.5))])
            disk.store.sync()
        try:
            restart(disk, power_cut=seed)
        except StorageError as error:
            alarms.append(str(error))  # version 0's are gone, too
        else:
            alarms += disk.store.alarms
    assert any("missing or damaged" in alarm for alarm in alarms)


def a_version(store: ObservedStore, sent: list[Arrived]) -> None:
    for one in sent:
        store.save_update(one.record, one.payload)
    committer(store).commit([one.member for one in sent], "buffer_full", Figures())


def test_the_model_that_a_node_holds_may_be_lost_and_is_never_a_wrong_one(folder: Path) -> None:
    held = set()
    for seed in range(20):
        disk = of_node(folder / str(seed))
        with disk:
            disk.store.save_outbox(entry(1), b"frame", None)
            disk.store.save_model(model())
        restart(disk, power_cut=seed)
        found = disk.store.held_model()
        held.add(None if found is None else found.digest)
    assert held == {None, model().digest}


def test_nothing_can_be_written_to_a_full_disk_and_everything_can_be_read(folder: Path) -> None:
    disk = of_node(folder)
    with disk:
        disk.store.save_outbox(entry(1), b"frame", None)
    disk.full = True
    with disk:
        with pytest.raises(StorageError):
            disk.store.save_outbox(entry(2), b"frame", None)
        with pytest.raises(StorageError):
            disk.store.save_model(model())
        with pytest.raises(StorageError):
            disk.store.save_seen(SEEN)
        assert [one.offer.round for one in disk.store.outbox()] == [1]
        assert disk.store.frame(entry(1).offer.update) == b"frame"
    (folder / "elsewhere").write_bytes(b"it is this disk that is full")
    disk.full = False
    with disk:
        disk.store.save_outbox(entry(2), b"frame", None)
    restart(disk)
    assert [one.offer.round for one in disk.store.outbox()] == [1, 2]


def test_on_a_full_disk_no_process_starts_until_there_is_space(folder: Path) -> None:
    disk = of_node(folder)
    with disk:
        disk.store.save_outbox(entry(1), b"frame", None)
    disk.full = True
    disk.stop()
    with disk, pytest.raises(StorageError):
        disk.reopen()
    assert not disk.opened
    disk.full = False
    restart(disk)
    assert disk.opened
    assert [one.offer.round for one in disk.store.outbox()] == [1]


def test_a_wait_for_the_disk_that_fails_is_a_storage_error_and_says_nothing(folder: Path) -> None:
    diary = Diary()
    disk = of_coordinator(folder, diary)
    disk.failing = True
    with disk:
        disk.store.save_round(a_round(0))
        with pytest.raises(StorageError, match="log"):
            disk.store.sync()
        assert disk.failed
    assert (diary.heard, disk.failures) == ([], 1)


def test_a_long_log_goes_into_the_database_and_survives_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disks, "_LOG_BYTES_MAX", 8192)
    disk = of_node(folder)
    with disk:
        for number in range(1, 8):
            disk.store.save_outbox(entry(number), os.urandom(3000), None)
        assert disk._log_size() <= 16_384
    restart(disk, power_cut=1)
    assert [one.offer.round for one in disk.store.outbox()] == list(range(1, 8))


def test_outside_of_its_turn_a_disk_touches_nothing(folder: Path) -> None:
    before = sqlite.connect, os.fsync, os.fdatasync
    disk = of_node(folder)
    with disk:
        assert os.fsync != before[1]
    assert (sqlite.connect, os.fsync, os.fdatasync) == before


def test_many_disks_may_have_their_files_open_or_it_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"now": (1000, 4000)}
    monkeypatch.setattr(resource, "getrlimit", lambda _kind: limits["now"])
    monkeypatch.setattr(resource, "setrlimit", lambda _kind, limit: limits.update(now=limit))
    allow_disks(100)
    assert limits["now"] == (1000, 4000)
    allow_disks(1000)
    assert limits["now"] == (3100, 4000)
    with pytest.raises(StorageError, match="take fewer nodes"):
        allow_disks(2000)


def test_a_wiped_disk_is_as_the_first_process_found_it_and_its_store_another_one(folder: Path) -> None:
    disk = of_node(folder)
    with disk:
        disk.store.save_outbox(entry(1), b"frame", residual(1.0))
    disk.stop()
    disk.wipe()
    with disk:
        store = disk.reopen()
    assert (store.incarnation, store.state_id, store.outbox()) == (1, StateId(6), ())
    assert disk.waited


def test_a_commit_that_fails_changes_nothing_and_the_next_one_succeeds(folder: Path) -> None:
    disk = of_node(folder)
    answers = [True, False]
    disk.refuses = lambda: answers.pop(0)
    with disk:
        with pytest.raises(StorageError, match="disk I/O error"):
            disk.store.save_outbox(entry(1), b"frame", residual(1.0))
        assert disk.failed
        assert disk.store.outbox() == ()
        disk.store.save_outbox(entry(1), b"frame", residual(1.0))
    assert (len(disk.store.outbox()), disk.failures) == (1, 1)
