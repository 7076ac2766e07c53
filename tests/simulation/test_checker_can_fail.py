"""The checker must be able to fail: each test plants a bug in a role or a store, and it must be found."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from coordinator.engine.early_stopping import Goal, Source, StoppingSettings
from coordinator.engine.settings import FederatedEvaluationSettings
from coordinator.global_model.committer import CommitterSettings
from coordinator.records import Member, NodeResult, NodesEvaluation, RecoveredState, RoundRecord, UpdateRecord, Verdict
from coordinator.runtime.executor import CoordinatorExecutor
from coordinator.storage.sqlite_store import SqliteStore
from coordinator.storage.store import Commit, ModelState
from coordinator.strategies.server_optimizer import State
from coordinator.strategies.strategy import Averaging
from edge_node.engine.effects import SettleUpdate
from edge_node.runtime.executor import NodeExecutor
from federation.errors import StorageError
from federation.storage.sqlite import Database
from federation.types import ModelVersion, UpdateId
from fedmq.simulation.protocol.checker import Checker
from fedmq.simulation.world.disks import Disk
from fedmq.simulation.world.faults import FaultPlan
from fedmq.simulation.world.stores import ObservedStore
from fedmq.simulation.world.trainer import Stragglers
from tests.rigs import repetitions
from tests.rigs.small_federation import CRASHES, ENGINE, small_scenario, unsaid, violations

pytestmark = pytest.mark.thorough


class HonestStore(ObservedStore):
    """Nothing wrong."""


class ForgetfulStore(ObservedStore):
    """A stored update that was never synchronised: it is gone after a crash."""

    def recovered(self, *, recent: int) -> RecoveredState:
        with self._database.transaction("forgotten"):
            self._database.execute("DELETE FROM updates WHERE status = 'stored'")
            self._database.execute("DELETE FROM payloads WHERE update_id NOT IN (SELECT update_id FROM updates)")
        return super().recovered(recent=recent)


class TwiceStore(ObservedStore):
    """Members of a version stay ``stored``, as if version and membership were two transactions."""

    def commit(self, commit: Commit) -> None:
        super().commit(commit)
        with self._database.transaction("membership"):
            for member in commit.members:
                again = "UPDATE updates SET status = 'stored', version = NULL WHERE update_id = ?"
                self._database.execute(again, member.update)


class ReusingStore(ObservedStore):
    """Round ids are not reserved on disk: the next process uses them again."""

    def recovered(self, *, recent: int) -> RecoveredState:
        with self._database.transaction("forgotten"):
            self._database.execute("DELETE FROM rounds")
            self._database.execute("DELETE FROM assignments")
        return super().recovered(recent=recent)


class VerdictlessStore(ObservedStore):
    """Final verdicts are said and not saved."""

    def save_verdict(self, verdict: Verdict, record: UpdateRecord | None) -> None:
        del verdict, record


class BrittleStore(ObservedStore):
    """What nodes pull of the head is damaged when the next process looks."""

    def recovered(self, *, recent: int) -> RecoveredState:
        if self.epoch > 1:
            with self._database.transaction("damaged"):
                self._database.execute("UPDATE parts SET frame = zeroblob(9)")
        return super().recovered(recent=recent)


class LatedStore(ObservedStore):
    """Rounds are saved too late, or never."""

    def save_round(self, record: RoundRecord) -> None:
        del record


def test_without_a_bug_there_is_no_violation() -> None:
    seeds = repetitions.of(range(5), few=(0, 1))
    assert all(violations(small_scenario(seed, faults=CRASHES), HonestStore) == "" for seed in seeds)


@pytest.mark.parametrize(
    ("store", "found"),
    [
        (ForgetfulStore, "stored twice"),
        (TwiceStore, "is in version"),
        (ReusingStore, "was reserved twice"),
        (VerdictlessStore, "save, then say"),
        (LatedStore, "is announced and not on disk"),
        (BrittleStore, "was made again from the model"),
    ],
)
def test_a_store_that_breaks_its_promise_is_found(store: type[ObservedStore], found: str) -> None:
    engine = replace(ENGINE, max_staleness=1)
    # The last seeds are the first to meet two of these bugs.
    scenarios = (small_scenario(seed, engine=engine, faults=CRASHES) for seed in reversed(range(12)))
    assert not unsaid([found], scenarios, store)


class HastyStore(ObservedStore):
    """Says that the disk has everything and has not waited for it."""

    def sync(self) -> None:
        pass


def test_a_coordinator_that_does_not_wait_for_the_disk_is_found() -> None:
    """FED-12: at the first word that a power cut could belie, whether or not one comes."""
    wanted = "coordinator went on with 1 changes that a power cut would undo"
    assert not unsaid([wanted], [small_scenario(faults=FaultPlan())], HastyStore)


def test_what_a_power_cut_takes_from_a_coordinator_that_does_not_wait_is_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The rows are really gone: nobody looks at the wait itself, and all is believed to be saved that was written."""
    monkeypatch.setattr(Checker, "too_early", lambda _self, _name, _changes: None)
    monkeypatch.setattr(Disk, "learned", lambda _self, fact: fact())
    scenarios = (small_scenario(seed, faults=FaultPlan(coordinator_crash=0.3)) for seed in (10, 39))
    # A coordinator that has lost what it said learns it from nodes, and holds (FED-97): no round and no update twice.
    assert not unsaid(["'said_by': ['node-", "I6"], scenarios, HastyStore)


