"""A cluster gives the model of this process, to the bit, whatever the number of workers and of their deaths."""

import os
from dataclasses import replace
from importlib import util
from pathlib import Path

import numpy as np
import pytest

from federation.errors import ConfigError, FederationError
from federation.protocol.messages import TrainSettings
from federation.runtime.local_broker import free_port
from federation.task import TaskContext
from federation.tasks.pool.node_pool import NodePool
from federation.tasks.pool.work import Work
from federation.tasks.registry import default_settings, load_task
from fedmq.simulation.experiment.cli import TrainOptions, build_experiment
from fedmq.simulation.experiment.experiment import Result
from fedmq.simulation.training import cluster, dask_cluster, shipping
from fedmq.simulation.training.local_trainer import LocalTrainer, Share
from fedmq.simulation.training.shipping import Recipe, remote_run, thin
from fedmq.simulation.training.training_workers import open_cluster
from update_codec import Manifest

NODES, ROUNDS = 16, 4

LEARNS = """
import numpy as np
import torch
from federation.tasks import TorchTask
from federation.protocol.messages import TrainSettings

DEFAULT_SETTINGS = TrainSettings(local_epochs=1, batch_size=8, learning_rate=0.2)

def build(context):
    rng = np.random.default_rng(5)
    x = rng.normal(size=(400, 6)).astype(np.float32)
    y = (x @ rng.normal(size=(6, 3))).argmax(1)
    return TorchTask(context, model=lambda: torch.nn.Linear(6, 3), loss=torch.nn.functional.cross_entropy,
                     train_data=(x[:300], y[:300]), test_data=(x[300:], y[300:]))
"""

DIES = """
import os, signal
from pathlib import Path
import numpy as np
from federation.protocol.messages import TrainSettings
from federation.runtime.local_broker import free_port
from federation.task import TrainResult

FOLDER, FIRST = Path({folder!r}), {first}

class Mortal:
    '''Its process dies in the first training of each round; what it keeps is part of what it answers.'''

    def __init__(self, index):
        self.index, self.state = index, {{}}

    def initial_parameters(self, seed):
        return {{"point": np.zeros(8, np.float32)}}

    def roles(self):
        return {{}}

    def restore(self, state):
        self.state = state

    def train(self, parameters, settings, stop):
        mark = FOLDER / str(settings.seed)
        if os.getpid() != FIRST:
            try:
                mark.touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        count = self.state.get("count", np.zeros(1, np.float32)) + 1
        kept = {{"count": count}}
        point = 0.5 * parameters["point"] + np.float32(self.index + 1) / 7 + count / 3
        return TrainResult(parameters={{"point": point}}, num_examples=self.index + 1, kept=kept)

    def evaluate(self, parameters):
        return {{"loss": float(np.abs(parameters["point"]).sum())}}

def build(context):
    return Mortal(context.node_index or 0)
"""


