"""``coordinator audit``: its options, its table and its exit code."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from coordinator.backup.making import refuse_site
from coordinator.config.sections import StoreSection, read_config
from coordinator.config.settings import committer_settings
from federation.units import counted
from fedmq.audit.audit import AuditReport, Outcome, Witness, audit

__all__ = ["audit_command"]

EXIT_VIOLATED = 1
_COLOURS = {Outcome.PASS: "green", Outcome.FAIL: "bold red", Outcome.SKIP: "dim"}


def audit_command(
    *,
    config: Annotated[
        Path | None, typer.Option(help="TOML file of the coordinator; needed for I7.", exists=True)
    ] = None,
    state: Annotated[Path | None, typer.Option(help="State folder, instead of the configuration's.")] = None,
    node: Annotated[
        list[Path] | None, typer.Option(help="State folder of a node; may be given more than once.")
    ] = None,
    helper: Annotated[
        list[Path] | None, typer.Option(help="State folder of a helper of masked sums; may be given more than once.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
) -> None:
    """Check the stores of a stopped federation: nothing lost, nothing counted twice, the head as its updates make it.

    Reads only. Exit code 0 when every check passed, 1 when one failed.

    \b
    Examples:
      coordinator audit --config coordinator.toml
      coordinator audit --state state/coordinator --node state/pi-1 --node state/pi-2 --json
    """  # noqa: D301 - \b keeps the line breaks in the help
    settings = None if config is None else read_config(config, {})
    folder = state or (StoreSection() if settings is None else settings.store).folder
    refuse_site(folder, "coordinator audit looks at the run there")
    report = audit(
        folder,
        nodes=node or [],
        helpers=helper or [],
        settings=None if settings is None else committer_settings(settings),
        witness=Witness(),
        private=settings is not None and settings.privacy.unit == "examples",
    )
    if as_json:
        sys.stdout.write(json.dumps(_as_json(report)) + "\n")
    else:
        Console().print(_table(report))
    if not report.holds:
        raise typer.Exit(EXIT_VIOLATED)


def _as_json(report: AuditReport) -> dict[str, object]:
    return {
        "holds": report.holds,
        "findings": [
            {"invariant": one.invariant, "outcome": one.outcome.value, "claim": one.claim, "detail": one.detail}
            for one in report.findings
        ],
        "lost": sorted(report.lost),
        "double": sorted(report.double),
        "waiting": sorted(report.waiting),
    }


def _table(report: AuditReport) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("", "", "what must hold", "found"):
        table.add_column(name, overflow="fold")
    for one in report.findings:
        verdict = f"[{_COLOURS[one.outcome]}]{one.outcome.value.upper()}[/]"
        table.add_row(one.invariant, verdict, one.claim, escape(one.detail))
    if report.waiting:
        table.caption = f"{counted(len(report.waiting), 'update')} stored, waiting for the next version"
    return table
