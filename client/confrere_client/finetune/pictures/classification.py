"""Where a small change of a pixel would move the chosen class's score: gradient times input.

Gradient x input (https://arxiv.org/abs/1605.01713), summed over channels, in absolute value and
blurred a little. It works for every encoder. It shows what the network leans on, not where a
disease is, and may look convincing where it says nothing (https://arxiv.org/abs/1810.03292).

Shapes: N images, K classes, C channels, [Z] Y X voxels (Z only in 3-D).
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from confrere_client.finetune.classification import truth
from confrere_client.finetune.judge import Answers, Exam
from confrere_client.finetune.pictures.gallery import EACH, Gallery, Row
from confrere_client.finetune.pictures.paint import enlarged, grey, slice_of, with_heat
from confrere_common.augment.pipeline import normalise
from confrere_common.task import FineTask

NOTE = (
    "Bright: where changing a pixel would change the score of the class that was answered "
    "(gradient times input). It shows what the network leans on, not where a disease is; it may "
    "look convincing where it says nothing. Of a volume, the brightest slice."
)
WIDTH = 0.02
"""Deviation of the blur over the shorter side."""


def galleries(task: FineTask, exam: Exam, answers: Answers) -> Sequence[Gallery]:
    """Return saliency of the surest right, the surest wrong and the least sure answers."""
    scores_NK, labels = np.asarray(answers["scores_NK"], np.float64), truth(exam)
    if labels.ndim == 2:
        labels = _first_finding(scores_NK, labels)
    rows = [
        Row(title=title, cells=_cells(task, exam, place, int(scores_NK[place].argmax())))
        for title, place in _cases(scores_NK, labels, exam)
    ]
    return (Gallery(title="Saliency", note=NOTE, rows=tuple(rows)),)


def _first_finding(
    scores_NL: NDArray[np.float64], labels_NL: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the surest finding where it is truly there, else -1: right and wrong of many."""
    surest_N = scores_NL.argmax(axis=1)
    there_N = labels_NL[np.arange(len(labels_NL)), surest_N] == 1
    return np.where(there_N, surest_N, -1)


def _cases(
    scores_NK: NDArray[np.float64], labels_N: NDArray[np.int64], exam: Exam
) -> Iterator[tuple[str, int]]:
    names = (exam.run.finetune.classes or ()) if exam.run.finetune is not None else ()
    chosen_N, sure_N = scores_NK.argmax(axis=1), scores_NK.max(axis=1)
    right_N = chosen_N == labels_N
    kinds = {
        "surely right": np.where(right_N, -sure_N, np.inf),
        "surely wrong": np.where(right_N, np.inf, -sure_N),
        "least sure": sure_N,
    }
    for kind, order_N in kinds.items():
        for place in np.argsort(order_N, kind="stable")[:EACH]:
            if np.isfinite(order_N[place]):
                is_it = names[labels_N[place]] if labels_N[place] >= 0 else "something else"
                said = names[chosen_N[place]]
                title = f"{kind}: answered {said} at {sure_N[place]:.2f}, it is {is_it}"
                yield title, int(place)


def _cells(
    task: FineTask, exam: Exam, place: int, kind: int
) -> tuple[tuple[str, NDArray[np.uint8]], ...]:
    stored = exam.images.batch(exam.asked[place : place + 1])
    heat_ZYX = saliency(task, normalise(stored.to(exam.device)), kind)[0].cpu().numpy()
    at = int(heat_ZYX.sum(axis=(1, 2)).argmax()) if heat_ZYX.ndim == 3 else None
    picture = grey(slice_of(stored[0], at))
    heat_YX = heat_ZYX if at is None else heat_ZYX[at]
    return ("image", enlarged(picture)[0]), ("saliency", with_heat(picture, heat_YX))


@torch.enable_grad()
def saliency(task: FineTask, images_BCZYX: Tensor, kind: int) -> Tensor:
    """Return how much each voxel weighs in the logarithm of a class's score, (B, [Z] Y X)."""
    images_BCZYX = images_BCZYX.detach().clone().requires_grad_()
    scores_BK = task.predict(images_BCZYX)
    score = scores_BK[:, kind].clamp(min=1e-12).log().sum()
    (slope_BCZYX,) = torch.autograd.grad(score, images_BCZYX)
    heat_BZYX = (slope_BCZYX * images_BCZYX).sum(1).abs().detach()
    return _blurred(heat_BZYX)


def _blurred(heat_BZYX: Tensor) -> Tensor:
    from scipy.ndimage import gaussian_filter

    deviation = 0.5 + WIDTH * min(heat_BZYX.shape[1:])
    sigma = (0.0, *(deviation,) * (heat_BZYX.dim() - 1))
    return torch.from_numpy(gaussian_filter(heat_BZYX.cpu().double().numpy(), sigma))
