"""The options of ``coordinator simulate --train``, and the coordinator's configuration that they come to.

An option that is given wins over the file of ``--config``, and the file over what an experiment takes by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from coordinator.config.privacy import PrivacySection
from coordinator.config.sections import CoordinatorConfig, RoundSection, read_config
from coordinator.config.settings import strategy_name
from federation.documents import read_toml
from federation.errors import ConfigError
from federation.protocol.cohort import COHORT_NODES_MAX
from federation.protocol.limits import HELPERS_MAX

__all__ = ["ROUNDS", "TrainOptions", "resolve"]

ROUNDS = 100
"""Model versions where neither the options nor the file say how many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """The options as they were given; None takes the file's, else what an experiment takes by itself."""

    task: str | None = None
    nodes: int = 10
    rounds: int | None = None
    per_round: int | None = None
    buffer: int | None = None
    codec: str | None = None
    strategy: str | None = None
    selector: str | None = None
    partition: str | None = None
    data: Path | None = None
    stragglers: str = ""
    outages: str = ""
    seed: int | None = None
    evaluate_every: int | None = None
    config: Path | None = None
    settings: Sequence[str] = ()
    stacked: bool = True
    workers: int = 1
    cluster: str = ""
    device: str = "cpu"
    report: Path | None = None
    keep: Path | None = None
    helpers: int = 0
    masks: bool = True


def resolve(options: TrainOptions) -> tuple[TrainOptions, CoordinatorConfig]:
    """The configuration, and the options with what was left open.

    Raises:
        ConfigError: A setting is unknown or out of range, or more nodes are asked than there are.
    """
    nodes = options.nodes
    if options.per_round is not None and not 1 <= options.per_round <= nodes:
        raise ConfigError("--per-round", f"needs 1 to {nodes:,}, not {options.per_round:,}", source="command line")
    config = read_config(options.config, _flags(options), environ={})
    chosen = config.round
    every = config.evaluation.every if options.evaluate_every is None else options.evaluate_every
    resolved = replace(
        options,
        per_round=_per_round(options, chosen),
        task=config.task.name,
        data=config.task.data,
        seed=config.task.seed,
        rounds=chosen.versions or ROUNDS,
        codec=config.codec.up,
        strategy=strategy_name(config),
        selector=chosen.selector,
        evaluate_every=every,
    )
    return resolved, config


def _per_round(options: TrainOptions, chosen: RoundSection) -> int:
    """How many nodes train at once, at most."""
    if options.per_round is not None:
        return options.per_round
    if chosen.fraction is not None:
        return min(options.nodes, COHORT_NODES_MAX)
    if options.config is None:
        return options.nodes
    if chosen.concurrency > options.nodes:
        problem = f"round.concurrency asks {chosen.concurrency} of {options.nodes}"
        raise ConfigError("--nodes", problem, source="command line")
    return chosen.concurrency


def _flags(options: TrainOptions) -> dict[str, object]:
    given: dict[str, object] = {
        "task.name": options.task,
        "task.data": options.data,
        "task.seed": options.seed,
        "codec.up": options.codec,
        "strategy.name": options.strategy,
        "strategy.nodes": options.nodes if options.strategy == "scaffold" else None,
        "round.selector": options.selector,
        "round.versions": options.rounds,
        "round.concurrency": None if options.per_round is None else min(options.per_round, COHORT_NODES_MAX),
        "round.buffer": options.buffer,
    }
    given = {key: value for key, value in given.items() if value is not None}
    return _own(options) | _masked(options) | given | dict(map(_setting, options.settings))


def _own(options: TrainOptions) -> dict[str, object]:
    """What an experiment takes by itself; with a file only what no file need have."""
    always: dict[str, object] = {"broker.url": "mqtt://localhost"}
    if options.config is not None:
        return always
    return always | {
        "federation.id": "simulation",
        "codec.up": "lossless",
        "round.versions": ROUNDS,
        "round.concurrency": min(options.nodes, COHORT_NODES_MAX),
    }


def _masked(options: TrainOptions) -> dict[str, object]:
    """Masked sums over so many helpers; nobody's keys, since nothing is sealed to them here."""
    if not options.helpers:
        return {}
    if not 1 <= options.helpers <= HELPERS_MAX:
        raise ConfigError("--helpers", f"needs 1 to {HELPERS_MAX}, not {options.helpers}", source="command line")
    keys = [f"helper-{number}={number + 1:064x}" for number in range(options.helpers)]
    masked: dict[str, object] = {"privacy.masked": True, "privacy.helpers": keys, "codec.up": "masked"}
    least = PrivacySection().members_min
    return masked if options.config is not None else masked | {"round.quorum": least}


def _setting(text: str) -> tuple[str, object]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError("--set", f"{text!r} is not KEY=VALUE, such as train.learning_rate=0.1", source="command line")
    try:
        return key, read_toml(f"value = {value}")["value"]
    except ValueError:
        return key, value
