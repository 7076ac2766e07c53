"""Takes a version for the device, or does not: judged on the device's own data, beside the version that is there.

Both are evaluated on the data of now: a figure of last month would keep a device whose machine has changed on a model
that is no good any more. A device that has nothing to evaluate on takes what comes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from safetensors.numpy import save

from edge_node.config import ModelSection
from edge_node.model.hooks import Hooks, Publish
from edge_node.model.program import Programs, signature_of
from edge_node.model.versions import PARAMETERS, Figure, Versions, Written
from edge_node.storage.task_state import pack_arrays, unpack_arrays
from edge_node.training.evaluation import NOTHING_EVALUATED, EvaluationJob
from edge_node.training.worker import TrainingSetup
from federation.errors import ConfigError, StorageError, TaskError, user_code
from federation.model_notes import ModelNotes
from federation.protocol.messages import EvaluationReport
from federation.runtime.log import get_log
from federation.task import Completable, Exportable, Metrics, Parameters, ProgramForm, Stateful, Task
from federation.tasks.scaffold import without_controls

__all__ = ["ModelKeeper", "figure_of", "make_keeper", "worse"]

FIGURES = ("accuracy", "loss")
SMALLER = ("loss", "error", "mse", "rmse", "mae")
"""Ends of the names of numbers of which less is better."""

SHARED, KEPT = "shared:", "kept:"


@dataclass(slots=True)
class ModelKeeper:
    """What the device makes of evaluated versions.

    Attributes:
        settings: The owner's.
        label: The task's name.
        versions: The folder.
        hooks: Who is told.
    """

    settings: ModelSection
    label: str
    versions: Versions
    hooks: Hooks
    _programs: Programs | None = None

    def check(self, task: Task) -> None:
        """See that the task can do what is asked for.

        Raises:
            ConfigError: It cannot write its model in this form.
        """
        if self.settings.form == "safetensors":
            return
        if not isinstance(task, Exportable):
            problem = (
                f"{self.label} cannot write {self.settings.form} (see federation.task.Exportable): use safetensors"
            )
            raise ConfigError("model.form", problem)
        self._programs = Programs(task, ProgramForm(self.settings.form), self.settings.program)

    def offer(self, setup: TrainingSetup, job: EvaluationJob, report: EvaluationReport) -> None:
        """A version was evaluated: take it, or say why not."""
        log = get_log("model")
        if job.version == 0:
            return  # nothing has been learnt yet
        if self.versions.held is not None:
            log.info("model_not_taken", version=job.version, reason="the present one is held (edge-node model resume)")
            return
        suited = setup.suited(job.manifest_digest)
        shared = without_controls(suited.manifest.unflatten(job.model))
        present = self._present()
        if present is not None and (present.run, present.digest) == (job.run, job.digest.hex()):
            return
        figure, reason = self._judge(setup.task, shared, job.state, report, present)
        if reason:
            log.warning("model_not_taken", version=job.version, reason=reason)
            return
        try:
            written = self._write(setup.task, shared, job, figure)
        except (StorageError, TaskError) as error:
            log.warning("model_not_written", version=job.version, reason=str(error))
            return
        if written is None:
            return
        numbers = {} if figure is None else {figure.name: round(figure.value, 6), "present": figure.present}
        log.info("model_taken", version=job.version, number=written.number, bytes=written.size_bytes, **numbers)
        self.hooks.tell(written)

    def close(self, *, timeout_s: float) -> None:
        """Give who is told this long, in seconds."""
        self.hooks.close(timeout_s)

    def _present(self) -> Written | None:
        try:
            return self.versions.present()
        except StorageError as error:
            get_log("model").warning("model_note_damaged", reason=str(error))
            return None

    # --- judging ----------------------------------------------------------------------------------------------------

    def _judge(
        self, task: Task, shared: Parameters, state: Parameters, report: EvaluationReport, present: Written | None
    ) -> tuple[Figure | None, str]:
        """How good it is here, and why it is not taken; no reason takes it."""
        if not report.metrics:
            return None, "" if report.reason == NOTHING_EVALUATED else report.reason
        name = figure_of(report.metrics, self.settings.figure)
        if name is None:
            wanted = self.settings.figure or " or ".join(FIGURES)
            return None, f"the task says no {wanted} here, only {', '.join(report.metrics)}: see model.figure"
        before = None if present is None else self._evaluated(task, present, shared, state).get(name)
        figure = Figure(name=name, value=report.metrics[name], present=before, examples=report.num_examples)
        return figure, worse(figure, self.settings.worse_max, larger=self._is_larger_better(name))

    def _is_larger_better(self, name: str) -> bool:
        said = self.settings.larger_is_better
        return not name.endswith(SMALLER) if said is None else said

    def _evaluated(self, task: Task, present: Written, now: Parameters, state: Parameters) -> Metrics:
        """The present version on the data of now; nothing where it is another task's, or cannot be read."""
        try:
            arrays = unpack_arrays(self.versions.path_of(present, PARAMETERS).read_bytes())
        except OSError:
            return {}
        shared = {name.removeprefix(SHARED): each for name, each in arrays.items() if name.startswith(SHARED)}
        kept = {name.removeprefix(KEPT): each for name, each in arrays.items() if name.startswith(KEPT)}
        shapes = [{name: (each.shape, each.dtype) for name, each in model.items()} for model in (shared, now)]
        if shapes[0] != shapes[1] or present.notes.task != self.label:
            return {}
        try:
            with user_code("the present model cannot be evaluated"):
                _restore(task, kept)
                return task.evaluate(shared)
        except TaskError as error:
            get_log("model").warning("present_not_evaluated", version=present.notes.version, reason=str(error))
            return {}
        finally:
            _restore(task, state)

    # --- writing ----------------------------------------------------------------------------------------------------

    def _write(self, task: Task, shared: Parameters, job: EvaluationJob, figure: Figure | None) -> Written | None:
        with user_code(f"version {job.version} cannot be written"):
            _restore(task, job.state)
            whole = task.complete(shared) if isinstance(task, Completable) else shared
            notes = ModelNotes.of(job.version, self.label, task, whole)
        signature: dict[str, Any]
        if self._programs is None:
            body, signature = save(dict(whole), metadata=dict(notes.to_texts())), {}
        else:
            body = self._programs.make(whole, notes.to_texts())
            signature = signature_of(body, self._programs.form)
        written = Written(
            notes=notes,
            run=job.run,
            digest=job.digest.hex(),
            file=f"model.{self.settings.form}",
            figure=figure,
            signature=signature,
        )
        again = {SHARED + name: each for name, each in shared.items()}
        again |= {KEPT + name: each for name, each in job.state.items()}
        return self.versions.write(written, {written.file: body, PARAMETERS: pack_arrays(again)})


