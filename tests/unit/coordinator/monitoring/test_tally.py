"""The counts of a coordinator, for another process to read."""

from pathlib import Path

from coordinator.monitoring.tally import PAUSE_S, TALLY, Tally, read_tally


def test_what_was_counted_is_read_back(tmp_path: Path) -> None:
    Tally(tmp_path, {"messages_refused": 2}).look(10.0)
    assert read_tally(tmp_path) == {"messages_refused": 2}


def test_changes_in_quick_succession_are_written_once(tmp_path: Path) -> None:
    counters = {"declines": 1}
    tally = Tally(tmp_path, counters)
    tally.look(10.0)
    assert tally.due() is None
    counters["declines"] = 2
    tally.look(10.0 + PAUSE_S / 2)
    assert (read_tally(tmp_path), tally.due()) == ({"declines": 1}, 10.0 + PAUSE_S)
    tally.look(10.0 + PAUSE_S)
    assert read_tally(tmp_path) == {"declines": 2}


def test_a_count_that_does_not_change_costs_no_write(tmp_path: Path) -> None:
    tally = Tally(tmp_path, {"declines": 1})
    tally.look(10.0)
    (tmp_path / TALLY).unlink()
    tally.look(20.0)
    assert read_tally(tmp_path) == {}


def test_a_disk_that_is_full_or_a_file_that_is_damaged_is_borne(tmp_path: Path) -> None:
    Tally(tmp_path / "absent", {"declines": 1}).write()
    for text in ("", "[]", "{}", '{"counters": 3}', '{"counters": {"x": "y"}}'):
        (tmp_path / TALLY).write_text(text)
        assert read_tally(tmp_path) == {}
