"""Every picture is readable: a title, named axes with units, a legend, and no two texts on top of each other."""

import itertools
import sys
from collections.abc import Iterator
from math import isnan
from pathlib import Path
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from coordinator.artifacts.plots.canvas import PALETTE, bytes_scale, line_styles, save_figure, styled, time_scale
from coordinator.artifacts.plots.curves import draw_learning
from coordinator.artifacts.plots.gallery import draw_run, draw_runs
from coordinator.artifacts.plots.nodes import (
    draw_budget,
    draw_node_accuracies,
    draw_node_losses,
    draw_participation,
    draw_staleness,
    natural,
)
from coordinator.artifacts.plots.run import Run, run_of_report
from coordinator.artifacts.plots.story import draw_story
from federation.errors import ConfigError, StorageError
from tests.rigs.run_values import report

NAMES = ("story", "learning", "node-loss", "node-accuracy", "participation", "staleness")


@pytest.fixture(autouse=True)
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """How fine the pixels are is nothing that is tested here, and most of the work."""
    monkeypatch.setattr("coordinator.artifacts.plots.canvas.DOTS_PER_INCH", 50)


def run(nodes: int, versions: int = 12, **changes: Any) -> Run:
    return run_of_report(report(nodes, versions) | changes, Path("a-run.json"))


def figures(shown: Run) -> Iterator[Figure]:
    drawn = draw_learning([shown]), draw_node_losses(shown), draw_node_accuracies(shown)
    for figure in (*drawn, draw_participation(shown), draw_staleness(shown)):
        assert figure is not None
        yield figure


def texts(figure: Figure) -> list[Text]:
    """Every text that is seen: titles, labels, legends, and the ticks inside of the axes."""
    found = [figure._suptitle] if figure._suptitle else []  # type: ignore[attr-defined]
    found += [text for legend in figure.legends for text in legend.get_texts()]
    for axes in figure.axes:
        found += [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        axis: Any
        for axis in (axes.xaxis, axes.yaxis):
            found += [tick.label1 for tick in axis._update_ticks()]
    return [text for text in found if text.get_visible() and text.get_text()]


def overlaps(figure: Figure) -> list[tuple[str, str]]:
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in texts(figure)]
    width, height = canvas.get_width_height()
    outside = [
        (name, "the edge") for name, box in boxes if box.x0 < 0 or box.y0 < 0 or box.x1 > width or box.y1 > height
    ]
    return outside + [
        (one, other) for (one, first), (other, second) in itertools.combinations(boxes, 2) if first.overlaps(second)
    ]


@pytest.mark.parametrize("nodes", [1, 2, 5, 50, 300])
def test_no_text_overlaps_another_or_leaves_the_picture(nodes: int) -> None:
    with styled():
        story = draw_story(run(nodes))
        assert story is not None
        for figure in (story, *figures(run(nodes))):
            assert overlaps(figure) == []


def test_the_story_names_its_run_and_its_axes() -> None:
    with styled():
        figure = draw_story(run(5))
        assert figure is not None
        assert figure.get_suptitle().startswith("a-run: 5 nodes, 12 versions")
        curve, rows, sent = figure.axes
    assert curve.get_ylabel() == "accuracy (%)"
    assert rows.get_xlabel() == "time since the start (s); a stroke: a version has its update"
    assert sent.get_ylabel() == "bytes of all nodes (KiB)"


def test_one_node_is_one() -> None:
    with styled():
        figure = draw_story(run(1))
        assert figure is not None
        assert figure.get_suptitle().startswith("a-run: 1 node, 12 versions")


HUGE = 1.7e308
CROWD = 11
"""One node more than have lines of their own."""
STORED = ((HUGE, CROWD), (-HUGE, 2), (5e-324, 2), (float("inf"), 2), (float("nan"), CROWD))
"""Numbers that a store or a report may hold: a node has said them."""


