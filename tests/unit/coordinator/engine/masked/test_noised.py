"""Noised sums as the machine decides them: charged with the batch, nodes that rest, and the end of the budget."""

from dataclasses import replace
from itertools import pairwise

import pytest

from coordinator.engine.effects import Effect, Note
from coordinator.engine.masked.effects import FreezeBatch, RaiseTaking
from coordinator.engine.masked.events import HelperSpoke
from coordinator.engine.settings import MaskingSettings, ReleaseBudget
from coordinator.records import Restored
from federation.privacy.accountant import gaussian_epsilon
from federation.privacy.releases import Taking, mu_within, price
from federation.protocol.chunking import payload_digest
from federation.protocol.messages import ReceiptStatus
from federation.protocol.sum_messages import Held, PrivacyTerms, PrivacyUnit, SealedSeeds
from federation.types import Digest, Epoch, HelperId, ModelVersion, NodeId, RoundId
from tests.rigs.masked_rig import HELPERS, MEMBERS_MIN, MaskedRig, masked_engine, terms

NOISED: dict[str, object] = {"tail": 0, "clip": 1.0, "noise": 2.0, "unit": PrivacyUnit.NODES, "bits": 24}
PLAN: dict[str, object] = {"bandwidth": 3, "releases": 20, "separation": 2, "participations": 3}
NODES = ("a", "b", "c", "d")


def noised(under: PrivacyTerms, epsilon: float, *nodes: str, restored: Restored | None = None) -> MaskedRig:
    masking = MaskingSettings(
        helpers=HELPERS,
        threshold=len(HELPERS),
        members_min=MEMBERS_MIN,
        budget=ReleaseBudget(epsilon=epsilon, delta=1e-5),
    )
    rig = MaskedRig(masked_engine(masking=masking, nodes_min=len(nodes)), first=under, restored=restored)
    rig.start(*nodes)
    return rig


def version(rig: MaskedRig) -> tuple[list[str], list[Effect]]:
    """Let those that are asked answer, and their sum be made; says who they were."""
    number = max(rig.store.rounds)
    asked = [str(node) for node in rig.store.rounds[number].nodes]
    done: list[Effect] = []
    for node in asked:
        done += rig.offer_masked(node, number)
    return asked, done + rig.deliver()


def notes(done: list[Effect]) -> list[str]:
    return [effect.event for effect in done if isinstance(effect, Note)]


def test_a_batch_is_charged_in_the_transaction_that_freezes_it() -> None:
    under = terms(**NOISED)
    rig = noised(under, 50.0, "a", "b")
    asked, done = version(rig)
    (frozen,) = (effect for effect in done if isinstance(effect, FreezeBatch))
    assert frozen.release is not None
    assert frozen.release.batch == frozen.batch.request.batch
    assert frozen.release.prices == dict.fromkeys(map(NodeId, asked), 2.0**-2)
    assert (frozen.release.release, frozen.release.epsilon, frozen.release.delta) == (0, 50.0, 1e-5)


def test_a_sum_that_is_dropped_stays_paid_for() -> None:
    """A helper may have revealed it: the next one of the same version has another number, and is paid for, too."""
    rig = noised(terms(**NOISED), 50.0, "a", "b")
    number = max(rig.store.rounds)
    for node in "ab":
        rig.offer_masked(node, number)
    helper = rig.helpers[HELPERS[0]]
    for command in [command for name, command in rig.mail if isinstance(command, SealedSeeds)]:
        helper.used[payload_digest(command.ticket)] = Digest(b"other batch 0123")
    rig.deliver()
    assert rig.status(f"{number}-a") is ReceiptStatus.STALE
    helper.used.clear()
    version(rig)
    assert rig.store.versions[-1].version == 1
    assert [record.version for record in rig.store.released.values()] == [1, 1]
    assert rig.store.takings[NodeId("a")] == Taking(releases=2, last=1, spent=0.5)


def test_nodes_of_a_plan_rest_and_are_asked_again() -> None:
    """FED-187: with a separation of 2 nobody is in two sums in a row."""
    rig = noised(terms(**NOISED | PLAN), 1000.0, *NODES)
    turns = [set(version(rig)[0]) for _ in range(6)]
    assert rig.store.versions[-1].version == 6
    for before, after in pairwise(turns):
        assert not before & after
    waiting = rig.machine.snapshot()["waiting_for"]
    assert isinstance(waiting, dict)
    assert set(waiting["resting"]) <= set(NODES)


def test_an_update_of_a_node_that_rests_waits_for_a_later_sum() -> None:
    rig = noised(terms(**NOISED | PLAN | {"separation": 5}), 1000.0, "a", "b")
    version(rig)
    assert rig.store.versions[-1].version == 1
    assert rig.machine.snapshot()["candidates"] == 0
    waiting = rig.machine.snapshot()["waiting_for"]
    assert isinstance(waiting, dict)
    assert sorted(waiting["resting"]) == ["a", "b"]
    assert (waiting["ready"], waiting["quorum"]) == (0, 2)
    rig.restart()
    rig.start("a", "b")
    assert rig.machine.snapshot()["candidates"] == 0


def test_the_run_ends_when_fewer_than_a_quorum_have_budget() -> None:
    under = terms(**NOISED)
    twice = gaussian_epsilon((2 * price(under, 0)) ** 0.5, 1e-5)
    rig = noised(under, twice, "a", "b")
    version(rig)
    assert not rig.machine.snapshot()["finished"]
    _, done = version(rig)
    assert "budget_spent" in notes(done)
    assert "budget_ends_run" in notes(done)
    assert rig.machine.snapshot()["finished"]
    assert rig.store.versions[-1].version == 2
    assert len(rig.store.released) == 2
    rig.restart()
    rig.start("a", "b")
    assert rig.machine.snapshot()["finished"]


