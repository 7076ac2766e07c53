"""The checker must be able to fail: each test plants a bug in a role or a store, and it must be found."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from coordinator.engine.early_stopping import Goal, Source, StoppingSettings
from coordinator.engine.settings import FederatedEvaluationSettings
from coordinator.global_model.committer import CommitterSettings
from coordinator.records import Member, NodeResult, NodesEvaluation, RecoveredState, RoundRecord, UpdateRecord, Verdict
from coordinator.runtime.executor import CoordinatorExecutor
from coordinator.storage.memory_store import MemoryStore
from coordinator.storage.store import Commit, ModelState
from coordinator.strategies.server_optimizer import State
from coordinator.strategies.strategy import Averaging
from edge_node.engine.effects import SettleUpdate
from edge_node.runtime.executor import NodeExecutor
from federation.errors import StorageError
from federation.types import ModelVersion, RoundId, UpdateId
from fedmq.simulation.protocol.federation import Scenario, Simulation, quiet_log
from fedmq.simulation.world.disks import CoordinatorDisk
from fedmq.simulation.world.faults import FaultPlan
from fedmq.simulation.world.trainer import Stragglers
from tests.rigs.small_federation import CRASHES, ENGINE, small_scenario


def violations(scenario: Scenario, disk: type[CoordinatorDisk] = CoordinatorDisk) -> str:
    with quiet_log():
        return "\n".join(Simulation(scenario, disk).run().violations)


class HonestDisk(CoordinatorDisk):
    """Nothing wrong."""


class ForgetfulDisk(CoordinatorDisk):
    """A stored update that was never synchronised: it is gone after a crash."""

    def recovered(self, *, recent: int) -> RecoveredState:
        for update in list(self._stored):
            for kept in (self._stored, self._updates, self._payloads):
                kept.pop(update, None)
        return super().recovered(recent=recent)


class TwiceDisk(CoordinatorDisk):
    """Members of a version stay ``stored``, as if version and membership were two transactions."""

    def commit(self, commit: Commit) -> None:
        stored = dict(self._stored)
        super().commit(commit)
        self._stored.update(stored)


class ReusingDisk(CoordinatorDisk):
    """Round ids are not reserved on disk: the next process uses them again."""

    def recovered(self, *, recent: int) -> RecoveredState:
        self._next_round = RoundId(0)
        self._rounds.clear()
        self._open.clear()
        return super().recovered(recent=recent)


class VerdictlessDisk(CoordinatorDisk):
    """Final verdicts are said and not saved."""

    def save_verdict(self, verdict: Verdict, record: UpdateRecord | None) -> None:
        del verdict, record


class LatedDisk(CoordinatorDisk):
    """Rounds are saved too late, or never."""

    def save_round(self, record: RoundRecord) -> None:
        del record


def test_without_a_bug_there_is_no_violation() -> None:
    assert all(violations(small_scenario(seed, faults=CRASHES), HonestDisk) == "" for seed in range(5))


@pytest.mark.parametrize(
    ("disk", "found"),
    [
        (ForgetfulDisk, "stored twice"),
        (TwiceDisk, "is in version"),
        (ReusingDisk, "was reserved twice"),
        (VerdictlessDisk, "save, then say"),
        (LatedDisk, "is announced and not on disk"),
    ],
)
def test_a_store_that_breaks_its_promise_is_found(disk: type[CoordinatorDisk], found: str) -> None:
    engine = replace(ENGINE, max_staleness=1)
    scenarios = (small_scenario(seed, engine=engine, faults=CRASHES) for seed in range(12))
    assert any(found in violations(scenario, disk) for scenario in scenarios)


def test_a_coordinator_whose_leases_never_end_makes_no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes that train for ever hold all slots."""
    engine = replace(ENGINE, concurrency=2, buffer=2, quorum=2)
    stuck = Stragglers(slow_share=0.5, slow_factor=1e9)
    scenarios = [small_scenario(seed, engine=engine, stragglers=stuck, patience_s=1200.0) for seed in range(4)]
    assert all("I6" not in violations(scenario) for scenario in scenarios)
    monkeypatch.setattr("coordinator.engine.state.MachineState.lease_until", property(lambda _self: 1e12))
    assert any("I6" in violations(scenario) for scenario in scenarios)


