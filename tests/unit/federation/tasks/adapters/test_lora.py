"""LoRA: only the adapters travel, and they become those of plain PEFT."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = [pytest.mark.frameworks, pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore")]
if find_spec("peft") is None or find_spec("transformers") is None:
    pytest.skip("PEFT is not installed: make test-frameworks", allow_module_level=True)

import torch  # noqa: E402
from safetensors.numpy import load_file, save_file  # noqa: E402

from edge_node.training.adoption import manifest_of  # noqa: E402
from federation.errors import TaskError  # noqa: E402
from federation.protocol.messages import TrainSettings  # noqa: E402
from federation.task import TaskContext  # noqa: E402
from federation.tasks.adapters.lora import lora_task, tuned  # noqa: E402
from federation.tasks.check import check_task  # noqa: E402
from federation.tasks.registry import load_task  # noqa: E402
from tests.rigs.lora_app import adapters, build, load_base, make_base, sequences  # noqa: E402
from tests.rigs.simulated_task import code_block, train_simulated  # noqa: E402
from update_codec import CodecSpec, Manifest, encode  # noqa: E402

# isort: split
# After the adapter, which makes them importable beside a CPU build of torch.
from peft import PeftModel, get_peft_model  # noqa: E402

PAGE = Path(__file__).parents[5] / "docs" / "how-to" / "lora.md"
TASK = "tests.rigs.lora_app:build"
PASSES, RATE = 40, 0.3


@pytest.fixture(scope="module", name="base")
def _base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    make_base(folder)
    return folder


def context(base: Path, index: int | None = 0) -> TaskContext:
    return TaskContext(node_index=index, node_count=3, data=base)


def tensors(step: int, count: int, seed: int) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(rows) for name, rows in sequences(step, count, seed).items()}


def loss_of_plain_peft(base: Path) -> float:
    """All rows in one place, the same passes, PEFT and torch alone."""
    torch.manual_seed(0)
    model = get_peft_model(load_base(base), adapters())
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=RATE)
    data = tensors(5, 960, 2)
    for _ in range(PASSES):
        for rows in torch.randperm(960).view(60, 16):
            optimizer.zero_grad()
            model(**{name: each[rows] for name, each in data.items()}).loss.backward()
            optimizer.step()
    with torch.no_grad():
        return float(model(**tensors(5, 256, 3)).loss)


def test_with_the_same_passes_the_loss_is_that_of_plain_peft(base: Path) -> None:
    arrays, result = train_simulated(TASK, nodes=2, rounds=PASSES // 2, data=base, settings=("train.local_epochs=2",))
    first, last = result.versions[0].metrics["loss"], result.versions[-1].metrics["loss"]
    assert last < first / 1.5
    assert last == pytest.approx(loss_of_plain_peft(base), rel=0.02)
    model = tuned(lambda: load_base(base), adapters(), adapters_of(arrays))
    with torch.no_grad():
        assert float(model(**tensors(5, 256, 3)).loss) == pytest.approx(last, rel=1e-4)


def adapters_of(arrays: Any) -> dict[str, Any]:
    return {name: array for name, array in arrays.items() if "lora_" in name}


@pytest.mark.parametrize("codec", ["lossless", "edge", "eden1"])
def test_an_update_has_the_bytes_of_the_adapters_alone(base: Path, codec: str) -> None:
    arrays, result = train_simulated(TASK, nodes=3, rounds=1, data=base, codec=codec)
    task = build(context(base))
    initial: dict[str, Any] = dict(task.initial_parameters(0))
    trained = task.train(initial, TrainSettings(learning_rate=RATE, batch_size=16), bool).parameters
    alone = {name: np.subtract(trained[name], initial[name]) for name in adapters_of(initial)}
    manifest = Manifest.of(alone)
    alone_frame = encode(manifest.flatten(alone), manifest, CodecSpec.parse(codec), seed=1).frame
    per_update = result.payload_bytes / sum(result.verdicts.values())
    assert per_update <= 1.1 * len(alone_frame)
    assert arrays.keys() == alone.keys()
    assert sum(array.size for array in initial.values()) > 4 * sum(array.size for array in alone.values())


def test_a_node_with_another_base_describes_another_model(base: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    other = load_base(base)
    with torch.no_grad():
        other.transformer.h[0].mlp.c_fc.weight[0, 0] += 1e-6
    other.save_pretrained(tmp_path)
    here, same, there = (manifest_of(build(context(folder))) for folder in (base, base, tmp_path))
    assert here.digest == same.digest != there.digest
    assert any("c_fc" in name for name in there.constants)
    assert not any("lora" in name for name in there.constants)


def test_the_task_keeps_the_contract_and_the_arrays_are_pefts(base: Path, tmp_path: Path) -> None:
    task = build(context(base))
    check_task(task)
    arrays = task.train(task.initial_parameters(0), TrainSettings(max_steps=3, learning_rate=RATE), bool).parameters
    save_file({name: np.array(each) for name, each in adapters_of(arrays).items()}, tmp_path / "adapters.safetensors")
    model = tuned(lambda: load_base(base), adapters(), load_file(tmp_path / "adapters.safetensors"))
    model.save_pretrained(tmp_path / "mine")
    again = PeftModel.from_pretrained(load_base(base), tmp_path / "mine").eval()
    rows = tensors(5, 8, 9)
    with torch.no_grad():
        torch.testing.assert_close(again(**rows).logits, model(**rows).logits)
        assert not torch.equal(load_base(base).eval()(**rows).logits, model(**rows).logits)


def test_arrays_and_batches_that_do_not_fit_are_refused(base: Path) -> None:
    with pytest.raises(TaskError, match="not those of the adapters"):
        tuned(lambda: load_base(base), adapters(), {"w": np.zeros(3, np.float32)})
    rows = sequences(5, 8, 1)["input_ids"]
    task = lora_task(context(base), base=lambda: load_base(base), config=adapters(), data={"input_ids": rows})
    with pytest.raises(TaskError, match="no 'labels'"):
        task.prepare()


def test_the_pages_example_has_ten_lines_and_trains(tmp_path: Path) -> None:
    file, code = tmp_path / "my_task.py", code_block(PAGE, "GPT2Config")
    file.write_text(code)
    assert len(code.strip().splitlines()) <= 10
    node = load_task(str(file))(TaskContext(node_index=0, node_count=8))
    check_task(node)
