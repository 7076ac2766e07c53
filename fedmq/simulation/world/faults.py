"""What goes wrong in a simulation, how often, and when it ends: one plan, all from the seed."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from federation.errors import ConfigError

__all__ = ["PRESETS", "Dice", "FaultPlan", "parse_faults", "parse_fields", "some_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultPlan:
    """Probabilities are in [0, 1]; rates are per hour of virtual time.

    Attributes:
        drop: Per message and hop: it never arrives, and nobody is told. What a publisher retains is exempt, as MQTT
            gives it the order and the repetition of its connection.
        duplicate: Per message and hop: it arrives twice.
        reorder: Per message and hop: it is held back for up to ``reorder_s`` while others overtake it.
        reorder_s: Longest such time, in seconds.
        delay_s: Least and greatest ordinary delay of a hop, in seconds; also after the faults have ended.
        node_crash: Per event that a node handles: ``kill -9`` before one of its next effects, failpoints or publishes;
            three in ten are power cuts, one in ten is a wait for the disk that fails instead.
        coordinator_crash: The same for the coordinator.
        disconnect: Lost connections, per connection and hour.
        partition: Links that stand still for up to three minutes in one or both directions, per connection and hour.
        broker_crash: ``kill -9`` of the broker, per hour; it is away for up to ten minutes, and may lose sessions,
            retained messages or both, or come back with what it had saved long before.
        freeze: Processes that are stopped (``SIGSTOP``) for up to five minutes, per participant and hour.
        failed_commit: Per transaction of a node or the coordinator: SQLite cannot commit it.
        disk_full: Times without space, for the coordinator and for each node, per hour.
        wipe: Per start of a node after a crash: its state folder is lost, and it begins a new life.
        bad_update: Per training: the node sends something else than what it has trained: half of a frame, noise, values
            beyond every bound, or a claim of more examples than there can be.
        vanish: Share of the nodes that leave for ever without a word.
        stale_copy: Once for each federation: somebody starts an older copy of the coordinator's folder, beside it or
            while it hangs or is dead.
        restore: The same: the coordinator's disk is lost, and its run is restored from a backup.
        second_run: The same: the coordinator of another run is started, half of the times told to replace the first.
        twin: The same: a node is started on a copy of another one's folder, with its name.
        skew_s: Clocks of the participants differ by up to this, in seconds.
    """

    drop: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    reorder_s: float = 5.0
    delay_s: tuple[float, float] = (0.005, 0.2)
    node_crash: float = 0.0
    coordinator_crash: float = 0.0
    disconnect: float = 0.0
    partition: float = 0.0
    broker_crash: float = 0.0
    freeze: float = 0.0
    failed_commit: float = 0.0
    disk_full: float = 0.0
    wipe: float = 0.0
    bad_update: float = 0.0
    vanish: float = 0.0
    stale_copy: float = 0.0
    restore: float = 0.0
    second_run: float = 0.0
    twin: float = 0.0
    skew_s: float = 0.0

    @property
    def silent(self) -> bool:
        """Whether something can have been lost without anybody noticing."""
        return self.drop > 0.0


PRESETS: Mapping[str, FaultPlan] = {
    "none": FaultPlan(),
    "mild": FaultPlan(
        drop=0.002,
        duplicate=0.002,
        reorder=0.002,
        node_crash=0.001,
        coordinator_crash=0.0002,
        disconnect=2.0,
        partition=1.0,
        broker_crash=0.5,
        freeze=0.2,
        failed_commit=0.0005,
        disk_full=0.2,
        wipe=0.02,
        bad_update=0.002,
        skew_s=86_400.0,
    ),
    "harsh": FaultPlan(
        drop=0.03,
        duplicate=0.05,
        reorder=0.05,
        node_crash=0.01,
        coordinator_crash=0.005,
        disconnect=30.0,
        partition=15.0,
        broker_crash=10.0,
        freeze=5.0,
        failed_commit=0.005,
        disk_full=5.0,
        wipe=0.1,
        bad_update=0.02,
        skew_s=86_400.0,
    ),
}
"""Plans by name."""

SOURCE = "command line"
_CRASHES = {"node_crash", "coordinator_crash", "failed_commit", "wipe", "vanish"}
_IDENTITIES = {"stale_copy", "restore", "second_run", "twin"}
_SHARES = frozenset({"drop", "duplicate", "reorder", "bad_update", *_CRASHES, *_IDENTITIES})


def some_of(rng: random.Random, most: float, *, off: float = 0.3) -> float:
    """A probability or rate up to ``most``; 0 in this share of the draws, so that its absence is tested, too."""
    return 0.0 if rng.random() < off else rng.uniform(0.0, most)


def parse_faults(text: str) -> FaultPlan:
    """A preset's name, then ``key=value`` pairs that change it: ``mild,drop=0.05,delay=0.005..0.2``.

    Raises:
        ConfigError: A name is unknown, or a value is out of its range.
    """
    head, *rest = text.split(",")
    preset = PRESETS.get(head.strip())
    plan = PRESETS["none"] if preset is None else preset
    pairs = ",".join(rest) if preset is not None else text
    known = {field.name: field.name for field in fields(FaultPlan)} | {"delay": "delay_s"}
    changes: dict[str, object] = {}
    for key, value in parse_fields("--faults", pairs, known).items():
        changes[key] = _range(value) if key == "delay_s" else _number("--faults", key, value)
        if key in _SHARES and not 0.0 <= float(value) <= 1.0:
            raise ConfigError("--faults", f"{key} is a probability, not {value}", source=SOURCE)
    return replace(plan, **changes)  # type: ignore[arg-type]  # the keys are the fields' own


def parse_fields(option: str, text: str, known: Mapping[str, str]) -> dict[str, str]:
    """``key=value,key=value`` by the names of ``known``.

    Raises:
        ConfigError: A pair is malformed or its key is unknown.
    """
    found: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = part.partition("=")
        if not equals or key not in known:
            raise ConfigError(
                option, f"{part!r}: needs key=value with a key of {', '.join(sorted(known))}", source=SOURCE
            )
        found[known[key]] = value
    return found


def _number(option: str, key: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ConfigError(option, f"{key} needs a number, not {text!r}", source=SOURCE) from None
    if not 0.0 <= value < float("inf"):
        raise ConfigError(option, f"{key} is at least 0 and finite, not {text}", source=SOURCE)
    return value


def _range(text: str) -> tuple[float, float]:
    low, dots, high = text.partition("..")
    least = _number("--faults", "delay", low)
    most = _number("--faults", "delay", high) if dots else least
    if least > most:
        raise ConfigError("--faults", f"delay is a least and a greatest time, not {text}", source=SOURCE)
    return least, most


class Dice:
    """Draws the faults of one simulation; after `heal` there are none.

    A fault that is off draws nothing, so that switching one on changes the others as little as possible.
    """

    def __init__(self, plan: FaultPlan, seed: str) -> None:
        self.plan = plan
        self.rng = random.Random(seed)  # noqa: S311 - a simulation, not a secret
        self.active = True
        self._low, self._width = plan.delay_s[0], plan.delay_s[1] - plan.delay_s[0]

    def heal(self) -> None:
        """From now on nothing goes wrong any more."""
        self.active = False

    def happens(self, probability: float) -> bool:
        """Whether a fault of this probability happens now."""
        return probability > 0.0 and self.active and self.rng.random() < probability

    def delay(self) -> float:
        """Ordinary delay of one hop, in seconds."""
        return self._low + self._width * self.rng.random()

    def until_next(self, rate_per_hour: float) -> float | None:
        """Seconds until the next fault of a rate (a Poisson process); None for never."""
        return self.rng.expovariate(rate_per_hour / 3600.0) if rate_per_hour > 0.0 else None
