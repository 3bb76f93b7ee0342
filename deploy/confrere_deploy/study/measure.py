"""What each arm's features tell of the labels of test patients: scores kept, figures made.

Shapes: M models of one arm and seed (one for each site in 'local'), N test images, K classes,
F features.
"""

import hashlib
import io
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from confrere_client.data.images import Images
from confrere_client.data.subset import Subset
from confrere_client.embed import features
from confrere_client.measure import intervals
from confrere_client.measure.health import rankme
from confrere_client.measure.probe import MEASURES, NEIGHBOURS, Labelled, knn_scores, linear_probe
from confrere_common.encoder import Encoder
from confrere_common.storage import atomic_write
from confrere_common.weights import Weights
from confrere_deploy.report import schema
from confrere_deploy.study.holdout import Holdout

Features = NDArray[np.float32]

LEAST_PATIENTS = 5
"""Test patients that a site needs for figures of its own: of fewer, an interval says nothing."""

RAW_PX = 64
"""Larger images are averaged down to about this side to serve as raw pixels."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What one arm and seed scored."""

    linear_MNK: NDArray[np.float32]
    near_MNK: Mapping[int, NDArray[np.float32]]
    """Neighbours asked -> their votes."""

    rankme_M: NDArray[np.float64]

    digest: str = ""
    """Of the weights that scored so; raw pixels have none."""


@dataclass(frozen=True, kw_only=True)
class Exam:
    """The images that an encoder is examined on: fixed before the federation starts."""

    images: Images
    holdout: Holdout
    sites: NDArray[np.str_]
    """The site that each test image counts for, '' for none."""

    unseen: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """Test images of sites that were left out of all learning: in no figure but their own."""

    def embed(self, encoder: Encoder, device: torch.device) -> Features:
        """Return features of every image under an encoder, shape (all images, F)."""
        return features(encoder, Subset(self.images, np.arange(len(self.images))), device)

    def raw(self) -> Features:
        """Return every image's own pixels as features, large ones averaged down."""
        return raw_features(self.images, np.arange(len(self.images)))

    def scores(self, models: Iterable[Features]) -> Scores:
        """Return what probes on each model's features score on the test images.

        Features are taken one model at a time and let go: of a thousand models, one is in memory.
        """
        classes = len(self.images.catalog.classes)
        test = self.holdout.test
        asked = np.concatenate([test, self.unseen])
        linear: list[NDArray[Any]] = []
        near: dict[int, list[NDArray[Any]]] = {k: [] for k in NEIGHBOURS}
        ranks: list[float] = []
        for found in models:
            ranks.append(rankme(found[test]))
            if not self.labelled:
                continue
            train, val = self._at(found, self.holdout.train), self._at(found, self.holdout.val)
            linear.append(linear_probe(train, val, found[asked], classes).scores)
            for k in NEIGHBOURS:
                near[k].append(knn_scores(train.features, train.labels, found[asked], classes, k))
        return Scores(
            linear_MNK=np.asarray(linear, np.float32),
            near_MNK={k: np.asarray(votes, np.float32) for k, votes in near.items()},
            rankme_M=np.asarray(ranks),
        )

    @property
    def labelled(self) -> bool:
        """Say whether there are labels to examine with."""
        labels = self.images.catalog.labels
        return bool(len(self.holdout.test)) and bool((labels[self.holdout.train] >= 0).any())

    @property
    def truth(self) -> intervals.Truth:
        """Return labels and patients of the test images."""
        return self._truth(self.holdout.test)

    @property
    def unseen_truth(self) -> intervals.Truth:
        """Return labels and patients of the test images of sites that were left out."""
        return self._truth(self.unseen)

    def _truth(self, rows: NDArray[np.int64]) -> intervals.Truth:
        catalog = self.images.catalog
        return intervals.Truth(labels=catalog.labels[rows], patients=catalog.patients[rows])

    def _at(self, found: Features, rows: NDArray[np.int64]) -> Labelled:
        catalog = self.images.catalog
        known = rows[catalog.labels[rows] >= 0]
        return Labelled(
            features=found[known], labels=catalog.labels[known], patients=catalog.patients[known]
        )


