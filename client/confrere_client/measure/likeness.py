"""How alike two networks see the same images: centred kernel alignment of their features (CKA).

Shapes: N images, F and G features.
"""

import numpy as np
from numpy.typing import NDArray

from confrere_client.measure.intervals import Floats

LEAST = 4
"""Images that the unbiased estimate needs."""


def cka(one_NF: NDArray[np.float32], other_NG: NDArray[np.float32]) -> float:
    """Return how alike two sets of features of the same images are: 1 alike, about 0 unrelated.

    Linear CKA (https://arxiv.org/abs/1905.00414): a turn or a common scale of the features changes
    nothing. HSIC by its unbiased estimate (https://www.jmlr.org/papers/v13/song12a.html), since
    the plain one calls unrelated features alike where images are few; so unrelated ones may come
    out a little under 0. NaN for fewer than 4 images, or where features do not vary.
    """
    if len(one_NF) < LEAST:
        return float("nan")
    one_NN, other_NN = (_similar(features) for features in (one_NF, other_NG))
    own = _hsic(one_NN, one_NN) * _hsic(other_NN, other_NN)
    return float(_hsic(one_NN, other_NN) / np.sqrt(own)) if own > 0 else float("nan")


def _similar(features_NF: NDArray[np.float32]) -> Floats:
    """Return the dot products of all pairs, 0 of an image with itself.

    The mean is taken out first: it changes no HSIC, and large common parts would cost digits.
    """
    centred_NF = np.asarray(features_NF, np.float64)
    centred_NF = centred_NF - centred_NF.mean(axis=0)
    scale = np.abs(centred_NF).max()
    if scale <= 1e-6 * max(np.abs(features_NF).max(), 1e-30):
        return np.zeros((len(features_NF), len(features_NF)))
    products_NN: Floats = (centred_NF / scale) @ (centred_NF / scale).T
    np.fill_diagonal(products_NN, 0)
    return products_NN


def _hsic(one_NN: Floats, other_NN: Floats) -> float:
    """Return the unbiased estimate, equation 5 of Song et al. 2012; diagonals are 0."""
    n = len(one_NN)
    paths = one_NN.sum() * other_NN.sum() / ((n - 1) * (n - 2))
    crossed = 2 * (one_NN.sum(axis=0) @ other_NN.sum(axis=0)) / (n - 2)
    return float(((one_NN * other_NN).sum() + paths - crossed) / (n * (n - 3)))
