"""PEFT's adapters (LoRA and others) on a Hugging Face transformer as a task: only the adapters travel.

```python
import torch
from federation.tasks.adapters.lora import lora_task
from peft import LoraConfig, TaskType
from transformers import AutoModelForCausalLM

def build(context):
    config = LoraConfig(task_type=TaskType.CAUSAL_LM, r=8)
    base = lambda: AutoModelForCausalLM.from_pretrained(context.data / "base")
    return lora_task(context, base=base, config=config, data=lambda: torch.load(context.data / "texts.pt"))
```

The base is frozen by PEFT, so it never travels; the manifest has its digest, and a node with another base declines.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from federation.errors import TaskError
from federation.task import Parameters, TaskContext
from federation.tasks.training.torch_task import TorchTask
from federation.tasks.training.vision_compat import declare_missing_operators

# transformers imports torchvision where it finds it.
declare_missing_operators()

from peft import PeftConfig, PeftModel, get_peft_model  # noqa: E402 - see above
from transformers import PreTrainedModel  # noqa: E402 - see above

__all__ = ["lora_task", "tuned"]


def lora_task(
    context: TaskContext,
    *,
    base: Callable[[], PreTrainedModel],
    config: PeftConfig,
    data: Any,
    test_data: Any = None,
    options: Mapping[str, Any] | None = None,
) -> TorchTask:
    """A task that trains adapters.

    Args:
        context: What the factory was given.
        base: Makes or loads the base model: the same values on every node, such as from a folder that all have.
        config: PEFT's, such as ``LoraConfig(task_type=..., r=8)``.
        data: Batches as the model takes them: a dict of arrays of one length with ``input_ids`` and ``labels`` (and
            ``attention_mask`` where there is padding), of the whole federation; or a function that gives this node's
            own, the same or an iterable of such batches.
        test_data: The same kinds; None evaluates nothing.
        options: Further fields of `TorchTask`, such as ``metrics``, ``threads``, or a ``loss`` of (output, batch).
    """
    fields: dict[str, Any] = {"loss": _own_loss, "accuracy": False, **(options or {})}
    return TorchTask(
        context, model=lambda: get_peft_model(base(), config), train_data=data, test_data=test_data, **fields
    )


def tuned(base: Callable[[], PreTrainedModel], config: PeftConfig, arrays: Parameters) -> PeftModel:
    """The model with trained adapters, for PEFT to merge (``merge_and_unload``) or save (``save_pretrained``).

    Args:
        base: As for `lora_task`.
        config: As for `lora_task`.
        arrays: What was trained, by name: the content of an exported ``.safetensors`` file.

    Raises:
        TaskError: An array is not the model's, or one of its adapters is missing.
    """
    model = get_peft_model(base(), config)
    wanted = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    different = sorted((wanted - arrays.keys()) | (arrays.keys() - model.state_dict().keys()))
    if different:
        raise TaskError(f"these arrays are not those of the adapters: {', '.join(different[:4])}")
    model.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()}, strict=False)
    return model.eval()


def _own_loss(output: Any, batch: Any) -> torch.Tensor:
    """The model's own, which it has where the batch has labels."""
    loss: torch.Tensor | None = getattr(output, "loss", None)
    if loss is None:
        raise TaskError(
            f"the batch has no 'labels', only {', '.join(batch)}: add them, or give a loss of (output, batch)"
        )
    return loss
