"""What is worth telling, and that it is told once and once more when it is over."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.config.alerts import AlertsSection
from coordinator.engine.round import ENDINGS
from fedmq.alerts.rules import Surroundings, conditions
from fedmq.alerts.watch import Condition, Notice, Watch
from fedmq.run_view import Snapshot

TODAY = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
AROUND = Surroundings(today=TODAY, lease_s=60.0, disk_free=50, disk_total=100)
LIMITS = AlertsSection()


def run(*, running: bool = True, online: int = 3, reason: str = "assignments", head: int = 7, **more: Any) -> Snapshot:
    waiting = {"running": running, "online": online, "reason": reason, "sentence": "waiting for a", "since_s": 1.0}
    waiting |= {"away": more.pop("away", 0), "connected": more.pop("connected", running)}
    summary: Mapping[str, Any] = {"waiting": waiting, "head": head, "counters": more.pop("counters", {})}
    return Snapshot(summary=summary, **more)


def node(name: str, *, sent: int = 4, asked: int = 9) -> Mapping[str, Any]:
    return {
        "id": name,
        "asked": asked,
        "updates_applied": sent,
        "updates_stale": 0,
        "updates_refused": 0,
        "updates_waiting": 0,
    }


def found(snapshot: Snapshot, around: Surroundings = AROUND, limits: AlertsSection = LIMITS) -> dict[str, Condition]:
    return {one.key: one for one in conditions(snapshot, around, limits)}


def kinds(snapshot: Snapshot, around: Surroundings = AROUND, limits: AlertsSection = LIMITS) -> set[str]:
    """Beside the one that is always watched: how long the newest version is the newest."""
    begun = {one.key for one in conditions(snapshot, around, limits) if one.begins}
    return begun - {"no_version"}


def test_a_run_that_goes_well_is_not_told() -> None:
    assert kinds(run()) == set()
    assert found(run())["no_version"].hold_s == 600.0
    assert found(run(), replace(AROUND, interval_s=3_600.0))["no_version"].hold_s == 4_200.0


@pytest.mark.parametrize(
    ("snapshot", "kind"),
    [
        (run(running=False), "stopped"),
        (run(online=0), "nobody_online"),
        (run(counters={"broker_dropped": 3}), "dropped"),
        (
            run(versions=[{"version": 1, "accuracy": 0.9}, {"version": 2, "accuracy": 0.8}]),
            "accuracy_fell",
        ),
        (run(nodes=[node("a")]), "node_silent a"),
    ],
)
def test_each_trouble_is_found_and_can_be_turned_off(snapshot: Snapshot, kind: str) -> None:
    assert kinds(snapshot) == {kind}
    off = AlertsSection(
        stopped_s=0, nobody_online_s=0, no_version_leases=0, node_silent_s=0, accuracy_drop=0, dropped=False
    )
    assert found(snapshot, AROUND, off) == {}


def test_fleet_that_checks_in_is_not_gone_where_nobody_is_online() -> None:
    assert kinds(run(online=0, away=98)) == set()
    assert kinds(run(online=0, away=0)) == {"nobody_online"}


def test_a_coordinator_without_its_broker_reaches_nobody_and_the_alert_says_so() -> None:
    """Those were counted as online that had been when the broker was lost, so nobody was told."""
    away = found(run(online=0, reason="broker", connected=False))["nobody_online"]
    assert away.text == "no node can be reached; waiting for a"
    assert found(run(online=0))["nobody_online"].text == "no node is online"


def test_disk_and_certificates_matter_whether_or_not_the_run_is_over() -> None:
    ends = {"edge-01": TODAY + dt.timedelta(days=29), "edge-02": TODAY + dt.timedelta(days=31), "ca": TODAY}
    around = Surroundings(today=TODAY, lease_s=60.0, disk_free=4, disk_total=100, certificates=ends)
    over = run(running=False, reason="finished")
    assert kinds(over, around) == {"disk", "certificate edge-01", "certificate ca"}
    assert "ends in 29 days" in found(over, around)["certificate edge-01"].text
    assert "of ca has ended" in found(over, around)["certificate ca"].text
    around = replace(around, certificates={"ca": TODAY + dt.timedelta(hours=5)}, certificates_unknown="no register")
    assert "of ca ends within a day" in found(over, around)["certificate ca"].text
    assert found(over, around)["certificate"].text == "nobody can tell when certificates end: no register"
    assert kinds(over, around, AlertsSection(disk_free=0, certificate_days=0)) == set()


@pytest.mark.parametrize("reason", sorted(ENDINGS))
def test_a_run_that_is_over_needs_nobody(reason: str) -> None:
    """One whose nodes have spent their privacy budgets was told as one whose coordinator has stopped."""
    assert kinds(run(running=False, reason=reason, online=0)) == set()


def test_an_accuracy_that_nobody_measured_does_not_fall() -> None:
    assert kinds(run(versions=[{"version": 1, "accuracy": None}])) == set()
    assert kinds(run(versions=[{"version": 1, "accuracy": 0.9}, {"version": 2, "accuracy": 0.86}])) == set()


def told(notices: list[Notice]) -> list[tuple[str, bool]]:
    return [(f"{one.kind} {one.subject}".strip(), one.over) for one in notices]


def test_what_lasts_is_told_once_and_once_more_when_it_is_over() -> None:
    watch, wrong = Watch(), Condition(kind="nobody_online", text="no node is online", hold_s=600.0)
    assert list(watch.step([wrong], 0.0)) == []
    assert list(watch.step([wrong], 599.0)) == []
    raised = list(watch.step([wrong], 600.0))
    assert (told(raised), raised[0].since_s, raised[0].text) == ([("nobody_online", False)], 0.0, "no node is online")
    assert list(watch.step([wrong], 5000.0)) == []
    over = list(watch.step([], 5001.0))
    assert (told(over), over[0].text) == ([("nobody_online", True)], "over: no node is online")
    assert list(watch.step([], 5002.0)) == []


WRONG: Mapping[str, Mapping[str, Any]] = {
    "nobody_online": {"online": 0},
    "no_version": {},
    "accuracy_fell": {"versions": [{"version": 1, "accuracy": 0.9}, {"version": 2, "accuracy": 0.8}]},
    "dropped": {"counters": {"broker_dropped": 3}},
    "node_silent a": {"nodes": [node("a", asked=9)]},
}


@pytest.mark.parametrize("kind", WRONG)
def test_trouble_is_not_over_because_its_coordinator_has_stopped(kind: str) -> None:
    """It was told as over at each restart, and once more after it."""
    watch, wrong, seen = Watch(), WRONG[kind], list[tuple[int, bool]]()
    later = dict(wrong) | ({"nodes": [node("a", asked=10)]} if "nodes" in wrong else {})
    steps = (run(**wrong), run(**later), run(running=False, **later), run(**later), run(reason="finished"))
    for number, snapshot in enumerate(steps):
        at_s = LIMITS.node_silent_s + number if number and kind != "dropped" else float(number)
        seen += [
            (number, over) for name, over in told(list(watch.step(found(snapshot).values(), at_s))) if name == kind
        ]
    begun = 0 if kind in {"accuracy_fell", "dropped"} else 1
    assert seen == [(begun, False), (4, True)]


def test_trouble_does_not_begin_where_no_coordinator_runs() -> None:
    watch = Watch()
    for at_s in (0.0, 1e6):
        said = told(list(watch.step(found(run(running=False, online=0)).values(), at_s)))
        assert said == ([("stopped", False)] if at_s else [])


def test_messages_that_are_dropped_later_are_told_again_and_an_hour_without_any_is_the_end() -> None:
    """One alert was all that a coordinator's whole life had."""
    watch = Watch()

    def step(dropped: int, at_s: float) -> list[tuple[str, bool]]:
        snapshot = run(counters={"broker_dropped": dropped} if dropped else {})
        return told(list(watch.step(found(snapshot, limits=AlertsSection(no_version_leases=0)).values(), at_s)))

    assert step(0, 0.0) == []
    assert step(3, 10.0) == [("dropped", False)]
    assert step(7, 3_000.0) == []
    assert step(7, 6_599.0) == []
    watch = Watch.restored(watch.rows())
    assert step(7, 6_600.0) == [("dropped", True)]
    assert step(7, 90_000.0) == []
    assert step(8, 90_001.0) == [("dropped", False)]
    assert step(2, 90_002.0) == []  # another coordinator counts anew
    assert step(2, 93_601.0) == []
    assert step(2, 93_602.0) == [("dropped", True)]


