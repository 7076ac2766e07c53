"""Refused messages are counted by sender and kind, bounded in memory and in writes, and told by ``status``."""

from pathlib import Path

from coordinator.runtime.incidents import OTHERS, SAVE_S, SENDERS_MAX, Incidents, read_incidents


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_first_is_written_at_once_and_a_flood_once_a_second(tmp_path: Path) -> None:
    """FED-18: a flood is no reason to write each time."""
    clock = Clock()
    incidents = Incidents(tmp_path, clock)
    for _ in range(5):
        incidents.count("edge-01", "bad_signature")
    assert read_incidents(tmp_path) == {"edge-01": {"bad_signature": 1}}
    clock.now += SAVE_S
    incidents.settle()
    assert read_incidents(tmp_path) == {"edge-01": {"bad_signature": 5}}
    assert incidents.count("edge-01", "bad_signature") == 6
    incidents.save()
    assert read_incidents(tmp_path) == incidents.counts() == {"edge-01": {"bad_signature": 6}}


def test_counts_go_on_after_a_restart(tmp_path: Path) -> None:
    Incidents(tmp_path).count("edge-01", "malformed")
    assert Incidents(tmp_path).count("edge-01", "malformed") == 2


def test_invented_names_do_not_fill_the_memory() -> None:
    incidents = Incidents()
    for number in range(SENDERS_MAX + 50):
        incidents.count(f"forged-{number}", "bad_signature")
    counts = incidents.counts()
    assert len(counts) == SENDERS_MAX + 1
    assert counts[OTHERS] == {"bad_signature": 50}


def test_a_missing_or_damaged_file_says_nothing(tmp_path: Path) -> None:
    assert read_incidents(tmp_path) == {}
    for text in ("damaged", "[]", '{"a": 1}', '{"a": {"b": "x"}}'):
        (tmp_path / "incidents.json").write_text(text)
        assert read_incidents(tmp_path) == {}


def test_a_folder_that_cannot_be_written_costs_nothing_but_the_file(tmp_path: Path) -> None:
    incidents = Incidents(tmp_path / "missing")
    assert incidents.count("edge-01", "malformed") == 1
