"""``coordinator report``: one page that explains a run to whoever was not there; nothing in it is fetched or run."""

import base64
import datetime as dt
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

from coordinator.monitoring.figures import participation_row
from coordinator.monitoring.noised_sums import nodes_line, nodes_report
from coordinator.monitoring.presence import Happening, News, read_presence
from coordinator.monitoring.privacy import privacy_line, privacy_report
from coordinator.monitoring.run_progress import Best, read_run_progress
from coordinator.monitoring.state_files import read_helpers, read_incidents, read_sealed, read_waiting
from coordinator.monitoring.why import explain
from coordinator.storage.read_only import ReadOnlyStore
from coordinator.storage.store import Participation, VersionRow
from federation.errors import ConfigError, StorageError
from federation.protocol.messages import ReceiptStatus
from federation.storage.folder import write_file
from federation.units import beside_fp32, counted, human_bytes, human_metric, human_traffic, tally

__all__ = ["report_text", "write_run_report"]

NODES_MAX: Final = 200
NEWS_MAX: Final = 200
INCIDENTS_MAX: Final = 100

PICTURES: Final[Mapping[str, str]] = {
    "story": "The run: what the model can do, whose updates each version has, and what was sent.",
    "learning": "What the model can do, over versions, time and bytes.",
    "staleness": "How many versions had been made since the one that an update was trained from.",
    "node-loss": "The loss that nodes report of their own training.",
}

SAID: Final[Mapping[Happening, str]] = {
    Happening.LOST: "was lost (killed, without power, or cut off)",
    Happening.LEFT: "left",
    Happening.BACK: "came back",
    Happening.RESTARTED: "started again",
}

WORDS: Final[Mapping[str, str]] = {
    "node": "a device that trains on data which never leaves it",
    "version": "the shared model after some nodes' updates were added to the one before",
    "update": "what one node's training has changed in the model; the only thing that it sends",
    "stale": "an update that came so late that it was not used",
    "fp32": "the same updates sent as plain 32-bit numbers: what is saved is measured against this",
}

STYLE: Final = """
:root { color-scheme: light dark; --quiet: #565c64; --edge: #d9dbde; }
@media (prefers-color-scheme: dark) { :root { --quiet: #a5acb5; --edge: #353b42; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2, td, li, p { overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 3px 8px; border-bottom: 1px solid var(--edge); vertical-align: top; }
th:first-child, td:first-child, td.words, th.words { text-align: left; }
img { width: 100%; background: #fff; border-radius: 6px; }
figcaption, .quiet { color: var(--quiet); }
figure { margin: 1rem 0; }
.scroll { overflow-x: auto; }
"""
POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def write_run_report(folder: Path, file: Path) -> str:
    """Write the report of a state folder's run; returns the run's task.

    Raises:
        StorageError: There is no store, it cannot be read, or the file cannot be written.
    """
    with ReadOnlyStore(folder) as store:
        task = store.task() or "unknown task"
    try:
        write_file(file, report_text(folder, dt.datetime.now(dt.UTC)).encode())
    except OSError as error:
        raise StorageError(f"{file} cannot be written: {error}") from error
    return task


def report_text(folder: Path, now: dt.datetime) -> str:
    """The report as HTML; whatever came from nodes is in it as text.

    Args:
        folder: The state folder.
        now: When it is made.

    Raises:
        StorageError: There is no store, or it cannot be read.
    """
    with ReadOnlyStore(folder) as store:
        task, run, began_ms = store.task() or "unknown task", store.run, store.began_ms()
        versions, nodes, manifest = store.history(), store.participation(), store.manifest()
        spent = [privacy_line(privacy_report(store)), nodes_line(nodes_report(store))]
    progress = read_run_progress(folder)
    best = None if progress is None else progress.best
    updates = sum(sum(node.statuses.values()) for node in nodes)
    began = "" if not began_ms else f" Begun {_when(began_ms)}."
    sections = (
        f"<h1>{escape(task)}</h1>",
        f'<p class="quiet">Run {escape(run)}.{began} This report was made {now:%Y-%m-%d %H:%M} UTC.</p>',
        _story(versions, nodes, best, _state(folder)),
        _figures(versions, nodes, updates * manifest.fp32_bytes, manifest.parameter_count),
        *_pictures(folder),
        *_what_happened(read_presence(folder, run).news),
        *_incidents(read_incidents(folder)),
        _nodes(nodes),
        _list("What is protected", [*filter(None, spent), *_protection(folder)]),
        _list("Words", [f"{name}: {what}" for name, what in WORDS.items()]),
    )
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(task)}: report</title><style>{STYLE}</style></head><body>"
    )
    return f"{head}{''.join(sections)}</body></html>\n"


def _state(folder: Path) -> str:
    try:
        return explain(read_waiting(folder))
    except StorageError as error:
        return str(error)


def _story(versions: Sequence[VersionRow], nodes: Sequence[Participation], best: Best | None, state: str) -> str:
    """A few sentences, the first of which is the result."""
    made = [row for row in versions if row.record.version > 0]
    working = sum(any(node.statuses.values()) for node in nodes)
    took_s = sum(row.figures.wall_s for row in made)
    whole = f"{counted(len(made), 'version')} in {_span(took_s)}"
    said = [f"{working:,} of {counted(len(nodes), 'node')} trained one model together: {whole}."]
    measured = [(row.record.version, row.metrics["accuracy"]) for row in made if "accuracy" in row.metrics]
    if measured:
        (first, before), (last, after) = measured[0], measured[-1]
        said.append(f"Its accuracy was {before:.2%} at version {first:,} and {after:.2%} at version {last:,}.")
    if best is not None:
        value = human_metric(best.metric, best.value)
        said.append(f"The best version is {best.version:,}, with {best.metric.replace('_', ' ')} {value}.")
    said.append(f"{state[:1].upper()}{state[1:]}.")
    return f"<p>{escape(' '.join(said))}</p>"


