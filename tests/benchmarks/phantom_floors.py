"""Measures what trivial and learned features reach on the phantom: it must leave room to learn.

Run it as ``OMP_NUM_THREADS=1 python tests/benchmarks/phantom_floors.py [--modality histology]``.
It prints a table of macro AUC on unseen patients and writes results/phantom_floors.json.

Shapes: B images, C channels, Y X pixels, F features, K classes.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional

from confrere_client.phantom.modality import MODALITIES
from confrere_client.sources.phantom import Phantom
from confrere_common.encoder import Encoder, build_encoder
from confrere_common.family import Named

RESULTS = Path(__file__).parent / "results" / "phantom_floors.json"
BATCH = 64
Features = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Part:
    """Images of some of the patients."""

    images: Tensor
    labels: NDArray[np.int64]
    sites: NDArray[np.int64]


def parts(modality: str, seed: int) -> tuple[Part, Part, Part]:
    """Return about 1,000 images to train on, 200 to choose with, 500 to test on."""
    records = Phantom(Phantom.Config(modality=modality, seed=seed), Path()).records()
    images = torch.from_numpy(np.stack([record.decode() for record in records])) / 255
    labels = np.unique([record.label for record in records], return_inverse=True)[1]
    sites = np.unique([record.site for record in records], return_inverse=True)[1]
    patients = np.unique([record.patient for record in records], return_inverse=True)[1]
    place = np.random.default_rng(seed).permutation(patients.max() + 1)[patients] / patients.max()
    bounds = [(0, 0.58), (0.58, 0.70), (0.70, 2)]
    chosen = [(place >= low) & (place < high) for low, high in bounds]
    return tuple(
        Part(images=images[which], labels=labels[which], sites=sites[which]) for which in chosen
    )


def linear_auc(
    embed: Callable[[Tensor], Features], data: tuple[Part, Part, Part], target: str = "labels"
) -> float:
    """Return the macro AUC of logistic regression on features, its C chosen on validation."""
    train, val, test = (embed(part.images) for part in data)
    train_y, val_y, test_y = (getattr(part, target) for part in data)
    models = [
        make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=300)).fit(train, train_y)
        for c in (1e-4, 1e-2, 1.0)
    ]
    best = max(models, key=lambda model: auc(val_y, model.predict_proba(val)))
    return auc(test_y, best.predict_proba(test))


def auc(labels_B: NDArray[np.int64], chances_BK: Features) -> float:
    """Return the mean over classes of one against the rest."""
    kinds = range(chances_BK.shape[1])
    return float(np.mean([roc_auc_score(labels_B == kind, chances_BK[:, kind]) for kind in kinds]))


def raw(images_BCYX: Tensor) -> Features:
    return functional.avg_pool2d(images_BCYX, 2).flatten(1).numpy()


def colours(images_BCYX: Tensor) -> Features:
    """Mean, spread and histogram of each channel."""
    flat = images_BCYX.flatten(2)
    bins = [((flat >= low / 16) & (flat < (low + 1) / 16)).float().mean(2) for low in range(16)]
    return torch.cat([flat.mean(2), flat.std(2), *bins], 1).numpy()


def fresh(channels: int, seed: int) -> Encoder:
    torch.manual_seed(seed)
    named = Named(name="resnet", knobs={"width": 16})
    return build_encoder(named, channels=channels, size=(64, 64))


def embedder(encoder: nn.Module) -> Callable[[Tensor], Features]:
    @torch.no_grad()
    def embed(images_BCYX: Tensor) -> Features:
        chunks = (images_BCYX - 0.5).split(256)
        return torch.cat([encoder(chunk) for chunk in chunks]).numpy()

    return embed


def view(images_BCYX: Tensor) -> Tensor:
    """Return each image cropped, turned, flipped, relit, recoloured and noisy."""
    count = len(images_BCYX)
    angle = torch.rand(count) * 2 * torch.pi
    size = (torch.rand(count) * 0.5 + 0.5).sqrt()
    flip = torch.randint(0, 2, (count,)) * 2.0 - 1
    cos, sin = angle.cos() * size, angle.sin() * size
    shift = (torch.rand(count, 2) * 2 - 1) * (1 - size[:, None])
    rows = [torch.stack([cos * flip, -sin], 1), torch.stack([sin * flip, cos], 1)]
    theta = torch.cat([torch.stack(rows, 1), shift[:, :, None]], 2)
    grid = functional.affine_grid(theta, list(images_BCYX.shape), align_corners=False)
    seen = functional.grid_sample(images_BCYX, grid, padding_mode="reflection", align_corners=False)
    return _recoloured(seen, torch.rand(count, 5, 1, 1, 1))


def _recoloured(images_BCYX: Tensor, dice_B5: Tensor) -> Tensor:
    """Return images of other light, contrast, tint, sharpness and noise; some are grey."""
    grey = images_BCYX.mean(1, keepdim=True)
    seen = torch.lerp(images_BCYX, grey, (dice_B5[:, 0] * 1.5 - 0.5).clamp(0, 1))
    soft = functional.avg_pool2d(seen, 3, stride=1, padding=1, count_include_pad=False)
    seen = torch.lerp(seen, soft, (dice_B5[:, 1] * 1.6 - 0.6).clamp(0, 1))
    tint = torch.randn(2, *seen.shape[:2], 1, 1)
    gain = torch.exp(0.8 * (dice_B5[:, 2] - 0.5) + 0.2 * tint[0])
    middle = seen.mean((2, 3), keepdim=True)
    relit = (seen - middle) * gain + middle + 0.4 * (dice_B5[:, 3] - 0.5) + 0.12 * tint[1]
    return relit + 0.12 * dice_B5[:, 4] ** 2 * torch.randn_like(relit)


def fit(module: nn.Module, steps: int, count: int, loss_of: Callable[[Tensor], Tensor]) -> None:
    """Minimise *loss_of(indices)* with AdamW on a warm-up and a cosine."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=2e-3, weight_decay=0.02)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(torch.randint(0, count, (BATCH,))).backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        plan.step()


