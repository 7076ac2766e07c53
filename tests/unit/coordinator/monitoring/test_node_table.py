"""What nodes report of their readings is in the table of their last reports, where any of them has readings."""

import io
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from coordinator.monitoring.presence import Seen
from coordinator.monitoring.screen import Names, _version_table, curve_table, node_cells, node_table
from coordinator.records import Attended, VersionRecord
from coordinator.storage.store import CurveKind, CurvePoint, Figures, Participation, VersionRow
from federation.protocol.messages import Presence, Reason, ReceiptStatus
from federation.types import Digest, ModelVersion, NodeId

ZERO = Digest(bytes(32))


def shown(*points: CurvePoint) -> str:
    text = io.StringIO()
    Console(file=text, width=160).print(curve_table(list(points)))
    return text.getvalue()


def trained(node: str, **metrics: float) -> CurvePoint:
    return CurvePoint(kind=CurveKind.TRAINING, version=ModelVersion(3), node=NodeId(node), metrics=metrics)


def test_age_news_and_drift_of_readings_are_shown_where_there_are_any() -> None:
    text = shown(trained("a", loss=0.5, drift=0.31, data_age_s=12.0, new_examples=40.0), trained("b", loss=0.25))
    assert [head for head in ("new", "age, s", "drift") if head not in text] == []
    row = next(line for line in text.splitlines() if line.startswith("a"))
    assert [cell for cell in ("40", "12", "0.31") if cell not in row.split()] == []


def test_without_readings_there_is_no_such_column() -> None:
    assert "drift" not in shown(trained("b", loss=0.25))


def took_part(number: int) -> Participation:
    applied = {ReceiptStatus.APPLIED: number, ReceiptStatus.STALE: 1} if number else {ReceiptStatus.REFUSED: 2}
    applied |= {ReceiptStatus.STORED: 1} if number == 5 else {}
    return Participation(
        node=NodeId(f"press-{number:02d}" + "x" * (number % 3)),
        statuses=applied,
        reasons={Reason.NORM: 1} if number == 3 else {},
        bytes_up=number * 1000,
        bytes_down=number,
        staleness_mean=number / 10,
        attended=Attended(asked=number),
    )


def lines(table: Table, width: int) -> list[str]:
    text = io.StringIO()
    Console(file=text, width=width).print(table)
    return text.getvalue().splitlines()


@pytest.mark.parametrize("width", [60, 80, 160])
def test_a_table_of_some_nodes_looks_as_if_each_had_a_row_of_cells(width: int) -> None:
    """It is laid out in another way, because a hundred nodes take long; the first is the one that has failed."""
    nodes = [took_part(number) for number in range(40)]
    expected = node_table([], 12)
    expected.columns[0].min_width = len("press-02xx")
    for node in [nodes[3], *(node for node in nodes if node is not nodes[3])][:12]:
        *figures, happened = node_cells(node)
        expected.add_row(*figures, Text(happened, no_wrap=True, overflow="ellipsis"))
    some = lines(node_table(nodes, 12), width)
    assert some[0].strip() == "nodes (40, 12 of them shown)"
    assert some[1:] == lines(expected, width)[1:]
    assert next(line for line in some if line.startswith("press")).startswith("press-03")


def took_part_well(name: str) -> Participation:
    return Participation(
        node=NodeId(name),
        statuses={ReceiptStatus.APPLIED: 118},
        reasons={},
        bytes_up=130_000,
        bytes_down=130_000,
        staleness_mean=1.2,
        attended=Attended(asked=120),
    )


def test_a_screen_of_80_columns_has_room_for_where_a_node_is_and_what_happened() -> None:
    """The heads were `wh…` and `ha…` there, beside three columns of zeros."""
    nodes = [took_part_well("edge-01"), replace(took_part_well("edge-02"), statuses={}, attended=Attended(asked=0))]
    here = {str(node.node): Seen(presence=Presence.ONLINE, at_s=0.0, incarnation=1) for node in nodes}
    shown_lines = lines(node_table(nodes, here=here), 80)
    assert shown_lines[1].split() == ["node", "applied", "lag", "payload", "pulled", "now", "what", "happened"]
    assert [line.split()[-2:] for line in shown_lines[3:]] == [["KiB", "online"], ["never", "asked"]]


