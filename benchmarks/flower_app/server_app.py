"""flower_app: Flower's quickstart server, which writes how long its rounds took."""

import json
import time
from pathlib import Path

from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from .task import Net

app = ServerApp()


@app.main()  # type: ignore[untyped-decorator]
def main(grid: Grid, context: Context) -> None:
    """Plain averaging over all nodes."""
    config = context.run_config
    arrays = ArrayRecord(Net().state_dict())
    strategy = FedAvg(fraction_evaluate=0.0, min_available_nodes=config["nodes"], min_train_nodes=config["nodes"])
    began = time.perf_counter()
    strategy.start(
        grid=grid,
        initial_arrays=arrays,
        num_rounds=config["num-server-rounds"],
        train_config=ConfigRecord({"lr": 0.05}),
    )
    Path(config["result"]).write_text(json.dumps({"loop_s": time.perf_counter() - began}))