@pytest.mark.thorough
@pytest.mark.parametrize(("value", "nodes"), STORED)
def test_any_number_that_is_stored_leaves_all_pictures(value: float, nodes: int, tmp_path: Path) -> None:
    said = report(nodes, 4)
    for row in said["rounds"][1:3]:  # type: ignore[index]
        row["metrics"] = {"loss": value, "accuracy": -value}
    for columns, name in (("updates", "loss"), ("evaluations", "accuracy")):
        said[columns][name][1::2] = [value] * len(said[columns][name][1::2])  # type: ignore[index]
    drawn = draw_run(run_of_report(said, Path("a-run.json")), tmp_path)
    assert [file.name for file in drawn.files] == [f"{name}.{kind}" for name in NAMES for kind in ("png", "svg")]
    assert drawn.left_out == []


@pytest.mark.thorough
def test_any_name_is_drawn_as_it_is(tmp_path: Path) -> None:
    names = ["$\\frac{", "[/red]", "_hidden", "a\x1b[31m漢字"]
    said = report(4, 4)
    for row in said["rounds"]:  # type: ignore[attr-defined]
        row["metrics"] = dict.fromkeys(names, 0.5)
    named = dict(zip([f"node-{index}" for index in range(4)], names, strict=True))
    for columns in ("updates", "evaluations"):
        said[columns]["node"] = [named[node] for node in said[columns]["node"]]  # type: ignore[index]
    for row in said["nodes_detail"]:  # type: ignore[attr-defined]
        row["id"] = named[row["id"]]
    for row in said["news"]:  # type: ignore[attr-defined]
        row["node"] = named[row["node"]]
    drawn = draw_run(run_of_report(said, Path("$\\frac{.json")), tmp_path)
    assert drawn.left_out == []
    assert len(drawn.files) == 2 * len(NAMES)


def saved_alone(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """All pictures are made, and only these are laid out, rendered and written."""

    def save(figure: Figure, folder: Path, name: str) -> list[Path]:
        return (
            save_figure(figure, folder, name)
            if name in names
            else [folder / f"{name}.{kind}" for kind in ("png", "svg")]
        )

    monkeypatch.setattr("coordinator.artifacts.plots.gallery.save_figure", save)


def test_a_picture_that_fails_costs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_run: Run) -> None:
        raise ValueError("arange: cannot compute length")

    monkeypatch.setattr("coordinator.artifacts.plots.gallery.draw_node_losses", fails)
    saved_alone(monkeypatch)
    drawn = draw_run(run(3), tmp_path)
    assert [file.stem for file in drawn.files[::2]] == [name for name in NAMES if name != "node-loss"]
    assert drawn.left_out == ["node-loss: it cannot be drawn: arange: cannot compute length"]


def test_a_staleness_of_a_report_takes_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved_alone(monkeypatch, "staleness")
    said = report(2, 4)
    said["updates"]["staleness"][0] = 2**62  # type: ignore[index]
    said["updates"]["status"][0] = "applied"  # type: ignore[index]
    assert len(draw_run(run_of_report(said, Path("a-run.json")), tmp_path).files) == 2 * len(NAMES)


def test_two_texts_in_one_place_are_found() -> None:
    figure = Figure()
    figure.suptitle("above")
    figure.subplots().set_title("below", y=1.07)
    assert ("above", "below") in overlaps(figure)


@pytest.mark.parametrize("nodes", [2, 50, 300])
def test_every_picture_has_a_title_named_axes_and_a_legend(nodes: int) -> None:
    with styled():
        for figure in figures(run(nodes)):
            assert "a-run" in figure.get_suptitle()
            assert figure.legends
            assert all(legend.get_texts() for legend in figure.legends)
            last_row = figure.axes[-3:]
            assert all(axes.get_xlabel() for axes in last_row)
            assert figure.axes[0].get_ylabel()


def test_axes_name_their_units() -> None:
    with styled():
        figure = draw_learning([run(5, versions=400)])
        assert figure is not None
        labels = [axes.get_xlabel() for axes in figure.axes[-3:]]
    assert labels == ["model version", "time since the start (min)", "bytes up and down (MiB)"]
    assert [axes.get_ylabel() for axes in figure.axes[::3]] == ["accuracy (%)", "loss (mean per example)"]