RESTORED = Restored(epoch=Epoch(1), version=ModelVersion(0), first_round=RoundId(0), next_round=RoundId(0))


def claim(rig: MaskedRig, node: str, **says: float) -> dict[HelperId, Held]:
    """What each helper would say of a node's newest update, were that what it has of the node."""
    rig.offer_masked(node, max(rig.store.rounds))
    seeds = {name: command for name, command in rig.mail if isinstance(command, SealedSeeds)}
    rig.mail.clear()
    found = {}
    for name, command in seeds.items():
        (held,) = rig.helpers[name].hear(command)
        assert isinstance(held, Held)
        found[name] = replace(held, **says)  # type: ignore[arg-type]
    return found


def spoke(rig: MaskedRig, name: HelperId, held: Held) -> list[Effect]:
    return rig.tell(HelperSpoke(helper=name, message=held))


def raised(done: list[Effect]) -> list[RaiseTaking]:
    return [effect for effect in done if isinstance(effect, RaiseTaking)]


def test_what_a_helper_knows_better_is_taken_over_after_a_restore() -> None:
    """FED-188: a coordinator that was restored from a backup hears what its nodes have spent."""
    rig = noised(terms(**NOISED), 50.0, "a", "b", restored=RESTORED)
    held = claim(rig, "a", taken=7, gap=2, spent=7 * 0.25)
    done = spoke(rig, HELPERS[0], held[HELPERS[0]])
    assert raised(done) == [RaiseTaking(node=NodeId("a"), taking=Taking(releases=7, last=-2, spent=1.75))]
    assert raised(spoke(rig, HELPERS[0], held[HELPERS[0]])) == []


def test_after_a_restore_one_helper_can_end_the_run_and_is_named() -> None:
    """FED-200: one honest helper is enough for the epsilon, so the one that says most is believed."""
    rig = noised(terms(**NOISED), 5.0, "a", "b", restored=RESTORED)
    spent = mu_within(5.0, 1e-5) ** 2
    held = claim(rig, "a", taken=9, gap=1, spent=spent)
    done = spoke(rig, HELPERS[0], held[HELPERS[0]])
    assert "budget_spent" in notes(done)
    (end,) = (effect for effect in done if isinstance(effect, Note) and effect.event == "budget_ends_run")
    assert end.fields["raised_by"] == {HELPERS[0]: 1}
    assert rig.store.released == {}


def test_without_a_restore_no_helper_alone_can_spend_a_nodes_budget() -> None:
    """FED-200: what a batch costs is on this disk before any helper is asked."""
    rig = noised(terms(**NOISED), 5.0, "a", "b")
    for node in ("a", "b"):
        held = claim(rig, node, taken=9, gap=1, spent=1e6)
        done = spoke(rig, HELPERS[0], held[HELPERS[0]])
        assert raised(done) == []
        assert "helper_claims_more" in notes(done)
        spoke(rig, HELPERS[1], replace(held[HELPERS[1]], taken=None, gap=None, spent=None))
    rig.deliver()
    assert rig.store.versions[-1].version == 1, "the run goes on"
    assert rig.get("helpers")[HELPERS[0]]["doubted"] == 2  # type: ignore[index]
    assert rig.get("helpers")[HELPERS[1]]["doubted"] == 0  # type: ignore[index]
    assert rig.store.takings[NodeId("a")].spent == 2.0**-2, "and nobody has paid for the lie"


def test_a_helper_alone_cannot_make_nodes_rest_for_ever() -> None:
    """FED-200."""
    rig = noised(terms(**NOISED, **PLAN), 50.0, *NODES)
    for _ in range(4):
        number = max(rig.store.rounds)
        for node in rig.store.rounds[number].nodes:
            held = claim(rig, str(node), taken=3, gap=1, spent=0.0)
            spoke(rig, HELPERS[0], held[HELPERS[0]])
            spoke(rig, HELPERS[1], replace(held[HELPERS[1]], taken=None, gap=None, spent=None))
        rig.deliver()
    assert rig.store.versions[-1].version == 4


def test_what_all_helpers_say_is_believed() -> None:
    """FED-200: somebody has put a copy of the folder back, and nobody has told the store."""
    rig = noised(terms(**NOISED), 50.0, "a", "b")
    held = claim(rig, "a", taken=7, gap=2, spent=7 * 0.25)
    assert raised(spoke(rig, HELPERS[0], held[HELPERS[0]])) == []
    done = spoke(rig, HELPERS[1], replace(held[HELPERS[1]], taken=6, spent=6 * 0.25))
    (effect,) = raised(done)
    assert (effect.taking.releases, effect.taking.spent) == (6, 1.5)


def test_without_noise_nothing_is_charged() -> None:
    rig = MaskedRig()
    rig.start("a", "b")
    version(rig)
    assert rig.store.versions[-1].version == 1
    assert rig.store.released == {}


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 8.0])
def test_mu_within_a_budget_is_the_largest(epsilon: float) -> None:
    mu = mu_within(epsilon, 1e-5)
    assert gaussian_epsilon(mu, 1e-5) <= epsilon < gaussian_epsilon(mu * (1 + 1e-9), 1e-5)
