"""What a finished run leaves: an encoder that loads, and a seal over every file."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from loopback import make_workspace
from served import federated

from confrere_common.augment.pipeline import PREPROCESSING
from confrere_common.code import code_digest
from confrere_common.errors import CheckpointError
from confrere_common.model import build_model, encoder_weights, shared_weights
from confrere_common.preparation import Preparation
from confrere_common.release import load_release
from confrere_server.membership.seal import unseal
from confrere_server.membership.workspace import Workspace
from confrere_server.record import RoundRecord, SiteRecord
from confrere_server.runs.publish import ENCODER, publish
from confrere_server.runs.queue import Folder, submit
from confrere_server.store import ServerState

HEADS = {"north": (12, "ab" * 32)}


def record(number: int, *sites: SiteRecord) -> RoundRecord:
    return RoundRecord(round=number, sites=sites, bytes_up=10, bytes_down=20, seconds=1.0, void="")


@dataclass
class Published:
    workspace: Workspace
    folder: Folder
    state: ServerState

    @property
    def release(self) -> dict[str, object]:
        content = (self.folder.path / "release.json").read_bytes()
        return unseal("release", content, self.workspace.signing_key().public_key())


@pytest.fixture
def published(tmp_path: Path) -> Published:
    workspace = make_workspace(tmp_path / "study")
    run = federated()
    folder = submit(workspace.runs, run)
    records = (
        record(1, SiteRecord(site="north", images=9), SiteRecord(site="south", images=5)),
        record(2, SiteRecord(site="north", images=9), SiteRecord(site="south", refused="paused")),
    )
    weights = shared_weights(build_model(run, 0))
    state = ServerState(round=2, weights=weights, step={}, records=records)
    publish(workspace, folder, state, HEADS)
    return Published(workspace, folder, state)


def test_the_encoder_loads_and_is_the_runs(published: Published) -> None:
    encoder, card = load_release(published.folder.path / ENCODER)

    due = encoder_weights(published.state.weights)
    assert all(torch.equal(encoder.state_dict()[name], tensor) for name, tensor in due.items())
    assert card.training["run"] == published.folder.order.id
    assert card.training["digest"] == published.folder.order.digest


def test_the_release_names_what_made_it(published: Published) -> None:
    release = published.release

    assert release["study"] == "eyes"
    assert release["code"] == code_digest()
    assert (release["rounds"], release["method"]) == (2, "simmim")
    assert release["sites"] == [
        {"site": "north", "images": 9, "rounds": 2},
        {"site": "south", "images": 5, "rounds": 1},
    ]
    assert release["heads"] == {"north": {"length": 12, "head": "ab" * 32}}
    length, head = published.workspace.chain().head()
    assert release["server_head"] == {"length": length, "head": head}


def test_every_file_stands_in_the_seal(published: Published) -> None:
    files = published.release["files"]
    assert isinstance(files, dict)
    for name, digest in files.items():
        content = (published.folder.path / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest
    assert files.keys() == {ENCODER, "encoder.json", "rounds.json"}
    rounds = json.loads((published.folder.path / "rounds.json").read_text())
    assert [one["round"] for one in rounds] == [1, 2]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"images": 9', '"images": 90'),
        lambda text: text.replace('"eyes"', '"ears"'),
        lambda text: text.replace("ab", "cd", 1),
    ],
)
def test_a_changed_release_is_noticed(published: Published, change: Callable[[str], str]) -> None:
    path = published.folder.path / "release.json"
    changed = change(path.read_text())
    assert changed != path.read_text()
    path.write_text(changed)

    with pytest.raises(CheckpointError, match="not as the server wrote it"):
        _ = published.release


def test_publishing_twice_leaves_the_same(published: Published) -> None:
    before = (published.folder.path / ENCODER).read_bytes()

    publish(published.workspace, published.folder, published.state, HEADS)

    assert (published.folder.path / ENCODER).read_bytes() == before
    assert published.release["rounds"] == 2


def test_a_card_tells_the_preparation_that_the_run_demanded_of_every_site(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "study")
    run = federated()
    wanted = Preparation(ct_windows=("lung",), spacing_mm=(2.0, 1.0, 1.0))
    asking = replace(run, data=replace(run.data, preparation=wanted))
    cards = []
    for one in (run, asking):
        folder = submit(workspace.runs, one)
        weights = shared_weights(build_model(one, 0))
        records = (record(1, SiteRecord(site="north", images=9)),)
        publish(
            workspace,
            folder,
            ServerState(round=1, weights=weights, step={}, records=records),
            HEADS,
        )
        cards.append(load_release(folder.path / ENCODER)[1])

    silent, told = (card.preprocessing for card in cards)

    assert silent == PREPROCESSING
    assert told["prepared"]["spacing_mm"] == [2.0, 1.0, 1.0]
    assert told["prepared"]["hu_windows"] == {"lung": {"centre": -600.0, "width": 1500.0}}
    assert told["prepared"]["demanded"] == "by the run, of every site"
