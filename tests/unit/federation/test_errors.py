"""Whatever a user's code raises is one error, with its kind, its place and its first cause."""

import json

import pytest

from federation.errors import ConfigError, TaskError, described, user_code


class Speechless(Exception):  # noqa: N818 - what it is
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("raised", "words"),
    [
        (ValueError("too small"), "ValueError: too small"),
        (StopIteration(), "StopIteration"),
        (SystemExit(3), "SystemExit: 3"),
        (AttributeError("no such thing"), "AttributeError: no such thing"),
        (Speechless(), "Speechless"),
    ],
)
def test_it_says_what_was_raised_and_where(raised: BaseException, words: str) -> None:
    place = r"\(test_errors\.py, line \d+, in test_it_says"
    with pytest.raises(TaskError, match=rf"^training failed: {words} {place}") as caught, user_code("training failed"):
        raise raised
    assert caught.value.__cause__ is raised


def test_it_says_the_first_cause() -> None:
    def read() -> None:
        try:
            json.loads("{")
        except ValueError as error:
            raise RuntimeError("no settings") from error

    words = r"RuntimeError: no settings .*; first cause: JSONDecodeError: .*in read\)"
    with pytest.raises(TaskError, match=words), user_code("building failed"):
        read()


def test_a_circle_of_causes_ends() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert described(first) == "ValueError: a; first cause: ValueError: b"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ConfigError("key", "wrong"), TaskError("said already")])
def test_ctrl_c_and_our_own_errors_go_through(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, user_code("anything"):
        raise error
    assert caught.value is error


def test_of_a_group_the_first_is_told() -> None:
    assert described(ExceptionGroup("two", [ValueError("a"), KeyError("b")])).endswith("; first cause: ValueError: a")