def supervised(data: tuple[Part, Part, Part], seed: int, steps: int) -> float:
    train, _, test = data
    encoder = fresh(train.images.shape[1], seed)
    network = nn.Sequential(encoder, nn.Linear(encoder.width, int(train.labels.max()) + 1))
    labels_B = torch.from_numpy(train.labels)

    def loss_of(index_B: Tensor) -> Tensor:
        logits = network(view(train.images[index_B]) - 0.5)
        return functional.cross_entropy(logits, labels_B[index_B])

    fit(network, 2 * steps, len(labels_B), loss_of)  # as many views as SimCLR sees
    chances = embedder(nn.Sequential(network, nn.Softmax(1)))
    return auc(test.labels, chances(test.images))


def simclr(data: tuple[Part, Part, Part], seed: int, steps: int) -> Encoder:
    """Return an encoder for which two views of an image are alike (arXiv:2002.05709)."""
    images_BCYX = data[0].images
    encoder = fresh(images_BCYX.shape[1], seed)
    head = nn.Sequential(nn.Linear(encoder.width, 128), nn.ReLU(), nn.Linear(128, 64))
    network = nn.Sequential(encoder, head)

    def loss_of(index_B: Tensor) -> Tensor:
        both = torch.cat([view(images_BCYX[index_B]), view(images_BCYX[index_B])])
        unit = functional.normalize(network(both - 0.5))
        alike = (unit @ unit.T / 0.2).fill_diagonal_(-1e9)
        return functional.cross_entropy(alike, torch.arange(2 * BATCH).roll(BATCH))

    fit(network, steps, len(images_BCYX), loss_of)
    return encoder


def measure(modality: str, seed: int, steps: int, *, pretrain: bool) -> dict[str, float]:
    """Return the AUC of each kind of feature on one phantom."""
    start = time.perf_counter()
    data = parts(modality, seed)
    drawn = time.perf_counter() - start
    channels = data[0].images.shape[1]
    random = embedder(fresh(channels, seed))
    found = {
        "raw": linear_auc(raw, data),
        "colours": linear_auc(colours, data),
        "random": linear_auc(random, data),
        "random tells sites": linear_auc(random, data, "sites"),
    }
    if steps and pretrain:
        trained = embedder(simclr(data, seed, steps))
        found["simclr"] = linear_auc(trained, data)
        found["simclr tells sites"] = linear_auc(trained, data, "sites")
    if steps:
        found["supervised"] = supervised(data, seed, steps)
    return {**found, "draw_s": drawn, "wall_s": time.perf_counter() - start}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--modality", nargs="+", default=list(MODALITIES), choices=MODALITIES)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300, help="of training; 0 trains nothing")
    parser.add_argument("--pretrain", action=argparse.BooleanOptionalAction, default=True)
    chosen = parser.parse_args()
    for modality in chosen.modality:
        rows = [
            measure(modality, seed, chosen.steps, pretrain=chosen.pretrain)
            for seed in range(chosen.seeds)
        ]
        summary = summarised(rows, chosen.steps)
        line = "  ".join(f"{name} {was['mean']:.3f}" for name, was in summary["measured"].items())
        print(f"{modality:11} {line}", flush=True)
        keep(modality, summary)


def summarised(rows: list[dict[str, float]], steps: int) -> dict[str, Any]:
    """Return mean and standard deviation over phantoms, and how they were come by."""
    measured = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return {
        "measured": {
            name: {
                "mean": round(float(of.mean()), 3),
                "sd": round(float(of.std()), 3),
                "n": len(of),
            }
            for name, of in measured.items()
        },
        "steps": steps,
        "batch": BATCH,
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} thread(s)",
        "torch": torch.__version__,
    }


def keep(modality: str, summary: dict[str, Any]) -> None:
    """Write the results of one modality beside those of the others."""
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({**kept, modality: summary}, indent=1) + "\n")


if __name__ == "__main__":
    main()
