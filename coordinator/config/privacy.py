"""``[privacy]``: what those who carry contributions, add them up, or see the model learn of the data behind them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from coordinator.engine.settings import MaskingSettings, ReleaseBudget
from coordinator.global_model.masked import MaskedModel, NodesNoise
from federation.config import Section
from federation.errors import ConfigError, LocalProtocolError
from federation.identity.helper_keys import PinnedHelper, in_key_order
from federation.privacy.accountant import NoisePlan, noise_for
from federation.privacy.boxes import Kem
from federation.privacy.budget import fits, turn_of
from federation.privacy.classes import check_threshold
from federation.privacy.terms import check_terms, helpers_digest
from federation.protocol.limits import (
    BANDWIDTH_MAX,
    HELPERS_MAX,
    INT32_MAX,
    LEVELS_MAX,
    MEMBERS_LEAST,
    MEMBERS_MAX,
    RELEASES_MAX,
    TAIL_MAX,
)
from federation.protocol.messages import TrainSettings
from federation.protocol.sum_messages import PrivacyTerms
from federation.types import PRIVATE_EXAMPLES, ExamplePrivacy

GROUPS_MAX = 64
"""Most groups of one version: helpers answer for each by itself."""

__all__ = [
    "PrivacySection",
    "SealingSettings",
    "check_masked_model",
    "masked_model",
    "masking_settings",
    "needs",
    "pinned_helpers",
    "with_privacy",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class SealingSettings:
    """How a run is sealed.

    Attributes:
        on: Whether it is; what still comes sealed is opened all the same.
        kem: Of which kind keys are, the nodes' included.
        rotate_s: Age at which the coordinator takes another key, in seconds.
    """

    on: bool = False
    kem: Kem = Kem.X25519
    rotate_s: float = 86_400.0


class PrivacySection(Section):
    """``[privacy]``: who learns what, beside those whose data it is.

    Attributes:
        sealed: Updates, metrics and the model are closed to the broker; needs ``security.require_signatures``.
        kem: ``x25519``, or ``mlkem768_x25519``: what is recorded today stays closed to a quantum computer, too.
        rotate_s: Age at which the coordinator takes another key that nodes seal to, in seconds.
        masked: Nodes mask their updates; the coordinator sees only sums over at least ``members_min`` of them.
        helpers: The helpers that hold the masks' seeds, as ``NAME=KEY``; under another administrator, or they hide
            nothing.
        threshold: So many of them must answer for a sum. Nothing is all of them.
        members_min: Fewest updates of a sum.
        groups: The members of a version are summed in so many groups, and ``strategy.robust`` (median or trimmed_mean)
            chooses between the groups' means: fewer bad nodes than half of the groups do no harm.
        levels: Largest magnitude of the integers that a node's update is rounded to; 1 is the smallest upload.
        step: What one of them is worth in the first version; later ones follow the length of the updates. Nothing sends
            the first version finely, in 21 bits and those of the sum.
        clip: Updates are scaled down to this L2 norm by their nodes, or by the coordinator where it adds the noise;
            nothing leaves them.
        importance_cap: Updates weigh by their examples up to so many. Nothing counts all alike.
        unit: ``examples`` protects each row of a node's data by differential privacy, by noise on the node; ``nodes``
            all that a node contributes, by noise on sums. Nothing is no noise.
        noise_by: Who adds noise to sums: each of the ``helpers`` to masked ones, or the ``coordinator``, which is then
            trusted with every update: nothing is masked.
        epsilon: Budget of each node in this run; what would exceed it is not done.
        delta: The delta of that epsilon.
        row_clip: Most that one row's gradient may have as L2 norm.
        noise: Standard deviation of the noise on a step's sum in units of ``row_clip``; with unit ``nodes`` of what
            each helper or the coordinator adds to a sum, in units of ``clip``. Nothing is the least with which a node
            that takes part in all ``round.versions``, or in ``participations`` of them, stays within its budget.
        sampling_rate: Probability with which a row is in a step's batch. It has no default: ``train.batch_size`` over
            the rows of a node.
        participations: In how many sums one node is at most; unit ``nodes``. Nothing is all of them, or as many as
            ``separation`` leaves.
        separation: A node rests until so many sums have been made since its last one; with ``bandwidth``.
        bandwidth: Noise that takes some of the noise before it back, over so many sums; needs ``separation``, and at
            least ``separation`` times ``round.buffer`` nodes.
        adaptive_clip: ``clip`` is only the first one: it follows the ``clip_quantile`` of the updates' lengths.
        clip_quantile: Share of the updates that are no longer than it.
        bit_noise: Standard deviation of each helper's noise on the number of these; nothing takes a sixteenth of the
            budget, or less.
    """

    sealed: bool = False
    kem: Literal["x25519", "mlkem768_x25519"] = "x25519"
    rotate_s: Annotated[float, Field(ge=60.0, le=31_622_400.0)] = 86_400.0
    masked: bool = False
    helpers: Annotated[tuple[str, ...], Field(max_length=HELPERS_MAX)] = ()
    threshold: PositiveInt | None = None
    members_min: Annotated[int, Field(ge=MEMBERS_LEAST, le=MEMBERS_MAX)] = 8
    groups: Annotated[int, Field(ge=1, le=GROUPS_MAX)] = 1
    levels: Annotated[int, Field(ge=1, le=LEVELS_MAX)] = 1
    step: PositiveFloat | None = None
    clip: PositiveFloat | None = None
    importance_cap: Annotated[int, Field(ge=1, le=INT32_MAX // MEMBERS_MAX)] | None = None
    unit: Literal["examples", "nodes"] | None = None
    noise_by: Literal["helpers", "coordinator"] = "helpers"
    epsilon: Annotated[float, Field(ge=1e-6, le=1e3)] = 8.0
    delta: Annotated[float, Field(ge=1e-9, le=1e-2)] = 1e-5
    row_clip: Annotated[float, Field(ge=1e-9, le=1e9)] = 1.0
    noise: Annotated[float, Field(ge=0.1, le=1e6)] | None = None
    sampling_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    participations: Annotated[int, Field(ge=1, le=RELEASES_MAX)] | None = None
    separation: Annotated[int, Field(ge=1, le=RELEASES_MAX)] | None = None
    bandwidth: Annotated[int, Field(ge=2, le=BANDWIDTH_MAX)] | None = None
    adaptive_clip: bool = False
    clip_quantile: Annotated[float, Field(gt=0, lt=1)] = 0.5
    bit_noise: Annotated[float, Field(ge=0.1, le=1e6)] | None = None

    @property
    def sealing(self) -> SealingSettings:
        """How a run is sealed."""
        return SealingSettings(on=self.sealed, kem=Kem[self.kem.upper()], rotate_s=self.rotate_s)

    @model_validator(mode="after")
    def _helpers_for_masks(self) -> "PrivacySection":
        if self.masked and not self.helpers:
            raise ValueError("masked needs helpers: NAME=KEY of each, as fedmq helper init and doctor print it")
        if self.groups > 1 and not self.masked:
            raise ValueError("groups are of masked sums: set masked, or leave them out")
        if self.threshold is not None and self.threshold > len(self.helpers):
            raise ValueError(f"threshold {self.threshold} is more than {len(self.helpers)} helpers")
        return self


def pinned_helpers(section: PrivacySection) -> tuple[PinnedHelper, ...]:
    """The helpers, in the order of their keys; nobody without masks.

    Raises:
        ConfigError: One is no helper, or two are the same.
    """
    if not section.masked:
        return ()
    try:
        check_threshold(len(section.helpers), section.threshold or len(section.helpers))
    except ValueError as error:
        raise ConfigError("privacy.threshold", str(error)) from error
    try:
        return in_key_order(map(PinnedHelper.from_text, section.helpers))
    except LocalProtocolError as error:
        raise ConfigError("privacy.helpers", str(error)) from error


def masking_settings(section: PrivacySection) -> MaskingSettings | None:
    """What the engine is told; None where nothing is masked.

    Raises:
        ConfigError: One is no helper, or two are the same.
    """
    helpers = pinned_helpers(section)
    if not helpers:
        return None
    return MaskingSettings(
        helpers=tuple(helper.name for helper in helpers),
        threshold=section.threshold or len(helpers),
        members_min=section.members_min,
        groups=section.groups,
        budget=ReleaseBudget(epsilon=section.epsilon, delta=section.delta) if section.unit == "nodes" else None,
    )


def masked_model(
    section: PrivacySection, members: int, patience: int, noise: NodesNoise | None = None
) -> MaskedModel | None:
    """What the committer is told; None where nothing is masked.

    Args:
        section: The settings.
        members: Most updates of a version.
        patience: Versions for which terms hold at least.
        noise: That helpers add.

    Raises:
        ConfigError: One is no helper, or two are the same.
    """
    helpers, threshold = pinned_helpers(section), section.threshold or len(section.helpers)
    if not helpers:
        return None
    return MaskedModel(
        helpers=helpers_digest([helper.key for helper in helpers], threshold),
        count=len(helpers),
        threshold=threshold,
        members=math.ceil(members / section.groups),
        levels=section.levels,
        first_step=section.step,
        clip=section.clip,
        importance_cap=section.importance_cap,
        patience=patience,
        noise=noise,
    )


def check_masked_model(terms: PrivacyTerms | None, statistics: int, *, signs: bool) -> None:
    """Look at what is known only once the model is: whether it can be masked, and whether helpers would answer.

    Args:
        terms: Those of the head; None where nothing is masked.
        statistics: Float statistics of the model.
        signs: Whether the coordinator signs what it says.

    Raises:
        ConfigError: It cannot, or they would not.
    """
    if terms is None:
        return
    if terms.noise is not None and statistics:
        why = f"the model has {statistics} statistics beside its parameters, which would be told without noise"
        raise ConfigError("privacy.unit", f"{why}: take layers without them, as GroupNorm")
    if terms.tail > TAIL_MAX:
        raise ConfigError("privacy.masked", f"the model has {terms.tail} statistics, masked sums {TAIL_MAX} at most")
    try:
        check_terms(terms)
    except ValueError as error:
        raise ConfigError("privacy.masked", str(error)) from error
    if not signs:
        raise ConfigError("security.signing_key", "helpers answer nobody who does not sign: privacy.masked needs it")


def needs(asked: Mapping[str, float], chosen: PrivacySection) -> Mapping[str, float]:
    """What a node must have to be asked to train: a node that does not know of privacy would train without it."""
    return asked if chosen.unit != "examples" else {**asked, PRIVATE_EXAMPLES: 1.0}


def with_privacy(settings: TrainSettings, chosen: PrivacySection, versions: int) -> TrainSettings:
    """The settings with what ``[privacy]`` says, for a run of so many versions; 0 is no end.

    Raises:
        ConfigError: Something is missing, or no turn fits the budget.
    """
    if chosen.unit != "examples":
        return settings
    if chosen.sampling_rate is None:
        raise ConfigError("privacy.sampling_rate", "say it: train.batch_size over the rows that a node has")
    if settings.batch_size == 0:
        raise ConfigError("train.batch_size", "0 is as many rows as there are, which may not be seen: say a number")
    privacy = ExamplePrivacy(
        clip=chosen.row_clip,
        noise=1.0 if chosen.noise is None else chosen.noise,
        sampling_rate=chosen.sampling_rate,
        epsilon=chosen.epsilon,
        delta=chosen.delta,
    )
    if chosen.noise is None:
        privacy = replace(privacy, noise=_least_noise(settings, privacy, versions))
    if not fits((), turn_of(settings, privacy), epsilon=privacy.epsilon, delta=privacy.delta):
        raise ConfigError("privacy.epsilon", f"{privacy.epsilon:g} is not enough for one turn: more noise, fewer steps")
    return replace(settings, privacy=privacy)


def _least_noise(settings: TrainSettings, privacy: ExamplePrivacy, versions: int) -> float:
    """What a node needs that takes part in every version.

    Raises:
        ConfigError: The run has no end, or none is enough.
    """
    if not versions:
        raise ConfigError("privacy.noise", "a run without round.versions needs it: there is no least noise for ever")
    steps = turn_of(settings, privacy).steps * versions
    try:
        return noise_for(privacy.epsilon, privacy.delta, NoisePlan(sampling_rate=privacy.sampling_rate, steps=steps))
    except ValueError as error:
        raise ConfigError("privacy.epsilon", str(error)) from error
