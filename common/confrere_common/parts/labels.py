"""Classes that came with images, as methods learn from them.

Every site counts its classes by itself (numbers in their order, else names by alphabet), so sites
must write the same classes for a number to mean the same; a label that a site lacks altogether
must not shift the others: give numbers where that can be.

Shapes: B images, K classes.
"""

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from confrere_common.errors import DataError

UNKNOWN = -1


def must_be_classes(labels_B: Tensor, classes: int) -> None:
    """Raise DataError when a label is beyond the classes that a run names."""
    highest = int(labels_B.max()) if labels_B.numel() else UNKNOWN
    if highest >= classes:
        raise DataError(
            f"an image is of class {highest + 1}, and the run names {classes}: set method.classes "
            "to how many there are over all sites."
        )


def label_losses(logits_BK: Tensor, labels_B: Tensor) -> Tensor:
    """Return the cross-entropy of each image, 0 where the label is unknown; (B,)."""
    logits_BK = logits_BK.to(torch.promote_types(logits_BK.dtype, torch.float32))
    chosen_B1 = labels_B.clamp(min=0)[:, None]
    entropy_B = -log_softmax(logits_BK, dim=1).gather(1, chosen_B1)[:, 0]
    return entropy_B * (labels_B != UNKNOWN).to(entropy_B.dtype)
