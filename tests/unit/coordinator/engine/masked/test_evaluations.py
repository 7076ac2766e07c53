"""Evaluation on nodes under masks: seeds to the helpers, one sum for each version, and no figures without one."""

from dataclasses import replace

import pytest

from coordinator.engine.effects import Effect, Note, SaveResult
from coordinator.engine.masked.effects import FreezeEvaluation, KeepReport
from coordinator.engine.masked.evaluations import HELD_WAIT_S, SUM_WAIT_S
from coordinator.engine.masked.events import HelperSpoke, SumChunkReceived
from coordinator.engine.masked.seeds import RETRY_S, RETRY_S_MAX
from coordinator.engine.settings import FederatedEvaluationSettings
from coordinator.records import NodesEvaluation
from federation.protocol.limits import INT64_MAX
from federation.protocol.messages import Grant
from federation.protocol.sum_messages import MaskedEvaluation, SealedSeeds, SumOffer, SumReason, SumRequest, transfer_id
from federation.types import Digest, ModelVersion, NodeId
from tests.rigs.coordinator_rig import transcript
from tests.rigs.masked_rig import HELPERS, NAMES, MaskedRig, masked_engine, masked_report

ALDER, BIRCH = HELPERS
NODES = ("a", "b", "c")
LATER = ModelVersion(1)


def at_version_one(nodes: tuple[str, ...] = NODES, **changes: object) -> MaskedRig:
    """The first version is committed, and announced with who is to evaluate it."""
    asked = FederatedEvaluationSettings(every=1, nodes_min=2, metrics=NAMES)
    rig = MaskedRig(masked_engine(federated_evaluation=asked, nodes_min=len(nodes), **changes))
    rig.start(*nodes)
    for node in rig.store.rounds[max(rig.store.rounds)].nodes:
        rig.offer_masked(node, 0)
    rig.deliver()
    assert rig.store.versions[-1].version == 1
    return rig


def survey(rig: MaskedRig, version: int = 1) -> NodesEvaluation:
    return rig.store.surveys[ModelVersion(version)]


def notes(done: list[Effect]) -> list[str]:
    return [effect.event for effect in done if isinstance(effect, Note)]


def requests(rig: MaskedRig) -> list[SumRequest]:
    """Sums of reports that helpers were asked for and have answered."""
    return [one for helper in rig.helpers.values() for one in helper.answered if one.terms.dimension == 1]


def until_frozen(rig: MaskedRig) -> None:
    """Helpers hold all reports, and have not been heard on their sum yet."""
    while not rig.store.frozen:
        name, command = rig.mail.pop(0)
        for answer in rig.helpers[name].hear(command):
            rig.tell(HelperSpoke(helper=name, message=answer))


def test_a_masked_run_asks_for_sums_and_never_in_clear() -> None:
    """FED-195: a node of an earlier release would answer `evaluation` in clear, so it is not there."""
    rig = at_version_one()
    assert rig.announced is not None
    assert rig.announced.evaluation is None
    assert rig.announced.masked_evaluation == MaskedEvaluation(share=INT64_MAX, metrics=NAMES)
    rig.restart()
    rig.start(*NODES)
    assert rig.announced.evaluation is None


def test_a_report_is_on_disk_before_its_seeds_are_sent_and_its_receipt_said() -> None:
    """FED-197: the rig refuses seeds of what is not on disk."""
    rig = at_version_one()
    done = rig.report_masked("a", 1)
    kinds = [type(effect) for effect in done if isinstance(effect, KeepReport | SaveResult)]
    assert kinds == [KeepReport, SaveResult]
    assert "tell a evaluation 1 applied" in transcript(done)
    assert [name for name, command in rig.mail if isinstance(command, SealedSeeds)] == [ALDER, BIRCH]


def test_one_sum_over_all_reports_makes_the_figures() -> None:
    """FED-197."""
    rig = at_version_one()
    for node in NODES:
        rig.report_masked(node, 1)
    assert not survey(rig).closed, "nobody has summed anything"
    rig.deliver()
    assert (survey(rig).closed, survey(rig).nodes) == (True, 3)
    assert {one.members for one in requests(rig)} == {requests(rig)[0].members}
    assert [one.classes for one in requests(rig)] == [(0,), (1,)]
    assert rig.store.hidden == {}, "what has made its sum is not kept"


def test_what_a_helper_answers_for_a_version_goes_on_beside_it() -> None:
    rig = at_version_one()
    for node in NODES:
        rig.report_masked(node, 1)
    for node in rig.store.rounds[max(rig.store.rounds)].nodes:
        rig.offer_masked(node, max(rig.store.rounds))
    rig.deliver()
    assert survey(rig).nodes == 3
    assert rig.store.versions[-1].version == 2


