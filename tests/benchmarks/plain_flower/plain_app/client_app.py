"""A client that reads the weights, trains nothing, and answers random ones."""

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:  # noqa: ARG001
    random = np.random.default_rng(1)
    weights = {name: array.numpy() for name, array in message.content["arrays"].items()}
    trained = {name: random.random(w.shape, np.float32) * 1e-3 for name, w in weights.items()}
    del weights
    arrays = ArrayRecord({name: Array(value) for name, value in trained.items()})
    metrics = MetricRecord({"num-examples": 24})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)