def test_arrays_whose_folder_is_not_synchronised_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name is on the disk only once its folder is: else a power cut takes the version's file and leaves its row."""
    monkeypatch.setattr("federation.storage.folder.sync_folder", lambda _folder: None)
    scenarios = (small_scenario(seed, faults=FaultPlan(coordinator_crash=0.3)) for seed in range(6))
    assert not unsaid(["missing or damaged"], scenarios)


def test_a_node_that_does_not_wait_for_the_disk_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any power cut; and by what is missing after one, when nobody looks at the wait itself."""
    monkeypatch.setattr(Database, "_wait_at_commit", never_waiting)
    assert not unsaid(["went on with 1 changes that a power cut would undo"], [small_scenario()])
    monkeypatch.setattr(Checker, "too_early", lambda _self, _name, _changes: None)
    scenarios = (small_scenario(seed, faults=FaultPlan(node_crash=0.3)) for seed in range(6))
    assert not unsaid(["has no final verdict"], scenarios)


def never_waiting(database: Database, *, wait: bool) -> None:
    """As if every change could be had again; the coordinator waits by other means once it runs."""
    del wait
    database.execute("PRAGMA synchronous = NORMAL")


def test_a_coordinator_whose_leases_never_end_makes_no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes that train for ever hold all slots."""
    engine = replace(ENGINE, concurrency=2, buffer=2, quorum=2)
    stuck = Stragglers(slow_share=0.5, slow_factor=1e9)
    scenarios = [small_scenario(seed, engine=engine, stragglers=stuck, patience_s=1200.0) for seed in range(4)]
    assert all("I6" not in violations(scenario) for scenario in scenarios)
    monkeypatch.setattr("coordinator.engine.state.MachineState.lease_until", property(lambda _self: 1e12))
    assert not unsaid(["I6"], scenarios)


def test_a_coordinator_that_receipts_before_it_stores_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CoordinatorExecutor, "_save_update", _only_says_stored)
    assert not unsaid(["not on disk"], [small_scenario()])


def _only_says_stored(_executor: CoordinatorExecutor, record: UpdateRecord, _payload: bytes) -> object:
    from coordinator.engine.events import UpdateStored

    return UpdateStored(update=record.update)


def test_a_node_that_drops_finished_work_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the broker's word for delivery: what was offered leaves the outbox at once."""
    send = NodeExecutor._send_offer

    def send_and_forget(executor: NodeExecutor, effect: object) -> None:
        send(executor, effect)  # type: ignore[arg-type]
        executor._save(SettleUpdate(update=effect.offer.update, applied=True))  # type: ignore[attr-defined]

    monkeypatch.setattr(NodeExecutor, "_send_offer", send_and_forget)
    plan = FaultPlan(drop=0.2, node_crash=0.1)
    assert not unsaid(["I2"], (small_scenario(seed, faults=plan) for seed in range(5)))


