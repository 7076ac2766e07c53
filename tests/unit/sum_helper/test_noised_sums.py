"""Noise on a sum: the same for ever, paid for by each member, and correlated only as far as its plan is kept."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from federation.privacy.accountant import gaussian_epsilon
from federation.privacy.releases import Taking, price
from federation.privacy.sum_noise import SumNoise, correlated_mu
from federation.privacy.taking import Participation
from federation.privacy.terms import noise_deviation, shape_of
from federation.protocol.enumerations import PrivacyUnit, SumReason
from federation.protocol.sum_messages import PrivacyTerms, SumOffer, SumRefusal
from tests.rigs.helper_rig import RUN, HelperRig, MaskedUpdate, fleet, request, terms, unmasked
from update_codec import MaskedSum

NODES = fleet(15)
PLAN = Participation(releases=8, separation=3, participations=2)
PLAIN: dict[str, object] = {"tail": 0, "clip": 4.0, "noise": 3.0, "unit": PrivacyUnit.NODES, "bits": 12}
CORRELATED = PLAIN | {"bandwidth": 4, "releases": 8, "separation": 3, "participations": 2}


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[HelperRig]:
    rig = HelperRig(tmp_path, NODES)
    yield rig
    rig.close()


def batch(rig: HelperRig, number: int, group: int, under: PrivacyTerms) -> list[MaskedUpdate]:
    """The updates of five nodes, held."""
    updates = [node.update(number, under, [rig.public]) for node in NODES[5 * group : 5 * group + 5]]
    rig.hold(*updates)
    return updates


def reveal(rig: HelperRig, number: int, group: int, under: PrivacyTerms) -> SumOffer | SumRefusal | None:
    return rig.ask(request(batch(rig, number, group, under), under, version=number))


def refused(answer: SumOffer | SumRefusal | None) -> SumReason:
    assert isinstance(answer, SumRefusal)
    return answer.reason


def test_correlated_noise_takes_back_some_of_the_noise_before_it(rig: HelperRig) -> None:
    """FED-187: the n-th noised sum has the n-th noise, and a restart changes none of it."""
    under = terms(**CORRELATED)
    source = SumNoise(secret=rig.store.secret, sigma=noise_deviation(under), bandwidth=4)
    for number in range(3):
        updates = batch(rig, 10 + number, number, under)
        asked = request(updates, under, version=10 + number)
        answer = rig.ask(asked)
        assert isinstance(answer, SumOffer)
        assert answer.inline is not None
        noise = -(unmasked(updates, [answer.inline], under) - sum(update.integers for update in updates))
        assert np.array_equal(noise, source.of(RUN, number, "", under.dimension))
        rig.restart()
        again = rig.ask(asked)
        assert isinstance(again, SumOffer)
        assert again.inline == answer.inline


def test_a_node_rests_between_two_sums_of_a_plan_and_then_has_had_its_share(rig: HelperRig) -> None:
    under = terms(**CORRELATED)
    assert isinstance(reveal(rig, 10, 0, under), SumOffer)
    assert refused(reveal(rig, 11, 0, under)) is SumReason.RESTS
    for number, group in ((12, 1), (13, 2)):
        assert isinstance(reveal(rig, number, group, under), SumOffer)
    assert refused(rig.ask(request(batch(rig, 14, 1, under), under, version=14))) is SumReason.RESTS
    rig.restart()
    assert isinstance(reveal(rig, 15, 0, under), SumOffer)
    for number, group in ((16, 1), (17, 2)):
        assert isinstance(reveal(rig, number, group, under), SumOffer)
    assert refused(reveal(rig, 18, 0, under)) is SumReason.BUDGET


def test_a_plan_ends_after_its_last_sum(rig: HelperRig) -> None:
    under = terms(**CORRELATED | {"releases": 2})
    for number in (10, 11):
        assert isinstance(reveal(rig, number, number - 10, under), SumOffer)
    assert refused(reveal(rig, 12, 2, under)) is SumReason.BUDGET


@pytest.mark.parametrize("other", [{"noise": 6.0}, {"separation": 2}, {"bandwidth": 5}, {"releases": 9}])
def test_one_run_has_one_plan(rig: HelperRig, other: dict[str, object]) -> None:
    assert isinstance(reveal(rig, 10, 0, terms(**CORRELATED)), SumOffer)
    assert refused(reveal(rig, 11, 1, terms(**CORRELATED | other))) is SumReason.TERMS
    assert refused(reveal(rig, 12, 1, terms(**PLAIN))) is SumReason.TERMS
    assert refused(reveal(rig, 13, 1, terms())) is SumReason.TERMS


def test_the_ledger_has_what_the_whole_plan_costs(rig: HelperRig) -> None:
    """The prices of a node's sums, one after the other, are those of all together."""
    under = terms(**CORRELATED)
    for number, group in ((10, 0), (11, 1), (12, 2), (13, 0)):
        assert isinstance(reveal(rig, number, group, under), SumOffer)
    taking = rig.store.taking(RUN, NODES[0].name)
    assert taking is not None
    assert (taking.releases, taking.last) == (2, 3)
    assert taking.spent == pytest.approx(correlated_mu(4, 3.0, PLAN) ** 2, rel=1e-12)
    once = Participation(releases=8, separation=3, participations=1)
    assert price(under, 0) == pytest.approx(correlated_mu(4, 3.0, once) ** 2)
    assert gaussian_epsilon(taking.spent**0.5, 1e-5) > gaussian_epsilon(price(under, 0) ** 0.5, 1e-5)


def test_what_is_held_says_what_its_node_has_spent(rig: HelperRig) -> None:
    """FED-188."""
    under = terms(**CORRELATED)
    (before,) = rig.hold(NODES[0].update(9, under, [rig.public]))
    assert (before.taken, before.gap, before.spent) == (None, None, None)
    for number, group in ((10, 0), (11, 1)):
        assert isinstance(reveal(rig, number, group, under), SumOffer)
    (held,) = rig.hold(NODES[0].update(12, under, [rig.public]))
    assert (held.taken, held.gap) == (1, 2)
    assert held.spent == pytest.approx(price(under, 0))


def test_clip_bits_have_noise_of_their_own_and_their_price(rig: HelperRig) -> None:
    under = terms(**PLAIN | {"tail": 1, "bit_noise": 5.0})
    updates = batch(rig, 10, 0, under)
    answer = rig.ask(request(updates, under, version=10))
    assert isinstance(answer, SumOffer)
    assert answer.inline is not None
    asked = request(updates, under, version=10)
    drawn = SumNoise(secret=rig.store.secret, sigma=10.0).of(RUN, 10, f"{asked.batch.hex()}/tail", 1)
    total = MaskedSum(shape_of(under))
    for update in updates:
        total._tail += update.made._tail
    total.take_away(answer.inline)
    _, tail = total.lift(limit=1 << 40)
    assert tail == sum(update.tail for update in updates) - drawn
    assert rig.store.taking(RUN, NODES[0].name) == Taking(releases=1, last=0, spent=3.0**-2 + 10.0**-2)


def test_sums_without_noise_take_no_number(rig: HelperRig) -> None:
    assert isinstance(reveal(rig, 10, 0, terms()), SumOffer)
    assert rig.store.released(RUN).releases == 0
    assert rig.store.taking(RUN, NODES[0].name) is None
