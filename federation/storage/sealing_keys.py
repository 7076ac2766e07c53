"""The keys of sealing in a state folder: one file that only its owner reads, replaced as a whole.

UTF-8 JSON with ``format`` (``fedmq-sealing-keys``) and ``version`` (1). It is beside the database and not in it: a
backup of a run, and whatever else reads the database, has no key. Who loses the file loses nothing but what is under
way: new keys are made, said under the participant's signature, and used from then on.
"""

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from federation.errors import StorageError
from federation.privacy.boxes import Kem, KeyPair, PublicKey
from federation.storage.folder import write_file
from federation.storage.remedies import remedy_for

__all__ = ["FILE", "ROTATE", "Group", "Pair", "Peer", "SealingKeys", "read_keys", "write_keys"]

FILE = "sealing-keys.json"
"""Its name in the state folder."""

ROTATE = "rotate-key"
"""A file of this name in a coordinator's state folder asks it for another key."""

_BYTES_MAX = 64 << 20
_PRIVATE = 0o600

_Hex = Annotated[str, Field(pattern=r"^(?:[0-9a-f]{2})*\z")]


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Pair(_Stored):
    """One's own key to open boxes with, and when it was made, in seconds of the wall clock."""

    kem: int
    private: _Hex = Field(repr=False)
    made_s: float = 0.0

    @classmethod
    def of(cls, pair: KeyPair, made_s: float = 0.0) -> "Pair":
        """As it is kept."""
        return cls(kem=int(pair.kem), private=pair.private.hex(), made_s=made_s)

    @property
    def pair(self) -> KeyPair:
        """The key."""
        return KeyPair(kem=Kem(self.kem), private=bytes.fromhex(self.private))


class Group(_Stored):
    """A group key and its number."""

    epoch: int
    secret: _Hex = Field(repr=False)


class Peer(_Stored):
    """The key of a run's coordinator, by the start that has said it."""

    run: str
    epoch: int
    start: int
    kem: int
    key: _Hex

    @property
    def public(self) -> PublicKey:
        """The key."""
        return PublicKey(kem=Kem(self.kem), raw=bytes.fromhex(self.key))


class SealingKeys(_Stored):
    """All that one participant keeps.

    Attributes:
        pairs: Its own keys, the newest last.
        groups: The keys of the model's parts, the newest last; a coordinator's.
        nodes: Who was enrolled when this was written; a coordinator's. None: nobody has said it yet.
        peers: The coordinators that were heard, the newest last; a node's.
    """

    format: Literal["fedmq-sealing-keys"] = "fedmq-sealing-keys"
    version: Literal[1] = 1
    pairs: tuple[Pair, ...] = ()
    groups: tuple[Group, ...] = ()
    nodes: tuple[str, ...] | None = None
    peers: tuple[Peer, ...] = ()


def read_keys(folder: Path) -> SealingKeys:
    """What is kept in a state folder; nothing where the file is missing.

    Raises:
        StorageError: It cannot be read, or is damaged.
    """
    path = folder / FILE
    try:
        with path.open("rb") as file:
            _close_to_others(file.fileno())
            found = SealingKeys.model_validate_json(file.read(_BYTES_MAX))
        for pair in found.pairs:
            _ = pair.pair
    except FileNotFoundError:
        return SealingKeys()
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error
    except (ValidationError, ValueError) as error:
        # The library's words repeat what it was given: that is a secret.
        problem = "is damaged, or of a newer release: move it away, and new keys are made"
        raise StorageError(f"{path} {problem}") from error.__cause__
    return found


def write_keys(folder: Path, keys: SealingKeys) -> None:
    """Keep these, durable when this returns.

    Raises:
        StorageError: Nothing has changed.
    """
    path = folder / FILE
    try:
        write_file(path, keys.model_dump_json(indent=1).encode() + b"\n", mode=_PRIVATE)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error}{remedy_for(error, folder)}") from error


def _close_to_others(descriptor: int) -> None:
    """Whoever has copied the folder may have opened it to others."""
    if os.fstat(descriptor).st_mode & 0o077:
        os.fchmod(descriptor, _PRIVATE)
