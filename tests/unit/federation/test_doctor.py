"""Findings are told for people: a line, its remedy below, and no wider than the terminal."""

import json
import os
import re
from pathlib import Path

import pytest

from federation.doctor import Finding, failed, is_outdated, is_patched, judge_refusal, passed, said_by, tell
from federation.runtime.visit import Seen

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


def test_a_refused_connection_has_the_remedy_of_what_refused_it() -> None:
    found = judge_refusal(Seen(reason="refused", remedy="use another broker"), with_certificate=False)
    assert (found.detail, found.remedy) == ("refused", "use another broker")
    assert "password_file" in judge_refusal(Seen(), with_certificate=False).remedy
    assert "tls_certificate" in judge_refusal(Seen(), with_certificate=True).remedy


def test_the_systems_error_is_told_without_its_number() -> None:
    assert said_by(OSError(5, "Input/output error")) == "Input/output error"
    assert said_by(OSError("timed out")) == "timed out"


@pytest.mark.parametrize(
    ("said", "outdated"),
    [
        ("mosquitto version 2.0.11", True),
        ("mosquitto version 2.0.20", True),
        ("mosquitto version 2.0.21", False),
        ("mosquitto version 2.1.0", False),
        ("another broker", False),
    ],
)
def test_a_mosquitto_without_its_published_security_fixes_is_outdated(said: str, outdated: bool) -> None:
    assert is_outdated(said) is outdated


@pytest.mark.parametrize(
    ("package", "patched"),
    [
        ("2.0.11-1.2+deb12u1", False),
        ("2.0.11-1.2+deb12u2", True),
        ("2.0.11-1.2+deb12u10", True),
        ("2.0.11-1ubuntu1", False),
        ("", False),
    ],
)
def test_a_package_may_have_the_fixes_under_an_older_number(package: str, patched: bool) -> None:
    assert is_patched(package) is patched


def test_setup_knows_the_same_releases_as_the_doctor() -> None:
    script = (Path(__file__).parents[3] / "deploy" / "setup.sh").read_text(encoding="utf-8")
    (secure,) = re.findall(r"^secure=(.*)$", script, re.MULTILINE)
    (patched,) = re.findall(r"^patched=(.*)$", script, re.MULTILINE)
    assert not is_outdated(secure)
    assert is_patched(f"{patched}2")
    assert not is_patched(f"{patched}1")
