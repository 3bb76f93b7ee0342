"""Models as Flower's objects, sent and read piece by piece: no copy of a model beside the model.

Flower's own array holds the .npy bytes of its tensor beside the tensor, and its pieces beside those
while it is sent; read, it holds its pieces, a buffer and a copy of that. Here a piece that is sent
is a view of the tensor, which must not change meanwhile, and one that is read is dropped at once.

Pinned to flwr 1.41. When the pin moves, ``tests/common/test_arrays.py`` says what to look at.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.app.message.arraychunk import ArrayChunk
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    get_object_body,
    get_object_head_values_from_object_content,
)
from flwr.supercore.inflatable.inflatable_utils import inflatable_class_registry
from numpy.lib import format as npy
from torch import Tensor

from confrere_common.errors import ExchangeError

NUMPY = "numpy.ndarray"
"""What Flower calls .npy bytes."""

PIECE = 2 << 20
"""Bytes of a piece: a server holds several of them for each site that sends or reads."""

SLACK = 1 << 20
"""Bytes that a message may take beside its arrays."""

MOST_BYTES = 4 << 30
"""Bytes of the largest message that is read where nobody knows how large it must be."""

HEAD_ENDS = b"\0"
"""What Flower writes between an object's head and its body."""


class TensorArray(Array):
    """An array that shares its tensor's memory; *data* is made anew whenever it is asked for."""

    __qualname__ = "Array"  # by its class's name Flower tells how to read it

    def __init__(self, tensor: Tensor) -> None:
        values = tensor.detach().contiguous().numpy()
        head = BytesIO()
        npy.write_array_header_1_0(head, npy.header_data_from_array_1_0(values))
        raw = values.reshape(-1).view(np.uint8).data
        said = {"dtype": str(values.dtype), "shape": tuple(values.shape), "stype": NUMPY}
        # Not by assignment, which Flower takes for a change.
        self.__dict__.update(said, _pieces=_cut(head.getvalue(), raw))

    @property
    def data(self) -> bytes:  # type: ignore[override]
        """Return the .npy bytes."""
        return b"".join(piece.data for piece in self.__dict__["_pieces"])

    def slice_array(self) -> list[tuple[str, InflatableObject]]:
        """Return the pieces and their names."""
        return [(piece.object_id, piece) for piece in self.__dict__["_pieces"]]

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to another process as Flower's own array."""
        return Array, (self.dtype, self.shape, self.stype, self.data)


class _Piece(ArrayChunk):
    __qualname__ = "ArrayChunk"

    def __init__(self, head: bytes, raw: memoryview) -> None:
        self._head, self._raw, self._name = head, raw, ""

    @property
    def data(self) -> memoryview:  # type: ignore[override]
        """Return the bytes; only those that begin an array are copied for it."""
        return memoryview(self._head + self._raw) if self._head else self._raw

    @property
    def object_id(self) -> str:
        """Return the digest by which Flower knows the piece."""
        if not self._name:
            self._name = hashlib.sha256(self.deflate()).hexdigest()
        return self._name


def record(arrays: Mapping[str, Any]) -> ArrayRecord:
    """Return Flower's record of these very arrays; TypeError for anything else."""
    made = ArrayRecord()
    for name, array in arrays.items():  # its constructor would take a copy as bytes of each
        made[name] = array
    return made


def parts(whole: InflatableObject) -> Iterator[tuple[str, InflatableObject]]:
    """Yield what *whole* is made of, with names, what is smaller first and itself last."""
    for part in (whole.children or {}).values():
        yield from parts(part)
    yield whole.object_id, whole


def most_bytes(size: int) -> int:
    """Return the bytes that an honest message with arrays of *size* bytes never exceeds."""
    return size + size // 10 + SLACK


def gathered(name: str, get: Callable[[str], bytes], at_most: int = MOST_BYTES) -> InflatableObject:
    """Return the object *name*, asking *get* for the bytes of each part when it is needed.

    An array's pieces are read into its own memory one by one. ExchangeError when all of it takes
    more than *at_most* bytes, which a few small parts can by naming each other often; any exception
    when they are no such object: foreign bytes make Flower's reader fail in any way.
    """
    return _Reading(get=get, at_most=at_most).object(name)


@dataclass(kw_only=True)
class _Reading:
    """One message as it is read: what it has taken so far, and the parts that are known."""

    get: Callable[[str], bytes]
    at_most: int
    taken: int = 0
    known: dict[str, InflatableObject] = field(default_factory=dict)

    def object(self, name: str) -> InflatableObject:
        """Return an object, read once however often it is named."""
        if name not in self.known:
            self.known[name] = self._read(self._content(name))
        return self.known[name]

    def _read(self, content: bytes) -> InflatableObject:
        kind, below, _ = get_object_head_values_from_object_content(content)
        if kind == Array.__qualname__:
            return _array(content, below, self._content)
        children = {child: self.object(child) for child in below}
        if kind == ArrayRecord.__qualname__:
            return self._record(json.loads(get_object_body(content, ArrayRecord)), children)
        found: InflatableObject = inflatable_class_registry[kind].inflate(
            content, children=children
        )
        return found

    def _record(self, names: Mapping[str, str], children: Mapping[str, Any]) -> ArrayRecord:
        seen: set[str] = set()
        for child in names.values():
            if child in seen:  # one array under two names becomes two tensors
                self._take(len(children[child].data))
            seen.add(child)
        return record({key: children[child] for key, child in names.items()})

    def _content(self, name: str) -> bytes:
        content = self.get(name)
        self._take(len(content))
        return content

    def _take(self, size: int) -> None:
        self.taken += size
        if self.taken > self.at_most:
            raise ExchangeError(f"it takes more than {self.at_most} bytes, and is not read")


def _array(content: bytes, below: Sequence[str], get: Callable[[str], bytes]) -> Array:
    said = json.loads(get_object_body(content, Array))
    numbers = said["arraychunk_ids"]
    # A piece of zeros may honestly stand in an array many times; it lies below it once.
    if not all(type(one) is int for one in numbers) or {*numbers} != {*range(len(below))}:
        raise ExchangeError("an array names other pieces than it came with")
    data = bytearray()
    for number in numbers:
        piece = get(below[number])
        kind, grandchildren, _ = get_object_head_values_from_object_content(piece)
        if kind != ArrayChunk.__qualname__ or grandchildren:
            raise ExchangeError("an array is made of something else than pieces")
        data += memoryview(piece)[piece.index(HEAD_ENDS) + 1 :]
    array = Array(dtype=said["dtype"], shape=tuple(said["shape"]), stype=said["stype"], data=b"")
    array.__dict__["data"] = data  # not by assignment, as above; and not a copy as bytes
    return array


def _cut(head: bytes, raw: memoryview) -> list[_Piece]:
    first = PIECE - len(head)
    rest = [_Piece(b"", raw[at : at + PIECE]) for at in range(first, len(raw), PIECE)]
    return [_Piece(head, raw[:first]), *rest]
