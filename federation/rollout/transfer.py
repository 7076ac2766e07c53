"""Where a release lies at the broker, in which pieces, and which nodes it is for (PROTOCOL.md, FED-240 to FED-243).

The topics are below ``model/``, where every access rule lets nodes read and the coordinator write.
"""

import hashlib
import re
from collections.abc import Iterator
from typing import Final

from federation.errors import ConfigError
from federation.identity.task_release import TaskRelease
from federation.protocol.topics import Topics

__all__ = ["Collected", "chunk_filter", "chunk_topic", "is_release_topic", "release_topic", "takes_part", "to_chunks"]

_BRANCH: Final = "model/task"
_LEVELS = re.compile(r"([1-9][0-9]{0,9}-[0-9a-f]{16})/(0|[1-9][0-9]{0,4})", re.ASCII)
_HASH_RANGE: Final = 2**64


def release_topic(topics: Topics) -> str:
    """Retained: the newest signed release."""
    return f"{topics.root}/{topics.federation}/{_BRANCH}/release/0"


def chunk_topic(topics: Topics, name: str, index: int) -> str:
    """Retained: one piece of a release's archive."""
    return f"{topics.root}/{topics.federation}/{_BRANCH}/{name}/{index}"


def chunk_filter(topics: Topics, name: str) -> str:
    """The filter that pulls all pieces of one release."""
    return f"{topics.root}/{topics.federation}/{_BRANCH}/{name}/+"


def is_release_topic(topics: Topics, topic: str) -> bool:
    """Whether a topic is of this module."""
    return topic.startswith(f"{topics.root}/{topics.federation}/{_BRANCH}/")


def to_chunks(body: bytes, chunk_bytes: int) -> Iterator[bytes]:
    """An archive in pieces of ``chunk_bytes``; the last one may be smaller."""
    return (body[at : at + chunk_bytes] for at in range(0, len(body), chunk_bytes))


def takes_part(release: TaskRelease, node: str) -> bool:
    """Whether a release is for a node: a growing share only ever adds nodes, and each release draws anew."""
    name = f"{release.federation}/{release.number}/{node}".encode()
    drawn = int.from_bytes(hashlib.blake2b(name, digest_size=8, person=b"fedmq-task-share").digest(), "big")
    return release.share >= 1 or drawn < release.share * _HASH_RANGE


class Collected:
    """The pieces of one archive as they arrive, in any order, each as long as it must be.

    Args:
        topics: The federation's tree.
        release: Whose pieces.
    """

    def __init__(self, topics: Topics, release: TaskRelease) -> None:
        self.release = release
        self._prefix = release_topic(topics).removesuffix("release/0")
        self._pieces: dict[int, bytes] = {}

    def take(self, topic: str, body: bytes) -> bool:
        """Keep a piece; whether it is one of this archive, of the size that it must have."""
        found = _LEVELS.fullmatch(topic.removeprefix(self._prefix))
        if found is None or found[1] != self.release.name:
            return False
        index = int(found[2])
        least = min(self.release.chunk_bytes, self.release.archive_bytes - index * self.release.chunk_bytes)
        if index >= self.release.chunks or len(body) != least:
            return False
        self._pieces[index] = body
        return True

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing."""
        return len(self._pieces) == self.release.chunks

    def archive(self) -> bytes:
        """The whole archive.

        Raises:
            ConfigError: It is not the one that was signed.
        """
        body = b"".join(self._pieces[index] for index in sorted(self._pieces))
        if hashlib.sha256(body).hexdigest() != self.release.sha256:
            raise ConfigError("task release", "the archive at the broker is not the one that was signed")
        return body
