"""Tensors as one run of bytes in safetensors' own layout: sent as one array, written as one file.

Nothing is copied to write them, and each is read alone when it is asked for. What comes from
outside is read strictly: https://huggingface.co/docs/safetensors/index#format.
"""

import hashlib
import json
import math
import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import torch
from torch import Tensor

from confrere_common.errors import ExchangeError

TYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64, "I64": torch.int64, "F32": torch.float32, "I32": torch.int32,
    "F16": torch.float16, "BF16": torch.bfloat16, "I16": torch.int16, "U8": torch.uint8,
    "I8": torch.int8, "BOOL": torch.bool,
}  # fmt: skip
"""What safetensors calls the types that we write."""

NAMES: Mapping[torch.dtype, str] = {dtype: name for name, dtype in TYPES.items()}

HEAD_AT_MOST = 16 << 20
"""Bytes of the longest head that is read."""

AXES_AT_MOST = 8

ENTRIES_AT_MOST = 1 << 48
"""Of a shape whose empty axes had one: torch fails at larger ones, even if there is no entry."""

ALIGN = 8
"""Tensors begin at a multiple of it, as safetensors' own writer has it."""

View: TypeAlias = bytes | memoryview


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a tensor lies in the bytes after the head."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


Places: TypeAlias = Mapping[str, Place]


# ------------------------------------------------------------------------------ writing


def views(tensors: Mapping[str, Tensor], said: Mapping[str, str] | None = None) -> list[View]:
    """Return head and tensors as bytes that share the tensors' memory, which must stay as it is."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # The widest types first: then each begins where its type may begin.
    order = sorted(plain, key=lambda name: -plain[name].element_size())
    stops, at = {}, 0
    for name in order:
        at += plain[name].numel() * plain[name].element_size()
        stops[name] = at
    table: dict[str, Any] = {"__metadata__": dict(said)} if said else {}
    for name, tensor in plain.items():
        size = tensor.numel() * tensor.element_size()
        table[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [stops[name] - size, stops[name]],
        }
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGN)
    return [len(text).to_bytes(8, "little") + text, *(raw(plain[name]) for name in order)]


def raw(tensor: Tensor) -> memoryview:
    """Return the bytes of a contiguous tensor on the CPU, which they share."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data.cast("B")


def length(parts: Sequence[View]) -> int:
    """Return the bytes of all *parts*."""
    return sum(len(part) for part in parts)


def sha256(parts: Sequence[View]) -> str:
    """Return the SHA-256 of *parts*, one after the other, as hexadecimal."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def cut(parts: Sequence[View], size: int) -> Iterator[list[View]]:
    """Yield *parts*, one after the other, in runs of *size* bytes; the last may be shorter."""
    run: list[View] = []
    left = size
    for part in parts:
        view = memoryview(part)
        while len(view):
            run.append(view[:left])
            view, left = view[left:], left - len(run[-1])
            if not left:
                yield run
                run, left = [], size
    if run:
        yield run


# ------------------------------------------------------------------------------ reading


def head_length(first: bytes, size: int) -> int:
    """Return the bytes of the head whose first 8 are *first*, in a pack of *size* bytes."""
    said = int.from_bytes(first, "little")
    if len(first) != 8 or said > min(HEAD_AT_MOST, size - 8):
        raise ExchangeError("a pack of tensors is cut short, or its head is too long")
    return said


def places(text: bytes, size: int) -> tuple[Places, dict[str, str]]:
    """Return where each tensor lies, and what is said beside them; *size* bytes follow the head.

    ExchangeError for anything but tensors that fill these bytes exactly, none over another.
    """
    try:
        table = json.loads(text, object_pairs_hook=_once)
        said = table.pop("__metadata__", {})
        found = {name: _place(name, entry) for name, entry in table.items()}
        texts = {str(key): str(value) for key, value in said.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as fault:
        raise ExchangeError(f"a pack of tensors cannot be read: {type(fault).__name__}") from None
    at = 0
    for name, place in sorted(found.items(), key=lambda one: (one[1].start, one[1].stop)):
        if place.start != at:
            raise ExchangeError(f"'{name}' begins at byte {place.start} of a pack; {at} is due")
        at = place.stop
    if at != size:
        raise ExchangeError(f"a pack's tensors take {at} bytes; {size} came")
    return found, texts


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a name twice")
    return dict(pairs)


def _place(name: str, entry: Mapping[str, Any]) -> Place:
    dtype, shape = TYPES[entry["dtype"]], entry["shape"]
    numbers = [*shape, *entry["data_offsets"]]
    start, stop = entry["data_offsets"]
    if len(entry) != 3 or len(shape) > AXES_AT_MOST or not all(_whole(one) for one in numbers):
        raise ValueError(name)
    if math.prod(one or 1 for one in shape) > ENTRIES_AT_MOST:
        raise ValueError(name)
    due = math.prod(shape) * dtype.itemsize  # whole numbers of any length: nothing wraps around
    if stop - start != due:
        raise ExchangeError(
            f"'{name}' claims {math.prod(shape)} entries, which take {due} bytes; {stop - start} "
            "came"
        )
    return Place(dtype=dtype, shape=tuple(shape), start=start, stop=stop)


def _whole(value: object) -> bool:
    return type(value) is int and value >= 0


def unpacked(content: bytearray) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors that share the memory of *content*, and what is said beside them."""
    start = 8 + head_length(bytes(content[:8]), len(content))
    found, said = places(bytes(content[8:start]), len(content) - start)
    return {name: _tensor(content, start, place) for name, place in found.items()}, said


def _tensor(content: bytearray, start: int, place: Place) -> Tensor:
    if place.start == place.stop:
        return torch.zeros(place.shape, dtype=place.dtype)
    flat = np.frombuffer(content, np.uint8, place.stop - place.start, start + place.start)
    return torch.from_numpy(flat).view(place.dtype).reshape(place.shape)


class Filed(Mapping[str, Tensor]):
    """Tensors in a file, each read anew whenever it is asked for: a model that takes no memory."""

    def __init__(self, file: BinaryIO) -> None:
        """*file* is a pack, and may be closed afterwards. ExchangeError when it is none."""
        self._file = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._file)
        size = os.fstat(self._file).st_size
        head = head_length(os.pread(self._file, 8, 0), size)
        self._start = 8 + head
        self._places, self.said = places(os.pread(self._file, head, 8), size - self._start)

    @property
    def places(self) -> Places:
        """Return name -> where it lies, with type and shape."""
        return self._places

    def __getitem__(self, name: str) -> Tensor:
        """Return a tensor in memory of its own."""
        place = self._places[name]
        made = torch.empty(place.shape, dtype=place.dtype)
        if place.stop > place.start:
            into, at = raw(made), self._start + place.start
            while len(into):
                got = os.preadv(self._file, [into], at)
                if not got:
                    raise ExchangeError(f"'{name}' was cut short while it was read")
                into, at = into[got:], at + got
        return made

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names, in the order in which they were written."""
        return iter(self._places)

    def __len__(self) -> int:
        """Return how many tensors there are."""
        return len(self._places)
