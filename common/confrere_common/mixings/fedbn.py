"""FedBN: a site's normalisations are its own and never leave. https://arxiv.org/abs/2102.07623.

The paper keeps the gains, offsets and statistics of batch normalisation. No encoder here has any,
for it would mix patients; kept are the gains and offsets of whatever normalisation there is, which
have no statistics. A release holds their initial values, with which a later hospital would begin.
"""

from torch import nn

from confrere_common.family import NoKnobs
from confrere_common.method import Method
from confrere_common.mixing import Mixing
from confrere_common.parts.heads import Scaled

NORMS = (
    nn.GroupNorm,
    nn.LayerNorm,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    Scaled,
)


class Fedbn(Mixing):
    """What ``federation.personal`` does by name, for every normalisation of the model."""

    private = True

    @classmethod
    def stays(cls, config: NoKnobs, method: Method) -> frozenset[str]:  # noqa: ARG003
        """Return the names of all normalisations' gains and offsets."""
        return frozenset(
            f"{place}.{name}"
            for place, module in method.named_modules()
            if isinstance(module, NORMS) and place.split(".", 1)[0] not in method.local
            for name, _ in module.named_parameters(recurse=False)
        )
