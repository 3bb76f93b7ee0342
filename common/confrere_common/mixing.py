"""The contract of a mixing: what a site does beside its method, because it trains among others.

Rules join at the server; a mixing stands at the site: it may choose the weights that a round starts
from, bend a step's loss or gradient, keep something for the next round, change what is sent.

Shapes: B images, C channels, [Z] Y X voxels (Z only in 3-D), F features.
"""

from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn

import confrere_common.mixings
from confrere_common.config import Run
from confrere_common.family import Family
from confrere_common.method import Method
from confrere_common.weights import Weights

Kept: TypeAlias = Mapping[str, Tensor]
"""What a mixing keeps at a site from one of its rounds to the next; it never travels."""


@dataclass(frozen=True, kw_only=True)
class Visit:
    """A site's round as a mixing finds it."""

    method: Method
    given: Weights
    """The shared weights as they came, on the CPU."""

    kept: Kept
    """What it kept at this site's last round; empty at the first participation."""

    generator: torch.Generator
    round: int
    run: Run


class Mixing(ABC):
    """One site's round with it: made when the weights have come, gone when the update leaves.

    Built as ``Mixing(config, visit)``. What outlasts the round goes through ``keep`` alone: a
    trainer is lent to many sites in turn.
    """

    Config: ClassVar[type]

    private: ClassVar[bool]
    """Whether it knows the images through the steps' gradients alone, which privacy has noised."""

    needs: ClassVar[tuple[str, ...]] = ()
    """Submodules that a method must have for it."""

    methods: ClassVar[tuple[str, ...] | None] = None
    """Names of the methods that it works with; None means all that have what it needs."""

    rule: ClassVar[str | None] = None
    """The rule without which the server does not do its part."""

    figures: ClassVar[tuple[str, ...]] = ()
    """Figures of the round that it adds to those a site tells."""

    leaves: ClassVar[str] = ""
    """What of a site leaves that is no change of a model's weights, as a hospital is told."""

    def __init__(self, config: Any, visit: Visit) -> None:
        self.config = config
        self.visit = visit

    @classmethod
    def carried(cls, config: Any, method: Method) -> nn.Module | None:  # noqa: ARG003
        """Return what travels beside the method's own weights, under the mixing's name; or None."""
        return None

    @classmethod
    def stays(cls, config: Any, method: Method) -> frozenset[str]:  # noqa: ARG003
        """Return names of the method's weights that never leave a site because of it."""
        return frozenset()

    def start(self) -> Weights:
        """Return the weights that the round starts from."""
        return self.visit.given

    def losses(self, own_B: Tensor, *views: Tensor) -> Tensor:  # noqa: ARG002
        """Return the losses to descend, given the method's own; couples images if not private."""
        return own_B

    def after_backward(self) -> None:  # noqa: B027  (most mixings let it be)
        """Look at, or bend, the step's gradient, before it is clipped and used."""

    def sent(self, trained: Weights) -> Weights:
        """Return the weights whose difference from those that came is the update."""
        return trained

    def keep(self, trained: Weights) -> Kept:  # noqa: ARG002
        """Return what the next round at this site needs of this one; *trained* as it ended."""
        return {}

    def told(self) -> Mapping[str, float]:
        """Return its ``figures``."""
        return {}


MIXINGS: Family[type[Mixing]] = Family("mixing", confrere_common.mixings)


def mixings_of(run: Run) -> Sequence[tuple[str, type[Mixing], Any]]:
    """Return name, class and validated knobs of each mixing of *run*, in the run's order."""
    return [
        (named.name, MIXINGS.member(named.name), MIXINGS.configure(named))
        for named in run.federation.mixing
    ]


def images_among(method: Method, views: Sequence[Tensor]) -> list[Tensor]:
    """Return the views that are images of the encoder's size, as opposed to masks and the like."""
    shape = (method.encoder.channels, *method.encoder.size)
    return [view for view in views if tuple(view.shape[1:]) == shape and view.is_floating_point()]


def went(method: Method, began: Weights, ended: Weights) -> float:
    """Return how far, on the mean, each kernel of the encoder went: as EasyFL measures divergence.

    Of encoders that are not made of convolutions, how far each matrix went.
    """
    kernels = [
        f"encoder.{place}.weight"
        for place, module in method.encoder.named_modules()
        if isinstance(module, nn.modules.conv._ConvNd)
    ]
    found = [name for name in kernels if name in began]
    if len(found) < 2:  # a transformer has one, that cuts the patches
        found = [n for n, t in began.items() if n.startswith("encoder.") and t.ndim > 1]
    far = [float(torch.dist(ended[name].double(), began[name].double())) for name in found]
    return sum(far) / len(far) if far else 0.0
