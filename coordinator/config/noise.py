"""Noise that hides whole nodes: what ``[privacy]`` asks for, as what helpers or the coordinator itself add."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from coordinator.config.combinations import RoundSize, strategy_name, uses_controls
from coordinator.config.sections import CoordinatorConfig
from coordinator.engine.settings import NoiseSettings, ReleaseBudget
from coordinator.global_model.masked import NodesNoise
from coordinator.global_model.noised import CoordinatorNoise
from coordinator.strategies.robust import NO_RULE
from federation.errors import ConfigError
from federation.privacy.releases import mu_within
from federation.privacy.sum_noise import AdaptiveClip, correlated_mu
from federation.privacy.taking import Participation
from federation.protocol.limits import RELEASES_MAX

__all__ = ["check_noised_model", "coordinator_noise", "nodes_noise", "noise_settings"]

SPARE = 8
"""One sum more for so many versions: of batches that made none; and `SPARE_LEAST` in any case."""

SPARE_LEAST = 16

BITS_SHARE = 1 / 16
"""Share of the budget that the clip bits take at most, where nobody says."""

BITS_PER_MEMBER = 1 / 20
"""Noise on the clip bits that is enough, in members (arXiv 1905.03871)."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """How often a node takes part, and what once and all of it cost with noise 1, as mu."""

    times: int
    once: float
    mu: float
    participation: Participation | None


def nodes_noise(config: CoordinatorConfig, size: RoundSize) -> NodesNoise | None:
    """The noise that helpers add; None where they add none.

    Raises:
        ConfigError: Something is missing, or two settings do not fit together.
    """
    chosen = config.privacy
    for key, why, excluded in _excluded(config, size):
        if excluded:
            raise ConfigError(key, why)
    if chosen.unit != "nodes" or chosen.noise_by == "coordinator":
        return None
    plan = _plan(config)
    most = mu_within(chosen.epsilon, chosen.delta)
    bits = _bit_noise(config, plan, most, size.buffer)
    noise = _noise(config, plan, bits, most)
    return NodesNoise(
        noise=noise,
        bit_noise=bits,
        quantile=chosen.clip_quantile,
        bandwidth=chosen.bandwidth or 1,
        participation=plan.participation,
    )


def coordinator_noise(config: CoordinatorConfig, size: RoundSize) -> CoordinatorNoise | None:
    """The noise that the coordinator adds; None where it adds none.

    Raises:
        ConfigError: As `nodes_noise`.
    """
    chosen = config.privacy
    nodes_noise(config, size)
    if chosen.unit != "nodes" or chosen.noise_by != "coordinator" or chosen.clip is None:
        return None
    noise = _noise(config, _plan(config), None, mu_within(chosen.epsilon, chosen.delta))
    return CoordinatorNoise(noise=noise, clip=chosen.clip, members=size.buffer)


def noise_settings(config: CoordinatorConfig, size: RoundSize) -> NoiseSettings | None:
    """The same as the engine is told it, with what it may cost.

    Raises:
        ConfigError: As `nodes_noise`.
    """
    found, chosen = coordinator_noise(config, size), config.privacy
    if found is None:
        return None
    budget = ReleaseBudget(epsilon=chosen.epsilon, delta=chosen.delta)
    return NoiseSettings(noise=found.noise, clip=found.clip, budget=budget)


def check_noised_model(noise: object | None, statistics: int) -> None:
    """Look at what is known only once the model is: whether all that is told of updates has noise.

    Args:
        noise: That the coordinator adds; None: it adds none.
        statistics: Float statistics of the model.

    Raises:
        ConfigError: It has not.
    """
    if statistics and noise is not None:
        why = f"the model has {statistics} statistics beside its parameters, which would be told without noise"
        raise ConfigError("privacy.unit", f"{why}: take layers without them, as GroupNorm")


def _noise(config: CoordinatorConfig, plan: _Plan, bits: float | None, most: float) -> float:
    """What was given, or the least with which the plan fits the budget.

    Raises:
        ConfigError: Not even one sum fits it.
    """
    paid = 0.0 if bits is None else plan.times / (2 * bits) ** 2
    noise = config.privacy.noise
    if noise is None:
        noise = math.ceil(plan.mu / math.sqrt(most**2 - paid) * 1e6) / 1e6
    _check_one(plan, noise, bits, most)
    return noise


def _excluded(config: CoordinatorConfig, size: RoundSize) -> Iterator[tuple[str, str, bool]]:
    """What does not go with the unit, or is missing: setting, reason, and whether it is so."""
    chosen, nodes = config.privacy, config.privacy.unit == "nodes"
    given = chosen.model_fields_set
    for key in ("participations", "separation", "bandwidth", "adaptive_clip", "clip_quantile", "bit_noise"):
        yield f"privacy.{key}", 'is for noise on sums: privacy.unit = "nodes"', not nodes and key in given
    own = chosen.noise_by == "coordinator"
    yield "privacy.noise_by", 'is for noise on sums: privacy.unit = "nodes"', own and not nodes
    if not nodes:
        return
    for key in ("row_clip", "sampling_rate"):
        yield f"privacy.{key}", 'is for noise on the nodes: privacy.unit = "examples"', key in given
    yield "privacy.clip", "say the longest update that counts whole: noise is made for it", chosen.clip is None
    endless = chosen.noise is None and not config.round.versions and chosen.participations is None
    yield "privacy.noise", "a run without round.versions needs it, or privacy.participations", endless
    if own:
        yield from _excluded_by_trust(config)
        return
    why = "helpers add the noise that hides a node: true, with privacy.helpers; or privacy.noise_by = coordinator"
    yield "privacy.masked", f"{why}, which then sees every update", not chosen.masked
    short = chosen.threshold is not None and chosen.threshold != len(chosen.helpers)
    yield "privacy.threshold", "noise needs every helper to answer: leave it out", short
    capped = chosen.importance_cap is not None
    yield "privacy.importance_cap", "under noise all updates count the same: leave it out", capped
    for key in ("clip_quantile", "bit_noise"):
        yield f"privacy.{key}", "needs privacy.adaptive_clip = true", key in given and not chosen.adaptive_clip
    yield from _excluded_by_correlation(config, size)


def _excluded_by_trust(config: CoordinatorConfig) -> Iterator[tuple[str, str, bool]]:
    """What the coordinator's own noise does not cover, or what would decide by what it hides."""
    chosen, strategy, limits, name = config.privacy, config.strategy, config.limits, strategy_name(config)
    yield "privacy.noise_by", "masked sums hide updates from the coordinator: helpers add their noise", chosen.masked
    why = "a plan over many sums is held by helpers, who keep its numbers when a coordinator is restored: leave it out"
    for key in ("bandwidth", "separation", "adaptive_clip", "clip_quantile", "bit_noise"):
        yield f"privacy.{key}", why, key in chosen.model_fields_set and getattr(chosen, key) not in (None, False)
    for key in ("importance_cap", "helpers", "threshold", "step"):
        yield f"privacy.{key}", "is of masked sums: leave it out", getattr(chosen, key) not in (None, ())
    alike = "under noise all updates count alike"
    yield (
        "strategy.name",
        "fedasync makes a version of one update, and all the noise is on that one",
        name == "fedasync",
    )
    yield "strategy.name", "the controls of scaffold travel without noise", uses_controls(config)
    yield "strategy.name", f"it could weigh updates, and {alike}", ":" in name
    yield "strategy.mixing", f"it looks at one update's staleness, and {alike}", bool(strategy.mixing)
    yield "strategy.staleness", f"{alike}: round.max_staleness bounds it", strategy.staleness not in (None, "constant")
    yield "strategy.importance", f"{alike}: uniform, or leave it out", strategy.importance not in (None, "uniform")
    robust = strategy.robust != NO_RULE
    sums = strategy.sums == "per_base"
    yield "strategy.sums", f"{alike}, one by one: leave it out", sums
    why = (
        "one node can move what a rule chooses by its whole clip, a mean by a share of it: it takes so much more noise"
    )
    yield "strategy.robust", why, robust
    yield "limits.clip_norm", "privacy.clip is what noise is made for: leave it out", limits.clip_norm > 0
    for key in ("update_norm_max", "step_norm_max"):
        why = "privacy.clip bounds each update, and to refuse one by its length would tell of it: leave it out"
        yield f"limits.{key}", why, key in limits.model_fields_set
    yield "round.per_node_quota", "a sum counts different nodes", config.round.per_node_quota > 1
    fraction = config.round.fraction is not None
    yield "round.fraction", "sums are divided by round.buffer, however many come: say round.concurrency", fraction
    yield "gateways", "what a site sends is of many nodes, and would be clipped as one", bool(config.gateways.caps)


