"""What is known of each voxel goes where its voxel goes: maps moved as a view's image was.

Shapes: B images, C channels, K maps, [Z] Y X voxels (Z only in 3-D).
"""

import torch
from torch import Tensor

from confrere_common.augment import geometry
from confrere_common.augment.draw import draw
from confrere_common.augment.pipeline import Pipeline
from confrere_common.method import Augment


@torch.no_grad()
def moved_alike(
    images_BCZYX: Tensor, maps_BKZYX: Tensor, augment: Augment, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return views, float maps moved as they were, and how far each voxel lies in the image (B, 1).

    Where tissue was cut away maps are 0 and nothing lies inside. The draws of a ``Pipeline`` are
    made a second time from the generator as it was. Any other function is taken to leave every
    voxel in its place.
    """
    maps_BKZYX = maps_BKZYX.float()
    inside_B1ZYX = torch.ones_like(maps_BKZYX[:, :1])
    again = torch.Generator().set_state(generator.get_state())
    if not isinstance(augment, Pipeline):
        return augment(images_BCZYX, generator), maps_BKZYX, inside_B1ZYX
    views_BCZYX, cut_B1ZYX = augment.cut(images_BCZYX, generator)
    ranges, size = augment.ranges, tuple(maps_BKZYX.shape[2:])
    draws = draw(ranges, len(images_BCZYX), augment.channels, again)
    both = torch.cat([maps_BKZYX, inside_B1ZYX], dim=1)
    if geometry.resamples(ranges):
        affine = geometry.affine(draws, size).to(both.device)
        both = geometry.resample(both, affine, geometry.lines(size, both.device), ranges.outside)
    else:
        both = geometry.mirror(both, draws.flips_B3)
    if cut_B1ZYX is not None:
        both = both * ~cut_B1ZYX
    return views_BCZYX, both[:, :-1], both[:, -1:]