def _figures(versions: Sequence[VersionRow], nodes: Sequence[Participation], plain_bytes: int, parameters: int) -> str:
    counts = {status: sum(node.count(status) for node in nodes) for status in ReceiptStatus}
    up, down = (sum(getattr(row.figures, name) for row in versions) for name in ("bytes_up", "bytes_down"))
    saved = f", {beside_fp32(up, plain_bytes)} ({human_bytes(plain_bytes)})" if up and plain_bytes else ""
    rows = (
        ("parameters of the model", f"{parameters:,}"),
        ("updates used", f"{counts[ReceiptStatus.APPLIED]:,}"),
        ("updates too late", f"{counts[ReceiptStatus.STALE]:,}"),
        ("updates refused", f"{counts[ReceiptStatus.REFUSED]:,}"),
        ("sent by nodes", f"{human_traffic(up)}{saved}"),
        ("sent to nodes", human_traffic(down)),
    )
    return _table("In numbers", ("", ""), rows)


def _pictures(folder: Path) -> Iterator[str]:
    """The plots, inside the page; a sentence where they cannot be drawn here."""
    from coordinator.artifacts.plots.gallery import draw_run  # noqa: PLC0415 - needs an extra
    from coordinator.artifacts.plots.run import load_run  # noqa: PLC0415 - as above

    with tempfile.TemporaryDirectory() as place:
        try:
            draw_run(load_run(folder), Path(place))
        except ConfigError as error:
            yield f'<p class="quiet">{escape(str(error))}</p>'
            return
        for name, what in PICTURES.items():
            file = Path(place) / f"{name}.svg"
            if file.exists():
                body = base64.b64encode(file.read_bytes()).decode()
                image = f'<img alt="{escape(what)}" src="data:image/svg+xml;base64,{body}">'
                yield f"<figure>{image}<figcaption>{escape(what)}</figcaption></figure>"


def _what_happened(news: Sequence[News]) -> Iterator[str]:
    if not news:
        return
    shown = news[-NEWS_MAX:]
    left_out = f" (the newest {len(shown):,} of {len(news):,})" if len(shown) < len(news) else ""
    yield _list(
        f"Who came and went{left_out}",
        [f"{_when(one.at_ms)}, at version {one.version:,}: {one.node} {SAID[one.what]}" for one in shown],
    )


def _incidents(incidents: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    if incidents:
        rows = [
            (sender, ", ".join(f"{kind.replace('_', ' ')} {count:,}" for kind, count in sorted(kinds.items())))
            for sender, kinds in sorted(incidents.items(), key=lambda one: -sum(one[1].values()))[:INCIDENTS_MAX]
        ]
        yield _table("Refused messages and denied attempts", ("from", "what, and how often"), rows)


def _nodes(nodes: Sequence[Participation]) -> str:
    """Those first to which something happened."""
    rows = sorted(map(participation_row, nodes), key=lambda row: (not _trouble(row), str(row["id"])))[:NODES_MAX]
    heads = ("node", "used", "too late", "refused", "asked", "versions late", "up", "down", "what happened")
    shown = [
        (
            str(row["id"]),
            *(f"{row[name]:,}" for name in ("updates_applied", "updates_stale", "updates_refused", "asked")),
            f"{row['staleness_mean']:.1f}",
            human_bytes(int(str(row["bytes_up"]))),
            human_bytes(int(str(row["bytes_down"]))),
            _trouble(row),
        )
        for row in rows
    ]
    left_out = f" (of {len(nodes):,}, those first to which something happened)" if len(rows) < len(nodes) else ""
    return _table(f"Nodes{left_out}", heads, shown)


def _trouble(row: Mapping[str, Any]) -> str:
    counts = [*row["reasons"].items(), *row["absences"].items()]
    counts += [("restarts", row["restarts"])] if row["restarts"] else []
    return tally(dict(counts))


def _protection(folder: Path) -> Iterator[str]:
    helpers = read_helpers(folder)
    if helpers:
        yield f"Masked: the coordinator reads sums of updates only; helpers are {', '.join(helpers)}."
    match read_sealed(folder):
        case True:
            yield "Sealed: the broker reads neither updates nor the model."
        case False:
            yield "Not sealed: the broker reads updates and the model."
    yield "Training data stays on its node: neither coordinator nor broker has it."


def _list(title: str, texts: Iterable[str]) -> str:
    return f"<h2>{escape(title)}</h2><ul>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ul>"


def _table(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(tag: str, cells: Sequence[str]) -> str:
        last = len(cells) - 1
        made = (f"<{tag}{' class=words' if at == last else ''}>{escape(one)}</{tag}>" for at, one in enumerate(cells))
        return f"<tr>{''.join(made)}</tr>"

    top = f"<thead>{line('th', heads)}</thead>" if any(heads) else ""
    body = "".join(line("td", row) for row in rows)
    return f'<h2>{escape(title)}</h2><div class="scroll"><table>{top}<tbody>{body}</tbody></table></div>'


def _when(at_ms: int) -> str:
    try:
        return f"{dt.datetime.fromtimestamp(at_ms / 1000, dt.UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):
        return "at a time that no calendar has"


def _span(seconds: float) -> str:
    for unit_s, name in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:.1f} {name}"
    return f"{seconds:.1f} seconds"
