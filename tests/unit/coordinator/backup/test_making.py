"""A backup is one moment of a run, whole, whatever its coordinator does meanwhile."""

import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coordinator.backup import making
from coordinator.backup.archive import Archive
from coordinator.backup.making import make_backup
from coordinator.storage.files import BLOBS
from coordinator.storage.read_only import ReadOnlyStore
from coordinator.storage.sqlite_store import SqliteStore
from coordinator.storage.store import Figures
from federation.errors import ConfigError, StorageError
from tests.rigs.model_values import arrived, committer, initialised, update


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SqliteStore]:
    """A run with large files, which is being written."""
    monkeypatch.setattr("coordinator.storage.sqlite_store.INLINE_BYTES_MAX", 10)
    monkeypatch.setattr("coordinator.storage.statements.FRAME_INLINE_BYTES_MAX", 10)
    made = SqliteStore(tmp_path / "state")
    initialised(made)
    made.save_task("digits")
    yield made
    made.close()


def advance(store: SqliteStore, versions: int = 1) -> None:
    head = committer(store)
    for _ in range(versions):
        sent = arrived("ann", update(0.5), round_id=head.head.version)
        store.save_update(sent.record, sent.payload)
        head.commit([sent.member], "buffer_full", Figures())


def unpacked(file: Path, folder: Path) -> SqliteStore:
    with Archive(file, lambda _: None) as found:
        found.unpack(folder, lambda _: None)
    return SqliteStore(folder)


def test_a_backup_of_a_running_store_is_the_run_of_that_moment(store: SqliteStore, tmp_path: Path) -> None:
    advance(store, 3)
    waiting = arrived("bob", update(2.0), round_id=7)
    store.save_update(waiting.record, waiting.payload)
    made = make_backup(tmp_path / "state", tmp_path / "run.tar")
    advance(store, 2)
    assert (made.facts.version, made.facts.waiting, made.facts.epoch, made.damaged) == (3, 1, 1, ())
    assert (made.facts.run, made.facts.task) == (store.run, "digits")
    again = unpacked(tmp_path / "run.tar", tmp_path / "again")
    assert again.alarms == []
    assert [row.record for row in again.history()] == [row.record for row in store.history()[:4]]
    assert again.payload(waiting.record.update) == waiting.payload
    assert again.model(again.head() or 0).shadow.digest() == store.history()[3].record.digest  # type: ignore[arg-type]
    again.close()
    assert made.bytes == (tmp_path / "run.tar").stat().st_size


def test_a_backup_is_private_and_leaves_nothing_beside_it(store: SqliteStore, tmp_path: Path) -> None:
    make_backup(tmp_path / "state", tmp_path / "run.tar")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.tar", "state"]
    assert (tmp_path / "run.tar").stat().st_mode & 0o777 == 0o600


