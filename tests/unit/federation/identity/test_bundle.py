"""An enrolment file is read as it was written, and every other text is refused with a reason."""

import datetime as dt
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import ConfigError
from federation.identity.bundle import (
    BUNDLE_BYTES_MAX,
    TASK_FILE_BYTES_MAX,
    Bundle,
    decode_bundle,
    encode_bundle,
    proposed_helpers,
)
from federation.identity.certificates import Purpose, new_authority, new_identity
from federation.identity.signing_keys import SigningKey

NOW = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
AUTHORITY = new_authority("ours", now=NOW)
NODE = new_identity(AUTHORITY, "edge-01", purpose=Purpose.CLIENT, now=NOW)
COORDINATOR = SigningKey.new()
BUNDLE = Bundle(
    federation="plant",
    node="edge-01",
    broker_url="mqtts://broker.example:8883",
    task="digits",
    authority=AUTHORITY.certificate_pem,
    certificate=NODE.certificate_pem,
    coordinator_key=COORDINATOR.public_pem,
    key=NODE.key_pem,
    signing_key=SigningKey.new().pem,
)
TEXT = encode_bundle(BUNDLE)


def changed(**members: object) -> str:
    return json.dumps(json.loads(TEXT) | members)


def test_it_is_read_as_it_was_written() -> None:
    assert decode_bundle(TEXT, now=NOW) == BUNDLE


def test_a_file_without_keys_is_for_a_device_that_has_them() -> None:
    assert decode_bundle(changed(key=None, signing_key=None), now=NOW).key is None


def test_its_key_does_not_show_in_logs() -> None:
    assert "PRIVATE" not in repr(BUNDLE)


@given(st.integers(0, len(TEXT) - 2))
def test_every_prefix_is_refused(length: int) -> None:
    with pytest.raises(ConfigError):
        decode_bundle(TEXT[:length], now=NOW)


