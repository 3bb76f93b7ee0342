"""A hospital whose patients a run scores, and what its worker says and sees of them."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from served import enrolled, make_study, served
from tiny_runs import ENCODERS

from confrere_client.daemon.errand import Errand, errand_key, spool
from confrere_client.daemon.lessons import Shelf, shelf, terms_of
from confrere_client.daemon.outbox import Outbox
from confrere_client.daemon.worker import Worker
from confrere_client.hospital.policy import read_policy
from confrere_client.hospital.registry import add
from confrere_client.hospital.site import SiteFolder
from confrere_common.config import Run
from confrere_common.exchange import Part, Task, Update
from confrere_common.judged import read_evaluation
from confrere_common.loading import COMMON_FAMILIES, dump, parse_run
from confrere_common.model import build_model, shared_weights


def site_with_scans(tmp_path: Path) -> SiteFolder:
    with served(make_study(tmp_path / "study")) as server:
        found = enrolled(server.workspace, tmp_path / "site", "north", "{min_images: 4}")
    paint(found.folder / "scans.npz")
    add(found.folder, "ward", found.folder / "scans.npz", one_image_per_patient=True)
    return found


def paint(path: Path, count: int = 120, **more: Any) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (count, 16, 16), dtype=np.uint8)
    labels = np.array(["a", "b"])[np.arange(count) % 2]
    np.savez(path, **{"train_images": pixels, "train_labels": labels, **more})


def asking(*, val_share: float = 0.0, **finetune: Any) -> Run:
    """Return a run; unless *val_share* says so, no patients are kept to choose its round by."""
    plain = {
        "name": "tuned",
        "stage": "finetune",
        "data": {
            "source": "site",
            "image_px": 16,
            "channels": 1,
            "dims": 2,
            "val_share": val_share,
        },
        "encoder": ENCODERS["resnet"],
        "train": {"batch": 8, "steps_per_round": 1, "device": "cpu"},
        "federation": {"rounds": 2},
        "finetune": {"classes": ["a", "b"], **finetune},
    }
    return parse_run(plain, COMMON_FAMILIES)


def errand(
    site: SiteFolder,
    run: Run,
    round: int = 2,
    *,
    evaluate: bool = True,
    part: Part = "test",
) -> Errand:
    weights = shared_weights(build_model(run, seed=0))
    task = Task(run=dump(run), round=round, seed=0, weights=weights, evaluate=evaluate, part=part)
    return spool(site.folder / "spool", "run-1", task, errand_key("run-1", task))


def told(site: SiteFolder, asked: Errand) -> dict[str, object]:
    said = io.StringIO()
    Worker(site, said).serve(iter([json.dumps(asked.as_dict())]))
    last: dict[str, object] = json.loads(said.getvalue().splitlines()[-1])
    return last


def lent(site: SiteFolder, run: Run) -> Shelf:
    """Return what the run would see, as the site's policy and notes are by now."""
    shelf.cache_clear()
    terms = terms_of(run, read_policy(site.policy), site.runs / "run-1")
    return shelf(site.folder, dump(run), terms)


def kept(site: SiteFolder, asked: Errand) -> Update:
    """Return what lies in the outbox for an errand."""
    update = Outbox(folder=site.outbox, key=site.outbox_key()).get(asked.key)
    assert isinstance(update, Update)
    return update


def counts(update: Update) -> list[int]:
    """Return the images in each cell that is told of two classes."""
    plain = read_evaluation(update.description, 2, 2)
    return [n for one in plain["tallies"] for s in ("positives", "negatives") for *_, n in one[s]]
