"""The text headers of NRRD and MetaImage, read here alone: size, type, and where the voxels stand.

SimpleITK is given a header written anew from what was read here, so that it can find no other file
in it than the one that was checked.

Sources: https://teem.sourceforge.net/nrrd/format.html, https://itk.org/Wiki/ITK/MetaIO/Documentation.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from confrere_client.ingest.reader import Skipped

SPACING, DIRECTIONS, ORIGIN = "spacing", "directions", "origin"

META_SAYS: Mapping[str, tuple[str, ...]] = {
    SPACING: ("elementspacing", "elementsize"),
    DIRECTIONS: ("transformmatrix", "rotation", "orientation"),
    ORIGIN: ("offset", "position", "origin"),
}

LONGEST = 64 << 10
"""A header of more bytes is none."""

META_TYPES: Mapping[str, int] = {
    "CHAR": 1, "UCHAR": 1, "SHORT": 2, "USHORT": 2, "INT": 4, "UINT": 4, "LONG": 4, "ULONG": 4,
    "LONG_LONG": 8, "ULONG_LONG": 8, "FLOAT": 4, "DOUBLE": 8,
}  # fmt: skip
NRRD_TYPES: Mapping[str, int] = {
    **dict.fromkeys(
        ("signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8", "uint8_t"), 1
    ),
    **dict.fromkeys(
        ("short", "short int", "signed short", "signed short int", "int16", "int16_t"), 2
    ),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), 2),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t", "uint", "unsigned int", "uint32"), 4),
    **dict.fromkeys(("uint32_t", "float"), 4),
    **dict.fromkeys(("longlong", "long long", "long long int", "int64", "int64_t", "ulonglong"), 8),
    **dict.fromkeys(("unsigned long long", "uint64", "uint64_t", "double"), 8),
}


@dataclass(frozen=True, kw_only=True)
class Meta:
    """What a header says before any voxel is read."""

    io: str
    """The reader of SimpleITK that is to be used; it shall not guess by name."""

    sizes: tuple[int, ...]
    """X Y Z ...; channels, where a NRRD counts them as an axis, come first."""

    itemsize: int
    packed: bool
    data: Path
    """The file that holds the voxels: the header's own, or one beside it."""

    head: str
    """A header of these values, up to the field that names the voxels."""

    begin: tuple[int, int] = (0, 0)
    """Lines, then bytes, of the file of voxels that come before them."""

    says: frozenset[str] = frozenset()
    """Which of SPACING, DIRECTIONS and ORIGIN it has: SimpleITK gives 1 mm, none and 0 for those
    that it lacks, as though they were said."""

    texts: tuple[str, ...] = ()
    """Values of the header that may hold a name."""

    @property
    def stored(self) -> int:
        """Return the bytes of the voxels when they are not packed."""
        return prod(self.sizes) * self.itemsize

    def naming(self, path: str) -> bytes:
        """Return a header of its own for the voxels in *path*, an absolute one."""
        field = "ElementDataFile = " if self.io == "MetaImageIO" else "data file: "
        return f"{self.head}{field}{path}\n".encode("ascii")


META_KEPT = (
    "ObjectType", "NDims", "BinaryData", "BinaryDataByteOrderMSB", "ElementByteOrderMSB",
    "CompressedData", "CompressedDataSize", "TransformMatrix", "Rotation", "Orientation", "Offset",
    "Position", "Origin", "ElementSpacing", "DimSize", "HeaderSize", "ElementSize",
    "ElementNumberOfChannels", "ElementType",
)  # fmt: skip
NRRD_KEPT = (
    "type", "dimension", "space", "space dimension", "sizes", "spacings", "thicknesses",
    "axis mins", "axis maxs", "space directions", "centers", "centerings", "kinds", "endian",
    "encoding", "space origin", "measurement frame", "line skip", "byte skip",
)  # fmt: skip
"""Fields that bear on how the voxels are read and where they lie in the patient."""

PLAIN = re.compile(r"[\w+\-.,()\"? \t]*", re.ASCII)
"""What their values are made of: no path, no pattern of names, no second field."""

_PAIR = re.compile(rb"(?:(?!: ).)*?:=")
"""A line of NRRD that is no field: ``name:=value``, with no ``: `` before it."""


def is_meta(head: bytes) -> str:
    """Return nrrd or meta, or '' for neither."""
    if head.startswith(b"NRRD000"):
        return "nrrd"
    lowered = head.lower()
    for key in (b"ndims", b"dimsize"):  # every file is asked: the word alone is found far faster
        if key not in lowered or not re.search(rb"(?m)^\s*" + key + rb"\s*=", lowered):
            return ""
    return "meta"


def read_meta(file: Path) -> Meta:
    """Return the header of *file*; Skipped when it is incomplete or points outside its folder."""
    with file.open("rb") as stream:
        head = stream.read(LONGEST)
    return _nrrd(file, head) if is_meta(head) == "nrrd" else _meta(file, head)


