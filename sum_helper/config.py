"""The settings of one helper: TOML, environment (``FEDMQ_HELPER__SECTION__KEY``) and flags, strictly checked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from federation.config import (
    BrokerSection,
    FederationSection,
    LogSection,
    PositiveSeconds,
    Section,
    accepted_by,
    load_config,
)
from federation.privacy.boxes import Kem
from federation.protocol.limits import MEMBERS_LEAST, MEMBERS_MAX
from federation.protocol.topics import validate_helper_id
from sum_helper.records import Budget, HelperRules, Keeping

__all__ = ["CONFIG_FILE", "HelperConfig", "read_config"]

PREFIX = "FEDMQ_HELPER"
"""Prefix of the environment variables."""

CONFIG_FILE = "helper.toml"
"""What the file is called in a folder that ``fedmq helper init`` has made."""


class HelperSection(Section):
    """``[helper]``: who this helper is, and whom it believes.

    Attributes:
        id: Its name: a topic level, and the name in its certificate.
        register: File with the keys of the nodes that ``fedmq helper admit`` has admitted: nobody else is counted.
    """

    id: Annotated[str, accepted_by(validate_helper_id)]
    register_file: Path = Field(alias="register")


class SecuritySection(Section):
    """``[security]``: whom it obeys, and as whom it speaks.

    Attributes:
        coordinator_key: PEM file: nothing is done that this key has not signed.
        signing_key: PEM file: the key that nodes and coordinator have pinned.
    """

    coordinator_key: Path
    signing_key: Path


class RulesSection(Section):
    """``[rules]``: what it insists on, whatever the coordinator says.

    Attributes:
        members_min: Fewest nodes of a sum that is revealed; never below 5.
        parameters_max: Largest model, in parameters.
        held_max: Most updates whose seeds are held at once.
        versions_back: How many versions older than the newest sum an update's base may be.
        epsilon: Most that all sums of all runs together may tell of one node's contribution; needs ``delta``, and then
            only sums with noise for whole nodes are revealed.
        delta: The delta of that epsilon.
    """

    members_min: Annotated[int, Field(ge=MEMBERS_LEAST, le=MEMBERS_MAX)] = 8
    parameters_max: PositiveInt = 100_000_000
    held_max: PositiveInt = 100_000
    versions_back: PositiveInt = 1_024
    epsilon: PositiveFloat | None = None
    delta: Annotated[float, Field(gt=0, lt=1)] | None = None

    @model_validator(mode="after")
    def _both(self) -> "RulesSection":
        if (self.epsilon is None) is not (self.delta is None):
            raise ValueError("epsilon and delta belong together: give both or neither")
        return self


class KeysSection(Section):
    """``[keys]``: the keys that seeds are sealed to; they are made here and never leave the store.

    Attributes:
        kem: ``x25519``, or ``mlkem768_x25519``: recorded seeds then stay closed to a quantum computer, too.
        rotate_s: A new key every so many seconds.
        keep_s: Unused seeds, and keys that were replaced, are deleted after so many seconds.
    """

    kem: Literal["x25519", "mlkem768_x25519"] = "x25519"
    rotate_s: PositiveSeconds = 7 * 86_400.0
    keep_s: PositiveSeconds = 30 * 86_400.0


class StoreSection(Section):
    """``[store]``: where it keeps what must never be forgotten, nor put back from a copy.

    Attributes:
        folder: The state folder; one process at a time. Nothing is ``state/HELPER``.
    """

    folder: Path | None = None


class HelperConfig(Section):
    """Everything that one helper is told."""

    federation: FederationSection
    helper: HelperSection
    broker: BrokerSection
    security: SecuritySection
    rules: RulesSection
    keys: KeysSection
    store: StoreSection
    log: LogSection

    @property
    def state_folder(self) -> Path:
        """Where this helper's state is."""
        return self.store.folder if self.store.folder is not None else Path("state") / self.helper.id

    @property
    def helper_rules(self) -> HelperRules:
        """What its machine insists on."""
        rules = self.rules
        budget = None
        if rules.epsilon is not None and rules.delta is not None:
            budget = Budget(epsilon=rules.epsilon, delta=rules.delta)
        plain = rules.model_dump(exclude={"epsilon", "delta"})
        return HelperRules(**plain, budget=budget)

    @property
    def keeping(self) -> Keeping:
        """How long things are kept."""
        kem = Kem.X25519 if self.keys.kem == "x25519" else Kem.MLKEM768_X25519
        return Keeping(keep_s=self.keys.keep_s, rotate_s=self.keys.rotate_s, kem=kem)


def read_config(
    file: Path | None, flags: Mapping[str, object], environ: Mapping[str, str] | None = None
) -> HelperConfig:
    """Read and check all sources; flags win over the environment, which wins over the file.

    Args:
        file: The TOML file, or the folder that has a `CONFIG_FILE`.
        flags: Values of the command line by dotted key.
        environ: None is the process's own.

    Raises:
        ConfigError: A key is unknown, missing or out of range.
    """
    return load_config(HelperConfig, prefix=PREFIX, file=file, flags=flags, environ=environ, in_folder=CONFIG_FILE)