def raw_features(images: Images, every: NDArray[np.int64]) -> Features:
    """Return the pixels of images as features, large ones averaged down."""
    step = max(1, min(images.size // RAW_PX, *images.sides))
    pool = torch.nn.functional.avg_pool2d if images.dims == 2 else torch.nn.functional.avg_pool3d
    parts = [
        pool(images.batch(rows).float(), step).flatten(1).numpy()
        for rows in np.array_split(every, max(1, len(every) // 128))
    ]
    return np.concatenate(parts)


def arm_figures(exam: Exam, seeds: Sequence[Scores], *, own: Sequence[str] = ()) -> schema.Arm:
    """Return an arm's figures: means over seeds, intervals over patients and seeds.

    *own* names the sites whose own models the arm consists of, in their order.
    """
    rank = _over_seeds(np.asarray([scores.rankme_M.mean() for scores in seeds]))
    if not exam.labelled:
        return schema.Arm(rankme=rank)
    truth, linear = exam.truth, _seen(exam, stacked(seeds))
    found = {name: intervals.figure(measure, linear, truth) for name, measure in MEASURES.items()}
    near = {
        k: intervals.figure(MEASURES["accuracy"], _seen(exam, _near(seeds, k)), truth)
        for k in NEIGHBOURS
    }
    return schema.Arm(
        linear=schema.Linear(**{name: _plain(figure) for name, figure in found.items()}),
        knn=_knn(near),
        rankme=rank,
        sites=_sites(exam, seeds, own),
        unseen=_unseen(exam, seeds),
    )


def difference(
    exam: Exam, ours: Sequence[Scores], theirs: Sequence[Scores]
) -> schema.Figure | None:
    """Return how much higher our linear AUC is than theirs, on the same patients and seeds."""
    auc = MEASURES["auc"]
    mine, other = (_seen(exam, stacked(scores)) for scores in (ours, theirs))
    return _plain(intervals.paired_difference(auc, mine, other, exam.truth))


def patients_by_site(exam: Exam) -> dict[str, int]:
    """Return site -> how many test patients count for it."""
    return _patients_of(exam.truth, exam.sites)


def _patients_of(truth: intervals.Truth, sites: NDArray[np.str_]) -> dict[str, int]:
    return {
        str(site): len(np.unique(truth.patients[sites == site]))
        for site in np.unique(sites[sites != ""])
    }


def stacked(seeds: Sequence[Scores]) -> NDArray[np.float64]:
    """Return linear scores of all seeds, shape (S, M, N, K); those of unseen sites are the last."""
    return np.asarray([scores.linear_MNK for scores in seeds], np.float64)


def save_scores(path: Path, scores: Scores) -> None:
    """Keep what an arm scored, so that a resumed study need not examine it again."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {f"near_{k}": votes for k, votes in scores.near_MNK.items()}
    arrays |= {"linear": scores.linear_MNK, "rankme": scores.rankme_M}
    np.savez_compressed(buffer, digest=np.array(scores.digest), **arrays)
    atomic_write(path, buffer.getvalue())


def load_scores(path: Path) -> Scores | None:
    """Return kept scores; None when there are none, or they cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            near = {k: kept[f"near_{k}"] for k in NEIGHBOURS}
            return Scores(
                linear_MNK=kept["linear"],
                near_MNK=near,
                rankme_M=kept["rankme"],
                digest=str(kept["digest"]),
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


class Fingerprint:
    """SHA-256 of the weights of models, taken up one after the other."""

    def __init__(self) -> None:
        self._running = hashlib.sha256()

    def take(self, weights: Weights) -> None:
        """Add the weights of one more model."""
        for name, tensor in sorted(weights.items()):
            entry = (name, str(tensor.dtype), tuple(tensor.shape))
            self._running.update(repr(entry).encode())
            plain = tensor.detach().cpu().contiguous().reshape(-1)
            self._running.update(plain.view(torch.uint8).numpy().data)

    @property
    def text(self) -> str:
        """Return it as hexadecimal."""
        return self._running.hexdigest()


def _near(seeds: Sequence[Scores], k: int) -> NDArray[np.float64]:
    return np.asarray([scores.near_MNK[k] for scores in seeds], np.float64)


def _knn(near: Mapping[int, intervals.Figure | None]) -> schema.Knn | None:
    few, many = _plain(near[11]), _plain(near[20])
    return schema.Knn(accuracy=many, accuracy_11=few) if many is not None else None


def _sites(
    exam: Exam, seeds: Sequence[Scores], own: Sequence[str]
) -> dict[str, schema.SiteArm] | None:
    linear, near = _seen(exam, stacked(seeds)), _seen(exam, _near(seeds, 20))
    return _by_site(exam.truth, exam.sites, linear, near, own)


def _unseen(exam: Exam, seeds: Sequence[Scores]) -> dict[str, schema.SiteArm] | None:
    if not len(exam.unseen):
        return None
    first, sites = len(exam.holdout.test), exam.images.catalog.sites[exam.unseen]
    linear, near = (found[:, :, first:] for found in (stacked(seeds), _near(seeds, 20)))
    return _by_site(exam.unseen_truth, sites, linear, near, ())


def _seen(exam: Exam, scores_SMNK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the scores of the test images of sites that were learned from."""
    return scores_SMNK[:, :, : len(exam.holdout.test)]


def _by_site(
    truth: intervals.Truth,
    sites: NDArray[np.str_],
    linear: NDArray[np.float64],
    votes: NDArray[np.float64],
    own: Sequence[str],
) -> dict[str, schema.SiteArm] | None:
    """Return the figures of each site with enough test patients; None where there is none."""
    patients = _patients_of(truth, sites)
    enough = [site for site, count in patients.items() if count >= LEAST_PATIENTS]
    sites = np.where(np.isin(sites, enough), sites, "")
    each = {
        name: intervals.by_site(measure, linear, truth, sites, own=own)
        for name, measure in MEASURES.items()
    }
    near = intervals.by_site(MEASURES["accuracy"], votes, truth, sites, own=own)
    return {
        site: schema.SiteArm(
            linear=schema.Linear(
                **{name: _plain(found[site]) for name, found in each.items() if site in found}
            ),
            knn=schema.Knn(accuracy=figure_told(near[site])),
        )
        for site in sorted(near)
    } or None


def _plain(figure: intervals.Figure | None) -> schema.Figure | None:
    return None if figure is None else figure_told(figure)


def figure_told(found: intervals.Figure) -> schema.Figure:
    """Return a figure as reports hold it."""
    return schema.Figure(mean=found.mean, low=found.low, high=found.high, n=found.n)


def _over_seeds(values_S: NDArray[np.float64]) -> schema.Figure:
    """Return mean and range: there are no patients to draw in a rank."""
    low, high = float(values_S.min()), float(values_S.max())
    return schema.Figure(mean=float(values_S.mean()), low=low, high=high, n=len(values_S))
