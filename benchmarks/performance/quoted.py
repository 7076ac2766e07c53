"""What the README quotes: the numbers of the page, few of them, each with the command that prints it."""

from collections.abc import Mapping

from benchmarks.performance.parts import PARTS
from benchmarks.performance.record import Record, bar_text, value_text

__all__ = ["QUOTED", "as_table"]

QUOTED: Mapping[str, tuple[str, ...]] = {
    "main": (
        "J1, 10 node processes, codec balanced: accuracy after 5 rounds",
        "J1 loop wall time / plain PyTorch",
        "Flower's loop on J1 / ours",
        "J1 bytes up / fp32, balanced",
        "J1 bytes up / fp32, edge",
        "announcement to last receipt, null task, 10 nodes, p50",
        "make demo after set-up",
        "make demo: accuracy on digits",
        "coordinator's peak memory, J1",
        "its memory after 1,000 updates / after 300",
        "simulate 1,000 nodes x 100 rounds",
    ),
    "bytes": ("balanced: bytes down / fp32",),
    "codec": ("J1's shapes, `edge`",),
    "start": ("coordinator that evaluates digits: largest memory",),
    "fleet-1000": ("updates per CPU second of the coordinator, 1,000 nodes, asynchronous",),
    "failover": ("a leader killed: until the other leads, p95",),
    "readings": ("readings a second, one core",),
    "scores": ("a window in, its score out, while the device trains, p99",),
}
"""By part, the names of its figures."""


def as_table(records: Mapping[str, Record]) -> str:
    """Markdown: a row for each figure; one that was not measured says so. A part's command is in its first row."""
    lines = ["| what | bar | measured | by |", "|---|---|---|---|"]
    for part, names in QUOTED.items():
        known = {figure.what: figure for figure in records[part].figures} if part in records else {}
        for place, name in enumerate(names):
            figure, bar, told = known.get(name), "", "not yet"
            by = "" if place else f"`{PARTS[part].command}`"
            if figure is not None:
                bar, told = bar_text(figure), value_text(figure) + ("" if figure.reached else ", **missed**")
            lines.append(f"| {name} | {bar} | {told} | {by} |")
    return "\n".join(lines) + "\n"