@dataclass(frozen=True)
class DriftingStrategy(Averaging):
    """Makes another step each time it is asked."""

    def step(self, aggregate: NDArray[np.float32], state: State) -> tuple[NDArray[np.float32], State]:
        steps.append(1)
        return aggregate + np.float32(len(steps)), state


steps: list[int] = []


def test_a_version_that_does_not_follow_from_its_updates_is_found() -> None:
    scenario = small_scenario(committer=CommitterSettings(strategy=DriftingStrategy()))
    assert "I7" in violations(scenario)


def test_a_member_of_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ObservedStore, "commit", _commit_with_a_stranger)
    assert not unsaid(["was never stored"], [small_scenario(audit=False)])


def _commit_with_a_stranger(store: ObservedStore, commit: Commit) -> None:
    stranger = replace(commit.members[0], update=UpdateId("999-node-0"))
    super(ObservedStore, store).commit(commit)
    store._disk.learned(lambda: store._ledger.committed(replace(commit, members=(*commit.members, stranger))))


def test_an_exception_that_leaves_a_role_is_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_members: Iterable[Member]) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Averaging, "weigh", lambda _self, members: broken(members))
    said = violations(small_scenario(patience_s=60.0, faults_s=30.0))
    assert "uncaught exception in coordinator: RuntimeError: a bug" in said
    assert "I6" in said


def test_a_busy_loop_is_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.engine.machine.CoordinatorMachine.deadline", lambda self: self._state.now)
    assert not unsaid(["busy loop in coordinator"], [small_scenario(patience_s=5.0, faults_s=5.0)])


SURVEYED = replace(ENGINE, federated_evaluation=FederatedEvaluationSettings(every=1))


class UnweightedStore(ObservedStore):
    """The mean over the nodes is another one than their results make."""

    def close_evaluation(self, version: ModelVersion) -> NodesEvaluation:
        made = SqliteStore.close_evaluation(self, version)
        wrong = replace(made, metrics={name: value + 1.0 for name, value in made.metrics.items()})
        self._disk.learned(lambda: self._ledger.surveyed(wrong))
        return wrong


class ResultlessStore(ObservedStore):
    """Results of nodes are receipted and not kept."""

    def save_node_result(self, result: NodeResult) -> NodeResult:
        return result


class OpenEndedStore(ObservedStore):
    """Evaluations on the nodes never end."""

    def close_evaluation(self, version: ModelVersion) -> NodesEvaluation:
        (survey,) = (one for one in self.recovered(recent=1).surveyed if one.version == version)
        return replace(survey, closed=True)


class CarelessStore(ObservedStore):
    """The best version's arrays are let go like any others."""

    def model(self, version: ModelVersion) -> ModelState:
        head = self.head()
        if head is not None and version < head - 1:
            raise StorageError("it was swept")
        return super().model(version)


def test_evaluation_on_the_nodes_without_a_bug_is_no_violation() -> None:
    seeds = repetitions.of(range(5), few=(0, 1))
    assert all(violations(small_scenario(seed, engine=SURVEYED, faults=CRASHES)) == "" for seed in seeds)


@pytest.mark.parametrize(
    ("store", "found"),
    [
        (UnweightedStore, "the mean loss of version"),
        (ResultlessStore, "is receipted and not on disk"),
        (OpenEndedStore, "has no mean"),
        (CarelessStore, "the model of the best version"),
    ],
)
def test_an_evaluation_that_breaks_a_promise_is_found(store: type[ObservedStore], found: str) -> None:
    stopping = StoppingSettings(source=Source.NODES, goal=Goal.MAX)
    engine = replace(SURVEYED, stopping=stopping)
    scenarios = (small_scenario(seed, engine=engine, faults=CRASHES, patience_s=120.0) for seed in range(6))
    assert not unsaid([found], scenarios, store)
