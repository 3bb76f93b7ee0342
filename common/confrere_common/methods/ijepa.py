"""I-JEPA: foretell what a teacher sees in hidden blocks. https://arxiv.org/abs/2301.08243.

Shapes: B images, C channels, [Z] Y X voxels (Z only in 3-D), N patches, n patches of the context,
K target blocks, T patches of one, D features of a token, P those of one in the predictor,
R = K * B rows, the block slowest.
"""

from typing import Annotated, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import layer_norm, smooth_l1_loss

from confrere_common.encoder import Encoder
from confrere_common.encoders.vit import Vit
from confrere_common.method import Augment, Method
from confrere_common.parts import teacher
from confrere_common.parts.blocks import among, draw_blocks, patches_of, take
from confrere_common.parts.heads import Learned, whole
from confrere_common.parts.masking import over_hidden
from confrere_common.parts.positions import sincos
from confrere_common.patched import must_be_patched, uneven
from confrere_common.section import section


class Ijepa(Method):
    """What is foretold are features, not voxels, so noise and texture need not be remembered.

    Deviations: blocks and context have equally many patches in every image (the paper draws sizes
    and cuts a batch to its smallest; then an image would depend on the others), targets have ragged
    edges (``blocks``), and the context is chosen from all that no target covers, not from one large
    block of it. The paper needs no augmentation; here the run's is used. Errors are smooth L1 of
    normalised targets, as in the authors' code. The teacher's momentum rises by a cosine, not by a
    line.
    """

    per_image = True
    local = ("teacher",)
    encoder_kinds = ("vit",)

    @section
    class Config:
        """Defaults are the paper's, but for the predictor."""

        targets: Annotated[int, Field(ge=1)] = 4
        """Blocks to foretell in each image. Paper: 4."""

        target_part: Annotated[float, Field(gt=0, lt=1)] = 0.175
        """Part of the patches that is in one block. Paper: drawn from 0.15 to 0.2."""

        context_part: Annotated[float, Field(gt=0, lt=1)] = 0.4
        """Part of the patches that is seen. Paper: 0.85 to 1 less the targets, near 0.4. A patch
        that is seen is not foretold, should targets leave too few."""

        momentum: Annotated[float, Field(ge=0, le=1)] = 0.996
        """How much of itself the teacher keeps at the first step; 1 at the last. Paper: 0.996."""

        predictor_depth: Annotated[int, Field(ge=1)] = 3
        """Blocks of the predictor. Paper: 6 to 16 beside encoders of 12 to 40."""

        predictor_dim: Annotated[int, Field(ge=8)] = 96
        """Features of a token in the predictor. Paper: 384, half of those of its smallest
        encoder."""

        predictor_heads: Annotated[int, Field(ge=1)] = 3
        """Attention heads in the predictor; must divide predictor_dim. Paper: 12."""

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        vit = must_be_patched(
            encoder,
            "ijepa",
            "it hides patches from the encoder, which '{}' cannot leave out. Choose encoder vit or "
            "method simmim, which trains every encoder.",
            uneven("predictor", config.predictor_dim, config.predictor_heads),
        )
        self.config = config
        self.encoder = encoder
        self.cells = torch.Size(vit.grid).numel()
        self.per_block = patches_of(vit.grid, config.target_part)
        self.shown = min(patches_of(vit.grid, config.context_part), self.cells - 1)
        self.predictor = _Predictor(config, vit)
        self.teacher = teacher.teacher_of(encoder)

    def views(
        self, images_BCZYX: Tensor, augment: Augment, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Return the augmented images and indices of patches: targets (B, K, T), context (B, n)."""
        augmented_BCZYX = augment(images_BCZYX, generator)
        count = len(augmented_BCZYX)
        grid = cast(Vit, self.encoder).grid
        targets_BKT = draw_blocks(count, grid, self.per_block, self.config.targets, generator)
        covered_BN = among(targets_BKT.flatten(1), self.cells)
        order_BN = torch.rand(count, self.cells, generator=generator, device=generator.device)
        context_Bn = (order_BN + covered_BN).argsort(1)[:, : self.shown]
        place = augmented_BCZYX.device
        return augmented_BCZYX, targets_BKT.to(place), context_Bn.to(place)

    def losses(self, *views: Tensor) -> Tensor:
        """Return the mean error over all target patches: 0 if each is foretold exactly."""
        images_BCZYX, targets_BKT, context_Bn = views
        guesses_RTD = self.foretell(images_BCZYX, targets_BKT, context_Bn)
        with torch.no_grad():
            due_BND = self.sight(images_BCZYX)
        count, blocks, patches = targets_BKT.shape
        due_BTD = take(due_BND, targets_BKT.flatten(1))
        due_RTD = due_BTD.reshape(count, blocks, patches, -1).transpose(0, 1).flatten(0, 1)
        errors_RT = smooth_l1_loss(guesses_RTD, due_RTD, reduction="none").mean(2)
        errors_BKT = errors_RT.reshape(blocks, count, patches).transpose(0, 1)
        seen_BN = among(context_Bn, self.cells)
        unseen_BKT = ~seen_BN.gather(1, targets_BKT.flatten(1)).view_as(errors_BKT)
        return over_hidden(errors_BKT, unseen_BKT)

    def foretell(self, images_BCZYX: Tensor, targets_BKT: Tensor, context_Bn: Tensor) -> Tensor:
        """Return a guess of every target patch from the context, (R, T, D)."""
        vit = cast(Vit, self.encoder)
        seen_BnD = vit.encode(take(vit.embed(images_BCZYX), context_Bn))
        guesses_RTD: Tensor = self.predictor(seen_BnD, context_Bn, targets_BKT)
        return whole(guesses_RTD)

    def sight(self, images_BCZYX: Tensor) -> Tensor:
        """Return what the teacher sees in each patch of the whole image, normalised, (B, N, D)."""
        vit = cast(Vit, self.teacher[0])
        tokens_BND = vit.encode(vit.embed(images_BCZYX))
        exact_BND = whole(tokens_BND)
        return layer_norm(exact_BND, exact_BND.shape[-1:])

    def after_step(self, progress: float) -> None:
        """Move the teacher towards the encoder, less and less as *progress* nears 1."""
        kept = teacher.momentum(self.config.momentum, progress)
        teacher.follow(self.teacher, self.encoder, kept=kept)

    def start_local(self) -> None:
        """Make the teacher an exact copy of the encoder."""
        teacher.become(self.teacher, self.encoder)


class _Predictor(nn.Module):
    """A narrow transformer from the context and the places of a block to the block's features."""

    def __init__(self, config: Ijepa.Config, vit: Vit) -> None:
        super().__init__()
        dim, heads, depth = config.predictor_dim, config.predictor_heads, config.predictor_depth
        small = Vit.Config(dim=dim, heads=heads, depth=depth, patch=vit.patch)
        inner = Vit(small, channels=vit.channels, size=vit.size)
        self.narrow = nn.Linear(vit.dim, dim)
        self.unseen = Learned(dim)
        self.blocks, self.norm = inner.blocks, inner.norm
        self.widen = nn.Linear(dim, vit.dim)
        self.positions_NP: Tensor
        self.register_buffer("positions_NP", sincos(vit.grid, dim), persistent=False)

    def forward(self, seen_BnD: Tensor, context_Bn: Tensor, targets_BKT: Tensor) -> Tensor:
        """Return guesses (R, T, D), each block foretold apart from the others."""
        blocks, patches = targets_BKT.shape[1:]
        seen_BnP = self.narrow(seen_BnD) + self.positions_NP[context_Bn]
        places_RTP = self.positions_NP[targets_BKT.transpose(0, 1).flatten(0, 1)]
        asked_RTP = self.unseen(places_RTP) + places_RTP
        tokens_RnP = torch.cat([seen_BnP.repeat(blocks, 1, 1), asked_RTP], dim=1)
        for block in self.blocks:
            tokens_RnP = block(tokens_RnP)
        guesses_RTD: Tensor = self.widen(self.norm(tokens_RnP[:, -patches:]))
        return guesses_RTD
