"""FedSIGReg, experimental: all sites' features are one Gaussian. After https://arxiv.org/abs/2511.08544.

There is no paper of it: it is LeJEPA's test in a federation. There every site pushes its own
features towards a Gaussian, so a site with few kinds of images must tear these apart. Here the pool
of all sites is pushed. What a trial showed is in docs/methods.md.

In place of LeJEPA's SIGReg, B mean_a int w(t) |phi_k(a, t) - phi_N(t)|^2 dt, site k descends

    B mean_a int w(t) |phi_k(a, t) + phi(a, t) - psi_k(a, t) - phi_N(t)|^2 dt,

phi_k the characteristic function of its batch along slice a, psi_k that of its features at the end
of the last round, phi that of all sites' then: the mean of psi_k, each weighing as its images. As
in SCAFFOLD, what is the site's own is taken out and what is common put in: if all sites move alike,
phi_k + phi - psi_k is the pool as it now is, and in any case its mean over sites is. Where a site
is alone, or all are alike, the two losses are one. (A first form, phi + p_k (phi_k - psi_k) with
p_k the site's share, took the others for unmoved: all then push as if each had to move the pool by
itself, and in a trial features collapsed.)

A site sends psi_k, means of cosines and sines, each in -1 to 1, of its last ``memory`` features.
Rule 'mean' weighs them by images, so the characteristic function of the pool comes back, for which
only a sum is needed: it may go under masks. All travels divided by 8, so that it is under
secure_aggregation.clip as that is by default. Slices of a round follow from numbers that the server
drew with the first weights, and from how many rounds have counted: alike at all sites, others in
every round.

What sites see of each other is a round old. Where a part of the sites is asked, the pool is of
these. A site that was not among the last round's does as LeJEPA does, and so do all in the first
round, and where a coordinator shortens updates (clip_ratio): the pool is then cut short with them.

Shapes: V views, B images, M rows remembered, F features, S slices, K knots, 2 = cosine and sine.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize

from confrere_common.method import Method
from confrere_common.mixing import Kept, Mixing, Visit
from confrere_common.parts.normality import KNOTS, apart, characteristic, sigreg
from confrere_common.section import section
from confrere_common.weights import Weights

POOL, COUNT, SEED = "fedsigreg.pool", "fedsigreg.count", "fedsigreg.seed"
"""Names of what travels: the pool's characteristic function, how many rounds have counted, and what
the slices are drawn from."""

PART = 1 / 8
"""All that travels is this much of itself: no change of it is then over 0.25."""

SEED_BITS = 20
"""So that float32 holds a seed exactly."""


class Fedsigreg(Mixing):
    """The features that leave are means over images; privacy, which needs a bound, refuses them."""

    private = False
    needs = ("projector",)
    methods = ("lejepa",)
    rule = "mean"
    leaves = "means of cosines and sines of images' features along random lines"

    @section
    class Config:
        """Nothing is known of what is best."""

        slices: Annotated[int, Field(ge=1)] = 256
        """Lines along which features are tested in a round; method.slices counts in the first."""

        memory: Annotated[int, Field(ge=2)] = 512
        """Last features of a round (one for each view of an image) that make a site's part."""

    config: Config

    def __init__(self, config: Config, visit: Visit) -> None:
        super().__init__(config, visit)
        visit.method.test = self.test  # type: ignore[assignment]
        self.device = next(visit.method.parameters()).device
        self.remembered_MF: Tensor | None = None
        self._new: Kept | None = None
        count = float(visit.given[COUNT]) / PART
        self.count = round(count)
        whole = self.count > 0 and abs(count - self.count) < 0.01
        self.offset_SK2: Tensor | None = None
        if whole and visit.kept and int(visit.kept["count"]) == self.count:
            # What sites lied is cut to what could be true.
            pool_SK2 = (visit.given[POOL] / PART).clamp(-1, 1)
            self.offset_SK2 = (pool_SK2 - visit.kept["part"]).to(self.device)

    @classmethod
    def carried(cls, config: Config, method: Method) -> nn.Module:  # noqa: ARG003
        """Return places for the pool, the count of rounds, and the seed of slices."""
        found = nn.Module()
        found.register_buffer("pool", torch.zeros(config.slices, KNOTS, 2))
        found.register_buffer("count", torch.zeros(()))
        found.register_buffer("seed", torch.randint(2**SEED_BITS, (2,)).float())
        return found

    def losses(self, own_B: Tensor, *views: Tensor) -> Tensor:  # noqa: ARG002
        """Return the method's losses as they are: ``test`` is a part of them."""
        return own_B

    def test(self, features_VBF: Tensor, slices_FS: Tensor) -> Tensor:
        """Return how far the pool is from a Gaussian, given these features of this site."""
        self._remember(features_VBF.detach())
        if self.offset_SK2 is None:
            return sigreg(features_VBF, slices_FS)
        own_FS = self._slices(features_VBF.shape[-1], self.count).to(features_VBF)
        pool_VSK2 = characteristic(features_VBF, own_FS) + self.offset_SK2
        return features_VBF.shape[1] * apart(pool_VSK2)

    def sent(self, trained: Weights) -> Weights:
        """Return the weights, with this site's part of the next pool beside them."""
        new = self._next()
        if not new:
            return trained
        return {
            **trained,
            POOL: PART * new["part"],
            COUNT: PART * torch.tensor(float(self.count + 1)),
        }

    def keep(self, trained: Weights) -> Kept:  # noqa: ARG002
        """Return what this site sent, and for which round."""
        return self._next() or self.visit.kept

    def _remember(self, features_VBF: Tensor) -> None:
        if not torch.is_grad_enabled():
            return
        rows_MF = features_VBF.transpose(0, 1).flatten(0, 1).float()
        if self.remembered_MF is not None:
            rows_MF = torch.cat([self.remembered_MF, rows_MF])
        self.remembered_MF = rows_MF[-self.config.memory :]

    def _next(self) -> Kept:
        """Return what is sent for the next round; nothing where no step was made."""
        if self.remembered_MF is None:
            return {}
        if self._new is None:
            rows_MF = self.remembered_MF
            slices_FS = self._slices(rows_MF.shape[1], self.count + 1).to(rows_MF)
            self._new = {
                "part": characteristic(rows_MF[None], slices_FS)[0].cpu(),
                "count": torch.tensor(self.count + 1),
            }
        return self._new

    def _slices(self, width: int, count: int) -> Tensor:
        """Return the unit slices (F, S) of the round after so many that counted."""
        high, low = (round(float(one)) % 2**SEED_BITS for one in self.visit.given[SEED])
        seed = (high << 2 * SEED_BITS) + (low << SEED_BITS) + count % 2**SEED_BITS
        generator = torch.Generator().manual_seed(seed)
        return normalize(torch.randn(width, self.config.slices, generator=generator), dim=0)
