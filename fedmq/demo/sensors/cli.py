"""``coordinator demo-sensors``: its options, its summary and its exit codes."""

import json
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from federation.errors import ConfigError
from federation.out_files import check_file
from federation.runtime.log import configure_log
from fedmq.demo.processes import Fleet, work_folder
from fedmq.demo.sensors.plan import SensorPlan
from fedmq.demo.sensors.run import SensorDemo, SensorDemoFailed, stories_of
from fedmq.demo.sensors.view import Board, LiveView, PlainView, View, drawn

__all__ = ["demo_sensors"]

EXIT_FAILED, EXIT_INTERRUPTED = 1, 130


def demo_sensors(  # noqa: PLR0913 - one parameter per option is how the library declares them
    *,
    pumps: Annotated[int, typer.Option(help="Devices: a node and a score service each.")] = 12,
    versions: Annotated[int, typer.Option(help="Model versions after which the run is over.")] = 20,
    rate: Annotated[float, typer.Option(help="Rows a second of each pump, once scores are made.")] = 30.0,
    rows: Annotated[int, typer.Option(help="Rows of each pump, at most; 0 is all.")] = 0,
    chaos: Annotated[bool, typer.Option(help="Kill one device on the way, and start it again.")] = True,
    data: Annotated[Path | None, typer.Option(help="Folder of SKAB. Default: FEDMQ_DATA/skab, else simulated.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write what was measured as JSON.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw the last screen: FILE.svg.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was measured as JSON instead of text.")] = False,
) -> None:
    """Run pumps whose sensors speak MQTT: nodes take the readings in, learn together, and score each row.

    The readings are those of the Skoltech Anomaly Benchmark where it is there, real pumps with real faults; else
    simulated ones. One device is killed with SIGKILL, node and score service, and comes back; no reading is lost.

    \b
    Examples:
      coordinator demo-sensors
      coordinator demo-sensors --data ../shared/data/skab --report sensors.json
    """  # noqa: D301 - \b keeps the line breaks in the help
    check_file("--report", report)
    check_file("--picture", picture, ".svg")
    _require_programs()
    plan = SensorPlan(pumps=pumps, versions=versions, rate=rate, rows=rows, chaos=chaos, data=data)
    console = Console(stderr=as_json)
    configure_log(json=False, level="critical")
    board = Board(stories_of(plan))
    board.real = any(story.pump.source != "simulated" for story in board.stories.values())
    view: View = LiveView(console, board) if console.is_terminal else PlainView(console)
    try:
        with work_folder("fedmq-pumps-") as folder, view:
            view.say(_source_line(board))
            result = SensorDemo(plan, board, view, folder, Fleet(folder=folder)).run()
    except SensorDemoFailed as error:
        Console(stderr=True).print(f"demo failed: {error}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(EXIT_FAILED) from error
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted: all processes are stopped")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if report is not None:
        report.write_text(json.dumps(result, indent=2) + "\n")
    if picture is not None:
        _draw(board, picture)
    if as_json:
        sys.stdout.write(json.dumps(result) + "\n")
        return
    for line in summary(result):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _require_programs() -> None:
    """Ask before anything starts whether devices can write their models and score with them.

    Raises:
        ConfigError: A library is not installed.
    """
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        problem = (
            f"devices score with ONNX programs, and {', '.join(missing)} is missing: pip install 'fedmq[onnx,score]'"
        )
        raise ConfigError("demo-sensors", problem, source="this environment")


def _source_line(board: Board) -> str:
    if board.real:
        return "readings: Skoltech Anomaly Benchmark, real pumps with real faults, a row a second, replayed faster"
    return "readings: simulated pumps (no SKAB: set FEDMQ_DATA, or --data)"


def summary(result: Mapping[str, object]) -> list[str]:
    """What was measured, for people."""
    shares = [f"{float(str(result[name])):.1%}" for name in ("false_alarm_rate", "missed_alarm_rate")]
    return [
        f"F1 {result['f1']}   false alarms {shares[0]}   missed alarms {shares[1]}   versions {result['versions']}",
        f"readings {result['readings']}, lost {result['readings_lost']}   killed and back {result['killed_and_back']}",
        f"row in, score out: p99 {result['score_p99_ms']} ms   total {result['total_wall_s']} s",
    ]


def _draw(board: Board, path: Path) -> None:
    with Path("/dev/null").open("w") as nowhere:
        console = Console(record=True, width=80, file=nowhere, force_terminal=True, color_system="truecolor")
        console.print(drawn(board))
        path.write_text(console.export_svg(title="make demo-sensors"))
