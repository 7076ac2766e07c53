"""``make jobs``: what a row says, where the table goes, and that every job's page entry is there."""

import json
from pathlib import Path

import pytest

from benchmarks.jobs.__main__ import ORDER, main
from benchmarks.jobs.row import Row, as_markdown, keep, kept_rows
from benchmarks.table import put_between

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "jobs.md"
BEGIN, END = "<!-- jobs: begin -->\n", "<!-- jobs: end -->\n"


def row(figure: float, *, at_least: bool = True) -> Row:
    return Row(job="J9", model="m", setting="s", ran="simulator", figure=figure, unit=" %", bar=50.0, at_least=at_least)


def test_a_row_says_whether_its_bar_is_met() -> None:
    assert (row(50.0).reached, row(49.9).reached) == (True, False)
    assert (row(50.0, at_least=False).reached, row(50.1, at_least=False).reached) == (True, False)
    assert "**missed**" in as_markdown([row(1.0)])
    assert "≥ 50 %" in row(1.0).cells()


def test_the_table_replaces_the_one_before_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "jobs.md"
    page.write_text(f"# Jobs\n\n{BEGIN}old\n{END}\nmore\n")
    for _ in range(2):
        put_between(page, "jobs", "new\n")
    assert page.read_text() == f"# Jobs\n\n{BEGIN}new\n{END}\nmore\n"
    with pytest.raises(ValueError, match="lacks <!-- other: begin -->"):
        put_between(page, "other", "new\n")


def test_the_page_has_the_marks_and_every_job() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text.partition(BEGIN)[2].partition(END)[0].startswith("| job |")
    assert [job for job in ORDER if f"| {job}" not in text] == []


def test_a_job_without_its_data_is_skipped_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["jobs", "--only", "J2", "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--json"]
    monkeypatch.setattr("sys.argv", arguments)
    assert main() == 0
    told = json.loads(capsys.readouterr().out)
    assert told["jobs"] == []
    assert "BostonHousing" in told["skipped"]["J2"]


def test_what_a_run_does_not_measure_stays_and_what_it_does_is_replaced(tmp_path: Path) -> None:
    assert kept_rows(tmp_path) == {}
    keep(tmp_path, "J1", [row(60.0).measured_on("2026-01-01")])
    keep(tmp_path, "J2", [row(70.0), row(71.0)])
    keep(tmp_path, "J1", [row(80.0).measured_on("2026-01-02")])
    assert kept_rows(tmp_path) == {"J1": [row(80.0).measured_on("2026-01-02")], "J2": [row(70.0), row(71.0)]}


@pytest.mark.parametrize("left_out", [None, "J5"])
def test_the_page_is_written_once_every_job_has_rows(
    left_out: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, page = tmp_path / "out", tmp_path / "jobs.md"
    out.mkdir()
    page.write_text(f"{BEGIN}old\n{END}")
    for name in ORDER:
        if name != left_out:
            keep(out, name, [row(60.0).measured_on(f"2026-01-0{ORDER.index(name) + 1}")])
    arguments = ["--only", "J2", "--data", str(tmp_path), "--out", str(out), "--write", str(page)]
    monkeypatch.setattr("sys.argv", ["jobs", *arguments])
    main()
    written = page.read_text()
    assert ("old" in written) == (left_out is not None)
    assert all(f"2026-01-0{index + 1}" in written for index in range(len(ORDER))) == (left_out is None)
