"""FedSIGReg, experimental: all sites' features are one Gaussian. After https://arxiv.org/abs/2511.08544.

There is no paper of it: it is LeJEPA's test in a federation. There every site pushes its own
features towards a Gaussian, so a site with few kinds of images must tear these apart. Here the pool
of all sites is pushed. What a trial showed is in docs/methods.md.

In place of LeJEPA's SIGReg, B mean_a int w(t) |phi_k(a, t) - phi_N(t)|^2, site k descends

    (B / p_k) mean_a int w(t) |phi(a, t) + p_k (phi_k(a, t) - psi_k(a, t)) - phi_N(t)|^2 dt,

phi_k the characteristic function of the batch along slice a, phi that of all sites' features at the
end of the last round, psi_k this site's part in it, p_k its share. The factor 1 / p_k makes it pull
as strongly as LeJEPA does: exactly as that where a site is alone (p = 1, phi = psi), or where all
sites and the batch are alike; then both have one gradient.

A site sends psi_k, means of cosines and sines, each in -1 to 1. Rule 'mean' weighs them by images,
so what comes back is the characteristic function of the pool, for which only a sum is needed: it
may go under masks. All travels divided by 8, so that it is under secure_aggregation.clip as that is
by default. Slices of a round follow from numbers that the server drew with the first weights, and
from how many rounds have counted: alike at all sites, others in every round. A site finds its share
without being told of others: it adds a random code of +1 and -1, and looks how much of it is in the
sum, to about half of 1 / sqrt(marks) (0.02). A site's first round is LeJEPA's.

What sites see of each other is a round old. Where a part of the sites is asked, the pool is of
these. Where a coordinator shortens updates (clip_ratio), the pool is cut short with them, and is
not used in that round.

Shapes: V views, B images, M rows remembered, F features, S slices, K knots, 2 = cosine and sine,
D marks.
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

POOL, MARKS = "fedsigreg.pool", "fedsigreg.marks"
COUNT, SEED = "fedsigreg.count", "fedsigreg.seed"
"""Names of what travels: the pool's characteristic function, the sum of codes, how many rounds have
counted, and what the slices are drawn from."""

PART = 1 / 8
"""All that travels is this much of itself: no change of it is then over 0.25."""

SEED_BITS = 20
"""So that float32 holds a seed exactly."""

LEAST_SHARE = 0.01


class Fedsigreg(Mixing):
    """The features that leave are means over images; privacy, which needs a bound, refuses them."""

    private = False
    needs = ("projector",)
    methods = ("lejepa",)
    rule = "mean"
    leaves = "means of cosines and sines of images' features along random lines, and a random code"

    @section
    class Config:
        """Nothing is known of what is best."""

        slices: Annotated[int, Field(ge=1)] = 256
        """Lines along which features are tested in a round; method.slices counts in the first."""

        memory: Annotated[int, Field(ge=2)] = 512
        """Last features of a round (one for each view of an image) that make a site's part."""

        marks: Annotated[int, Field(ge=16)] = 512
        """Length of the random code by which a site finds its share."""

    config: Config

    def __init__(self, config: Config, visit: Visit) -> None:
        super().__init__(config, visit)
        visit.method.test = self.test  # type: ignore[assignment]
        self.device = next(visit.method.parameters()).device
        self.remembered_MF: Tensor | None = None
        self._new: Kept | None = None
        count = float(visit.given[COUNT]) / PART
        self.count = round(count)
        self.known = self.count > 0 and abs(count - self.count) < 0.01 and bool(visit.kept)
        self._take_up()

    @classmethod
    def carried(cls, config: Config, method: Method) -> nn.Module:  # noqa: ARG003
        """Return places for the pool, the codes, the count of rounds, and the seed of slices."""
        found = nn.Module()
        found.register_buffer("pool", torch.zeros(config.slices, KNOTS, 2))
        found.register_buffer("marks", torch.zeros(config.marks))
        found.register_buffer("count", torch.zeros(()))
        found.register_buffer("seed", torch.randint(2**SEED_BITS, (2,)).float())
        return found

    def losses(self, own_B: Tensor, *views: Tensor) -> Tensor:  # noqa: ARG002
        """Return the method's losses as they are: ``test`` is a part of them."""
        return own_B

    def test(self, features_VBF: Tensor, slices_FS: Tensor) -> Tensor:
        """Return how far the pool is from a Gaussian, given these features of this site."""
        self._remember(features_VBF.detach())
        if not self.known:
            return sigreg(features_VBF, slices_FS)
        own_FS = self._slices(features_VBF.shape[-1], self.count).to(features_VBF)
        moved_VSK2 = characteristic(features_VBF, own_FS) - self.part_SK2
        pool_VSK2 = self.pool_SK2 + self.share * moved_VSK2
        return features_VBF.shape[1] / self.share * apart(pool_VSK2)

    def sent(self, trained: Weights) -> Weights:
        """Return the weights, with this site's part of the next pool, and its code, beside them."""
        new, given = self._next(), self.visit.given
        if not new:
            return trained
        return {
            **trained,
            POOL: PART * new["part"],
            MARKS: PART * new["marks"],
            COUNT: PART * torch.tensor(float(self.count + 1)),
            SEED: given[SEED],
        }

    def keep(self, trained: Weights) -> Kept:  # noqa: ARG002
        """Return what this site sent, and its share as far as it is known."""
        return self._next() or self.visit.kept

    def _take_up(self) -> None:
        """Read the pool, and how much of it is this site's."""
        given, kept = self.visit.given, self.visit.kept
        self.share = float(kept["share"]) if kept else 1.0
        if not self.known:
            return
        # What a site lied is cut to what could be true.
        self.pool_SK2 = (given[POOL] / PART).clamp(-1, 1).to(self.device)
        self.part_SK2 = self.pool_SK2  # it was not among those that were asked
        if int(kept["count"]) == self.count:
            found = float(kept["marks"].double() @ given[MARKS].double()) / PART
            self.share = min(max(found / self.config.marks, LEAST_SHARE), 1.0)
            self.part_SK2 = kept["part"].to(self.device)

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
            drawn_D = torch.randint(2, (self.config.marks,), generator=self.visit.generator)
            self._new = {
                "part": characteristic(rows_MF[None], slices_FS)[0].cpu(),
                "marks": 2.0 * drawn_D - 1,
                "count": torch.tensor(self.count + 1),
                "share": torch.tensor(self.share),
            }
        return self._new

    def _slices(self, width: int, count: int) -> Tensor:
        """Return the unit slices (F, S) of the round after so many that counted."""
        high, low = (round(float(one)) % 2**SEED_BITS for one in self.visit.given[SEED])
        seed = (high << 2 * SEED_BITS) + (low << SEED_BITS) + count % 2**SEED_BITS
        generator = torch.Generator().manual_seed(seed)
        return normalize(torch.randn(width, self.config.slices, generator=generator), dim=0)
