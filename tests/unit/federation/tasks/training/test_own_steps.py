"""A user's own step and optimizer train as they do in plain torch, under this node's settings, or an error says why."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from federation.errors import TaskError
from federation.protocol.messages import TrainSettings
from federation.task import CLIP_KEY, KEPT_KEY, MIXED, MIXED_KEY, Parameters, TaskContext, TrainResult, prepare
from federation.tasks import TorchTask
from federation.tasks.check import check_task
from federation.tasks.pool.node_pool import NodePool
from federation.tasks.pool.work import Work
from federation.tasks.scaffold import NODES_KEY, scaffolded

NODE = TaskContext(node_index=0, node_count=1, device="cpu")
SETTINGS = TrainSettings(local_epochs=2, batch_size=8, learning_rate=0.05)


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def classes(count: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = torch.randn(count, 6, generator=torch.Generator().manual_seed(0))
    return inputs, inputs[:, :3].argmax(1)


def task_of(**changes: Any) -> TorchTask:
    arguments: dict[str, Any] = {"model": net, "train_data": classes, "loss": cross_entropy} | changes
    return TorchTask(NODE, **arguments)


def trained(task: TorchTask, settings: TrainSettings = SETTINGS) -> TrainResult:
    return task.train(task.initial_parameters(1), settings, bool)


def same(ours: Parameters, theirs: Parameters, closely: float = 1e-6) -> bool:
    return all(np.allclose(ours[name], theirs[name], rtol=closely, atol=closely) for name in theirs)


def whole_step(module: nn.Module, batch: Any, optimizer: torch.optim.Optimizer) -> torch.Tensor:
    optimizer.zero_grad()
    loss = cross_entropy(module(batch[0]), batch[1])
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss


def test_a_step_that_gives_a_loss_trains_as_model_and_loss_do_bit_for_bit() -> None:
    ours, plain = (
        trained(task_of(step=lambda module, batch: cross_entropy(module(batch[0]), batch[1]))),
        trained(task_of()),
    )
    for name, array in plain.parameters.items():
        np.testing.assert_array_equal(ours.parameters[name], array)
    assert ours.metrics == plain.metrics


def test_an_optimizer_that_takes_a_closure_takes_torchs_own_steps() -> None:
    def lbfgs(module: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
        return torch.optim.LBFGS(module.parameters(), lr=settings.learning_rate, max_iter=4)

    settings = TrainSettings(local_epochs=3, batch_size=0, learning_rate=0.5)
    task = task_of(optimizer=lbfgs)
    check_task(task)
    found = trained(task, settings)
    twin, (inputs, targets) = net(), classes()
    twin.load_state_dict({name: torch.tensor(array) for name, array in task.initial_parameters(1).items()})
    optimizer: Any = lbfgs(twin, settings)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(twin(inputs), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    losses = [float(optimizer.step(closure)) for _ in range(3)]
    assert same(found.parameters, {name: np.asarray(each) for name, each in twin.state_dict().items()}, 1e-5)
    assert found.metrics["loss"] == pytest.approx(sum(losses) / 3, rel=1e-5)
    with pytest.raises(TaskError, match="closure needs bfloat16 or off"):
        trained(task, TrainSettings(learning_rate=0.5, extra={MIXED_KEY: MIXED["float16"]}))
    with pytest.raises(TaskError, match="given a closure"):
        trained(task, TrainSettings(learning_rate=0.5, extra={CLIP_KEY: 1.0}))


def test_a_scheduler_is_called_by_the_step_that_takes_it() -> None:
    def made(module: nn.Module, settings: TrainSettings) -> Any:
        optimizer = torch.optim.SGD(module.parameters(), lr=settings.learning_rate)
        return {"optimizer": optimizer, "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.0)}

    def step(module: nn.Module, batch: Any, both: Any) -> torch.Tensor:
        loss = whole_step(module, batch, both["optimizer"])
        both["scheduler"].step()
        return loss

    found = trained(task_of(step=step, optimizer=made)).parameters
    once = trained(task_of(), TrainSettings(max_steps=1, batch_size=8, learning_rate=SETTINGS.learning_rate)).parameters
    assert same(found, once)
    with pytest.raises(TaskError, match=r"made a StepLR, which nobody calls: set train\.schedule"):
        trained(task_of(optimizer=made))


def test_a_step_that_gives_a_loss_may_look_at_the_module() -> None:
    penalty = task_of(
        step=lambda module, batch: (
            cross_entropy(module(batch[0]), batch[1]) + 10 * sum(each.square().sum() for each in module.parameters())
        )
    )
    ours, plain = trained(penalty).parameters, trained(task_of()).parameters
    assert np.abs(ours["0.weight"]).sum() < 0.5 * np.abs(plain["0.weight"]).sum()


@pytest.mark.parametrize(
    "settings",
    [
        SETTINGS,
        TrainSettings(batch_size=8, learning_rate=0.05, momentum=0.9, weight_decay=0.1),
        TrainSettings(local_epochs=3, batch_size=8, learning_rate=0.05, proximal_mu=2.0),
        TrainSettings(batch_size=8, learning_rate=0.5, extra={CLIP_KEY: 0.05}),
        TrainSettings(batch_size=8, learning_rate=0.01, weight_decay=0.1, extra={"adam": 1.0, CLIP_KEY: 0.1}),
        TrainSettings(batch_size=8, learning_rate=0.01, weight_decay=0.1, extra={"adam": 1.0, "adam_decoupled": 1.0}),
    ],
)
def test_a_whole_step_obeys_the_settings_as_ours_does(settings: TrainSettings) -> None:
    ours, plain = trained(task_of(step=whole_step), settings), trained(task_of(), settings)
    assert same(ours.parameters, plain.parameters, 1e-5)
    assert ours.metrics["loss"] == pytest.approx(plain.metrics["loss"], abs=1e-6)


def test_an_optimizer_of_ones_own_is_made_of_the_module_and_the_settings_of_each_round() -> None:
    made = list[float]()

    def optimizer(module: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
        made.append(settings.learning_rate)
        head = list(module[2].parameters())  # type: ignore[index]
        body = list(module[0].parameters())  # type: ignore[index]
        groups = [{"params": head, "lr": settings.learning_rate}, {"params": body, "lr": 0.0}]
        return torch.optim.RMSprop(groups, alpha=0.5)

    task = task_of(optimizer=optimizer)
    initial = task.initial_parameters(1)
    result = trained(task)
    np.testing.assert_array_equal(result.parameters["0.weight"], initial["0.weight"])
    assert (result.parameters["2.weight"] != initial["2.weight"]).all()
    assert made == [0.05]
    prepare(task)
    check_task(task)


def test_several_optimizers_train_several_parts() -> None:
    def optimizers(module: Any, settings: TrainSettings) -> dict[str, torch.optim.Optimizer]:
        rate = settings.learning_rate
        return {
            "body": torch.optim.SGD(module[0].parameters(), lr=rate),
            "head": torch.optim.SGD(module[2].parameters(), lr=rate),
        }

    def step(module: nn.Module, batch: Any, made: dict[str, torch.optim.Optimizer]) -> float:
        loss = cross_entropy(module(batch[0]), batch[1])
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in made.values():
            optimizer.step()
            optimizer.zero_grad()
        return loss.item()

    ours = trained(task_of(optimizer=optimizers, step=step))
    assert same(ours.parameters, trained(task_of()).parameters)
    assert same(trained(task_of(optimizer=optimizers)).parameters, trained(task_of()).parameters)


def test_a_whole_step_may_scale_its_own_losses() -> None:
    def make(module: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
        scalers.append(torch.amp.GradScaler("cpu", init_scale=64.0))
        return torch.optim.SGD(module.parameters(), lr=settings.learning_rate)

    def step(module: nn.Module, batch: Any, optimizer: torch.optim.Optimizer) -> torch.Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(module(batch[0]), batch[1])
        scalers[-1].scale(loss).backward()
        scalers[-1].step(optimizer)
        scalers[-1].update()
        return loss

    scalers: list[Any] = []
    settings = TrainSettings(batch_size=8, learning_rate=0.5, extra={CLIP_KEY: 0.05})
    ours = trained(task_of(optimizer=make, step=step), settings)
    assert same(ours.parameters, trained(task_of(), settings).parameters, 1e-5)


def test_what_a_trial_step_moves_is_put_back() -> None:
    task = task_of(step=whole_step, optimizer=lambda module, _: torch.optim.SGD(module.parameters(), lr=100.0))
    model = task._training.model
    before = {name: array.copy() for name, array in model.dump().items()}
    prepare(task)
    for name, array in model.dump().items():
        np.testing.assert_array_equal(array, before[name])


class Replacing(nn.Module):
    """Puts a new parameter in the place of its own in each pass."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.inner.weight = nn.Parameter(self.inner.weight.detach().clone())
        output: torch.Tensor = self.inner(inputs)
        return output


