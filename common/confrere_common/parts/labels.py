"""Classes that came with images, as methods learn from them.

A run names its classes, or only counts them. Named, they mean the same everywhere, whichever of
them a site has. Counted, each site numbers its own (numbers in their order, else names by
alphabet), so a label that a site lacks altogether would shift the others.

Shapes: B images, C channels, [Z] Y X voxels (Z only in 3-D), K classes.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeAlias

import torch
from pydantic import BeforeValidator
from torch import Tensor
from torch.nn.functional import log_softmax

from confrere_common.errors import DataError
from confrere_common.parts.heads import whole

UNKNOWN = -1


class UnnamedClasses(DataError):  # noqa: N818  (the code says it better)
    """A site's labels have classes that the run does not name."""

    code = "other-classes"


def _two_at_least(given: Any) -> Any:
    """Return what pydantic shall look at; one sentence for all that is wrong, not one for each."""
    if isinstance(given, int) and not isinstance(given, bool) and given >= 2:
        return given
    texts = isinstance(given, list | tuple) and all(isinstance(n, str) and n for n in given)
    if not texts or len(given) < 2 or len(set(given)) != len(given):
        raise ValueError(
            "give how many classes there are, 2 or more, or a list of their names, each once and "
            "as text ('1', 'no' in quotes)"
        )
    return tuple(given)


Classes: TypeAlias = Annotated[int | tuple[str, ...], BeforeValidator(_two_at_least)]
"""Names of the classes over all sites, or how many there are."""


def names_of(classes: Classes) -> tuple[str, ...]:
    """Return the names of the classes; none where they are only counted."""
    return () if isinstance(classes, int) else classes


def count_of(classes: Classes) -> int:
    """Return how many classes there are."""
    return classes if isinstance(classes, int) else len(classes)


def numbered(labels_B: Tensor, here: Sequence[str], names: Sequence[str]) -> Tensor:
    """Return labels of a site, which number its own classes *here*, as the run numbers its *names*.

    UnnamedClasses when the site has a class that the run does not name.
    """
    odd = sorted(set(here) - set(names))
    if odd:
        raise UnnamedClasses(
            f"{len(odd)} classes of the images are none of the run's, the first '{odd[0]}'. The "
            f"run names {', '.join(names)}: write the same names, or add to method.classes."
        )
    table = torch.tensor([*(names.index(name) for name in here), UNKNOWN])
    return table.to(labels_B.device)[labels_B]


def labelled(
    images_BCZYX: Tensor,
    known: Sequence[Tensor],
    augment: Callable[[Tensor, torch.Generator], Tensor],
    generator: torch.Generator,
    classes: int,
) -> tuple[Tensor, Tensor]:
    """Return the augmented images and their labels; where none are *known*, all are unknown.

    DataError when one is no class.
    """
    nothing_B = torch.full((len(images_BCZYX),), UNKNOWN, device=images_BCZYX.device)
    labels_B = known[0] if known else nothing_B
    must_be_classes(labels_B, classes)
    return augment(images_BCZYX, generator), labels_B


def must_be_classes(labels_B: Tensor, classes: int) -> None:
    """Raise DataError when a label is beyond the classes that a run names."""
    highest = int(labels_B.max()) if labels_B.numel() else UNKNOWN
    if highest >= classes:
        raise DataError(
            f"an image is of class {highest + 1}, and the run has {classes}: set method.classes "
            "to their names over all sites, or to how many there are."
        )


def label_losses(logits_BK: Tensor, labels_B: Tensor) -> Tensor:
    """Return the cross-entropy of each image, 0 where the label is unknown; (B,)."""
    logits_BK = whole(logits_BK)
    chosen_B1 = labels_B.clamp(min=0)[:, None]
    entropy_B = -log_softmax(logits_BK, dim=1).gather(1, chosen_B1)[:, 0]
    return entropy_B * (labels_B != UNKNOWN).to(entropy_B.dtype)
