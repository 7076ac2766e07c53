"""``coordinator demo`` once its options are read: it runs, shows what happens, and ends with a summary."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from coordinator.artifacts.export import kept_line
from coordinator.artifacts.plots.canvas import require_matplotlib
from coordinator.artifacts.plots.gallery import draw_run
from coordinator.artifacts.plots.run import run_of_report
from federation.out_files import check_file, make_out_folder
from federation.runtime.log import configure_log
from federation.task import task_label
from federation.units import beside_fp32, counted, human_bytes
from fedmq.demo.fork_server import ForkServer
from fedmq.demo.plan import DemoOptions, DemoPlan, make_plan
from fedmq.demo.processes import work_folder
from fedmq.demo.run import DemoFailed, make_demo, make_story
from fedmq.demo.view import LiveView, PlainView, failure_lines, node_table

__all__ = ["Outputs", "plan_name", "run_demo", "summary_table"]

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """What is written of a demo.

    Attributes:
        report: File for the whole report as JSON; None is nowhere.
        as_json: The report on standard output instead of tables.
        plot: Folder for pictures; None draws none.
    """

    report: Path | None
    as_json: bool
    plot: Path | None


def run_demo(options: DemoOptions, outputs: Outputs, server: ForkServer | None) -> None:
    """Run one demo and show it.

    Args:
        options: What is run.
        outputs: What is written of it.
        server: Forks the processes; None starts each from nothing.

    Raises:
        ConfigError: The options do not fit together; nothing was started.
        typer.Exit: It has failed or was interrupted; that was said.
    """
    plan = make_plan(options)
    if outputs.plot is not None:
        require_matplotlib()
        make_out_folder("--plot", outputs.plot)
    check_file("--report", outputs.report)  # it may be beside the pictures, or what is kept
    console = Console(stderr=outputs.as_json)
    configure_log(json=False, level="critical")  # of this process: it looks at the broker, and says itself what it saw
    try:
        result = _run(plan, console, server)
    except DemoFailed as error:
        Console(stderr=True).print(f"demo failed: {error}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(EXIT_FAILED) from error
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted: all processes are stopped")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if outputs.report is not None:
        outputs.report.write_text(json.dumps(result, indent=2) + "\n")
    if outputs.as_json:
        sys.stdout.write(json.dumps(result) + "\n")
    if plan.keep is None:
        said = "this run was not kept: --keep DIR leaves it for status, serve, plot and export"
        console.print(said, markup=False, highlight=False, soft_wrap=True)
    else:
        console.print(kept_line(plan.keep, options.task), markup=False, highlight=False, soft_wrap=True)
    if outputs.plot is not None:
        for file in draw_run(run_of_report(result, Path(f"demo-{plan_name(plan)}")), outputs.plot).files:
            console.print(str(file), markup=False, highlight=False, soft_wrap=True)


def plan_name(plan: DemoPlan) -> str:
    """The task's name, for a title: of a file only its own."""
    return task_label(plan.task).partition(":")[0].removesuffix(".py")


def _run(plan: DemoPlan, console: Console, server: ForkServer | None) -> Mapping[str, object]:
    story = make_story(plan)
    view = LiveView(console, plan, story) if console.is_terminal else PlainView(console)
    with work_folder() as folder, view:
        result = make_demo(plan, view, story, folder, server).run()
    if not console.is_terminal:
        console.print(node_table(story))
    for line in (*failure_lines(story), *filter(None, [story.standing])):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(summary_table(result))
    return result


