"""The two models of the figures: J1's MLP with tanh, and the small CNN of Papernot et al. (arXiv 2007.14191)."""

from torch import nn

__all__ = ["mlp", "tanh_cnn"]


def mlp() -> nn.Module:
    """784-128-64-10, 109,386 parameters."""
    return nn.Sequential(nn.Linear(784, 128), nn.Tanh(), nn.Linear(128, 64), nn.Tanh(), nn.Linear(64, 10))


def tanh_cnn() -> nn.Module:
    """Two convolutions, 26,010 parameters; takes rows of 784 numbers."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        nn.Conv2d(1, 16, 8, 2, 3),
        nn.Tanh(),
        nn.MaxPool2d(2, 1),
        nn.Conv2d(16, 32, 4, 2),
        nn.Tanh(),
        nn.MaxPool2d(2, 1),
        nn.Flatten(),
        nn.Linear(512, 32),
        nn.Tanh(),
        nn.Linear(32, 10),
    )
