"""Noise that hides whole nodes: what ``[privacy]`` asks for, as what helpers are told to add."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from coordinator.config.combinations import RoundSize
from coordinator.config.sections import CoordinatorConfig
from coordinator.global_model.masked import NodesNoise
from federation.errors import ConfigError
from federation.privacy.releases import mu_within
from federation.privacy.sum_noise import AdaptiveClip, Participation, correlated_mu
from federation.protocol.limits import RELEASES_MAX

__all__ = ["nodes_noise"]

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
    """The noise that helpers add; None where whole nodes are not protected.

    Raises:
        ConfigError: Something is missing, or two settings do not fit together.
    """
    chosen = config.privacy
    for key, why, excluded in _excluded(config, size):
        if excluded:
            raise ConfigError(key, why)
    if chosen.unit != "nodes":
        return None
    plan = _plan(config)
    most = mu_within(chosen.epsilon, chosen.delta)
    bits = _bit_noise(config, plan, most, size.buffer)
    paid = 0.0 if bits is None else plan.times / (2 * bits) ** 2
    noise = chosen.noise
    if noise is None:
        noise = math.ceil(plan.mu / math.sqrt(most**2 - paid) * 1e6) / 1e6
    _check_one(plan, noise, bits, most)
    return NodesNoise(
        noise=noise,
        bit_noise=bits,
        quantile=chosen.clip_quantile,
        bandwidth=chosen.bandwidth or 1,
        participation=plan.participation,
    )


def _excluded(config: CoordinatorConfig, size: RoundSize) -> Iterator[tuple[str, str, bool]]:
    """What does not go with the unit, or is missing: setting, reason, and whether it is so."""
    chosen, nodes = config.privacy, config.privacy.unit == "nodes"
    given = chosen.model_fields_set
    for key in ("participations", "separation", "bandwidth", "adaptive_clip", "clip_quantile", "bit_noise"):
        yield f"privacy.{key}", 'is for noise on sums: privacy.unit = "nodes"', not nodes and key in given
    if not nodes:
        return
    for key in ("row_clip", "sampling_rate"):
        yield f"privacy.{key}", 'is for noise on the nodes: privacy.unit = "examples"', key in given
    yield "privacy.masked", "helpers add the noise that hides a node: true, with privacy.helpers", not chosen.masked
    yield "privacy.clip", "say the longest update that counts whole: noise is made for it", chosen.clip is None
    short = chosen.threshold is not None and chosen.threshold != len(chosen.helpers)
    yield "privacy.threshold", "noise needs every helper to answer: leave it out", short
    capped = chosen.importance_cap is not None
    yield "privacy.importance_cap", "under noise all updates count the same: leave it out", capped
    endless = chosen.noise is None and not config.round.versions and chosen.participations is None
    yield "privacy.noise", "a run without round.versions needs it, or privacy.participations", endless
    for key in ("clip_quantile", "bit_noise"):
        yield f"privacy.{key}", "needs privacy.adaptive_clip = true", key in given and not chosen.adaptive_clip
    yield from _excluded_by_correlation(config, size)


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
    yield "privacy.separation", "correlated noise needs it: so many sums lie between two of one node", not separation
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
