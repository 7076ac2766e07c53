"""From the configuration to what the machine and the committer are told: defaults that depend on others, and checks."""

import math
from dataclasses import fields, replace
from typing import Any

from coordinator.config.combinations import check_combination, round_size, strategy_name, uses_controls
from coordinator.config.evaluation import EvaluationSection, StoppingSection
from coordinator.config.noise import coordinator_noise, nodes_noise, noise_settings
from coordinator.config.privacy import masked_model, masking_settings, needs, with_privacy
from coordinator.config.sections import (
    CodecSection,
    CoordinatorConfig,
    RoundSection,
    StrategySection,
    TrainSection,
)
from coordinator.config.statistics import ROWS_MAX
from coordinator.engine.early_stopping import Source, StoppingSettings
from coordinator.engine.settings import EngineSettings, FederatedEvaluationSettings
from coordinator.global_model.aggregation import AggregateLimits
from coordinator.global_model.committer import CommitterSettings
from coordinator.global_model.downlink import DownlinkSettings
from coordinator.global_model.statistics import NORM_MAX, PIECE_LEVELS
from coordinator.strategies.codecs import LARGE, SMALL, down_codec, everywhere, fallbacks_of
from coordinator.strategies.lag_compensation import LagCompensation, lag_of
from coordinator.strategies.learning_rate import RateSchedule, ScheduleKind
from coordinator.strategies.presets import STRATEGIES
from coordinator.strategies.robust import make_rule
from coordinator.strategies.strategy import Strategy, StrategySettings, make_strategy
from federation.errors import ConfigError
from federation.protocol.fields import FieldError
from federation.protocol.messages import TrainSettings
from federation.protocol.schema import check_settings
from federation.task import ADAM_KEY, CLIP_KEY, DECOUPLED_KEY, KEPT_KEY, MIXED, MIXED_KEY, task_label
from federation.tasks.registry import default_settings
from federation.tasks.scaffold import NODES_KEY, RESOLUTION_DEFAULT, RESOLUTION_KEY
from federation.tasks.statistics.layout import PASSES
from federation.tasks.statistics.task import StatisticsRequest
from update_codec import CodecSpec
from update_codec.spec import PROFILES

__all__ = [
    "committer_settings",
    "counting_config",
    "down_spec",
    "engine_settings",
    "statistics_request",
    "strategy_name",
    "up_codec",
    "update_norm_max",
    "uses_controls",
]


def engine_settings(config: CoordinatorConfig) -> EngineSettings:
    """What the machine is told.

    Raises:
        ConfigError: Two settings do not fit together.
    """
    chosen, limits = config.round, config.limits
    size = round_size(config)
    check_combination(config, size)
    nodes_noise(config, size)
    noise = noise_settings(config, size)
    return EngineSettings(
        task=task_label(config.task.name),
        train=train_settings(config),
        rates=rate_schedule(config),
        codec_up=up_codec(config),
        codec_fallbacks=fallbacks_of(up_codec(config), config.codec.fallbacks),
        versions=chosen.versions,
        concurrency=size.concurrency,
        buffer=size.buffer,
        refill=size.refill,
        quorum=size.quorum,
        nodes_min=size.quorum if chosen.nodes_min is None else chosen.nodes_min,
        lease_s=chosen.lease_s,
        interval_min_s=chosen.interval_min_s,
        max_wait_s=chosen.max_wait_s,
        max_staleness=size.max_staleness,
        per_node_quota=chosen.per_node_quota,
        num_examples_max=limits.num_examples_max,
        payload_bytes_max=limits.payload_bytes_max or 0,
        spread_s=chosen.spread_s,
        pace_s=chosen.pace_s,
        chunk_bytes=config.broker.body_bytes,
        window_chunks=min(limits.window_chunks, config.broker.limits.window_chunks),
        transfers_max=limits.transfers_max,
        evaluate_every=config.evaluation.every,
        exit_when_finished=chosen.exit_when_finished,
        fraction=chosen.fraction or 0.0,
        over_selection=chosen.over_selection,
        signed=config.security.require_signatures,
        sealed=config.privacy.sealed,
        needs=needs({str(name): least for name, least in chosen.needs.items()}, config.privacy),
        federated_evaluation=FederatedEvaluationSettings(
            every=config.evaluation.nodes_every,
            fraction=config.evaluation.nodes_fraction,
            nodes_min=max(config.evaluation.nodes_min, config.privacy.members_min if config.privacy.masked else 1),
            metrics=config.evaluation.nodes_metrics if config.privacy.masked else (),
        ),
        stopping=stopping_settings(config),
        masking=masking_settings(config.privacy),
        noise=noise,
        gateways=config.gateways.caps,
    )


