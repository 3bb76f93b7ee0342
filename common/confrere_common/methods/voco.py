"""VoCo: a crop tells where in its image it lies, by likeness. https://arxiv.org/abs/2402.17300.

Shapes: B images, C channels, [Z] Y X voxels (Z only in 3-D), K crops of the grid, J = K + 1 crops,
A axes in the order X, Y, [Z], F features.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, normalize

from confrere_common.encoder import Encoder
from confrere_common.method import Augment, Method
from confrere_common.parts.heads import in_one_pass, perceptron
from confrere_common.section import section


class Voco(Method):
    """Anatomy lies where it lies: a crop looks like each part of its image as far as it overlaps.

    All comparisons are within one image, so images stay apart. It suits what is always laid out
    alike (CT of a trunk, radiographs), not histology. The paper is about volumes; nothing in it
    needs a third axis, so images of 2-D are taken, too. Crops, a part of the plane and all of Z,
    are enlarged to the image's size, since an encoder takes images of one size; a step costs K + 1
    looks at an image. The crops of the grid are no learners when likeness is told (their features
    are cut off from that gradient); they learn to be unlike each other. The paper's moving-average
    teacher is left out.
    """

    per_image = True

    @section
    class Config:
        """Defaults are the paper's, but for the widths."""

        grid: Annotated[int, Field(ge=2, le=8)] = 4
        """Crops along each side of the plane. Paper: 4 (3 does nearly as well, and costs half)."""

        unlike: Annotated[float, Field(gt=0)] = 1.0
        """Weight of how alike the crops of the grid are. Paper: 1."""

        hidden: Annotated[int, Field(ge=1)] = 512
        """Features between the two layers of the projector. Paper: 2048."""

        out: Annotated[int, Field(ge=2)] = 128
        """Features that are compared. Paper: 2048."""

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.projector = perceptron((encoder.width, config.hidden, config.out))

    def views(
        self, images_BCZYX: Tensor, augment: Augment, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Return J crops, the random one first, and what each of the grid has of that, (B, K)."""
        whole_BCZYX = augment(images_BCZYX, generator)
        count, grid = len(whole_BCZYX), self.config.grid
        chance_B2 = torch.rand(count, 2, generator=generator, device=generator.device)
        place_B2 = (chance_B2 * (grid - 1)).to(whole_BCZYX.device)
        lines = torch.arange(float(grid), device=place_B2.device)
        tiles_K2 = torch.cartesian_prod(lines, lines)
        places_BJ2 = torch.cat([place_B2[:, None], tiles_K2.expand(count, -1, -1)], dim=1)
        crops = [cut(whole_BCZYX, place_B2, grid) for place_B2 in places_BJ2.unbind(1)]
        return *crops, overlap(place_B2, tiles_K2)

    def losses(self, *views: Tensor) -> Tensor:
        """Return how far likeness is from overlap, plus how alike the grid's crops are.

        0 if a crop is as like each crop of the grid as it overlaps it, and these are unlike.
        """
        *crops, overlap_BK = views
        own_BF, *tiles = (normalize(one_BF, dim=1) for one_BF in in_one_pass(self._project, *crops))
        tiles_BKF = torch.stack(tiles, dim=1)
        alike_BK = (tiles_BKF.detach() * own_BF[:, None]).sum(2).relu()
        missed_B = _missed(alike_BK, overlap_BK.to(alike_BK.dtype))
        return missed_B + self.config.unlike * _alike(tiles_BKF)

    def _project(self, images_BCZYX: Tensor) -> Tensor:
        projected_BF: Tensor = self.projector(self.encoder(images_BCZYX))
        return projected_BF


def cut(images_BCZYX: Tensor, place_B2: Tensor, grid: int) -> Tensor:
    """Return of each image the crop at *place* (X, Y, in crops from the low corner), enlarged.

    A crop has 1 / *grid* of each side of the plane, and all of Z.
    """
    count, axes = len(images_BCZYX), images_BCZYX.dim() - 2
    scale_A = place_B2.new_tensor([1 / grid, 1 / grid, 1.0][:axes])
    middle_BA = place_B2.new_zeros(count, axes)
    middle_BA[:, :2] = (2 * place_B2 + 1) / grid - 1
    affine_BAE = torch.cat(
        [torch.diag(scale_A).expand(count, -1, -1), middle_BA[..., None]], dim=2
    ).to(images_BCZYX)
    sight = affine_grid(affine_BAE, list(images_BCZYX.shape), align_corners=False)
    return grid_sample(images_BCZYX, sight, padding_mode="border", align_corners=False)


def overlap(place_B2: Tensor, tiles_K2: Tensor) -> Tensor:
    """Return what part of the crop at *place* each crop of the grid has, (B, K); they sum to 1."""
    common_BK2 = (1 - (place_B2[:, None] - tiles_K2).abs()).clamp(min=0)
    return common_BK2.prod(2)


def _missed(alike_BK: Tensor, overlap_BK: Tensor) -> Tensor:
    """Return the paper's loss of likeness, by overlap, plus the square of what has none.

    A step back from the pole of the logarithm keeps a wholly wrong likeness finite.
    """
    apart_BK = (overlap_BK - alike_BK).abs().clamp(max=1 - 1e-4)
    near_B = (overlap_BK * -(1 - apart_BK).log()).sum(1) / overlap_BK.sum(1)
    free_BK = (overlap_BK == 0).to(alike_BK.dtype)
    far_B = (free_BK * alike_BK.square()).sum(1) / free_BK.sum(1).clamp(min=1)
    return near_B + far_B


def _alike(tiles_BKF: Tensor) -> Tensor:
    """Return the mean absolute cosine between different crops of the grid, (B,)."""
    with torch.autocast(tiles_BKF.device.type, enabled=False):
        alike_BKK = (tiles_BKF @ tiles_BKF.transpose(1, 2)).abs()
    crops = tiles_BKF.shape[1]
    others_KK = 1 - torch.eye(crops, dtype=alike_BKK.dtype, device=alike_BKK.device)
    return (alike_BKK * others_KK).sum((1, 2)) / (crops * (crops - 1))
