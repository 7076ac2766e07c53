"""What a node has spent under differential privacy, and that nothing is released beyond its budget."""

from dataclasses import dataclass, replace
from random import Random
from typing import Any

import pytest

from edge_node.engine.budget import BUDGET, Budget
from edge_node.engine.effects import PublishState, SaveOutbox, SaveSpent
from edge_node.engine.events import TrainingFinished
from edge_node.engine.settings import NodeSettings, TrainBounds
from federation.privacy.budget import epsilon_of, greatest, ledger_of, merged, turn_of
from federation.protocol.limits import SPENT_KINDS_MAX
from federation.protocol.messages import Rebirth, RoundAnnouncement, TrainSettings
from federation.protocol.wire import decode_message, encode_message
from federation.types import ExamplePrivacy, NodeId, RunId, SampledSteps
from tests.rigs import repetitions
from tests.rigs.node_rig import RUN, Script, announcement, holding, result

PRIVACY = ExamplePrivacy(clip=1.0, noise=1.0, sampling_rate=0.1, epsilon=3.0, delta=1e-5)
HOW = TrainSettings(batch_size=10, privacy=PRIVACY)
TURN = turn_of(HOW, PRIVACY)
OTHER = RunId("00000000000000bb")


def steps(count: int, noise: float = 1.0) -> SampledSteps:
    return SampledSteps(sampling_rate=0.1, noise=noise, steps=count)


def ask(run: RunId = RUN, privacy: ExamplePrivacy | None = PRIVACY, round_id: int = 1) -> RoundAnnouncement:
    return announcement(round_id, settings=replace(HOW, privacy=privacy), run=run)


def started(spent: tuple[SampledSteps, ...] = (), **bounds: Any) -> Budget:
    """A node's process begins with what its disk has."""
    settings = NodeSettings(node=NodeId("n"), task="toy", private=True, bounds=TrainBounds(**bounds))
    return Budget(settings, {RUN: spent})


def budget(**bounds: Any) -> Budget:
    """The same, past the first round of each run."""
    made = started(**bounds)
    for run in (RUN, OTHER):
        made.hindrance(ask(run))
    return made


def reason(of: Budget, message: RoundAnnouncement) -> str | None:
    found = of.hindrance(message)
    return None if found is None else found.reason


def test_an_epoch_is_as_many_steps_as_draw_each_row_once_on_average() -> None:
    """FED-180."""
    assert steps(10) == TURN
    assert turn_of(replace(HOW, local_epochs=3), PRIVACY).steps == 30
    assert turn_of(replace(HOW, max_steps=4), PRIVACY).steps == 4
    assert turn_of(replace(HOW, max_steps=400), PRIVACY).steps == 10
    assert turn_of(HOW, replace(PRIVACY, sampling_rate=0.3)).steps == 4
    assert turn_of(HOW, replace(PRIVACY, sampling_rate=1.0)).steps == 1


def test_turns_are_taken_until_the_next_one_would_exceed_the_budget() -> None:
    """FED-182."""
    node, taken = budget(), 0
    while reason(node, ask()) is None:
        node.charge(RUN, TURN)
        taken += 1
    assert reason(node, ask()) == BUDGET
    assert epsilon_of([steps(10 * taken)], 1e-5) <= 3.0 < epsilon_of([steps(10 * (taken + 1))], 1e-5)
    assert reason(node, ask(OTHER)) is None, "another run has a budget of its own"
    assert reason(node, ask(privacy=replace(PRIVACY, epsilon=8.0))) is None


def test_the_owners_bound_is_over_all_runs() -> None:
    """FED-182."""
    node = budget(epsilon_max=3.0)
    while reason(node, ask()) is None:
        node.charge(RUN, TURN)
    assert reason(node, ask(OTHER)) == BUDGET
    assert reason(node, ask(OTHER, replace(PRIVACY, noise=50.0))) is None, "with much noise a turn costs little more"
    assert reason(node, ask(privacy=None)) == "without differential privacy no epsilon is kept"
    assert reason(budget(), ask(privacy=None)) is None


