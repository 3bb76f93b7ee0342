"""Flower's own FedAvg, which tells when each round ended."""

import json
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    told = context.run_config
    clients = int(told["clients"])
    shapes = json.loads(Path(str(told["shapes"])).read_text())
    arrays = {name: Array(np.zeros(shape, np.float32)) for name, shape in shapes.items()}
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=clients, min_available_nodes=clients)
    ends: list[float] = []

    def note(number: int, weights: ArrayRecord) -> None:  # noqa: ARG001
        ends.append(time.time())

    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(arrays),
        num_rounds=int(told["rounds"]),
        evaluate_fn=note,
    )
    done = len(result.train_metrics_clientapp)
    out = Path(str(told["out"]))
    part = out.with_suffix(".part")
    part.write_text(json.dumps({"ends": ends, "rounds": done}))
    part.replace(out)
