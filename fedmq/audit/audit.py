"""Checks what must hold under faults in the stores of a federation that has stopped, and says what it found."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from coordinator.global_model.committer import CommitterSettings
from coordinator.storage.files import BLOBS
from coordinator.storage.read_only import ReadOnlyStore
from federation.errors import FederationError, StorageError
from federation.types import UpdateId
from fedmq.audit.evidence import Evidence, Witness, read_nodes
from fedmq.audit.invariants import Check, checks, double_updates, lost_updates, not_checked, waiting_updates
from fedmq.audit.noised import is_noised, noised_checks, noised_not_checked
from fedmq.audit.privacy import is_private, private_checks, private_not_checked
from fedmq.audit.recompute import recompute_head
from fedmq.audit.revealed_sums import helper_checks
from update_codec import CodecError

__all__ = ["AuditReport", "Finding", "Outcome", "Witness", "audit", "recompute_head"]

_UNREADABLE = (
    FederationError,
    CodecError,
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,
    TypeError,
    ValueError,
)
"""What reading a store raises in which anything may stand; our own mistakes have other names."""

Found = TypeVar("Found")


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
    helpers: Sequence[Path] = (),
    settings: CommitterSettings | None = None,
    witness: Witness | None = None,
    private: bool = False,
) -> AuditReport:
    """Read all stores and check every invariant that they can show.

    Args:
        state: The coordinator's state folder; the coordinator must have stopped, in whatever way.
        nodes: State folders of nodes that have stopped.
        helpers: State folders of the helpers of masked sums, which have stopped, too.
        settings: How versions were made, for I7; None skips it.
        witness: What the nodes' logs said; None is nothing.
        private: The run is under differential privacy, also where no store says so.

    Raises:
        StorageError: A store cannot be read at all.
    """
    try:
        store = ReadOnlyStore(state)
    except StorageError as error:
        if not _has_models(state):
            raise
        return AuditReport(
            findings=[_unreadable(error, *check) for check in checks(settings, frozenset(), frozenset())]
        )
    with store:
        folders = read_nodes(nodes, _or(lambda: store.run, None))
        heard = Witness() if witness is None else witness
        evidence = Evidence(store=store, folders=folders, witness=heard, helper_folders=helpers)
        return _report(evidence, settings, private=private)


def _has_models(state: Path) -> bool:
    """Whether a coordinator has been here: then a database that cannot be read is damage."""
    blobs = state / BLOBS
    return blobs.is_dir() and any(blobs.iterdir())


def _unreadable(error: StorageError, invariant: str, claim: str, check: Check | None) -> Finding:
    del check
    outcome = Outcome.FAIL if invariant == "I3" else Outcome.SKIP
    return Finding(invariant=invariant, outcome=outcome, claim=claim, detail=str(error))


def _report(evidence: Evidence, settings: CommitterSettings | None, *, private: bool) -> AuditReport:
    private = private or _or(lambda: is_private(evidence), False)
    lost = _or(lambda: frozenset(lost_updates(evidence)), frozenset[UpdateId]())
    double = _or(lambda: frozenset(double_updates(evidence)), frozenset[UpdateId]())
    noised = _or(lambda: is_noised(evidence), False)
    every = [*checks(settings, lost, double), *(private_checks() if private else [])]
    every += noised_checks() if noised else []
    every += helper_checks() if evidence.helper_folders else []
    findings = [_finding(evidence, *check) for check in every]
    claims = {invariant: claim for invariant, claim, _ in every}
    findings += [
        Finding(invariant=invariant, outcome=Outcome.SKIP, claim=claims[invariant], detail=detail)
        for invariant, detail in _left_out(evidence, private=private, noised=noised)
    ]
    # What was not checked of an invariant stands below what was.
    order = list(claims)
    findings.sort(key=lambda finding: order.index(finding.invariant))
    waiting = _or(lambda: frozenset(waiting_updates(evidence)), frozenset[UpdateId]())
    return AuditReport(findings=findings, lost=lost, double=double, waiting=waiting)


def _left_out(evidence: Evidence, *, private: bool, noised: bool) -> list[tuple[str, str]]:
    left_out = _or(lambda: list(not_checked(evidence)), list[tuple[str, str]]())
    if private:
        left_out += _or(lambda: list(private_not_checked(evidence)), list[tuple[str, str]]())
    if noised:
        left_out += _or(lambda: list(noised_not_checked(evidence)), list[tuple[str, str]]())
    return left_out


def _or(read: Callable[[], Found], nothing: Found) -> Found:
    """What can be read; where nothing can, a check says so."""
    try:
        return read()
    except _UNREADABLE:
        return nothing


def _finding(evidence: Evidence, invariant: str, claim: str, check: Check | None) -> Finding:
    if check is None:
        why = "stores do not show it" if invariant == "I6" else "needs the coordinator's configuration"
        return Finding(invariant=invariant, outcome=Outcome.SKIP, claim=claim, detail=why)
    try:
        wrong = check(evidence)
    except FederationError as error:
        wrong = str(error)
    except _UNREADABLE as error:
        wrong = f"something cannot be read: {type(error).__name__}: {error}"
    outcome = Outcome.FAIL if wrong else Outcome.PASS
    return Finding(invariant=invariant, outcome=outcome, claim=claim, detail=wrong)
