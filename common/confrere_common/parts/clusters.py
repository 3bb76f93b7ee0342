"""Clusters of a site's features: by nearest centre, and of equal size (Sinkhorn and Knopp).

Shapes: N features, K centres, F wide.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

HEAT = 1 / 25
"""Likenesses are divided by it before they are balanced, as Orchestra's authors do."""


@torch.no_grad()
def nearest(features_NF: Tensor, centres: int, generator: torch.Generator) -> Tensor:
    """Return each feature's cluster, int64 (N,), after ten steps of k-means from drawn features."""
    centres = min(centres, len(features_NF))
    drawn_N = torch.randperm(len(features_NF), generator=generator).to(features_NF.device)
    centres_KF = features_NF[drawn_N[:centres]]
    for _ in range(10):
        cluster_N = torch.cdist(features_NF, centres_KF).argmin(1)
        centres_KF = means(features_NF, cluster_N, centres_KF)
    return torch.cdist(features_NF, centres_KF).argmin(1)


def means(features_NF: Tensor, cluster_N: Tensor, centres_KF: Tensor) -> Tensor:
    """Return the mean of each cluster; a cluster without a feature keeps its centre."""
    member_NK = torch.nn.functional.one_hot(cluster_N, len(centres_KF)).to(features_NF.dtype)
    count_K1 = member_NK.sum(0)[:, None]
    return torch.where(count_K1 > 0, member_NK.T @ features_NF / count_K1.clamp(min=1), centres_KF)


@torch.no_grad()
def balanced(likeness_NK: Tensor, rounds: int = 10) -> Tensor:
    """Return shares (N, K): every feature has 1 to give, every centre N / K to get, very nearly."""
    share_NK = torch.softmax(likeness_NK / HEAT, 1)
    count, centres = likeness_NK.shape
    for _ in range(rounds):
        share_NK = share_NK * (count / centres) / share_NK.sum(0, keepdim=True).clamp(min=1e-12)
        share_NK = share_NK / share_NK.sum(1, keepdim=True).clamp(min=1e-12)
    return share_NK


@torch.no_grad()
def equal_centres(features_NF: Tensor, centres: int, generator: torch.Generator) -> Tensor:
    """Return so many unit centres (K, F) of clusters of about equal size, after five steps."""
    unit_NF = normalize(features_NF)
    picked_N = torch.randperm(len(unit_NF), generator=generator).to(unit_NF.device)
    start_KF = unit_NF[picked_N[torch.arange(centres) % len(unit_NF)]]
    centres_KF = start_KF
    for _ in range(5):
        cluster_N = balanced(unit_NF @ centres_KF.T).argmax(1)
        centres_KF = normalize(means(unit_NF, cluster_N, centres_KF))
    return centres_KF
