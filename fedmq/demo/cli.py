"""``coordinator demo``: its options."""

from pathlib import Path
from typing import Annotated

import typer

from fedmq.demo.fork_server import warm


def demo(  # noqa: PLR0913, PLR0917 - one parameter per option of the command line
    task: Annotated[str, typer.Option(help="digits, mnist-mlp, mnist-logreg, or FILE.py:FUNCTION")] = "digits",
    nodes: Annotated[int, typer.Option(help="Edge-node processes to start.")] = 5,
    rounds: Annotated[int | None, typer.Option(help="Model versions to commit. Default: the task's.")] = None,
    buffer: Annotated[int | None, typer.Option(help="Updates that make a version; below --per-round: FedBuff.")] = None,
    per_round: Annotated[int | None, typer.Option(help="Nodes training at once; alone: synchronous FedAvg.")] = None,
    codec: Annotated[str, typer.Option(help="lossless, fine, balanced, edge, extreme, ...")] = "edge",
    codec_down: Annotated[
        str | None, typer.Option(help="Codec of the model that nodes pull. Default: what suits --codec.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Data folder. Default: bundled or downloaded.")] = None,
    broker: Annotated[str | None, typer.Option(help="mqtt://HOST:PORT of a running broker.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of partition, model, selection and shuffles.")] = 0,
    partition: Annotated[
        str | None, typer.Option(help="iid, shards:N, dirichlet:ALPHA or natural. Default: the task's own.")
    ] = None,
    strategy: Annotated[str | None, typer.Option(help="fedavg, fedavgm, scaffold, ... Default: fits.")] = None,
    selector: Annotated[str, typer.Option(help="uniform, fair, reliable, capable, repeatable.")] = "uniform",
    helpers: Annotated[
        int, typer.Option(help="Helpers of masked sums: nobody sees a single update; needs --per-round 8.")
    ] = 0,
    epsilon: Annotated[
        float | None, typer.Option(help="Budget of each node: the helpers add noise to the sums. Needs --helpers.")
    ] = None,
    gateways: Annotated[
        int, typer.Option(help="Sites with a broker and a gateway each; ends with the same without gateways.")
    ] = 0,
    levels: Annotated[
        int, typer.Option(help="Levels of coordinators: with 3 each gateway has two below it, with a broker each.")
    ] = 2,
    chaos: Annotated[bool, typer.Option(help="Kill one node in mid-training and start it again.")] = True,  # noqa: FBT002 - typer makes the flag of it
    report: Annotated[Path | None, typer.Option(help="Write the whole report as JSON.")] = None,
    keep: Annotated[
        Path | None, typer.Option(help="Keep the model and its history in this new folder: for export, plot, status.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON instead of tables.")] = False,  # noqa: FBT002
    plot: Annotated[Path | None, typer.Option(help="Draw the run: pictures (PNG, SVG) for this folder.")] = None,
) -> None:
    """Run a whole federation on this machine: Mosquitto, one coordinator process and N edge-node processes.

    It trains for real, kills one node with SIGKILL in mid-training, starts it again, and ends with a summary.

    \b
    Examples:
      coordinator demo
      coordinator demo --task mnist-mlp --nodes 10 --per-round 5 --codec balanced --report j1.json
      coordinator demo --gateways 2 --nodes 8 --codec lossless
      coordinator demo --gateways 2 --levels 3 --nodes 8 --codec lossless
      coordinator demo --task my_task.py:build --nodes 3 --no-chaos --keep mine
      coordinator export model.onnx --state mine --task my_task.py:build
    """  # noqa: D301 - \b keeps the line breaks in the help
    with warm(task) as server:
        # Beside what the server imports: together they take the longer of the two.
        from fedmq.demo.command import Outputs, run_demo  # noqa: PLC0415
        from fedmq.demo.plan import DemoOptions  # noqa: PLC0415

        options = DemoOptions(
            task=task,
            nodes=nodes,
            rounds=rounds,
            per_round=per_round,
            buffer=buffer,
            codec=codec,
            codec_down=codec_down,
            seed=seed,
            chaos=chaos,
            data=data,
            broker=broker,
            partition=partition,
            selector=selector,
            strategy=strategy,
            keep=keep,
            helpers=helpers,
            epsilon=epsilon,
            gateways=gateways,
            levels=levels,
        )
        run_demo(options, Outputs(report=report, as_json=as_json, plot=plot), server)
