"""Models as Flower's objects, sent and read piece by piece: no copy of a model beside the model.

All tensors of a model travel as one array (``packed``): Flower makes two objects, and so two
requests at least, of every array, and models have hundreds of small tensors.

Flower's own array holds the .npy bytes of its tensor beside the tensor, and its pieces beside those
while it is sent; read, it holds its pieces, a buffer and a copy of that. Here a piece that is sent
is a view of the tensor, which must not change meanwhile, and one that is read is dropped at once.

Pinned to flwr 1.41. When the pin moves, ``tests/common/test_arrays.py`` says what to look at.
"""

import hashlib
import json
import os
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, BinaryIO, TypeAlias

from flwr.app import Array, ArrayRecord
from flwr.app.message.arraychunk import ArrayChunk
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    get_object_body,
    get_object_head_values_from_object_content,
)
from flwr.supercore.inflatable.inflatable_utils import inflatable_class_registry
from torch import Tensor

from confrere_common.errors import ExchangeError
from confrere_common.pack import View, cut, length, views

NUMPY = "numpy.ndarray"
"""What Flower calls .npy bytes."""

PACKED = "confrere.pack.1"
"""What we call tensors in one array; the number is that of the layout (``pack``)."""

Spare: TypeAlias = Callable[[], BinaryIO]
"""Opens a file that is gone when it is closed."""

PIECE = 1 << 20
"""Bytes of a piece: a server holds several of them for each site that sends or reads."""

MOST_BYTES = 4 << 30
"""Bytes of the largest message that is read where nobody knows how large it must be."""

SLACK = 1 << 20
"""Bytes that a message may take beside its arrays."""

HEAD_ENDS = b"\0"
"""What Flower writes between an object's head and its body."""


class RawArray(Array):
    """An array whose bytes are memory that it shares; *data* is made anew when it is asked for."""

    __qualname__ = "Array"  # by its class's name Flower tells how to read it

    def __init__(
        self, parts: Sequence[View], *, dtype: str, shape: tuple[int, ...], stype: str
    ) -> None:
        pieces = [_Piece(run) for run in cut(parts, PIECE)]
        # Not by assignment, which Flower takes for a change.
        self.__dict__.update({"dtype": dtype, "shape": shape, "stype": stype, "_pieces": pieces})

    @property
    def data(self) -> bytes:  # type: ignore[override]
        """Return the bytes."""
        return b"".join(piece.data for piece in self.__dict__["_pieces"])

    def slice_array(self) -> list[tuple[str, InflatableObject]]:
        """Return the pieces and their names."""
        return [(piece.object_id, piece) for piece in self.__dict__["_pieces"]]

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to another process as Flower's own array."""
        return Array, (self.dtype, self.shape, self.stype, self.data)


def packed(tensors: Mapping[str, Tensor]) -> RawArray:
    """Return all *tensors* as one array: many small ones would take a request each, and more."""
    parts = views(tensors)
    return RawArray(parts, dtype="uint8", shape=(length(parts),), stype=PACKED)


class FiledArray(Array):
    """An array that was read into a file: it takes no memory."""

    __qualname__ = "Array"

    def __init__(self, said: Mapping[str, Any], file: BinaryIO) -> None:
        self.__dict__.update({**said, "file": file})
        weakref.finalize(self, file.close)

    @property
    def data(self) -> bytes:  # type: ignore[override]
        """Return the bytes."""
        descriptor = self.file.fileno()
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0)

    @property
    def file(self) -> BinaryIO:
        """Return where it lies."""
        found: BinaryIO = self.__dict__["file"]
        return found


class _Piece(ArrayChunk):
    __qualname__ = "ArrayChunk"

    def __init__(self, run: Sequence[View]) -> None:
        self._run, self._name = run, ""

    @property
    def data(self) -> memoryview:  # type: ignore[override]
        """Return the bytes; only what lies in several places is copied for it."""
        return memoryview(self._run[0] if len(self._run) == 1 else b"".join(self._run))

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


def gathered(
    name: str,
    get: Callable[[str], bytes],
    at_most: int = MOST_BYTES,
    spare: Spare | None = None,
) -> InflatableObject:
    """Return the object *name*, asking *get* for the bytes of each part when it is needed.

    An array's pieces are read into its own memory one by one, those of packed tensors into a file
    from *spare* if there is one. ExchangeError when all of it takes
    more than *at_most* bytes, which a few small parts can by naming each other often; any exception
    when they are no such object: foreign bytes make Flower's reader fail in any way.
    """
    return _Reading(get=get, at_most=at_most, spare=spare).object(name)


@dataclass(kw_only=True)
class _Reading:
    """One message as it is read: what it has taken so far, and the parts that are known."""

    get: Callable[[str], bytes]
    at_most: int
    spare: Spare | None = None
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
            made = _array(content, below, self._content, self.spare, self.at_most - self.taken)
            if isinstance(made, FiledArray):
                self.spare = None  # one for a message: thousands of arrays would take all files
            return made
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
                self._take(_size(children[child]))
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


def _array(
    content: bytes,
    below: Sequence[str],
    get: Callable[[str], bytes],
    spare: Spare | None,
    room: int,
) -> Array:
    said = json.loads(get_object_body(content, Array))
    numbers = said["arraychunk_ids"]
    # A piece of zeros may honestly stand in an array many times; it lies below it once.
    if not all(type(one) is int for one in numbers) or {*numbers} != {*range(len(below))}:
        raise ExchangeError("an array names other pieces than it came with")
    head = {"dtype": said["dtype"], "shape": tuple(said["shape"]), "stype": said["stype"]}
    bodies: Iterator[memoryview] = (_body(get(below[number])) for number in numbers)
    if spare is not None and head["stype"] == PACKED:
        file = spare()
        for body in bodies:
            file.write(body)
        file.flush()
        return FiledArray(head, file)
    # Not grown piece by piece, which takes an eighth more; nor as large as many numbers claim:
    # memory that no piece fills is taken all the same.
    first = next(bodies, memoryview(b""))
    data, at = bytearray(min(len(numbers) * len(first), room)), 0
    bodies = chain([first], bodies)
    del first
    for body in bodies:
        data[at : at + len(body)] = body
        at += len(body)
    del data[at:]
    array = Array(**head, data=b"")
    array.__dict__["data"] = data  # not by assignment, as above; and not a copy as bytes
    return array


def _body(piece: bytes) -> memoryview:
    kind, grandchildren, _ = get_object_head_values_from_object_content(piece)
    if kind != ArrayChunk.__qualname__ or grandchildren:
        raise ExchangeError("an array is made of something else than pieces")
    return memoryview(piece)[piece.index(HEAD_ENDS) + 1 :]


def _size(array: Any) -> int:
    if isinstance(array, FiledArray):
        return os.fstat(array.file.fileno()).st_size
    return len(array.data)
