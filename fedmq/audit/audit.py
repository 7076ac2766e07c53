"""Checks what must hold under faults in the stores of a federation that has stopped, and says what it found."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from coordinator.global_model.committer import CommitterSettings
from coordinator.storage.read_only import ReadOnlyStore
from edge_node.storage.read_only import read_node
from federation.errors import StorageError
from federation.protocol.messages import ReceiptStatus
from federation.types import UpdateId
from fedmq.audit.invariants import Check, Evidence, Witness, checks, double_updates, lost_updates
from fedmq.audit.recompute import recompute_head

__all__ = ["AuditReport", "Finding", "Outcome", "Witness", "audit", "recompute_head"]


class Outcome(StrEnum):
    """What one check found."""

    PASS = "pass"  # noqa: S105 - an outcome, not a secret
    FAIL = "fail"
    SKIP = "skip"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One invariant and what the stores say of it."""

    invariant: str
    outcome: Outcome
    claim: str
    detail: str = ""

    @property
    def failed(self) -> bool:
        """Whether the invariant does not hold."""
        return self.outcome is Outcome.FAIL


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """All findings.

    Attributes:
        findings: One per invariant, in order.
        lost: Updates that a node may rely on and that are nowhere.
        double: Updates that count more than once, or in two ways.
        waiting: Updates that are stored and wait for a version.
    """

    findings: Sequence[Finding]
    lost: frozenset[UpdateId] = frozenset()
    double: frozenset[UpdateId] = frozenset()
    waiting: frozenset[UpdateId] = frozenset()

    @property
    def holds(self) -> bool:
        """Whether no check failed."""
        return not any(finding.failed for finding in self.findings)


def audit(
    state: Path,
    *,
    nodes: Sequence[Path] = (),
    settings: CommitterSettings | None = None,
    witness: Witness | None = None,
) -> AuditReport:
    """Read all stores and check every invariant that they can show.

    Args:
        state: The coordinator's state folder; the coordinator must have stopped, in whatever way.
        nodes: State folders of nodes that have stopped.
        settings: How versions were made, for I7; None skips it.
        witness: What the nodes' logs said; None is nothing.

    Raises:
        StorageError: A store cannot be read at all.
    """
    with ReadOnlyStore(state) as store:
        evidence = Evidence(
            store=store,
            versions=store.history(),
            updates={row.record.update: row for row in store.updates()},
            nodes=[node for node in map(read_node, nodes) if node.run in (None, store.run)],
            witness=Witness() if witness is None else witness,
        )
        lost, double = frozenset(lost_updates(evidence)), frozenset(double_updates(evidence))
        findings = [_finding(evidence, *check) for check in checks(settings, lost, double)]
    waiting = (update for update, row in evidence.updates.items() if row.verdict.status is ReceiptStatus.STORED)
    return AuditReport(findings=findings, lost=lost, double=double, waiting=frozenset(waiting))


def _finding(evidence: Evidence, invariant: str, claim: str, check: Check | None) -> Finding:
    if check is None:
        why = "stores do not show it" if invariant == "I6" else "needs the coordinator's configuration"
        return Finding(invariant=invariant, outcome=Outcome.SKIP, claim=claim, detail=why)
    try:
        wrong = check(evidence)
    except StorageError as error:
        wrong = str(error)
    outcome = Outcome.FAIL if wrong else Outcome.PASS
    return Finding(invariant=invariant, outcome=outcome, claim=claim, detail=wrong)
