"""Classes that a site lacks leave its choice: no gradient reaches their logits.

A network that learns where a class never occurs learns that there is no such class, and takes that
to the sites that have it. A softmax over the classes that do occur does not (restricted softmax of
FedRS, https://doi.org/10.1145/3447548.3467254). Its weights have no gradient then: what moves them
at such a site is weight decay alone.

Shapes: B images, K classes, ... whatever an image has of each.
"""

import torch
from torch import Tensor

ABSENT = -1e4
"""What stands for the logit of a class that is left out; infinity has no gradient."""


def present(prior_BK: Tensor) -> Tensor:
    """Return which classes stay, (B, K), of the logarithm of how often each occurs at the site."""
    return prior_BK.isfinite()


def restricted(logits_BK: Tensor, present_BK: Tensor) -> Tensor:
    """Return logits (B, K, ...) for a softmax over the classes that stay."""
    shape = (*present_BK.shape, *[1] * (logits_BK.dim() - present_BK.dim()))
    return torch.where(present_BK.reshape(shape), logits_BK, ABSENT)
