"""flower_app: the same client in its older form, a `NumPyClient`."""

from collections import OrderedDict
from typing import Any

import torch
from flwr.app import Context
from flwr.client import Client, NumPyClient

from .task import Net, load_data, test, train


def get_weights(net: torch.nn.Module) -> list[Any]:
    """The model's arrays."""
    return [val.cpu().numpy() for _, val in net.state_dict().items()]


def set_weights(net: torch.nn.Module, parameters: list[Any]) -> None:
    """Put them into the model."""
    params_dict = zip(net.state_dict().keys(), parameters, strict=True)
    net.load_state_dict(OrderedDict({k: torch.tensor(v) for k, v in params_dict}), strict=True)


class FlowerClient(NumPyClient):  # type: ignore[misc]
    """Flower's quickstart client, which counts its rounds in its context."""

    def __init__(self, context: Context) -> None:
        self.net, self.context = Net(), context
        index, count = context.node_config["partition-id"], context.node_config["num-partitions"]
        self.trainloader, self.valloader = load_data(index, count)

    def get_parameters(self, config: dict[str, Any]) -> list[Any]:  # noqa: ARG002 - Flower's signature
        """The model as it is made."""
        return get_weights(self.net)

    def fit(self, parameters: list[Any], config: dict[str, Any]) -> tuple[list[Any], int, dict[str, Any]]:
        """One round."""
        set_weights(self.net, parameters)
        loss = train(self.net, self.trainloader, 1, config["lr"], torch.device("cpu"))
        return get_weights(self.net), len(self.trainloader.dataset), {"train_loss": loss}  # type: ignore[arg-type]

    def evaluate(self, parameters: list[Any], config: dict[str, Any]) -> tuple[float, int, dict[str, Any]]:  # noqa: ARG002 - as above
        """Loss and accuracy."""
        set_weights(self.net, parameters)
        loss, accuracy = test(self.net, self.valloader, torch.device("cpu"))
        return loss, len(self.valloader.dataset), {"accuracy": accuracy}  # type: ignore[arg-type]


def client_fn(context: Context) -> Client:
    """A client for this node."""
    return FlowerClient(context).to_client()
