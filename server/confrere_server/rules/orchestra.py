"""Orchestra: the mean update, and global centres of all the centres that sites sent. https://arxiv.org/abs/2205.11506.

Global centres C move so that softmax(C z / T) of every site's centre z comes near to shares in
which each centre of C has as many of them (Sinkhorn and Knopp). All else is joined as in ``mean``.

Shapes: S centres of sites, K global ones, F features.
"""

from collections.abc import Iterable, Iterator
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize, softmax

from confrere_common.exchange import Update
from confrere_common.mixings.orchestra import CENTRES, LOCAL
from confrere_common.parts.clusters import balanced
from confrere_common.section import section
from confrere_common.weights import Weights
from confrere_server.folding import fold
from confrere_server.rule import rule


@section
class Config:
    """Defaults are the authors'."""

    steps: Annotated[int, Field(ge=0)] = 500
    """Steps in which the global centres follow the sites'."""

    lr: Annotated[float, Field(gt=0)] = 0.01
    """Rate of these steps (SGD, momentum 0.9)."""

    temperature: Annotated[float, Field(gt=0)] = 0.1
    """Likenesses to global centres are divided by it."""


@rule(sum_only=False, by_images=True, sees_weights=True, mixing="orchestra")
def orchestra(updates: Iterable[Update], config: Config, weights: Weights) -> Weights:
    """Return the image-weighted mean update, with the way to the new centres in their place.

    Holds the sites' centres beside what ``mean`` holds: a few kilobytes each.
    """
    seen: list[Tensor] = []
    joined = dict(fold(_noting(updates, seen), lambda update: update.images))
    if seen:
        sites_SF = torch.cat(sorted(seen, key=lambda one_KF: one_KF.sum().item()))
        joined[CENTRES] = centred(weights[CENTRES], sites_SF, config) - weights[CENTRES]
        joined[LOCAL] = torch.zeros_like(joined[LOCAL])
    return joined


def _noting(updates: Iterable[Update], seen: list[Tensor]) -> Iterator[Update]:
    for update in updates:
        if LOCAL in update.delta and update.images > 0:
            seen.append(update.delta[LOCAL].detach().float().clone())
        yield update
        del update


def centred(centres_KF: Tensor, sites_SF: Tensor, config: Config) -> Tensor:
    """Return unit global centres that have followed the sites' centres."""
    found_KF = centres_KF.detach().clone().requires_grad_()
    optimizer = torch.optim.SGD([found_KF], lr=config.lr, momentum=0.9)
    unit_SF = normalize(sites_SF)
    for _ in range(config.steps):
        optimizer.zero_grad()
        likeness_SK = unit_SF @ found_KF.T
        share_SK = softmax(likeness_SK / config.temperature, 1)
        loss = -cosine_similarity(balanced(likeness_SK.detach()), share_SK).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        with torch.no_grad():
            found_KF.copy_(normalize(found_KF))
    return found_KF.detach()