def test_the_curves_go_through_the_runs_own_figures() -> None:
    with styled():
        figure = draw_learning([run(3, versions=2)])
        assert figure is not None
        lines = [axes.lines[0].get_xydata().tolist() for axes in figure.axes]  # type: ignore[union-attr]
    accuracies, losses = [pytest.approx(0.1), pytest.approx(0.55)], [2.0, 1.0]
    xs = ([1, 2], [1.5, 3.0], [4000 / 1024, 8000 / 1024])
    assert lines == [[list(pair) for pair in zip(x, y, strict=True)] for y in (accuracies, losses) for x in xs]


def test_bars_add_up_to_the_updates_that_were_sent() -> None:
    shown = run(7)
    with styled():
        figure = draw_participation(shown)
        assert figure is not None
        drawn = sum(bar.get_width() for bar in figure.axes[0].patches)  # type: ignore[attr-defined]
    assert drawn == sum(node.updates for node in shown.nodes) == 7 * 12


def test_the_staleness_of_all_applied_updates_is_drawn_even_when_it_is_large() -> None:
    shown = run(4)
    far = run_of_report(
        report(4, 12) | {"updates": dict(report(4, 12)["updates"]) | {"staleness": [index * 7 for index in range(48)]}},  # type: ignore[call-overload]
        Path("far.json"),
    )
    for one in (shown, far):
        with styled():
            figure = draw_staleness(one)
            assert figure is not None
            assert overlaps(figure) == []
            drawn = sum(bar.get_height() for bar in figure.axes[0].patches)  # type: ignore[attr-defined]
        assert drawn == sum(update.applied for update in one.updates)


def test_where_no_update_was_late_there_is_no_picture_of_it() -> None:
    """It was one bar of all of them."""
    columns: Any = report(3, 12)["updates"]
    with styled():
        assert draw_staleness(run(3, updates=columns | {"staleness": [0] * 36})) is None


def test_many_nodes_are_drawn_as_a_crowd_with_its_median() -> None:
    with styled():
        figure = draw_node_losses(run(50))
        assert figure is not None
        labels = [text.get_text() for text in figure.legends[0].get_texts()]
        assert len(figure.axes[0].lines) == 52
    assert "median" in labels
    assert any(label.startswith("highest at its end: node-") for label in labels)
    with styled():
        figure = draw_node_accuracies(run(50))
        assert figure is not None
        labels = [text.get_text() for text in figure.legends[0].get_texts()]
        assert figure.axes[0].get_ylabel().endswith("(%)")
    assert any(label.startswith("lowest at its end: node-") for label in labels)


def test_the_line_of_a_node_that_was_away_is_broken() -> None:
    updates = {
        "node": ["a"] * 4,
        "base_version": [0, 1, 9, 10],
        "status": ["applied"] * 4,
        "staleness": [0] * 4,
        "loss": [4.0, 3.0, 2.0, 1.0],
    }
    with styled():
        figure = draw_node_losses(run(1, updates=updates))
        assert figure is not None
        line: Any = figure.axes[0].lines[0]
        losses = line.get_ydata().tolist()
    assert [losses[:2], losses[3:]] == [[4.0, 3.0], [2.0, 1.0]]
    assert isnan(losses[2])


def test_files_are_png_and_svg_of_the_same_bytes_each_time(tmp_path: Path) -> None:
    first = draw_run(run(2, 4), tmp_path / "a")
    draw_run(run(2, 4), tmp_path / "b")
    assert [file.name for file in first.files] == [f"{name}.{kind}" for name in NAMES for kind in ("png", "svg")]
    assert first.left_out == []
    for file in first.files:
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
    assert imread(tmp_path / "a" / "learning.png").shape[2] == 4
    assert "<svg" in (tmp_path / "a" / "learning.svg").read_text()