def test_a_version_that_has_no_accuracy_shows_its_loss() -> None:
    """The column of the accuracy stayed empty, while the line above named the best loss."""
    record = VersionRecord(version=ModelVersion(3), digest=ZERO, previous=ZERO, manifest_digest=ZERO, accepted=8)
    row = VersionRow(record=record, reason="buffer_full", figures=Figures(), metrics={"loss": 0.0125, "median": 3.0})
    heads, _, line = lines(_version_table([row], 1), 80)[1:4]
    assert (heads.split()[1], line.split()[1]) == ("loss", "0.0125")
    assert line.split()[6:8] == ["-", "-"]  # nothing was counted: `0 B` said that it had cost nothing


def test_a_table_of_no_nodes_is_a_head() -> None:
    assert "what happened" in "".join(lines(node_table([], 3), 160))


def test_the_versions_have_all_numbers_whole_on_a_screen_of_80_columns() -> None:
    """`131.8 K…` was no number; the reason gives way."""
    record = VersionRecord(version=ModelVersion(12), digest=ZERO, previous=ZERO, manifest_digest=ZERO, accepted=8)
    figures = Figures(wall_s=5.76, bytes_up=131_788, bytes_down=137_728)
    row = VersionRow(record=record, reason="nobody_left", figures=figures, metrics={"accuracy": 0.9443})
    text = io.StringIO()
    Console(file=text, width=80).print(_version_table([row], 1))
    heads, _, line = text.getvalue().splitlines()[1:4]
    assert heads.split() == ["version", "accuracy", "applied", "stale", "refused", "s", "up", "down", "why", "then"]
    assert line.split()[:10] == ["12", "94.43%", "8", "0", "0", "5.76", "128.7", "KiB", "134.5", "KiB"]


def test_the_longest_names_leave_the_figures_whole_on_eighty_columns() -> None:
    """`489 B` was `48…`, and what happened was not there at all."""
    nodes = [replace(took_part(number), node=NodeId(f"{number}" * 64)) for number in (2, 3)]
    for rows in (None, 1, 2):
        head, *shown = [line for line in lines(node_table(nodes, rows), 80)[1:] if "─" not in line]
        assert head.split() == ["node", "applied", "stale", "lag", "payload", "pulled", "what", "happened"]
        assert all(" KiB " in line or " B " in line for line in shown)
        assert all(len(line) <= 80 and "…" in line for line in shown)


def test_names_that_begin_alike_are_told_apart_where_there_is_no_room_for_all_of_them() -> None:
    """Twelve rows of `press-shop-hall-…` were one name."""
    nodes = [replace(took_part(2), node=NodeId(f"press-shop-hall-3-line-7-gateway-{number:03d}")) for number in (1, 2)]
    for rows in (None, 1, 2):
        shown = [line for line in lines(node_table(nodes, rows), 80) if line.startswith("press")]
        assert [line.split()[0][-6:] for line in shown] == ["ay-001", "ay-002"][:rows]
        assert all("…" in line.split()[0] and len(line) <= 80 for line in shown)


def test_a_name_in_wide_letters_ends_where_its_column_does() -> None:
    text = io.StringIO()
    Console(file=text, width=10).print(Names("プレス工場のゲートウェイ一号機", "short", ""))
    first, second, *_ = text.getvalue().splitlines()
    assert cell_len(first) <= 10
    assert (first[:2], first.rstrip()[-2:], first.count("…")) == ("プレ", "号機", 1)
    assert second.strip() == "short"


def test_a_screen_of_sixty_columns_has_a_versions_numbers_with_their_units() -> None:
    """`476.8 …` was no number, beside columns of zeros."""
    record = VersionRecord(version=ModelVersion(12), digest=ZERO, previous=ZERO, manifest_digest=ZERO, accepted=8)
    figures = Figures(wall_s=5.76, bytes_up=531_788_000, bytes_down=137_728)
    row = VersionRow(record=record, reason="nobody_left", figures=figures, metrics={"accuracy": 0.9443})
    heads, _, line = lines(_version_table([row], 1, narrow=True), 60)[1:4]
    assert heads.split() == ["version", "accuracy", "applied", "s", "up", "down"]
    assert line.split() == ["12", "94.43%", "8", "5.76", "507.2", "MiB", "134.5", "KiB"]
    assert "refused" in lines(_version_table([replace(row, refused=1)], 1, narrow=True), 60)[1]
