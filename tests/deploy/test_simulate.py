"""A study from run file to report: complete, repeatable, resumable, and clear about its faults."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from confrere_client.embed import load
from confrere_common.errors import DataError, RoundError
from confrere_common.loading import read_run
from confrere_deploy.cli import app
from confrere_deploy.families import ALL_FAMILIES
from confrere_deploy.report.codec import from_json
from confrere_deploy.simulate import Options, carry_out

CONFRERE = (sys.executable, "-m", "confrere_deploy.cli")


def carry(run_file: Path, out: Path, *changes: str, resume: bool = False, engine: str = "inline"):
    """Carry out a study in this process; return what it printed."""
    run = read_run(run_file, changes, ALL_FAMILIES)
    options = Options(
        folder=run_file.parent, out=out, resume=resume, engine=engine, resources={}, command=None
    )
    console = Console(record=True, width=120, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    try:
        carry_out(run, options, console)
        return console.export_text()
    finally:
        console.file.close()


def start(run_file: Path, out: Path, *more: str) -> "subprocess.Popen[str]":
    """Start a study as a user would."""
    command = [*CONFRERE, "simulate", str(run_file), "--out", str(out), *more]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=run_file.parent,
        preexec_fn=_heed_ctrl_c,
    )  # fmt: skip


def _heed_ctrl_c() -> None:
    """Undo what a child inherits from pytest's worker processes, which ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for(path: Path, process: "subprocess.Popen[str]") -> None:
    """Wait until *path* appears."""
    ends = time.monotonic() + 180
    while not path.exists() and process.poll() is None and time.monotonic() < ends:
        time.sleep(0.01)
    if not path.exists():
        process.kill()
        pytest.fail(f"{path} did not appear: {process.communicate()}")