def test_the_story_says_who_was_killed_what_it_missed_and_what_was_saved() -> None:
    versions = [1, 2, 3, 7, 8, 9, 10, 11, 12]
    columns = {
        "node": ["node-0"] * len(versions) + ["node-1"] * 12,
        "version": [*versions, *range(1, 13)],
        "base_version": [0] * (len(versions) + 12),
        "status": ["applied"] * (len(versions) + 12),
        "staleness": [0] * (len(versions) + 12),
        "loss": [1.0] * (len(versions) + 12),
    }
    with styled():
        figure = draw_story(run(2, updates=columns))
        assert figure is not None
        assert overlaps(figure) == []
        said = {text.get_text() for text in texts(figure)}
    assert {"node-0 killed", "node-0 back", "missed 3 versions"} <= said
    assert "a-run: 2 nodes, 12 versions, 92.5% right, 1/60 of the bytes of fp32" in said


def test_where_no_version_was_made_a_node_is_away_and_has_missed_none() -> None:
    """Of a whole fleet that is switched off for a night each node `missed 0 versions`."""
    columns = {
        "node": ["node-0"] * 6,
        "version": [1, 2, 3, 4, 5, 6],
        "base_version": [0] * 6,
        "status": ["applied"] * 6,
        "staleness": [0] * 6,
        "loss": [1.0] * 6,
    }
    rounds: Any = report(1, 6)["rounds"]
    made = [one | {"wall_s": 900.0 if one["version"] == 4 else 1.0} for one in rounds]
    news = [{"node": "node-0", "version": 3, "what": "left"}, {"node": "node-0", "version": 4, "what": "back"}]
    with styled():
        figure = draw_story(run(1, updates=columns, rounds=made, news=news))
        assert figure is not None
        said = {text.get_text() for text in texts(figure)}
    assert "away" in said
    assert not {one for one in said if "missed" in one}


@pytest.mark.parametrize("count", [1, 2, 5, 6])
def test_no_word_of_the_story_covers_its_curve(count: int) -> None:
    """The word lay on the beginning of a curve that rises, which is where it is lowest."""
    news = [{"node": f"node-{number % 2}", "version": 1 + number, "what": "killed"} for number in range(count)]
    with styled():
        figure = draw_story(run(2, news=news))
        assert figure is not None
        canvas: Any = FigureCanvasAgg(figure)
        canvas.draw()
        curve = figure.axes[0]
        lowest = curve.transData.transform(curve.lines[0].get_xydata())[:, 1].min()
        words = [text for text in curve.texts if "killed" in text.get_text()]
        assert len(words) == count
        assert max(text.get_window_extent(canvas.get_renderer()).y1 for text in words) < lowest


def test_a_node_that_never_came_back_is_away_to_the_end() -> None:
    news = [{"node": "node-1", "version": 2, "what": "lost"}]
    with styled():
        figure = draw_story(run(2, news=news))
        assert figure is not None
        assert "node-1 lost" in {text.get_text() for text in texts(figure)}


@pytest.mark.thorough
def test_on_a_dark_page_pictures_are_dark(tmp_path: Path) -> None:
    drawn = draw_run(run(3), tmp_path, dark=True)
    assert [file.name for file in drawn.files] == [f"{name}-dark.{kind}" for name in NAMES for kind in ("png", "svg")]
    assert imread(tmp_path / "story-dark.png")[0, 0, :3].max() < 0.15
    with styled():
        story = draw_story(run(3))
        assert story is not None
        save_figure(story, tmp_path, "story")
    assert imread(tmp_path / "story.png")[0, 0, :3].min() == 1.0


def test_the_time_of_a_simulation_is_called_virtual() -> None:
    both = [run(2), run(2, virtual=True)]
    with styled():
        mixed, alone = draw_learning(both), draw_learning(both[1:])
        assert mixed is not None
        assert alone is not None
        assert "time since the start (s); virtual: a-run" in {text.get_text() for text in texts(mixed)}
        assert "virtual time since the start (s)" in {text.get_text() for text in texts(alone)}
        looks = {(line.get_color(), line.get_linestyle()) for line in mixed.axes[0].lines}
    assert len({dashes for _, dashes in looks}) == len({colour for colour, _ in looks}) == 2


