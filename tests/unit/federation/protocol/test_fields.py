"""Each kind of field accepts what it says and nothing else, in both directions (FED-15)."""

import math
import re
from dataclasses import dataclass
from typing import Any

import pytest

from federation.protocol.fields import (
    Blob,
    Choice,
    Field,
    FieldError,
    Flag,
    Kind,
    Numbers,
    Real,
    Record,
    Sequence,
    Text,
    Whole,
    Word,
)
from federation.protocol.messages import PartKind, Presence

PRESENCE = Choice({Presence.ONLINE: 0, Presence.LOST: 2})
WORD = Word(re.compile("[a-z]+"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    left: int
    right: int | None = None


def _refuse_equal(pair: Pair) -> None:
    if pair.left == pair.right:
        raise FieldError("Pair is equal")


PAIR = Record(Pair, (Field(2, "left", Whole(9)), Field(4, "right", Whole(9), optional=True)), _refuse_equal)
PLAIN = Record(Pair, (Field(2, "left", Whole(9)),))

SAME_ON_BOTH_SIDES: list[tuple[Kind, Any]] = [
    (Whole(9), 0),
    (Whole(9, least=3), 9),
    (Real(), -1.5),
    (Real(2.0, least=0.0), 2.0),
    (Flag(), True),
    (Text(4), ""),
    (Text(4, least=1), "éé"),
    (WORD, "abc"),
    (Blob(2), b""),
    (Blob(2, least=2), b"ab"),
    (Numbers(), {"a": 1.0, "b": -2.5}),
]

REFUSED_ON_BOTH_SIDES: list[tuple[Kind, Any]] = [
    (Whole(9), True),
    (Whole(9), 1.0),
    (Whole(9), "1"),
    (Whole(9), None),
    (Whole(9), -1),
    (Whole(9), 10),
    (Whole(9, least=3), 2),
    (Real(), True),
    (Real(), "1"),
    (Real(), math.nan),
    (Real(), math.inf),
    (Real(), -math.inf),
    (Real(2.0, least=0.0), 2.5),
    (Real(2.0, least=0.0), -0.5),
    (Flag(), 1),
    (Flag(), None),
    (Text(4), b"a"),
    (Text(4), "abcde"),
    (Text(4), "ééé"),
    (Text(4, least=1), ""),
    (Text(4), "a\n"),
    (Text(4), "\x1b[0m"),
    (Text(4), "\ud800"),
    (WORD, b"abc"),
    (WORD, "abc\n"),
    (WORD, ""),
    (Blob(2), "ab"),
    (Blob(2), b"abc"),
    (Blob(2, least=2), b"a"),
    (PRESENCE, 1),
    (PRESENCE, "online"),
    (PRESENCE, None),
    (Sequence(Whole(9), 2), 1),
    (Numbers(), [("a", 1.0)]),
    (Numbers(1), {"a": 1.0, "b": 2.0}),
    (Numbers(), {"": 1.0}),
    (Numbers(), {1: 1.0}),
    (Numbers(), {"a": math.nan}),
    (Numbers(), {"a": "1"}),
    (PAIR, [1, 2]),
    (PAIR, None),
]


@pytest.mark.parametrize(("kind", "value"), SAME_ON_BOTH_SIDES)
def test_plain_values_look_the_same_on_the_wire(kind: Kind, value: Any) -> None:
    assert kind.pack(value) == value
    assert kind.unpack(value) == value


@pytest.mark.parametrize(("kind", "value"), REFUSED_ON_BOTH_SIDES)
def test_a_value_outside_its_kind_is_neither_written_nor_read(kind: Kind, value: Any) -> None:
    with pytest.raises(FieldError):
        kind.pack(value)
    with pytest.raises(FieldError):
        kind.unpack(value)


def test_an_integer_is_written_as_a_float_where_a_float_is_due() -> None:
    assert type(Real().pack(3)) is float
    with pytest.raises(FieldError):
        Real().unpack(3)


def test_zero_has_no_sign() -> None:
    """FED-13: -0.0 would be a second spelling of 0.0."""
    assert str(Real().pack(-0.0)) == "0.0"
    with pytest.raises(FieldError, match="without a sign"):
        Real().unpack(-0.0)


def test_an_integer_too_large_for_a_float_is_refused() -> None:
    with pytest.raises(FieldError):
        Real().pack(10**400)


def test_an_enumeration_is_written_as_its_number() -> None:
    assert PRESENCE.pack(Presence.LOST) == 2
    assert PRESENCE.unpack(2) is Presence.LOST


@pytest.mark.parametrize("member", [Presence.OFFLINE, PartKind.DELTA])
def test_a_member_without_a_number_is_not_written(member: Any) -> None:
    with pytest.raises(FieldError):
        PRESENCE.pack(member)


@pytest.mark.parametrize("raw", [False, 0.0])
def test_an_enumeration_takes_no_lookalike_of_its_number(raw: Any) -> None:
    with pytest.raises(FieldError):
        PRESENCE.unpack(raw)


def test_a_sequence_is_a_tuple_here_and_a_list_there() -> None:
    kind = Sequence(PRESENCE, 2)
    assert kind.pack((Presence.LOST, Presence.ONLINE)) == [2, 0]
    assert kind.unpack([2, 0]) == (Presence.LOST, Presence.ONLINE)


def test_a_sequence_has_its_limit() -> None:
    kind = Sequence(Whole(9), 2)
    for convert, value in ((kind.pack, (1, 2, 3)), (kind.unpack, [1, 2, 3])):
        with pytest.raises(FieldError, match="at most 2"):
            convert(value)


def test_names_of_numbers_ascend_on_the_wire() -> None:
    assert list(Numbers().pack({"b": 1, "a": 2})) == ["a", "b"]


def test_a_record_leaves_out_what_is_none() -> None:
    assert PAIR.pack(Pair(left=1)) == {2: 1}
    assert PAIR.unpack({2: 1}) == Pair(left=1)
    assert PAIR.pack(Pair(left=1, right=2)) == {2: 1, 4: 2}
    assert PAIR.unpack({2: 1, 4: 2}) == Pair(left=1, right=2)


def test_unknown_field_numbers_are_ignored() -> None:
    """FED-14: they are a newer peer's."""
    assert PAIR.unpack({2: 1, 3: "new", 99: {}}) == Pair(left=1)


def test_a_missing_field_is_named() -> None:
    """FED-14."""
    with pytest.raises(FieldError, match=r"Pair\.left is missing"):
        PAIR.unpack({4: 2})


def test_a_wrong_field_is_named() -> None:
    with pytest.raises(FieldError, match=r"Pair\.left needs an integer from 0 to 9"):
        PAIR.unpack({2: 10})


def test_a_required_none_is_not_written() -> None:
    with pytest.raises(FieldError, match=r"Pair\.left"):
        PAIR.pack(Pair(left=None))  # type: ignore[arg-type]


def test_a_record_takes_integer_keys_only() -> None:
    with pytest.raises(FieldError, match="integer keys"):
        PAIR.unpack({"left": 1})


def test_fields_that_do_not_fit_together_are_neither_written_nor_read() -> None:
    with pytest.raises(FieldError, match="equal"):
        PAIR.pack(Pair(left=1, right=1))
    with pytest.raises(FieldError, match="equal"):
        PAIR.unpack({2: 1, 4: 1})


def test_a_record_without_a_check_takes_any_fields_that_are_right_by_themselves() -> None:
    assert PLAIN.pack(Pair(left=1)) == {2: 1}
    assert PLAIN.unpack({2: 1}) == Pair(left=1)