def _excluded_by_correlation(config: CoordinatorConfig, size: RoundSize) -> Iterator[tuple[str, str, bool]]:
    chosen = config.privacy
    yield (
        "privacy.separation",
        "say privacy.bandwidth, too: it correlates the noise",
        (chosen.separation is not None and chosen.bandwidth is None),
    )
    if chosen.bandwidth is None:
        return
    separation, versions = chosen.separation or 0, config.round.versions
    yield "privacy.separation", "correlated noise needs it: of so many in a row a node is in one", not separation
    yield "round.versions", "correlated noise is planned for a number of them: say it", not versions
    yield (
        "round.versions",
        f"correlated noise goes over {RELEASES_MAX} sums at most",
        _releases(versions) > RELEASES_MAX,
    )
    nodes_min, least = config.round.nodes_min or 0, separation * size.buffer
    why = f"with privacy.separation {separation} and {size.buffer} updates in a sum, {least} nodes take turns: say that"
    yield "round.nodes_min", f"{why}, or all of them would rest", nodes_min < least


def _releases(versions: int) -> int:
    return versions + max(SPARE_LEAST, math.ceil(versions / SPARE))


def _plan(config: CoordinatorConfig) -> _Plan:
    chosen, versions = config.privacy, config.round.versions
    times = chosen.participations or versions or 1
    if chosen.bandwidth is None or chosen.separation is None:
        return _Plan(times=times, once=1.0, mu=math.sqrt(times), participation=None)
    releases = _releases(versions)
    times = min(times, math.ceil(releases / chosen.separation))
    participation = Participation(releases=releases, separation=chosen.separation, participations=times)
    once = correlated_mu(chosen.bandwidth, 1.0, replace(participation, participations=1))
    mu = correlated_mu(chosen.bandwidth, 1.0, participation)
    return _Plan(times=times, once=once, mu=mu, participation=participation)


def _bit_noise(config: CoordinatorConfig, plan: _Plan, most: float, members: int) -> float | None:
    """Noise on the clip bits: enough to pay for, and no more than is needed.

    Raises:
        ConfigError: What is given leaves nothing of the budget for the updates.
    """
    chosen = config.privacy
    if not chosen.adaptive_clip:
        return None
    whole = math.sqrt(plan.times) / most
    if chosen.bit_noise is None:
        return max(whole / 2 / math.sqrt(BITS_SHARE), members * BITS_PER_MEMBER)
    try:
        AdaptiveClip(noise=whole, bit_noise=chosen.bit_noise)
    except ValueError as error:
        raise ConfigError("privacy.bit_noise", str(error)) from error
    return chosen.bit_noise


def _check_one(plan: _Plan, noise: float, bits: float | None, most: float) -> None:
    """Raise where not even one sum fits the budget.

    Raises:
        ConfigError: It does not.
    """
    paid = 0.0 if bits is None else (2 * bits) ** -2
    if (plan.once / noise) ** 2 + paid > most**2 * (1 + 1e-9):
        raise ConfigError("privacy.epsilon", "is not enough for one sum: more noise, or fewer versions")
