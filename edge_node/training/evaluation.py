"""Evaluates one model version on this node's own test data, as a function that the worker runs."""

from dataclasses import dataclass, field

from edge_node.engine.events import EvaluationFinished
from edge_node.training.masking import Masking
from federation.contract import checked_metrics, given
from federation.errors import TaskError, described, unexplained
from federation.inputs import agree
from federation.protocol.limits import EXAMPLES_MAX, SECONDS_MAX, fit_text
from federation.protocol.messages import EvaluationReport
from federation.protocol.sum_messages import PrivacyTerms
from federation.runtime.clock import Clock
from federation.runtime.log import get_log
from federation.task import TEST_EXAMPLES, Parameters, Stateful, Task
from federation.types import Digest, ModelVersion, RunId
from update_codec import Manifest, Vectors

__all__ = ["NOTHING_EVALUATED", "EvaluationJob", "HiddenMetrics", "evaluation_event", "reason_of"]

NOTHING_EVALUATED = "the task evaluates nothing on this node"
"""The reason of a report without numbers where nothing has failed."""


@dataclass(frozen=True, slots=True)
class HiddenMetrics:
    """How a report is to be hidden.

    Attributes:
        terms: See `federation.privacy.metrics.metric_terms`.
        metrics: Names of what is told, in the announced order.
        masking: Keys, randomness and signature; or why there are none.
    """

    terms: PrivacyTerms
    metrics: tuple[str, ...]
    masking: Masking | str


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationJob:
    """What is to be evaluated.

    Attributes:
        run: The run that asked.
        version: The model's version.
        digest: Its digest.
        model: The model.
        manifest_digest: Of the model's manifest; empty is the task's own.
        state: What the node keeps for its task.
        inputs_digest: Names what the run's inputs mean; None where nobody has said it.
        inputs: That, where it has been heard.
        uses: Whether the device is offered the model by what it comes to.
        hidden: How the report is hidden before it leaves; None reports in clear.
    """

    run: RunId
    version: ModelVersion
    digest: Digest
    model: Vectors
    manifest_digest: bytes = b""
    state: Parameters = field(default_factory=dict)
    inputs_digest: Digest | None = None
    inputs: str | None = None
    uses: bool = False
    hidden: HiddenMetrics | None = None


def evaluation_event(task: Task, manifest: Manifest, job: EvaluationJob, clock: Clock) -> EvaluationFinished:
    """What the evaluation comes to; whatever the user's task raises becomes the reason of a report without numbers."""
    began_s = clock.now()
    try:
        if isinstance(task, Stateful):
            task.restore(job.state)
        agree(task, job.inputs_digest, job.inputs)
        metrics = dict(checked_metrics(task.evaluate(given(task, manifest, job.model))))
        examples = _examples(metrics.pop(TEST_EXAMPLES, 1.0))
        reason = "" if metrics else NOTHING_EVALUATED
    except BaseException as error:  # noqa: BLE001 - even SystemExit from a user's task must not end the worker silently
        metrics, examples = {}, 0
        reason = reason_of(error)
        get_log("evaluation").warning(
            "evaluation_failed", version=job.version, reason=reason, exc_info=unexplained(error)
        )
    report = EvaluationReport(
        run=job.run,
        version=job.version,
        digest=job.digest,
        num_examples=examples if metrics else 0,
        metrics=metrics,
        evaluate_s=min(SECONDS_MAX, max(0.0, clock.now() - began_s)),
        reason=fit_text(reason),
    )
    return EvaluationFinished(report=report)


def reason_of(error: BaseException) -> str:
    """What a user's task has raised, for a message."""
    return str(error) if isinstance(error, TaskError) else described(error)


def _examples(count: float) -> int:
    return min(EXAMPLES_MAX, max(1, int(count)))
