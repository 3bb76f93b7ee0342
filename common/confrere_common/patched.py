"""What methods that hide single patches ask of an encoder, and of a transformer of their own."""

import math

from confrere_common.encoder import Encoder
from confrere_common.encoders.vit import Vit
from confrere_common.errors import ConfigError


def must_be_patched(encoder: Encoder, method: str, why: str, *more: str) -> Vit:
    """Return *encoder* as the ViT it must be; ConfigError lists every fault, and those in *more*.

    *why* tells what a method does with patches that another kind, put in for ``{}``, cannot, and
    which other method trains any.
    """
    faults = [fault for fault in more if fault]
    if not isinstance(encoder, Vit):
        faults.insert(0, why.format(type(encoder).__name__.lower()))
    elif math.prod(encoder.grid) < 2:
        faults.insert(
            0,
            f"images of one patch of {encoder.patch} voxels leave nothing to hide. Set a smaller "
            "encoder.patch, or use larger images.",
        )
    if faults or not isinstance(encoder, Vit):
        raise ConfigError(faults, f"method '{method}'")
    return encoder


def uneven(part: str, dim: int, heads: int) -> str:
    """Return the fault of a *part* whose features cannot be shared among its heads; '' if none."""
    if dim % heads == 0:
        return ""
    return f"{part}_dim {dim} cannot be shared among {heads} heads. Set {part}_heads to a divisor."
