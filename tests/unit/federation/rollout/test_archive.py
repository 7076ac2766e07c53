"""An archive that could harm the disk is refused before a byte of it is written (FED-243)."""

import io
import random
import stat
import struct
import zipfile
from pathlib import Path

import pytest

from federation.errors import ConfigError
from federation.identity.task_release import ARCHIVE_BYTES_MAX
from federation.rollout.archive import ENTRIES_MAX, UNPACKED_BYTES_MAX, check_archive, pack, unpack


def zipped(*entries: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED, mode: int = stat.S_IFREG | 0o644) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", method) as archive:
        for name, body in entries:
            entry = zipfile.ZipInfo(name)
            entry.external_attr, entry.compress_type = mode << 16, method
            archive.writestr(entry, body)
    return written.getvalue()


def folder(root: Path) -> Path:
    (root / "pumps" / "__pycache__").mkdir(parents=True)
    (root / "pumps" / "task.py").write_text("def build(context): ...\n")
    (root / "pumps" / "__pycache__" / "task.pyc").write_bytes(b"x")
    (root / ".git").mkdir()
    (root / ".git" / "config").write_text("secret")
    (root / ".env").write_text("secret")
    (root / "columns.json").write_text("{}")
    return root


def test_a_folder_comes_back_as_it_was_without_what_is_hidden(tmp_path: Path) -> None:
    body = pack(folder(tmp_path / "one"))
    unpack(body, tmp_path / "two")
    assert {one.relative_to(tmp_path / "two").as_posix() for one in (tmp_path / "two").rglob("*") if one.is_file()} == {
        "pumps/task.py",
        "columns.json",
    }
    assert check_archive(body) == {"pumps/task.py", "columns.json"}
    assert (tmp_path / "two" / "pumps" / "task.py").read_text() == "def build(context): ...\n"
    assert pack(tmp_path / "one") == body


def test_one_file_and_a_wheel_are_bundles_too(tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text("x = 1\n")
    assert check_archive(pack(tmp_path / "task.py")) == {"task.py"}
    wheel = tmp_path / "pumps-2-py3-none-any.whl"
    wheel.write_bytes(zipped(("pumps/task.py", b"x"), ("pumps-2.dist-info/METADATA", b"Name: pumps")))
    assert "pumps/task.py" in check_archive(pack(wheel))
    with pytest.raises(ConfigError, match="one kind of machine"):
        pack(tmp_path / "pumps-2-cp311-cp311-linux_x86_64.whl")
    with pytest.raises(ConfigError, match="has no files"):
        pack(tmp_path / "nothing")


@pytest.mark.parametrize(
    "name",
    [
        "../task.py",
        "a/../../task.py",
        "/etc/cron.d/x",
        "a//b.py",
        "./b.py",
        ".bashrc",
        "a/.ssh/authorized_keys",
        "a\\b.py",
        "C:x.py",
        "a b.py",
        "task\n.py",
        "é.py",
        "a/b/c/d/e/f/g/h/i.py",
    ],
)
def test_a_name_that_leads_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    body = zipped(("task.py", b"x"), (name, b"y"))
    with pytest.raises(ConfigError, match="has an entry"):
        unpack(body, tmp_path / "into" / "deep")
    assert list(tmp_path.rglob("*.py")) == []


def test_a_name_that_is_cut_at_a_nul_is_refused() -> None:
    body = zipped(("task.pyXa", b"x")).replace(b"task.pyXa", b"task.py\x00a")
    with pytest.raises(ConfigError, match="has an entry"):
        check_archive(body)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_devices_are_refused(kind: int) -> None:
    with pytest.raises(ConfigError, match="neither file nor folder"):
        check_archive(zipped(("task.py", b"/etc/passwd"), mode=kind | 0o777))


def test_two_entries_of_one_name_are_refused() -> None:
    for names in (("task.py", "TASK.py"), ("a", "a/b.py"), ("A", "a/b.py")):
        with pytest.raises(ConfigError, match="one name"):
            check_archive(zipped(*((name, b"x") for name in names)))


def test_other_methods_are_refused() -> None:
    with pytest.raises(ConfigError, match="another way than deflate"):
        check_archive(zipped(("task.py", b"x" * 100), method=zipfile.ZIP_BZIP2))


def test_an_encrypted_entry_is_refused() -> None:
    body = bytearray(zipped(("task.py", b"x")))
    body[body.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(ConfigError, match="encrypted"):
        check_archive(bytes(body))


def test_a_bomb_is_refused_by_what_it_says_and_by_what_it_is(tmp_path: Path) -> None:
    """FED-243."""
    large = bytes(UNPACKED_BYTES_MAX // 2 + 1)
    with pytest.raises(ConfigError, match="larger than"):
        check_archive(zipped(("a", large), ("b", large)))
    lies = bytearray(zipped(("a", bytes(1 << 20))))
    struct.pack_into("<I", lies, lies.index(b"PK\x01\x02") + 24, 10)
    with pytest.raises(ConfigError, match=r"another size|cannot be read"):
        unpack(bytes(lies), tmp_path / "into")
    with pytest.raises(ConfigError, match="entries"):
        check_archive(zipped(*((f"f{number}", b"") for number in range(ENTRIES_MAX + 1))))
    with pytest.raises(ConfigError, match="travel"):
        check_archive(bytes(ARCHIVE_BYTES_MAX + 1))


def test_whatever_is_no_archive_is_refused(tmp_path: Path) -> None:
    """Every prefix, and bytes that were altered: a `ConfigError` or the same files, and nothing beside the folder."""
    body, draw = pack(folder(tmp_path / "one")), random.Random(1)
    for length in range(len(body)):
        with pytest.raises(ConfigError):
            check_archive(body[:length])
    for _ in range(500):
        altered = bytearray(body)
        for _ in range(draw.randint(1, 4)):
            altered[draw.randrange(len(altered))] = draw.randrange(256)
        try:
            unpack(bytes(altered), tmp_path / "two")
        except ConfigError:
            continue
    assert {one.name for one in tmp_path.iterdir()} <= {"one", "two"}
