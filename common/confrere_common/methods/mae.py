"""MAE: a light decoder paints the patches that an encoder never saw. https://arxiv.org/abs/2111.06377.

Shapes: B images, C channels, [Z] Y X voxels (Z only in 3-D), N patches, n shown patches, D features
of a token, P voxels and channels of a patch.
"""

from typing import Annotated, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from confrere_common.encoder import Encoder
from confrere_common.encoders.vit import Vit
from confrere_common.method import Augment, Method
from confrere_common.parts.blocks import take
from confrere_common.parts.heads import Learned
from confrere_common.parts.masking import draw_hidden, hidden_of, normalised, over_hidden, patchify
from confrere_common.parts.positions import sincos
from confrere_common.patched import must_be_patched, uneven
from confrere_common.section import section


class Mae(Method):
    """The encoder works on a quarter of the patches only: its steps are the cheapest of all.

    The target is the augmented, normalised image. It cannot collapse, but needs many steps.
    """

    per_image = True
    encoder_kinds = ("vit",)

    @section
    class Config:
        """Defaults are the paper's, but for the decoder."""

        ratio: Annotated[float, Field(gt=0, lt=1)] = 0.75
        """Part of the patches that is hidden. Paper: 0.75; Fed-MAE on medical images took 0.6."""

        norm_target: bool = True
        """Whether each target patch is normalised to mean 0 and variance 1 (paper: better)."""

        decoder_depth: Annotated[int, Field(ge=1)] = 2
        """Blocks of the decoder. Paper: 8, of 512 features; beside a small encoder that is the
        larger network, and makes a step slower than one of simmim instead of 3 times faster."""

        decoder_dim: Annotated[int, Field(ge=8)] = 128
        """Features of a token in the decoder. Paper: 512."""

        decoder_heads: Annotated[int, Field(ge=1)] = 4
        """Attention heads in the decoder; must divide decoder_dim. Paper: 16."""

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        vit = must_be_patched(
            encoder,
            "mae",
            "it hides patches from the encoder, which '{}' cannot leave out. Choose encoder vit or "
            "method simmim, which trains every encoder.",
            uneven("decoder", config.decoder_dim, config.decoder_heads),
        )
        self.config = config
        self.encoder = encoder
        self.patch = (vit.patch,) * len(vit.grid)
        self.cells = torch.Size(vit.grid).numel()
        self.shown = self.cells - hidden_of(self.cells, config.ratio)
        self.decoder = _Decoder(config, vit)

    def views(
        self, images_BCZYX: Tensor, augment: Augment, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Return the augmented images and which of their patches are hidden, (B, N)."""
        augmented_BCZYX = augment(images_BCZYX, generator)
        return augmented_BCZYX, draw_hidden(
            augmented_BCZYX, self.cells, self.config.ratio, generator
        )

    def losses(self, *views: Tensor) -> Tensor:
        """Return the mean squared error over the hidden patches: 0 if they are painted exactly."""
        images_BCZYX, hidden_BN = views
        guesses_BNP = self.paint(images_BCZYX, hidden_BN)
        targets_BNP = patchify(images_BCZYX.float(), self.patch)
        if self.config.norm_target:
            targets_BNP = normalised(targets_BNP)
        return over_hidden((guesses_BNP.float() - targets_BNP).square(), hidden_BN[..., None])

    def paint(self, images_BCZYX: Tensor, hidden_BN: Tensor) -> Tensor:
        """Return a guess of every patch, (B, N, P), from those that are not hidden."""
        vit = cast(Vit, self.encoder)
        shown_first_BN = hidden_BN.to(torch.uint8).argsort(dim=1, stable=True)
        shown_Bn = shown_first_BN[:, : self.shown]
        encoded_BnD = vit.encode(take(vit.embed(images_BCZYX), shown_Bn))
        guesses_BNP: Tensor = self.decoder(encoded_BnD, shown_first_BN.argsort(dim=1))
        return guesses_BNP


class _Decoder(nn.Module):
    """A narrow transformer from the encoded patches, in any order, to all patches."""

    def __init__(self, config: Mae.Config, vit: Vit) -> None:
        super().__init__()
        dim, heads, depth = config.decoder_dim, config.decoder_heads, config.decoder_depth
        small = Vit.Config(dim=dim, heads=heads, depth=depth, patch=vit.patch)
        inner = Vit(small, channels=vit.channels, size=vit.size)
        self.narrow = nn.Linear(vit.dim, dim)
        self.unseen = Learned(dim)
        self.blocks, self.norm = inner.blocks, inner.norm
        self.paint = nn.Linear(dim, vit.patch ** len(vit.grid) * vit.channels)
        self.positions_ND: Tensor
        self.register_buffer("positions_ND", sincos(vit.grid, dim), persistent=False)

    def forward(self, encoded_BnD: Tensor, places_BN: Tensor) -> Tensor:
        """Return patches (B, N, P); patch i is token places_BN[:, i], those beyond n are hidden."""
        seen_BnD = self.narrow(encoded_BnD)
        hidden = places_BN.shape[1] - seen_BnD.shape[1]
        unseen_BhD = self.unseen(seen_BnD[:, :1]).expand(-1, hidden, -1)
        tokens_BND = take(torch.cat([seen_BnD, unseen_BhD], dim=1), places_BN)
        tokens_BND = tokens_BND + self.positions_ND
        for block in self.blocks:
            tokens_BND = block(tokens_BND)
        patches_BNP: Tensor = self.paint(self.norm(tokens_BND))
        return patches_BNP
