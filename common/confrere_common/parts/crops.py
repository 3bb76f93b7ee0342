"""Small parts of images, enlarged to the whole: the local views of multi-crop methods.

Shapes: B images, C channels, [Z] Y X voxels (Z only in 3-D), D axes of space in the order X, Y, Z
(that of ``grid_sample``), E = D + 1.
"""

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample


def local_crop(
    images_BCZYX: Tensor, scale: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """Return of each image a part of it, of the same size in voxels.

    Parts cover from *scale*[0] to *scale*[1] of the area or volume, anywhere, with the image's own
    proportions. They are enlarged because an encoder takes images of one size; the papers' smaller
    crops make a step cheaper, these do not.
    """
    count, axes = len(images_BCZYX), images_BCZYX.ndim - 2
    chance_BE = torch.rand(count, axes + 1, generator=generator, device=generator.device)
    least, most = scale
    side_B1 = (least + (most - least) * chance_BE[:, :1]) ** (1 / axes)
    place_BD = (2 * chance_BE[:, 1:] - 1) * (1 - side_B1)
    affine_BDE = torch.cat([torch.diag_embed(side_B1.expand(-1, axes)), place_BD[..., None]], dim=2)
    grid_BZYXD = affine_grid(
        affine_BDE.to(images_BCZYX), list(images_BCZYX.shape), align_corners=False
    )
    return grid_sample(images_BCZYX, grid_BZYXD, padding_mode="border", align_corners=False)
