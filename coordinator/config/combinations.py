"""Which settings fit together: how large a round is, and what strategy, robust rule and engine exclude of each other.

docs/reference/strategies.md has the same as a table.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from coordinator.config.gateways import refuse_beside_sums
from coordinator.config.sections import CoordinatorConfig, RoundSection
from coordinator.strategies.presets import STRATEGIES, Preset
from coordinator.strategies.robust import NO_RULE, make_rule
from federation.errors import ConfigError
from federation.protocol.cohort import COHORT_NODES_MAX
from federation.protocol.limits import MASK_BITS_MAX, MEMBERS_MAX
from update_codec import CodecSpec
from update_codec.spec import Kind

__all__ = [
    "RoundSize",
    "check_combination",
    "round_size",
    "strategy_name",
    "uses_controls",
]

STALENESS_MAX_ASYNCHRONOUS = 10
"""Default of ``round.max_staleness`` when versions do not wait for everybody."""

ENTRYWISE = ("median", "trimmed_mean", "bulyan")
"""Rules that look at every entry alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundSize:
    """How many nodes a round is about; see `coordinator.records.EngineSettings`."""

    concurrency: int
    buffer: int
    refill: int
    quorum: int
    max_staleness: int


def strategy_name(config: CoordinatorConfig) -> str:
    """The strategy's name, as it is reported."""
    if config.strategy.name is not None:
        return config.strategy.name
    return "fedavg" if config.round.buffer in (None, config.round.concurrency) else "fedbuff"


