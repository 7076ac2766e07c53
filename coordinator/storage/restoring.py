"""Lifts a store that was unpacked from a backup above all that its run may have done since."""

from pathlib import Path

from coordinator.records import ReleaseLedger, Restored
from coordinator.storage import schema
from coordinator.storage.database import open_database
from coordinator.storage.recovery import read_next_round
from coordinator.storage.releases import charge_lost, noised_here, read_ledger
from coordinator.storage.seals import identity_is_sealed, seal_identity
from federation.errors import StorageError
from federation.protocol.limits import INT32_MAX
from federation.storage.sql import Readable
from federation.types import Epoch, ModelVersion, RoundId, RunId

__all__ = ["EPOCHS", "ROUNDS", "begin_after", "ledger_after", "lift"]

EPOCHS = 1 << 20
"""A restored run's epochs begin so much later: more starts than a run has between a backup and its end."""

ROUNDS = 1 << 24
"""Its rounds begin so much later: a round a second for half a year. There is room for 255 restores of one run."""


def lift(folder: Path, *, above: int, released: int | None = None) -> tuple[RunId, Restored, bool]:
    """Have the next start of a store be obeyed by nodes that have seen more of its run.

    Args:
        folder: A state folder that nobody uses.
        above: An epoch that nodes are known to have obeyed; 0 is none.
        released: The newest version that anybody may have got, where the coordinator adds noise: all nodes pay for
            those that the store has not, once for the run that was lost and once for each restore of this store before
            this one, as ``above`` shows. None is not known.

    Returns:
        The run, from where it goes on, and whether its run, epoch and manifest were what a coordinator had written.

    Raises:
        StorageError: It has no version, there are no higher numbers left, what noised versions have cost since is not
            known, or it cannot be written.
    """
    database = open_database(folder)
    try:
        meta = {row["key"]: row["value"] for row in database.execute("SELECT key, value FROM meta")}
        head = database.execute("SELECT MAX(version) FROM versions").fetchone()[0]
        if head is None or not {"run", "epoch"} <= meta.keys():
            raise StorageError("the backup has no version: there is nothing to begin again from")
        epoch, first_round = int(meta["epoch"]), read_next_round(database)
        # Who has obeyed a later restore of the same backup has also seen its rounds.
        times = _times_lost(epoch, above)
        restored = Restored(
            epoch=Epoch(epoch + times * EPOCHS),
            version=ModelVersion(head),
            first_round=first_round,
            next_round=RoundId(first_round + times * ROUNDS),
        )
        if max(restored.epoch + EPOCHS, restored.next_round + ROUNDS) > INT32_MAX:
            raise StorageError(f"run {meta['run']} has no numbers left above {above}: begin a new one with --new-run")
        lost = _lost_sums(database, head, released) * times
        whole = identity_is_sealed(database) is not False
        with database.transaction("restore"):
            database.insert("meta", {"key": "epoch", "value": restored.epoch}, conflict="REPLACE")
            database.insert("restores", schema.RESTORED.row(restored))
            # Whoever was asked or was sending then may have finished since, and would be waited for in vain: what a
            # node still has, it offers.
            for table in ("assignments", "transfers"):
                database.execute(f"DELETE FROM {table}")  # noqa: S608 - our own names
            charge_lost(database, lost)
            seal_identity(database)
        return RunId(meta["run"]), restored, whole
    finally:
        database.close()


def _times_lost(epoch: int, above: int) -> int:
    """How many runs have gone on from this store and are lost: the first one, and those that were begun from it since.

    Args:
        epoch: The store's.
        above: An epoch that nodes are known to have obeyed; 0 is none.
    """
    return max(0, above - epoch) // EPOCHS + 1


def _lost_sums(database: Readable, head: int, released: int | None) -> int:
    """How many noised sums may have been made since a backup whose newest version is ``head``.

    Raises:
        StorageError: There may be some, and nobody says which version was the newest.
    """
    if not noised_here(database):
        return 0  # helpers have accounts of their own, and tell them
    if released is None:
        why = "the coordinator of this run adds noise, and only its lost store knew what versions since the backup cost"
        how = (
            "name the newest version that anybody may have got: --released VERSION (log, report, page; 0 is none since)"
        )
        raise StorageError(f"{why}: {how}")
    return max(0, released - head)


def begin_after(folder: Path, began_ms: int) -> None:
    """Have a store that does not exist yet be later than another run, whatever the clock says.

    Raises:
        StorageError: It cannot be written.
    """
    database = open_database(folder)
    try:
        with database.transaction("restore"):
            database.insert("meta", {"key": "began_ms", "value": began_ms})
    finally:
        database.close()


def ledger_after(folder: Path, released: int | None, *, above: int = 0) -> ReleaseLedger:
    """What a run whose coordinator adds noise has spent, with what its backup may not know of; else nothing.

    Args:
        folder: A state folder that nobody uses.
        released: As `lift` takes it.
        above: As `lift` takes it.

    Raises:
        StorageError: There may be noised versions that the backup lacks, and nobody says which was the newest.
    """
    database = open_database(folder)
    try:
        head = database.execute("SELECT MAX(version) FROM versions").fetchone()[0]
        epoch = database.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()
        times = _times_lost(0 if epoch is None else int(epoch[0]), above)
        lost = _lost_sums(database, head or 0, released) * times
        with database.transaction("ledger"):
            charge_lost(database, lost)
        return read_ledger(database) if noised_here(database) else ReleaseLedger()
    finally:
        database.close()
