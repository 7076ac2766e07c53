"""The demo's decisions: options, configuration, story, chaos, processes."""

import importlib.util
import io
import os
import queue
import re
import signal
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from coordinator.cli import make_app
from coordinator.config.sections import read_config
from coordinator.config.settings import engine_settings
from federation.errors import ConfigError
from federation.runtime.visit import Seen
from federation.units import human_bytes
from fedmq.demo.cli import demo
from fedmq.demo.command import site_rows, summary_table
from fedmq.demo.gateways import SiteFarm
from fedmq.demo.masks import ServerSaboteur
from fedmq.demo.plan import DemoOptions, check_plan, coordinator_settings, make_plan, to_toml
from fedmq.demo.processes import NO_VARIABLES, Exited, Fleet, Line
from fedmq.demo.run import (
    QUIET_S_MAX,
    TROUBLE_S_MAX,
    Demo,
    DemoFailed,
    Saboteur,
    _Patience,
    make_demo,
    make_story,
)
from fedmq.demo.story import NodeStory, Story
from fedmq.demo.view import LiveView, PlainView, failure_lines, node_table, sparkline

CHILD = """
import json, os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print(json.dumps({"event": "hello", "pid": os.getpid()}), flush=True)
print("not json", flush=True)
print(json.dumps([1]), flush=True)
print(json.dumps({"event": "ready"}), flush=True)
if "--die" in sys.argv:
    sys.stderr.write("last words\\n")
    sys.exit(3)
signal.pause()
"""

STUBBORN = """
import json, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(json.dumps({"event": "ready"}), flush=True)
while True:
    signal.pause()
"""


def line(source: str, event: str, **fields: object) -> Line:
    return Line(source=source, fields={"event": event, **fields})


def take(fleet: Fleet) -> Line | Exited:
    return fleet.lines.get(timeout=20)


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    (tmp_path / "demo_child.py").write_text(CHILD)
    (tmp_path / "demo_stubborn.py").write_text(STUBBORN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return Fleet(folder=tmp_path)


def test_a_process_that_ended_by_itself_is_told_by_how_it_ended_and_what_it_said(fleet: Fleet) -> None:
    killed = Exited(source="node-1", generation=0, code=-signal.SIGSEGV)
    ended = Exited(source="node-1", generation=0, code=0)
    task = "the task pump.py:build may have ended it (os._exit"
    assert f"node-1 was ended by SIGSEGV without a word: {task}" in fleet.last_words(killed, "pump.py:build")
    assert f"node-1 ended with exit code 0 without a word: {task}" in fleet.last_words(ended, "pump.py:build")
    said = [f"line {number}" for number in range(30)]
    (fleet.folder / "node-1.stderr").write_text("\n".join(said))
    words = "node-1 ended with exit code 0; it said last:\n" + "\n".join(said[-12:])
    assert fleet.last_words(ended, "pump.py:build") == words
    (fleet.folder / "node-1.stderr").write_text("\n".join(["before", "Fatal Python error: Aborted", *said]))
    assert fleet.last_words(ended, "x").splitlines()[1:3] == ["Fatal Python error: Aborted", "line 0"]
    threads = [
        "Fatal Python error: Aborted",
        "",
        "Thread 1 (most recent call first):",
        *said,
        "Current thread 2:",
        "here",
    ]
    (fleet.folder / "node-1.stderr").write_text("\n".join(threads))
    assert fleet.last_words(ended, "x").splitlines()[1:] == ["Fatal Python error: Aborted", "Current thread 2:", "here"]


class TestPlan:
    def test_per_round_alone_is_synchronous_fedavg(self) -> None:
        plan = make_plan(DemoOptions(nodes=10, per_round=5))
        assert (plan.per_round, plan.buffer, plan.synchronous, plan.strategy) == (5, 5, True, "fedavg")

    def test_default_is_asynchronous_fedbuff_with_a_buffer_below_the_nodes_at_work(self) -> None:
        plan = make_plan(DemoOptions(nodes=5))
        assert plan.buffer < plan.per_round == 5
        assert plan.strategy == "fedbuff"

    def test_a_named_strategy_is_the_coordinators_and_keeps_its_own_defaults(self, tmp_path: Path) -> None:
        scaffold = make_plan(DemoOptions(nodes=4, strategy="scaffold"))
        sections = coordinator_settings(scaffold, broker_url="mqtt://h", state=tmp_path)
        assert sections["strategy"] == {"name": "scaffold", "nodes": 4}
        fedprox = make_plan(DemoOptions(nodes=4, strategy="fedprox"))
        sections = coordinator_settings(fedprox, broker_url="mqtt://h", state=tmp_path)
        assert sections["strategy"] == {"name": "fedprox"}
        assert "proximal_mu" not in sections["train"]

    def test_a_single_node_has_no_chaos_because_nobody_would_be_left(self) -> None:
        assert not make_plan(DemoOptions(nodes=1)).chaos

    @pytest.mark.parametrize(
        ("options", "flag"),
        [
            (DemoOptions(nodes=0), "--nodes"),
            (DemoOptions(nodes=3, per_round=4), "--per-round"),
            (DemoOptions(nodes=3, buffer=9), "--buffer"),
            (DemoOptions(rounds=-1), "--rounds"),
            (DemoOptions(data=Path("no/such/folder")), "--data"),
        ],
    )
    def test_an_option_out_of_range_is_named(self, options: DemoOptions, flag: str) -> None:
        with pytest.raises(ConfigError, match=flag):
            make_plan(options)

    def test_a_folder_in_which_something_is_keeps_no_demo(self, tmp_path: Path) -> None:
        (tmp_path / "mine.txt").write_text("")
        with pytest.raises(ConfigError, match=r"--keep: .* is not empty, it has mine\.txt"):
            make_plan(DemoOptions(keep=tmp_path))
        with pytest.raises(ConfigError, match=r"--keep: .* is no folder"):
            make_plan(DemoOptions(keep=tmp_path / "mine.txt"))

    def test_configuration_survives_toml(self, tmp_path: Path) -> None:
        plan = make_plan(DemoOptions(nodes=4, data=tmp_path, seed=7))
        sections = coordinator_settings(plan, broker_url="mqtt://127.0.0.1:1", state=tmp_path / 'a "quoted" \\ name')
        assert tomllib.loads(to_toml(sections)) == {name: dict(values) for name, values in sections.items()}

    def test_the_coordinator_accepts_the_configuration(self, tmp_path: Path) -> None:
        plan = make_plan(DemoOptions(nodes=4, per_round=4, buffer=2))
        file = tmp_path / "coordinator.toml"
        file.write_text(to_toml(coordinator_settings(plan, broker_url="mqtt://127.0.0.1:1883", state=tmp_path / "s")))
        engine = engine_settings(read_config(file, {}, environ={}))
        assert (engine.buffer, engine.concurrency, engine.nodes_min) == (2, 4, 4)

    def test_a_task_file_is_found_from_every_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "mine.py").write_text("def build(context):\n    raise NotImplementedError\n")
        assert make_plan(DemoOptions(task="mine.py:build", rounds=1)).task == f"{tmp_path / 'mine.py'}:build"


