"""The log says the same to machines and to people, and looks at its level."""

import io
import json
import threading
from collections.abc import Iterator

import pytest
import structlog

from federation.runtime.log import configure_log, get_log, said_while_slow, write_fields


@pytest.fixture(autouse=True)
def _defaults_afterwards() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def test_json_lines_have_event_fields_level_and_time() -> None:
    stream = io.StringIO()
    configure_log(json=True, stream=stream)
    get_log("node", node="n1").info("round_started", round=7, payload=b"\xff")
    record = json.loads(stream.getvalue())
    assert record.pop("timestamp").endswith("Z")
    assert record == {
        "component": "node",
        "event": "round_started",
        "level": "info",
        "node": "n1",
        "payload": "b'\\xff'",
        "round": 7,
    }


NAMES = (
    "self", "event", "method_name", "args", "exc_info", "stack_info", "stack", "exception", "level", "timestamp", "loss"
)  # fmt: skip


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_a_field_may_have_any_name(name: str, *, as_json: bool) -> None:
    """A node chooses the names of its metrics: none may stop the coordinator, or stand for what the log says itself."""
    stream = io.StringIO()
    configure_log(json=as_json, stream=stream)
    write_fields(get_log("coordinator").info, "nodes_evaluated", {name: 0.5, "version": 3})
    line = stream.getvalue()
    assert "nodes_evaluated" in line
    if as_json:
        record = json.loads(line)
        assert (record["event"], record["level"], record["version"]) == ("nodes_evaluated", "info", 3)
        assert 0.5 in (record.get(name), record.get(f"{name}_"))


def test_text_lines_have_no_colour_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    configure_log(json=False, stream=stream)
    get_log("node").warning("late", seconds=2)
    assert "late" in stream.getvalue()
    assert "seconds=2" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_each_line_is_flushed_so_that_a_killed_process_loses_none() -> None:
    class Stream(io.StringIO):
        flushed = 0

        def flush(self) -> None:
            self.flushed += 1

    stream = Stream()
    configure_log(json=True, stream=stream)
    get_log("node").info("one")
    get_log("node").info("two")
    assert stream.flushed >= 2


def test_a_logger_from_before_follows_the_configuration_and_its_level() -> None:
    early = get_log("node")
    stream = io.StringIO()
    configure_log(json=True, level="warning", stream=stream)
    early.info("unheard")
    early.error("heard")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["heard"]


def test_an_exception_is_part_of_its_json_line() -> None:
    stream = io.StringIO()
    configure_log(json=True, stream=stream)
    try:
        int("broken")
    except ValueError:
        get_log("node").exception("failed")
    assert "ValueError: invalid literal" in json.loads(stream.getvalue())["exception"]


def test_an_unknown_level_is_named() -> None:
    with pytest.raises(ValueError, match="loud"):
        configure_log(json=True, level="loud")


class Heard(io.StringIO):
    """A stream that tells when so many lines are there."""

    def __init__(self, lines: int) -> None:
        super().__init__()
        self.left, self.enough = lines, threading.Event()

    def write(self, text: str) -> int:
        self.left -= text.count("\n")
        if self.left <= 0:
            self.enough.set()
        return super().write(text)


def test_what_does_not_come_back_is_said_with_its_place_and_growing_pauses() -> None:
    stream = Heard(lines=2)
    configure_log(json=True, stream=stream)
    with said_while_slow("loading the data", first_s=0.01):
        assert stream.enough.wait(60.0)
    records = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert {(each["event"], each["level"], each["doing"]) for each in records} == {
        ("still_busy", "warning", "loading the data")
    }
    assert [each["seconds"] for each in records[:2]] == [0.0, 0.0]
    assert records[0]["at"].startswith("test_log.py, line ")
    assert records[0]["at"].endswith(", in test_what_does_not_come_back_is_said_with_its_place_and_growing_pauses")


def test_what_comes_back_in_time_is_not_said() -> None:
    stream = io.StringIO()
    configure_log(json=True, stream=stream)
    before = threading.active_count()
    with pytest.raises(ValueError, match="mine"), said_while_slow("loading the data"):
        raise ValueError("mine")
    assert (stream.getvalue(), threading.active_count()) == ("", before)
