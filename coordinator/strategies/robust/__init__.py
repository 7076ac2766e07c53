"""Robust rules by name: what takes the place of the weighted mean where not every node can be trusted."""

from collections.abc import Callable, Mapping
from importlib import import_module

from coordinator.strategies.robust.clipping import CenteredClip, DefaultRule, MedianNormClip
from coordinator.strategies.robust.coordinate_wise import CoordinateMedian, TrimmedMean
from coordinator.strategies.robust.krum import Bulyan, Krum, MultiKrum
from coordinator.strategies.robust.updates import RobustRule, Updates, assumed_attackers
from federation.errors import ConfigError

__all__ = ["NO_RULE", "RULES", "RobustRule", "Updates", "assumed_attackers", "make_rule"]

NO_RULE = "none"
"""The name of the plain weighted mean."""


RULES: Mapping[str, Callable[..., RobustRule]] = {
    "default": DefaultRule,
    "median": CoordinateMedian,
    "trimmed_mean": TrimmedMean,
    "krum": Krum,
    "multi_krum": MultiKrum,
    "bulyan": Bulyan,
    "median_norm_clip": MedianNormClip,
    "centered_clip": CenteredClip,
}
"""Each is called with ``attackers``, the share of the updates that may be bad."""


def make_rule(name: str, attackers: float) -> RobustRule | None:
    """Make the rule of a name, or of a dotted path ``package.module:factory``; None for `NO_RULE`.

    Raises:
        ConfigError: There is no such rule.
    """
    if name == NO_RULE:
        return None
    if name in RULES:
        return RULES[name](attackers=attackers)
    module, colon, factory = name.partition(":")
    if not colon:
        known = ", ".join((NO_RULE, *RULES))
        raise ConfigError("strategy.robust", f"{name!r} is neither one of {known} nor a path package.module:factory")
    try:
        rule: RobustRule = getattr(import_module(module), factory)(attackers=attackers)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError("strategy.robust", f"{name!r} cannot be loaded: {error}") from error
    return rule
