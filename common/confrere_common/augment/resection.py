"""Simulated resections: a cavity with a rough surface and a soft edge, cut into an image.

After Perez-Garcia et al. 2021 (https://doi.org/10.1007/s11548-021-02420-2), without its atlas: a
cavity lies anywhere in the foreground that Otsu's threshold finds, or in what a parcellation
allows, if one is given. Deviations, all for that it needs no mesh and works in 2-D: the surface is
a function of the direction (random waves in four octaves) in place of a displaced polyhedron; a
plane's cavity has the radius that the sphere of the drawn volume has; what the foreground cuts off
is not searched for its largest piece.

Shapes: B images, C channels, [Z] Y X voxels (Z only in 3-D), A axes, P voxels in a row, O octaves.
"""

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d, max_pool3d

from confrere_common.augment import intensity
from confrere_common.parts import otsu

VOLUMES = (1e-4, 9.8e-3)
"""844 to 83,757 mm3, the 1st and 99th percentile of cavities in EPISURG, as parts of the volumes of
193 x 229 x 193 mm in which the paper cuts them."""

Texture: TypeAlias = Literal["csf", "dark", "random"]

_OCTAVES = 4
_COARSEST = 1 / 3
_ROUGHNESS = 0.3
_SHALLOWEST = 0.2
_LEAST_RADIUS = 1.0
_WET, _DARK = 0.05, 0.01
_WIDEST_EDGE = 1.0


@dataclass(frozen=True, kw_only=True)
class Cavities:
    """What was drawn for each image of a batch."""

    volume_B: Tensor
    """Part of an image's volume that a cavity takes, before it is roughened and cut off."""
    aspect_B: Tensor
    """How much longer than a ball's its second semi-axis is."""
    turn_BAA: Tensor
    """Its rotation."""
    place_B: Tensor
    """Which of the allowed voxels is its centre, 0 to 1."""
    wave_BOA: Tensor
    """Direction and frequency of the waves on its surface."""
    phase_BO: Tensor
    sigma_B: Tensor
    """Width of its edge in voxels."""
    level_B: Tensor
    """Which percentile of the intensities fills it if the texture is random, 0 to 1."""
    noise_seed: int
    """Where the noise inside comes from."""


def draw_cavities(
    images: int,
    axes: int,
    generator: torch.Generator,
    *,
    volumes: tuple[float, float] = VOLUMES,
    aspects: tuple[float, float] = (1.0, 2.0),
    edges: tuple[float, float] = (0.5, 1.0),
) -> Cavities:
    """Draw a cavity for each of so many images; the defaults are the paper's."""

    def rand(*shape: int) -> Tensor:
        return torch.rand(images, *shape, generator=generator, device=generator.device).cpu()

    def between(limits: tuple[float, float]) -> Tensor:
        return limits[0] + (limits[1] - limits[0]) * rand()

    waves = axes + 1
    directions = torch.randn(
        images, _OCTAVES * waves, axes, generator=generator, device=generator.device
    ).cpu()
    octaves_O = torch.arange(_OCTAVES).repeat_interleave(waves)
    turns, _ = torch.linalg.qr(directions[:, :axes] + 1e-6 * torch.eye(axes))
    return Cavities(
        volume_B=between(volumes),
        aspect_B=between(aspects),
        turn_BAA=turns,
        place_B=rand(),
        wave_BOA=directions * (math.tau * _COARSEST * 2**octaves_O)[:, None],
        phase_BO=math.tau * rand(_OCTAVES * waves),
        sigma_B=between(edges),
        level_B=rand().mul(99).floor().add(1) / 100,
        noise_seed=int(torch.randint(2**62, (), generator=generator, device=generator.device)),
    )


