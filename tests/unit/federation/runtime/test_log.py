"""The log says the same to machines and to people, and looks at its level."""

import io
import json
import os
import re
import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from federation.runtime.log import READER_AGAIN_S, LogStream, configure_log, get_log, said_while_slow, write_fields


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


def test_a_json_line_has_the_level_of_its_method_and_the_time_to_the_microsecond() -> None:
    stream = io.StringIO()
    configure_log(json=True, stream=stream)
    log = get_log("node")
    for say in (log.warn, log.exception, log.critical):
        say("late")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["level"] for line in lines] == ["warning", "error", "critical"]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line["timestamp"]) for line in lines)


def test_what_a_task_has_bound_is_in_its_json_lines() -> None:
    stream = io.StringIO()
    configure_log(json=True, stream=stream)
    with structlog.contextvars.bound_contextvars(plant="north", event="not this"):
        get_log("node").info("late", seconds=2)
    record = json.loads(stream.getvalue())
    assert (record["plant"], record["event"], record["seconds"]) == ("north", "late", 2)


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


class Reader:
    """The reading end of a pipe, and a log that writes into it; a full one is not waited for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("federation.runtime.log.READER_S", 0.0)
        self.end, writing = os.pipe()
        self.stream = os.fdopen(writing, "w", encoding="utf-8")
        configure_log(json=True, stream=self.stream)

    def lines(self) -> list[str]:
        os.set_blocking(self.end, False)
        return os.read(self.end, 1 << 20).decode().splitlines()


def test_a_full_disk_costs_lines_and_neither_the_process_nor_its_exit_code() -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        configure_log(json=True, stream=full)
        get_log("coordinator").info("version_committed", version=3)
        get_log("coordinator").info("version_committed", version=4)
        full.flush()  # nothing is kept back, which would fail here


def test_a_reader_that_is_gone_costs_lines_only(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader(monkeypatch)
    os.close(reader.end)
    with reader.stream:
        get_log("coordinator").info("version_committed", version=3)


def test_a_reader_that_sleeps_costs_lines_which_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a pager or a stuck log service: without this the process would hang in the middle of a round."""
    reader = Reader(monkeypatch)
    with reader.stream:
        for number in range(2_000):
            get_log("coordinator").info("version_committed", version=number, padding="x" * 100)
        kept = reader.lines()
        get_log("coordinator").info("version_committed", version=2_000)
        told, last = map(json.loads, reader.lines())
    os.close(reader.end)
    assert (told["event"], told["count"], told["reason"]) == ("log_lines_lost", 2_000 - len(kept), "nobody reads it")
    assert last["version"] == 2_000
    assert json.loads(kept[-1])["version"] == len(kept) - 1


def test_a_reader_that_has_slept_once_is_not_waited_for_as_long_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else an orderly stop would take as long as the service manager's patience."""
    reader = Reader(monkeypatch)
    waits: list[float] = []

    class Poll:
        def register(self, *_: object) -> None:
            """Whatever it is."""

        def poll(self, wait_ms: float) -> list[object]:
            waits.append(wait_ms / 1_000)
            return [] if len(waits) % 2 else [1]  # asleep, awake, asleep, ...

    monkeypatch.setattr(select, "poll", Poll)
    stream = LogStream(reader.stream, lambda _count, _reason: "lost", reader_s=30.0)
    with reader.stream:
        for _ in range(3):
            stream.write("line\n")
    os.close(reader.end)
    assert waits == [30.0, 0.0, READER_AGAIN_S, 0.0, READER_AGAIN_S]


def test_a_line_of_which_half_was_written_ends_before_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader(monkeypatch)
    with reader.stream:
        get_log("coordinator").info("long", padding="x" * 100_000)
        torn = reader.lines()
        get_log("coordinator").info("short")
        empty, told, last = reader.lines()
    os.close(reader.end)
    assert len(torn) == 1
    assert (empty, json.loads(told)["count"], json.loads(last)["event"]) == ("", 1, "short")


def test_a_process_without_the_stream_logs_nowhere() -> None:
    LogStream(None, lambda _count, _reason: "", reader_s=0.0).write("line\n")


def test_lines_of_several_threads_and_any_length_arrive_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader(monkeypatch)
    monkeypatch.setattr("federation.runtime.log.READER_S", 20.0)
    configure_log(json=True, stream=reader.stream)
    found: list[str] = []

    def read() -> None:
        with os.fdopen(reader.end, encoding="utf-8") as source:
            found.extend(source)

    def say(number: int) -> None:
        for _ in range(20):
            get_log("coordinator").info("long", padding=str(number) * 10_000)

    threads = [threading.Thread(target=say, args=(number,)) for number in range(3)]
    listener = threading.Thread(target=read)
    for thread in (listener, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    reader.stream.close()
    listener.join()
    assert len(found) == 60
    assert {len(set(json.loads(line)["padding"])) for line in found} == {1}


def test_a_log_brings_nothing_that_draws_and_who_draws_finds_it() -> None:
    code = "import federation.runtime.log, sys; print('rich' in sys.modules); import rich.console"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
