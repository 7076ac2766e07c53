"""``coordinator backup`` and ``restore``: what they print, and their exit codes."""

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from coordinator.backup import cli
from coordinator.cli import main, make_app
from coordinator.storage.files import BLOBS
from coordinator.storage.restoring import EPOCHS, ROUNDS
from coordinator.storage.sqlite_store import SqliteStore
from federation.errors import StorageError
from federation.testing import FakeClock
from tests.rigs.gateway_rig import GATEWAY, Rig
from tests.rigs.model_values import arrived, initialised, update


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose only update is in a file."""
    monkeypatch.setattr("coordinator.storage.sqlite_store.INLINE_BYTES_MAX", 10)
    store = SqliteStore(tmp_path / "state")
    initialised(store)
    store.save_task("digits")
    sent = arrived("ann", update(0.5))
    store.save_update(sent.record, sent.payload)
    store.close()
    return tmp_path / "state"


class Told:
    """What a command said."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> "Teller":
    return Teller(monkeypatch, capsys)


class Teller:
    """Runs the command line as a person would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *arguments: str | Path) -> Told:
        """One command."""
        self._monkeypatch.setattr(sys, "argv", ["coordinator", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = self._capsys.readouterr()
        return Told(int(ended.value.code or 0), out, err)


def test_a_backup_and_a_restore_say_what_they_have_made(told: Teller, state: Path, tmp_path: Path) -> None:
    run = SqliteStore(state)
    run.close()
    made = told("backup", tmp_path / "run.tar", "--state", state)
    assert (made.code, made.err) == (0, "")
    assert f"run {run.run}: version 0, 1 update for the next one written to {tmp_path / 'run.tar'} (" in made.out
    restored = told("restore", tmp_path / "run.tar", "--state", tmp_path / "again")
    assert (restored.code, restored.err) == (0, "")
    assert f"run {run.run} goes on in {tmp_path / 'again'} from version 0, 1 update" in restored.out
    assert f"its epochs are above {2 + EPOCHS}, its rounds begin at {ROUNDS}" in restored.out
    anew = told("restore", tmp_path / "run.tar", "--state", tmp_path / "anew", "--new-run")
    assert f"its version 0 is version 0 of run {run.run}" in anew.out


def test_both_are_json_for_programs(told: Teller, state: Path, tmp_path: Path) -> None:
    made = json.loads(told("backup", tmp_path / "run.tar", "--state", state, "--json").out)
    assert (made["version"], made["waiting"], made["task"], made["damaged"]) == (0, 1, "digits", [])
    assert made["bytes"] == (tmp_path / "run.tar").stat().st_size
    again = json.loads(told("restore", tmp_path / "run.tar", "--state", tmp_path / "again", "--json").out)
    assert (again["run"], again["restored"]["next_round"], again["missing"]) == (made["run"], ROUNDS, [])
    anew = json.loads(told("restore", tmp_path / "run.tar", "--state", tmp_path / "anew", "--new-run", "--json").out)
    assert (anew["former_run"], anew["restored"]) == (made["run"], None)


def test_the_status_says_that_a_run_was_begun_again(told: Teller, state: Path, tmp_path: Path) -> None:
    assert json.loads(told("status", "--state", state, "--json").out)["restored"] is None
    assert "begun again" not in told("status", "--state", state).out
    told("restore", state, "--state", tmp_path / "again")
    found = json.loads(told("status", "--state", tmp_path / "again", "--json").out)["restored"]
    assert (found["version"], found["first_round"], found["next_round"]) == (0, 0, ROUNDS)
    assert "begun again from a backup at version 0" in told("status", "--state", tmp_path / "again").out


def test_what_is_damaged_or_changed_is_told(told: Teller, state: Path, tmp_path: Path) -> None:
    (state / BLOBS / "update-0-ann.frame").unlink()
    store = SqliteStore(state)
    store._database.execute("UPDATE meta SET value = value + 5 WHERE key = 'epoch'")
    store.close()
    made = told("backup", tmp_path / "run.tar", "--state", state)
    assert (made.code, "update-0-ann.frame is missing or damaged" in made.err) == (0, True)
    restored = told("restore", tmp_path / "run.tar", "--state", tmp_path / "again")
    assert "update-0-ann.frame is not in the backup: it costs its update" in restored.err
    assert "run, epoch or manifest had been changed" in restored.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["backup", "run.tar", "--state", "state"], 2, "is there already"),
        (["backup", "other.tar", "--state", "nowhere"], 3, "has a coordinator run"),
        (["backup", "no/folder.tar", "--state", "state"], 2, "there is no folder"),
        (["restore", "run.tar", "--state", "state"], 2, "is not empty"),
        (["restore", "none.tar", "--state", "again"], 2, "there is no backup"),
        (["restore", "text", "--state", "again"], 3, "no whole backup"),
        (["restore", "run.tar", "--state", "again", "--above", "4294967295"], 3, "--new-run"),
        (["restore", "run.tar", "--state", "again", "--above", "4294967296"], 2, "less than or equal to"),
    ],
)
def test_each_refusal_has_its_exit_code(
    told: Teller,
    state: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("text")
    assert told("backup", "run.tar", "--state", state).code == 0
    refused = told(*arguments)
    assert (refused.code, words in refused.err) == (code, True), refused.err


def test_a_key_that_is_missing_is_told_before_anything_is_written(told: Teller, state: Path, tmp_path: Path) -> None:
    """No node would believe what is begun without it."""
    told("backup", tmp_path / "run.tar", "--state", state)
    config = tmp_path / "coordinator.toml"
    config.write_text(
        '[federation]\nid = "it"\n[broker]\nurl = "mqtt://127.0.0.1"\n'
        f'[security]\nsigning_key = "{tmp_path}/signing.key"\n'
        f'[store]\nfolder = "{tmp_path}/again"\n'
    )
    refused = told("restore", tmp_path / "run.tar", "--config", config)
    assert (refused.code, "signing.key: cannot be read" in refused.err) == (2, True), refused.err
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("terminal", [True, False])
def test_long_work_shows_its_progress(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, terminal: bool
) -> None:
    clock = FakeClock()
    monkeypatch.setattr(cli, "MonotonicClock", lambda: clock)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    hears = cli._Told("verified", 4 << 20)
    hears(1 << 20)
    clock.advance(1.5)
    hears(1 << 20)
    hears(1 << 20)
    said = "verified: 2.0 MiB of 4.0 MiB"
    assert capsys.readouterr().err == (f"\r{said}" if terminal else f"{said}\n")


@pytest.mark.parametrize("words", [("backup", "FILE"), ("restore", "SITE", "--state", "NEW"), ("audit",)])
def test_the_folder_of_a_gateways_site_is_told_as_one(words: tuple[str, ...], tmp_path: Path) -> None:
    """An audit found versions that counted no updates, and a backup was begun again as a run of its own."""
    rig = Rig(tmp_path)
    rig.die()
    site = tmp_path / "site"
    places = {"FILE": str(tmp_path / "b.tar"), "SITE": str(site), "NEW": str(tmp_path / "new")}
    typed = [places.get(word, word) for word in words] + ([] if words[0] == "restore" else ["--state", str(site)])
    found = CliRunner().invoke(make_app(typed), typed)
    assert isinstance(found.exception, StorageError)
    assert f"is of the site of gateway {GATEWAY}, whose versions come from above: " in str(found.exception)
    assert not (tmp_path / "b.tar").exists()
    assert not (tmp_path / "new").exists()