def test_a_study_leaves_a_report_an_encoder_and_checkpoints(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    printed = carry(tiny, out, "floors=all")

    report = from_json((out / "report.json").read_bytes())
    assert set(report.arms) == {"raw", "random", "local", "federated", "centralised"}
    for site, gain in report.joining.gains.items():
        joined, alone = (report.arms[arm].sites[site].linear.auc for arm in ("federated", "local"))
        assert gain.mean == pytest.approx(joined.mean - alone.mean)
    assert report.joining.gains.keys() == report.arms["local"].sites.keys()
    assert [site.site for site in report.sites] == ["site-0", "site-1"]
    assert [item.round for item in report.rounds] == [1, 2, 3]
    assert report.rounds[0].bytes_up > 0
    page = (out / "report.html").read_text()
    assert "Federated less alone" in page
    assert "lost by joining" in page
    assert len(list((out / "federated/seed-0/checkpoints").glob("round-*"))) == 3
    assert str(out / "report.html") in printed.replace("\n", "")
    card = json.loads((out / "encoder.json").read_bytes())
    assert card["training"]["digest"] == report.digest
    assert card["training"]["rounds"] == 3


def test_the_encoder_it_leaves_gives_features_of_image_files(tiny: Path, tmp_path: Path) -> None:
    from PIL import Image

    out = tmp_path / "out"
    carry(tiny, out)
    for number in range(3):
        Image.new("L", (20, 14), color=60 * number).save(tmp_path / f"{number}.png")
    (tmp_path / "broken.png").write_bytes(b"no image")

    files, features = load(out / "encoder.safetensors").embed(tmp_path)

    assert [file.name for file in files] == ["0.png", "1.png", "2.png"]
    assert features.shape == (3, 64)


def test_the_same_seed_gives_the_same_bits(tiny: Path, tmp_path: Path) -> None:
    carry(tiny, tmp_path / "one")
    carry(tiny, tmp_path / "two")

    one, two = (tmp_path / name / "encoder.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_a_study_killed_in_mid_round_resumes_to_the_same_bits(tiny: Path, tmp_path: Path) -> None:
    carry(tiny, tmp_path / "whole", "federation.rounds=4")
    killed = start(tiny, tmp_path / "killed", "--set", "federation.rounds=4")
    folder = tmp_path / "killed/federated/seed-0"
    # One site has put away its state of round 3, the server has not: it is in mid-round.
    wait_for(folder / "sites/site-site-0/round-0003.state", killed)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    finished = {path.name for path in (folder / "checkpoints").glob("round-*")}

    printed = carry(tiny, tmp_path / "killed", "federation.rounds=4", resume=True)

    assert "round-0002" in finished
    assert "round-0003" not in finished
    assert "round 2/4" not in printed
    assert "round 3/4" in printed
    whole = (tmp_path / "whole/encoder.safetensors").read_bytes()
    assert (tmp_path / "killed/encoder.safetensors").read_bytes() == whole


def test_a_truncated_checkpoint_is_passed_over_with_a_warning(
    tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    carry(tiny, tmp_path / "whole")
    out = tmp_path / "hurt"
    shutil.copytree(tmp_path / "whole", out)
    (out / "federated/seed-0/scores.npz").unlink()
    newest = out / "federated/seed-0/checkpoints/round-0003/weights.safetensors"
    newest.write_bytes(newest.read_bytes()[:-100])

    carry(tiny, out, resume=True)

    assert "round-0003/weights.safetensors was cut short" in caplog.text
    whole = (tmp_path / "whole/encoder.safetensors").read_bytes()
    assert (out / "encoder.safetensors").read_bytes() == whole


def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(tiny: Path, tmp_path: Path) -> None:
    process = start(tiny, tmp_path / "out", "--set", "federation.rounds=500")
    wait_for(tmp_path / "out/federated/seed-0/checkpoints/round-0002", process)

    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=180)

    assert process.returncode == 130
    assert "--resume" in errors
    assert "Traceback" not in errors


def test_a_folder_that_holds_a_study_is_not_overwritten(tiny: Path, tmp_path: Path) -> None:
    carry(tiny, tmp_path / "out")
    before = (tmp_path / "out/report.json").read_bytes()

    again = start(tiny, tmp_path / "out")
    other = start(tiny, tmp_path / "out", "--resume", "--seed", "7")
    said = [process.communicate(timeout=180)[1] for process in (again, other)]

    assert "--resume" in said[0]
    assert "another study" in said[1]
    assert again.returncode == other.returncode == 2
    assert (tmp_path / "out/report.json").read_bytes() == before


def test_three_seeds_give_intervals_over_them(tiny: Path, tmp_path: Path) -> None:
    carry(tiny, tmp_path / "out", "seeds=[0, 1, 2]", "floors=cheap", "federation.rounds=1")

    report = from_json((tmp_path / "out/report.json").read_bytes())

    auc = report.arms["federated"].linear.auc
    assert auc.n == 3
    assert auc.low <= auc.mean <= auc.high
    assert report.arms["raw"].linear.auc.n == 1


def test_a_site_of_any_split_has_figures_of_its_own(tiny: Path, tmp_path: Path) -> None:
    short = ("federation.rounds=1", "train.steps_per_round=1", "data.test_share=0.5")

    carry(tiny, tmp_path / "out", "data.split={name: iid, sites: 2}", "floors=cheap", *short)

    report = from_json((tmp_path / "out/report.json").read_bytes())
    names = {site.site for site in report.sites}
    for arm in report.arms.values():
        assert arm.sites.keys() == names
        assert all(site.linear.auc and site.knn for site in arm.sites.values())
    assert sum(site.test_patients for site in report.sites) == report.data.test_patients
    assert "dealt out" in report.site_tests
    assert "AUC federated" in (tmp_path / "out/report.html").read_text()


def test_scores_of_other_weights_are_measured_again(tiny: Path, tmp_path: Path) -> None:
    short = ("federation.rounds=1", "train.steps_per_round=1", "floors=all")
    out, other = tmp_path / "out", tmp_path / "other"
    carry(tiny, out, *short)
    carry(tiny, other, *short, "seeds=[1]")
    kept = {path.parent.parent.name: path.stat().st_mtime_ns for path in out.rglob("scores.npz")}
    wrong = (other / "federated/seed-1/scores.npz").read_bytes()
    (out / "federated/seed-0/scores.npz").write_bytes(wrong)
    before = from_json((out / "report.json").read_bytes())

    carry(tiny, out, *short, resume=True)

    again = from_json((out / "report.json").read_bytes())
    assert (out / "federated/seed-0/scores.npz").read_bytes() != wrong
    assert again.arms == before.arms
    assert again.cost.sessions == 2
    assert again.cost.wall_s > before.cost.wall_s
    for path in out.rglob("scores.npz"):
        if path.parts[-3] != "federated":
            assert path.stat().st_mtime_ns == kept[path.parts[-3]]


def test_images_without_labels_still_give_an_encoder(tmp_path: Path) -> None:
    from PIL import Image

    for number in range(12):
        Image.new("L", (16, 16), color=number * 20).save(tmp_path / f"{number}.png")
    run = tmp_path / "run.yaml"
    run.write_text(
        "name: plain\nmethod: simclr\nencoder: {name: resnet, width: 8}\n"
        "data: {source: {name: folder, path: .}, image_px: 16, split: {name: iid, sites: 2}}\n"
        "train: {batch: 4, steps_per_round: 1, device: cpu}\nfederation: {rounds: 1}\n"
    )

    printed = carry(run, tmp_path / "out")

    assert "no labels" in printed
    assert (tmp_path / "out/encoder.safetensors").exists()


def test_a_run_whose_sites_all_break_stops_and_says_what_they_said(
    tiny: Path, tmp_path: Path
) -> None:
    wild = ("train.lr=1e30", "train.clip_norm=null", "train.warmup=0")

    with pytest.raises(RoundError, match="no longer a number") as caught:
        carry(tiny, tmp_path / "out", *wild)

    assert "--resume" in str(caught.value)


def test_every_data_fault_is_a_sentence(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    faults = {
        "data.source={name: folder, path: empty}": "empty",
        "data.source={name: npz, path: nowhere.npz}": "nowhere.npz",
        "data.split={name: iid, sites: 500}": "500",
    }
    started = {
        text: start(tiny, tmp_path / f"out-{n}", "--set", text) for n, text in enumerate(faults)
    }

    for text, process in started.items():
        _, errors = process.communicate(timeout=180)
        assert process.returncode == 2, errors
        assert "Traceback" not in errors
        assert faults[text] in errors


def unseen_run(tiny: Path, folder: Path, seed: int = 0) -> Path:
    """Return the run on 120 patients at three sites; images of site-2 are noise of *seed*."""
    arrays = np.load(tiny.parent / "images.npz")
    images = np.concatenate([arrays["train_images"], arrays["train_images"][:, ::-1, ::-1]])
    sites = np.array([f"site-{row // 3 % 3}" for row in range(len(images))])
    noise = np.random.default_rng(seed).integers(0, 256, images.shape, np.uint8)
    images[sites == "site-2"] = noise[sites == "site-2"]
    labels = np.tile(arrays["train_labels"], (2, 1))
    folder.mkdir(exist_ok=True)
    np.savez(folder / "images.npz", train_images=images, train_labels=labels, train_sites=sites)
    return Path(shutil.copy(tiny, folder / "run.yaml"))


def test_of_a_site_that_is_left_out_nothing_is_learned_and_its_test_is_told_apart(
    tiny: Path,
    tmp_path: Path,
) -> None:
    reports, encoders = [], []
    for seed in (1, 2):
        folder = tmp_path / str(seed)
        run = unseen_run(tiny, folder, seed)
        carry(run, folder / "out", "data.leave_out=[site-2]", "floors=all")
        reports.append(from_json((folder / "out/report.json").read_bytes()))
        encoders.append((folder / "out/encoder.safetensors").read_bytes())

    one, other = reports
    assert encoders[0] == encoders[1]
    assert [site.site for site in one.sites] == ["site-0", "site-1"]
    for name, arm in one.arms.items():
        assert arm.linear == other.arms[name].linear
        assert arm.knn == other.arms[name].knn
        assert arm.rankme == other.arms[name].rankme
        assert set(arm.sites or {}) == {"site-0", "site-1"}
        assert set(arm.unseen or {}) == {"site-2"}
    assert one.arms["federated"].unseen != other.arms["federated"].unseen
    page = (tmp_path / "1/out/report.html").read_text()
    assert "At site-2, of which nobody learned, the AUC is" in page
    card = json.loads((tmp_path / "1/out/encoder.json").read_text())
    assert card["training"]["left_out"] == ["site-2"]


def test_patients_held_out_of_other_sites_are_those_of_the_whole_run(
    tiny: Path, tmp_path: Path
) -> None:
    run = unseen_run(tiny, tmp_path / "three")
    carry(run, tmp_path / "whole")
    carry(run, tmp_path / "out", "data.leave_out=[site-2]")

    whole, left = (
        from_json((tmp_path / name / "report.json").read_bytes()) for name in ("whole", "out")
    )

    theirs = {site.site: site for site in whole.sites}
    assert all(site == theirs[site.site] for site in left.sites)
    assert left.data.test_patients == sum(site.test_patients or 0 for site in left.sites)
    assert "leave_out" not in whole.run["data"]
    assert whole.arms["federated"].unseen is None


@pytest.mark.parametrize(
    ("sites", "fault"),
    [("[site-9]", "site-9"), ("[site-0,site-1,site-2]", "held out")],
)
def test_a_site_that_is_none_or_all_of_them_cannot_be_left_out(
    tiny: Path, tmp_path: Path, sites: str, fault: str
) -> None:
    run = unseen_run(tiny, tmp_path / "three")

    with pytest.raises(DataError, match=fault):
        carry(run, tmp_path / "out", f"data.leave_out={sites}")


def test_a_site_is_unseen_from_pre_training_on_to_the_evaluation_by_commands(
    tiny: Path, tmp_path: Path
) -> None:
    run = unseen_run(tiny, tmp_path / "three")
    plain = yaml.safe_load(run.read_text())
    tuned = {**plain, "stage": "finetune", "finetune": {"task": "classification"}}
    tuned.pop("method")
    tune = tmp_path / "three/tune.yaml"
    tune.write_text(yaml.safe_dump(tuned))

    for words in (
        ["simulate", run, "--set", "data.leave_out=[site-2]", "--out", tmp_path / "pre"],
        ["evaluate", tune, "--encoder", tmp_path / "pre/encoder.safetensors",
         "--leave-one-site-out", "--smallest", "5", "--out", tmp_path / "eval",
         "--set", "federation.rounds=1"],
    ):  # fmt: skip
        done = CliRunner().invoke(app, [*map(str, words)])
        assert done.exit_code == 0, done.output

    unseen = json.loads((tmp_path / "eval/report.json").read_text())["unseen"]
    assert "site-2" in {site["site"] for site in unseen}
    refused = CliRunner().invoke(app, ["finetune", str(tune), "--set", "data.leave_out=[site-2]"])
    assert "--leave-one-site-out" in str(refused.exception)
