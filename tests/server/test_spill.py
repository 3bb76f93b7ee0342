"""The spill returns what was laid down, its network sorts, and a full disk is explained."""

import itertools
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from confrere_common.errors import RoundError
from confrere_common.exchange import Update
from confrere_server import spill


def updates(sites: int, entries: int) -> Iterator[Update]:
    for site in range(sites):
        values = torch.randn(entries, generator=torch.Generator().manual_seed(site))
        yield Update(site=str(site), round=1, delta={"w": values}, images=1)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def middle_mean(values_KW: Tensor, cut: int) -> Tensor:
    return values_KW.sort(0).values[cut : len(values_KW) - cut].mean(0)


def test_blocks_of_a_large_model_fit_together() -> None:
    sites, entries = 5, spill.READ_BYTES // 16 + 7
    values_KP = torch.stack([update.delta["w"] for update in updates(sites, entries)])

    joined = spill.mean_of_middle(updates(sites, entries), lambda _: 2)

    assert 4 * values_KP.numel() > spill.READ_BYTES
    assert torch.equal(joined["w"], values_KP.median(0).values)


@pytest.mark.parametrize("rows", range(1, 10))
def test_the_network_sorts_every_row_of_zeros_and_ones_and_so_all_rows(rows: int) -> None:
    zeros_and_ones = torch.tensor(list(itertools.product((0.0, 1.0), repeat=rows))).T
    sorted_rows = zeros_and_ones.clone()

    for low, high in spill.sorting_network(rows):
        one, two = sorted_rows[low].clone(), sorted_rows[high].clone()
        sorted_rows[low], sorted_rows[high] = torch.minimum(one, two), torch.maximum(one, two)

    assert torch.equal(sorted_rows, zeros_and_ones.sort(0).values)


@pytest.mark.parametrize("rows", range(1, 10))
def test_every_cut_of_every_row_of_zeros_and_ones_leaves_the_middle(rows: int) -> None:
    zeros_and_ones = torch.tensor(list(itertools.product((0.0, 1.0), repeat=rows))).T.contiguous()

    for cut in range((rows + 1) // 2):
        out_W = torch.full((zeros_and_ones.shape[1],), float("nan"))
        spill.reduce_middle(zeros_and_ones.clone(), cut, out_W)

        torch.testing.assert_close(out_W, middle_mean(zeros_and_ones, cut))


@pytest.mark.parametrize(("rows", "cut"), [(50, 5), (50, 24), (99, 49), (100, 20), (128, 1)])
def test_many_rows_are_cut_right(rows: int, cut: int) -> None:
    values_KW = torch.randn(rows, 300, generator=torch.Generator().manual_seed(0))
    out_W = torch.empty(300)

    spill.reduce_middle(values_KW.clone(), cut, out_W)

    torch.testing.assert_close(out_W, middle_mean(values_KW, cut), rtol=1e-5, atol=1e-6)


def test_nothing_is_exchanged_when_nothing_is_cut() -> None:
    assert spill.partition(50, 0) == ()
    assert len(spill.partition(50, 5)) < len(list(spill.sorting_network(50)))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no always-full file")
def test_a_full_disk_is_explained() -> None:
    with (
        Path("/dev/full").open("r+b", buffering=0) as full,
        pytest.raises(RoundError, match=r"No space left.*after 0 of them.*TMPDIR"),
    ):
        spill.lay_down(updates(3, 10), full)


def test_a_disk_that_fills_in_the_middle_of_an_update_is_explained() -> None:
    with (
        largest_file(100_000),
        pytest.raises(RoundError, match=r"cannot be kept on disk.*after 2 of them.*'mean'"),
    ):
        spill.mean_of_middle(updates(5, 10_000), lambda _: 0)


def test_a_missing_temporary_folder_is_explained(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))

    with pytest.raises(RoundError, match=r"cannot be kept on disk.*Set TMPDIR"):
        spill.mean_of_middle(updates(2, 3), lambda _: 0)
