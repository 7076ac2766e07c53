"""A model of fifty parameters learns with the default codec, however little a low rate leaves of its updates."""

import pytest

from fedmq.simulation.experiment.cli import TrainOptions, build_experiment


def losses(buffer: int, *settings: str) -> list[float]:
    options = TrainOptions(
        task="quadratic",
        nodes=2,
        per_round=2,
        buffer=buffer,
        rounds=70,
        codec="edge",
        settings=("train.learning_rate=0.1", *settings),
    )
    return [one.metrics["loss"] for one in build_experiment(options).run().versions]


@pytest.mark.parametrize(("buffer", "bound"), [(1, 4.0), (2, 0.01)])
def test_two_nodes_of_the_quadratic_task_come_near_the_optimum_and_stay_there(buffer: int, bound: float) -> None:
    assert max(losses(buffer)[40:]) < bound


def test_at_the_rate_as_it_is_written_out_the_same_run_diverges() -> None:
    low = "deadzone(bpp=0.35,feedback=1)"
    found = losses(2, f"codec.up={low}", f"codec.down={low}", "codec.lag_versions=4")
    assert found[-1] > 100 * found[4]
