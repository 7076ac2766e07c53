"""The file of a backup: every byte that is used is checked first, and whatever else it is is refused."""

import io
import json
import tarfile
from collections.abc import Callable, Mapping
from hashlib import blake2b
from pathlib import Path

import pytest

from coordinator.backup import archive
from coordinator.backup.archive import MANIFEST, Archive, Entry, write_archive
from federation.errors import DamagedStore

FILES = {"coordinator.sqlite3": b"rows" * 700, "blobs/model-3.safetensors": b"arrays", "blobs/update-3-ann.frame": b""}


def silent(_: int) -> None:
    """Nobody listens."""


def written(path: Path, files: Mapping[str, bytes] = FILES) -> Path:
    with path.open("wb") as out:
        write_archive(out, {name: io.BytesIO(body) for name, body in files.items()}, {"version": 3}, silent)
    return path


def as_members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def from_members(path: Path, members: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, body in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return path


def signed(content: dict[str, object]) -> bytes:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    return json.dumps(content | {"digest": blake2b(canonical, digest_size=16).hexdigest()}).encode()


def test_what_was_written_is_found_again_with_its_digests(tmp_path: Path) -> None:
    heard: list[int] = []
    with Archive(written(tmp_path / "run.tar"), heard.append) as found:
        assert found.about == {"version": 3}
        assert found.entries == {
            name: Entry(name=name, bytes=len(body), digest=blake2b(body, digest_size=16).hexdigest())
            for name, body in FILES.items()
        }
        assert found.total_bytes == sum(heard) == sum(map(len, FILES.values()))
        found.unpack(tmp_path / "out", silent)
    assert {str(path.relative_to(tmp_path / "out")): path.read_bytes() for path in tmp_path.rglob("*/*.*")} == FILES
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "out").rglob("*.*")} == {0o600}


def test_any_tool_can_list_it(tmp_path: Path) -> None:
    assert list(as_members(written(tmp_path / "run.tar"))) == [*FILES, MANIFEST]


def test_every_prefix_is_refused(tmp_path: Path) -> None:
    whole = written(tmp_path / "run.tar").read_bytes()
    end = whole.rindex(b"}") + 1
    for size in [*range(0, end, 97), end - 1]:
        (tmp_path / "cut.tar").write_bytes(whole[:size])
        with pytest.raises(DamagedStore, match="no whole backup"):
            Archive(tmp_path / "cut.tar", silent)


def test_every_changed_byte_of_a_file_or_of_the_manifest_is_refused(tmp_path: Path) -> None:
    whole = written(tmp_path / "run.tar").read_bytes()
    for body in (*(body for body in FILES.values() if body), as_members(tmp_path / "run.tar")[MANIFEST]):
        begin = whole.index(body)
        for place in range(begin, begin + len(body), max(1, len(body) // 50)):
            changed = bytearray(whole)
            changed[place] ^= 0x01
            (tmp_path / "changed.tar").write_bytes(changed)
            try:
                Archive(tmp_path / "changed.tar", silent).__exit__(None, None, None)
            except DamagedStore:
                continue
            # White space of the manifest says nothing.
            assert whole[place : place + 1].isspace()


def without(name: str) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    return lambda members: {key: body for key, body in members.items() if key != name}


def renamed(name: str) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    def change(members: dict[str, bytes]) -> dict[str, bytes]:
        members[name] = members.pop("blobs/model-3.safetensors")
        files = [
            {"name": key, "bytes": len(body), "digest": blake2b(body, digest_size=16).hexdigest()}
            for key, body in members.items()
            if key != MANIFEST
        ]
        del members[MANIFEST]
        return members | {MANIFEST: signed({"format": 1, "about": {}, "files": files})}

    return change


@pytest.mark.parametrize(
    "change",
    [
        without("coordinator.sqlite3"),
        without(MANIFEST),
        lambda members: {MANIFEST: members[MANIFEST], **members},
        lambda members: {"blobs/other.frame": b"", **members},
        lambda members: members | {MANIFEST: b"[]"},
        lambda members: members | {MANIFEST: b"{"},
        lambda members: members | {MANIFEST: signed({"format": 2, "about": {}, "files": []})},
        lambda members: members | {MANIFEST: signed({"format": 1, "about": {}, "files": [{"name": "x"}]})},
        lambda members: members | {MANIFEST: signed({"format": 1, "about": {}, "files": 3})},
        lambda members: members | {MANIFEST: signed({"format": 1, "files": []})},
        renamed("../escaped"),
        renamed("/etc/passwd"),
        renamed("blobs/../../escaped"),
        renamed("blobs/sub/folder"),
        renamed("blobs/.hidden"),
        renamed("status.json"),
    ],
)
def test_what_is_no_run_is_refused_and_nothing_is_written(
    tmp_path: Path, change: Callable[[dict[str, bytes]], dict[str, bytes]]
) -> None:
    members = change(as_members(written(tmp_path / "run.tar")))
    (tmp_path / "work").mkdir()
    with pytest.raises(DamagedStore, match="no whole backup"):
        Archive(from_members(tmp_path / "work" / "other.tar", members), silent)
    assert [path.name for path in tmp_path.rglob("*")] in (
        ["run.tar", "work", "other.tar"],
        ["work", "run.tar", "other.tar"],
    )


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_a_member_that_is_no_plain_file_is_refused(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "run.tar", "w") as tar:
        info = tarfile.TarInfo("blobs/model-3.safetensors")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(DamagedStore, match="no file of a run"):
        Archive(tmp_path / "run.tar", silent)


def test_a_name_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    members = as_members(written(tmp_path / "run.tar"))
    with tarfile.open(tmp_path / "run.tar", "w") as tar:
        for name in ("coordinator.sqlite3", *members):
            info = tarfile.TarInfo(name)
            info.size = len(members[name])
            tar.addfile(info, io.BytesIO(members[name]))
    with pytest.raises(DamagedStore, match="no file of a run"):
        Archive(tmp_path / "run.tar", silent)


def test_a_manifest_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MANIFEST_BYTES_MAX", 100)
    with pytest.raises(DamagedStore, match="more than 100 bytes"):
        Archive(written(tmp_path / "run.tar"), silent)


def test_a_file_that_changes_after_it_was_opened_is_not_written(tmp_path: Path) -> None:
    path = written(tmp_path / "run.tar")
    with Archive(path, silent) as found:
        with path.open("r+b") as file:
            file.seek(path.read_bytes().index(b"arrays"))
            file.write(b"others")
        with pytest.raises(DamagedStore, match="changed while"):
            found.unpack(tmp_path / "out", silent)
    assert not (tmp_path / "out" / "blobs" / "model-3.safetensors").exists()


def test_a_compressed_file_is_no_backup_until_it_is_unpacked(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "run.tar.gz", "w:gz"):
        pass
    with pytest.raises(DamagedStore, match="no whole backup"):
        Archive(tmp_path / "run.tar.gz", silent)
