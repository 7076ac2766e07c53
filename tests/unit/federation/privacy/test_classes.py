"""Replicated seeds: any t helpers know all, and no two sets of one update can both be revealed (FED-149)."""

from itertools import chain, combinations

import pytest

from federation.privacy.classes import assign_classes, check_threshold, classes, classes_of, tolerated
from federation.protocol.limits import CLASSES_MAX

ALL = [(count, threshold) for count in range(1, 8) for threshold in range(1, count + 1)]


def reveals_two_sets(count: int, threshold: int, bad: tuple[int, ...]) -> bool:
    """Whether the others can be split so that each part knows all classes that the bad ones lack."""
    unknown = [set(one) for one in classes(count, threshold) if not set(one) & set(bad)]
    others = [place for place in range(count) if place not in bad]
    parts = chain.from_iterable(combinations(others, size) for size in range(len(others) + 1))
    return any(
        all(one & set(part) for one in unknown) and all(one & (set(others) - set(part)) for one in unknown)
        for part in parts
    )


@pytest.mark.parametrize(("count", "threshold"), ALL)
def test_as_many_may_be_bad_as_an_enumeration_of_all_cases_says(count: int, threshold: int) -> None:
    harmless = [
        len(bad)
        for size in range(count)
        for bad in combinations(range(count), size)
        if any(not set(one) & set(bad) for one in classes(count, threshold))
        and not reveals_two_sets(count, threshold, bad)
    ]
    assert max(harmless, default=-1) == max(tolerated(count, threshold), -1)


@pytest.mark.parametrize(("count", "threshold"), ALL)
def test_any_t_helpers_know_all_classes_and_fewer_do_not(count: int, threshold: int) -> None:
    every = set(range(len(classes(count, threshold))))
    assert len(every) <= CLASSES_MAX
    for size, enough in ((threshold, True), (threshold - 1, False)):
        for places in combinations(range(count), size):
            known = {number for place in places for number in classes_of(place, count, threshold)}
            assert (known == every) is enough


def test_which_numbers_are_refused() -> None:
    safe = {(1, 1), (2, 2), (3, 3), (4, 3), (4, 4), (5, 4), (5, 5), (6, 4), (6, 5), (6, 6), (7, 5), (7, 6), (7, 7)}
    for count, threshold in ALL:
        if (count, threshold) in safe:
            check_threshold(count, threshold)
        else:
            with pytest.raises(ValueError, match="not safe with one bad helper: let at least"):
                check_threshold(count, threshold)
    for count, threshold in ((0, 0), (2, 3), (8, 8), (3, 0)):
        with pytest.raises(ValueError, match="at most 7"):
            check_threshold(count, threshold)


def test_the_order_of_the_classes_is_fixed() -> None:
    assert classes(2, 2) == ((0,), (1,))
    assert classes(4, 3) == ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
    assert classes_of(1, 4, 3) == (0, 3, 4)


def test_each_class_is_asked_of_one_helper_that_is_there() -> None:
    for down in range(4):
        there = {0, 1, 2, 3} - {down}
        asked = assign_classes(range(6), there, count=4, threshold=3)
        assert sorted(chain.from_iterable(asked.values())) == list(range(6))
        assert all(number in classes_of(place, 4, 3) for place, numbers in asked.items() for number in numbers)
        assert max(map(len, asked.values())) <= 3
    assert assign_classes(range(6), {0, 1}, count=4, threshold=3) == {0: (0, 1, 2), 1: (3, 4)}
    assert assign_classes([2], {2}, count=3, threshold=3) == {2: (2,)}
    assert assign_classes([], {0}, count=1, threshold=1) == {}