def counting_config(config: CoordinatorConfig) -> CoordinatorConfig:
    """The configuration of a run that only counts: the same fleet, broker, keys and masks, and nothing of the training.

    Raises:
        ConfigError: Masks need to know how many nodes there are, and helpers add no noise to counts.
    """
    chosen, masked = config.statistics, config.privacy.masked
    if not chosen.only:
        return config
    if config.privacy.unit == "nodes":
        why = "noise on sums would spoil counts in pieces: count with examples, or without noise (under masks)"
        raise ConfigError("privacy.unit", why)
    if masked and chosen.nodes is None:
        raise ConfigError("statistics.nodes", "masks need to know how many nodes make a sum: say it (--nodes)")
    limits: dict[str, object] = {"clip_norm": 0.0, "step_norm_max": NORM_MAX}
    if "num_examples_max" not in config.limits.model_fields_set:
        limits["num_examples_max"] = ROWS_MAX
    least = chosen.nodes or config.round.nodes_min or 1
    kept = config.round.model_dump(include={"lease_s", "max_wait_s", "spread_s", "pace_s", "needs"})
    sized: dict[str, Any] = {"fraction": 1.0}
    if masked:
        sized = {"concurrency": least, "quorum": max(config.privacy.members_min, -(-least // 2))}
    privacy: dict[str, object] = {}
    if masked:
        privacy = {"levels": PIECE_LEVELS, "step": 1.0, "clip": None, "importance_cap": None, "groups": 1}
    if config.privacy.unit is not None:
        # Each row is in each pass, and the passes together stay within epsilon.
        privacy |= {"sampling_rate": 1.0, "row_clip": 1.0, "noise": None}
    return config.model_copy(
        update={
            "round": RoundSection(**sized, **kept, nodes_min=least, versions=PASSES, exit_when_finished=True),
            "train": TrainSection(
                local_epochs=1,
                batch_size=1,
                learning_rate=1e-3,
                momentum=0,
                weight_decay=0,
                max_steps=1,
                proximal_mu=0,
                extra={},
            ),
            "codec": CodecSection(down="lossless") if masked else CodecSection(up="lossless", down="lossless"),
            "strategy": StrategySection(),
            "evaluation": EvaluationSection(every=0),
            "stopping": StoppingSection(),
            "limits": config.limits.model_copy(update=limits if masked else {**limits, "update_norm_max": NORM_MAX}),
            "privacy": config.privacy.model_copy(update=privacy),
        }
    )


def statistics_request(config: CoordinatorConfig) -> StatisticsRequest | None:
    """What is counted, and with which noise; None where the run trains."""
    if not config.statistics.only:
        return None
    privacy = train_settings(config).privacy
    return config.statistics.request(0.0 if privacy is None else privacy.noise)


def stopping_settings(config: CoordinatorConfig) -> StoppingSettings:
    """What is called the best version, and how long to wait for a better one.

    Raises:
        ConfigError: Evaluations count that nobody makes.
    """
    chosen, evaluation = config.stopping, config.evaluation
    source = chosen.on
    if source is None:
        source = Source.CENTRAL if evaluation.every or not evaluation.nodes_every else Source.NODES
    made = evaluation.every if source is Source.CENTRAL else evaluation.nodes_every
    if not made and (chosen.patience or chosen.on is not None):
        key = "evaluation.every" if source is Source.CENTRAL else "evaluation.nodes_every"
        raise ConfigError(key, f"0 makes no evaluation, and stopping waits for those on {source.value}")
    return StoppingSettings(
        source=source, metric=chosen.metric, goal=chosen.goal, patience=chosen.patience, min_delta=chosen.min_delta
    )


def train_settings(config: CoordinatorConfig) -> TrainSettings:
    """How nodes train: the task's own choice, and over it what the configuration says.

    Raises:
        ConfigError: There is no such task, or no announcement has room for a number.
    """
    chosen = config.train.model_dump(include={field.name for field in fields(TrainSettings)})
    given = {key: value for key, value in chosen.items() if value is not None}
    preset = STRATEGIES.get(strategy_name(config))
    if preset is not None and preset.proximal_mu:
        given = {"proximal_mu": preset.proximal_mu} | given
    settings = replace(default_settings(config.task.name), **({"seed": config.task.seed} | given))
    settings = with_privacy(_with_optimizer(settings, config), config.privacy, config.round.versions)
    settings = _with_controls(settings, config) if uses_controls(config) else settings
    try:
        check_settings(settings)
    except FieldError as error:
        name, _, problem = str(error).removeprefix("TrainSettings.").partition(" ")
        raise ConfigError(f"train.{name}", problem) from error
    return settings


def rate_schedule(config: CoordinatorConfig) -> RateSchedule:
    """How the learning rate changes with the versions.

    Raises:
        ConfigError: It needs what is not given.
    """
    chosen = config.train
    if chosen.schedule is ScheduleKind.COSINE and not config.round.versions:
        raise ConfigError("train.schedule", "a cosine ends with the run: say how long it is, in round.versions")
    return RateSchedule(kind=chosen.schedule, warmup=chosen.warmup, every=chosen.decay_every, factor=chosen.decay)


def _with_optimizer(settings: TrainSettings, config: CoordinatorConfig) -> TrainSettings:
    """The local optimizer travels among the further numbers: the message has no room for more fields.

    Raises:
        ConfigError: Two settings exclude each other.
    """
    chosen, extra = config.train, dict(settings.extra)
    if chosen.clip_norm is not None:
        extra[CLIP_KEY] = chosen.clip_norm
    if chosen.optimizer is not None:
        extra.pop(ADAM_KEY, None)
        extra.pop(DECOUPLED_KEY, None)
    if chosen.optimizer in {"adam", "adamw"}:
        if chosen.momentum:
            raise ConfigError("train.momentum", f"{chosen.optimizer} has its own: leave it out")
        settings = replace(settings, momentum=0.0)
        extra |= {ADAM_KEY: 1.0} | ({DECOUPLED_KEY: 1.0} if chosen.optimizer == "adamw" else {})
    if chosen.optimizer_state is not None:
        extra[KEPT_KEY] = float(chosen.optimizer_state == "kept")
    if chosen.mixed_precision is not None:
        extra[MIXED_KEY] = MIXED.get(chosen.mixed_precision, 0.0)
    return replace(settings, extra=extra)


def _with_controls(settings: TrainSettings, config: CoordinatorConfig) -> TrainSettings:
    """What nodes need for SCAFFOLD.

    Raises:
        ConfigError: Its formulas do not hold for these settings.
    """
    for name in ("momentum", "proximal_mu"):
        if getattr(settings, name):
            why = f"scaffold is plain local SGD: 0, not {getattr(settings, name):g} (which may be the task's default)"
            raise ConfigError(f"train.{name}", why)
    if settings.extra.get(ADAM_KEY) or settings.extra.get(CLIP_KEY):
        raise ConfigError("train.optimizer", "scaffold is plain local SGD: no adam, adamw or clip_norm")
    own = {NODES_KEY: float(config.strategy.nodes or 0), RESOLUTION_KEY: _resolution(CodecSpec.parse(config.codec.up))}
    return replace(settings, extra=own | dict(settings.extra))


def _resolution(up: CodecSpec) -> float:
    """How finely changes of control variates travel: as the updates do, finely, coarsely or in few entries."""
    if not up.lossy:
        return RESOLUTION_DEFAULT
    return 2.0 if up.feedback else 0.5


def up_codec(config: CoordinatorConfig) -> str:
    """The codec of the updates; under masks there is only theirs."""
    if not config.privacy.masked:
        return config.codec.up
    return config.codec.up if "up" in config.codec.model_fields_set else "masked"


def down_spec(config: CoordinatorConfig) -> CodecSpec:
    """The codec of the model's deltas."""
    if config.codec.down is not None:
        return CodecSpec.parse(config.codec.down)
    return CodecSpec.parse("lossless") if config.privacy.masked else down_codec(CodecSpec.parse(config.codec.up))


def update_norm_max(config: CoordinatorConfig) -> float:
    """The longest update that is taken: where the coordinator adds noise it clips, and refuses none by its length."""
    own = config.privacy.unit == "nodes" and config.privacy.noise_by == "coordinator"
    return math.inf if own else config.limits.update_norm_max


def committer_settings(config: CoordinatorConfig) -> CommitterSettings:
    """What the committer is told.

    Raises:
        ConfigError: The strategy, or a part of it, is unknown.
    """
    chosen = config.strategy.model_dump(exclude={"robust", "attackers", "nodes", "sums"})
    size = round_size(config)
    chosen |= {"name": strategy_name(config), "history": size.max_staleness}
    noise = coordinator_noise(config, size)
    if config.privacy.masked or noise is not None:
        chosen |= {"importance": "uniform", "staleness": "constant"}
    down = down_spec(config)
    plain = everywhere(down, CodecSpec.parse(config.codec.up))
    return CommitterSettings(
        strategy=_compensated(make_strategy(StrategySettings(**chosen)), config, down),
        plain_strategy=_compensated(make_strategy(StrategySettings(**chosen)), config, plain),
        downlink=DownlinkSettings(
            spec=down,
            plain=plain,
            plain_outside=None if config.codec.down is not None else (SMALL, LARGE),
            chunk_bytes=config.broker.body_bytes,
            delta_chain_max=config.codec.delta_chain_max,
        ),
        contexts=_contexts(config),
        masked=masked_model(config.privacy, size.buffer, size.max_staleness + 1, nodes_noise(config, size)),
        noise=noise,
        limits=AggregateLimits(
            step_norm_max=config.limits.step_norm_max if noise is None else math.inf,
            clip_norm=config.limits.clip_norm,
            rule=make_rule(config.strategy.robust, config.strategy.attackers),
            per_base=config.gateways.per_base(config.strategy.sums),
        ),
    )


def _contexts(config: CoordinatorConfig) -> int:
    """Versions whose codec contexts are kept: those that an update may be based on, stored or kept for the audit."""
    if config.privacy.masked or not any(
        CodecSpec.parse(codec).context for codec in (config.codec.up, *config.codec.fallbacks)
    ):
        return 0
    return round_size(config).max_staleness + 1 + config.store.audit_versions


def _compensated(strategy: Strategy, config: CoordinatorConfig, down: CodecSpec) -> Strategy:
    given, up = config.codec.lag_versions, CodecSpec.parse(up_codec(config))
    versions = lag_of(up, down) if given is None else given
    # FedAsync pulls the model back to an update's base: a step that ran ahead would be pulled back, too.
    if versions == 0 or (given is None and strategy_name(config) == "fedasync"):
        return strategy
    if given is not None or up_codec(config) not in PROFILES:
        return LagCompensation(strategy=strategy, versions=versions)
    return LagCompensation(strategy=strategy, versions=versions, up=up, down=down)