def test_a_run_without_data_says_what_is_left_out(tmp_path: Path) -> None:
    empty = run_of_report({"rounds": []}, tmp_path / "empty.json")
    drawn = draw_run(empty, tmp_path)
    assert drawn.files == []
    assert [reason.partition(":")[0] for reason in drawn.left_out] == list(NAMES)
    assert draw_runs([empty], tmp_path).left_out == ["compare: no version was evaluated"]


def test_ten_runs_share_one_picture_and_differ_in_colour_or_dashes(tmp_path: Path) -> None:
    runs = [run_of_report(report(3, 9, seed=seed), Path(f"the-run-with-seed-{seed}.json")) for seed in range(10)]
    with styled():
        figure = draw_learning(runs)
        assert figure is not None
        assert overlaps(figure) == []
        looks = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}
    assert len(looks) == 10
    assert len(set(line_styles(4 * len(PALETTE)))) == 4 * len(PALETTE)
    assert draw_runs(runs, tmp_path).files == [tmp_path / "compare.png", tmp_path / "compare.svg"]


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="pictures"):
        draw_run(run(2), tmp_path / "file")


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"fedmq\[plot\]"):
        draw_run(run(2), tmp_path)


def test_units_follow_the_size() -> None:
    assert [time_scale(seconds)[1] for seconds in (0, 179, 180, 20_000)] == ["s", "s", "min", "h"]
    assert [bytes_scale(count)[1] for count in (0, 2_000, 2**20, 2**31)] == ["bytes", "KiB", "MiB", "GiB"]


def test_names_are_sorted_as_people_count() -> None:
    assert sorted(["node-10", "node-2", "alice"], key=natural) == ["alice", "node-2", "node-10"]


def private(nodes: int, *, unit: str = "a row of a node's data") -> dict[str, object]:
    """What a run with differential privacy says of its nodes."""
    told = {f"n{index:03}": {"epsilon": 1.0 + index / 10, "delta": 1e-5, "budget": 8.0} for index in range(nodes)}
    return {"unit": unit, "adjacency": "with or without it", "largest_epsilon": 2.0, "nodes": told}


def test_what_each_node_has_spent_is_drawn_with_unit_adjacency_and_delta() -> None:
    shown = run_of_report(report(4, 12) | {"privacy": private(4)}, Path("run.json"))
    figure = draw_budget(shown)
    assert figure is not None
    (axes,) = figure.axes
    assert axes.get_title() == "unit: a row of a node's data\nadjacency: with or without it"
    assert axes.get_xlabel() == "epsilon at delta 1e-05"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["n003", "n002", "n001", "n000"]
    assert [round(bar.get_width(), 1) for bar in axes.patches if isinstance(bar, Rectangle)] == [1.3, 1.2, 1.1, 1.0]
    assert axes.lines[0].get_xdata()[0] == 8.0  # type: ignore[index]


def test_two_units_have_an_axis_each_and_many_nodes_no_names() -> None:
    whole = {"unit": "a whole node", "adjacency": "its part or none", "delta": 1e-6, "budget": None}
    nodes = {f"n{index:03}": {"epsilon": 3.0, "sums": 2, "mu": 0.5} for index in range(100)}
    shown = run_of_report(report(4, 12) | {"privacy": private(2), "nodes_privacy": whole | {"nodes": nodes}}, Path("r"))
    figure = draw_budget(shown)
    assert figure is not None
    first, second = figure.axes
    assert "a whole node" in second.get_title()
    assert second.get_xlabel() == "epsilon at delta 1e-06"
    assert len(second.get_yticks()) == 0
    assert len(first.lines) == 1
    assert len(second.lines) == 0, "no budget is known"


def test_a_picture_of_the_budget_is_made_only_where_something_was_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved_alone(monkeypatch, "privacy")
    assert draw_budget(run_of_report(report(4, 12), Path("run.json"))) is None
    drawn = draw_run(run_of_report(report(4, 12) | {"privacy": private(3)}, Path("run.json")), tmp_path)
    assert {"privacy.png", "privacy.svg"} <= {file.name for file in drawn.files}
    assert drawn.left_out == []