def sgd(module: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=settings.learning_rate)


def no_step(module: nn.Module, batch: Any, optimizer: torch.optim.Optimizer) -> float:
    del optimizer
    return cross_entropy(module(batch[0]), batch[1]).item()


def with_closure(module: nn.Module, batch: Any, optimizer: torch.optim.Optimizer) -> Any:
    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(module(batch[0]), batch[1])
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    return optimizer.step(closure)  # type: ignore[arg-type]


PROXIMAL = TrainSettings(proximal_mu=0.1)


@pytest.mark.parametrize(
    ("changes", "settings", "words"),
    [
        ({"optimizer": lambda m, s: torch.optim.SGD(m[2].parameters(), lr=s.learning_rate)}, SETTINGS, "leaves out 0."),
        ({"optimizer": lambda _, s: torch.optim.SGD(net().parameters(), lr=s.learning_rate)}, SETTINGS, "none of the"),
        ({"optimizer": lambda _, __: "adam"}, SETTINGS, "must make a torch.optim.Optimizer, not str"),
        ({"optimizer": lambda _, __: ()}, SETTINGS, "made none"),
        ({"step": lambda _, __: None}, SETTINGS, "must return the loss, a tensor of one number, not NoneType"),
        ({"step": lambda m, b: m(b[0])}, SETTINGS, r"not Tensor\[8, 3\]"),
        ({"step": lambda _, __, ___: None}, SETTINGS, "must return the loss, not NoneType"),
        ({"step": whole_step}, TrainSettings(extra={MIXED_KEY: MIXED["bfloat16"]}), "must do this itself"),
        ({"step": no_step}, PROXIMAL, r"never called optimizer.step\(\)"),
        ({"step": with_closure}, PROXIMAL, "given a closure"),
        ({"model": Replacing, "optimizer": sgd}, SETTINGS, "inner.weight was replaced"),
        ({"model": Replacing, "step": whole_step}, SETTINGS, "inner.weight was replaced"),
    ],
)
def test_what_cannot_train_is_refused_with_the_reason(
    changes: dict[str, Any], settings: TrainSettings, words: str
) -> None:
    with pytest.raises(TaskError, match=words):
        trained(task_of(**changes), settings)


