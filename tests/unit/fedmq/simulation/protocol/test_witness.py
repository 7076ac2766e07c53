"""What nodes have made: by run and by id, with several makers where a node has a twin."""

from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import pytest

from coordinator.engine.effects import SendCommand
from coordinator.records import RoundRecord, UpdateRecord, Verdict
from federation.protocol.cohort import EVERYONE
from federation.protocol.messages import EvaluationReceipt, Reason, Receipt, ReceiptStatus
from federation.types import Digest, ModelVersion, RoundId, RunId
from fedmq.simulation.protocol.checker import Checker
from fedmq.simulation.protocol.witness import Witness
from tests.rigs.node_rig import announcement
from tests.rigs.node_values import NODE, entry
from tests.rigs.small_federation import ENGINE

ONE = entry(1)
RUN, UPDATE = ONE.offer.run, ONE.offer.update
OTHER = RunId("f" * 16)


def record() -> UpdateRecord:
    offer = ONE.offer
    return UpdateRecord(
        update=UPDATE,
        node=NODE,
        round=offer.round,
        base_version=offer.base_version,
        num_examples=offer.num_examples,
        codec=offer.codec,
        payload_bytes=offer.payload_bytes,
        payload_digest=offer.payload_digest,
    )


def checkers() -> tuple[Witness, Checker, list[str]]:
    found: list[str] = []
    witness = Witness(found)
    return witness, Checker(found, ENGINE, witness, RUN), found


def test_what_no_node_has_made_for_this_run_may_not_be_stored() -> None:
    witness, checker, found = checkers()
    witness.has("ann", [replace(ONE, offer=replace(ONE.offer, run=OTHER))])
    checker.stored(record())
    assert found == [f"{UPDATE} was stored, and no node has made this for run {RUN}"]
    witness.has("ann", [ONE])
    checker.fork().stored(record())
    assert found[1:] == [f"I1: {UPDATE} was stored twice"]


def test_a_verdict_of_a_copys_coordinator_is_enough_for_what_it_was_told_of_and_no_other() -> None:
    witness, checker, _ = checkers()
    witness.has("ann", [ONE, entry(2)])
    copy = checker.fork()
    witness.told(RUN, UPDATE, id(copy))
    assert checker.unsettled(()) == [entry(2).offer.update]
    assert (checker.told_by_others(()), checker.undelivered(())) == (1, [entry(2).offer.update])


def test_what_is_wiped_is_owed_by_its_twin_as_long_as_there_is_one() -> None:
    witness, checker, _ = checkers()
    witness.has("ann", [ONE])
    witness.has("twin of ann", [ONE])
    witness.wiped("ann")
    assert checker.unsettled(()) == [UPDATE]
    assert checker.unsettled({"twin of ann"}) == []
    assert witness.makers(RUN, UPDATE) == "twin of ann"


def test_a_mixture_of_two_twins_may_be_refused_and_one_nodes_own_update_may_not() -> None:
    witness, checker, found = checkers()
    witness.has("ann", [ONE])
    verdict = Verdict(update=UPDATE, node=record().node, status=ReceiptStatus.REFUSED, reason=Reason.DIGEST_MISMATCH)
    checker.fork().judged(verdict)
    assert found == [f"honest work was refused: {UPDATE}, digest_mismatch"]
    witness.has("twin of ann", [replace(ONE, offer=replace(ONE.offer, payload_digest=Digest(b"other")))])
    checker.judged(verdict)
    assert len(found) == 1


UNKNOWN: dict[str, tuple[Receipt | EvaluationReceipt, str]] = {
    "update": (
        Receipt(run=RUN, update=UPDATE, status=ReceiptStatus.REFUSED, reason=Reason.UNKNOWN_ROUND),
        f"save, then say: {UPDATE} is receipted refused (unknown_round) and not on disk",
    ),
    "evaluation": (
        EvaluationReceipt(run=RUN, version=ModelVersion(4), status=ReceiptStatus.REFUSED, reason=Reason.UNKNOWN_ROUND),
        f"honest work was refused: {NODE}'s evaluation of version 4, unknown_round",
    ),
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_what_a_copy_of_the_store_asked_for_may_be_unknown_here_and_what_was_asked_for_here_may_not(kind: str) -> None:
    said, complaint = UNKNOWN[kind]
    store: Any = Mock(verdict=Mock(return_value=None))
    witness, checker, found = checkers()
    witness.has("ann", [ONE])
    checker.coordinator_says(SendCommand(node=NODE, command=said), store)
    assert found == [complaint]
    copy = checker.fork()
    copy.coordinator_says(SendCommand(node=NODE, command=said), store)
    checker.coordinator_says(SendCommand(node=NODE, command=said), store)
    assert found == [complaint]
    round_id, version = RoundId(ONE.offer.round), ModelVersion(4)
    checker.reserved(RoundRecord(round=round_id, version=version, nodes=(NODE,), cohort=EVERYONE, evaluation=2))
    checker.surveys.announced(replace(announcement(1, 4), evaluation=2))
    checker.coordinator_says(SendCommand(node=NODE, command=said), store)
    assert found == [complaint] * 2
