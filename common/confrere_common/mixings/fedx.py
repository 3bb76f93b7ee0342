"""FedX: a site's model learns from itself and from the global one, by pairs and by relations. https://arxiv.org/abs/2207.09158.

Adds NT(h(z1), g2) + JS(z1, z2; z_r) + JS(h(z1), h(z2); g_r) to the method's own loss, which stands
for the paper's NT(z1, z2): z are projections here, g those of the global model as it came, h a head
of its own, r images of the step before (the paper draws a second batch; at a round's first step,
the relations are left out). Defaults from the authors' code.

Shapes: B images, R references, C channels, [Z] Y X voxels, F features.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from confrere_common.method import Method
from confrere_common.mixing import Mixing, Visit, images_among
from confrere_common.parts.contrast import nt_xent, relation
from confrere_common.parts.heads import perceptron
from confrere_common.section import section


class Fedx(Mixing):
    """Compares images with each other; a step passes the encoder about five times more often."""

    private = False
    needs = ("projector",)

    @section
    class Config:
        """Defaults are the authors'."""

        weight: Annotated[float, Field(ge=0)] = 1.0
        """Strength of the three terms together."""

        temperature: Annotated[float, Field(gt=0)] = 0.1
        """Likenesses are divided by it, in pairs and in relations."""

    config: Config

    def __init__(self, config: Config, visit: Visit) -> None:
        super().__init__(config, visit)
        device = next(visit.method.parameters()).device
        self.globally = {
            part: {
                name.removeprefix(f"{part}."): tensor.to(device)
                for name, tensor in visit.given.items()
                if name.startswith(f"{part}.")
            }
            for part in ("encoder", "projector")
        }
        self.references_BCZYX: Tensor | None = None

    @classmethod
    def carried(cls, config: Config, method: Method) -> nn.Module:  # noqa: ARG003
        """Return the head h, which is trained at the sites and shared."""
        widths = [m.out_features for m in method.projector.modules() if isinstance(m, nn.Linear)]  # type: ignore[union-attr]
        return perceptron((widths[-1], widths[-1], widths[-1]))

    def losses(self, own_B: Tensor, *views: Tensor) -> Tensor:
        """Return the losses, with the pairs' and relations' added."""
        one_BCZYX, two_BCZYX = images_among(self.visit.method, views)[:2]
        head: nn.Module = self.visit.method.fedx  # type: ignore[assignment]
        z1_BF, z2_BF = self._local(one_BCZYX), self._local(two_BCZYX)
        h1_BF, h2_BF = head(z1_BF), head(z2_BF)
        heat = self.config.temperature
        added_B = nt_xent(h1_BF, self._global(two_BCZYX), heat)
        if self.references_BCZYX is not None:
            added_B = added_B + relation(z1_BF, z2_BF, self._local(self.references_BCZYX), heat)
            added_B = added_B + relation(h1_BF, h2_BF, self._global(self.references_BCZYX), heat)
        self.references_BCZYX = two_BCZYX.detach()
        return own_B + self.config.weight * added_B

    def _local(self, images_BCZYX: Tensor) -> Tensor:
        method = self.visit.method
        found_BF: Tensor = method.projector(method.encoder(images_BCZYX))  # type: ignore[operator]
        return found_BF

    @torch.no_grad()
    def _global(self, images_BCZYX: Tensor) -> Tensor:
        method = self.visit.method
        features_BF = functional_call(method.encoder, self.globally["encoder"], (images_BCZYX,))
        projector: nn.Module = method.projector  # type: ignore[assignment]
        found_BF: Tensor = functional_call(projector, self.globally["projector"], (features_BF,))
        return found_BF