def test_an_accuracy_that_wavers_about_the_limit_is_told_once() -> None:
    watch = Watch()

    def step(accuracy: float) -> list[tuple[str, bool]]:
        versions = [{"version": 1, "accuracy": 0.9}, {"version": 2, "accuracy": accuracy}]
        return told(list(watch.step(found(run(versions=versions)).values(), 0.0)))

    assert [step(accuracy) for accuracy in (0.86, 0.849, 0.851, 0.849, 0.87)] == [
        [],
        [("accuracy_fell", False)],
        [],
        [],
        [],
    ]
    assert step(0.88) == [("accuracy_fell", True)]
    assert step(0.86) == []


def test_what_did_not_last_is_never_told() -> None:
    watch, wrong = Watch(), Condition(kind="stopped", text="", hold_s=100.0)
    for at in range(0, 2000, 99):
        assert list(watch.step([wrong], at)) == []
        assert list(watch.step([], at + 98)) == []


def test_another_mark_is_another_condition() -> None:
    watch = Watch()
    assert list(watch.step([Condition(kind="no_version", text="v7", mark=7, hold_s=10.0)], 0.0)) == []
    assert told(list(watch.step([Condition(kind="no_version", text="v7", mark=7, hold_s=10.0)], 10.0))) == [
        ("no_version", False)
    ]
    newer = Condition(kind="no_version", text="v8", mark=8, hold_s=10.0)
    assert told(list(watch.step([newer], 11.0))) == [("no_version", True)]
    assert told(list(watch.step([newer], 21.0))) == [("no_version", False)]


