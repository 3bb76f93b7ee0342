"""A plan that trains nothing as a doctor reads it: what would be counted, and what would leave."""

from collections.abc import Iterator

from confrere_client.hospital.policy import Policy
from confrere_client.hospital.registry import Registered, printable
from confrere_common.describe import MOST_TEXT, Describe, measures_of
from confrere_common.marks import MOST_MARKS

Row = tuple[str, str]
"""A label and what it says."""


ALLOWED = (
    "your policy (duplicates) lets salted hashes leave: 16 bytes for each image, "
    f"copies counted once, {MOST_MARKS:,} at most. The coordinator counts with them which "
    "sites have equal images. An image cannot be made from its hash. But who holds an image, "
    "prepared as yours are, and sees the hashes finds out whether this site has that very image, "
    "and so perhaps that its patient was here. The coordinator's software drops the hashes once "
    "they are counted and tells no small number; you have its word for that. Hashes of one run do "
    "not fit those of another."
)
FORBIDDEN = (
    "the run asks for salted hashes of images, by which to find those that several sites have. "
    "Your policy (duplicates: false) lets none leave. The counts above leave all the same."
)


def describing(asked: Describe, policy: Policy) -> Iterator[Row]:
    """Yield what would be counted."""
    yield "stage", "describe: nothing is trained; patients are counted, once, and counts leave"
    yield "counted by", "; ".join(one.title for one in measures_of(asked).values())
    labels = ", ".join(printable(label) for label in asked.labels)
    yield "labels counted", labels or "none by name, only how many patients have any"
    yield (
        "smallest count",
        f"{max(asked.min_cell, policy.min_cell)} patients: the run asks for {asked.min_cell} or "
        f"more, your policy (min_cell) for {policy.min_cell}",
    )


def leaving(entry: Registered | None, asked: Describe, policy: Policy) -> Iterator[Row]:
    """Yield what would leave, and what nothing hides."""
    yield (
        "leaves, once",
        "how many patients fall into each cell of a fixed table, small cells joined or withheld "
        f"({MOST_TEXT // 1000} kB at most), and the number of images. No name, no pixel, no text "
        "of yours. When it does not tell: a code from a fixed table.",
    )
    if asked.duplicates:
        yield "shared images", ALLOWED if policy.duplicates else FORBIDDEN
    yield "stays", "images, names and numbers of patients, file names, every error's own words"
    if entry is not None and entry.unknown_patients and not entry.one_image_per_patient:
        yield (
            "note",
            f"{entry.unknown_patients} images have no known patient and are not counted. Register "
            "them with a patient column, or vouch with --one-image-per-patient.",
        )
    yield (
        "differential privacy",
        "none: who asks again after a patient has come or gone sees a count change. Approve such "
        "a run seldom.",
    )