def test_a_coordinator_that_receipts_before_it_stores_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CoordinatorExecutor, "_save_update", _only_says_stored)
    assert "not on disk" in violations(small_scenario())


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
    assert "I2" in "\n".join(violations(small_scenario(seed, faults=plan)) for seed in range(5))


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
    monkeypatch.setattr(CoordinatorDisk, "commit", _commit_with_a_stranger)
    assert "was never stored" in violations(small_scenario(audit=False))


def _commit_with_a_stranger(disk: CoordinatorDisk, commit: Commit) -> None:
    stranger = replace(commit.members[0], update=UpdateId("999-node-0"))
    disk._ledger.committed(replace(commit, members=(*commit.members, stranger)))
    super(CoordinatorDisk, disk).commit(commit)


def test_an_exception_that_leaves_a_role_is_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_members: Iterable[Member]) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Averaging, "weigh", lambda _self, members: broken(members))
    said = violations(small_scenario(patience_s=60.0, faults_s=30.0))
    assert "uncaught exception in coordinator: RuntimeError: a bug" in said
    assert "I6" in said


def test_a_busy_loop_is_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.engine.machine.CoordinatorMachine.deadline", lambda self: self._state.now)
    assert "busy loop in coordinator" in violations(small_scenario(patience_s=5.0, faults_s=5.0))


SURVEYED = replace(ENGINE, federated_evaluation=FederatedEvaluationSettings(every=1))


class UnweightedDisk(CoordinatorDisk):
    """The mean over the nodes is another one than their results make."""

    def close_evaluation(self, version: ModelVersion) -> NodesEvaluation:
        made = MemoryStore.close_evaluation(self, version)
        wrong = replace(made, metrics={name: value + 1.0 for name, value in made.metrics.items()})
        self._surveys[version] = wrong
        self._ledger.surveyed(wrong)
        return wrong


class ResultlessDisk(CoordinatorDisk):
    """Results of nodes are receipted and not kept."""

    def save_node_result(self, result: NodeResult) -> NodeResult:
        return result


class OpenEndedDisk(CoordinatorDisk):
    """Evaluations on the nodes never end."""

    def close_evaluation(self, version: ModelVersion) -> NodesEvaluation:
        return NodesEvaluation(version=version, share=self._survey(version).share, closed=True)


class CarelessDisk(CoordinatorDisk):
    """The best version's arrays are let go like any others."""

    def retain(self, versions: Collection[ModelVersion], best: ModelVersion | None) -> None:
        del versions
        self._best = best

    def model(self, version: ModelVersion) -> ModelState:
        if version < self._head.version - 1:
            raise StorageError("it was swept")
        return super().model(version)


def test_evaluation_on_the_nodes_without_a_bug_is_no_violation() -> None:
    assert all(violations(small_scenario(seed, engine=SURVEYED, faults=CRASHES)) == "" for seed in range(5))


@pytest.mark.parametrize(
    ("disk", "found"),
    [
        (UnweightedDisk, "the mean loss of version"),
        (ResultlessDisk, "is receipted and not on disk"),
        (OpenEndedDisk, "has no mean"),
        (CarelessDisk, "the model of the best version"),
    ],
)
def test_an_evaluation_that_breaks_a_promise_is_found(disk: type[CoordinatorDisk], found: str) -> None:
    stopping = StoppingSettings(source=Source.NODES, goal=Goal.MAX)
    engine = replace(SURVEYED, stopping=stopping)
    scenarios = (small_scenario(seed, engine=engine, faults=CRASHES, patience_s=120.0) for seed in range(6))
    assert any(found in violations(scenario, disk) for scenario in scenarios)
