"""Whether features look like a standard Gaussian, asked of their characteristic function on lines.

The test of LeJEPA (SIGReg, https://arxiv.org/abs/2511.08544), in two halves: what is found of the
features is a mean over images, so those of several sites have a mean again.

Shapes: V views, B images, F features, S slices (lines), K knots, 2 = cosine and sine.
"""

import torch
from torch import Tensor

KNOTS = 17
FARTHEST = 3.0
"""Frequencies at which characteristic functions are compared, from 0 to the farthest."""


def characteristic(features_VBF: Tensor, slices_FS: Tensor) -> Tensor:
    """Return the mean over images of cos(t a.z) and sin(t a.z), (V, S, K, 2): each in -1 to 1.

    That is the empirical characteristic function of the features z along every slice a.
    """
    with torch.autocast(features_VBF.device.type, enabled=False):
        along_VBS = features_VBF @ slices_FS.to(features_VBF.dtype)
    angles_VBSK = along_VBS[..., None] * _knots(along_VBS)
    return torch.stack([angles_VBSK.cos().mean(1), angles_VBSK.sin().mean(1)], dim=-1)


def apart(found_VSK2: Tensor) -> Tensor:
    """Return how far characteristic functions are from a Gaussian's, meaned over views and slices.

    Along every slice the integral over t in -3 to 3 of exp(-t^2 / 2) |phi(t) - exp(-t^2 / 2)|^2, by
    the trapezoid rule on 0 to 3, twice, since both halves are alike.
    """
    knots_K = _knots(found_VSK2)
    gaussian_K = (-knots_K.square() / 2).exp()
    real_VSK, imaginary_VSK = found_VSK2.unbind(-1)
    errors_VSK = ((real_VSK - gaussian_K).square() + imaginary_VSK.square()) * gaussian_K
    return 2 * torch.trapezoid(errors_VSK, knots_K, dim=-1).mean()


def sigreg(features_VBF: Tensor, slices_FS: Tensor) -> Tensor:
    """Return how far the features of each view are from a standard Gaussian, meaned over views.

    Along every slice the Epps-Pulley statistic: B times ``apart``.
    """
    return features_VBF.shape[1] * apart(characteristic(features_VBF, slices_FS))


def _knots(like: Tensor) -> Tensor:
    return torch.linspace(0, FARTHEST, KNOTS, dtype=like.dtype, device=like.device)
