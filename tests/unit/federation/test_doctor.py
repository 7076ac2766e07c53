"""Findings are told for people: a line, its remedy below, and no wider than the terminal."""

import json
import os

import pytest

from federation.doctor import Finding, failed, judge_refusal, passed, said_by, tell

FOUND = (
    passed("clock", "2026-01-01"),
    failed("broker port", "host:1 does not answer", "see the port and the firewall"),
)


def test_the_remedy_stands_below_what_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert tell(FOUND, as_json=False) == 1
    assert capsys.readouterr().out.splitlines() == [
        "PASS  clock            2026-01-01",
        "FAIL  broker port      host:1 does not answer",
        "                    -> see the port and the firewall",
    ]


def test_a_terminal_gets_whole_words(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((60, 20)))
    said = "one two three four five six seven eight nine ten"
    tell([failed("check", said, said)], as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert [line[23:] for line in lines[1:]] == [
        "eight nine ten",
        "one two three four five six seven",
        "eight nine ten",
    ]


def test_json_has_every_finding(capsys: pytest.CaptureFixture[str]) -> None:
    assert tell(FOUND[:1], as_json=True) == 0
    assert [Finding(**found) for found in json.loads(capsys.readouterr().out)] == [FOUND[0]]


def test_a_refused_connection_has_the_remedy_of_its_credentials() -> None:
    found = judge_refusal("the broker refuses us: Not authorized; check everything", with_certificate=False)
    assert (found.detail, "password_file" in found.remedy) == ("the broker refuses us: Not authorized", True)
    assert "tls_certificate" in judge_refusal("no answer", with_certificate=True).remedy


def test_the_systems_error_is_told_without_its_number() -> None:
    assert said_by(OSError(5, "Input/output error")) == "Input/output error"
    assert said_by(OSError("timed out")) == "timed out"
