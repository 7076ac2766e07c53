"""What a noised sum costs each node in it, and when a node may be in one: helper and coordinator keep the same account.

A sum with noise of deviation z, in units of the clip, is a Gaussian mechanism with mu = 1 / z for each node in it; what
several cost adds up as mu^2, and epsilon follows from their sum. The unit is a node, the adjacency its contribution
against none: whether it took part is public. The number of members within the clip costs 1 / (2 sigma_b)^2 more.

Under correlated noise (see sum_noise.py) the j-th sum of a node costs what j of them cost together beyond j - 1, where
they lie as badly as the plan allows.
"""

from functools import lru_cache

from federation.privacy.accountant import gaussian_epsilon
from federation.privacy.sum_noise import correlated_mu
from federation.privacy.taking import NOBODY_YET, Participation, Plan, Taking
from federation.protocol.sum_messages import PrivacyTerms

__all__ = ["NOBODY_YET", "Taking", "mu_within", "objection", "participation_of", "plan_of", "plan_text", "price"]


def participation_of(terms: PrivacyTerms) -> Participation | None:
    """How often a node may be in sums under these terms; None where the budget alone bounds it."""
    if terms.releases is None or terms.separation is None or terms.participations is None:
        return None
    return Participation(releases=terms.releases, separation=terms.separation, participations=terms.participations)


def plan_of(terms: PrivacyTerms) -> Plan | None:
    """How the noise of these terms is correlated; None where each sum's is drawn anew."""
    planned = participation_of(terms)
    if planned is None or terms.bandwidth is None:
        return None
    return Plan(bandwidth=terms.bandwidth, participation=planned)


def plan_text(terms: PrivacyTerms) -> str:
    """What must stay the same for all noised sums of a run: correlated noise is one mechanism; empty without it."""
    if terms.bandwidth is None or terms.noise is None:
        return ""
    plan = (terms.bandwidth, terms.releases, terms.separation, terms.participations)
    return f"{terms.noise.hex()} " + " ".join(map(str, plan))


def price(terms: PrivacyTerms, before: int) -> float:
    """What one sum more costs a node that was in ``before`` of them, as mu^2; 0 without noise: nothing is promised."""
    if terms.noise is None:
        return 0.0
    bits = 0.0 if terms.bit_noise is None else (2 * terms.bit_noise) ** -2
    participation = participation_of(terms)
    if participation is None or terms.bandwidth is None:
        return float(terms.noise**-2) + bits
    return _step(terms.bandwidth, terms.noise, participation, before) + bits


def objection(terms: PrivacyTerms, taking: Taking, release: int) -> str:
    """Why a node may not be in the noised sum of this number: ``rests``, ``budget`` (never again), or nothing."""
    participation = participation_of(terms)
    if participation is None:
        return ""
    if taking.releases >= participation.participations or release >= participation.releases:
        return "budget"
    return "rests" if taking.releases and release - taking.last < participation.separation else ""


def mu_within(epsilon: float, delta: float) -> float:
    """The largest mu, a little less, that stays within ``epsilon`` at ``delta``.

    Raises:
        ValueError: ``delta`` is not between 0 and 1, or ``epsilon`` not above 0.
    """
    if not epsilon > 0:
        raise ValueError(f"epsilon must be above 0, not {epsilon}")
    low, high = 0.0, 1.0
    while gaussian_epsilon(high, delta) <= epsilon:
        low, high = high, 2 * high
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if gaussian_epsilon(middle, delta) <= epsilon else (low, middle)
    return low


@lru_cache(maxsize=4096)
def _step(bandwidth: int, noise: float, participation: Participation, before: int) -> float:
    """What the sum after ``before`` others adds to mu^2."""
    return _total(bandwidth, noise, participation, before + 1) - _total(bandwidth, noise, participation, before)


@lru_cache(maxsize=4096)
def _total(bandwidth: int, noise: float, participation: Participation, times: int) -> float:
    if not times:
        return 0.0
    plan = Participation(releases=participation.releases, separation=participation.separation, participations=times)
    return correlated_mu(bandwidth, noise, plan) ** 2