def test_numbers_in_clear_are_refused_and_a_reason_for_none_is_taken() -> None:
    """FED-195."""
    rig = at_version_one()
    assert transcript(rig.report("a", 1, metrics={"accuracy": 0.5})) == ["tell a evaluation 1 refused terms"]
    assert (LATER, NodeId("a")) not in rig.store.results
    assert "tell b evaluation 1 applied" in transcript(rig.report("b", 1, num_examples=0, reason="busy"))


def test_a_masked_report_of_a_run_without_masks_is_refused() -> None:
    rig = at_version_one()
    plain = replace(rig.settings, masking=None)
    rig.settings = plain
    rig.restart()
    rig.start(*NODES)
    assert transcript(rig.report_masked("a", 1)) == ["tell a evaluation 1 refused terms"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"update": "2147483648-b"},
        {"metrics": Digest(b"m" * 16)},
        {"payload": b"short"},
        {"boxes": (b"box for alder",)},
        {"ticket": b"nothing"},
        {"ticket": masked_report("a", 2).ticket},
    ],
    ids=["another's", "other metrics", "short", "a box too few", "no ticket", "of another version"],
)
def test_a_report_that_can_be_in_no_sum_is_refused(wrong: dict[str, object]) -> None:
    """FED-196."""
    rig = at_version_one()
    report = replace(masked_report("a", 1), **wrong)  # type: ignore[arg-type]
    assert transcript(rig.report_masked("a", 1, masked=report)) == ["tell a evaluation 1 refused terms"]
    assert rig.store.hidden == {}


def test_a_report_that_is_kept_and_does_not_count_is_in_no_sum() -> None:
    """The disk fails between the two, and the node says it again too late: it was in a sum, and told that it is not."""
    rig = at_version_one()
    for node in ("a", "b"):
        rig.report_masked(node, 1)
    rig.failing, rig.failing_kinds = True, (SaveResult,)
    rig.report_masked("c", 1)
    assert (LATER, NodeId("c")) in rig.store.hidden
    rig.failing = False
    while not survey(rig).closed:
        rig.wait(RETRY_S)
        rig.deliver()
    assert [len(one.tickets) for one in requests(rig)] == [2, 2]
    assert transcript(rig.report_masked("c", 1))[-1] == "tell c evaluation 1 stale"


def test_a_node_that_does_not_know_masked_reports_is_not_waited_for() -> None:
    rig = at_version_one()
    rig.state("c", codecs=("edge", "masked"), capabilities={})
    for node in ("a", "b"):
        rig.report_masked(node, 1)
    rig.wait(rig.settings.lease_s)
    rig.deliver()
    assert survey(rig).nodes == 2


def test_too_few_reports_have_no_sum() -> None:
    """FED-197."""
    rig = at_version_one()
    rig.report_masked("a", 1)
    done = rig.wait(rig.settings.lease_s)
    assert (survey(rig).closed, survey(rig).nodes, requests(rig)) == (True, 0, [])
    assert "evaluation_without_sum" in notes(done)


def test_a_helper_that_is_away_costs_the_figures_and_not_the_run() -> None:
    rig = at_version_one()
    rig.go(BIRCH)
    for node in NODES:
        rig.report_masked(node, 1)
    rig.deliver()
    rig.wait(HELD_WAIT_S)
    assert not survey(rig).closed
    rig.wait(SUM_WAIT_S)
    assert (survey(rig).closed, survey(rig).nodes) == (True, 0)


def test_a_helper_that_comes_back_is_sent_all_seeds_again() -> None:
    rig = at_version_one()
    rig.go(BIRCH)
    for node in NODES:
        rig.report_masked(node, 1)
    rig.deliver()
    rig.come(BIRCH)
    rig.deliver()
    assert survey(rig).nodes == 3


def test_seeds_that_a_helper_refuses_leave_one_report_out() -> None:
    rig = at_version_one()
    rig.helpers[BIRCH].refusing[masked_report("c", 1).update] = SumReason.UNKNOWN_NODE
    for node in NODES:
        rig.report_masked(node, 1)
    done = rig.deliver()
    assert survey(rig).nodes == 2
    assert "seeds_refused" in notes(done)


def test_after_a_while_what_the_helpers_hold_is_summed() -> None:
    rig = at_version_one()
    for node in ("a", "b"):
        rig.report_masked(node, 1)
    rig.deliver()
    rig.helpers[BIRCH].full = True
    rig.report_masked("c", 1)
    rig.deliver()
    assert not survey(rig).closed
    rig.wait(HELD_WAIT_S)
    rig.deliver()
    assert survey(rig).nodes == 2