@given(st.text(max_size=200) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        decode_bundle(text, now=NOW)


@pytest.mark.parametrize(
    "members",
    [
        {"format": "other"},
        {"version": 1},
        {"version": "1"},
        {"more": 1},
        {"node": "edge-02"},
        {"node": "edge-01\n"},
        {"node": "../edge-01"},
        {"federation": "a/b"},
        {"federation": "+"},
        {"broker_url": "mqtt://broker.example"},
        {"broker_url": "mqtts://user:secret@broker.example"},
        {"broker_url": 'mqtts://h"\nkey = 1'},
        {"broker_url": "mqtts://h:0"},
        {"task": "task.py:build"},
        {"task": "package.module:build"},
        {"authority": NODE.certificate_pem},
        {"certificate": AUTHORITY.certificate_pem},
        {"key": AUTHORITY.key_pem},
        {"key": None},
        {"signing_key": None},
        {"signing_key": NODE.key_pem},
        {"coordinator_key": NODE.certificate_pem},
        {"coordinator_key": None},
    ],
    ids=lambda members: str(members)[:40],
)
def test_a_member_that_is_not_what_it_must_be_is_refused(members: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        decode_bundle(changed(**members), now=NOW)
    assert "PRIVATE KEY" not in str(caught.value)


def test_a_large_or_deep_file_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(ConfigError, match="larger than"):
        decode_bundle(" " * BUNDLE_BYTES_MAX + TEXT, now=NOW)
    with pytest.raises(ConfigError, match="recursion"):
        decode_bundle('{"a":' * (BUNDLE_BYTES_MAX // 6), now=NOW)


@pytest.mark.parametrize("text", ["# settings\n[federation]\n", "", "[]", "-----BEGIN CERTIFICATE-----"])
def test_a_file_that_is_none_is_told_who_writes_one(text: str) -> None:
    """It was `Invalid JSON: expected value at line 1 column 1`."""
    with pytest.raises(ConfigError, match=r"coordinator enroll DIR NODE writes one, DIR/enrolled/NODE\.fedmq"):
        decode_bundle(text, now=NOW)


def test_an_old_file_asks_for_a_new_one() -> None:
    with pytest.raises(ConfigError, match="ask for a new enrolment file"):
        decode_bundle(TEXT, now=NOW + dt.timedelta(days=366))


# Not drawn: a name of a test must be the same in every process.
KEYS = tuple(SigningKey(Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)) for number in (1, 2))
HELPERS = tuple(f"box_{index}={key.public_hex}" for index, key in enumerate(KEYS))


def test_a_proposal_of_helpers_is_version_3_and_without_one_it_is_version_2() -> None:
    """Earlier releases read version 2, and nothing else."""
    assert json.loads(TEXT)["version"] == 2
    assert "helpers" not in json.loads(TEXT)
    proposing = BUNDLE.model_copy(update={"helpers": HELPERS, "version": 3})
    found = decode_bundle(encode_bundle(proposing), now=NOW)
    assert found == proposing
    assert {str(one) for one in proposed_helpers(found)} == set(HELPERS)


@pytest.mark.parametrize(
    "members",
    [
        {"version": 3},
        {"version": 3, "helpers": []},
        {"version": 2, "helpers": list(HELPERS)},
        {"version": 3, "helpers": ["box"]},
        {"version": 3, "helpers": [HELPERS[0], HELPERS[0]]},
        {"version": 3, "helpers": [f"box_{index}={index:064x}" for index in range(8)]},
        {"version": 4},
    ],
    ids=str,
)
def test_a_proposal_that_is_none_is_refused(members: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        decode_bundle(changed(**members), now=NOW)


SOURCE = "def build(context): ...\n"
PACKED = encode_bundle(BUNDLE.model_copy(update={"task": "my_task.py:build", "files": {"my_task.py": SOURCE}}))


def packed(**members: object) -> str:
    return json.dumps(json.loads(PACKED) | members)


def test_a_packed_task_is_read_as_it_was_written_and_makes_version_4() -> None:
    found = decode_bundle(PACKED, now=NOW)
    assert (found.version, found.task, dict(found.files)) == (4, "my_task.py:build", {"my_task.py": SOURCE})
    assert SOURCE not in repr(found)
    assert '"files"' not in TEXT


@pytest.mark.parametrize(
    "members",
    [
        {"files": {}},
        {"version": 2},
        {"version": 3},
        {"task": None},
        {"task": "digits"},
        {"task": "other.py:build"},
        {"task": "my_task.py:"},
        {"task": "my_task.py:build()"},
        {"task": "../my_task.py:build"},
        {"files": {"my_task.py": SOURCE, "../escaped.py": SOURCE}},
        {"files": {"my_task.py": SOURCE, "/etc/cron.d/x.py": SOURCE}},
        {"files": {"my_task.py": SOURCE, "a/b.py": SOURCE}},
        {"files": {"my_task.py": SOURCE, "..": SOURCE}},
        {"files": {"my_task.py": SOURCE, "x.sh": SOURCE}},
        {"files": {"my_task.py": SOURCE, "x.py\n": SOURCE}},
        {"files": {"my_task.py": SOURCE, "x" * 65 + ".py": SOURCE}},
        {"files": {"my_task.py": 1}},
        {"files": {"my_task.py": None}},
        {"files": [SOURCE]},
        {"files": {"my_task.py": "x" * (TASK_FILE_BYTES_MAX + 1)}},
        {"files": {"my_task.py": SOURCE} | {f"m{n}.py": SOURCE for n in range(16)}},
        {"files": {f"m{n}.py": "x" * TASK_FILE_BYTES_MAX for n in range(4)} | {"my_task.py": SOURCE}},
    ],
    ids=lambda members: str(members)[:40],
)
def test_a_packed_task_with_anything_else_is_refused(members: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        decode_bundle(packed(**members), now=NOW)


def test_a_name_that_is_none_is_refused_without_files_too() -> None:
    for task in ("my_task.py:build", "a b", "", "x" * 65, "../x"):
        with pytest.raises(ConfigError):
            decode_bundle(changed(task=task), now=NOW)


def test_a_packed_file_whose_certificate_has_ended_is_refused() -> None:
    with pytest.raises(ConfigError):
        decode_bundle(PACKED, now=NOW + dt.timedelta(days=400))


@given(st.integers(0, len(PACKED) - 2))
def test_every_prefix_of_a_packed_file_is_refused(length: int) -> None:
    with pytest.raises(ConfigError):
        decode_bundle(PACKED[:length], now=NOW)


RELEASED = encode_bundle(
    BUNDLE.model_copy(update={"task": "line/my_task.py:build", "release": "{signed}", "archive": "UEsFBg=="})
)


def released(**members: object) -> str:
    return json.dumps(json.loads(RELEASED) | members)


def test_a_released_task_is_read_as_it_was_written_and_makes_version_5() -> None:
    found = decode_bundle(RELEASED, now=NOW)
    assert (found.version, found.task, found.release, found.archive) == (
        5,
        "line/my_task.py:build",
        "{signed}",
        "UEsFBg==",
    )
    assert "UEsFBg==" not in repr(found)
    assert '"release"' not in TEXT
    assert '"release"' not in PACKED


@pytest.mark.parametrize(
    "members",
    [
        {"release": None},
        {"archive": None},
        {"version": 4},
        {"version": 6},
        {"files": {"my_task.py": SOURCE}},
        {"task": None},
        {"task": "digits"},
        {"task": "pumps.task:build"},
        {"task": "../my_task.py:build"},
        {"task": "/etc/my_task.py:build"},
        {"release": "x" * 8_193},
        {"archive": "x" * (6 << 20)},
    ],
    ids=lambda members: str(members)[:40],
)
def test_a_released_task_with_anything_else_is_refused(members: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        decode_bundle(released(**members), now=NOW)
    with pytest.raises(ConfigError):
        decode_bundle(changed(release="{signed}", archive="UEsFBg=="), now=NOW)
