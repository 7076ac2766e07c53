"""Stand-ins for what surrounds a node's shell: a task, a transport, a worker."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from edge_node.training.evaluation import EvaluationJob
from edge_node.training.worker import TrainingJob, TrainingSetup
from federation.errors import PayloadTooLarge
from federation.protocol.chunking import payload_digest
from federation.protocol.cohort import EVERYONE
from federation.protocol.messages import ModelPart, ModelRef, PartKind, RoundAnnouncement, TrainSettings
from federation.task import Array, Parameters, Stop, TrainResult
from federation.types import Digest, Epoch, ModelVersion, NodeId, RoundId, RunId
from update_codec import CodecSpec, Manifest, Role, Vectors, encode

RUN = RunId("00000000000000aa")
NODE = NodeId("pi-3")


def tensors(value: float = 0.0) -> dict[str, Array]:
    return {
        "weight": np.full((4, 3), value, np.float32),
        "bias": np.arange(3, dtype=np.float32),
        "mean": np.zeros(2, np.float32),
        "steps": np.array(5, np.int64),
    }


@dataclass
class ToyTask:
    """Adds 1 to every weight, and does what a test tells it."""

    change: Callable[[dict[str, Array]], None] | None = None
    raises: BaseException | None = None
    num_examples: int = 10
    metrics: Mapping[str, float] = field(default_factory=lambda: {"loss": 0.5})
    during: Callable[[Stop], None] | None = None

    def initial_parameters(self, seed: int) -> Parameters:
        return tensors(float(seed))

    def roles(self) -> Mapping[str, Role]:
        return {"mean": Role.STATISTIC}

    def train(self, parameters: Parameters, settings: TrainSettings, stop: Stop) -> TrainResult:
        if self.raises is not None:
            raise self.raises
        if self.during is not None:
            self.during(stop)
        trained = dict(parameters)
        trained["weight"] = np.asarray(trained["weight"], np.float32) + np.float32(1)
        if self.change is not None:
            self.change(trained)
        return TrainResult(parameters=trained, num_examples=self.num_examples, metrics=self.metrics)

    def evaluate(self, parameters: Parameters) -> Mapping[str, float]:
        return {}


MANIFEST = Manifest.of(tensors(), ToyTask().roles())


def training_setup(task: ToyTask | None = None, norm_max: float | None = None) -> TrainingSetup:
    return TrainingSetup(node=NODE, task=task or ToyTask(), manifest=MANIFEST, norm_max=norm_max)


def vectors(value: float = 0.0) -> Vectors:
    return MANIFEST.flatten(tensors(value))


def part(kind: PartKind, version: int, content: Vectors) -> tuple[ModelPart, bytes]:
    frame = encode(content, MANIFEST, CodecSpec.parse("lossless")).frame
    described = ModelPart(
        kind=kind,
        version=ModelVersion(version),
        payload_bytes=len(frame),
        payload_digest=payload_digest(frame),
        chunk_bytes=61_440,
    )
    return described, frame


def model_ref(
    version: int, content: Vectors, *, seed: int | None = None, manifest_digest: bytes = MANIFEST.digest
) -> ModelRef:
    return ModelRef(
        version=ModelVersion(version),
        digest=Digest(content.digest()),
        manifest_digest=Digest(manifest_digest),
        seed=seed,
        parts=(),
    )


def announcement(
    round_number: int = 7, content: Vectors | None = None, *, version: int = 4, codec: str = "lossless"
) -> RoundAnnouncement:
    return RoundAnnouncement(
        run=RUN,
        epoch=Epoch(1),
        round=RoundId(round_number),
        task="toy",
        model=model_ref(version, vectors() if content is None else content),
        cohort=EVERYONE,
        settings=TrainSettings(),
        codec=codec,
        min_base_version=ModelVersion(0),
        lease_s=60.0,
        spread_s=0.0,
    )


@dataclass(frozen=True)
class Published:
    """One publish."""

    topic: str
    payload: bytes
    qos: int
    retain: bool


@dataclass
class RecordingTransport:
    """Remembers what was said; refuses what is larger than the broker takes."""

    packet_bytes_max: int = 1 << 20
    published: list[Published] = field(default_factory=list)
    filters: list[str] = field(default_factory=list)

    def open(self) -> None:
        """Nothing to connect."""

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        if len(payload) > self.packet_bytes_max:
            raise PayloadTooLarge(topic)
        self.published.append(Published(topic, payload, qos, retain))

    def subscribe(self, topic_filter: str, *, qos: int = 1) -> None:
        self.filters.append(topic_filter)

    def unsubscribe(self, topic_filter: str) -> None:
        self.filters.remove(topic_filter)

    def close(self, *, timeout_s: float = 5.0) -> None:
        """Nothing to flush."""


@dataclass
class RecordingTrainer:
    """Remembers its jobs."""

    jobs: list[TrainingJob] = field(default_factory=list)
    stopped: list[RoundId] = field(default_factory=list)
    evaluations: list[EvaluationJob] = field(default_factory=list)

    def evaluate(self, job: EvaluationJob) -> None:
        self.evaluations.append(job)

    def start(self, job: TrainingJob) -> None:
        self.jobs.append(job)

    def stop(self, round_id: RoundId) -> None:
        self.stopped.append(round_id)

    def close(self, *, timeout_s: float) -> bool:
        return True
