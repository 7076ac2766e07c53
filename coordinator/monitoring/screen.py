"""What ``coordinator status`` prints for people: what is waited for, the nodes, the versions, who was refused."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, Group
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from coordinator.monitoring.curves import CurveKind, CurvePoint, newest_by_node
from coordinator.monitoring.figures import ask_store, participation_row, read_rows
from coordinator.monitoring.noised_sums import nodes_line, nodes_report
from coordinator.monitoring.presence import AWAY, Seen, presence_of, releases_line
from coordinator.monitoring.privacy import privacy_line, read_privacy
from coordinator.monitoring.refusals import refusal_lines
from coordinator.monitoring.run_progress import read_run_progress, run_progress_lines
from coordinator.monitoring.sites import site_lines
from coordinator.monitoring.state_files import (
    helper_lines,
    known_s,
    knows_nodes,
    read_counters,
    read_failing,
    read_helpers,
    read_incidents,
    read_sealed,
    read_waiting,
)
from coordinator.monitoring.why import MADE, explain, failures, nobody_trains, span
from coordinator.storage.places import leader_of
from coordinator.storage.read_only import ReadOnlyStore
from coordinator.storage.store import Participation, VersionRow
from federation.errors import StorageError
from federation.protocol.messages import ReceiptStatus
from federation.units import human_bytes, human_metric, human_traffic, tally

__all__ = [
    "Names",
    "curve_table",
    "first_line",
    "fitted_screen",
    "full_screen",
    "make_console",
    "node_cells",
    "node_table",
    "sealed_lines",
]

NODES_SHOWN = 100
"""Nodes of a large fleet in the table, those first to which something happened; ``--nodes`` and ``--json`` have all."""

VERSIONS_SHOWN = 12
"""Newest versions in the table; ``--json`` has all."""

INCIDENTS_SHOWN = 12
"""Senders with the most refused messages in the table; ``--json`` has all."""

WIDE = 80
"""Columns from which on a version's row is shown whole."""

TABLE_LINES = 4
"""Lines of a table beside its rows: title, heads, rule, and the empty line before it."""

VERSIONS_SHARE = 4
"""One of so many rows is a version's, however many nodes there are."""

HEAD_LINES_MIN = 3
"""Lines of what is read first that are shown however small the screen is."""

ROWS_MIN = 3
"""Rows of a table that are shown however small the screen is."""

NAME_CHARS_MIN = 16
"""So much of a node's name is shown however narrow the screen is."""

FIGURES = ("applied", "stale", "refused", "waiting", "lag", "payload", "pulled")
"""What a node's row counts, in the order of `node_cells`."""

SELDOM = ("stale", "refused", "waiting")
"""Counts that are 0 for all nodes while nothing goes wrong."""


def full_screen(folder: Path, width: int = WIDE) -> Group:
    """All of it, for a screen of so many columns that scrolls."""
    versions, nodes = read_rows(folder)
    incidents = read_incidents(folder)
    return Group(
        *_head(folder, versions),
        "",
        node_table(nodes, NODES_SHOWN if len(nodes) > NODES_SHOWN else None),
        "",
        _version_table(versions, VERSIONS_SHOWN, narrow=width < WIDE),
        *(("", _incident_table(incidents)) if incidents else ()),
        *(Text(line, style="dim") for line in refusal_lines(incidents)),
        _counts(read_counters(folder)),
        *sealed_lines(folder),
        *_masked(folder),
    )