class TestStory:
    def test_a_node_is_followed_through_a_round(self) -> None:
        story = Story({"node-0": NodeStory()})
        states = []
        heard: list[tuple[str, dict[str, object]]] = [
            ("connected", {}),
            ("round_joined", {"round": 3}),
            ("model_fetched", {"bytes": 100}),
            ("model_fetched", {"bytes": 70, "pulled": 30}),
            ("training_started", {"round": 3}),
            ("training_finished", {}),
            ("update_offered", {"bytes": 40}),
            ("receipt", {"status": "stored"}),
            ("receipt", {"status": "applied"}),
        ]
        for event, fields in heard:
            assert story.hear(line("node-0", event, **fields)) is None
            states.append(story.nodes["node-0"].state)
        assert states == [
            "idle",
            "fetching",
            "fetching",
            "fetching",
            "training",
            "uploading",
            "uploading",
            "delivered",
            "idle",
        ]
        node = story.nodes["node-0"]
        assert (node.round, node.applied, node.bytes_up, node.bytes_down) == (3, 1, 40, 130)

    def test_stale_and_refused_receipts_are_counted_apart(self) -> None:
        story = Story({"node-0": NodeStory()})
        for number, status in enumerate(("stale", "refused", "refused", "unheard-of")):
            story.hear(line("node-0", "receipt", status=status, update=f"{number}-node-0"))
        assert (story.nodes["node-0"].stale, story.nodes["node-0"].refused, story.nodes["node-0"].applied) == (1, 2, 0)

    def test_what_is_said_again_after_a_restart_counts_once(self) -> None:
        """A coordinator that was killed receipts again: a node had 13 updates in 12 versions."""
        story = Story({"node-0": NodeStory()})
        for _ in range(2):
            story.hear(line("node-0", "update_offered", update="4-node-0", bytes=40))
            story.hear(line("node-0", "receipt", update="4-node-0", status="applied"))
        story.hear(line("node-0", "receipt", update="5-node-0", status="applied"))
        assert (story.nodes["node-0"].applied, story.nodes["node-0"].bytes_up) == (2, 40)

    def test_versions_are_told_with_their_accuracy(self) -> None:
        story = Story({})
        assert story.hear(line("coordinator", "version_committed", version=1, accepted=3)) is None
        assert (
            story.hear(line("coordinator", "evaluated", version=1, metrics={"accuracy": 0.5}))
            == "version 1: 3 updates, accuracy 50.00%"
        )
        assert story.hear(line("coordinator", "evaluated", version=0, metrics={"accuracy": 0.1})) is None
        assert story.version == 1

    def test_a_refused_update_is_told_with_its_reason(self) -> None:
        sentence = Story({}).hear(line("coordinator", "update_refused", node="node-1", reason="norm"))
        assert sentence == "node-1: update refused (norm)"

    def test_a_node_whose_data_does_not_come_is_told_with_the_place(self) -> None:
        story = Story({"a": NodeStory()})
        busy = line("a", "still_busy", doing="loading the data", seconds=20.0, at="task.py, line 3, in data")
        told = "a: loading the data takes 20.0 seconds already"
        assert story.hear(busy) == f"{told} (task.py, line 3, in data)"
        assert story.hear(line("a", "still_busy", doing="loading the data", seconds=20.0, at="")) == told

    def test_data_without_an_end_is_told_once_for_each_node(self) -> None:
        """The node's log alone said it, which nobody of a demo sees."""
        story, endless = Story({"a": NodeStory()}), line("a", "data_without_end", why="if nowhere, set max_steps")
        assert story.hear(endless) == "a: if nowhere, set max_steps"
        assert story.hear(endless) is None

    def test_a_node_that_fails_is_told_once_for_each_reason_and_counted(self) -> None:
        story = Story({"a": NodeStory(), "b": NodeStory()})
        declined = line("coordinator", "node_declined", node="a", reason="no data")
        assert story.hear(declined) == "a fails: no data"
        assert story.hear(declined) is None
        assert story.hear(line("coordinator", "node_declined", node="a", reason="no memory")) == "a fails: no memory"
        assert (story.nodes["a"].failed, story.nodes["a"].state) == (3, "failed")
        assert failure_lines(story) == ["a failed 3 times: no memory"]
        assert "failed" in [column.header for column in node_table(story).columns]
        assert "failed" not in [column.header for column in node_table(Story({"a": NodeStory()})).columns]
        story.hear(line("coordinator", "update_refused", node="b", reason="norm", detail="too long"))
        assert failure_lines(story)[1] == "b failed once: its update was refused: too long"
        story.hear(line("coordinator", "node_declined", node="stranger", reason="x"))
        assert story.nodes.keys() == {"a", "b"}

    def test_that_nothing_is_learnt_is_told_when_all_that_made_a_version_have_moved_nothing(self) -> None:
        story = Story({"a": NodeStory(), "b": NodeStory()})
        for name in ("a", "b"):
            story.hear(line(name, "training_finished", moved=False))
            assert story.hear(line(name, "nothing_moved", why="see the loss")) is None
            told = story.hear(line("coordinator", "version_committed", version=1, accepted=2))
            assert told == (None if name == "a" else "nothing is learnt: see the loss")
        assert story.hear(line("coordinator", "version_committed", version=2, accepted=2)) is None
        assert story.standing == "nothing is learnt: see the loss"

    @pytest.mark.parametrize("fields", [{"moved": True}, {}])
    def test_one_training_that_has_moved_something_is_enough(self, fields: dict[str, object]) -> None:
        """A node of before says nothing of it."""
        story = Story({"a": NodeStory(), "b": NodeStory()})
        story.hear(line("a", "training_finished", moved=False))
        story.hear(line("a", "nothing_moved", why="see the loss"))
        story.hear(line("b", "training_finished", **fields))
        assert story.hear(line("coordinator", "version_committed", version=1, accepted=1)) is None
        assert story.standing is None

    def test_a_node_that_cannot_save_is_told_with_why(self) -> None:
        story = Story({"a": NodeStory()})
        story.hear(line("a", "storage_failed", doing="SaveOutbox", reason="file too large"))
        declined = line("coordinator", "node_declined", node="a", reason="storage")
        assert story.hear(declined) == "a fails: it cannot save: file too large"
        assert Story({"a": NodeStory()}).hear(declined) == "a fails: storage"

    def test_it_is_hopeless_when_every_node_has_failed_and_nothing_ever_came(self) -> None:
        story = Story({"a": NodeStory(), "b": NodeStory()})
        story.hear(line("coordinator", "node_declined", node="a", reason="no data"))
        assert not story.hopeless
        story.hear(line("coordinator", "node_declined", node="b", reason="no data"))
        assert story.hopeless

    def test_where_something_has_come_of_a_training_everybody_gets_a_second_chance(self) -> None:
        story = Story({"a": NodeStory(), "b": NodeStory()})
        heard = ["update_stored a", "node_declined b", "node_declined a", "node_declined b"]
        for event, node in (each.split() for each in heard):
            story.hear(line("coordinator", event, node=node, reason="no data"))
            assert not story.hopeless
        story.hear(line("coordinator", "version_committed", version=1, accepted=1))
        for event, node in (each.split() for each in ["node_declined a", "node_declined b", "node_declined a"]):
            story.hear(line("coordinator", event, node=node, reason="no data"))
            assert not story.hopeless
        story.hear(line("coordinator", "node_declined", node="b", reason="no data"))
        assert story.hopeless
        story.hear(line("coordinator", "update_stored", node="a"))
        assert not story.hopeless

    def test_why_a_version_is_not_evaluated_is_told_once(self) -> None:
        story, failed = (
            Story({}),
            line("coordinator", "evaluation_failed", version=1, exception="Traceback\n  x\nNo: 7\n"),
        )
        assert story.hear(failed) == "the evaluation fails: No: 7"
        assert story.hear(failed) is None
        assert story.hear(line("coordinator", "evaluation_failed")) == "the evaluation fails: see its log"

    def test_the_end_is_noticed_and_strangers_are_ignored(self) -> None:
        story = Story({})
        story.hear(line("coordinator", "finished"))
        assert story.finished
        assert story.hear(line("stranger", "connected")) is None


