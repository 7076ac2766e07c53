"""Flower's own server loops and FedAvg, with its clients called in this process: what fedmq is compared with."""

import functools
import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.client import Client
from flwr.clientapp import ClientApp
from flwr.common import FitIns, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server import Server, SimpleClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.server.strategy import FedAvg as OldFedAvg
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity

Seeds = Callable[[int, int], int]
"""From a round (the first is 1) and a node (the first is 0) to the seed that its training draws from."""


def context_of(index: int, count: int, run_config: Mapping[str, Any]) -> Context:
    """The context of one node."""
    return Context(1, index + 1, {"partition-id": index, "num-partitions": count}, RecordDict(), dict(run_config))


def seed_all(seed: int) -> None:
    """What a client may draw from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - what clients use
    torch.manual_seed(seed)


class InProcessGrid(Grid):  # type: ignore[misc]
    """Hands each message to the app, at once."""

    def __init__(self, app: ClientApp, contexts: list[Context], seeds: Seeds) -> None:
        self._app, self._contexts, self._seeds = app, contexts, seeds
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 0

    def set_run(self, run: Any) -> None:
        """There is one run."""

    @property
    def run(self) -> Any:
        """There is one run."""
        raise NotImplementedError

    def create_message(self, *args: Any, **more: Any) -> Message:
        """Apps of today make messages themselves."""
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        """All nodes are there."""
        return range(1, len(self._contexts) + 1)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Strategies send and receive in one."""
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """As above."""
        raise NotImplementedError

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """The replies."""
        replies = []
        for message in messages:
            node = message.metadata.dst_node_id - 1
            seed_all(self._seeds(message.content["config"]["server-round"], node))
            replies.append(self._app(message, self._contexts[node]))
        return replies


def flower_average(
    app: ClientApp, initial: Mapping[str, Any], *, nodes: int, rounds: int, config: Mapping[str, Any], seeds: Seeds
) -> dict[str, Any]:
    """Flower's FedAvg of today over an app: the arrays after the last round."""
    contexts = [context_of(index, nodes, {"local-epochs": 1}) for index in range(nodes)]
    strategy = FedAvg(fraction_evaluate=0.0, min_available_nodes=nodes)
    result = strategy.start(
        grid=InProcessGrid(app, contexts, seeds),
        initial_arrays=ArrayRecord({name: _array(value) for name, value in initial.items()}),
        num_rounds=rounds,
        train_config=ConfigRecord(dict(config)),
    )
    return {name: array.numpy() for name, array in result.arrays.items()}


def _array(value: Any) -> Any:
    from flwr.app import Array

    return Array(np.asarray(value))


class DirectProxy(ClientProxy):  # type: ignore[misc]
    """Calls one client of the older kind."""

    def __init__(self, index: int, made: Callable[[], Client], seeds: Seeds) -> None:
        super().__init__(str(index))
        self._index, self._made, self._seeds = index, made, seeds

    def fit(self, ins: FitIns, timeout: float | None, group_id: int | None) -> Any:
        """Train now."""
        seed_all(self._seeds(ins.config["server_round"], self._index))
        return self._made().fit(ins)

    def get_properties(self, ins: Any, timeout: float | None, group_id: int | None) -> Any:
        """Not asked."""
        raise NotImplementedError

    def get_parameters(self, ins: Any, timeout: float | None, group_id: int | None) -> Any:
        """Not asked: the initial parameters are given."""
        raise NotImplementedError

    def evaluate(self, ins: Any, timeout: float | None, group_id: int | None) -> Any:
        """Not asked."""
        raise NotImplementedError

    def reconnect(self, ins: Any, timeout: float | None, group_id: int | None) -> Any:
        """Not asked."""
        raise NotImplementedError


def flower_average_of_old_clients(
    client_fn: Callable[[Context], Client], initial: list[Any], *, nodes: int, rounds: int, lr: float, seeds: Seeds
) -> list[Any]:
    """Flower's older server and FedAvg over clients: the arrays after the last round."""
    manager = SimpleClientManager()
    for index in range(nodes):
        context = context_of(index, nodes, {})
        manager.register(DirectProxy(index, functools.partial(client_fn, context), seeds))
    strategy = OldFedAvg(
        fraction_evaluate=0.0,
        min_fit_clients=nodes,
        min_available_clients=nodes,
        initial_parameters=ndarrays_to_parameters(initial),
        on_fit_config_fn=lambda number: {"server_round": number, "lr": lr},
    )
    server = Server(client_manager=manager, strategy=strategy)
    server.set_max_workers(1)
    server.fit(num_rounds=rounds, timeout=None)
    found: list[Any] = parameters_to_ndarrays(server.parameters)
    return found
