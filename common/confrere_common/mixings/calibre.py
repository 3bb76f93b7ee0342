"""Calibre: images of a cluster gather around what their other views gather around. https://arxiv.org/abs/2412.20020.

Adds 0.3 L_p + 0.3 L_n. Features of a batch are clustered (k-means, 10); L_p is the NT-Xent between
the clusters' mean projections in one view and in the other; L_n says of each projection in one view
which of the other view's means is its own. It tells ``spread``, the mean distance of a feature to
the centre of its cluster over the mean length of features, by which rule 'calibre' weighs sites;
that of the last step's batch, where the authors cluster all images once more. What is personal in
the paper, a linear head for each site, is a matter of fine-tuning.

Shapes: B images, N = 2B views, K clusters, F features.
"""

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from confrere_common.mixing import Mixing, Visit, images_among
from confrere_common.parts.clusters import means, nearest
from confrere_common.parts.contrast import exact, nt_xent
from confrere_common.section import section


class Calibre(Mixing):
    """Compares images with each other; the encoder is passed once more."""

    private = False
    needs = ("projector",)
    figures = ("spread",)
    leaves = "how closely features lie in clusters (figure spread), if the policy lets it leave"

    @section
    class Config:
        """Defaults are the authors'."""

        weight: Annotated[float, Field(ge=0)] = 0.3
        """Strength of each of the two terms."""

        clusters: Annotated[int, Field(ge=2)] = 10
        """Clusters that a batch is divided into; at most half as many as it has images."""

        temperature: Annotated[float, Field(gt=0)] = 0.2
        """Likenesses are divided by it."""

    config: Config

    def __init__(self, config: Config, visit: Visit) -> None:
        super().__init__(config, visit)
        self.spread: Tensor = torch.zeros(())

    def losses(self, own_B: Tensor, *views: Tensor) -> Tensor:
        """Return the losses, with those of the clusters added."""
        method, config = self.visit.method, self.config
        one_two = torch.cat(images_among(method, views)[:2])
        features_NF = method.encoder(one_two)
        one_BF, two_BF = method.projector(features_NF).float().chunk(2)  # type: ignore[operator]
        features_BF = torch.stack(features_NF.detach().float().chunk(2)).mean(0)
        clusters = min(config.clusters, max(len(features_BF) // 2, 1))
        with exact(features_BF):
            cluster_B = nearest(features_BF, clusters, self.visit.generator)
            self.spread = spread(features_BF, cluster_B)
            added = gathered(one_BF, two_BF, cluster_B, config.temperature)
        return own_B + config.weight * added

    def told(self) -> Mapping[str, float]:
        """Return the spread in the last step's batch."""
        return {"spread": max(float(self.spread), 1e-6)}


def gathered(one_BF: Tensor, two_BF: Tensor, cluster_B: Tensor, temperature: float) -> Tensor:
    """Return L_p + L_n, a number."""
    present_K, cluster_B = torch.unique(cluster_B, return_inverse=True)
    zeros_KF = one_BF.new_zeros(len(present_K), one_BF.shape[1])
    means_one_KF, means_two_KF = (means(part, cluster_B, zeros_KF) for part in (one_BF, two_BF))
    logits_BK = normalize(one_BF) @ normalize(means_two_KF).T / temperature
    prototypes = nt_xent(means_one_KF, means_two_KF, temperature).mean()
    found: Tensor = prototypes + cross_entropy(logits_BK, cluster_B)
    return found


def spread(features_BF: Tensor, cluster_B: Tensor) -> Tensor:
    """Return the mean distance to the centre of one's cluster, over the mean length."""
    zeros_KF = features_BF.new_zeros(int(cluster_B.max()) + 1, features_BF.shape[1])
    centres_BF = means(features_BF, cluster_B, zeros_KF)[cluster_B]
    far_B = torch.linalg.vector_norm(features_BF - centres_BF, dim=1)
    long_B = torch.linalg.vector_norm(features_BF, dim=1)
    found: Tensor = far_B.mean() / long_B.mean().clamp(min=1e-12)
    return found