def test_what_the_coordinator_removes_meanwhile_is_in_the_backup(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copied(self: ReadOnlyStore, path: Path) -> None:
        advance(store, 3)
        original(self, path)

    advance(store)
    original = ReadOnlyStore.copy
    monkeypatch.setattr(ReadOnlyStore, "copy", copied)
    made = make_backup(tmp_path / "state", tmp_path / "run.tar")
    assert (made.facts.version, made.damaged, store.head()) == (1, (), 4)
    again = unpacked(tmp_path / "run.tar", tmp_path / "again")
    assert (again.head(), again.alarms) == (1, [])
    again.close()


def test_a_moment_whose_files_are_gone_gives_way_to_the_next(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def named(self: ReadOnlyStore) -> dict[str, bytes]:
        found = original(self)
        if looks.pop(0):
            advance(store, 3)
        return found  # type: ignore[return-value]

    looks, original = [True, False, False, False], ReadOnlyStore.named_files
    monkeypatch.setattr(ReadOnlyStore, "named_files", named)
    made = make_backup(tmp_path / "state", tmp_path / "run.tar")
    assert (made.facts.version, made.damaged) == (3, ())


def test_a_file_is_not_replaced_unless_it_is_said(store: SqliteStore, tmp_path: Path) -> None:
    (tmp_path / "run.tar").write_text("precious")
    with pytest.raises(ConfigError, match=r"is there already: .*--force"):
        make_backup(tmp_path / "state", tmp_path / "run.tar")
    assert (tmp_path / "run.tar").read_text() == "precious"
    make_backup(tmp_path / "state", tmp_path / "run.tar", force=True)
    unpacked(tmp_path / "run.tar", tmp_path / "again").close()


@pytest.mark.parametrize("force", [True, False])
def test_a_folder_is_no_file(store: SqliteStore, tmp_path: Path, *, force: bool) -> None:
    with pytest.raises(ConfigError, match="is there already"):
        make_backup(tmp_path / "state", tmp_path, force=force)
    with pytest.raises(ConfigError, match="there is no folder"):
        make_backup(tmp_path / "state", tmp_path / "none" / "run.tar", force=force)


def test_a_folder_without_a_run_has_no_backup(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="has a coordinator run"):
        make_backup(tmp_path, tmp_path / "run.tar")
    SqliteStore(tmp_path / "state").close()
    with pytest.raises(StorageError, match="no version yet"):
        make_backup(tmp_path / "state", tmp_path / "run.tar")
    assert not (tmp_path / "run.tar").exists()


def flip(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[-1] ^= 1
    path.write_bytes(body)


@pytest.mark.parametrize("damage", [flip, Path.unlink])
def test_a_damaged_newest_model_is_no_backup(
    store: SqliteStore, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    advance(store, 2)
    damage(tmp_path / "state" / BLOBS / "model-2.safetensors")
    with pytest.raises(StorageError, match="newest model is missing or damaged: coordinator audit"):
        make_backup(tmp_path / "state", tmp_path / "run.tar")
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


@pytest.mark.parametrize("damage", [flip, Path.unlink])
def test_other_damage_is_told(store: SqliteStore, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    advance(store, 2)
    waiting = arrived("bob", update(2.0), round_id=7)
    store.save_update(waiting.record, waiting.payload)
    damage(tmp_path / "state" / BLOBS / "update-7-bob.frame")
    made = make_backup(tmp_path / "state", tmp_path / "run.tar")
    assert made.damaged == ("blobs/update-7-bob.frame",)


def test_a_full_disk_leaves_no_file(store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(making, "write_archive", full)
    with pytest.raises(StorageError, match=r"cannot be made: .* make room"):
        make_backup(tmp_path / "state", tmp_path / "run.tar")
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_a_store_with_more_files_than_a_shell_allows_is_backed_up(store: SqliteStore, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for number in range(40):
        sent = arrived(f"node-{number}", update(0.5))
        store.save_update(sent.record, sent.payload)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 20, hard))
    try:
        assert make_backup(tmp_path / "state", tmp_path / "run.tar").facts.waiting == 40
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_progress_is_told_to_its_end(store: SqliteStore, tmp_path: Path) -> None:
    totals, heard = [], list[int]()

    def progress(total: int) -> Callable[[int], None]:
        totals.append(total)
        return heard.append

    make_backup(tmp_path / "state", tmp_path / "run.tar", progress=progress)
    assert totals == [sum(heard)]


def test_a_backup_is_on_the_disk_before_it_has_its_name(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its name, when the command ends."""
    synced: list[tuple[str, bool]] = []

    def fsync(handle: int) -> None:
        synced.append((Path(f"/proc/self/fd/{handle}").readlink().name, (tmp_path / "run.tar").exists()))

    monkeypatch.setattr("os.fsync", fsync)
    make_backup(tmp_path / "state", tmp_path / "run.tar")
    (file, had_name), folder = synced
    assert (file.startswith(".run.tar."), had_name) == (True, False)
    assert folder == (tmp_path.name, True)