OTHER = net()


def on_another_module(_: nn.Module, batch: Any, optimizer: torch.optim.Optimizer) -> torch.Tensor:
    return whole_step(OTHER, batch, optimizer)


def gradients_put_away(module: nn.Module, batch: Any, optimizer: torch.optim.Optimizer) -> torch.Tensor:
    loss = cross_entropy(module(batch[0]), batch[1])
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.zero_grad()
    optimizer.step()
    return loss


def by_hand(module: nn.Module, batch: Any, _: torch.optim.Optimizer) -> torch.Tensor:
    module.zero_grad()
    loss = cross_entropy(module(batch[0]), batch[1])
    loss.backward()  # type: ignore[no-untyped-call]
    for each in module.parameters():
        assert each.grad is not None
        each.data -= 0.05 * each.grad
    return loss


@pytest.mark.parametrize("step", [on_another_module, gradients_put_away, lambda m, b, _: cross_entropy(m(b[0]), b[1])])
def test_a_step_that_moves_nothing_is_refused(step: Any) -> None:
    with pytest.raises(TaskError, match="has moved nothing"):
        trained(task_of(step=step))
    with pytest.raises(TaskError, match="has moved nothing"):
        check_task(task_of(step=step))


def test_a_step_that_needs_no_optimizer_trains_as_the_optimizer_does() -> None:
    assert same(trained(task_of(step=by_hand)).parameters, trained(task_of()).parameters)


