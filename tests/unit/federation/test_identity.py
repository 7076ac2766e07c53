"""Update ids name their round and node, and a wrong setting names its key and source."""

import pytest

from federation.errors import ConfigError, FederationError
from federation.protocol.chunking import payload_digest
from federation.types import DIGEST_BYTES, NodeId, RoundId, update_id


def test_a_node_has_one_update_id_per_round() -> None:
    pairs = [(RoundId(number), NodeId(node)) for number in (1, 11) for node in ("1-a", "a", "-a", "1")]
    assert update_id(*pairs[0]) == "1-1-a"
    assert len({update_id(*pair) for pair in pairs}) == len(pairs)


def test_a_digest_has_sixteen_bytes() -> None:
    assert len(payload_digest(b"")) == DIGEST_BYTES == 16


def test_a_wrong_setting_names_its_key_and_where_it_came_from() -> None:
    error = ConfigError("round.buffer", "needs at least 1", source="FEDMQ_ROUND__BUFFER")
    assert (error.key, error.source) == ("round.buffer", "FEDMQ_ROUND__BUFFER")
    assert str(error) == "round.buffer: needs at least 1 (from FEDMQ_ROUND__BUFFER)"
    with pytest.raises(FederationError):
        raise error
