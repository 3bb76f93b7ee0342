"""FedU2's regulariser (FUR): features spread evenly over their sphere. https://arxiv.org/abs/2403.16398.

Adds weight * SW(z), the squared Wasserstein distance of the features' directions to the uniform
distribution, seen on random great circles, where it has a closed form (proposition 1 of
https://arxiv.org/abs/2206.08780). Deviation: the authors' code draws a sample of the uniform one
and compares on 6 random tangent planes; the closed form has no noise of a sample. (Their aggregator
is rule 'fedu2'; each can be had without the other.)

Shapes: N images, F features, P great circles.
"""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from confrere_common.mixing import Mixing, images_among
from confrere_common.parts.contrast import exact
from confrere_common.section import section


class Fedu2(Mixing):
    """Against collapse of a site that has few kinds of images; the encoder is passed once more."""

    private = False

    @section
    class Config:
        """Defaults are the authors'."""

        weight: Annotated[float, Field(ge=0)] = 0.01
        """Strength of the regulariser."""

        circles: Annotated[int, Field(ge=1)] = 6
        """Great circles on which the features are seen, drawn anew at each step."""

    config: Config

    def losses(self, own_B: Tensor, *views: Tensor) -> Tensor:
        """Return the losses, with each view's distance to the uniform distribution added."""
        for view in images_among(self.visit.method, views):
            features_NF = self.visit.method.encoder(view).float()
            circles = (self.config.circles, features_NF.shape[1], 2)
            drawn = torch.randn(circles, generator=self.visit.generator).to(view.device)
            planes_PF2, _ = torch.linalg.qr(drawn)
            own_B = own_B + self.config.weight * unevenness(features_NF, planes_PF2)
        return own_B


def unevenness(features_NF: Tensor, planes_PF2: Tensor) -> Tensor:
    """Return the mean over circles of W2^2 to the uniform one, circle of length 1: 0 to 1/12."""
    count = len(features_NF)
    with exact(features_NF):
        seen_PN2 = normalize(torch.einsum("nf,pfc->pnc", features_NF, planes_PF2), dim=-1)
    turns_PN = torch.atan2(seen_PN2[..., 1], seen_PN2[..., 0]) / (2 * math.pi)
    sorted_PN = (turns_PN + 0.5).sort(1).values
    ranks_N = torch.arange(count - 1, -count, -2, device=sorted_PN.device, dtype=sorted_PN.dtype)
    spread_P = sorted_PN.square().mean(1) - sorted_PN.mean(1).square()
    return (spread_P + (sorted_PN * ranks_N).sum(1) / count**2 + 1 / 12).mean()
