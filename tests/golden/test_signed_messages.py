"""The bytes of signed messages under a fixed key: Ed25519 has one signature for each message (FED-75).

Run this file as a script to write the examples of new messages; it never changes a file that exists.
"""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federation.identity.signing_keys import CoordinatorKey, SigningKey, read_public_key
from federation.protocol.signing import Reader, Writer
from federation.protocol.topics import Topics
from federation.types import FederationId, NodeId
from tests.golden.test_messages import EXAMPLES

FOLDER = Path(__file__).parent / "signed_messages"
KEY = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
TOPICS = Topics(FederationId("plant"))
TOPIC_OF = {
    "coordinator_state": TOPICS.coordinator_state,
    "round_announcement": TOPICS.round,
    "applied_receipt": TOPICS.node_command(NodeId("press_01")),
}


def _golden(name: str) -> bytes:
    return bytes.fromhex((FOLDER / f"{name}.hex").read_text(encoding="ascii"))


@pytest.mark.parametrize("name", TOPIC_OF)
def test_a_message_is_signed_with_the_same_bytes_as_ever(name: str) -> None:
    """FED-75."""
    assert Writer(TOPICS, KEY).encode(TOPIC_OF[name], EXAMPLES[name]).hex() == _golden(name).hex()


@pytest.mark.parametrize("name", TOPIC_OF)
def test_a_signature_of_old_is_believed_as_ever(name: str) -> None:
    """FED-75."""
    reader = Reader(TOPICS, CoordinatorKey(read_public_key(KEY.public_pem, source="key")))
    assert reader.decode(TOPIC_OF[name], _golden(name)) == EXAMPLES[name]


def _write_missing() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, topic in TOPIC_OF.items():
        path = FOLDER / f"{name}.hex"
        if not path.exists():
            digits = Writer(TOPICS, KEY).encode(topic, EXAMPLES[name]).hex()
            text = "\n".join(digits[at : at + 96] for at in range(0, len(digits), 96))
            path.write_text(text + "\n", encoding="ascii")


if __name__ == "__main__":
    _write_missing()
