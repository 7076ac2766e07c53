"""A small transformer from a configuration, sequences that it learns, and PEFT's adapters for it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from federation.protocol.messages import TrainSettings
from federation.task import TaskContext
from federation.tasks.adapters.lora import lora_task
from federation.tasks.training.torch_task import TorchTask

# isort: split
from peft import LoraConfig, TaskType
from transformers import GPT2Config, GPT2LMHeadModel

DEFAULT_SETTINGS = TrainSettings(local_epochs=1, batch_size=16, learning_rate=0.3)
WORDS = 32


def sequences(step: int, count: int, seed: int) -> dict[str, Any]:
    """Numbers that go up by the step or one more, as a coin says: the loss stays near ln 2. Shape (count, 12)."""
    rng = np.random.default_rng(seed)
    starts, ups = rng.integers(0, WORDS, (count, 1)), step + rng.integers(0, 2, (count, 11))
    rows = np.concatenate([starts, starts + np.cumsum(ups, axis=1)], axis=1) % WORDS
    return {"input_ids": rows, "labels": rows}


def fresh_base() -> GPT2LMHeadModel:
    """A transformer that has learned nothing."""
    torch.manual_seed(3)
    sizes = {"vocab_size": WORDS, "n_positions": 16, "n_embd": 48, "n_layer": 2, "n_head": 2}
    off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(**sizes, **off))


def make_base(folder: Path, steps: int = 150) -> None:
    """A base that knows the steps 1 and 2, as Hugging Face saves it."""
    model, batch = fresh_base(), {name: torch.tensor(rows) for name, rows in sequences(1, 256, 1).items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    model.save_pretrained(folder)


def load_base(folder: Path) -> GPT2LMHeadModel:
    """What `make_base` saved."""
    return GPT2LMHeadModel.from_pretrained(folder)


def adapters() -> LoraConfig:
    """Rank 8 on all layers."""
    return LoraConfig(
        task_type=TaskType.CAUSAL_LM, r=8, target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True
    )


def build(context: TaskContext) -> TorchTask:
    """The steps 5 and 6, which the base does not know."""
    assert context.data is not None
    folder = context.data
    return lora_task(
        context,
        base=lambda: load_base(folder),
        config=adapters(),
        data=sequences(5, 960, 2),
        test_data=sequences(5, 256, 3),
    )
