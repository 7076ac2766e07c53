"""Large updates that are still arriving: one file for the chunks and one for their sums, without an fsync per chunk.

Beside every chunk an 8-byte sum is kept. At a restart only chunks whose sum is right count as arrived, so a killed
process loses nothing and a power cut costs sending again what the disk had not kept.
"""

import os
from hashlib import blake2b
from pathlib import Path

from federation.types import UpdateId

__all__ = ["TransferFiles"]

SUM_BYTES = 8


class TransferFiles:
    """One folder of arriving updates.

    Args:
        folder: Where; created when it is missing.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def write(self, update: UpdateId, start: int, index: int, body: bytes) -> None:
        """Keep a chunk that begins at byte ``start``; the sum comes after the body, so a half-written one is no chunk.

        Raises:
            OSError: The disk is full or broken.
        """
        _write_at(self._body(update), start, body)
        _write_at(self._sums(update), index * SUM_BYTES, _sum(body))

    def arrived(self, update: UpdateId, payload_bytes: int, chunk_bytes: int) -> frozenset[int]:
        """Which chunks are here and whole."""
        try:
            sums = Path(self._sums(update)).read_bytes()
            with Path(self._body(update)).open("rb") as file:
                chunks = -(-payload_bytes // chunk_bytes)
                return frozenset(
                    index
                    for index in range(chunks)
                    if _sum(file.read(min(chunk_bytes, payload_bytes - index * chunk_bytes)))
                    == sums[index * SUM_BYTES : (index + 1) * SUM_BYTES]
                )
        except OSError:
            return frozenset()

    def read(self, update: UpdateId) -> bytes:
        """Everything that has arrived; raises `OSError` when there is nothing."""
        return Path(self._body(update)).read_bytes()

    def delete(self, update: UpdateId) -> None:
        """Remove what there is."""
        for file in (self._body(update), self._sums(update)):
            Path(file).unlink(missing_ok=True)

    def clear_all_but(self, updates: frozenset[UpdateId]) -> None:
        """Remove what belongs to no open transfer."""
        kept = {file for update in updates for file in (self._body(update), self._sums(update))}
        for entry in os.scandir(self._folder):
            if entry.path not in kept:
                Path(entry.path).unlink(missing_ok=True)

    def _body(self, update: UpdateId) -> str:
        return f"{self._folder}/{update}.chunks"

    def _sums(self, update: UpdateId) -> str:
        return f"{self._folder}/{update}.sums"


def _sum(body: bytes) -> bytes:
    return blake2b(body, digest_size=SUM_BYTES).digest()


def _write_at(path: str, offset: int, body: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        written = 0
        while written < len(body):
            written += os.pwrite(handle, body[written:], offset + written)
    finally:
        os.close(handle)
