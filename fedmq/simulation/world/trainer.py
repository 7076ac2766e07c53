"""Training in virtual time: how long each round takes on each node, and its result when that time is over."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

from edge_node.engine.events import TrainingFinished
from edge_node.records import FinishedTraining
from edge_node.training.evaluation import EvaluationJob
from edge_node.training.masked_report import told
from edge_node.training.worker import TrainingJob, TrainingSetup, evaluated, training_event
from federation.errors import ConfigError
from federation.protocol.chunking import payload_digest
from federation.types import Digest, RoundId
from fedmq.simulation.world.clock import World
from fedmq.simulation.world.faults import Dice, parse_fields
from update_codec import CodecSpec, Vectors, encode

__all__ = ["SimTrainer", "Spoiler", "Stragglers", "parse_stragglers"]

GIVE_UP_S = 0.05
"""A task asks its stop flag about this often, in seconds."""


HUGE = 1e9
"""A parameter of an update that is beyond every bound."""

CLAIM = 1 << 40
"""More examples than any node can have."""

EVALUATION_SHARE = 0.2
"""What an evaluation takes of a training's time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stragglers:
    """How long training takes: ``train_s`` times the node's factor times the round's.

    Attributes:
        train_s: Median time, in seconds.
        spread: Sigma of a lognormal factor that each node keeps.
        jitter: Sigma of a lognormal factor that each round draws.
        slow_share: Share of nodes that are slower still.
        slow_factor: By how much.
    """

    train_s: float = 2.0
    spread: float = 0.4
    jitter: float = 0.1
    slow_share: float = 0.05
    slow_factor: float = 8.0

    def node_factor(self, rng: random.Random) -> float:
        """One node's own factor."""
        slow = self.slow_factor if rng.random() < self.slow_share else 1.0
        return slow * rng.lognormvariate(0.0, self.spread)


def parse_stragglers(text: str) -> Stragglers:
    """``key=value`` pairs such as ``train_s=5,slow_share=0.2``; ``none`` is the same time for everybody.

    Raises:
        ConfigError: A key is unknown, or a value is not a number of at least 0.
    """
    if text == "none":
        return Stragglers(spread=0.0, jitter=0.0, slow_share=0.0)
    names = {name: name for name in ("train_s", "spread", "jitter", "slow_share", "slow_factor")}
    values: dict[str, float] = {}
    for key, given in parse_fields("--stragglers", text, names).items():
        try:
            values[key] = float(given)
        except ValueError:
            raise ConfigError("--stragglers", f"{key} needs a number, not {given!r}", source="command line") from None
        if not 0.0 <= values[key] < math.inf:
            raise ConfigError("--stragglers", f"{key} is at least 0 and finite, not {given}", source="command line")
    return replace(Stragglers(), **values)


@dataclass(slots=True)
class _Stopwatch:
    """Reads the virtual start at the first call and the virtual end at every later one."""

    readings: list[float] = field(default_factory=list)

    def now(self) -> float:
        return self.readings.pop(0) if len(self.readings) > 1 else self.readings[0]


@dataclass(slots=True)
class _Running:
    job: TrainingJob
    took_s: float
    stopped: bool = False


class SimTrainer:
    """The node's worker: one job at a time, computed when its virtual time is over.

    Args:
        world: Time.
        setup: The task and who trains it.
        duration_s: Draws how long the next job takes, in seconds.
        post: Takes the result.
    """

    def __init__(
        self, world: World, setup: TrainingSetup, duration_s: Callable[[], float], post: Callable[..., None]
    ) -> None:
        self._world, self._setup = world, setup
        self._duration_s, self._post = duration_s, post
        self._running: _Running | None = None
        self._waiting: _Running | None = None
        self._closed = False

    def start(self, job: TrainingJob) -> None:
        """Run this job as soon as the running one is over; a job that still waits is replaced."""
        next_one = _Running(job, self._duration_s())
        if self._running is None:
            self._begin(next_one)
        else:
            self._waiting = next_one

    def evaluate(self, job: EvaluationJob) -> None:
        """Evaluate; it takes a part of what training takes."""
        took_s = EVALUATION_SHARE * self._duration_s()
        self._world.after(took_s, partial(self._evaluated, job, took_s))

    def _evaluated(self, job: EvaluationJob, took_s: float) -> None:
        if not self._closed:
            watch = _Stopwatch([0.0, took_s])
            self._post(told(self._setup.node, job, evaluated(self._setup, job, watch)))

    def stop(self, round_id: RoundId) -> None:
        """Ask the job of this round to give up."""
        waiting, running = self._waiting, self._running
        if waiting is not None and waiting.job.announcement.round == round_id:
            waiting.stopped = True
        if running is not None and running.job.announcement.round == round_id and not running.stopped:
            running.stopped = True
            self._world.after(GIVE_UP_S, partial(self._end, running))

    def close(self, *, timeout_s: float) -> bool:
        """Stop everything."""
        del timeout_s
        self.abandon()
        return True

    def abandon(self) -> None:
        """The process is gone, and the job with it."""
        self._closed = True

    def _begin(self, running: _Running) -> None:
        self._running = running
        self._world.after(GIVE_UP_S if running.stopped else running.took_s, partial(self._end, running))

    def _end(self, running: _Running) -> None:
        if self._closed or self._running is not running:
            return
        self._running, waiting, self._waiting = None, self._waiting, None
        watch = _Stopwatch([0.0, running.took_s])
        event = training_event(self._setup, running.job, lambda: running.stopped, watch)
        if waiting is not None:
            self._begin(waiting)
        self._post(event)


class Spoiler:
    """Makes something else of what a node has trained, now and then.

    Attributes:
        made: What it has made so far: the digest of each frame, and the examples that are claimed.
    """

    def __init__(self, dice: Dice, setup: TrainingSetup) -> None:
        self.made: set[tuple[Digest, int]] = set()
        self._dice, self._setup = dice, setup

    def before(self, post: Callable[..., None]) -> Callable[..., None]:
        """What takes the results instead of this."""

        def take(event: object) -> None:
            if isinstance(event, TrainingFinished) and self._dice.happens(self._dice.plan.bad_update):
                event = replace(event, result=self._spoiled(event.result))
            post(event)

        return take

    def _spoiled(self, result: FinishedTraining) -> FinishedTraining:
        rng = self._dice.rng
        match rng.randrange(4):
            case 0:
                result = replace(result, frame=result.frame[: len(result.frame) // 2])
            case 1:
                result = replace(result, frame=rng.randbytes(len(result.frame)))
            case 2:
                vectors = Vectors.zeros(self._setup.manifest)
                vectors.parameters[:] = HUGE
                result = replace(result, frame=encode(vectors, self._setup.manifest, CodecSpec.parse("lossless")).frame)
            case _ if result.masked is not None:
                return result  # beside a masked update no number travels
            case _:
                result = replace(result, num_examples=CLAIM)
        said = result.num_examples if result.masked is None else 1
        self.made.add((payload_digest(result.frame), said))
        return result