class _KillingFleet(Fleet):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder=folder)
        self.done: list[str] = []

    def kill(self, name: str) -> None:
        self.done.append(f"kill {name}")

    def restart(self, name: str, environment: Mapping[str, str] = NO_VARIABLES) -> None:
        self.done.append(f"restart {name}")


class _ListingFleet(Fleet):
    """Starts nothing: keeps what would be seen in the process list, and says at once that the run is over."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder=folder)
        self.commands: list[str] = []

    def start(
        self, name: str, module: str, arguments: Sequence[str], environment: Mapping[str, str] = NO_VARIABLES
    ) -> None:
        self.commands.append(f"{name} {module} {' '.join(arguments)} {dict(environment)}")
        if name == "coordinator":
            (self.folder / "report.json").write_text("{}")
            self.lines.put(Exited(source=name, generation=0, code=0))


def test_a_demo_that_is_kept_has_its_coordinators_state_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedmq.demo.run.visit_broker", lambda *_, **__: Seen(accepted=True))
    monkeypatch.setattr("fedmq.demo.run.clear_retained", lambda *_: None)
    fleet = _ListingFleet(tmp_path)
    Demo(
        plan=make_plan(DemoOptions(nodes=1, broker="mqtt://127.0.0.1:1", keep=tmp_path / "kept")),
        story=Story({"node-0": NodeStory()}),
        view=PlainView(Console(file=io.StringIO())),
        folder=tmp_path,
        fleet=fleet,
        saboteur=Saboteur(fleet, enabled=False),
    ).run()
    written = tomllib.loads((tmp_path / "coordinator.toml").read_text())
    assert written["store"]["folder"] == str((tmp_path / "kept").resolve())


class _FailingFleet(_ListingFleet):
    """Starts nothing; its coordinator says that the only node fails."""

    def start(
        self, name: str, module: str, arguments: Sequence[str], environment: Mapping[str, str] = NO_VARIABLES
    ) -> None:
        if name == "coordinator":
            self.lines.put(line(name, "node_declined", node="node-0", reason="no data"))


def test_a_demo_in_which_nobody_trains_ends_with_the_reasons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedmq.demo.run.visit_broker", lambda *_, **__: Seen(accepted=True))
    monkeypatch.setattr("fedmq.demo.run.clear_retained", lambda *_: None)
    fleet = _FailingFleet(tmp_path)
    demo = Demo(
        plan=make_plan(DemoOptions(nodes=1, broker="mqtt://127.0.0.1:1")),
        story=Story({"node-0": NodeStory()}),
        view=PlainView(Console(file=io.StringIO())),
        folder=tmp_path,
        fleet=fleet,
        saboteur=Saboteur(fleet, enabled=False),
    )
    with pytest.raises(DemoFailed, match="nobody trains after version 0: node node-0: no data"):
        demo.run()


class _EndedFleet(_ListingFleet):
    """Starts nothing; its coordinator has ended with code 0, and without its report."""

    def start(
        self, name: str, module: str, arguments: Sequence[str], environment: Mapping[str, str] = NO_VARIABLES
    ) -> None:
        if name == "coordinator":
            self.lines.put(Exited(source=name, generation=0, code=0))


def test_a_coordinator_that_a_task_has_ended_is_no_end_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedmq.demo.run.visit_broker", lambda *_, **__: Seen(accepted=True))
    monkeypatch.setattr("fedmq.demo.run.clear_retained", lambda *_: None)
    fleet = _EndedFleet(tmp_path)
    demo = Demo(
        plan=make_plan(DemoOptions(nodes=1, broker="mqtt://127.0.0.1:1", task="null")),
        story=Story({"node-0": NodeStory()}),
        view=PlainView(Console(file=io.StringIO())),
        folder=tmp_path,
        fleet=fleet,
        saboteur=Saboteur(fleet, enabled=False),
    )
    with pytest.raises(DemoFailed, match=r"coordinator ended with exit code 0 without a word: the task null may have"):
        demo.run()


def test_a_broker_s_password_is_neither_shown_nor_on_a_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedmq.demo.run.visit_broker", lambda *_, **__: Seen(accepted=True))
    url, shown = "mqtt://u:Tr0ub4dor@127.0.0.1:1", io.StringIO()
    fleet = _ListingFleet(tmp_path)
    plan = make_plan(DemoOptions(nodes=2, broker=url))
    Demo(
        plan=plan,
        story=Story({"node-0": NodeStory()}),
        view=PlainView(Console(file=shown, width=200)),
        folder=tmp_path,
        fleet=fleet,
        saboteur=Saboteur(fleet, enabled=False),
    ).run()
    assert len(fleet.commands) == 2
    assert "Tr0ub4dor" not in " ".join(fleet.commands)
    assert tomllib.loads((tmp_path / "node.toml").read_text())["broker"]["url"] == url
    assert "mqtt://127.0.0.1:1" in shown.getvalue()
    assert "Tr0ub4dor" not in shown.getvalue()


class TestMasks:
    def test_everybody_gets_what_a_masked_federation_needs_and_nothing_of_it_is_on_a_command_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("fedmq.demo.run.visit_broker", lambda *_, **__: Seen(accepted=True))
        monkeypatch.setattr("fedmq.demo.run.clear_retained", lambda *_: None)
        fleet = _ListingFleet(tmp_path)
        plan = make_plan(DemoOptions(nodes=8, per_round=8, broker="mqtt://127.0.0.1:1", helpers=2))
        make_demo(plan, PlainView(Console(file=io.StringIO())), make_story(plan), tmp_path)
        story = make_story(plan)
        Demo(
            plan=plan,
            story=story,
            view=PlainView(Console(file=io.StringIO())),
            folder=tmp_path,
            fleet=fleet,
            saboteur=Saboteur(fleet, enabled=False),
        ).run()
        config = read_config(tmp_path / "coordinator.toml", {}, environ={})
        engine = engine_settings(config)
        assert engine.masking is not None
        assert sorted(engine.masking.helpers) == ["helper-0", "helper-1"]
        assert (engine.buffer, engine.quorum, engine.codec_up) == (8, 8, "masked")
        node = tomllib.loads((tmp_path / "node-3.toml").read_text())
        assert set(node["privacy"]["helpers"]) == set(config.privacy.helpers)
        helper = tomllib.loads((tmp_path / "helper-0.toml").read_text())
        assert (helper["helper"]["id"], helper["federation"]["id"]) == ("helper-0", plan.federation)
        assert len(fleet.commands) == 8 + 2 + 1
        assert not any("PRIVATE" in command for command in fleet.commands)

    @pytest.mark.parametrize(
        ("flag", "options"),
        [
            ("--helpers", DemoOptions(nodes=9, helpers=2, per_round=7)),
            ("--helpers", DemoOptions(nodes=9, helpers=8, per_round=8)),
            ("--codec", DemoOptions(nodes=9, helpers=2, per_round=8, codec="balanced")),
        ],
    )
    def test_what_masks_exclude_is_said_before_anything_starts(self, flag: str, options: DemoOptions) -> None:
        with pytest.raises(ConfigError) as caught:
            make_plan(options)
        assert caught.value.key == flag

    def test_a_helper_and_the_coordinator_are_killed_once_each_while_a_sum_is_under_way(self, tmp_path: Path) -> None:
        fleet = _KillingFleet(tmp_path)
        servers = ServerSaboteur(fleet)
        assert servers.hear(line("coordinator", "batch_frozen", version=1)) is None
        assert "SIGKILL to helper-0" in str(servers.hear(line("coordinator", "batch_frozen", version=2)))
        assert servers.hear(line("coordinator", "batch_frozen", version=4)) is None, "one at a time"
        assert servers.notice(Exited(source="node-1", generation=0, code=-9)) is None
        assert "started again" in str(servers.notice(Exited(source="helper-0", generation=0, code=-9)))
        assert "SIGKILL to coordinator" in str(servers.hear(line("coordinator", "batch_frozen", version=4)))
        assert servers.notice(Exited(source="coordinator", generation=0, code=-9)) is not None
        assert servers.hear(line("coordinator", "batch_frozen", version=5)) is None
        assert servers.kills == 2


class TestSaboteur:
    def test_kills_one_node_in_mid_training_and_brings_it_back(self, tmp_path: Path) -> None:
        fleet = _KillingFleet(tmp_path)
        saboteur = Saboteur(fleet)
        assert saboteur.hear(line("node-1", "training_started", round=1), version=0) is None
        assert "SIGKILL to node-1" in str(saboteur.hear(line("node-1", "training_started", round=2), version=1))
        assert saboteur.hear(line("node-2", "training_started", round=2), version=1) is None
        assert "mid-training" in str(saboteur.notice(Exited(source="node-1", generation=0, code=-9)))
        assert fleet.done == ["kill node-1", "restart node-1"]
        assert saboteur.done
        assert saboteur.hear(line("node-1", "training_started", round=3), version=2) is None
        assert saboteur.hear(line("node-1", "receipt", status="stored"), version=2) is None
        back = saboteur.hear(line("node-1", "receipt", status="applied", version=3), version=3)
        assert back == "chaos: node-1 is back: version 3 has its update"
        assert saboteur.hear(line("node-1", "receipt", status="applied", version=4), version=4) is None

    def test_a_node_that_was_faster_than_the_signal_does_not_count(self, tmp_path: Path) -> None:
        fleet = _KillingFleet(tmp_path)
        saboteur = Saboteur(fleet)
        saboteur.hear(line("node-1", "training_started", round=2), version=1)
        saboteur.hear(line("node-1", "training_finished"), version=1)
        assert "try again" in str(saboteur.notice(Exited(source="node-1", generation=0, code=-9)))
        assert not saboteur.done
        saboteur.hear(line("node-0", "training_started", round=3), version=2)
        assert fleet.done[-1] == "kill node-0"

    def test_without_chaos_nobody_is_killed(self, tmp_path: Path) -> None:
        fleet = _KillingFleet(tmp_path)
        saboteur = Saboteur(fleet, enabled=False)
        saboteur.hear(line("node-1", "training_started", round=2), version=1)
        assert fleet.done == []
        assert saboteur.notice(Exited(source="node-1", generation=0, code=1)) is None


class TestFleet:
    def test_only_json_objects_are_lines_and_the_end_comes_last(self, fleet: Fleet) -> None:
        fleet.start("a", "demo_child", ["--die"])
        items = [take(fleet), take(fleet), take(fleet)]
        fleet.stop()
        assert [item.event for item in items[:2] if isinstance(item, Line)] == ["hello", "ready"]
        assert items[2] == Exited(source="a", generation=0, code=3)
        assert fleet.stderr_tail("a") == "last words"
        assert fleet.stderr_tail("nobody") == ""

    def test_a_killed_process_starts_again_under_its_name(self, fleet: Fleet) -> None:
        fleet.start("a", "demo_child", [])
        take(fleet)
        take(fleet)
        fleet.kill("a")
        assert take(fleet) == Exited(source="a", generation=0, code=-signal.SIGKILL)
        fleet.restart("a")
        assert isinstance(take(fleet), Line)
        assert fleet.generation("a") == 1
        fleet.stop()

    def test_stop_leaves_no_process_behind_even_a_stubborn_one(
        self, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("fedmq.demo.processes.STOP_GRACE_S", 0.2)
        fleet.start("a", "demo_child", [])
        fleet.start("b", "demo_stubborn", [])
        waiting = {"a", "b"}
        while waiting:
            item = take(fleet)
            if isinstance(item, Line) and item.event == "ready":
                waiting.discard(item.source)
        pids = [fleet.pid("a"), fleet.pid("b")]
        fleet.stop()
        for pid in pids:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)

    def test_readers_end_when_nobody_listens_any_more(self, fleet: Fleet) -> None:
        fleet.lines = queue.Queue(1)
        fleet.start("a", "demo_child", [])
        take(fleet)
        fleet.stop()


class TestBeforeAnythingStarts:
    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (DemoOptions(codec="nope"), "unknown codec 'nope'"),
            (DemoOptions(strategy="krum"), "strategy.name: 'krum' is unknown"),
            (DemoOptions(codec_down="what"), "unknown codec 'what'"),
            (DemoOptions(strategy="fedasync", nodes=4, per_round=4), "buffer"),
            (DemoOptions(selector="best"), "round.selector: 'best' is neither one of"),
        ],
    )
    def test_a_setting_that_the_coordinator_refuses_is_told_and_nothing_is_started(
        self, tmp_path: Path, options: DemoOptions, said: str
    ) -> None:
        plan = make_plan(options)
        demo = make_demo(plan, PlainView(Console(file=io.StringIO())), make_story(plan), tmp_path)
        with pytest.raises(ConfigError, match=re.escape(said)):
            demo.run()
        assert not any(tmp_path.iterdir())

    def test_a_library_that_is_missing_is_named_with_what_brings_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = importlib.util.find_spec
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "torch" else found(name))
        with pytest.raises(ConfigError, match=re.escape("digits needs torch: pip install 'fedmq[torch,demo]'")):
            check_plan(make_plan(DemoOptions()))
        check_plan(make_plan(DemoOptions(task="null-100")))


class TestView:
    def test_plain_lines_are_printed_as_they_are(self) -> None:
        out = io.StringIO()
        with PlainView(Console(file=out, width=40)) as view:
            view.say("[round 1] 50% of node-1")
            view.refresh()
        assert out.getvalue() == "[round 1] 50% of node-1\n"

    def test_the_live_table_shows_every_node_and_the_last_sentences(self) -> None:
        plan = make_plan(DemoOptions(nodes=2))
        story = Story({"node-0": NodeStory(), "node-1": NodeStory(state="training", round=4)}, accuracy={1: 0.9})
        out = io.StringIO()
        console = Console(file=out, force_terminal=True, width=120, height=40)
        with LiveView(console, plan, story) as view:
            for number in range(9):
                view.say(f"sentence {number}")
            view.refresh()
        shown = out.getvalue()
        assert "accuracy 90.00%" in shown
        assert "sentence 8" in shown
        assert "sentence 1\n" not in shown.split("sentence 8")[-1]
        assert node_table(story).row_count == 2

    @pytest.mark.parametrize(("width", "height"), [(80, 24), (80, 12), (200, 50)])
    def test_the_live_view_fits_the_screen_and_keeps_the_kill_and_the_return(self, width: int, height: int) -> None:
        plan = make_plan(DemoOptions(nodes=100, rounds=60))
        nodes = {f"node-{index:02d}": NodeStory() for index in range(100)}
        nodes["node-77"].restarts = 1
        story = Story(nodes, version=30, accuracy={version: version / 60 for version in range(1, 31)})
        console = Console(file=io.StringIO(), force_terminal=True, width=width, height=height)
        view = LiveView(console, plan, story)
        view.pin("chaos: SIGKILL to node-77 while it trains round 1")
        for number in range(50):
            view.say(f"sentence {number}")
        view.pin("chaos: node-77 is back: version 12 has its update")
        lines = ["".join(part.text for part in line) for line in console.render_lines(view._render(), pad=False)]
        assert len(lines) < height
        assert max(map(len, lines)) <= width
        shown = "\n".join(lines)
        assert lines[0].startswith("digits: version 30 of 60, accuracy 50.00%  ====")
        assert "SIGKILL to node-77" in shown
        assert "is back: version 12" in shown
        assert re.search(r"^ *node-77 ", shown, re.MULTILINE)  # first, since something happened to it
        assert re.search(r"\+ \d+ more", shown)

    def test_the_curve_is_as_wide_as_the_screen_allows(self) -> None:
        story = Story({}, loss={version: 10.0 - version for version in range(10)})
        assert sparkline(story, 80) == "loss 1 █▇▆▆▅▄▃▃▂▁ 10"
        assert sparkline(story, 31) == "loss 1 ▆▄▁ 10"
        assert sparkline(Story({}, accuracy={1: 0.5}), 80) is None
        assert sparkline(Story({}, accuracy={1: 0.5, 2: 0.5}), 80) == "accuracy 50.0% ▁▁ 50.0%"

    @pytest.mark.parametrize(
        ("kills", "returns", "text"), [(1, 1, "1"), (0, 0, "0"), (1, 0, "0 of 1: the run ended first")]
    )
    def test_the_summary_counts_returns_and_not_kills(self, kills: int, returns: int, text: str) -> None:
        out = io.StringIO()
        Console(file=out, width=120).print(summary_table({"chaos_kills": kills, "chaos_returns": returns}))
        assert re.search(rf"killed and back +{text} *$", out.getvalue(), re.MULTILINE)

    @pytest.mark.parametrize(
        ("count", "text"), [(0, "0 B"), (1536, "1.5 KiB"), (2**20, "1.0 MiB"), (2**45, "32768.0 GiB")]
    )
    def test_bytes_are_written_for_people(self, count: int, text: str) -> None:
        assert human_bytes(count) == text

    def test_summary_compares_with_fp32(self) -> None:
        out = io.StringIO()
        rounds = [{"bytes_up": 60}, {"bytes_up": 40}]
        report = {"bytes_up_fp32": 6400, "final_accuracy": 0.5, "rounds": rounds, "broker": "m"}
        Console(file=out, width=100).print(summary_table(report))
        assert "1/64.0 of fp32" in out.getvalue()
        assert "50.00%" in out.getvalue()


def test_the_bytes_are_those_of_compare() -> None:
    """What followed the last version was counted here, and nowhere else."""
    row = {"accepted": 1, "wall_s": 1.0, "bytes_up": 2048, "bytes_down": 3072}
    report = {"rounds": [row], "bytes_up_total": 9999, "bytes_down_total": 9999, "bytes_down_fp32": 6144}
    out = io.StringIO()
    Console(file=out, width=100).print(summary_table(report))
    assert re.search(r"bytes up +2.0 KiB", out.getvalue())
    assert re.search(r"bytes down +3.0 KiB with headers, 1/2.0 of fp32", out.getvalue())


@pytest.mark.parametrize(
    ("flat", "exact", "told"),
    [(4096, 2048, "2.0 KiB, 1/2.0 of the 4.0 KiB"), (2048, 4096, "4.0 KiB, 2.0 times the 2.0 KiB")],
)
def test_a_sum_that_is_larger_than_its_updates_says_how_much(flat: int, exact: int, told: str) -> None:
    """It said "1/0.6 of"."""
    found = {"bytes_up_flat": flat, "bytes_up_exact": exact, "bytes_up_coded_again": 1024, "problems": [], "levels": 2}
    found |= {"versions_same": 1, "versions": 1, "members": [5], "gateways": 2, "kills": 1, "back": 1}
    rows = site_rows({**found, "digest": "a", "flat_digest": "a"})
    assert rows["up to the coordinator"] == f"{told} without"
    assert rows["coded again as edge"] == f"1.0 KiB, 1/{flat // 1024}.0 of the same"  # it said "of the that"


def test_without_an_accuracy_the_loss_is_told() -> None:
    story = Story({})
    story.hear(line("coordinator", "version_committed", version=1, accepted=2))
    told = story.hear(line("coordinator", "evaluated", version=1, metrics={"loss": 0.125}))
    assert told == "version 1: 2 updates, loss 0.125"
    for rounds, shown in (([{"loss": 2.5}, {"loss": 0.5}, {"loss": None}], "final loss"), ([], "not evaluated")):
        out = io.StringIO()
        Console(file=out, width=100).print(summary_table({"final_accuracy": None, "rounds": rounds}))
        assert shown in out.getvalue()


def test_a_demo_that_cannot_be_drawn_says_so_before_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"fedmq\[plot\]"):
        demo(plot=tmp_path / "pictures")
    assert list(tmp_path.iterdir()) == []


def test_two_demos_have_two_federations() -> None:
    plans = [make_plan(DemoOptions()) for _ in range(2)]
    names = [coordinator_settings(plan, broker_url="mqtt://h", state=Path("s"))["federation"]["id"] for plan in plans]
    assert names == [plan.federation for plan in plans]
    assert len(set(names)) == 2


@pytest.mark.parametrize("apart", [False, True])
def test_a_coordinator_apart_is_not_forked_and_neither_is_its_task(*, apart: bool, tmp_path: Path) -> None:
    plan = replace(make_plan(DemoOptions()), apart=apart)
    made = make_demo(plan, PlainView(Console(file=io.StringIO())), make_story(plan), tmp_path)
    assert made.fleet.unforked == (frozenset({"coordinator"}) if apart else frozenset())
    assert coordinator_settings(plan, broker_url="mqtt://h", state=tmp_path)["evaluation"]["apart"] is apart


def test_that_somebody_tries_to_connect_again_is_no_progress() -> None:
    patience, trouble = _Patience(since=0.0), line("node-0", "connect_failed", reason="Connection refused")
    heard = [patience.hear(trouble, float(now)) for now in range(0, int(TROUBLE_S_MAX), 5)]
    assert heard[0] == "the broker cannot be reached: Connection refused"
    assert set(heard[1:]) == {None}
    with pytest.raises(DemoFailed, match="the broker cannot be reached: Connection refused"):
        patience.hear(trouble, TROUBLE_S_MAX + 1)


def test_a_demo_is_given_up_when_nobody_says_anything_and_goes_on_while_somebody_does() -> None:
    patience = _Patience(since=0.0)
    for now in range(100):
        assert patience.hear(line("node-0", "training_started"), now * 100.0) is None
    with pytest.raises(DemoFailed, match="nothing happened for"):
        patience.hear(None, 9_900.0 + QUIET_S_MAX + 1)


def test_a_disk_that_takes_nothing_is_told_and_ends_a_demo_that_makes_no_version() -> None:
    """A coordinator at a limit of its files' sizes tried to save again for ever, which was news enough."""
    full = line("coordinator", "storage_failed", detail="disk I/O error", retry_s=5)
    patience, told = _Patience(since=0.0), "coordinator cannot save: disk I/O error"
    assert patience.hear(full, 1.0) == told
    assert patience.hear(full, 2.0) is None
    patience.hear(line("coordinator", "version_committed"), 3.0)
    assert patience.hear(None, 2 * TROUBLE_S_MAX) is None
    assert patience.hear(full, 2 * TROUBLE_S_MAX) == told
    patience.hear(line("node-0", "training_started"), 3 * TROUBLE_S_MAX)
    with pytest.raises(DemoFailed, match=f"no version for 61 s: {told}"):
        patience.hear(line("node-0", "training_started"), 3 * TROUBLE_S_MAX + 1)


