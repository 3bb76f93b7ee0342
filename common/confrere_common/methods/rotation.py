"""Rotation: tell turns; not for what has no upright. https://doi.org/10.3390/diagnostics12081805.

Shapes: B images, C channels, [Z] Y X voxels (Z only in 3-D), T turns, F features, H = half of
them, P voxels and channels of a thumbnail.
"""

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from confrere_common.encoder import Encoder
from confrere_common.method import Augment, Method
from confrere_common.parts.heads import in_one_pass, perceptron
from confrere_common.parts.thumbnail import small, thumbnails
from confrere_common.section import section


class Rotation(Method):
    """One half of the features tells how an image was turned, the other does not change with it.

    Histology, cells and most skin lesions have no upright: there the turn cannot be told, the task
    is harmful, and ``accuracy`` stays near 1 / T. Every round tells by figure ``upright`` how far
    above chance it is, and the report of a run that ends near chance says to take another method.
    The same happens where the augmentation itself turns images by quarters. Radiographs and CT
    have an upright.

    Images are turned in the plane, volumes about their Z axis: by 0, 90, 180 and 270 degrees, or,
    where Y and X differ, by 0 and 180. The losses of the paper (Song et al. 2022) could not be
    read; these follow its description and https://openaccess.thecvf.com/content_CVPR_2019/html/
    Feng_Self-Supervised_Representation_Learning_by_Rotation_Feature_Decoupling_CVPR_2019_paper.html
    but for its discrimination between images, which would couple them. In its place, the invariant
    half alone must paint a thumbnail of the upright image: that it stays the same is worth nothing
    if it tells nothing. (The paper's decoder paints from both halves; the invariant one may then
    be constant.)
    """

    per_image = True
    figures = ("upright",)

    @section
    class Config:
        """The paper's weights are not known; all three terms count alike."""

        invariance: Annotated[float, Field(ge=0)] = 1.0
        """Weight of how far the invariant half moves when an image is turned."""

        painting: Annotated[float, Field(gt=0)] = 1.0
        """Weight of the painted thumbnail's mean absolute error."""

        thumbnail: Annotated[int, Field(ge=2)] = 8
        """Voxels along each side of the thumbnail."""

        hidden: Annotated[int, Field(ge=1)] = 256
        """Features in the layer of the decoder."""

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.turns = (0, 1, 2, 3) if encoder.size[-1] == encoder.size[-2] else (0, 2)
        self.telling = encoder.width // 2
        voxels = torch.Size(small(encoder.size, config.thumbnail)).numel() * encoder.channels
        self.tell = nn.Linear(self.telling, len(self.turns))
        self.decoder = perceptron((encoder.width - self.telling, config.hidden, voxels))

    def views(
        self, images_BCZYX: Tensor, augment: Augment, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Return the augmented images; every turn of them is looked at, so none is drawn."""
        return (augment(images_BCZYX, generator),)

    def losses(self, *views: Tensor) -> Tensor:
        """Return the mean over all turns of three terms: turn told, half unmoved, thumbnail."""
        (images_BCZYX,) = views
        turned_TBH, still_TBH = self._halves(images_BCZYX)
        unit_TBH = normalize(still_TBH, dim=2)
        moved_TB = (unit_TBH - normalize(unit_TBH.mean(0), dim=1)).square().sum(2)
        due_BP = thumbnails(images_BCZYX, self.config.thumbnail)
        painted_TBP: Tensor = self.decoder(still_TBH.flatten(0, 1)).view(*moved_TB.shape, -1)
        missed_TB = (painted_TBP - due_BP).abs().mean(2)
        weigh = self.config
        losses_TB = self._untold(turned_TBH) + weigh.invariance * moved_TB
        losses_B: Tensor = (losses_TB + weigh.painting * missed_TB).mean(0)
        return losses_B

    @torch.no_grad()
    def accuracy(self, *views: Tensor) -> float:
        """Return how many turns of these views are told: 1 is all, 1 / T is chance."""
        turned_TBH, _ = self._halves(views[0])
        told_TB = self.tell(turned_TBH).argmax(2)
        due_T1 = torch.arange(len(self.turns), device=told_TB.device)[:, None]
        return float((told_TB == due_T1).float().mean())

    def told(self, *views: Tensor) -> Mapping[str, float]:
        """Return how far above chance turns are told: 0 is chance (or less), 1 is all."""
        chance = 1 / len(self.turns)
        return {"upright": max(0.0, (self.accuracy(*views) - chance) / (1 - chance))}

    def _halves(self, images_BCZYX: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features of all turns, (T, B, H): the half that tells, and the still one."""
        turned = (torch.rot90(images_BCZYX, turns, (-2, -1)) for turns in self.turns)
        features_TBF = torch.stack(in_one_pass(self.encoder, *turned))
        return features_TBF[..., : self.telling], features_TBF[..., self.telling :]

    def _untold(self, turned_TBH: Tensor) -> Tensor:
        turns, count, _ = turned_TBH.shape
        due_R = torch.arange(turns, device=turned_TBH.device).repeat_interleave(count)
        scores_RT = self.tell(turned_TBH.flatten(0, 1))
        return cross_entropy(scores_RT, due_R, reduction="none").view(turns, count)
