"""Reports of runs that never happened: as many nodes and versions as a picture shall hold."""

import json
import random
from pathlib import Path


def report(nodes: int, versions: int, *, seed: int = 0, evaluated: bool = True) -> dict[str, object]:
    """What `build_report` writes, with every kind of verdict in it."""
    rng = random.Random(seed)
    names = [f"node-{index}" for index in range(nodes)]
    statuses = [rng.choices(("applied", "stale", "refused"), (8, 1, 1))[0] for _ in range(nodes * versions)]
    senders = [names[index % nodes] for index in range(nodes * versions)]
    counted = {name: [status for node, status in zip(senders, statuses, strict=True) if node == name] for name in names}
    return {
        "rounds": [
            {
                "version": version,
                "accuracy": 1 - 0.9 / version if evaluated else None,
                "loss": 2.0 / version if evaluated else None,
                "wall_s": 1.5,
                "accepted": 3,
                "stale": 1,
                "refused": 0,
                "bytes_up": 1000,
                "bytes_down": 3000,
            }
            for version in range(1, versions + 1)
        ],
        "nodes_detail": [
            {"id": name} | {f"updates_{status}": had.count(status) for status in ("applied", "stale", "refused")}
            for name, had in counted.items()
        ],
        "updates": {
            "node": senders,
            "base_version": [index // nodes for index in range(nodes * versions)],
            "status": statuses,
            "version": [1 + index // nodes if status == "applied" else None for index, status in enumerate(statuses)],
            "staleness": [rng.randrange(3) for _ in senders],
            "loss": [2.0 / (1 + index // nodes) + rng.random() / 10 for index in range(nodes * versions)],
        },
        "news": [
            {"node": "node-0", "version": 1 + versions // 4, "what": "killed"},
            {"node": "node-0", "version": 1 + versions // 2, "what": "back"},
        ],
        "bytes_up_fp32": 60_000 * versions,
        "evaluations": {
            "node": senders,
            "version": [1 + index // nodes for index in range(nodes * versions)],
            "accuracy": [1 - 0.9 / (2 + index // nodes) - rng.random() / 20 for index in range(nodes * versions)],
        },
    }


def written(path: Path, content: object) -> Path:
    """A report as a file."""
    path.write_text(json.dumps(content))
    return path
