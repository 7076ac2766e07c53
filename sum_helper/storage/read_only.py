"""The store of a helper that has stopped, whole: what it has revealed, of whom, and what it still could."""

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from federation.privacy.releases import Taking
from federation.storage.columns import blob, whole
from federation.storage.sql import Readable
from federation.types import DIGEST_BYTES, Digest, ModelVersion, NodeId, RunId, UpdateId
from sum_helper.storage.noised import read_takings
from sum_helper.storage.store import open_read_only, read_ledger

__all__ = ["RevealedSum", "SeenUpdate", "StoppedHelper", "read_helper"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenUpdate:
    """An update of which a helper has had seeds.

    Attributes:
        update: Its name.
        node: Who has signed its ticket.
        batch: The one in which it was used; None where it never was.
        classes: Those of which the seed is still there.
    """

    update: UpdateId
    node: NodeId
    batch: Digest | None
    classes: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class RevealedSum:
    """One batch that a helper has answered.

    Attributes:
        batch: Which.
        version: The version that it was asked for.
        members: Digests of the members' tickets, as the request named them.
        answers: By class, what was said; None where it is not kept any more.
    """

    batch: Digest
    version: ModelVersion
    members: tuple[Digest, ...]
    answers: Mapping[int, bytes | None] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoppedHelper:
    """What one helper's state folder says of one run.

    Attributes:
        folder: Where it is.
        updates: By the digests of their tickets; old ones are forgotten.
        sums: What was revealed; old ones are forgotten.
        releases: In how many sums of all runs each node was, by name.
        takings: Each node's part in the noised sums of this run, by name.
    """

    folder: Path
    updates: Mapping[Digest, SeenUpdate]
    sums: tuple[RevealedSum, ...]
    releases: Mapping[NodeId, int]
    takings: Mapping[NodeId, Taking] = field(default_factory=dict)


def read_helper(folder: Path, run: RunId | None) -> StoppedHelper:
    """Read the store of a helper that has stopped, in whatever way.

    Args:
        folder: Its state folder.
        run: Of which run; None is all of them.

    Raises:
        StorageError: There is none, it is of a newer release, or it cannot be read.
    """
    with closing(open_read_only(folder)) as database:
        ledger = read_ledger(database)
        return StoppedHelper(
            folder=folder,
            updates=_updates(database, run),
            sums=_sums(database, run),
            releases={node: releases for node, (releases, _) in ledger.items()},
            takings={} if run is None else read_takings(database, run),
        )


def _updates(database: Readable, run: RunId | None) -> dict[Digest, SeenUpdate]:
    left: dict[bytes, set[int]] = {}
    for ticket, number in database.execute("SELECT ticket, class FROM seeds").fetchall():
        left.setdefault(blob(ticket), set()).add(whole(number))
    rows = database.execute("SELECT ticket, update_id, node, batch FROM updates WHERE run = ? OR ? IS NULL", run, run)
    return {
        Digest(blob(ticket)): SeenUpdate(
            update=UpdateId(update),
            node=NodeId(node),
            batch=None if batch is None else Digest(blob(batch)),
            classes=frozenset(left.get(blob(ticket), ())),
        )
        for ticket, update, node, batch in rows.fetchall()
    }


def _sums(database: Readable, run: RunId | None) -> tuple[RevealedSum, ...]:
    answers: dict[bytes, dict[int, bytes | None]] = {}
    for batch, number, payload in database.execute("SELECT batch, class, payload FROM answers").fetchall():
        answers.setdefault(blob(batch), {})[whole(number)] = None if payload is None else blob(payload)
    query = "SELECT batch, version, members FROM batches WHERE run = ? OR ? IS NULL ORDER BY number"
    return tuple(
        RevealedSum(
            batch=Digest(blob(batch)),
            version=ModelVersion(whole(version)),
            members=tuple(_digests(blob(members))),
            answers=answers.get(blob(batch), {}),
        )
        for batch, version, members in database.execute(query, run, run).fetchall()
    )


def _digests(packed: bytes) -> Iterator[Digest]:
    return (Digest(packed[start : start + DIGEST_BYTES]) for start in range(0, len(packed), DIGEST_BYTES))