@pytest.mark.parametrize("when", ["reports", "frozen", "asked"])
def test_a_restart_goes_on_with_the_same_reports(when: str) -> None:
    """FED-197: another set with one of them would have no answer."""
    rig = at_version_one()
    for node in NODES:
        rig.report_masked(node, 1)
    if when != "reports":
        rig.deliver(ALDER)
        rig.deliver(BIRCH) if when == "asked" else None
    before = dict(rig.store.frozen)
    rig.mail.clear()
    rig.restart()
    rig.start(*NODES)
    rig.deliver()
    rig.wait(rig.settings.lease_s)
    rig.deliver()
    assert survey(rig).nodes == 3
    assert {one.batch for one in requests(rig)} == {one.batch for one in before.values()} or not before


def test_a_node_that_starts_again_counts_once() -> None:
    """FED-71: it evaluates again, under other masks, and its first word stays."""
    rig = at_version_one()
    rig.report_masked("a", 1)
    again = rig.report_masked("a", 1, attempt=7)
    assert transcript(again) == ["tell a evaluation 1 applied"]
    for node in ("b", "c"):
        rig.report_masked(node, 1)
    rig.deliver()
    assert survey(rig).nodes == 3


def test_a_helper_that_has_forgotten_a_report_is_sent_it_again() -> None:
    rig = at_version_one()
    for node in NODES:
        rig.report_masked(node, 1)
    until_frozen(rig)
    rig.helpers[BIRCH].held.clear()
    rig.deliver()
    rig.wait(RETRY_S)
    rig.deliver()
    assert survey(rig).nodes == 3


def test_a_sum_that_is_refused_for_good_ends_the_evaluation_without_figures() -> None:
    rig = at_version_one()
    for node in NODES:
        rig.report_masked(node, 1)
    until_frozen(rig)
    rig.helpers[ALDER].used = dict.fromkeys(rig.helpers[ALDER].held, Digest(b"u" * 16))
    done = rig.deliver()
    assert (survey(rig).closed, survey(rig).nodes) == (True, 0)
    assert "sum_refused" in notes(done)


def test_a_sum_of_another_size_is_not_taken() -> None:
    rig = at_version_one()
    for node in NODES:
        rig.report_masked(node, 1)
    rig.helpers[ALDER].sum_bytes = 1_000
    done = rig.deliver()
    assert not survey(rig).closed
    assert "sum_rejected" in notes(done)


def test_a_report_that_comes_too_late_needs_no_helper() -> None:
    """FED-73."""
    rig = at_version_one()
    for node in NODES:
        rig.report_masked(node, 1) if node != "c" else rig.report("c", 1, num_examples=0, reason="busy")
    rig.deliver()
    assert survey(rig).closed
    rig.state("d", codecs=("edge", "masked"), capabilities={"masked_reports": 1.0})
    done = rig.report_masked("d", 1)
    assert "tell d evaluation 1 stale" in transcript(done)
    assert not any(isinstance(effect, KeepReport | FreezeEvaluation) for effect in done)
    assert rig.store.results[LATER, NodeId("d")].counted is False


def test_a_sum_that_does_not_ride_in_its_offer_comes_in_chunks() -> None:
    """FED-148: a broker with small packets; chunks may come twice, and in any order."""
    rig = at_version_one()
    for node in NODES:
        rig.report_masked(node, 1)
    until_frozen(rig)
    rig.mail = [one for one in rig.mail if isinstance(one[1], SumRequest)]
    for name, command in list(rig.mail):
        assert isinstance(command, SumRequest)
        (offer,) = rig.helpers[name].hear(command)
        assert isinstance(offer, SumOffer)
        assert offer.inline is not None
        bare, body = replace(offer, inline=None, chunk_bytes=50), offer.inline
        rig.mail.clear()
        rig.tell(HelperSpoke(helper=name, message=bare))
        assert [type(granted) for _, granted in rig.mail] == [Grant]
        transfer, cuts = transfer_id(offer.batch, offer.part), range(0, len(body), 50)
        for index in (2, 0, 2, 1):
            piece = body[cuts[index] : cuts[index] + 50]
            rig.tell(SumChunkReceived(helper=name, transfer=transfer, index=index, body=piece))
    assert survey(rig).nodes == 3


def test_versions_are_judged_in_their_order() -> None:
    """Early stopping counts them so: a helper that is slow for one holds the figures of the next one back."""
    rig = at_version_one()
    rig.helpers[BIRCH].full = True
    for node in NODES:
        rig.report_masked(node, 1)
    for node in rig.store.rounds[max(rig.store.rounds)].nodes:
        rig.offer_masked(node, max(rig.store.rounds))
    rig.deliver()
    rig.helpers[BIRCH].full = False
    rig.wait(RETRY_S_MAX)
    rig.deliver()
    assert rig.store.versions[-1].version == 2
    closed = [version for version, one in rig.store.surveys.items() if one.closed]
    assert closed == sorted(closed)
    assert survey(rig, 1).closed
