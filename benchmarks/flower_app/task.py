"""flower_app: a model, its data, its training and its test, as Flower's PyTorch template has them."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - as in the template
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    """A small network with BatchNorm: statistics and a counter travel, too."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(64, 32)
        self.norm = nn.BatchNorm1d(32)
        self.fc2 = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The scores of the classes."""
        made: torch.Tensor = self.fc2(F.relu(self.norm(self.fc1(x))))
        return made


def load_data(partition_id: int, num_partitions: int) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """The part of one node, for training and for the test."""
    x, y = load_digits(return_X_y=True)
    rows = torch.arange(partition_id, len(y), num_partitions)
    part = TensorDataset(torch.tensor(x / 16).float()[rows], torch.tensor(y).long()[rows])
    train, test = (
        torch.utils.data.Subset(part, range(len(part) - 60)),
        torch.utils.data.Subset(part, range(len(part) - 60, len(part))),
    )
    return DataLoader(train, batch_size=32, shuffle=True), DataLoader(test, batch_size=32)


def train(net: nn.Module, trainloader: Iterable[Any], epochs: int, lr: float, device: torch.device) -> float:
    """Train the model on the training set."""
    net.to(device)
    criterion = torch.nn.CrossEntropyLoss().to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    net.train()
    running_loss, steps = 0.0, 0
    for _ in range(epochs):
        for images, labels in trainloader:
            optimizer.zero_grad()
            loss = criterion(net(images.to(device)), labels.to(device))
            loss.backward()
            optimizer.step()
            running_loss, steps = running_loss + loss.item(), steps + 1
    return running_loss / steps


def test(net: nn.Module, testloader: DataLoader[Any], device: torch.device) -> tuple[float, float]:
    """Validate the model on the test set."""
    net.to(device)
    net.eval()
    criterion = torch.nn.CrossEntropyLoss()
    correct, loss = 0, 0.0
    with torch.no_grad():
        for images, labels in testloader:
            outputs = net(images.to(device))
            loss += criterion(outputs, labels.to(device)).item()
            correct += int((torch.max(outputs.data, 1)[1] == labels.to(device)).sum())
    return loss / len(testloader), correct / len(testloader.dataset)  # type: ignore[arg-type]
