"""The keys of sealing are in one file that nobody else reads, and a damaged one is said."""

from pathlib import Path

import pytest

from federation.errors import StorageError
from federation.privacy.boxes import Kem, KeyPair
from federation.storage.sealing_keys import FILE, Group, Pair, Peer, SealingKeys, read_keys, write_keys


def some_keys() -> SealingKeys:
    pair = KeyPair.make(Kem.X25519)
    return SealingKeys(
        pairs=(Pair.of(pair, 12.5), Pair.of(KeyPair.make(Kem.MLKEM768_X25519))),
        groups=(Group(epoch=4, secret="ab" * 32),),
        nodes=("a", "b"),
        peers=(Peer(run="0" * 16, epoch=1, start=2**64 - 1, kem=0x20, key=pair.public.raw.hex()),),
    )


def test_what_is_written_is_read(tmp_path: Path) -> None:
    keys = some_keys()
    write_keys(tmp_path, keys)
    assert read_keys(tmp_path) == keys
    assert [kept.pair.kem for kept in read_keys(tmp_path).pairs] == [Kem.X25519, Kem.MLKEM768_X25519]
    assert keys.peers[0].public == keys.pairs[0].pair.public
    assert read_keys(tmp_path / "elsewhere") == SealingKeys()


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    write_keys(tmp_path, some_keys())
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
    (tmp_path / FILE).chmod(0o644)  # as a copy of the folder may have left it
    read_keys(tmp_path)
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600


def test_no_secret_is_shown() -> None:
    keys = some_keys()
    shown = repr(keys) + str(keys)
    assert keys.pairs[0].private not in shown
    assert keys.groups[0].secret not in shown


@pytest.mark.parametrize("content", ["", "{}x", '{"format": "another"}', '{"version": 2}', '{"pairs": [{"kem": 32}]}'])
def test_a_damaged_file_says_what_to_do(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(StorageError, match="move it away"):
        read_keys(tmp_path)


def test_a_secret_of_the_wrong_length_is_not_repeated(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"pairs": [{"kem": 32, "private": "deadbeef"}]}')
    with pytest.raises(StorageError, match="move it away") as caught:
        read_keys(tmp_path)
    assert "deadbeef" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_folder_that_cannot_be_read_or_written_says_so(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    with pytest.raises(StorageError, match="cannot be read"):
        read_keys(tmp_path)
    with pytest.raises(StorageError, match="cannot be written"):
        write_keys(tmp_path, SealingKeys())
    assert list((tmp_path / FILE).iterdir()) == []
