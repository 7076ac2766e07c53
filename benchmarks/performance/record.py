"""What was measured, kept as JSON, and shown on a page."""

import json
import os
import platform
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.performance.parts import PARTS
from benchmarks.table import Figure
from federation.runtime.local_broker import LocalBroker

__all__ = ["Record", "as_page", "bar_text", "machine", "read", "value_text", "write"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One part's run.

    Attributes:
        day: When, as YYYY-MM-DD.
        took_s: Wall time.
        load: Processes that wanted a core just before, as the system counts them over a minute.
        machine: Where.
        figures: What was measured.
        skipped: What was not, with the reason.
    """

    day: str
    took_s: float
    load: float
    machine: str
    figures: tuple[Figure, ...]
    skipped: Mapping[str, str]


def machine() -> str:
    """This machine in a line: cores, processor, memory, and the versions that matter."""
    model = "a processor without a name"
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = next((int(line.split()[1]) / (1 << 20) for line in _lines("/proc/meminfo") if "MemTotal" in line), 0.0)
    with LocalBroker() as broker:
        software = f"Python {platform.python_version()}, torch {version('torch')}, mosquitto {broker.version}"
    return f"{os.cpu_count()} cores of {model}, {memory:.0f} GiB, {platform.system()}, {software}"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def read(file: Path) -> dict[str, Record]:
    """The newest run of each part; none where nothing was measured."""
    try:
        told: Any = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return {
        name: Record(**(one | {"figures": tuple(Figure(**figure) for figure in one["figures"])}))
        for name, one in told.items()
        if name in PARTS
    }


def write(file: Path, records: Mapping[str, Record]) -> None:
    """Replace the file, all at once."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f"{file.name}.new")
    told = {name: asdict(records[name]) for name in PARTS if name in records}
    new.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    new.replace(file)


def as_page(records: Mapping[str, Record]) -> str:
    """Markdown: a summary, then for each part its command and its figures."""
    figures = [figure for record in records.values() for figure in record.figures if figure.bar is not None]
    missed = [figure for figure in figures if not figure.reached]
    lines = [f"{len(figures)} figures have a bar; {len(figures) - len(missed)} reach it, {len(missed)} miss it.", ""]
    for name in PARTS:
        if name not in records:
            lines += [f"## {PARTS[name].title}", "", f"Not measured yet: `{PARTS[name].command}`.", ""]
            continue
        lines += _section(name, records[name])
    return "\n".join(lines)


def _section(name: str, record: Record) -> Iterator[str]:
    yield f"## {PARTS[name].title}"
    yield ""
    when = f"{record.day}, {record.took_s:.0f} s, load {record.load:.1f} before"
    yield f"`{PARTS[name].command}`, {when}; {record.machine}."
    yield ""
    if record.figures:
        yield "| what | measured | bar | | from |"
        yield "|---|---|---|---|---|"
    for figure in record.figures:
        verdict = "" if figure.bar is None else "reached" if figure.reached else "**missed**"
        yield f"| {figure.what} | {value_text(figure)} | {bar_text(figure)} | {verdict} | {_plain(figure.note)} |"
    if record.figures:
        yield ""
    for what, why in record.skipped.items():
        yield f"Not measured: {what}: {_plain(why)}."
        yield ""


def value_text(figure: Figure) -> str:
    """What was measured, with its unit."""
    return _number(figure.measured, figure.unit)


def bar_text(figure: Figure) -> str:
    """What is to be reached, with its unit; nothing where there is no bar."""
    return "" if figure.bar is None else f"{'≥' if figure.at_least else '≤'} {_number(figure.bar, figure.unit)}"


def _number(value: float, unit: str) -> str:
    """Of three digits or so; a small ratio as a fraction of one."""
    if not unit and 0 < value < 0.2:
        return f"1/{1 / value:.3g}"
    text = f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}"
    return f"{text} {unit}".rstrip()


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "/").rstrip(".")
