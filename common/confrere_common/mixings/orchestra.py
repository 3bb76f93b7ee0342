"""Orchestra: images are told apart by centres that all sites found together. https://arxiv.org/abs/2205.11506.

A site sends the centres of 16 clusters of equal size among its teacher's last projections; rule
'orchestra' clusters all sites' centres into 128 global ones, C. Added to the method's loss is
-sum softmax(C t1 / T) log softmax(C z2 / T), t1 the teacher's projection of one view, z2 the
model's of the other, and the cross-entropy of telling by how many quarters a view was turned. The
paper's loss is these two alone (``own`` 0). Its first round only clusters; here the method then
trains by its own loss and by the turns.

Centres are a release of features: a mean of 8 images, where 128 are remembered. The paper calls
that k-anonymity, which is no guarantee against who knows the others: refused beside ``privacy``.

Shapes: B images, M remembered, K centres, C channels, [Z] Y X voxels, F features.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax, normalize, softmax

from confrere_common.errors import ConfigError
from confrere_common.method import Method
from confrere_common.mixing import Kept, Mixing, Visit, images_among
from confrere_common.parts.clusters import equal_centres
from confrere_common.parts.contrast import exact
from confrere_common.section import section
from confrere_common.weights import Weights

CENTRES, LOCAL = "orchestra.centres", "orchestra.local"
"""Names of what travels: the global centres, and the difference that a site's own make."""


class Orchestra(Mixing):
    """Each image's loss depends on it alone, but the centres that leave are made of images."""

    private = False
    needs = ("projector", "teacher")
    rule = "orchestra"
    leaves = "centres of small groups of images' features (of 8 images, by default)"

    @section
    class Config:
        """Defaults are the authors', but for ``own``."""

        own: Annotated[float, Field(ge=0)] = 1.0
        """Strength of the method's own loss. Paper: 0."""

        temperature: Annotated[float, Field(gt=0)] = 0.1
        """Likenesses to centres are divided by it."""

        centres: Annotated[int, Field(ge=2)] = 128
        """Global centres."""

        local: Annotated[int, Field(ge=2)] = 16
        """Centres that a site sends."""

        memory: Annotated[int, Field(ge=2)] = 128
        """Projections that a site remembers to find them in."""

    config: Config

    def __init__(self, config: Config, visit: Visit) -> None:
        super().__init__(config, visit)
        device = next(visit.method.parameters()).device
        self.centres_KF = visit.given[CENTRES].to(device)
        width = self.centres_KF.shape[1]
        self.memory_MF = visit.kept.get("memory", torch.zeros(0, width)).to(device)

    @classmethod
    def carried(cls, config: Config, method: Method) -> nn.Module:
        """Return global centres, the place of a site's own, and what tells turns apart.

        ConfigError where the method's teacher is none of encoder and projector.
        """
        _must_mirror(method)
        widths = [m.out_features for m in method.projector.modules() if isinstance(m, nn.Linear)]  # type: ignore[union-attr]
        found = nn.Module()
        found.register_buffer("centres", normalize(torch.randn(config.centres, widths[-1])))
        found.register_buffer("local", torch.zeros(config.local, widths[-1]))
        found.turns = nn.Linear(widths[-1], 4)
        return found

    def losses(self, own_B: Tensor, *views: Tensor) -> Tensor:
        """Return the losses: the method's times ``own``, the centres', the turns'."""
        method = self.visit.method
        one_BCZYX, two_BCZYX = images_among(method, views)[:2]
        with torch.no_grad():
            target_BF = normalize(method.teacher(one_BCZYX).float())  # type: ignore[operator]
        self._remember(target_BF)
        losses_B = self.config.own * own_B + self._turned(two_BCZYX)
        if self.visit.round == 1:
            return losses_B
        guess_BF = normalize(method.projector(method.encoder(two_BCZYX)).float())  # type: ignore[operator]
        heat, centres_FK = self.config.temperature, self.centres_KF.T
        with exact(guess_BF):
            target_BK = softmax(target_BF @ centres_FK / heat, 1)
            guess_BK = log_softmax(guess_BF @ centres_FK / heat, 1)
        return losses_B - (target_BK * guess_BK).sum(1)

    def sent(self, trained: Weights) -> Weights:
        """Return the weights, with this site's own centres in their place."""
        if not len(self.memory_MF):
            return trained
        found_KF = equal_centres(self.memory_MF, self.config.local, self.visit.generator)
        given = self.visit.given
        return {**trained, CENTRES: given[CENTRES], LOCAL: given[LOCAL] + found_KF.cpu()}

    def keep(self, trained: Weights) -> Kept:  # noqa: ARG002
        """Return what is remembered."""
        return {"memory": self.memory_MF.cpu()} if len(self.memory_MF) else {}

    def _remember(self, target_BF: Tensor) -> None:
        self.memory_MF = torch.cat([self.memory_MF, target_BF])[-self.config.memory :]

    def _turned(self, images_BCZYX: Tensor) -> Tensor:
        """Return how badly it is told by how many quarters each image was turned, in Y and X."""
        method = self.visit.method
        drawn = torch.randint(0, 4, (len(images_BCZYX),), generator=self.visit.generator)
        turns_B = drawn.to(images_BCZYX.device)
        turned_BCZYX = torch.stack(
            [torch.rot90(one, int(k), (-2, -1)) for one, k in zip(images_BCZYX, drawn, strict=True)]
        )
        features_BF = method.projector(method.encoder(turned_BCZYX))  # type: ignore[operator]
        logits_B4 = method.orchestra.turns(features_BF)  # type: ignore[union-attr, operator]
        return cross_entropy(logits_B4.float(), turns_B, reduction="none")


def _must_mirror(method: Method) -> None:
    student = nn.Sequential(method.encoder, method.projector).state_dict()  # type: ignore[arg-type]
    teacher = method.teacher.state_dict()  # type: ignore[union-attr]
    if [tensor.shape for tensor in teacher.values()] != [t.shape for t in student.values()]:
        raise ConfigError(
            [
                "federation.mixing 'orchestra' compares the model's projections with the "
                "teacher's, and this method's teacher makes none: choose method byol."
            ]
        )
