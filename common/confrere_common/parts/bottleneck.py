"""A narrow way through: an image is painted again from the coarsest map, and from little of it.

Finer maps would hand the image through.

Shapes: B images, C channels, M channels of a map, [Z] Y X voxels (Z only in 3-D).
"""

from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from confrere_common.encoder import Encoder
from confrere_common.parts.decoder import Decoder
from confrere_common.parts.heads import whole


class Bottleneck(nn.Module):
    """Narrows an encoder's coarsest map and paints an image from that.

    *compression*: voxels (times channels) of the image for each number that passes, if the map has
    so many.
    """

    def __init__(self, encoder: Encoder, *, compression: float, width: int) -> None:
        super().__init__()
        stride, channels = encoder.map_strides[-1], encoder.map_channels[-1]
        voxels = stride ** len(encoder.size) * encoder.channels
        passing = max(1, min(channels, round(voxels / compression)))
        convolution = nn.Conv3d if len(encoder.size) == 3 else nn.Conv2d
        self.narrow = convolution(channels, passing, 1)
        sight = _Sight(size=encoder.size, map_channels=(passing,), map_strides=(stride,))
        # All that a decoder asks of an encoder is the shape of its maps.
        self.decoder = Decoder(cast(Encoder, sight), encoder.channels, width)

    def forward(self, coarsest_BMZYX: Tensor) -> Tensor:
        """Return images (B, C, [Z] Y X), at least in float32."""
        painted_BCZYX: Tensor = self.decoder([self.passing(coarsest_BMZYX)])
        return whole(painted_BCZYX)

    def passing(self, coarsest_BMZYX: Tensor) -> Tensor:
        """Return the narrow map: all that the decoder sees."""
        # A ViT's map has its channels last; GroupNorm behind it could not be mapped over images.
        narrow: Tensor = self.narrow(coarsest_BMZYX.contiguous())
        return narrow


def missed(painted_BCZYX: Tensor, images_BCZYX: Tensor) -> Tensor:
    """Return the mean squared error over all voxels of each image: 0 if painted exactly."""
    return (painted_BCZYX - images_BCZYX.to(painted_BCZYX.dtype)).square().flatten(1).mean(1)


@dataclass(frozen=True, kw_only=True)
class _Sight:
    """The shape of a single map."""

    size: tuple[int, ...]
    map_channels: tuple[int, ...]
    map_strides: tuple[int, ...]
