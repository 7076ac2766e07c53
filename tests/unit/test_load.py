"""``benchmarks.load``: packets as a broker reads them, a plan's defaults, and one small load from end to end."""

import json
from dataclasses import replace

import pytest

from benchmarks.load import packets
from benchmarks.load.__main__ import main, plan_of
from benchmarks.load.run import settles_s

KEYS = {
    "updates",
    "updates_per_cpu_s",
    "deliveries_per_update",
    "bytes_down_per_update",
    "coordinator_rss_bytes",
    "broker_rss_bytes",
    "dropped",
    "lost",
    "receipt_p50_ms",
    "receipt_p99_ms",
}


def taken(parts: list[bytes]) -> list[tuple[int, bytes]]:
    buffer = packets.Buffer()
    return [packet for part in parts for packet in buffer.feed(part)]


@pytest.mark.parametrize("size", [0, 100, 127, 128, 16_383, 16_384, 70_000])
@pytest.mark.parametrize("mid", [0, 7])
def test_a_publish_comes_out_as_it_went_in(size: int, mid: int) -> None:
    sent = packets.publish("fl/plant/round", b"x" * size, mid=mid)
    (packet,) = taken([sent])
    assert packets.published(*packet) == packets.Published("fl/plant/round", b"x" * size, mid)


def test_packets_come_out_whole_wherever_the_bytes_were_cut() -> None:
    sent = packets.publish("a", b"one" * 100, mid=1) + packets.puback(2) + packets.publish("b", b"", mid=0)
    whole = taken([sent])
    assert [header >> 4 for header, _ in whole] == [packets.PUBLISH, packets.PUBACK, packets.PUBLISH]
    for cut in range(len(sent) + 1):
        assert taken([sent[:cut], sent[cut:]]) == whole
    assert taken([bytes([byte]) for byte in sent]) == whole


def test_a_length_that_never_ends_is_refused() -> None:
    with pytest.raises(ValueError, match="four bytes"):
        taken([b"\x30\xff\xff\xff\xff\xff"])


def test_clients_that_check_in_are_measured_once_they_have_spread() -> None:
    """A run of half a minute by a pace of a minute said that nobody checks in, and that nearly all are connected."""
    plan, _ = plan_of(["--nodes", "10", "--pace", "60"])
    assert settles_s(plan) == 1.5 * 60 + 10
    assert settles_s(replace(plan, pace_s=0.4)) == pytest.approx(1.5 * 0.4 + 0.4)
    assert settles_s(replace(plan, pace_s=0.0)) == 0


def test_clients_leave_by_the_pace_and_come_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """FED-325: as nodes do; what the broker keeps for them meanwhile is not lost."""
    arguments = ["load", "--nodes", "8", "--seconds", "4", "--pace", "0.4", "--concurrency", "1", "--train-s", "0.01"]
    monkeypatch.setattr("sys.argv", [*arguments, "--json"])
    code, found = main(), json.loads(capsys.readouterr().out)
    assert code == 0
    assert found["check_ins"] > 0
    assert found["connected_mean"] < 8
    assert found["updates"] > 0
    assert (found["lost"], found["dropped"], found["refused"], found["connections_lost"]) == (0, 0, 0, 0)


def test_the_defaults_follow_the_number_of_nodes() -> None:
    plan, as_json = plan_of(["--nodes", "1000"])
    assert (plan.concurrency, plan.buffer, as_json) == (200, 100, False)
    plan, as_json = plan_of(["--nodes", "3", "--sync", "--json"])
    assert (plan.concurrency, plan.buffer, plan.synchronous, as_json) == (1, 1, True, True)


@pytest.mark.parametrize("extra", [[], ["--sync", "--codec", "edge", "--tls", "--signed"]], ids=["plain", "secured"])
def test_a_small_load_loses_nothing(
    extra: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["load", "--nodes", "6", "--seconds", "0.5", "--train-s", "0.01", "--json", *extra]
    monkeypatch.setattr("sys.argv", arguments)
    code, found = main(), json.loads(capsys.readouterr().out)
    assert code == 0
    assert set(found) >= KEYS
    assert found["updates"] > 0
    assert found["stored"] > 0
    assert (found["lost"], found["dropped"], found["refused"], found["connections_lost"]) == (0, 0, 0, 0)