def summary_table(report: Mapping[str, object]) -> Table:
    """What the demo reached, against plain fp32 for the same exchanges."""
    table = Table(box=SIMPLE_HEAD, show_header=False, pad_edge=False)
    up, down = _traffic(report, "up"), _traffic(report, "down")
    name, reached = _final(report)
    rows = {
        name: reached,
        "versions": str(len(rounds)) if isinstance(rounds := report.get("rounds"), list) else "0",
        "strategy, codec": f"{report.get('strategy')}, {report.get('codec')}",
        "bytes up": up,
        "bytes down": down,
        "loop / total": f"{_number(report, 'loop_wall_s'):.1f} s / {_number(report, 'total_wall_s'):.1f} s",
        "killed and back": _back(report),
        **({"helpers": _helpers(report)} if report.get("helpers") else {}),
        **site_rows(report.get("sites")),
        **({"noise on sums": noise} if (noise := _noise(report.get("nodes_privacy"))) else {}),
        "broker": str(report.get("broker")),
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _back(report: Mapping[str, object]) -> str:
    """How many were killed and had an update applied after it; who was not back at the end is told."""
    killed, back = _number(report, "chaos_kills"), _number(report, "chaos_returns")
    return f"{back:.0f}" if back >= killed else f"{back:.0f} of {killed:.0f}: the run ended first"


def _helpers(report: Mapping[str, object]) -> str:
    """How many masked the sums, and what was killed of the servers meanwhile."""
    return f"{report.get('helpers')}, each update masked; {_number(report, 'server_kills'):.0f} servers killed and back"


def site_rows(found: object) -> Mapping[str, str]:
    """The demo through gateways held against the same without; nothing where there were none."""
    if not isinstance(found, Mapping):
        return {}
    flat, exact, again = (found[f"bytes_up_{name}"] for name in ("flat", "exact", "coded_again"))
    same, versions = found["versions_same"], found["versions"]
    members = max(found["members"], default=0)
    gateways = counted(found["gateways"], "gateway") + (
        f" on {found['levels'] - 1} levels" if found["levels"] > 2 else ""
    )
    problems = "; ".join(found["problems"])
    return {
        "digest": f"{found['digest']}",
        "digest without gateways": f"{found['flat_digest']} (same bits: {same} of {counted(versions, 'version')})",
        "updates, once each": problems or f"all, {members} in a version, through {gateways}",
        "up to the coordinator": f"{human_bytes(exact)}, {_beside(exact, flat)} {human_bytes(flat)} without",
        "coded again as edge": f"{human_bytes(again)}, {_beside(again, flat)} same",
        "gateways killed and back": f"{found['kills']} and {found['back']}",
    }


def _beside(sent: int, other: int) -> str:
    """How many bytes one is of the other; a sum is more than the few tiny updates that it is of."""
    return f"1/{other / max(1, sent):.1f} of the" if sent <= other else f"{sent / max(1, other):.1f} times the"


def _noise(row: object) -> str:
    """What the noised sums tell of any node; nothing without noise."""
    if not isinstance(row, Mapping):
        return ""
    return f"epsilon {_number(row, 'largest_epsilon'):.2f} (delta {_number(row, 'delta'):g}, unit {row.get('unit')})"


def _final(report: Mapping[str, object]) -> tuple[str, str]:
    """What the newest evaluated version has reached: accuracy, or the loss where there is none."""
    accuracy, rounds = report.get("final_accuracy"), report.get("rounds")
    if isinstance(accuracy, float):
        return "final accuracy", f"{accuracy:.2%}"
    losses = [row.get("loss") for row in rounds if isinstance(row, Mapping)] if isinstance(rounds, list) else []
    loss = next((each for each in reversed(losses) if isinstance(each, float)), None)
    return ("final accuracy", "not evaluated") if loss is None else ("final loss", f"{loss:.4g}")


def _traffic(report: Mapping[str, object], way: str) -> str:
    """Bytes until the newest version, as ``status``, ``compare``, the plots and the page count them."""
    found = report.get("rounds")
    rounds = [row for row in found if isinstance(row, Mapping)] if isinstance(found, list) else []
    sent, plain = sum(_number(row, f"bytes_{way}") for row in rounds), _number(report, f"bytes_{way}_fp32")
    if not sent or not plain:
        return human_bytes(sent)
    # Headers and announcements included.
    return f"{human_bytes(sent)} with headers, {beside_fp32(sent, plain)} ({human_bytes(plain)})"


def _number(report: Mapping[str, object], key: str) -> float:
    value = report.get(key, 0.0)
    return float(value) if isinstance(value, int | float) else 0.0