def fitted_screen(folder: Path, console: Console) -> Group:
    """What matters most, within the console's height: what is waited for, then nodes, then the newest versions."""
    versions, nodes = read_rows(folder)
    lines = _lines(_head(folder, versions), console, max(HEAD_LINES_MIN, console.height - 2 * (TABLE_LINES + ROWS_MIN)))
    head = Group(*lines)
    rows = max(2 * ROWS_MIN, console.height - len(lines) - 2 * TABLE_LINES)
    shown = max(ROWS_MIN, min(len(nodes), rows - max(ROWS_MIN, rows // VERSIONS_SHARE)))
    newest = max(ROWS_MIN, min(rows - min(shown, len(nodes)), VERSIONS_SHOWN))
    return Group(head, "", node_table(nodes, shown), "", _version_table(versions, newest, narrow=console.width < WIDE))


def _lines(texts: Iterator[Text], console: Console, most: int) -> list[Text]:
    """So many lines of a screen at most: long names and reasons must not push what is watched out of it."""
    lines = [line for text in texts for line in text.wrap(console, console.width)]
    if len(lines) <= most:
        return lines
    left_out = len(lines) - most + 1
    return [*lines[: most - 1], Text(f"… {left_out} more lines: coordinator why", style="dim", no_wrap=True)]


def first_line(folder: Path) -> Text:
    """What is waited for."""
    return next(_head(folder, []))


def make_console() -> Console:
    """What nodes are called is no markup, and looking for it takes longer than reading the store."""
    return Console(markup=False, emoji=False)


def _head(folder: Path, versions: list[VersionRow]) -> Iterator[Text]:
    """What a person should read first: what is waited for, and what is wrong."""
    try:
        waiting = read_waiting(folder)
    except StorageError as error:  # no coordinator has said it yet
        yield Text(str(error))
        yield from _failing(folder, versions)
    else:
        wrong = any(waiting.fields.get(key) for key in ("behind", "claims", "nobody_trains"))
        yield Text(explain(waiting), style="bold red" if wrong else "bold")
    yield from (Text(line, style="yellow") for line in helper_lines(folder))
    run_progress = read_run_progress(folder)
    yield from map(Text, () if run_progress is None else run_progress_lines(run_progress))
    yield from map(Text, (*_leads(folder), *_begun_again(folder)))
    seen = presence_of(folder)
    yield from map(Text, site_lines(seen.sites, seen.gateways_here, known_s(folder)))
    noised = nodes_line(ask_store(folder, nodes_report))
    differ = releases_line(seen.nodes) if knows_nodes(folder) else ""
    for said in (privacy_line(read_privacy(folder)), noised, differ):
        if said:
            yield Text(said)


def _leads(folder: Path) -> Iterator[str]:
    """Which of several coordinators decides, where they share a database."""
    leader = leader_of(folder)
    if leader is not None:
        by = f"{leader.holder}, term {leader.term}"
        yield f"leads: nobody; the last one was {by}" if leader.overdue else f"leads: {by}"


def _begun_again(folder: Path) -> Iterator[str]:
    """That the run is not all of what it was."""
    restored = ask_store(folder, ReadOnlyStore.restored)
    if restored is not None:
        yield f"begun again from a backup at version {restored.version}: what was made after that backup is lost"


def _failing(folder: Path, versions: list[VersionRow]) -> Iterator[Text]:
    """Whose work came to nothing last."""
    failing = read_failing(folder)
    if failing.nobody_trains:
        newest = versions[-1].record.version if versions else 0
        yield Text(nobody_trains(newest, failing.reasons, failing.count), style="bold red")
    elif failing.reasons:
        yield Text(f"what comes to nothing: {failures(failing.reasons, failing.count)}")


def _counts(counters: Mapping[str, int]) -> str:
    """What went wrong since the coordinator's start, or nothing."""
    said = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in sorted(counters.items()))
    return f"since its start: {said}" if said else ""


def sealed_lines(folder: Path) -> Iterator[Text]:
    """Who else reads updates and model."""
    match read_sealed(folder):
        case True:
            yield Text("sealed: the broker reads neither updates nor the model", style="dim")
        case False:
            yield Text("not sealed: the broker reads updates and the model (privacy.sealed)", style="dim")


def _masked(folder: Path) -> Iterator[Text]:
    """Who hides each single update from the coordinator, and which of them is not there."""
    helpers = read_helpers(folder)
    if helpers:
        yield Text(f"masked: the coordinator reads sums only; helpers {', '.join(sorted(helpers))}", style="dim")


def node_table(nodes: list[Participation], rows: int | None = None, here: Mapping[str, Seen] | None = None) -> Table:
    """A row for each node; where ``rows`` are fewer, those come first to which something happened.

    A node's payload is of its updates, pulled are parts of models: headers and announcements are in a version's bytes.
    What no node has any of is left out, so that 80 columns have room for what happened.
    """
    some = rows is not None and rows < len(nodes)
    table = _table(f"nodes ({len(nodes)}, {rows} of them shown)" if some else f"nodes ({len(nodes)})")
    cells = [node_cells(node, here) for node in (sorted(nodes, key=_went_well)[:rows] if some else nodes)]
    shown = [place for place, title in enumerate(FIGURES, 1) if title not in SELDOM or _any_of(cells, place)]
    table.add_column("node", min_width=min(NAME_CHARS_MIN, max((len(row[0]) for row in cells), default=0)))
    for place in shown:
        table.add_column(FIGURES[place - 1], justify="right", no_wrap=True)
    if here:
        table.add_column("now", no_wrap=True)
    table.add_column("what happened")
    cells = [(row[0], *(row[place] for place in shown), *row[len(FIGURES) + 1 :]) for row in cells]
    names: list[tuple[str, ...]] = [(row[0],) for row in cells]
    if rows is not None and cells:
        # Each has one line, so that a column can be one cell: laying out a thousand takes longer than all the rest.
        names, cells = [tuple(row[0] for row in cells)], [tuple(map("\n".join, zip(*cells, strict=True)))]
    for named, (_, *figures, happened) in zip(names, cells, strict=True):
        # What gives way where the screen is narrow: a number without its unit is none. Of one that is watched only the
        # first line.
        told = Text(happened, no_wrap=rows is not None, overflow="ellipsis")
        table.add_row(Names(*named), *figures, told)
    return table


class Names:
    """Names in a column, one a line; of what has no room the middle is left out, as many begin alike."""

    def __init__(self, *names: str) -> None:
        self._names = names

    def __rich_measure__(self, _console: Console, options: ConsoleOptions) -> Measurement:
        """As wide as the longest of them, where there is room."""
        longest = max(map(cell_len, self._names), default=0)
        return Measurement(min(1, longest), longest).with_maximum(options.max_width)

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """Each on a line of its own."""
        yield Text("\n".join(_shortened(name, options.max_width) for name in self._names), no_wrap=True)


def _shortened(name: str, cells: int) -> str:
    if cell_len(name) <= cells:
        return name
    kept = max(0, cells - 1)
    end = kept // 2
    last = name[::-1]
    return f"{set_cell_size(name, kept - end)}…{set_cell_size(last, end)[::-1]}"


def _any_of(cells: Sequence[tuple[str, ...]], place: int) -> bool:
    """Whether any node has other than 0 there; of no nodes nothing is known."""
    return not cells or any(row[place] != "0" for row in cells)


def node_cells(node: Participation, here: Mapping[str, Seen] | None = None) -> tuple[str, ...]:
    """One node's row; ``here`` says which nodes are there."""
    row = participation_row(node)
    return (
        node.node,
        *(str(row[f"updates_{status}"]) for status in ("applied", "stale", "refused", "waiting")),
        f"{node.staleness_mean:.1f}",
        human_bytes(node.bytes_up),
        human_bytes(node.bytes_down),
        *([_is(here.get(node.node))] if here else []),
        _happened(node),
    )


def _is(seen: Seen | None) -> str:
    """Whether a node is there, in a person's words."""
    if seen is None or seen.state() != AWAY:
        return "" if seen is None else seen.presence.value
    left_s = seen.left_s()
    return f"away {span(left_s)}" if left_s > 0 else "away, due"


def _went_well(node: Participation) -> bool:
    return not (node.reasons or node.attended.absences or node.attended.restarts)


def _happened(node: Participation) -> str:
    """Why work was dropped or never came, and restarts; a node that never helped is named with that."""
    attended = node.attended
    counts = Counter({reason.value: count for reason, count in node.reasons.items()})
    counts.update(attended.absences)
    if attended.restarts:
        counts["restarts"] += attended.restarts
    said = tally(dict(sorted(counts.items())))
    summary = ""
    if not any(node.statuses.values()):
        times = "once" if attended.asked == 1 else f"{attended.asked} times"
        summary = f"asked {times}, never sent an update" if attended.asked else "never asked"
    elif not node.count(ReceiptStatus.APPLIED):
        summary = "nothing of it was ever used"
    return f"{said} ({summary})" if said and summary else said + summary


def _version_table(rows: list[VersionRow], newest: int, *, narrow: bool = False) -> Table:
    """The newest versions; a task without an accuracy is shown by its loss, or by the first metric that it has.

    What is 0 in all of them, and why they were made, has no room on a narrow screen: a number without its unit is none.
    """
    shown = rows[-newest:]
    table = _table(f"versions ({len(rows)}, the newest {len(shown)})")
    names = {name for row in shown for name in row.metrics}
    metric = next((name for name in ("accuracy", "loss", *sorted(names)) if name in names), "accuracy")
    counts = {"applied": [row.record.accepted for row in shown], "stale": [row.stale for row in shown]}
    counts |= {"refused": [row.refused for row in shown]}
    titles = [title for title in counts if not narrow or title not in SELDOM or any(counts[title])]
    for title in ("version", metric, *titles, "s", "up", "down"):
        table.add_column(title, justify="right", no_wrap=True)
    if not narrow:
        table.add_column("why then")
    for place, row in enumerate(shown):
        value = row.metrics.get(metric)
        table.add_row(
            str(row.record.version),
            "" if value is None else human_metric(metric, value),
            *(str(counts[title][place]) for title in titles),
            f"{row.figures.wall_s:.2f}",
            human_traffic(row.figures.bytes_up),
            human_traffic(row.figures.bytes_down),
            # The only cell that gives way where the screen is not quite wide enough.
            *(() if narrow else [Text(MADE.get(row.reason, row.reason), no_wrap=True, overflow="ellipsis")]),
        )
    return table


def curve_table(points: list[CurvePoint]) -> Table:
    """A row for each node; a column that no node has anything for is left out."""
    table = _table("reported last")
    heads = (
        *("trained for", "loss", "evaluated", "accuracy", "loss"),
        *("own accuracy", "examples", "new", "age, s", "drift"),
    )
    trained, found = newest_by_node(points, CurveKind.TRAINING), newest_by_node(points, CurveKind.NODE)
    rows = {node: _reported(trained.get(node), found.get(node)) for node in sorted(trained.keys() | found.keys())}
    filled = [place for place in range(len(heads)) if any(row[place] for row in rows.values())]
    table.add_column("node")
    for place in filled:
        table.add_column(heads[place], justify="right", no_wrap=True)
    for node, row in rows.items():
        table.add_row(Names(node), *(row[place] for place in filled))
    return table


def _reported(work: CurvePoint | None, test: CurvePoint | None) -> tuple[str, ...]:
    """What a node has said last of its training, its evaluation, and its own readings where it learns from them."""
    return (
        "" if work is None else str(work.version),
        _number(work, "loss"),
        "" if test is None else str(test.version),
        _number(test, "accuracy", "global_accuracy") or _number(work, "global_accuracy"),
        _number(test, "loss", "global_loss") or _number(work, "global_loss"),
        _number(test, "personal_accuracy") or _number(work, "personal_accuracy"),
        _number(work, "test_examples") if test is None else f"{test.num_examples:,}",
        _number(work, "new_examples"),
        _number(work, "data_age_s"),
        _number(work, "drift"),
    )


def _number(point: CurvePoint | None, *names: str) -> str:
    values = [point.metrics[name] for name in names if point is not None and name in point.metrics]
    return f"{values[0]:.4g}" if values else ""


def _incident_table(incidents: Mapping[str, Mapping[str, int]]) -> Table:
    table = _table("refused messages and denied attempts")
    table.add_column("from")
    table.add_column("what, and how often")
    for sender, kinds in sorted(incidents.items(), key=lambda one: -sum(one[1].values()))[:INCIDENTS_SHOWN]:
        table.add_row(Names(sender), ", ".join(f"{kind} {count:,}" for kind, count in sorted(kinds.items())))
    return table


def _table(title: str) -> Table:
    """Narrow: it should fit 80 columns."""
    return Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0)
    )