def test_a_task_that_cannot_keep_it_declines() -> None:
    """FED-185."""
    plain = Budget(NodeSettings(node=NodeId("n"), task="toy"), {})
    assert reason(plain, ask()) == "the task cannot keep differential privacy"
    assert reason(plain, ask(privacy=None)) is None


def test_a_node_without_a_ledger_waits_once_for_what_the_coordinator_knows() -> None:
    """FED-184."""
    node = started()
    assert reason(node, ask()) == "ledger"
    assert node.adopt(RUN, (steps(500),))
    assert reason(node, ask()) == BUDGET
    assert reason(started(), ask(privacy=None)) is None
    assert [reason(node, ask()) for node in [started()] for _ in range(2)] == ["ledger", None]
    assert reason(started((steps(1),)), ask()) is None


def test_a_ledger_takes_over_what_is_more_and_never_less() -> None:
    """FED-183."""
    node = budget()
    node.charge(RUN, steps(30))
    assert not node.adopt(RUN, (steps(20),))
    assert node.adopt(RUN, (steps(40), steps(5, noise=2.0)))
    assert node.of(RUN) == (steps(40), steps(5, noise=2.0))
    assert (node.of(OTHER), node.of(None), node.adopt(None, (steps(1),))) == (None, None, False)


def test_more_kinds_of_steps_than_can_be_said_do_not_fit() -> None:
    node = budget()
    for kind in range(16):
        node.charge(RUN, steps(1, noise=30.0 + kind))
    assert reason(node, ask(privacy=replace(PRIVACY, noise=30.0))) is None
    assert reason(node, ask(privacy=replace(PRIVACY, noise=99.0))) == BUDGET


def test_what_a_coordinator_claims_to_know_can_still_be_said() -> None:
    """FED-317: more steps than a u32 has, and more kinds than a message."""
    script = private_script()
    most = 2**32 - 1
    claims = (
        tuple(steps(most, noise=20.0) for _ in range(2)),
        tuple(steps(1, noise=30.0 + kind) for kind in range(16)),
    )
    for claim in claims:
        script.command(Rebirth(spent=claim))
        (birth,) = [effect.state for effect in script.effects if isinstance(effect, PublishState)]
        assert decode_message(encode_message(birth)) == birth
        (saved,) = [effect.spent for effect in script.effects if isinstance(effect, SaveSpent)]
        assert saved == birth.spent
    assert len(saved) == SPENT_KINDS_MAX
    assert max(each.steps for each in saved) == most


def test_a_ledger_of_too_many_kinds_costs_no_less() -> None:
    """FED-317."""
    kinds = [SampledSteps(sampling_rate=0.1, noise=9.0 - place / 4, steps=10 + place) for place in range(20)]
    kept = ledger_of(kinds)
    assert len(kept) == SPENT_KINDS_MAX
    assert kept[:-1] == merged(kinds)[: SPENT_KINDS_MAX - 1]
    rest = merged(kinds)[SPENT_KINDS_MAX - 1 :]
    assert kept[-1] == SampledSteps(sampling_rate=0.1, noise=rest[0].noise, steps=sum(each.steps for each in rest))
    assert epsilon_of(kept, 1e-5) >= epsilon_of(kinds, 1e-5)
    assert ledger_of(kept) == kept


def test_ledgers_are_merged_by_kind() -> None:
    assert merged([steps(1), steps(2, 2.0), steps(3)]) == (steps(4), steps(2, 2.0))
    assert greatest([steps(1)], [steps(4), steps(2, 2.0)], [steps(3)]) == (steps(4), steps(2, 2.0))
    assert merged([steps(0)]) == greatest() == ()


@dataclass
class History:
    """A node that trains, crashes, is wiped and is told again, against a list of what was really released."""

    random: Random
    privacy: ExamplePrivacy

    def run(self) -> list[SampledSteps]:
        """Random turns; returns all that left the node in any of its lives."""
        released: list[SampledSteps] = []
        disk: tuple[SampledSteps, ...] = ()
        mirror: tuple[SampledSteps, ...] = ()
        node = started()
        for _ in range(self.random.randrange(3, 12)):
            how = replace(HOW, privacy=self.privacy, local_epochs=self.random.randrange(1, 4))
            turn = turn_of(how, self.privacy)
            match self.random.choice("ttttcwm"):
                case "c":  # a crash: the disk's ledger is what is left
                    node = started(disk)
                case "w":  # the disk is lost
                    node, disk = started(), ()
                case "m":  # a training whose update is never saved: the process ends with it
                    node.charge(RUN, turn)
                    node = started(disk)
                case _:
                    found = reason(node, replace(ask(), settings=how))
                    if found == "ledger":  # the coordinator has had its birth, and answers before it asks again
                        node.adopt(RUN, mirror)
                        disk = node.of(RUN) or ()
                    elif found is None:
                        node.charge(RUN, turn)
                        disk = mirror = node.of(RUN) or ()
                        released.append(turn)
        return released