@pytest.fixture(name="options")
def _options(tmp_path: Path) -> TrainOptions:
    file = tmp_path / "learning_task.py"
    file.write_text(LEARNS)
    return TrainOptions(task=str(file), nodes=NODES, rounds=ROUNDS, per_round=NODES // 2, stacked=False)


@pytest.fixture(name="mortal")
def _mortal(tmp_path: Path) -> TrainOptions:
    """Nodes whose process dies once a round."""
    marks = tmp_path / "marks"
    marks.mkdir()
    file = tmp_path / "dying_task.py"
    file.write_text(DIES.format(folder=str(marks), first=os.getpid()))
    return TrainOptions(task=str(file), nodes=NODES, rounds=ROUNDS, per_round=NODES)


def run(options: TrainOptions) -> Result:
    return build_experiment(options).run()


def deaths(options: TrainOptions) -> int:
    assert options.task is not None
    return len(list((Path(options.task).parent / "marks").iterdir()))


def told(result: Result) -> Result:
    """All of it but how long it took."""
    return replace(result, wall_s=0.0)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("more", [{}, {"codec": "edge"}, {"strategy": "scaffold"}, {"buffer": 3}])
def test_processes_of_a_cluster_make_the_model_of_this_one(
    options: TrainOptions, workers: int, more: dict[str, object]
) -> None:
    chosen = replace(options, **more)  # type: ignore[arg-type]
    assert told(run(replace(chosen, cluster="local", workers=workers))) == told(run(chosen))


def test_stacked_nodes_are_divided_alike_for_any_number_of_workers(options: TrainOptions) -> None:
    stacked = replace(options, stacked=True, cluster="local", per_round=NODES)
    one, three = (run(replace(stacked, workers=count)) for count in (1, 3))
    assert one.digest == three.digest


@pytest.mark.parametrize("workers", [1, 2])
def test_a_process_that_dies_in_each_round_has_its_part_run_again(mortal: TrainOptions, workers: int) -> None:
    there = run(replace(mortal, cluster="local", workers=workers))
    assert deaths(mortal) == ROUNDS
    assert told(there) == told(run(mortal))


def test_a_part_that_ends_every_process_is_given_up(mortal: TrainOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "LOST_MAX", 2)
    assert mortal.task is not None
    file = Path(mortal.task)
    file.write_text(file.read_text().replace("exist_ok=False", "exist_ok=True"))
    with pytest.raises(FederationError, match="enough memory"):
        run(replace(mortal, cluster="local", workers=2))


def test_a_failing_training_is_told_as_it_is_here(options: TrainOptions) -> None:
    assert options.task is not None
    file = Path(options.task)
    file.write_text(file.read_text().replace("learning_rate=0.2", "learning_rate=1e30"))
    words = []
    for more in ("", "local"):
        with pytest.raises(FederationError) as caught:
            run(replace(options, cluster=more))
        words.append(str(caught.value))
    assert words[0] == words[1]
    assert "nobody trains" in words[0]


def test_a_pool_that_travels_is_not_prepared_and_trains_the_same_bits(options: TrainOptions) -> None:
    """A pool that was pickled after it had been prepared used to train other bits, without an error."""
    assert options.task is not None
    context = TaskContext(node_index=None, node_count=NODES, device="cpu")
    pool = NodePool(load_task(options.task), context, stacked=False)
    manifest = Manifest.of(dict(pool.initial_parameters(0)), pool.roles())
    here = LocalTrainer(pool, manifest)
    pool.prepare()
    work = Work(nodes=(1, 5), base=pool.initial_parameters(0), settings=default_settings(options.task))
    shares = (Share(work=work, weights=(1.0, 2.0)),)
    ours, _ = here.sum(shares)
    recipe = Recipe.of(pool, manifest)
    slim = thin(cluster.divide(shares, "sum", {}))
    outcome = cluster.checked(remote_run(recipe.digest, recipe.packed, slim.jobs[0], slim.models))
    theirs, _ = outcome.result
    assert (theirs.mean(divisor=3.0).parameters == ours.mean(divisor=3.0).parameters).all()


def test_models_travel_once_however_many_parts_there_are(options: TrainOptions) -> None:
    del options
    base = {"w": np.ones(3, np.float32)}
    work = Work(nodes=tuple(range(12)), base=base, settings=TrainSettings())
    slim = thin(cluster.divide([Share(work=work, weights=(1.0,) * 12)], "sum", {}))
    assert len(slim.jobs) == 3
    assert slim.models == [base]


@pytest.mark.parametrize("address", ["dask", "dask://", "spark://host", "tcp://host:1", "ray"])
def test_an_address_that_names_no_cluster_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="dask://HOST:PORT"):
        open_cluster(address, 1, print)


@pytest.mark.parametrize(("address", "module"), [("dask://local", "distributed"), ("ray://local", "ray")])
def test_a_cluster_whose_library_is_missing_says_what_to_install(
    options: TrainOptions, address: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=rf"needs {module}: pip install 'fedmq\["):
        run(replace(options, cluster=address))


def needs(module: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(util.find_spec(module) is None, reason=f"{module} is not installed: make test-frameworks")


@pytest.mark.frameworks
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize(
    "kind", [pytest.param("dask", marks=needs("distributed")), pytest.param("ray", marks=needs("ray"))]
)
def test_a_worker_of_dask_or_ray_that_dies_in_each_round_changes_nothing(
    mortal: TrainOptions, kind: str, workers: int
) -> None:
    there = run(replace(mortal, cluster=f"{kind}://local", workers=workers))
    assert deaths(mortal) == ROUNDS
    assert told(there) == told(run(mortal))


@pytest.mark.frameworks
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "kind", [pytest.param("dask", marks=needs("distributed")), pytest.param("ray", marks=needs("ray"))]
)
@pytest.mark.parametrize("more", [{}, {"strategy": "scaffold", "codec": "edge"}])
def test_dask_and_ray_make_the_model_of_this_process(options: TrainOptions, kind: str, more: dict[str, object]) -> None:
    chosen = replace(options, **more)  # type: ignore[arg-type]
    assert told(run(replace(chosen, cluster=f"{kind}://local", workers=2))) == told(run(chosen))


@pytest.mark.frameworks
@pytest.mark.filterwarnings("ignore")
@needs("distributed")
def test_a_scheduler_without_a_worker_says_how_to_start_one(
    options: TrainOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_cluster, "WAIT_S", 1.0)
    with pytest.raises(ConfigError, match=r"dask worker 127\.0\.0\.1:"):
        run(replace(options, cluster=f"dask://127.0.0.1:{free_port()}"))


@pytest.mark.frameworks
@pytest.mark.filterwarnings("ignore")
@needs("distributed")
def test_a_worker_with_another_release_is_named(options: TrainOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipping, "releases", lambda: {"numpy": "0.1"})
    with pytest.raises(ConfigError, match=r"has numpy .* and here it is 0\.1"):
        run(replace(options, cluster="dask://local"))
