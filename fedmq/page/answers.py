"""Answers that are made once for each change of the run, and shared by all who ask: encoded, packed, and marked."""

import gzip
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from threading import Lock
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

__all__ = ["Answer", "SharedAnswers", "make_answer"]

PACKED_MIN: Final = 1000
"""Bytes from which an answer is packed."""

LEVEL: Final = 5
GZIP: Final = 31
"""zlib's number for gzip's format with its largest window."""

KEPT_MAX: Final = 32
KEPT_BYTES_MAX: Final = 4 << 20

BODY_MAX: Final = 1 << 16
"""A larger one is kept packed alone, and unpacked for the few who cannot read it so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer, ready to send.

    Attributes:
        mark: What names this content (ETag).
        media_type: What it is.
        body: As it is; empty where only ``packed`` is kept.
        packed: The same by gzip; empty where that is not worth it.
    """

    mark: str
    media_type: str
    body: bytes
    packed: bytes

    def response(self, request: Request) -> Response:
        """For one who asks: nothing where that one has it already."""
        headers = {"etag": self.mark, "vary": "accept-encoding"}
        if self.mark in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        if self.packed and "gzip" in request.headers.get("accept-encoding", ""):
            return Response(self.packed, media_type=self.media_type, headers=headers | {"content-encoding": "gzip"})
        return Response(self.whole(), media_type=self.media_type, headers=headers)

    def whole(self) -> bytes:
        """The body, not packed."""
        return self.body or (gzip.decompress(self.packed) if self.packed else b"")


def make_answer(pieces: Iterable[bytes], mark: str, media_type: str) -> Answer:
    """Pack an answer where that is worth it; a large one is never whole in memory."""
    packer, packed, body, size = zlib.compressobj(LEVEL, wbits=GZIP), bytearray(), bytearray(), 0
    for piece in pieces:
        size += len(piece)
        packed += packer.compress(piece)
        if size <= BODY_MAX:
            body += piece
    packed += packer.flush()
    small, large = size < PACKED_MIN, size > BODY_MAX
    return Answer(
        mark=f'"{mark}"',
        media_type=media_type,
        body=b"" if large else bytes(body),
        packed=b"" if small else bytes(packed),
    )


class SharedAnswers:
    """The newest answers, by what was asked; any thread may ask."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Answer] = OrderedDict()
        self._lock = Lock()

    def known(self, asked: str, mark: str) -> Answer | None:
        """What was made of it, where it is still the same."""
        found = self._kept.get(asked)
        return found if found is not None and found.mark == f'"{mark}"' else None

    def made(self, asked: str, mark: str, media_type: str, make: Callable[[], Iterable[bytes]]) -> Answer:
        """The answer, made by the first who asks; others wait for it.

        Args:
            asked: Path and question.
            mark: What names this state of the run.
            media_type: What ``make`` makes.
            make: Makes the body, piece by piece.
        """
        with self._lock:
            found = self.known(asked, mark)
            if found is None:
                found = self._kept[asked] = make_answer(make(), mark, media_type)
                self._kept.move_to_end(asked)
                while len(self._kept) > 1 and (len(self._kept) > KEPT_MAX or self._bytes() > KEPT_BYTES_MAX):
                    self._kept.popitem(last=False)
        return found

    def _bytes(self) -> int:
        return sum(len(one.body) + len(one.packed) for one in self._kept.values())