def test_no_history_releases_more_than_the_budget() -> None:
    """FED-180 to FED-184, random histories: 2,000 in `make test`, 10,000 in `make coverage`."""
    random, spent = Random(1), 0
    budgets = [(noise, epsilon) for noise in (0.8, 1.5, 4.0) for epsilon in (1.0, 2.5, 6.0)]
    histories = repetitions.of(range(10_000), few=range(2_000))
    for _ in histories:
        noise, epsilon = random.choice(budgets)
        privacy = replace(PRIVACY, noise=noise, epsilon=epsilon)
        released = History(random, privacy).run()
        assert epsilon_of(released, privacy.delta) <= epsilon
        spent += len(released)
    assert spent > len(histories) / 2, "the histories are not about nothing"


# --- in the machine -------------------------------------------------------------------------------------------------


def private_script(**given: Any) -> Script:
    """Its process has met the first round of the run, and was not told of anything."""
    script = Script(holding(0), private=True, **given)
    script.coordinator()
    assert "decline 0: ledger (0 s)" in script.announce(ask(round_id=0))
    return script


def finished(script: Script, round_id: int) -> list[str]:
    return script.on(TrainingFinished(result=replace(result(round_id), spent=TURN)))


def test_an_update_says_what_was_spent_with_it() -> None:
    """FED-183."""
    script = private_script()
    for round_id in (1, 2):
        script.announce(ask(round_id=round_id, privacy=replace(PRIVACY, epsilon=50.0)))
        finished(script, round_id)
        offers = [effect.offer for effect in script.effects if isinstance(effect, SaveOutbox)]
        assert [offer.spent for offer in offers] == [(steps(10 * round_id),)]
        script.saved()
    script.command(Rebirth())
    births = [effect.state for effect in script.effects if isinstance(effect, PublishState)]
    assert [birth.spent for birth in births] == [(steps(20),)]
    assert births[0].capabilities == {"cosine_frames": 1.0, "private_examples": 1.0}


def test_a_rebirth_tells_a_node_what_it_had_spent() -> None:
    """FED-183, FED-184."""
    script = private_script()
    lines = script.command(Rebirth(spent=(steps(500),)))
    assert lines[0] == "save spent 500"
    assert lines[1].startswith("state online")
    assert "decline 2: budget (600 s)" in script.announce(ask(round_id=2))
    assert script.command(Rebirth(spent=(steps(400),)))[0].startswith("state online")


def test_what_the_disk_has_is_the_beginning() -> None:
    known = replace(holding(0), spent={RUN: (steps(500),)})
    script = Script(known, private=True)
    script.coordinator()
    assert "decline 1: budget (600 s)" in script.announce(ask())


def test_a_private_round_is_not_evaluated_on_the_nodes() -> None:
    """FED-181."""
    script = private_script()
    asked = replace(ask(), evaluation=2**64 - 1)
    assert not [line for line in script.announce(asked) if line.startswith("evaluate")]
    plain = replace(ask(privacy=None, round_id=2), evaluation=2**64 - 1)
    other = Script(holding(0))
    other.coordinator()
    assert [line for line in other.announce(plain) if line.startswith("evaluate")] == ["evaluate 0"]


@pytest.mark.parametrize("private", [True, False])
def test_what_the_task_can_keep_is_said(private: bool) -> None:
    """FED-185."""
    script = Script(holding(0), private=private, has=lambda: {"cores": 4.0})
    able = {"cores": 4.0, "cosine_frames": 1.0}
    assert dict(script.capabilities or {}) == able | ({"private_examples": 1.0} if private else {})