def test_an_optimizer_of_an_earlier_round_is_refused() -> None:
    kept: list[torch.optim.Optimizer] = []

    def once(module: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
        kept[:] = kept or [torch.optim.SGD(module.parameters(), lr=settings.learning_rate, momentum=0.9)]
        return kept[0]

    task = task_of(optimizer=once)
    prepare(task)
    with pytest.raises(TaskError, match=r"the optimizer of an earlier round: make a new one.*optimizer_state to kept"):
        trained(task)


def test_a_closure_trains_where_nothing_is_added_to_its_gradients() -> None:
    lbfgs = task_of(
        step=with_closure, optimizer=lambda module, _: torch.optim.LBFGS(module.parameters(), lr=0.1, max_iter=10)
    )
    assert trained(lbfgs).metrics["loss"] < 0.9 * trained(task_of()).metrics["loss"]


def test_scaffold_refuses_an_optimizer_that_it_does_not_know() -> None:
    task = scaffolded(task_of(optimizer=sgd))
    settings = TrainSettings(batch_size=8, extra={NODES_KEY: 1.0})
    with pytest.raises(TaskError, match="SCAFFOLD is plain local SGD"):
        task.train(task.initial_parameters(1), settings, bool)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda module, _: torch.optim.AdamW(module.parameters(), lr=0.01, amsgrad=True),
        lambda module, _: torch.optim.Adagrad(module.parameters(), lr=0.05),
        lambda module, _: torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9, nesterov=True),
        lambda module, _: torch.optim.NAdam(module.parameters(), lr=0.01),
    ],
)
def test_the_state_of_an_own_optimizer_goes_on_as_if_it_were_never_put_away(
    optimizer: Callable[[nn.Module, TrainSettings], torch.optim.Optimizer],
) -> None:
    settings = TrainSettings(local_epochs=2, batch_size=0, extra={KEPT_KEY: 1.0})
    at_once = trained(task_of(optimizer=optimizer), TrainSettings(local_epochs=4, batch_size=0))
    task = task_of(optimizer=optimizer)
    first = trained(task, settings)
    task.restore({**first.kept, **first.pending})
    second = task.train(first.parameters, settings, bool)
    assert same(second.parameters, at_once.parameters, 1e-6)
    task.restore({})
    assert not same(task.train(first.parameters, settings, bool).parameters, at_once.parameters, 1e-6)


def test_a_state_that_cannot_be_stored_is_refused_where_it_is_to_be_kept() -> None:
    changes: dict[str, Any] = {
        "step": with_closure,
        "optimizer": lambda module, _: torch.optim.LBFGS(module.parameters(), lr=0.1, max_iter=2),
    }
    with pytest.raises(TaskError, match=r"train.optimizer_state: LBFGS keeps \w+ as list"):
        trained(task_of(**changes), TrainSettings(batch_size=8, extra={KEPT_KEY: 1.0}))


@pytest.mark.parametrize("changes", [{"step": whole_step}, {"optimizer": sgd}])
def test_a_pool_trains_each_node_with_it(changes: dict[str, Any]) -> None:
    def build(context: TaskContext) -> TorchTask:
        arguments: dict[str, Any] = {"model": net, "train_data": classes(), "loss": cross_entropy} | changes
        return TorchTask(context, **arguments)

    pool = NodePool(build, TaskContext(node_index=None, node_count=2, device="cpu"))
    base = pool.initial_parameters(1)
    found = {each.node: each for each in pool.train([Work(nodes=(0, 1), base=base, settings=SETTINGS)])}
    for node in (0, 1):
        alone = build(TaskContext(node_index=node, node_count=2, device="cpu")).train(base, SETTINGS, bool)
        for name, array in alone.parameters.items():
            np.testing.assert_array_equal(found[node].parameters[name], array)
