"""FedU2's aggregator (EUA): the one step that every site's change agrees with. https://arxiv.org/abs/2403.16398.

The point nearest to zero in the hull of the sites' changes, each scaled to length one (MGDA): its
inner product with every change is at least its own square, so no site is moved against its will.

Deviations from the authors' code, which always steps by the point times 2: here the step has the
mean length of the changes (``length`` sets another), so that a site alone gets its weights back and
steps shrink as training settles. The code starts its search at sharpened shares of images and stops
it after 20 steps; here it goes to the optimum, on which they have no influence.

Shapes: K updates, P parameters, W columns of a block.
"""

from collections.abc import Iterable
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from confrere_common.exchange import Update
from confrere_common.section import section
from confrere_common.weights import Weights
from confrere_server.rule import rule
from confrere_server.spill import lay_down, nameless_file

STEPS = 10_000
"""Of the search; it ends earlier, as a rule, when nothing can be gained."""


@section
class Config:
    """The regulariser that the paper sets beside it is mixing 'fedu2'."""

    length: Annotated[float, Field(gt=0)] | None = None
    """The point nearest to zero is multiplied by it; absent means by the mean length of the sites'
    changes. The authors' code: 2."""


@rule(sum_only=False)
def fedu2(updates: Iterable[Update], config: Config) -> Weights:
    """Return the point nearest to zero among the mixes of unit changes, scaled.

    All sites weigh the same; one that did not move has no direction and is passed over. It holds
    about two models in memory and every update on disk (see ``spill``).
    """
    with nameless_file() as file:
        spill = lay_down(updates, file)
        gram_KK = np.zeros((spill.rows, spill.rows))
        for _, block_KW in spill.blocks():
            values_KW = block_KW.double()
            gram_KK += (values_KW @ values_KW.T).numpy()
        factors_K = torch.from_numpy(_factors(gram_KK, config.length))
        joined_P = torch.empty(spill.columns)
        for start, block_KW in spill.blocks():
            joined_P[start : start + block_KW.shape[1]] = _mixed(factors_K, block_KW)
    return spill.named(joined_P)


def _mixed(factors_K: Tensor, block_KW: Tensor) -> Tensor:
    # In double precision: what makes a change of 1e-38 as long as others is no float32.
    return torch.einsum("k,kw->w", factors_K, block_KW.double()).float()


def _factors(gram_KK: NDArray[np.float64], length: float | None) -> NDArray[np.float64]:
    """Return what each change is multiplied by, from all inner products of the changes."""
    lengths_K = np.sqrt(np.diag(gram_KK))
    moved_K = lengths_K > 0
    factors_K = np.zeros_like(lengths_K)
    if moved_K.any():
        inverse_M = 1 / lengths_K[moved_K]
        unit_MM = gram_KK[np.ix_(moved_K, moved_K)] * np.outer(inverse_M, inverse_M)
        step = lengths_K[moved_K].mean() if length is None else length
        factors_K[moved_K] = step * nearest_to_zero(unit_MM) * inverse_M
    return factors_K


def nearest_to_zero(gram_KK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return shares (none below 0, sum 1) of the mix of least norm, given all inner products.

    Frank and Wolfe's search with steps away from the worst, which comes to the optimum at a
    geometric rate: https://arxiv.org/abs/1511.05932.
    """
    shares_K = np.full(len(gram_KK), 1 / len(gram_KK))
    for _ in range(STEPS):
        slope_K = gram_KK @ shares_K
        here = shares_K @ slope_K
        best, worst = slope_K.argmin(), np.where(shares_K > 0, slope_K, -np.inf).argmax()
        if here - slope_K[best] <= 1e-12:
            break
        forward = here - slope_K[best] >= slope_K[worst] - here
        towards_K = -shares_K if forward else shares_K.copy()
        towards_K[best if forward else worst] += 1 if forward else -1
        most = 1.0 if forward else shares_K[worst] / (1 - shares_K[worst] or np.inf)
        bend = towards_K @ gram_KK @ towards_K
        gain = -(slope_K @ towards_K)
        shares_K = shares_K + min(most, gain / bend if bend > 0 else most) * towards_K
        shares_K = np.maximum(shares_K, 0) / np.maximum(shares_K, 0).sum()
    return shares_K