def round_size(config: CoordinatorConfig) -> RoundSize:
    """The sizes that the configuration gives, and the defaults that follow from them.

    Raises:
        ConfigError: One could never be reached, or two exclude each other.
    """
    chosen = config.round
    _check_synchronous(chosen)
    waited = chosen.concurrency
    if chosen.fraction is not None and "concurrency" not in chosen.model_fields_set:
        waited = COHORT_NODES_MAX
    concurrency = math.ceil(waited * chosen.over_selection - 1e-9)
    buffer = waited if chosen.buffer is None else chosen.buffer
    synchronous = buffer == waited
    quorum = _quorum(config, buffer) if chosen.quorum is None else chosen.quorum
    refill = (concurrency if synchronous else max(1, concurrency // 10)) if chosen.refill is None else chosen.refill
    for key, value, bound, most in (
        ("round.buffer", buffer, "round.concurrency", concurrency),
        ("round.refill", refill, "round.concurrency", concurrency),
        ("round.quorum", quorum, "round.buffer", buffer),
    ):
        if value > most:
            raise ConfigError(key, f"{value} is more than {bound} = {most}: it would never be reached")
    late = 0 if synchronous else STALENESS_MAX_ASYNCHRONOUS
    max_staleness = late if chosen.max_staleness is None else chosen.max_staleness
    return RoundSize(concurrency=concurrency, buffer=buffer, refill=refill, quorum=quorum, max_staleness=max_staleness)


def check_combination(config: CoordinatorConfig, size: RoundSize) -> None:
    """Refuse what cannot be right together.

    Raises:
        ConfigError: Names the setting to change.
    """
    if config.privacy.sealed and not config.security.require_signatures:
        why = (
            "whoever can write to the broker could name a key of its own: set security.require_signatures = true, with"
        )
        raise ConfigError("privacy.sealed", f"{why} signing_key and node_keys (coordinator init writes all three)")
    name = strategy_name(config)
    if config.privacy.masked:
        # First: what the others advise could be what masks exclude.
        _check_masked(config, size)
    if name == "fedasync":
        _check_fedasync(config, size)
    if uses_controls(config):
        _check_scaffold(config, size)
    if name == "fedprox" and config.train.proximal_mu == 0.0:
        raise ConfigError("train.proximal_mu", "0 turns fedprox into fedavg: leave it out, or name fedavg")
    if config.strategy.mixing and size.buffer != 1:
        raise ConfigError("strategy.mixing", f"mixes one update into the model: round.buffer is {size.buffer}, not 1")
    if config.strategy.robust != NO_RULE and not config.privacy.masked:
        _check_robust(config, size)
    if config.privacy.unit is not None:
        _check_private(config)
    _check_sums(config, STRATEGIES.get(name))


def _check_sums(config: CoordinatorConfig, preset: Preset | None) -> None:
    """What needs every single update, where sites send sums; ``preset`` is None of a strategy of the user's own.

    Raises:
        ConfigError: It is asked for.
    """
    strategy, limits = config.strategy, config.limits
    if not config.gateways.per_base(strategy.sums):
        return
    chosen = Preset() if preset is None else preset
    refuse_beside_sums(
        {
            "strategy.name": preset is None,
            "strategy.robust": strategy.robust != NO_RULE,
            "strategy.importance": (strategy.importance or chosen.importance) != "examples",
            "strategy.mixing": chosen.mixes if strategy.mixing is None else strategy.mixing,
            "limits.clip_norm": limits.clip_norm > 0,
            "privacy.masked": config.privacy.masked,
            "statistics.only": config.statistics.only,
        }
    )


def _check_private(config: CoordinatorConfig) -> None:
    """What would send something of the data beside the noisy update."""
    if uses_controls(config):
        raise ConfigError("strategy.name", "scaffold sends control variates beside the update, without noise")
    if config.evaluation.nodes_every:
        raise ConfigError("evaluation.nodes_every", "what nodes measure on their own data would leave without noise: 0")
    if config.privacy.unit == "nodes":
        return  # what stays on a node is in nothing but its update, and that is clipped whatever it is made of
    for key, given in (
        ("train.optimizer_state", config.train.optimizer_state == "kept"),
        ("train.mixed_precision", config.train.mixed_precision not in (None, "off")),
    ):
        if given:
            raise ConfigError(key, "is not for training with differential privacy: leave it out")


def _check_synchronous(chosen: RoundSection) -> None:
    for key, given in (
        ("round.fraction", chosen.fraction is not None),
        ("round.over_selection", chosen.over_selection > 1),
    ):
        if given and chosen.buffer is not None:
            raise ConfigError(key, "makes synchronous rounds, which wait for all: leave round.buffer out")
        if given and chosen.max_staleness:
            raise ConfigError(
                key, "makes synchronous rounds, in which late updates are stale: round.max_staleness is 0"
            )


def _quorum(config: CoordinatorConfig, buffer: int) -> int:
    """Half of the buffer, and what a rule or masks need; a fraction of unknown many nodes begins at that or at 1."""
    half = 1 if config.round.fraction is not None else max(1, buffer // 2)
    least = config.privacy.members_min * config.privacy.groups if config.privacy.masked else 1
    return min(buffer, max(half, least, _members_min(config, half)))


def _members_min(config: CoordinatorConfig, count: int) -> int:
    """The smallest number of updates, from ``count`` on, in which the rule stands the share of attackers."""
    rule = make_rule(config.strategy.robust, config.strategy.attackers)
    if rule is None:
        return 1
    while rule.members_min(math.floor(rule.attackers * count + 1e-9)) > count and count < COHORT_NODES_MAX:
        count += 1
    return count


def _check_fedasync(config: CoordinatorConfig, size: RoundSize) -> None:
    if size.buffer != 1:
        raise ConfigError("round.buffer", f"fedasync makes a version of every update: 1, not {size.buffer}")
    mixes = STRATEGIES["fedasync"].mixes if config.strategy.mixing is None else config.strategy.mixing
    if mixes and config.strategy.server not in (None, "sgd"):
        raise ConfigError(
            "strategy.server", f"{config.strategy.server} does not go with mixing: set strategy.mixing = false"
        )


def uses_controls(config: CoordinatorConfig) -> bool:
    """Whether the model carries control variates."""
    preset = STRATEGIES.get(strategy_name(config))
    return preset is not None and preset.controls


def _check_scaffold(config: CoordinatorConfig, size: RoundSize) -> None:
    chosen = config.strategy
    if chosen.nodes is None:
        raise ConfigError("strategy.nodes", "scaffold needs the number of all nodes, also of those that are offline")
    if config.round.fraction is None and size.buffer > chosen.nodes * config.round.per_node_quota:
        raise ConfigError("strategy.nodes", f"{chosen.nodes} nodes cannot make versions of {size.buffer} updates")
    if chosen.importance not in (None, "uniform"):
        raise ConfigError("strategy.importance", "scaffold counts all nodes alike: leave it out")
    if chosen.robust != NO_RULE:
        raise ConfigError("strategy.robust", "scaffold sums what every node adds to its control variates: none")


def _check_robust(config: CoordinatorConfig, size: RoundSize) -> None:
    name, share = config.strategy.robust, config.strategy.attackers
    for key, count in (("round.buffer", size.buffer), ("round.quorum", size.quorum)):
        least = _members_min(config, count)
        if count < least:
            raise ConfigError(
                key, f"{name} needs {least} updates or more to stand a share of {share:g} bad ones, not {count}"
            )
    if config.round.per_node_quota > 1:
        raise ConfigError("round.per_node_quota", f"{name} gives every node one voice: 1")
    for key, codec in (("codec.up", config.codec.up), *(("codec.fallbacks", one) for one in config.codec.fallbacks)):
        if name in ENTRYWISE and CodecSpec.parse(codec).feedback:
            raise ConfigError(
                key, f"{codec} sends few entries at a time, and the {name} of mostly zeros is zero: take balanced"
            )
    if config.limits.clip_norm > 0:
        raise ConfigError("limits.clip_norm", f"{name} bounds the updates by itself: 0")


def _check_masked(config: CoordinatorConfig, size: RoundSize) -> None:
    """Masks hide every single update: whatever looks at one, or weighs one apart, has nothing to see."""
    for key, why, excluded in _excluded_by_masks(config):
        if excluded:
            raise ConfigError(key, f"does not go with privacy.masked: {why}")
    groups, each = config.privacy.groups, config.privacy.members_min
    least, apiece = groups * each, math.ceil(size.buffer / groups)
    of = f"{groups} groups of privacy.members_min = {each}" if groups > 1 else f"privacy.members_min = {each}"
    for key, count in (("round.buffer", size.buffer), ("round.quorum", size.quorum)):
        if count < least:
            raise ConfigError(key, f"masked sums have {of} or more updates, not {count}")
    if apiece > MEMBERS_MAX:
        raise ConfigError("round.buffer", f"a masked sum has {MEMBERS_MAX} updates at most")
    if 2 * apiece * config.privacy.levels + 1 > 1 << MASK_BITS_MAX:
        raise ConfigError("privacy.levels", f"sums of {size.buffer} updates do not fit {MASK_BITS_MAX} bits")


def _excluded_by_masks(config: CoordinatorConfig) -> Iterator[tuple[str, str, bool]]:
    """What masks exclude, as setting, reason, and whether it is asked for."""
    chosen, name = config.strategy, strategy_name(config)
    alike = "all updates of a sum weigh alike"
    single = "no single update is ever seen"
    yield "strategy.name", f"{name} makes a version of one update", name == "fedasync"
    yield "strategy.name", "the controls of scaffold are of one node each", uses_controls(config)
    yield "strategy.name", f"it could weigh updates, and {alike}", ":" in name
    yield "strategy.mixing", f"it looks at one update's staleness, and {alike}", bool(chosen.mixing)
    yield "strategy.staleness", f"{alike}: round.max_staleness bounds it", chosen.staleness not in (None, "constant")
    weighs = chosen.importance not in (None, "uniform", "examples")
    yield "strategy.importance", "nodes weigh their own updates, by examples: privacy.importance_cap", weighs
    capless = chosen.importance == "examples" and config.privacy.importance_cap is None
    yield "strategy.importance", "say up to how many examples: privacy.importance_cap", capless
    uncapped = chosen.importance == "uniform" and config.privacy.importance_cap is not None
    yield "privacy.importance_cap", "strategy.importance = uniform counts all alike", uncapped
    yield from _excluded_by_groups(config)
    yield "limits.clip_norm", f"{single}: privacy.clip has the nodes do it", config.limits.clip_norm > 0
    norm = "update_norm_max" in config.limits.model_fields_set
    yield "limits.update_norm_max", f"{single}: privacy.clip has the nodes do it", norm
    yield "round.per_node_quota", "a sum counts different nodes", config.round.per_node_quota > 1
    up = "up" in config.codec.model_fields_set and CodecSpec.parse(config.codec.up).kind is not Kind.MASKED
    yield "codec.up", "positions and sizes would tell of one node: leave it out", up
    yield "codec.fallbacks", "all updates of a sum are coded alike: leave it out", bool(config.codec.fallbacks)


def _excluded_by_groups(config: CoordinatorConfig) -> Iterator[tuple[str, str, bool]]:
    """A robust rule sees groups of updates, each as its mean; nothing else is there to choose from."""
    groups, name = config.privacy.groups, config.strategy.robust
    rule = make_rule(name, config.strategy.attackers)
    of_groups = name in ("median", "trimmed_mean")
    why = "no single update is ever seen, so none can be left out: median or trimmed_mean, with privacy.groups"
    yield "strategy.robust", why, name != NO_RULE and not (of_groups and groups > 1)
    yield "privacy.groups", "say how to choose between them: strategy.robust = median", groups > 1 and rule is None
    if rule is None or groups == 1:
        return
    least = _members_min(config, groups)
    yield "privacy.groups", f"{name} needs {least} to stand that share of bad ones", groups < least
    noised = config.privacy.unit == "nodes"
    yield "privacy.groups", f"{_why_no_noise_by_groups(groups)}: take them without privacy.unit", noised


def _why_no_noise_by_groups(groups: int) -> str:
    """What noise costs where it is added group by group (ADR 87)."""
    times = math.sqrt(math.pi * groups / 2)
    more = f"noise on {groups} sums makes the median {times:.1f} times as noisy as noise on one"
    return f"{more}, which is more than what bad nodes can do within privacy.clip"