def test_a_broker_that_came_back_is_told_of_anew_when_it_is_lost_again() -> None:
    patience, trouble = _Patience(since=0.0), line("node-0", "disconnected", reason="connection lost")
    assert patience.hear(trouble, 1.0) == "the broker cannot be reached: connection lost"
    assert patience.hear(line("node-0", "connected"), 2.0) is None
    assert patience.hear(trouble, 3.0) == "the broker cannot be reached: connection lost"


def test_levels_of_gateways_are_named_and_dealt_nodes_to_the_lowest(tmp_path: Path) -> None:
    plan = make_plan(DemoOptions(nodes=9, gateways=2, levels=3))
    farm = SiteFarm.of(plan, tmp_path, [f"node-{index}" for index in range(9)])
    assert farm.gateways == ["gateway-0", "gateway-1"] + [f"gateway-{one}-{two}" for one in (0, 1) for two in (0, 1)]
    assert {farm.gateway_of(node) for node in farm.nodes} == set(farm.gateways[2:])
    assert farm.coordinator()["gateways"]["members_max"] == {"gateway-0": 5, "gateway-1": 4}
    assert coordinator_settings(plan, broker_url="mqtt://x", state=tmp_path)["round"]["nodes_min"] == 2


@pytest.mark.parametrize(
    "options",
    [DemoOptions(levels=3), DemoOptions(nodes=3, gateways=2, levels=3), DemoOptions(nodes=99, gateways=1, levels=5)],
)
def test_levels_that_cannot_be_are_refused_before_anything_starts(options: DemoOptions) -> None:
    with pytest.raises(ConfigError, match="levels"):
        make_plan(options)


@pytest.mark.parametrize(("option", "place"), [("--report", "none/report.json"), ("--plot", "file/pictures")])
def test_where_nothing_can_be_written_nothing_is_run(
    option: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A demo of minutes ended in a traceback."""
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    command = ["demo", option, place]
    with pytest.raises(ConfigError, match=option):
        CliRunner().invoke(make_app(command), command, catch_exceptions=False)
