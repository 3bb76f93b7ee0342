"""FedDecorr: features that go together are drawn apart. https://arxiv.org/abs/2210.00226.

Adds beta |K|_F^2 / F^2, K the correlation matrix of a batch's features, of which only what is off
the diagonal counts, the rest being ones. The authors' code has the mean over entries of
(Z^T Z)^2 / N, Z standardised: about N times as much, so their beta of 0.1 at 64 images is about 6.

Shapes: B images, N = B times the views, F features.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from confrere_common.mixing import Mixing, images_among
from confrere_common.parts.contrast import exact
from confrere_common.section import section


class Feddecorr(Mixing):
    """Against features that collapse into few directions; it costs the encoder a second pass."""

    private = False

    @section
    class Config:
        """The default is the paper's."""

        beta: Annotated[float, Field(ge=0)] = 0.1
        """Strength of the regulariser."""

    config: Config

    def losses(self, own_B: Tensor, *views: Tensor) -> Tensor:
        """Return the losses, each with the batch's correlation added."""
        seen = images_among(self.visit.method, views)
        features_NF = self.visit.method.encoder(torch.cat(seen))
        return own_B + self.config.beta * correlation(features_NF.float())


def correlation(features_NF: Tensor) -> Tensor:
    """Return the sum of squared correlations between different features, over F squared: 0 to 1.

    A feature that is the same everywhere correlates with none; of one image nothing does.
    """
    if len(features_NF) < 2:
        return features_NF.sum() * 0
    centred_NF = features_NF - features_NF.mean(0)
    unit_NF = centred_NF / (centred_NF.square().sum(0) + 1e-8).sqrt()
    with exact(unit_NF):
        squares_FF = (unit_NF.T @ unit_NF).square()
    return (squares_FF.sum() - squares_FF.diagonal().sum()) / features_NF.shape[1] ** 2
