"""Failing commits, bad updates, early ends and leaks: each of them is found where a role is wrong about it."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from coordinator.engine.early_stopping import EarlyStopping, Goal, StoppingSettings
from coordinator.engine.events import UpdateStored
from coordinator.engine.registry import Registry
from coordinator.engine.state import MachineState
from coordinator.engine.transfers import Transfers
from coordinator.engine.update_receiver import UpdateReceiver
from coordinator.records import UpdateRecord
from coordinator.runtime.executor import CoordinatorExecutor
from coordinator.storage.files import TransferFiles
from edge_node.engine.machine import NodeSettings
from federation.errors import StorageError
from federation.protocol.messages import Reason
from federation.types import NodeId
from fedmq.simulation.protocol.end_checks import held
from fedmq.simulation.protocol.federation import Simulation
from fedmq.simulation.world.faults import FaultPlan
from fedmq.simulation.world.stores import ObservedStore
from tests.rigs import repetitions
from tests.rigs.small_federation import CRASHES, ENGINE, small_scenario, unsaid, violations

pytestmark = pytest.mark.thorough

BAD = FaultPlan(bad_update=0.3)
FAILING = FaultPlan(failed_commit=0.1, node_crash=0.02, coordinator_crash=0.05)


def test_bad_updates_and_failing_commits_without_a_bug_are_no_violation() -> None:
    for seed in repetitions.of(range(4), few=(1,)):
        assert violations(small_scenario(seed, faults=BAD)) == ""
        assert violations(small_scenario(seed, faults=FAILING)) == ""


def test_a_coordinator_that_takes_whatever_is_sent_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.global_model.update_checks._check_content", lambda *_: None)
    scenarios = (small_scenario(seed, faults=BAD) for seed in range(4))
    assert not unsaid(["was stored, and is not what a node may send"], scenarios)


def test_honest_work_that_is_refused_beside_bad_work_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "coordinator.global_model.update_checks._check_content", lambda *_: (Reason.NORM, "all are bad")
    )
    assert not unsaid(["honest work was refused"], [small_scenario(faults=BAD)])


def test_a_coordinator_that_does_not_see_a_commit_fail_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    save = CoordinatorExecutor._save_update

    def careless(executor: CoordinatorExecutor, record: UpdateRecord, payload: bytes) -> object:
        try:
            return save(executor, record, payload)
        except StorageError:
            return UpdateStored(update=record.update)

    monkeypatch.setattr(CoordinatorExecutor, "_save_update", careless)
    assert not unsaid(["not on disk"], (small_scenario(seed, faults=FAILING) for seed in range(4)))


ENDING = replace(
    ENGINE, versions=30, stopping=StoppingSettings(metric="norm", goal=Goal.MIN, patience=3, min_delta=0.0)
)


def test_a_run_that_ends_early_is_over_and_no_violation() -> None:
    assert violations(small_scenario(engine=ENDING, faults=CRASHES)) == ""


def test_a_run_that_ends_too_early_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EarlyStopping, "exhausted", property(lambda self: self.waited >= 1))
    assert "the run ended early, and only" in violations(small_scenario(engine=ENDING))


def test_quota_that_is_never_given_back_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Registry, "give", lambda _self, _node: None)
    engine = replace(ENGINE, per_node_quota=1000)
    assert "places of quota" in violations(small_scenario(engine=engine))


def test_a_slot_that_is_never_given_back_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MachineState, "end_slot", lambda _self, _node, **_how: None)
    assert "slots are held at the end" in violations(small_scenario(engine=replace(ENGINE, versions=1)))


SLOW = 200.0
"""A frame of six kilobytes takes half a minute, in bytes per second."""

SENDING = small_scenario(
    engine=replace(ENGINE, task="quadratic-1500", quorum=1, buffer=1, max_staleness=100),
    task="quadratic-1500",
    uplinks=(SLOW,) * 5,
    node=NodeSettings(node=NodeId("node"), task="quadratic-1500", chunk_bytes=64),
)


def most_nodes_leave(simulation: Simulation) -> None:
    """For ever, and in the middle of what they send."""
    for node in simulation.nodes[2:]:
        simulation.world.at(15.0, partial(node.kill, None))


def test_a_transfer_that_is_never_given_up_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of nodes that leave for ever in the middle of one."""
    assert violations(SENDING, before=most_nodes_leave) == ""
    monkeypatch.setattr(Transfers, "idle", lambda _self, _now: [])
    monkeypatch.setattr(UpdateReceiver, "sweep", lambda _self: None)
    assert "leak: the store has 3 transfers at the end" in violations(SENDING, before=most_nodes_leave)
    snapshot = {"live": 0, "buffered": 0, "transfers": 3, "quota_used": 0, "online": 2}
    assert held(snapshot, 2) == ["leak: 3 transfers are held at the end"]


def test_files_of_transfers_that_stay_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TransferFiles, "delete", lambda _self, _update: None)
    assert "files of transfers are left" in violations(SENDING)


class ForgetfulStore(ObservedStore):
    """Slots that were freed stay on the disk."""

    def close_round(self, round_id: object, nodes: object) -> None:
        del round_id, nodes


def test_slots_that_stay_on_the_disk_are_found() -> None:
    stragglers = (small_scenario(seed, faults=FaultPlan(vanish=0.9)) for seed in range(6))
    assert not unsaid(["assignments at the end"], stragglers, ForgetfulStore)


def test_a_node_that_is_there_and_unknown_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    observe = Registry.observe

    def deaf(registry: Registry, node: NodeId, state: Any, **how: Any) -> Any:
        sighting = observe(registry, node, state, **how)
        if node == "node-0":
            registry.remove(node)
        return sighting

    monkeypatch.setattr(Registry, "observe", deaf)
    assert "5 nodes are connected, and the coordinator knows of 4" in violations(small_scenario())
