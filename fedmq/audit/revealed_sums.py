"""What the helpers of masked sums have revealed, as invariants M1 to M5; each returns what is wrong.

A helper marks members as used, keeps its answer and forgets their seeds in one transaction, and speaks after it. So
an update in two sums, an answer that is not what the coordinator has added up, and a seed that outlived its sum are
damage, whatever was killed.
"""

from collections.abc import Iterator, Sequence

from coordinator.records import BatchRecord
from federation.protocol.limits import MEMBERS_LEAST
from federation.protocol.messages import ReceiptStatus
from federation.types import Digest, ModelVersion, UpdateId
from fedmq.audit.evidence import Evidence
from fedmq.audit.invariants import Check, some
from sum_helper.storage.read_only import RevealedSum, StoppedHelper

__all__ = ["helper_checks"]


def helper_checks() -> list[tuple[str, str, Check]]:
    """Each invariant of what helpers reveal, its claim, and its check."""
    return [
        ("M1", "no update is in two sums that helpers have revealed", lambda evidence: some(_revealed_twice(evidence))),
        ("M2", "versions are made of what helpers have revealed", lambda evidence: some(_other_sums(evidence))),
        ("M3", "no sum is over few nodes, or over one of them twice", lambda evidence: some(_small(evidence))),
        ("M4", "seeds of a sum are gone once it is revealed", lambda evidence: some(_left_over(evidence))),
        ("M5", "each sum is charged to each of its nodes", lambda evidence: some(_uncharged(evidence))),
    ]


def _revealed_twice(evidence: Evidence) -> Iterator[str]:
    names, batches = _names(evidence), dict[UpdateId | Digest, set[Digest]]()
    for helper, revealed in _revealed(evidence):
        for ticket in revealed.members:
            batches.setdefault(names.get(ticket, ticket), set()).add(revealed.batch)
            seen = helper.updates.get(ticket)
            if seen is not None and seen.batch != revealed.batch:
                yield f"{helper.folder}: {seen.update} is in the sum of version {revealed.version}, and not marked so"
    for update, found in batches.items():
        if len(found) > 1:
            yield f"{_told(update)} is in {len(found)} sums: {some(sorted(one.hex() for one in found))}"


def _other_sums(evidence: Evidence) -> Iterator[str]:
    made: dict[ModelVersion, tuple[BatchRecord, Sequence[bytes]] | None] = {}
    for version in {revealed.version for _, revealed in _revealed(evidence)}:
        batch = evidence.store.batch(version)
        if batch is not None and version <= evidence.head:
            made[version] = batch, evidence.store.sums(version)
    names = _names(evidence)
    for helper, revealed in _revealed(evidence):
        known = made.get(revealed.version)
        if known is None:
            continue
        batch, sums = known
        group = next((place for place, one in enumerate(batch.requests) if one.batch == revealed.batch), None)
        if group is None:
            yield from _counted_elsewhere(evidence, helper, revealed, names)
        elif batch.requests[group].members != b"".join(revealed.members):
            yield f"{helper.folder}: version {revealed.version} has other members in the coordinator's store"
        else:
            first = group * len(batch.request.classes)
            for number, answer in revealed.answers.items():
                if answer is not None and (first + number >= len(sums) or sums[first + number] != answer):
                    yield f"{helper.folder}: version {revealed.version} is made of another sum of class {number}"


def _counted_elsewhere(
    evidence: Evidence, helper: StoppedHelper, revealed: RevealedSum, names: dict[Digest, UpdateId]
) -> Iterator[str]:
    """A batch that made no version ends whole: none of its members may be in another one."""
    for ticket in revealed.members:
        row = evidence.updates.get(names.get(ticket, UpdateId("")))
        if row is not None and row.verdict.status is ReceiptStatus.APPLIED:
            where = f"version {row.verdict.version}, and in a sum that is not that version's"
            yield f"{helper.folder}: {row.record.update} is in {where}"


def _small(evidence: Evidence) -> Iterator[str]:
    for helper, revealed in _revealed(evidence):
        known = [helper.updates[ticket].node for ticket in revealed.members if ticket in helper.updates]
        if len(revealed.members) < MEMBERS_LEAST or len(set(known)) < len(known):
            yield f"{helper.folder}: version {revealed.version} is over {len(revealed.members)} updates, {some(known)}"


def _left_over(evidence: Evidence) -> Iterator[str]:
    for helper, revealed in _revealed(evidence):
        for ticket in revealed.members:
            seen = helper.updates.get(ticket)
            if seen is not None and (left := seen.classes & revealed.answers.keys()):
                yield f"{helper.folder}: seeds {some(sorted(left))} of {seen.update} are still there"


def _uncharged(evidence: Evidence) -> Iterator[str]:
    for helper in evidence.helpers:
        nodes = [
            helper.updates[ticket].node
            for revealed in helper.sums
            for ticket in revealed.members
            if ticket in helper.updates
        ]
        for node in sorted(set(nodes)):
            if helper.releases.get(node, 0) < nodes.count(node):
                charged = helper.releases.get(node, 0)
                yield f"{helper.folder}: {node} is in {nodes.count(node)} sums, and charged for {charged}"


def _revealed(evidence: Evidence) -> Iterator[tuple[StoppedHelper, RevealedSum]]:
    return ((helper, revealed) for helper in evidence.helpers for revealed in helper.sums)


def _names(evidence: Evidence) -> dict[Digest, UpdateId]:
    """The updates whose tickets any helper still knows."""
    return {ticket: seen.update for helper in evidence.helpers for ticket, seen in helper.updates.items()}


def _told(update: UpdateId | Digest) -> str:
    return update.hex() if isinstance(update, bytes) else str(update)
