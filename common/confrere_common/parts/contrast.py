"""Cross-entropies between embeddings, in float32 whatever the network computes in.

Shapes: B images or prototypes, V = 2B views, R references, F features.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax, normalize, softmax


def exact(like: Tensor) -> torch.autocast:
    """Return a context in which products keep float32, where the network has bfloat16."""
    return torch.autocast(like.device.type, enabled=False)


def nt_xent(one_BF: Tensor, two_BF: Tensor, temperature: float) -> Tensor:
    """Return the normalised, temperature-scaled cross-entropy of each image, shape (B,).

    A view's own twin is the right answer among all 2B - 1 other views.
    """
    count = len(one_BF)
    with exact(one_BF):
        unit_VF = normalize(torch.cat([one_BF, two_BF]).float())
        logits_VV = unit_VF @ unit_VF.T / temperature
    itself_VV = torch.eye(2 * count, dtype=torch.bool, device=logits_VV.device)
    twins_V = torch.arange(2 * count, device=logits_VV.device).roll(count)
    found_V = cross_entropy(logits_VV.masked_fill(itself_VV, -torch.inf), twins_V, reduction="none")
    return found_V.view(2, count).mean(0)


def relation(one_BF: Tensor, two_BF: Tensor, others_RF: Tensor, temperature: float) -> Tensor:
    """Return, for each pair, how far their likenesses to the others are apart: JS, shape (B,)."""
    with exact(one_BF):
        likeness = [
            normalize(part.float()) @ normalize(others_RF.float()).T / temperature
            for part in (one_BF, two_BF)
        ]
    target_BR = (softmax(likeness[0], 1) + softmax(likeness[1], 1)) / 2
    apart = [kl_div(log_softmax(part, 1), target_BR, reduction="none") for part in likeness]
    return (apart[0] + apart[1]).sum(1) / 2
