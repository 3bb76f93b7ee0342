"""Label maps find their images, by what both are called: conventions, no more; content decides.

Known are folders side by side (``imagesTr/a_0000.nii.gz`` and ``labelsTr/a.nii.gz`` of the Medical
Decathlon and nnU-Net, ``images`` and ``masks``), a word at the end of a name (``a_seg.nii.gz``,
``a_mask.png``, ``a.seg.nrrd``; one may serve several: ``a_t1``, ``a_t2``), and derivatives of BIDS
(https://bids-specification.readthedocs.io/en/stable/derivatives/imaging.html).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

_KINDS = r"(?:_?(?:tr|ts|va|train|training|test|val|valid|validation))?"
_LABEL_FOLDER = re.compile(
    rf"(?:labels?|masks?|segs?|segmentations?|gts?|ground_?truths?|annotations?|labelmaps?)({_KINDS})",
    re.IGNORECASE,
)
_IMAGE_FOLDERS = ("images", "image", "imgs", "img", "volumes", "volume", "scans", "data", "inputs")
_WORD = re.compile(
    r"[._-](?:seg|segs|dseg|aseg|mask|masks|label|labels|labelmap|segmentation|segmentations|gt|"
    r"groundtruth|ground_truth|annotation|lesion|lesions|roi)$",
    re.IGNORECASE,
)
_ENDINGS = re.compile(
    r"(?:\.(?:nii|mha|mhd|nrrd|nhdr|mgz|mgh|hdr|img|png|jpe?g|tiff?|bmp|gz))+$", re.IGNORECASE
)
_CHANNEL = re.compile(
    r"(?:[._-](?:\d{4}|t1|t1c|t1ce|t1n|t1gd|t1w|t2|t2w|t2f|t2s|t2star|flair|adc|dwi|pd|pdw|bold|mr|"
    r"mri|ct|cta|pet|image|img|scan|volume))?",
    re.IGNORECASE,
)
_DERIVED = re.compile(r"/derivatives/[^/]+/")
_ADDED = ("space-", "label-", "desc-", "res-", "den-", "seg-")
"""Entities that BIDS gives to what is derived."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Where the images of a label map may stand: files of *folder* whose names begin so."""

    folder: str
    stem: str
    derived: bool = False
    """Whatever follows *stem* is one more word (BIDS: the kind of image)."""

    def names(self, place: str) -> bool:
        """Say whether a file is called so, with no word more."""
        return stem_of(place.rpartition("/")[2]) == self.stem

    def fits(self, place: str) -> bool:
        """Say whether a file is one of the images, by its name."""
        head, _, name = place.rpartition("/")
        rest = stem_of(name)[len(self.stem) :]
        if head != self.folder or not stem_of(name).startswith(self.stem) or _WORD.search(rest):
            return False
        return bool(
            re.fullmatch(r"_[A-Za-z0-9]+", rest) if self.derived else _CHANNEL.fullmatch(rest)
        )


def stem_of(name: str) -> str:
    """Return a file's name without its endings.

    >>> stem_of("a.b_seg.nii.gz")
    'a.b_seg'
    """
    return _ENDINGS.sub("", name)


def wanted_by(place: str) -> tuple[Wanted, ...]:
    """Return where the images of a file may be, if it is called as label maps are; else nothing."""
    path = PurePosixPath(place)
    stem, folder = stem_of(path.name), str(path.parent)
    word = _WORD.search(stem)
    short = stem[: word.start()] if word else stem
    if derived := _DERIVED.search(folder + "/"):
        return (*_derived(folder + "/", derived, stem),) if word else ()
    found = [Wanted(folder=there, stem=one) for there in _beside(path) for one in {stem, short}]
    here = [Wanted(folder=folder, stem=short)] if word else []
    return (*here, *found)


def _beside(path: PurePosixPath) -> Iterator[str]:
    """Yield the folders of images that belong to a folder of labels above *path*."""
    parts = path.parent.parts
    for at, part in enumerate(parts):
        if match := _LABEL_FOLDER.fullmatch(part):
            for word in _IMAGE_FOLDERS:
                for name in (word, word.capitalize()):
                    yield str(PurePosixPath(*parts[:at], name + match[1], *parts[at + 1 :]))


def _derived(folder: str, derived: re.Match[str], stem: str) -> Iterator[Wanted]:
    """Yield where the raw image of a derivative lies."""
    words = stem.split("_")[:-1]
    kept = [word for word in words if not word.startswith(_ADDED)]
    for above in ("/", "/rawdata/", "/sourcedata/"):
        raw = (folder[: derived.start()] + above + folder[derived.end() :]).rstrip("/")
        yield Wanted(folder=raw, stem="_".join(kept), derived=True)
    yield Wanted(folder=folder.rstrip("/"), stem="_".join(kept), derived=True)
