"""What a federated fine-tuning leaves answers as its last round did, and is known by its card."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from loopback import make_workspace
from served import federated

from confrere_common.config import Run
from confrere_common.errors import CheckpointError, ConfigError
from confrere_common.finetune import Finetune
from confrere_common.model import build_model, input_of, shared_weights
from confrere_common.network import NETWORK, load_task
from confrere_common.task import FineTask
from confrere_server.record import RoundRecord, SiteRecord
from confrere_server.runs.publish import publish
from confrere_server.runs.queue import submit
from confrere_server.store import ServerState


def tuned(**section: Any) -> Run:
    section = {"classes": ("a", "b"), "evaluation": None, **section}
    return replace(federated(rounds=1), stage="finetune", finetune=Finetune(**section))


def published(folder: Path, run: Run, seed: int = 0) -> Path:
    workspace = make_workspace(folder)
    left = submit(workspace.runs, run)
    site = SiteRecord(site="north", images=9, metrics={"loss": 0.5})
    record = RoundRecord(round=1, sites=(site,), bytes_up=1, bytes_down=1, seconds=1.0, void="")
    weights = shared_weights(build_model(run, seed))
    publish(workspace, left, ServerState(round=1, weights=weights, step={}, records=(record,)), {})
    return left.path


def test_the_network_of_a_federation_answers(tmp_path: Path) -> None:
    run = tuned()
    task = build_model(run, 3)
    assert isinstance(task, FineTask)

    network = load_task(published(tmp_path, run, seed=3))

    channels, size = input_of(run)
    images = torch.randn(2, channels, *size)
    with torch.inference_mode():
        assert torch.equal(network.task.predict(images), task.eval().predict(images))
    assert network.task.classes == ("a", "b")


def test_that_of_another_run_is_refused(tmp_path: Path) -> None:
    one, other = (published(tmp_path / f"{n}", tuned(), seed=n) for n in (0, 1))

    (one / NETWORK).write_bytes((other / NETWORK).read_bytes())

    with pytest.raises(CheckpointError, match=r"is not the file that encoder\.json describes"):
        load_task(one)


def test_heads_that_stay_at_their_sites_leave_no_network(tmp_path: Path) -> None:
    folder = published(tmp_path, tuned(head="local"))

    assert not (folder / NETWORK).exists()
    with pytest.raises(ConfigError, match="kept it at each site"):
        load_task(folder)