def figure_of(metrics: Mapping[str, float], wanted: str | None) -> str | None:
    """Which number a version is judged by; None where the task does not say it."""
    return next((name for name in ((wanted,) if wanted else FIGURES) if name in metrics), None)


def worse(figure: Figure, worse_max: float, *, larger: bool) -> str:
    """Why a version is worse than the present one by more than the margin; empty where it is not."""
    if not math.isfinite(figure.value):
        return f"its {figure.name} is {figure.value}"
    if figure.present is None or not math.isfinite(figure.present):
        return ""
    lost = (figure.present - figure.value) if larger else (figure.value - figure.present)
    if lost <= worse_max * abs(figure.present):
        return ""
    return f"its {figure.name} is {figure.value:.6g} here, and the present version's {figure.present:.6g}"


def _restore(task: Task, state: Parameters) -> None:
    if isinstance(task, Stateful):
        task.restore(state)


def make_keeper(settings: ModelSection, label: str, publish: Publish) -> ModelKeeper | None:
    """What writes the model; None where the owner wants none.

    Args:
        settings: The owner's.
        label: The task's name.
        publish: Publishes a retained message on the node's broker.
    """
    if settings.folder is None:
        return None
    versions = Versions(settings.folder, settings.keep)
    return ModelKeeper(settings, label, versions, Hooks(settings, versions, publish))
