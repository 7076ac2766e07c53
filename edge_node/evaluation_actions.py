"""The evaluation of a model version on a node: what the machine asks for, and what comes back."""

from dataclasses import dataclass

from federation.protocol.messages import EvaluationReport, ModelRef
from federation.types import RunId

__all__ = ["EvaluationFinished", "StartEvaluation"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationFinished:
    """The worker has evaluated a version, or says why it could not: what is to be reported."""

    report: EvaluationReport


@dataclass(frozen=True, slots=True, kw_only=True)
class StartEvaluation:
    """Evaluate the held model in the worker; answers `EvaluationFinished` later, through the inbox.

    An evaluation that nobody waits for any more runs to its end, and its result is ignored.
    """

    model: ModelRef
    run: RunId
