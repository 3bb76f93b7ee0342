"""Updates laid down on disk as they come, and joined column by column: what robust rules need.

Shapes: K updates, P parameters, W columns of a block.

The file has no name and is gone when the round is joined or the process dies. It lies in the
system's temporary folder and takes K * P * 4 bytes; where that folder is memory (a tmpfs), set
TMPDIR to one on a disk. It is written and read with plain calls and not through a memory map: a
map's pages count as memory of the process, and a full disk would end it with SIGBUS.
"""

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from io import RawIOBase
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from confrere_common.errors import ExchangeError, RoundError
from confrere_common.exchange import Update
from confrere_common.weights import Weights, forms

READ_BYTES = 16 << 20
"""Bytes read from the file at once: long enough for a disk, short beside a model."""

SORT_COLUMNS = 1 << 14
"""Columns sorted at once: short enough for the processor's cache."""

Shapes: TypeAlias = Mapping[str, torch.Size]

Row: TypeAlias = np.ndarray[tuple[int], np.dtype[np.float32]]

Exchange: TypeAlias = tuple[int, int, bool, bool]
"""Rows (i, j); whether the smaller of the two is needed, at i; whether the larger is, at j."""


def mean_of_middle(updates: Iterable[Update], cut: Callable[[int], int]) -> Weights:
    """Return each coordinate's mean over its middle values, with ``cut(K)`` left out at each end.

    An update from no images counts for nothing, any other for one. Reads *updates* once; memory is
    two models, whatever K. RoundError if no update counts, or if the disk is full.
    """
    with nameless_file() as file:
        spill = lay_down(updates, file)
        middle_P = torch.empty(spill.columns)
        ends = cut(spill.rows)
        for start, block_KW in spill.blocks():
            reduce_middle(block_KW, ends, middle_P[start : start + block_KW.shape[1]])
    return spill.named(middle_P)


@dataclass(frozen=True, kw_only=True)
class Spill:
    """A file of K rows of P float32."""

    file: RawIOBase
    rows: int
    shapes: Shapes

    @property
    def columns(self) -> int:
        """Return P."""
        return sum(shape.numel() for shape in self.shapes.values())

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """Yield first column and values (K, W) of block after block; each overwrites the last."""
        widest = max(1, min(self.columns, READ_BYTES // (4 * self.rows)))
        block_KW = np.empty((self.rows, widest), np.float32)
        for start in range(0, self.columns, widest):
            part_KW = block_KW[:, : self.columns - start]
            for number, row_W in enumerate(part_KW):
                self.file.seek(4 * (number * self.columns + start))
                self.file.readinto(row_W)
            yield start, torch.from_numpy(part_KW)

    def named(self, values_P: Tensor) -> Weights:
        """Return a row as named tensors that share no memory."""
        parts = torch.split_with_sizes(values_P, [s.numel() for s in self.shapes.values()])
        named = zip(self.shapes.items(), parts, strict=True)
        return {name: part.reshape(shape).clone() for (name, shape), part in named}


def lay_down(updates: Iterable[Update], file: RawIOBase) -> Spill:
    """Write every update that came from images to *file*, one row each, as it comes."""
    shapes: Shapes = {}
    rows = 0
    for update in updates:
        if update.images > 0:
            shapes = shapes or {
                name: torch.Size(shape) for name, (shape, _) in forms(update.delta).items()
            }
            _write_row(file, update, tuple(shapes), rows)
            rows += 1
        # While the next update is made, this one must already be gone: else two are held.
        del update
    if not rows:
        raise RoundError(
            "no update came from any image, so there is nothing to join; see why the sites were "
            "left out of the round, and ask again."
        )
    return Spill(file=file, rows=rows, shapes=shapes)


def nameless_file() -> RawIOBase:
    """Open a file for updates; it is gone when it is closed. RoundError if there can be none."""
    try:
        return tempfile.TemporaryFile(buffering=0)
    except OSError as fault:
        raise RoundError(
            f"the round's updates cannot be kept on disk: {fault}. Set TMPDIR to a folder that may "
            "be written, or choose the rule 'mean', which keeps none."
        ) from fault


def _write_row(file: RawIOBase, update: Update, names: tuple[str, ...], rows: int) -> None:
    try:
        for name in names:
            _write(file, _flat(update, name))
    except OSError as fault:
        raise RoundError(
            f"the round's updates cannot be kept on disk: {fault.strerror} in "
            f"{tempfile.gettempdir()} after {rows} of them. Free some space there, set TMPDIR to a "
            "folder with more, or choose the rule 'mean', which keeps none."
        ) from fault


def _flat(update: Update, name: str) -> Row:
    delta = update.delta[name]
    if not delta.is_floating_point():
        raise ExchangeError(
            f"'{name}' from site '{update.site}' holds {delta.dtype}, which has no mean; share "
            "float parameters only and leave counters and other buffers at the site."
        )
    values: Row = delta.detach().to(torch.float32).contiguous().view(-1).numpy()
    return values


def _write(file: RawIOBase, values: Row) -> None:
    left = values.view(np.uint8).data
    while left:
        left = left[file.write(left) or 0 :]


def reduce_middle(values_KW: Tensor, cut: int, out_W: Tensor) -> None:
    """Write to *out_W* the mean over rows, without the *cut* lowest and highest of each column.

    The rows of *values_KW* are shuffled within their columns.
    """
    exchanges = partition(values_KW.shape[0], cut)
    out_W.zero_()
    for start in range(0, values_KW.shape[1], SORT_COLUMNS):
        part = slice(start, start + SORT_COLUMNS)
        rows = _exchange([row_W[part] for row_W in values_KW], exchanges)
        for number, row_W in enumerate(rows[cut : len(rows) - cut], 1):
            out_W[part].lerp_(row_W, 1 / number)


def _exchange(rows: list[Tensor], exchanges: tuple[Exchange, ...]) -> list[Tensor]:
    spare_W = torch.empty_like(rows[0])
    for low, high, needs_low, needs_high in exchanges:
        one_W, two_W = rows[low], rows[high]
        if needs_low and needs_high:
            rows[low] = torch.minimum(one_W, two_W, out=spare_W)
            rows[high] = torch.maximum(one_W, two_W, out=two_W)
            spare_W = one_W
        elif needs_low:
            torch.minimum(one_W, two_W, out=one_W)
        else:
            torch.maximum(one_W, two_W, out=two_W)
    return rows


@cache
def partition(rows: int, cut: int) -> tuple[Exchange, ...]:
    """Return exchanges that bring the *cut* lowest values to the first rows, highest to the last.

    They are those of a sorting network that the rows between can feel: no part is itself sorted.
    """
    middle = range(cut, rows - cut)
    needed, final = set(middle), set(range(rows))
    kept: list[Exchange] = []
    for low, high in reversed(list(sorting_network(rows))):
        within_middle = {low, high} <= final and low in middle and high in middle
        if within_middle or not {low, high} & needed:
            continue
        kept.append((low, high, low in needed, high in needed))
        needed |= {low, high}
        final -= {low, high}
    return tuple(reversed(kept))


def sorting_network(rows: int) -> Iterator[tuple[int, int]]:
    """Yield the exchanges of Batcher's merge exchange sort: Knuth, TAOCP 3, 5.2.2, algorithm M."""
    top = 1 << max(0, math.ceil(math.log2(rows)) - 1)
    span = top
    while span:
        reach, offset, distance = top, 0, span
        while distance:
            yield from ((i, i + distance) for i in range(rows - distance) if i & span == offset)
            distance = reach - span if reach > span else 0
            reach, offset = reach // 2, span
        span //= 2
