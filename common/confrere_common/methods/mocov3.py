"""MoCo v3: a view finds its twin among a slow copy's sights. https://arxiv.org/abs/2104.02057.

Shapes: B images, C channels, [Z] Y X voxels (Z only in 3-D), F features.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from confrere_common.encoder import Encoder
from confrere_common.method import Augment, Method
from confrere_common.parts import teacher
from confrere_common.parts.heads import in_one_pass, perceptron
from confrere_common.section import section


class Mocov3(Method):
    """Other images of the batch are its negatives, seen by a moving average: wants 64 or more.

    Three deviations. LayerNorm stands for the batch normalisation of projector and predictor. A
    ViT's patch projection is trained; the paper froze it for steadiness in batches of 4096, but
    what is not trained need not travel. There is no queue: it would keep features of patients.
    """

    per_image = False
    local = ("teacher",)

    @section
    class Config:
        """Defaults are the paper's, but for the widths."""

        temperature: Annotated[float, Field(gt=0)] = 0.2
        """Similarities are divided by it. Paper: 0.2."""

        momentum: Annotated[float, Field(ge=0, le=1)] = 0.99
        """How much of itself the teacher keeps at the first step; 1 at the last. Paper: 0.99."""

        hidden: Annotated[int, Field(ge=1)] = 512
        """Features between the layers of projector and predictor. Paper: 4096."""

        out: Annotated[int, Field(ge=2)] = 128
        """Features that are compared. Paper: 256."""

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        hidden, out = config.hidden, config.out
        self.projector = perceptron((encoder.width, hidden, hidden, out))
        self.predictor = perceptron((out, hidden, out))
        self.teacher = teacher.teacher_of(self.encoder, self.projector)

    def views(
        self, images_BCZYX: Tensor, augment: Augment, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Return every image twice, augmented independently."""
        return augment(images_BCZYX, generator), augment(images_BCZYX, generator)

    def losses(self, *views: Tensor) -> Tensor:
        """Return how badly each view of an image finds the teacher's sight of the other.

        It is 0 for a batch of one image.
        """
        query_one_BF, query_two_BF = in_one_pass(self._predict, *views)
        with torch.no_grad():
            key_one_BF, key_two_BF = in_one_pass(self.teacher, *views)
        temperature = self.config.temperature
        found_one_B = info_nce(query_one_BF, key_two_BF, temperature)
        return found_one_B + info_nce(query_two_BF, key_one_BF, temperature)

    def after_step(self, progress: float) -> None:
        """Move the teacher towards the student, less and less as *progress* nears 1."""
        kept = teacher.momentum(self.config.momentum, progress)
        teacher.follow(self.teacher, self.encoder, self.projector, kept=kept)

    def start_local(self) -> None:
        """Make the teacher an exact copy of the student."""
        teacher.become(self.teacher, self.encoder, self.projector)

    def _predict(self, images_BCZYX: Tensor) -> Tensor:
        guesses_BF: Tensor = self.predictor(self.projector(self.encoder(images_BCZYX)))
        return guesses_BF


def info_nce(queries_BF: Tensor, keys_BF: Tensor, temperature: float) -> Tensor:
    """Return 2 t times the cross-entropy of each query's own key among all keys, shape (B,).

    The factor makes the gradient independent of the temperature's scale, as in the paper.
    """
    with torch.autocast(queries_BF.device.type, enabled=False):
        logits_BB = normalize(queries_BF) @ normalize(keys_BF).T / temperature
    own_B = torch.arange(len(logits_BB), device=logits_BB.device)
    return 2 * temperature * cross_entropy(logits_BB, own_B, reduction="none")
