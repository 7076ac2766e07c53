"""Job J3r: torchvision's ResNet-18, 11,689,512 parameters, on a few random images.

coordinator demo --task benchmarks/jobs/resnet18.py --nodes 2 --rounds 1 --no-chaos
"""

import torch

from federation.protocol.messages import TrainSettings
from federation.task import TaskContext
from federation.tasks import TorchTask
from federation.tasks.training.vision_compat import import_torchvision

DEFAULT_SETTINGS = TrainSettings(local_epochs=1, batch_size=4, learning_rate=0.01)
DEFAULT_ROUNDS = 1

IMAGES = 16
SIDE = 64


def build(context: TaskContext) -> TorchTask:
    """The task's factory."""
    rng = torch.Generator().manual_seed(1)
    images = torch.randn(IMAGES, 3, SIDE, SIDE, generator=rng)
    labels = torch.randint(0, 1000, (IMAGES,), generator=rng)
    return TorchTask(
        context,
        model=network,
        train_data=(images, labels),
        test_data=(images[:4], labels[:4]),
        loss=torch.nn.functional.cross_entropy,
    )


def network() -> torch.nn.Module:
    """ResNet-18 with random weights."""
    made: torch.nn.Module = import_torchvision().models.resnet18(weights=None)
    return made
