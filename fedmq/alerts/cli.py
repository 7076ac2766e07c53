"""``coordinator alerts``: its options, and the process that follows a run; `follower_of` for the page's process."""

import json
import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from coordinator.config.sections import CoordinatorConfig, read_config
from coordinator.enrolment.cli import certificate_ends
from federation.runtime.log import configure_log
from fedmq.alerts.follow import Follower
from fedmq.alerts.sinks import make_sinks
from fedmq.run_view import RunView

__all__ = ["alerts", "follower_of"]

EXIT_NOT_DELIVERED = 1


def alerts(
    *,
    config: Annotated[
        Path, typer.Option(help="The coordinator's TOML file, or the folder of coordinator init.", exists=True)
    ],
    once: Annotated[bool, typer.Option("--once", help="Look once, tell what is new, and end: for a timer.")] = False,
    test: Annotated[bool, typer.Option("--test", help="Send one alert everywhere, and say what arrived.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --once or --test: print it as JSON.")] = False,
) -> None:
    """Tell people when a run needs them: once, and once more when it is over.

    The section alerts of the configuration says when, and how. This process only reads the state folder, and keeps
    there what it has told. Exit code with --test: 0 all of it was delivered, 1 something was not.

    \b
    Examples:
      coordinator alerts --config plant --test
      coordinator alerts --config plant
    """  # noqa: D301 - the escape is the library's mark for a block that keeps its lines
    settings = read_config(config, {})
    configure_log(json=as_json or settings.log.as_json, level="info")
    follower = follower_of(settings, config)
    if test:
        problems = follower.test()
        if as_json:
            typer.echo(json.dumps(problems))
        else:
            for name, problem in problems.items():
                typer.echo(f"{name}: {problem or 'delivered'}")
        raise typer.Exit(EXIT_NOT_DELIVERED if any(problems.values()) else 0)
    if once:
        told = follower.once()
        if as_json:
            typer.echo(json.dumps([notice.row() for notice in told]))
        return
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stopped.set())
    follower.run(stopped)


def follower_of(config: CoordinatorConfig, place: Path) -> Follower:
    """The follower of a configuration's run.

    Args:
        config: The configuration.
        place: Its file, or the federation's folder, whose certificates are looked at.

    Raises:
        ConfigError: A way to tell people cannot be used.
    """
    return Follower(
        folder=config.store.folder,
        federation=config.federation.id,
        limits=config.alerts,
        lease_s=config.round.lease_s,
        interval_s=config.round.interval_min_s,
        sinks=make_sinks(config.alerts, config.federation.id),
        look=RunView(config.store.folder).now,
        certificates=(lambda: certificate_ends(place)) if place.is_dir() else dict,
    )