def _meta(file: Path, head: bytes) -> Meta:
    fields, end = _fields(head, b"=", last="elementdatafile")
    if "elementdatafile" not in fields:
        raise Skipped("corrupt", "the header has no end")
    sizes = _integers(fields.get("dimsize", ""))
    channels = _integers(fields.get("elementnumberofchannels", "1"))
    kind = fields.get("elementtype", "").upper().removeprefix("MET_").removesuffix("_ARRAY")
    count = _integers(fields.get("ndims", ""))
    if kind not in META_TYPES or count != (len(sizes),) or len(channels) != 1:
        raise Skipped("corrupt", "the header lacks size or type")
    named = fields["elementdatafile"]
    local = named.upper() == "LOCAL"
    if local:
        fields["headersize"] = str(end)
        fields.setdefault("compresseddatasize", str(file.stat().st_size - end))
    return Meta(
        io="MetaImageIO",
        sizes=(*channels, *sizes) if channels != (1,) else sizes,
        itemsize=META_TYPES[kind],
        packed=fields.get("compresseddata", "").lower() in ("true", "1", "t"),
        data=file if local else _beside(file, named),
        head=_anew(fields, META_KEPT, " = "),
        begin=(0, sum(_integers(fields.get("headersize", "")))),
        says=frozenset(
            what for what, names in META_SAYS.items() if any(fields.get(name) for name in names)
        ),
        texts=_texts(fields),
    )


def _nrrd(file: Path, head: bytes) -> Meta:
    end = min((at for at in (head.find(b"\n\n"), head.find(b"\r\n\r\n")) if at > 0), default=None)
    fields, _ = _fields(head[:end], b":")
    sizes = _integers(fields.get("sizes", ""))
    kind = fields.get("type", "").lower()
    if kind not in NRRD_TYPES or _integers(fields.get("dimension", "")) != (len(sizes),):
        raise Skipped("corrupt", "the header lacks size or type")
    named = fields.get("datafile")
    if named is None:
        if end is None:
            raise Skipped("corrupt", "the header has no end")
        lines = head[:end].count(b"\n") + 2  # they are skipped before anything is inflated
        fields["lineskip"] = str(lines + sum(_integers(fields.get("lineskip", ""))))
    encoding = fields.get("encoding", "raw").lower()
    if encoding not in ("raw", "gzip", "gz", "txt", "text", "ascii"):
        raise Skipped("unknown encoding", "neither raw, gzip nor text")
    return Meta(
        io="NrrdImageIO",
        sizes=sizes,
        itemsize=NRRD_TYPES[kind] if encoding not in ("txt", "text", "ascii") else 1,
        packed=encoding in ("gzip", "gz"),
        data=file if named is None else _beside(file, named),
        head="NRRD0005\n" + _anew(fields, NRRD_KEPT, ": "),
        begin=(sum(_integers(fields.get("lineskip", ""))), 0),
        says=_nrrd_says(fields, len(sizes)),
        texts=_texts(fields),
    )


def _nrrd_says(fields: Mapping[str, str], axes: int) -> frozenset[str]:
    """Return what a NRRD says of its grid: an axis of colours or times need have no step.

    Directions and origin are in no patient's system unless ``space`` names one.
    """

    def has(name: str) -> bool:
        value = fields.get(name, "").lower()
        return bool(value) and value.count("none") + value.count("nan") <= max(axes - 3, 0)

    patient = "space" in fields
    said = {
        SPACING: has("spacings") or has("spacedirections"),
        DIRECTIONS: patient and has("spacedirections"),
        ORIGIN: patient and has("spaceorigin"),
    }
    return frozenset(what for what, there in said.items() if there)


def _fields(head: bytes, mark: bytes, last: str = "") -> tuple[dict[str, str], int]:
    """Return the fields of a header up to *last*, and where that ends.

    Names are in lower case and without blanks: NRRD has both ``data file`` and ``datafile``. Pairs
    of NRRD (``name:=value``) stand by their whole line, and for no field. Skipped when a field
    stands twice: programs would differ in which they believe.
    """
    found: dict[str, str] = {}
    end = 0
    for line in head.split(b"\n"):
        end += len(line) + 1
        if line.startswith(b"#"):
            continue
        name, sign, value = (part.decode("latin-1").strip() for part in line.partition(mark))
        key = "".join(name.split()).lower()
        if mark == b":" and _PAIR.match(line):
            key = line.decode("latin-1")
        elif sign and key in found:
            raise Skipped("corrupt", "a field of the header stands twice")
        if sign:
            found[key] = value.lstrip("=").strip()
        if last and key == last:
            break
    return found, end


def _anew(fields: Mapping[str, str], kept: tuple[str, ...], mark: str) -> str:
    """Return the lines of a header that says what *fields* say; Skipped for an odd value."""
    named = {name: fields.get("".join(name.split()).lower()) for name in kept}
    if not all(PLAIN.fullmatch(value) for value in named.values() if value):
        raise Skipped("corrupt", "a field of the header is neither a word nor numbers")
    return "".join(f"{name}{mark}{value}\n" for name, value in named.items() if value)


def _integers(text: str) -> tuple[int, ...]:
    """Return positive numbers; () when one of them is none."""
    words = text.split()
    good = all(word.isascii() and word.isdigit() and 0 < int(word) < 1 << 31 for word in words[:16])
    return tuple(int(word) for word in words) if good and len(words) <= 16 else ()


def _beside(file: Path, named: str) -> Path:
    """Return the file of voxels that a header names; Skipped when it lies outside its folder."""
    if not named or "%" in named or named.upper().startswith("LIST"):
        raise Skipped("unknown encoding", "voxels spread over several files")
    try:
        found = (file.parent / named).resolve()
        inside = found.is_relative_to(file.parent.resolve())
    except (OSError, ValueError):
        inside = False
    if not inside:
        raise Skipped("outside its folder", "the header points to a file elsewhere")
    if not found.is_file():
        raise Skipped("no pixel data", "the file of voxels beside the header is missing")
    return found


def _texts(fields: Mapping[str, str]) -> tuple[str, ...]:
    """Return the values that are no numbers."""
    words = (value for value in fields.values() if any(letter.isalpha() for letter in value))
    return tuple(word for word in words if 2 < len(word) < 256)
