"""A release is what the authority has signed, for this federation, and nothing else (FED-240)."""

import datetime as dt
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from federation.errors import ConfigError
from federation.identity.certificates import Purpose, new_authority, new_identity
from federation.identity.task_release import (
    RELEASE_BYTES_MAX,
    TaskRelease,
    read_release,
    sign_release,
    unverified_release,
)

NOW = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
AUTHORITY = new_authority("plant", now=NOW)
RELEASE = TaskRelease(
    federation="plant", number=3, task="pumps/task.py:build", sha256="ab" * 32, archive_bytes=5_000, chunk_bytes=2_048
)
TEXT = sign_release(RELEASE, AUTHORITY)


def read(text: str, federation: str = "plant") -> TaskRelease:
    return read_release(text, AUTHORITY.certificate_pem, federation=federation)


def test_what_was_signed_is_read_back() -> None:
    assert read(TEXT) == unverified_release(TEXT) == RELEASE
    assert (RELEASE.chunks, RELEASE.name, RELEASE.order) == (3, "3-abababababababab", (3, 0))


def test_another_authority_a_node_and_another_federation_are_refused() -> None:
    node = new_identity(AUTHORITY, "edge-01", purpose=Purpose.CLIENT, now=NOW)
    for signer in (new_authority("plant", now=NOW), node):
        with pytest.raises(ConfigError, match="authority has not signed it"):
            read(sign_release(RELEASE, signer))
    with pytest.raises(ConfigError, match="for the federation plant, and this is mill"):
        read(TEXT, "mill")


def test_a_statement_that_was_altered_is_refused() -> None:
    outer = json.loads(TEXT)
    for old, new in (('"share":1.0', '"share":0.5'), ('"number":3', '"number":4'), ("build", "bad")):
        altered = json.dumps(outer | {"statement": outer["statement"].replace(old, new)})
        assert altered != json.dumps(outer)
        with pytest.raises(ConfigError, match="has not signed it"):
            read(altered)


@given(st.integers(0, len(TEXT) - 2))
def test_every_prefix_is_refused(length: int) -> None:
    with pytest.raises(ConfigError):
        read(TEXT[:length])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "null",
        "x" * (RELEASE_BYTES_MAX + 1),
        TEXT.replace('"signature"', '"more":1,"signature"'),
        "\x00",
    ],
    ids=["empty", "no fields", "a list", "null", "too long", "one field more", "no JSON"],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        read(text)


@pytest.mark.parametrize(
    "changed",
    [
        {"number": 0},
        {"step": -1},
        {"share": 0.0},
        {"share": 1.5},
        {"archive_bytes": (4 << 20) + 1},
        {"chunk_bytes": 100},
        {"sha256": "AB" * 32},
        {"task": "../task.py:build"},
        {"task": "/etc/task.py:build"},
        {"task": "task.py"},
        {"task": "os.system:x;y"},
        {"task": "digits"},
        {"federation": "a/b"},
    ],
)
def test_a_statement_has_limits(changed: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TaskRelease.model_validate({**RELEASE.model_dump(), **changed})


@pytest.mark.parametrize("task", ["task.py:build", "a/b/task.py:f", "pumps.task:build", "pumps:build"])
def test_a_task_is_a_file_or_a_module(task: str) -> None:
    assert TaskRelease.model_validate({**RELEASE.model_dump(), "task": task}).task == task
