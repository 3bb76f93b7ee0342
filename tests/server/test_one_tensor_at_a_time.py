"""What arrives in a file is judged and joined without ever being in memory as a whole."""

import weakref
from pathlib import Path

import pytest
import torch
from torch import Tensor

from confrere_common.exchange import Update
from confrere_common.family import Named
from confrere_common.limits import Limits
from confrere_common.pack import Filed, views
from confrere_common.weights import forms
from confrere_server.admission import Gate, Repute, judged
from confrere_server.rule import RULES

WEIGHTS = {f"layer-{number}": torch.full((64, 80), 0.1 * number) for number in range(12)}


@pytest.fixture
def most(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return how many tensors read from files lived at once, newest last."""
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    counts: list[int] = []
    plain = Filed.__getitem__

    def read(self: Filed, name: str) -> Tensor:
        made = plain(self, name)
        alive.add(made)
        counts.append(len(alive))
        return made

    monkeypatch.setattr(Filed, "__getitem__", read)
    return counts


def filed(path: Path, site: str) -> Update:
    path.write_bytes(b"".join(views(WEIGHTS)))
    with path.open("rb") as file:
        delta = Filed(file)
    return Update(site=site, round=1, delta=delta, images=10, metrics={})


def test_an_update_in_a_file_is_judged_one_tensor_at_a_time(
    most: list[int], tmp_path: Path
) -> None:
    verdict = judged(filed(tmp_path / "a", "a"), Gate(template=WEIGHTS, limits=Limits()))

    assert not verdict.fault
    assert len(most) == len(WEIGHTS)  # read once, for its length
    assert max(most) <= 2


def test_one_that_is_clipped_is_shortened_one_tensor_at_a_time(
    most: list[int], tmp_path: Path
) -> None:
    usual = Repute(lengths=(1.0,))
    gate = Gate(template=WEIGHTS, limits=Limits(norm_ratio=None, clip_ratio=2.0), repute=usual)

    update = judged(filed(tmp_path / "a", "a"), gate).update

    assert update is not None
    forms(update.delta)
    parts = [tensor.square().sum() for tensor in update.delta.values()]
    assert float(torch.stack(parts).sum().sqrt()) == pytest.approx(2.0)
    assert len(most) == 2 * len(WEIGHTS)  # for its length, and to be folded
    assert max(most) <= 2


def test_updates_in_files_are_folded_one_tensor_at_a_time(most: list[int], tmp_path: Path) -> None:
    named = Named(name="mean", knobs={})
    updates = (filed(tmp_path / site, site) for site in ("a", "b", "c"))

    joined = RULES.member("mean")(updates, RULES.configure(named), {})

    assert all(torch.allclose(joined[name], tensor) for name, tensor in WEIGHTS.items())
    first = len(WEIGHTS)  # its tensors become the mean's
    assert max(most[first:]) <= first + 2
