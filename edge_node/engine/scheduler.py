"""The one round that the node works on: wait, fetch, adopt, train; and the newest one that asks for it meanwhile."""

from collections.abc import Callable
from dataclasses import replace

from edge_node.engine.assignment import Assignment, Stage, declined, joined, news_of, offer_of, summary_of
from edge_node.engine.budget import Budget
from edge_node.engine.effects import (
    AdoptModel,
    Effect,
    MakeInitialModel,
    Note,
    SaveProgress,
    StartTraining,
    StopTraining,
)
from edge_node.engine.evaluation import Evaluations
from edge_node.engine.events import ModelChunkReceived, TrainingFailed
from edge_node.engine.fetch import Fetch, path_bytes, plan
from edge_node.engine.outbox import Outbox
from edge_node.engine.reports import Reports
from edge_node.engine.runs import Runs
from edge_node.engine.settings import Hindrance, NodeSettings, hindrance, objection, wants_context
from edge_node.records import FinishedTraining, Held
from federation.protocol.cohort import includes
from federation.protocol.messages import Activity, EvaluationReport, ModelRef, RoundAnnouncement, UpdateOffer
from federation.types import Incarnation, RoundId

__all__ = ["Scheduler"]


class Scheduler:
    """At most one assignment at a time.

    Attributes:
        current: The newest announcement of the run.
    """

    def __init__(  # noqa: PLR0913 - all that it may not find by itself
        self,
        settings: NodeSettings,
        runs: Runs,
        *,
        rng: Callable[[], float],
        outbox: Outbox,
        reports: Reports,
        budget: Budget,
        gate: Callable[[], str | None] | None = None,
        lacks_key: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._settings, self._runs, self._rng, self._lacks_key = settings, runs, rng, lacks_key
        self._outbox, self._gate, self._budget = outbox, gate, budget
        self._evaluations = Evaluations(settings, reports, gate)
        self.current: RoundAnnouncement | None = None
        self._job: Assignment | None = None
        self._next: Assignment | None = None
        self._told, self._kept = list[ModelRef](), list[ModelRef]()  # of all; whose parts the broker has not cleared
        self._connected = False
        self._attempt, self._train_s = 0, 0.0  # trainings that were begun; how long the last one took

    @property
    def activity(self) -> Activity:
        """What the node is doing."""
        if self._job is None:
            return Activity.IDLE if self._outbox.round is None else Activity.UPLOADING
        if self._job.stage is Stage.WAITING:
            return Activity.IDLE
        return Activity.TRAINING if self._job.stage in (Stage.EVALUATING, Stage.TRAINING) else Activity.FETCHING

    @property
    def round(self) -> RoundId | None:
        """The round that it works on: it trains for it, or has not been told that its update is stored [FED-328]."""
        return self._outbox.round if self._job is None or not self._job.trains else self._job.round

    @property
    def idle(self) -> bool:
        """Whether nothing is at hand, and nothing to evaluate either."""
        return self._job is None and not self._evaluations.is_due(self.current)

    def summary(self) -> dict[str, object]:
        """Plain data: the assignment, and the one that waits."""
        return {**summary_of(self._job), "next_round": None if self._next is None else self._next.round}

    # --- announcements ----------------------------------------------------------------------------------------------

    def is_news(self, announcement: RoundAnnouncement) -> bool:
        """Whether it is newer than the newest one: the broker repeats the current one at every subscription."""
        return self.current is None or announcement.round > self.current.round

    def announce(self, announcement: RoundAnnouncement, now: float, *, invited: bool = False) -> list[Effect]:
        """A newer announcement: take it, keep it for later, or go on [FED-26, FED-27, FED-31]."""
        self.current = announcement
        self._told = self._told if invited else [announcement.model, *self._told[:1]]
        self._kept = [*self._told, announcement.model]  # an invitation's until all hear of a newer one [FED-35]
        asked = self._is_asked(announcement)
        reason = objection(announcement, self._settings) if asked else None
        effects = [] if reason is None else self._decline(announcement, reason, self._settings.incompatible_retry_s)
        asked = asked and reason is None
        effects += self._review(announcement, asked=asked, now=now)
        if not asked:
            return effects
        assignment = Assignment(
            announcement=announcement,
            model=announcement.model,
            due_at=now + self._rng() * min(announcement.spread_s, announcement.lease_s),
            lease_at=now + announcement.lease_s,
        )
        if self._job is None:
            return effects + self._take(assignment)
        if self._job.announcement is not announcement:
            self._next = assignment
        return effects

    def cancel(self, round_id: RoundId, now: float) -> list[Effect]:
        """The coordinator has no use for this round any more [FED-32]."""
        if self._next is not None and self._next.round == round_id:
            self._next = None
        job = self._job
        if job is None or job.round != round_id or not job.trains:
            return []
        if job.stage is Stage.EVALUATING:
            job.only_evaluate()
            return [self._finish_round(job.announcement)]
        return [*self.stop(), self._finish_round(job.announcement), *self._advance(now)]

    def stop(self) -> list[Effect]:
        """Give up the assignment, whatever its stage."""
        job, self._job = self._job, None
        if job is None:
            return []
        if job.stage is Stage.TRAINING:
            return [StopTraining(round=job.round)]
        return job.fetch.stop() if job.fetch is not None else []

    def leave_run(self) -> list[Effect]:
        """Another run: its rounds and versions have nothing to do with those at hand."""
        self.current, self._next, self._told = None, None, []
        self._evaluations.forget()
        return self.stop()

    def run_entered(self, held: Held | None) -> None:
        """What the disk has of the model, where nothing has begun to change it."""
        if self._job is None or self._job.stage is Stage.WAITING:
            self._runs.now.hold(held)

    def is_beyond(self, announcement: RoundAnnouncement) -> bool:
        """Whether the node knows newer rounds or versions than a coordinator that has just started [FED-111]."""
        now, version = self.current, announcement.model.version
        newer = now is not None and (now.round > announcement.round or now.model.version > version)
        return newer or self._runs.now.is_beyond(announcement.round, version)

    def rewind(self, announcement: RoundAnnouncement) -> list[Effect]:
        """Its store was restored: begin again from what it says."""
        self._runs.now.rewind(announcement.round, announcement.model.version)
        fields = {"round": announcement.round, "version": announcement.model.version}
        return [*self.leave_run(), Note(event="coordinator_went_back", fields=fields)]

    def finish(self) -> list[Effect]:
        """The run has ended: nobody waits for the work."""
        self._next = None
        return self.stop()

    # --- the model --------------------------------------------------------------------------------------------------

    def connected(self, now: float) -> list[Effect]:
        """Go on with the fetch where it broke."""
        self._connected = True
        return self._follow(lambda fetch: fetch.connected(now), now)

    def disconnected(self) -> list[Effect]:
        """The fetch waits."""
        self._connected = False
        return [] if self._job is None or self._job.fetch is None else self._job.fetch.disconnected()

    def chunk(self, event: ModelChunkReceived, now: float) -> list[Effect]:
        """A chunk of the model."""
        return self._follow(lambda fetch: fetch.chunk(event, now), now)

    def model_ready(self, held: Held, now: float) -> list[Effect]:
        """A model is on disk: train from it when it is the one that the round is about."""
        self._runs.now.hold(held)
        job = self._job
        if job is None or job.stage is not Stage.ADOPTING:
            return []
        return self._begin(now)

    def model_rejected(self, version: int, reason: str, now: float) -> list[Effect]:
        """It is not what was announced: pull the keyframe, once, then decline [FED-39]."""
        job = self._job
        begun = (Stage.ADOPTING, Stage.EVALUATING, Stage.TRAINING)
        if job is None or job.stage not in begun or job.model.version != version:
            return []
        self._runs.now.hold(None)
        return self._fall_back(job, reason, now)

    # --- training ---------------------------------------------------------------------------------------------------

    def finished(self, result: FinishedTraining, incarnation: Incarnation) -> UpdateOffer | None:
        """The update to offer, or None when nobody waits for this result."""
        job = self._trained(result)
        if job is None:
            return None
        self._job, self._train_s = None, result.train_s
        self._runs.now.done(result.round)
        return offer_of(job, result, self._settings, incarnation)

    def failed(self, failure: TrainingFailed, now: float) -> list[Effect]:
        """The user's task could not do it: say so, and be ready for the next round."""
        return [] if (job := self._trained(failure)) is None else self._give_up(job, failure.reason, now)

    def evaluated(self, report: EvaluationReport, now: float) -> list[Effect]:
        """A version has been evaluated here: report it, and train from it where that was asked, too."""
        job = self._job
        if job is None or job.stage is not Stage.EVALUATING:
            return []
        if (report.run, report.version) != (job.announcement.run, job.model.version):
            return []
        self._evaluations.done(report, now)
        return self._begin(now)

    # --- time -------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Effect]:
        """Everything that is due."""
        job = self._job
        if job is None:
            return self._advance(now)
        effects = news_of(job, self.activity, now)
        if job.train_until is not None and now >= job.train_until:
            # The owner's bound, not the coordinator's lease: the device has other things to do [FED-34].
            reason = f"training took {self._settings.bounds.train_s_max:g} s, the bound of bounds.train_s_max"
            effects += [*self.stop(), *self._decline(job.announcement, reason, self._settings.incompatible_retry_s)]
            return effects + self._advance(now)
        if job.stage is Stage.WAITING and now >= job.due_at:
            return effects + self._begin(now)
        fetch_at = job.fetch_due
        if fetch_at is not None and now >= fetch_at:
            newest = None if self.current is None else self.current.model
            if newest is not None and newest.version > job.model.version and job.is_starved([newest], soon=False):
                return effects + self._retarget(job, newest, now)
            effects += self._follow(lambda fetch: fetch.timeout(now), now)
        return effects

    def deadline(self) -> float | None:
        """When `tick` is due next."""
        return self._evaluations.deadline(self.current) if self._job is None else self._job.next_due()

    # --- inside -----------------------------------------------------------------------------------------------------

    def _is_asked(self, announcement: RoundAnnouncement) -> bool:
        last = self._runs.now.last_round
        if (last is not None and announcement.round <= last) or self._outbox.holds(announcement.round):
            return False
        return includes(announcement.cohort, announcement.run, announcement.round, self._settings.node)

    def _review(self, announcement: RoundAnnouncement, *, asked: bool, now: float) -> list[Effect]:
        """What a newer announcement means for the work at hand."""
        job = self._job
        if job is None:
            return []
        same = job.is_about(announcement.model)
        if not job.trains and (asked or not same):
            # The newer version is what is to be evaluated, or nothing; the same one goes on, and training follows.
            return self._also_train(job, announcement, now) if same and asked else self.stop()
        if not job.trains:
            return []
        outdated = job.model.version < announcement.min_base_version
        if job.stage is Stage.TRAINING:
            return self._end_outdated(job) if outdated else []
        if not asked:
            # The assignment stands: later announcements ask others. But train from what is not stale yet.
            moves = outdated or job.stage is Stage.WAITING or job.is_starved(self._kept, soon=True)
            return self._retarget(job, announcement.model, now) if moves else []
        return self._also_train(job, announcement, now) if same else self.stop()

    def _end_outdated(self, job: Assignment) -> list[Effect]:
        self._runs.now.done(job.round)
        return [Note(event="training_outdated", fields={"round": job.round}), *self.stop()]

    def _also_train(self, job: Assignment, announcement: RoundAnnouncement, now: float) -> list[Effect]:
        """The same model is at hand, or on its way: only the round is newer."""
        if job.stage not in (Stage.FETCHING, Stage.EVALUATING):
            return self.stop()
        if self._hindrance(announcement) is not None:
            return []  # it waits its turn, and is declined then if nothing has changed
        job.also_train(announcement, now)
        return [joined(job)]

    def _retarget(self, job: Assignment, model: ModelRef, now: float) -> list[Effect]:
        effects = job.retarget(model)
        return effects if job.stage is Stage.WAITING else effects + self._begin(now)

    def _evaluate_current(self, now: float) -> list[Effect]:
        """Nothing else is at hand: evaluate, where the newest announcement asks for it [FED-70]."""
        if self.current is None or not self._evaluations.is_due(self.current, now):
            return []
        self._job = self._evaluations.assignment(self.current, self._rng(), now)
        return [] if self._job is None else [joined(self._job), *self.tick(now)]

    def _take(self, assignment: Assignment) -> list[Effect]:
        if (found := self._hindrance(assignment.announcement)) is not None:
            return self._decline(assignment.announcement, found.reason, found.retry_after_s)
        self._job = assignment
        return [joined(assignment)]

    def _hindrance(self, announcement: RoundAnnouncement) -> Hindrance | None:
        return hindrance(self._settings, self._outbox.obstacle(), self._gate) or self._budget.hindrance(announcement)

    def _advance(self, now: float) -> list[Effect]:
        """Take the assignment that came while another was at work, if it still stands."""
        later, self._next = self._next, None
        if later is None or self.current is None:
            return self._evaluate_current(now)
        if later.announcement is not self.current and now >= later.lease_at:
            return self._evaluate_current(now)  # the coordinator has given the slot to somebody else
        return later.retarget(self.current.model) + self._take(later) + self.tick(now)

    def _begin(self, now: float) -> list[Effect]:
        job = self._assignment()
        model = job.model
        if self._runs.now.held == Held(version=model.version, digest=model.digest):
            if self.current is not None and self._evaluations.is_due(self.current, now, model):
                job.begin_evaluation()
                return [self._evaluations.begin(self.current, now)]
            if not job.trains:
                self._job = None
                return self._advance(now)
            job.begin_training(self._settings, now)
            self._attempt += 1
            announcement = replace(job.announcement, model=model)
            budget = self._outbox.link.budget_bytes(announcement.lease_s, job.lease_at - now - self._train_s)
            return [StartTraining(announcement=announcement, payload_bytes_max=budget, attempt=self._attempt)]
        if job.stage is Stage.ADOPTING:
            return self._fall_back(job, "another model was adopted", now)
        if model.version == 0 and model.seed is not None and not job.keyframe:
            job.begin_adoption()
            return [MakeInitialModel(model=model, averaging=wants_context(job.announcement.codec))]
        return self._fetch(job, now)

    def _fetch(self, job: Assignment, now: float) -> list[Effect]:
        if (
            parts := plan(job.model, None if job.keyframe else self._runs.now.held, from_seed=not job.keyframe)
        ) is None:
            return self._give_up(job, f"no parts lead to version {job.model.version}", now)
        if path_bytes(parts) > self._settings.bounds.model_bytes_max:
            return self._give_up(job, f"the model has {path_bytes(parts)} bytes", now)
        tell_at = now + self._settings.progress_after_s if self._connected else None
        job.begin_fetch(Fetch(parts, self._settings, job.model.delta, self._lacks_key), tell_at)
        return self._follow(lambda fetch: fetch.connected(now), now) if self._connected else []

    def _follow(self, step: Callable[[Fetch], list[Effect]], now: float) -> list[Effect]:
        """Let the fetch take one step, and draw the conclusion."""
        job = self._job
        if job is None or job.stage is not Stage.FETCHING or job.fetch is None:
            return []
        fetch = job.fetch
        effects = job.follow(fetch, step)
        if fetch.failed is not None:
            return effects + self._fall_back(job, fetch.failed, now)
        if fetch.complete:
            job.begin_adoption()
            averaging = wants_context(job.announcement.codec)
            effects.append(AdoptModel(model=job.model, parts=fetch.payloads(), averaging=averaging))
        return effects

    def _fall_back(self, job: Assignment, reason: str, now: float) -> list[Effect]:
        """Another way to a model: the newest version, then the keyframe, then none."""
        job.wait()
        note: Effect = Note(event="model_fallback", fields={"round": job.round, "reason": reason})
        if self.current is not None and self.current.model.version > job.model.version:
            return [note, *self._retarget(job, self.current.model, now), *self._begin(now)]
        if job.keyframe:
            return self._give_up(job, reason, now)
        job.want_keyframe()
        return [note, *self._begin(now)]

    def _give_up(self, job: Assignment, reason: str, now: float) -> list[Effect]:
        self._job = None
        if self.current is not None and self._evaluations.is_due(self.current, now, job.model):
            self._evaluations.refuse(self.current, reason, now)
        effects = self._decline(job.announcement, reason, self._settings.decline_retry_s) if job.trains else []
        return effects + self._advance(now)

    def _decline(self, announcement: RoundAnnouncement, reason: str, retry_after_s: float) -> list[Effect]:
        """Say it once per round, after it is on disk that the round is over [FED-30]."""
        return [self._finish_round(announcement), *declined(announcement, reason, retry_after_s)]

    def _finish_round(self, announcement: RoundAnnouncement) -> SaveProgress:
        self._runs.now.done(announcement.round)
        return SaveProgress(run=announcement.run, last_round=announcement.round)

    def _trained(self, answer: FinishedTraining | TrainingFailed) -> Assignment | None:
        """What was trained for; None where nobody waits for it, such as for what was begun before another run."""
        job = self._job
        mine = job is not None and job.is_trained_by(answer.round, answer.run)
        return job if mine and answer.attempt in (None, self._attempt) else None

    def _assignment(self) -> Assignment:
        assert self._job is not None  # noqa: S101 - the callers have just looked
        return self._job
