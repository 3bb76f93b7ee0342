import numpy as np
import pytest
from numpy.typing import NDArray

from confrere_client.ingest.shaping.strided import every, extremes

WHOLE = np.random.default_rng(0).normal(0, 9, (2, 7, 9, 11)).astype(np.float32)
VIEWS = [WHOLE, WHOLE[:, ::-1, :, ::-1], WHOLE.transpose(0, 3, 1, 2), WHOLE[:, 1:, ::2], WHOLE[:0]]


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("step", [1, 5, 16, 101])
def test_every_so_many_are_those_in_c_order(view: NDArray[np.float32], step: int) -> None:
    assert np.array_equal(every(view, step), view.ravel()[::step])


@pytest.mark.parametrize("view", VIEWS[:-1])
def test_extremes_are_the_least_and_the_greatest_however_it_lies(view: NDArray[np.float32]) -> None:
    assert extremes(view) == (view.min(), view.max())
    assert extremes(np.broadcast_to(view[0], view.shape)) == (view[0].min(), view[0].max())


def test_extremes_tell_of_a_value_that_is_no_number() -> None:
    assert np.isnan(extremes(np.array([[0, np.nan, 3]]))).all()