@torch.no_grad()
def resect(
    images_BCZYX: Tensor,
    cavities: Cavities,
    *,
    allowed_B1ZYX: Tensor | None = None,
    texture: Texture = "csf",
    roughness: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Return the images with a cavity cut into each, and where it is (bool, (B, 1, [Z] Y X)).

    Cavities keep to *allowed* (bool; a parcellation's grey and white matter), by default to the
    foreground, and each has a voxel at least. They are filled with noise around the 5th percentile
    of the allowed intensities, as fluid has in T1 MRI ("csf"), evenly with the 1st ("dark"), or
    with any percentile ("random").
    """
    allowed_B1ZYX = foreground(images_BCZYX) if allowed_B1ZYX is None else allowed_B1ZYX
    any_B = allowed_B1ZYX.flatten(1).any(1).view(-1, *[1] * (images_BCZYX.dim() - 1))
    allowed_B1ZYX = allowed_B1ZYX | ~any_B
    mask_B1ZYX = _inside(cavities, allowed_B1ZYX, roughness) & allowed_B1ZYX
    side = min(images_BCZYX.shape[-2:])
    alpha_B1ZYX = intensity.blur(mask_B1ZYX.float(), cavities.sigma_B / side, _WIDEST_EDGE / side)
    filling_BCZYX = _filling(images_BCZYX, allowed_B1ZYX, cavities, texture)
    alpha_B1ZYX = alpha_B1ZYX.to(images_BCZYX.dtype)
    return images_BCZYX.lerp(filling_BCZYX, alpha_B1ZYX.expand_as(images_BCZYX)), mask_B1ZYX


def foreground(images_BCZYX: Tensor) -> Tensor:
    """Return Otsu's object, closed over gaps of up to an eighth of a side (bool, (B, 1, [Z] Y X)).

    Only the brightest tissue may pass the threshold; a cavity is not to be cut up by its texture.
    """
    object_B1ZYX = otsu.objects(otsu.grey(images_BCZYX)).float()
    grown_B1ZYX = _grown(object_B1ZYX)
    return -_grown(-grown_B1ZYX) > 0.5


def _grown(values_B1ZYX: Tensor) -> Tensor:
    """Return the largest value within a sixteenth of each side, one axis after the other."""
    volume = values_B1ZYX.dim() == 5
    pool = max_pool3d if volume else max_pool2d
    for axis, side in enumerate(values_B1ZYX.shape[2:]):
        reach = [side // 16 if one == axis else 0 for one in range(3 if volume else 2)]
        values_B1ZYX = pool(values_B1ZYX, [2 * one + 1 for one in reach], 1, reach)
    return values_B1ZYX


def _inside(cavities: Cavities, allowed_B1ZYX: Tensor, roughness: float) -> Tensor:
    """Return the voxels within each cavity's surface."""
    size, device = tuple(allowed_B1ZYX.shape[2:]), allowed_B1ZYX.device
    lines = [torch.arange(side, device=device, dtype=torch.float32) for side in size]
    cells_PA = torch.stack(torch.meshgrid(*lines, indexing="ij"), dim=-1).view(-1, len(size))
    apart_BPA = cells_PA - cells_PA[_centres(cavities.place_B.to(device), allowed_B1ZYX)][:, None]
    shaped_BPA = (apart_BPA @ cavities.turn_BAA.to(device)) / _axes(cavities, size).to(device)
    distance_BP1 = shaped_BPA.norm(dim=2, keepdim=True)
    heading_BPA = shaped_BPA / distance_BP1.clamp(min=1e-6)
    height_BP = _heights(heading_BPA, cavities)
    surface_BP = (1 + _ROUGHNESS * roughness * height_BP).clamp(min=_SHALLOWEST)
    inside_BP: Tensor = distance_BP1[..., 0] <= surface_BP
    return inside_BP.view_as(allowed_B1ZYX)


def _heights(heading_BPA: Tensor, cavities: Cavities) -> Tensor:
    """Return how far the surface rises in each direction, of variance 1; a wave at a time."""
    waves = cavities.phase_BO.shape[1] // _OCTAVES
    fading_O = 0.5 ** torch.arange(_OCTAVES).repeat_interleave(waves)
    fading_O /= (fading_O.square().sum() / 2).sqrt()
    height_BP = torch.zeros_like(heading_BPA[..., 0])
    columns = zip(cavities.wave_BOA.unbind(1), cavities.phase_BO.unbind(1), strict=True)
    for fading, (wave_BA, phase_B) in zip(fading_O.tolist(), columns, strict=True):
        along_BP = (heading_BPA @ wave_BA.to(heading_BPA)[..., None])[..., 0]
        height_BP += fading * (along_BP + phase_B.to(heading_BPA)[:, None]).cos()
    return height_BP


def _centres(place_B: Tensor, allowed_B1ZYX: Tensor) -> Tensor:
    """Return the index (B,) of one allowed voxel for each image."""
    counts_BP = allowed_B1ZYX.flatten(1).cumsum(1)
    wanted_B1 = (place_B[:, None] * counts_BP[:, -1:]).floor() + 1
    return (counts_BP >= wanted_B1.clamp(max=counts_BP[:, -1:])).to(torch.uint8).argmax(1)


def _axes(cavities: Cavities, size: tuple[int, ...]) -> Tensor:
    """Return the semi-axes in voxels, (B, 1, A): those of the paper, and of its middle plane."""
    side = math.prod(size) ** (1 / len(size))
    radius_B = (3 * cavities.volume_B / (4 * math.pi)) ** (1 / 3) * side
    if len(size) == 3:
        shape_BA = torch.stack([cavities.aspect_B**power for power in (0, 1, -1)], dim=1)
    else:
        shape_BA = torch.stack([cavities.aspect_B**power for power in (0.5, -0.5)], dim=1)
    axes_BA: Tensor = radius_B[:, None] * shape_BA
    return axes_BA.clamp(min=_LEAST_RADIUS)[:, None]


def _filling(
    images_BCZYX: Tensor, allowed_B1ZYX: Tensor, cavities: Cavities, texture: Texture
) -> Tensor:
    """Return what cavities are filled with, everywhere."""
    shape = (*images_BCZYX.shape[:2], *[1] * (images_BCZYX.dim() - 2))
    values_BCP = images_BCZYX.flatten(2).where(allowed_B1ZYX.flatten(2), torch.inf).sort(2).values
    counts_B = allowed_B1ZYX.flatten(1).sum(1)

    def percentile(part_B: Tensor) -> Tensor:
        place_B = (part_B.to(counts_B.device) * (counts_B - 1)).round().long()
        return values_BCP.gather(2, place_B.view(-1, 1, 1).expand(-1, shape[1], 1)).view(shape)

    part_B = {"csf": _WET, "dark": _DARK}.get(texture)
    level = percentile(
        cavities.level_B if part_B is None else torch.full_like(counts_B, 0) + part_B
    )
    if texture != "csf":
        return level.expand_as(images_BCZYX)
    # Half of the way from the 5th percentile to the darkest is a standard deviation or two.
    spread = (level - percentile(torch.zeros_like(counts_B))) / 2
    source = torch.Generator(images_BCZYX.device).manual_seed(cavities.noise_seed)
    noise = torch.randn(images_BCZYX.shape, generator=source, device=images_BCZYX.device)
    return level + spread * noise.to(images_BCZYX.dtype)
