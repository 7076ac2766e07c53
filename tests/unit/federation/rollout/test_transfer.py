"""Pieces arrive in any order, and only those that can be; a share only grows (FED-242, FED-243)."""

import hashlib
import random

import pytest

from federation.errors import ConfigError
from federation.identity.task_release import TaskRelease
from federation.protocol.topics import Topics
from federation.rollout.transfer import (
    Collected,
    chunk_filter,
    chunk_topic,
    is_release_topic,
    release_topic,
    takes_part,
    to_chunks,
)
from federation.types import FederationId

TOPICS = Topics(FederationId("plant"))
BODY = random.Random(1).randbytes(5_000)


def release(**changed: object) -> TaskRelease:
    fields = {
        "federation": "plant",
        "number": 3,
        "task": "task.py:build",
        "sha256": hashlib.sha256(BODY).hexdigest(),
        "archive_bytes": len(BODY),
        "chunk_bytes": 1_024,
    }
    return TaskRelease.model_validate({**fields, **changed})


def test_the_topics_are_where_nodes_may_read_and_the_coordinator_may_write() -> None:
    """FED-243: ``model/+/+/+`` is in the access rules of every release."""
    name = release().name
    for topic in (release_topic(TOPICS), chunk_topic(TOPICS, name, 4)):
        levels = topic.split("/")
        assert (levels[:3], len(levels)) == (["fl", "plant", "model"], 6)
        assert is_release_topic(TOPICS, topic)
    assert chunk_filter(TOPICS, name) == f"fl/plant/model/task/{name}/+"
    assert not is_release_topic(TOPICS, TOPICS.model_chunk(3, "k0", 0))  # type: ignore[arg-type]


def test_an_archive_is_put_together_in_any_order() -> None:
    about = release()
    pieces = list(enumerate(to_chunks(BODY, about.chunk_bytes)))
    assert len(pieces) == about.chunks == 5
    random.Random(2).shuffle(pieces)
    collected = Collected(TOPICS, about)
    for index, piece in pieces:
        assert not collected.is_whole
        assert collected.take(chunk_topic(TOPICS, about.name, index), piece)
        assert collected.take(chunk_topic(TOPICS, about.name, index), piece)  # QoS 1
    assert collected.is_whole
    assert collected.archive() == BODY


def test_a_piece_that_cannot_be_one_is_left_out() -> None:
    about = release()
    collected = Collected(TOPICS, about)
    for topic, body in (
        (chunk_topic(TOPICS, about.name, 5), b"x" * 904),
        (chunk_topic(TOPICS, about.name, 0), b"x" * 1_023),
        (chunk_topic(TOPICS, about.name, 4), b"x" * 1_024),
        (chunk_topic(TOPICS, "3-0000000000000000", 0), b"x" * 1_024),
        (f"fl/plant/model/task/{about.name}/00", b"x" * 1_024),
        (f"fl/plant/model/task/{about.name}/-1", b"x" * 1_024),
        (f"fl/plant/model/task/{about.name}/0/1", b"x" * 1_024),
        (f"fl/mill/model/task/{about.name}/0", b"x" * 1_024),
        (release_topic(TOPICS), b"x" * 1_024),
        (chunk_topic(TOPICS, about.name, 0), b""),
    ):
        assert not collected.take(topic, body), topic


def test_an_archive_that_was_altered_is_refused() -> None:
    about = release()
    collected = Collected(TOPICS, about)
    for index, piece in enumerate(to_chunks(BODY[:-1] + b"?", about.chunk_bytes)):
        collected.take(chunk_topic(TOPICS, about.name, index), piece)
    with pytest.raises(ConfigError, match="not the one that was signed"):
        collected.archive()


def test_a_share_asks_about_so_many_and_a_larger_one_only_adds() -> None:
    """FED-242."""
    nodes = [f"edge-{number}" for number in range(2_000)]
    small, large, everybody, next_one = (
        {node for node in nodes if takes_part(release(share=share, number=number), node)}
        for share, number in ((0.1, 3), (0.5, 3), (1.0, 3), (0.1, 4))
    )
    assert small < large < everybody == {*nodes}
    assert 150 < len(small) < 250
    assert 900 < len(large) < 1_100
    assert small != next_one
    # What other implementations compute.
    digest = hashlib.blake2b(b"plant/3/edge-7", digest_size=8, person=b"fedmq-task-share").digest()
    assert ("edge-7" in large) is (int.from_bytes(digest, "big") < 2**63)