def test_a_node_that_nobody_asks_is_not_silent() -> None:
    watch, day = Watch(), LIMITS.node_silent_s
    quiet = found(run(nodes=[node("a", asked=9), node("b", asked=9)]))
    watching = [quiet["node_silent a"], quiet["node_silent b"]]
    assert list(watch.step(watching, 0.0)) == []
    asked = found(run(nodes=[node("a", asked=9), node("b", asked=11)]))
    assert told(list(watch.step(asked.values(), day))) == [("node_silent b", False)]
    back = found(run(nodes=[node("a", asked=9), node("b", asked=11, sent=5)]))
    assert ("node_silent b", True) in told(list(watch.step(back.values(), day + 1)))


def test_a_clock_that_is_set_back_holds_nothing_up() -> None:
    watch, wrong = Watch(), Condition(kind="stopped", text="", hold_s=10.0)
    assert list(watch.step([wrong], 1e9)) == []
    assert list(watch.step([wrong], 100.0)) == []
    assert told(list(watch.step([wrong], 110.0))) == [("stopped", False)]


_CONDITIONS = st.lists(
    st.builds(
        Condition,
        kind=st.sampled_from(["stopped", "disk", "node_silent"]),
        text=st.just(""),
        subject=st.sampled_from(["", "a", "b"]),
        mark=st.integers(0, 1),
        hold_s=st.sampled_from([0.0, 2.0]),
        grows=st.sampled_from([None, 1, 2]),
    ),
    max_size=4,
)


@given(st.lists(_CONDITIONS, max_size=12), st.integers(0, 11))
def test_every_alert_ends_before_it_begins_again_also_over_a_restart(steps: list[list[Condition]], at: int) -> None:
    watch, raised = Watch(), set[str]()
    for number, step in enumerate(steps):
        if number == at:
            watch = Watch.restored(watch.rows())
        for notice in watch.step(step, float(number)):
            key = f"{notice.kind} {notice.subject}"
            assert notice.over is (key in raised)
            raised.symmetric_difference_update({key})


def test_rows_of_another_release_are_left_out() -> None:
    assert Watch.restored([{"kind": "x"}, {"nonsense": 1}]).rows() == []


@pytest.mark.parametrize(("silent_s", "said"), [(8.0, "8 s"), (600.0, "10 min"), (86_400.0, "24 h")])
def test_how_long_a_node_is_silent_is_told_in_a_unit_that_suits_it(silent_s: float, said: str) -> None:
    """Minutes were `0.0 h`."""
    (quiet,) = [
        one for one in conditions(run(nodes=[node("a")]), AROUND, AlertsSection(node_silent_s=silent_s)) if one.subject
    ]
    assert quiet.text == f"node a has sent nothing for {said}, though it was asked"
