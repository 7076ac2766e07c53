"""Tables of other columns, classes and orders become one run's inputs by their names, on nodes and in a simulation."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from structlog.testing import capture_logs

from federation.errors import TaskError
from federation.inputs import Inputs, agree
from federation.picture import PictureInput
from federation.protocol.messages import TrainSettings
from federation.task import TaskContext
from federation.tasks import TorchTask, csv_data, image_data, numpy_data
from federation.tasks.pool.node_pool import NodePool
from federation.tasks.pool.work import Work
from federation.tasks.scaffold import ScaffoldTask

PLAIN = "heat,vibration,state\n" + "".join(f"{n},{n * 10},{'ok' if n % 2 else 'worn'}\n" for n in range(1, 11))
MORE = "id,vibration,state,heat\n" + "".join(f"x,{n * 10},{'ok' if n % 2 else 'worn'},{n}\n" for n in range(1, 11))
RUN = Inputs(features=("heat", "vibration"), classes=("ok", "worn"), target="state (class)", shape=(2,))


def task(folder: Path, text: str, index: int | None = 0, classes: Any = ("ok", "worn"), **options: Any) -> TorchTask:
    (folder / f"{index}.csv").write_text(text)
    context = TaskContext(node_index=index, node_count=2, data=folder, device="cpu")
    data = csv_data(context, f"{index}.csv", target="state", classes=classes, **options)
    return TorchTask(
        context,
        model=lambda: torch.nn.Linear(2, 2),
        loss=torch.nn.functional.cross_entropy,
        train_data=data.train,
        test_data=data.test,
        classes=data.classes,
        input_shape=(2,),
    )


def rows(source: TorchTask) -> set[tuple[float, ...]]:
    """Inputs and class numbers, of the training data."""
    inputs, targets = source.train_data()
    return {(*map(float, row), int(number)) for row, number in zip(inputs, targets, strict=True)}


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (PLAIN, {}),
        (MORE.replace("id,", "a,").replace("x,", "7,"), {}),
        (MORE, {}),
        (PLAIN, {"features": ("vibration", "heat")}),
        (PLAIN, {"classes": ("worn", "ok")}),
        (PLAIN, {"classes": ["worn", "broken", "ok"]}),
    ],
)
def test_a_node_reads_its_table_as_the_run_has_it(tmp_path: Path, text: str, options: dict[str, Any]) -> None:
    """FED-126."""
    wanted = rows(task(tmp_path, PLAIN))
    own = task(tmp_path, text.replace("x,", "1,"), **options)
    agree(own, RUN.digest, RUN.to_text())
    assert own.inputs() == RUN
    assert rows(own) == wanted
    result = own.train(own.initial_parameters(0), TrainSettings(), bool)
    assert result.num_examples == 8


def test_data_that_was_read_before_is_read_again(tmp_path: Path) -> None:
    own = task(tmp_path, PLAIN, features=("vibration", "heat"))
    before = own.train(own.initial_parameters(0), TrainSettings(seed=3), bool).parameters
    agree(own, RUN.digest, RUN.to_text())
    after = own.train(own.initial_parameters(0), TrainSettings(seed=3), bool).parameters
    named = task(tmp_path, PLAIN)
    wanted = named.train(named.initial_parameters(0), TrainSettings(seed=3), bool).parameters
    assert after["weight"].tobytes() == wanted["weight"].tobytes() != before["weight"].tobytes()


@pytest.mark.parametrize(
    ("text", "options", "problem"),
    [
        (
            PLAIN.replace("vibration", "pressure"),
            {},
            "it lacks vibration; pressure is not .*no column vib",
        ),
        (
            PLAIN.replace("worn", "broken"),
            {"classes": ("broken", "ok")},
            "it lacks worn; broken is not .*'broken'",
        ),
        (PLAIN.replace("ok", "0").replace("worn", "1"), {"classes": ()}, r"its target is state \(number\)"),
    ],
)
def test_a_node_that_lacks_something_declines_with_its_name(
    tmp_path: Path, text: str, options: dict[str, Any], problem: str
) -> None:
    """FED-126."""
    own = task(tmp_path, text, **options)
    for _ in range(2):
        with pytest.raises(TaskError, match=problem):
            agree(own, RUN.digest, RUN.to_text())


def test_a_table_of_more_columns_waits_for_the_run_to_say_which(tmp_path: Path) -> None:
    own = task(tmp_path, MORE.replace("x,", "1,"))
    with capture_logs() as logs:
        own.prepare()
    assert [line["event"] for line in logs] == ["inputs_not_taken"]
    with pytest.raises(TaskError, match=r"its inputs are the columns heat, id, vibration\)"):
        own.train(own.initial_parameters(0), TrainSettings(), bool)
    agree(own, RUN.digest, RUN.to_text())
    own.prepare()
    chosen = task(tmp_path, MORE.replace("x,", "1,"), features=("heat", "id", "vibration"))
    with pytest.raises(TaskError, match="cannot be multiplied"):
        chosen.prepare()
    with pytest.raises(TaskError, match=r"line 3: heat is ''"):
        task(tmp_path, PLAIN.replace("\n2,", "\n,")).prepare()


def test_a_coordinator_describes_what_it_knows(tmp_path: Path) -> None:
    """FED-125."""
    assert task(tmp_path, PLAIN, None).inputs() == RUN
    (tmp_path / "None.csv").unlink()
    without = replace(task(tmp_path, PLAIN, None))
    (tmp_path / "None.csv").unlink()
    assert without.inputs() == replace(RUN, features=())
    assert task(tmp_path, PLAIN, None, features=("vibration", "heat")).inputs().features == ("vibration", "heat")


def test_a_reader_of_one_s_own_can_say_its_columns() -> None:
    context = TaskContext(node_index=0, node_count=1, device="cpu")
    own = TorchTask(
        context,
        model=lambda: torch.nn.Linear(2, 1),
        loss=torch.nn.functional.mse_loss,
        train_data=lambda: (torch.ones(3, 2), torch.ones(3, 1)),
        features=("vibration", "heat"),
    )
    with pytest.raises(TaskError, match=r"features are vibration, heat, .*: the same in another order"):
        agree(own, RUN.digest, RUN.to_text())


def test_pictures_are_numbered_by_the_run_s_classes_and_arrays_have_none_to_map(tmp_path: Path) -> None:
    from PIL import Image

    for name, level in (("cat", 40), ("dog", 200)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.fromarray(np.full((4, 4), level, np.uint8)).save(tmp_path / "photos" / name / "0.png")
    np.savez(tmp_path / "d.npz", x=np.ones((4, 2)), y=np.arange(4) % 2)
    context = TaskContext(node_index=0, node_count=1, data=tmp_path)
    pictures = image_data(
        context, "photos", classes=("dog", "cat"), picture=PictureInput(height=2, width=2), test_share=0
    )
    arrays = numpy_data(context, "d.npz", classes=("dog", "cat"))
    wanted = Inputs(classes=("cat", "dog"))
    for source in (pictures, arrays):
        assert source.inputs() == Inputs(classes=("dog", "cat"))
        source.adopt(wanted)
    inputs, targets = pictures.train()
    assert {(round(float(x.mean()), 1), int(y)) for x, y in zip(inputs, targets, strict=True)} == {(0.2, 0), (0.8, 1)}
    assert pictures.inputs() == wanted
    assert arrays.inputs() == Inputs(classes=("dog", "cat"))


def test_simulated_nodes_take_their_columns_by_name_or_fail_with_it(tmp_path: Path) -> None:
    """FED-126."""

    def build(context: TaskContext) -> TorchTask:
        text = {0: PLAIN, 1: MORE.replace("x,", "1,"), 2: PLAIN.replace("heat", "cold")}
        return task(
            tmp_path, text.get(-1 if context.node_index is None else context.node_index, PLAIN), context.node_index
        )

    for controlled in (False, True):
        pool = NodePool(
            build, TaskContext(node_index=None, node_count=3, data=tmp_path, device="cpu"), controlled=controlled
        )
        base = pool.initial_parameters(0)
        controls = {name: array for name, array in base.items() if name.startswith("control.")}
        settings = TrainSettings(extra={"scaffold_nodes": 3.0} if controlled else {})
        work = Work(nodes=(0, 1, 2), base=base, settings=settings, controls=controls)
        first, second, third = sorted(pool.train([work]), key=lambda each: each.node)
        assert (first.failure, second.failure) == (None, None)
        np.testing.assert_array_equal(first.parameters["weight"].shape, second.parameters["weight"].shape)
        assert "it lacks heat; cold is not the run's" in str(third.failure)


def test_a_task_under_scaffold_is_described_as_the_task_is(tmp_path: Path) -> None:
    own = task(tmp_path, PLAIN, features=("vibration", "heat"))
    under = ScaffoldTask(own)
    agree(under, RUN.digest, RUN.to_text())
    assert under.inputs() == own.inputs() == RUN

    class Plain:
        pass

    bare = ScaffoldTask(Plain())  # type: ignore[arg-type]
    bare.adopt_inputs(RUN)
    assert bare.inputs() == Inputs()
