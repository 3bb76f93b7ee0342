"""``verify.verify``: "Guarantee: an exported release in which any file was altered, added or taken
away since it was signed gives CheckpointError."
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from loopback import make_workspace
from published import finished
from tiny_runs import ENCODERS
from typer.testing import CliRunner

from confrere_client.embed import load
from confrere_common.augment.pipeline import PREPROCESSING
from confrere_common.encoder import build_encoder
from confrere_common.errors import CheckpointError, ConfigError
from confrere_common.family import Named
from confrere_common.manifest import NAME
from confrere_common.pki.keys import public_pem
from confrere_common.release import DECODER, Card, load_decoder, load_release, save_release
from confrere_deploy.cli import app
from confrere_deploy.federation.fetching import fetch
from confrere_deploy.release.export import Wishes, export, results_in, signing_key
from confrere_deploy.release.verify import verify

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
FIGURE = {"mean": 0.8, "low": 0.75, "high": 0.86, "n": 3}


def simulated(folder: Path, **training: Any) -> Path:
    """Write what a simulation leaves: an encoder and its card, here without a report."""
    knobs = {key: value for key, value in ENCODERS["vit"].items() if key != "name"}
    card = Card(
        encoder=Named(name="vit", knobs=knobs), channels=3, size=(16, 16),
        preprocessing=PREPROCESSING,
        training={"method": "mae", "rounds": 2, "digest": "ab" * 32, **training},
    )  # fmt: skip
    torch.manual_seed(0)
    encoder = build_encoder(card.encoder, channels=3, size=(16, 16))
    save_release(folder / "encoder.safetensors", encoder.state_dict(), card)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    arms = {"federated": {"linear": {"auc": FIGURE}}, "random": {"knn": {"accuracy": FIGURE}}}
    sites = [{"site": "north", "images": 12, "patients": 7}, {"site": "south", "images": 30}]
    return simulated(tmp_path / "run", results=arms, sites=sites)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "exporter.pub"
    path.write_bytes(public_pem(KEY.public_key()))
    return path


def test_a_release_says_what_it_is_and_can_be_loaded(run: Path, key: Path, tmp_path: Path) -> None:
    out = tmp_path / "release"

    card = export(run, out, KEY, Wishes(intended="Telling moles apart."))

    assert json.loads((out / "card.json").read_text()) == card
    assert card["data"]["images"] == 42
    assert card["data"]["sites"][0] == {"site": "north", "images": 12, "patients": 7}
    assert card["floors"] == ["random"]
    assert card["provenance"]["run_digest"] == "ab" * 32
    assert verify(out, key).startswith("sound: release 'encoder'")
    embedder = load(out / "encoder.safetensors", key=key, device="cpu")
    assert torch.equal(
        embedder.encoder.state_dict()["norm.weight"],
        load_release(run / "encoder.safetensors")[0].state_dict()["norm.weight"],
    )


def test_a_decoder_is_released_with_its_encoder(run: Path, key: Path, tmp_path: Path) -> None:
    encoder, card = load_release(run / "encoder.safetensors")
    way_up = {"skips.0.weight": torch.ones(2, 3)}
    save_release(run / "encoder.safetensors", encoder.state_dict(), card, way_up)

    export(run, tmp_path / "release", KEY, Wishes())

    assert verify(tmp_path / "release", key).startswith("sound")
    found, _ = load_decoder(tmp_path / "release/encoder.safetensors")
    assert torch.equal(found["skips.0.weight"], torch.ones(2, 3))
    (run / DECODER).write_bytes(b"another")
    with pytest.raises(CheckpointError, match=r"is not the file that encoder\.json describes"):
        export(run, tmp_path / "other", KEY, Wishes())


def test_a_decoder_that_the_card_does_not_name_is_not_signed(run: Path, tmp_path: Path) -> None:
    (run / DECODER).write_bytes(b"of another run")

    export(run, tmp_path / "release", KEY, Wishes())

    assert not (tmp_path / "release" / DECODER).exists()


def test_the_card_reads_as_a_page(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "release", KEY, Wishes(results={"10 % labels": {"auc": FIGURE}}))

    page = (tmp_path / "release" / "card.md").read_text()

    for line in (
        "## Intended use",
        "| north | 12 | 7 |",
        "| random (a floor) | knn accuracy | 0.800 | 0.750 to 0.860 | 3 |",
        "| 10 % labels | auc | 0.800 | 0.750 to 0.860 | 3 |",
        "- asked: no differential privacy",
    ):
        assert line in page
    assert "not differentially private" in page
    assert "Nothing was measured" not in page


def test_what_privacy_cost_stands_by_site(tmp_path: Path) -> None:
    spent = {"epsilon": 3.2, "delta": 1e-5, "rate": 0.1}
    sites = [{"site": "north", "images": 3, "rounds": 4, "privacy": spent}]
    run = simulated(tmp_path / "run", sites=sites, privacy={"epsilon": 8.0})

    card = export(run, tmp_path / "release", KEY, Wishes())

    assert card["privacy"]["spends"] == [
        {"site": "north", "epsilon": 3.2, "delta": 1e-5, "rounds": 4}
    ]
    page = (tmp_path / "release" / "card.md").read_text()
    assert "| north | 3.2 | 1e-05 | 4 |" in page
    assert "not differentially private" not in page


def test_a_fine_tuned_run_shows_its_task_s_figures(tmp_path: Path) -> None:
    arms = {"warm": {"what": "warm start", "figures": {"balanced_accuracy": FIGURE}}}

    run = simulated(tmp_path / "run", results=arms, task="classification", start="cd" * 32)
    (run / "task.safetensors").write_bytes(b"the whole network")

    card = export(run, tmp_path / "out", KEY, Wishes())

    assert card["results"] == {"warm": {"balanced_accuracy": FIGURE}}
    assert card["method"]["task"] == "classification"
    assert card["provenance"]["parents"] == ["cd" * 32]
    assert (tmp_path / "out" / "task.safetensors").read_bytes() == b"the whole network"


def test_a_run_without_figures_says_so(tmp_path: Path) -> None:
    card = export(simulated(tmp_path / "run"), tmp_path / "release", KEY, Wishes())

    assert any("Nothing was measured" in limit for limit in card["limits"])
    assert "Nothing was measured." in (tmp_path / "release" / "card.md").read_text()


def test_names_from_elsewhere_cannot_draw_on_the_page(tmp_path: Path) -> None:
    sites = [{"site": "a | b\n# Owned <script> [x](http://y)", "images": 3}]
    export(simulated(tmp_path / "run", sites=sites), tmp_path / "release", KEY, Wishes())

    page = (tmp_path / "release" / "card.md").read_text()

    assert "| a / b # Owned &lt;script> (x)(http://y) | 3 |" in page


FILES = ("encoder.safetensors", "encoder.json", "card.json", "card.md", "provenance.json", NAME)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_was_altered_is_found(run: Path, key: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "release"
    export(run, out, KEY, Wishes())
    content = bytearray((out / name).read_bytes())

    content[len(content) // 2] ^= 1
    (out / name).write_bytes(content)

    with pytest.raises(CheckpointError):
        verify(out, key)
    with pytest.raises(CheckpointError):
        load(out / "encoder.safetensors", key=key)


def test_a_file_that_was_added_or_taken_away_is_found(run: Path, key: Path, tmp_path: Path) -> None:
    out = tmp_path / "release"
    export(run, out, KEY, Wishes())

    (out / "pickle.pt").touch()
    with pytest.raises(CheckpointError, match=r"holds what nobody signed: pickle\.pt"):
        verify(out, key)
    (out / "pickle.pt").unlink()
    (out / "card.md").unlink()
    with pytest.raises(CheckpointError, match=r"card\.md cannot be read"):
        verify(out, key)


def test_a_release_whose_manifest_was_taken_away_does_not_pass(
    run: Path, key: Path, tmp_path: Path
) -> None:
    out = tmp_path / "release"
    export(run, out, KEY, Wishes())

    (out / NAME).unlink()

    with pytest.raises(CheckpointError):
        verify(out, key)


def test_an_altered_run_is_not_exported(run: Path, tmp_path: Path) -> None:
    content = bytearray((run / "encoder.safetensors").read_bytes())
    content[-1] ^= 1
    (run / "encoder.safetensors").write_bytes(content)

    with pytest.raises(CheckpointError, match="is not the file that encoder"):
        export(run, tmp_path / "release", KEY, Wishes())
    assert not (tmp_path / "release").exists()


def test_only_a_release_is_replaced(run: Path, key: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "release", tmp_path / "thesis"
    other.mkdir()
    (other / "only-copy.txt").touch()

    export(run, out, KEY, Wishes())
    export(run, out, KEY, Wishes(intended="Something else."))

    assert "Something else." in (out / "card.md").read_text()
    verify(out, key)
    with pytest.raises(ConfigError, match="is no release"):
        export(run, other, KEY, Wishes())
    assert (other / "only-copy.txt").exists()


@pytest.mark.parametrize("content", ['{"version": 1}', '{"format": 2, "sha256": {}}', "", "[]"])
def test_a_data_set_or_a_checkpoint_is_no_release(run: Path, tmp_path: Path, content: str) -> None:
    out = tmp_path / "dataset"
    out.mkdir()
    (out / NAME).write_text(content)
    (out / "catalog.parquet").write_bytes(b"rows")

    with pytest.raises(ConfigError, match="is no release"):
        export(run, out, KEY, Wishes())

    assert (out / "catalog.parquet").read_bytes() == b"rows"
    assert (out / NAME).read_text() == content


def test_what_lies_beside_an_older_release_is_not_lost(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "release"
    export(run, out, KEY, Wishes())
    (out / "figures").mkdir()
    (out / "only-copy.txt").touch()

    with pytest.raises(ConfigError, match=r"holds more than a release \(figures, only-copy\.txt\)"):
        export(run, out, KEY, Wishes())

    assert (out / "only-copy.txt").exists()
    assert (out / "card.md").exists()


def fetched(folder: Path) -> Path:
    """Fetch the release of a federated run that is done."""
    workspace = make_workspace(folder / "study")
    fetch(workspace, finished(workspace), folder / "fetched")
    return folder / "fetched"


def test_a_federated_run_keeps_the_coordinator_s_seal(tmp_path: Path, key: Path) -> None:
    run, out = fetched(tmp_path), tmp_path / "release"

    card = export(run, out, KEY, Wishes())

    assert card["provenance"]["study"] == "eyes"
    assert card["provenance"]["audit_heads"] == {"north": {"length": 5, "head": "cd" * 32}}
    assert card["data"]["sites"][0]["site"] == "north"
    assert "the coordinator's seal is sound: run" in verify(out, key)
    assert verify(run, run / "coordinator.pub").startswith("sound: run")


def test_an_export_without_its_manifest_does_not_pass_for_a_fetched_run(tmp_path: Path) -> None:
    run, out = fetched(tmp_path), tmp_path / "release"
    coordinator = run / "coordinator.pub"
    export(run, out, KEY, Wishes())
    (out / NAME).unlink()
    (out / "card.md").write_text("# approved for diagnosis")

    with pytest.raises(CheckpointError, match=r"its manifest\.json is missing"):
        verify(out, coordinator)
    for name in ("exporter.pub", "card.json", "provenance.json"):
        (out / name).unlink()
    with pytest.raises(CheckpointError, match=r"holds what nobody sealed: card\.md\."):
        verify(out, coordinator)


def test_a_fetched_run_with_another_file_beside_it_does_not_pass(tmp_path: Path) -> None:
    run = fetched(tmp_path)

    (run / "encoder.pt2").write_bytes(b"evil")

    with pytest.raises(CheckpointError, match=r"holds what nobody sealed: encoder\.pt2\."):
        verify(run, run / "coordinator.pub")


def test_a_fetched_run_whose_words_were_changed_is_not_exported(tmp_path: Path) -> None:
    run = fetched(tmp_path)
    text = (run / "release.json").read_text()

    (run / "release.json").write_text(text.replace('"images": 9', '"images": 900'))

    with pytest.raises(CheckpointError, match="not as the server wrote it"):
        export(run, tmp_path / "release", KEY, Wishes())


def test_a_key_is_made_once_and_kept_from_others(tmp_path: Path) -> None:
    made, new = signing_key(tmp_path / "export.key")
    again, old = signing_key(tmp_path / "export.key")

    assert (new, old) == (True, False)
    assert made.private_bytes_raw() == again.private_bytes_raw()
    assert (tmp_path / "export.key").stat().st_mode & 0o077 == 0
    assert b"PUBLIC" in (tmp_path / "export.pub").read_bytes()


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"derm": 3}', '{"derm": {"auc": 0.8}}', '{"derm": {"auc": {"mean": 1, "low": 2, '
     '"high": 3}}}'],
)  # fmt: skip
def test_figures_without_an_interval_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "results.json").write_text(content)

    with pytest.raises(ConfigError, match=re.escape(str(tmp_path / "results.json"))):
        results_in(tmp_path / "results.json")


def test_the_commands_export_and_verify(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ask = CliRunner()

    made = ask.invoke(app, ["export", str(run), "--format", "torch"])
    checked = ask.invoke(app, ["verify", "release", "--key", "export.pub"])

    assert made.exit_code == 0, made.output
    assert "a new signing key" in made.output
    assert "encoder.pt2: differs from the encoder by" in made.output
    assert checked.exit_code == 0, checked.output
    assert "sound: release 'encoder'" in checked.output
