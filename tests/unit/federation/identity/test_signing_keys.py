"""Keys sign and verify; the file of the nodes' keys is followed while it is whole."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import ConfigError
from federation.identity.certificates import key_text, new_key
from federation.identity.signing_keys import (
    KEYS_PER_NODE_MAX,
    CoordinatorKey,
    NodeKeys,
    SigningKey,
    node_keys_text,
    read_coordinator_key,
    read_public_key,
    read_signing_key,
    read_trust,
)
from federation.types import NodeId

ONE, TWO = SigningKey.new(), SigningKey.new()
NODE, OTHER = NodeId("edge-01"), NodeId("edge-02")
DIGEST = bytes(range(64))


def pinned(key: SigningKey) -> CoordinatorKey:
    return CoordinatorKey(read_public_key(key.public_pem, source="key"))


def test_a_pinned_key_knows_its_owner_and_nobody_else() -> None:
    """FED-76."""
    assert pinned(ONE).verify(None, DIGEST, ONE.sign(DIGEST))
    assert not pinned(ONE).verify(None, DIGEST, TWO.sign(DIGEST))
    assert not pinned(ONE).verify(None, DIGEST[::-1], ONE.sign(DIGEST))
    assert not pinned(ONE).verify(NODE, DIGEST, ONE.sign(DIGEST))


@given(st.binary(max_size=80))
def test_no_bytes_are_a_signature_or_an_exception(signature: bytes) -> None:
    assert not pinned(ONE).verify(None, DIGEST, signature)


def test_a_key_is_read_as_it_was_written() -> None:
    assert read_signing_key(ONE.pem, source="key").public_hex == ONE.public_hex
    assert bytes.fromhex(ONE.public_hex) == read_public_key(ONE.public_pem, source="key").public_bytes_raw()


@pytest.mark.parametrize(
    "text",
    ["", "x", TWO.public_pem, key_text(new_key()), TWO.pem[:60]],
    ids=["empty", "text", "public", "other kind", "prefix"],
)
def test_what_is_no_key_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_signing_key(text, source="signing.key")
    assert "BEGIN" not in str(caught.value)
    with pytest.raises(ConfigError):
        read_public_key(text if text != TWO.public_pem else TWO.pem, source="key")


def test_the_nodes_keys_are_followed_while_the_coordinator_runs(tmp_path: Path) -> None:
    """FED-76: a node that is enrolled meanwhile is heard, one that is revoked is not."""
    path = tmp_path / "nodes.json"
    path.write_text(node_keys_text({}))
    keys = NodeKeys(path)
    assert not keys.verify(NODE, DIGEST, ONE.sign(DIGEST))
    path.write_text(node_keys_text({NODE: [TWO.public_hex, ONE.public_hex]}))
    assert keys.verify(NODE, DIGEST, ONE.sign(DIGEST))
    assert keys.verify(NODE, DIGEST, TWO.sign(DIGEST))
    assert not keys.verify(OTHER, DIGEST, ONE.sign(DIGEST))
    assert not keys.verify(None, DIGEST, ONE.sign(DIGEST))
    path.write_text("damaged")
    assert keys.verify(NODE, DIGEST, ONE.sign(DIGEST))
    path.unlink()
    assert keys.verify(NODE, DIGEST, ONE.sign(DIGEST))
    path.write_text(node_keys_text({OTHER: [ONE.public_hex]}))
    assert not keys.verify(NODE, DIGEST, ONE.sign(DIGEST))


@pytest.mark.parametrize(
    "members",
    [{"format": "other"}, {"version": 2}, {"more": 1}, {"nodes": {"a/b": []}}, {"nodes": {"a": ["zz"]}}, {"nodes": []}],
)
def test_a_damaged_file_is_refused_at_the_start(tmp_path: Path, members: dict[str, object]) -> None:
    path = tmp_path / "nodes.json"
    path.write_text(json.dumps(json.loads(node_keys_text({NODE: [ONE.public_hex]})) | members))
    with pytest.raises(ConfigError, match=r"nodes\.json"):
        NodeKeys(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        NodeKeys(tmp_path / "missing.json")


def test_the_newest_keys_of_a_node_are_kept(tmp_path: Path) -> None:
    listed = [f"{number:064x}" for number in range(KEYS_PER_NODE_MAX + 3)]
    kept = json.loads(node_keys_text({NODE: listed}))["nodes"][NODE]
    assert kept == listed[3:]


def test_a_role_gets_the_keys_that_its_settings_name(tmp_path: Path) -> None:
    own, pin = tmp_path / "signing.key", tmp_path / "coordinator.pub"
    own.write_text(ONE.pem)
    pin.write_text(TWO.public_pem)
    trust = read_trust(own, pin, read_coordinator_key)
    assert trust.signer is not None
    assert trust.verifier is not None
    assert pinned(ONE).verify(None, DIGEST, trust.signer.sign(DIGEST))
    assert trust.verifier.verify(None, DIGEST, TWO.sign(DIGEST))
    nothing = read_trust(None, None, read_coordinator_key)
    assert (nothing.signer, nothing.verifier) == (None, None)
    with pytest.raises(ConfigError):
        read_trust(tmp_path / "missing", None, read_coordinator_key)
