"""Nodes whose frames have other columns than most are left out, and whoever asks why is told (FED-304)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from coordinator.engine.columns import DIFFER
from federation.inputs import Inputs
from federation.protocol.messages import Presence
from federation.types import COLUMNS, NodeId
from tests.rigs.coordinator_rig import Rig, engine, fresh

RIGHT, OTHER = 7.0, 5.0


def running(said: Mapping[str, float | None], **recovered: Any) -> Rig:
    rig = Rig(engine(concurrency=4, buffer=2, refill=1, quorum=1), replace(fresh(), **recovered))
    rig.connect()
    for node, number in said.items():
        rig.state(node, capabilities=None if number is None else {COLUMNS: number})
    return rig


def able(rig: Rig) -> set[str]:
    state = rig.machine._state
    return {node for node in state.registry.nodes() if not state.registry._excluded.get(node)}


def test_whoever_differs_from_most_is_left_out_and_named() -> None:
    rig = running({"a": RIGHT, "b": RIGHT, "c": OTHER, "array": None})
    assert able(rig) == {"a", "b", "array"}
    assert rig.machine._state.failing[NodeId("c")] == DIFFER
    assert rig.machine._attendance._absences[NodeId("c")] == {"columns differ": 1}


def test_most_may_be_others_later() -> None:
    """One that differs comes first and trains; it is left out when the others are there."""
    rig = running({"c": OTHER})
    assert able(rig) == {"c"}
    for node in ("a", "b"):
        rig.state(node, capabilities={COLUMNS: RIGHT})
    assert able(rig) == {"a", "b"}
    for node in ("a", "b"):
        rig.state(node, presence=Presence.OFFLINE)
    assert able(rig) >= {"c"}
    assert NodeId("c") not in rig.machine._state.failing


def test_of_equally_many_a_restart_chooses_as_before() -> None:
    for order in (("a", "c"), ("c", "a")):
        numbers = {"a": RIGHT, "c": OTHER}
        assert able(running({node: numbers[node] for node in order})) == {"c"}


def test_who_was_started_again_with_the_columns_of_most_is_asked() -> None:
    rig = running({"a": RIGHT, "b": RIGHT, "c": OTHER})
    rig.state("c", capabilities={COLUMNS: RIGHT}, incarnation=2)
    assert able(rig) == {"a", "b", "c"}
    assert NodeId("c") not in rig.machine._state.failing


def test_where_the_run_names_its_columns_nodes_take_them_by_name() -> None:
    described = Inputs(features=("x", "y")).to_text()
    assert able(running({"a": RIGHT, "b": RIGHT, "c": OTHER}, inputs=described)) == {"a", "b", "c"}
    assert able(running({"a": RIGHT, "b": RIGHT, "c": OTHER}, inputs="{damaged")) == {"a", "b"}
