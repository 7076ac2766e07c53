"""``make bench``: what its parts say is read right, kept, and shown on the page."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.performance import __main__ as command
from benchmarks.performance.__main__ import PAGE, RECORDS, main, run
from benchmarks.performance.parts import PARTS, Measured, Part, failover, fleet_of, readings, scores, shown, sites
from benchmarks.performance.quoted import QUOTED, as_table
from benchmarks.performance.record import Record, as_page, read, write
from benchmarks.table import Figure, put_between, show

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "reference"
REACHED = Figure(what="J1 bytes", measured=1 / 69, bar=1 / 40, note="a | b")
MISSED = Figure(what="announcement, p50", measured=56.2, bar=20.0, unit="ms")


def record(*figures: Figure, **skipped: str) -> Record:
    return Record(day="2026-01-02", took_s=3.0, load=0.25, machine="a machine", figures=figures, skipped=skipped)


def test_a_page_says_what_is_reached_missed_and_not_measured() -> None:
    page = as_page({"main": record(REACHED, MISSED, replace(REACHED, bar=None), flower="no data")})
    assert page.startswith("2 figures have a bar; 1 reach it, 1 miss it.\n")
    assert "| J1 bytes | 1/69 | ≤ 1/40 | reached | a / b |" in page
    assert "| announcement, p50 | 56.2 ms | ≤ 20 ms | **missed** |" in page
    assert "Not measured: flower: no data." in page
    assert "`python -m benchmarks.main_job --repeat 5`, 2026-01-02, 3 s, load 0.2 before; a machine." in page
    assert "Not measured yet: `python -m benchmarks.codec`." in page


def test_what_is_kept_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "deep" / RECORDS
    assert read(file) == {}
    kept = {"codec": record(REACHED), "main": record(MISSED, flower="no data")}
    write(file, kept)
    assert read(file) == kept
    assert list(json.loads(file.read_text())) == ["main", "codec"]


def test_the_figures_of_show_are_read_as_they_were(capsys: pytest.CaptureFixture[str]) -> None:
    show("t", [REACHED, MISSED], as_json=True, skipped={"x": "why"})
    assert shown(json.loads(capsys.readouterr().out)) == Measured([REACHED, MISSED], {"x": "why"})


def test_a_load_that_could_not_read_the_drops_says_so() -> None:
    told = {
        "updates": 900,
        "seconds": 30.0,
        "coordinator_cpu_s": 2.0,
        "broker_cpu_s": 1.0,
        "load_cpu_s": 4.0,
        "update_bytes": 2_000.0,
        "updates_per_cpu_s": 450.0,
        "deliveries_per_update": 4.0,
        "bytes_down_per_update": 2_700.0,
        "coordinator_rss_max_bytes": 109_000_000,
        "receipt_p50_ms": 50.0,
        "receipt_p99_ms": 90.0,
        "dropped": None,
        "lost": 1,
    }
    found = fleet_of(1_000)(told)
    by_what = {figure.what.partition(",")[0]: figure for figure in found.figures}
    assert by_what["the coordinator's largest memory"].measured == 109.0
    assert by_what["bytes down per update"].measured == 2.7
    assert not by_what["updates lost"].reached
    assert by_what["updates per CPU second of the coordinator"].reached
    assert found.skipped == {
        "messages that the broker dropped, 1,000 nodes, asynchronous": "the broker did not answer in time"
    }


def test_the_other_parts_are_read() -> None:
    leader = {"takeover_p95_s": 6.0, "bar_s": 5.0, "audit": True, "ratio": 1.5, "restart_p95_s": 4.0}
    assert [figure.reached for figure in failover(leader).figures] == [False, True]
    site = {"codec": "edge", "nodes": 48, "updates": 1_000, "exact": 400, "coded_again": 50}
    assert [figure.measured for figure in sites([site, site | {"nodes": 3}]).figures] == [0.4, 0.05]
    late = {"training": {"p99_ms": 10.4}, "idle": {"p99_ms": 2.6}, "rows": 600, "rounds_meanwhile": 3, "bar_ms": 20.0}
    assert scores(late).figures[0].reached
    assert not readings({"rate": {"readings_s_one": 1_999.0, "readings_s_eight": 9e3}}).figures[0].reached


def test_a_part_that_fails_is_missing_with_its_last_words() -> None:
    assert "No module named benchmarks.none" in run(Part(title="t", module="benchmarks.none")).skipped["all of it"]


def test_a_part_that_hangs_is_given_up() -> None:
    found = run(Part(title="t", module="http.server", options=("--bind", "127.0.0.1", "0"), limit_s=0.5))
    assert found.figures == ()


def test_a_failed_run_leaves_the_one_before_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / PAGE).write_text("<!-- performance: begin -->\n<!-- performance: end -->\n")
    write(tmp_path / RECORDS, {"codec": record(REACHED)})
    monkeypatch.setattr(command, "run", lambda _: Measured((), {"all of it": "no disk"}))
    monkeypatch.setattr(command, "machine", lambda: "here")
    assert main(["--only", "codec", "--write", str(tmp_path)]) == 1
    assert read(tmp_path / RECORDS) == {"codec": record(REACHED)}
    monkeypatch.setattr(command, "run", lambda _: Measured((MISSED,), {}))
    assert main(["--only", "codec", "--write", str(tmp_path)]) == 1
    assert "| announcement, p50 | 56.2 ms |" in (tmp_path / PAGE).read_text()


def test_the_page_shows_what_was_kept(tmp_path: Path) -> None:
    page = tmp_path / PAGE
    page.write_bytes((FOLDER / PAGE).read_bytes())
    put_between(page, "performance", as_page(read(FOLDER / RECORDS)))
    assert page.read_text() == (FOLDER / PAGE).read_text()


def test_the_readme_quotes_what_was_kept(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_bytes((ROOT / "README.md").read_bytes())
    put_between(readme, "figures", as_table(read(FOLDER / RECORDS)))
    again = "make bench ARGS=--draw"
    assert readme.read_text() == (ROOT / "README.md").read_text(), f"README.md and {RECORDS} differ: {again}"


def test_what_the_readme_quotes_is_a_figure_of_its_part() -> None:
    records = read(FOLDER / RECORDS)
    lacking = [
        name
        for part, names in QUOTED.items()
        if part in records and not records[part].skipped
        for name in names
        if name not in {figure.what for figure in records[part].figures}
    ]
    assert lacking == []
    assert set(QUOTED) <= set(PARTS)


def test_a_quoted_figure_has_its_bar_its_verdict_and_its_command() -> None:
    name = QUOTED["main"][0]
    table = as_table({"main": record(replace(MISSED, what=name))})
    assert f"| {name} | ≤ 20 ms | 56.2 ms, **missed** | `python -m benchmarks.main_job --repeat 5` |" in table
    assert f"| {QUOTED['codec'][0]} |  | not yet | `python -m benchmarks.codec` |" in table


def test_drawing_measures_nothing_and_draws_both(tmp_path: Path) -> None:
    page, readme = tmp_path / PAGE, tmp_path / "README.md"
    page.write_text("<!-- performance: begin -->\n<!-- performance: end -->\n")
    readme.write_text("<!-- figures: begin -->\n<!-- figures: end -->\n")
    write(tmp_path / RECORDS, {"bytes": record(replace(REACHED, what=QUOTED["bytes"][0]))})
    assert main(["--draw", "--write", str(tmp_path), "--readme", str(readme)]) == 0
    assert "| 1/69 | ≤ 1/40 |" in page.read_text()
    assert "| ≤ 1/40 | 1/69 |" in readme.read_text()


def test_every_part_is_a_program() -> None:
    missing = [
        part.module
        for part in PARTS.values()
        if not any((ROOT / f"{part.module.replace('.', '/')}{end}").exists() for end in (".py", "/__main__.py"))
    ]
    assert missing == []
