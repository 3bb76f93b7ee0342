"""What must be found nowhere: the names, ids and dates of the source, in all their forms."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from confrere_client.ingest.judging.judge import DUPLICATE, NEAR, OUTLIER, WHITE
from confrere_client.ingest.keeping.dataset import SCHEMA
from confrere_common.describe import MEASURES

LEAST = 4
"""Characters; shorter terms stand everywhere by chance: they are looked for as words of a text."""

LEAST_DIGITS = 6
"""Of a number: shorter ones are sizes and spacings, too."""

LEAST_IN_PATH = 6
DATE = re.compile(r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])")
TELLING = re.compile(r"[\d^,_ ]")
"""A folder's or file's name is a term if it holds one of these: 'ABDOMEN' names nobody."""

STANDARD = "1.2.840.10008."
"""What DICOM itself is called by: transfer syntaxes and classes, never a person or a study."""

CLOSED = frozenset((
    "train", "val", "test", "monochrome1", "monochrome2", "palette color", "ybr_full",
    "ybr_full_422", "ybr_ict", "ybr_rct", "ybr_partial_420", "ybr_partial_422",
))  # fmt: skip
"""Values that a column may have and that are everybody's."""

TEMPLATE = Path(__file__).parent / "templates" / "dataset.html.jinja"


def terms_of(names: Iterable[str], places: Iterable[str]) -> set[str]:
    """Return all forms of *names*, and what in the paths *places* may be a name; lower case."""
    found: set[str] = set()
    for name in names:
        found.update(form for form in forms(name) if not is_short(form))
    for place in places:
        for part in PurePosixPath(place.replace("!/", "/")).parts:
            stem = part.split(".")[0].casefold().strip()
            if len(stem) >= LEAST_IN_PATH and TELLING.search(stem) and not is_short(stem):
                found.add(stem)
    return {term for term in found if not term.startswith(STANDARD)} - own_words()


def words_of_texts(names: Iterable[str]) -> set[str]:
    """Return the forms of *names* that stand in a data set whoever is in it.

    They are too short, or words of its own: to be looked for where somebody wrote something.
    """
    ours = own_words()
    return {form for name in names for form in forms(name) if is_short(form) or form in ours}


def is_short(term: str) -> bool:
    """Say whether a term stands everywhere by chance.

    >>> is_short("doe"), is_short("10.25"), is_short("1024"), is_short("201102")
    (True, True, True, False)
    """
    number = not re.search(r"[^\d.,+\-e ]", term)
    return len(term) < LEAST or (number and sum(map(str.isdigit, term)) < LEAST_DIGITS)


def forms(name: str) -> Iterator[str]:
    """Yield how an identifier may be written.

    >>> sorted(forms("Doe^Jane"))
    ['doe', 'doe jane', 'doe^jane', 'jane', 'jane doe']
    >>> sorted(forms("20240131"))
    ['2024-01-31', '20240131', '31.01.2024']
    """
    whole = name.strip().casefold()
    yield whole
    if "^" in whole:
        parts = [part for part in re.split(r"[\^=\s]+", whole) if part]
        yield from parts
        yield " ".join(parts)
        yield " ".join(reversed(parts))
    if DATE.fullmatch(whole):
        year, month, day = whole[:4], whole[4:6], whole[6:]
        yield f"{year}-{month}-{day}"
        yield f"{day}.{month}.{year}"


def own_words(least: int = LEAST) -> frozenset[str]:
    """Return the words of *least* letters or more that a data set holds whoever is in it."""
    plain = "true false null image plan options"
    told = (f"{one.title} {' '.join(one.names)}" for one in MEASURES.values())
    flags = (DUPLICATE, NEAR, WHITE, OUTLIER)
    text = " ".join((TEMPLATE.read_text(), plain, *SCHEMA.names, *flags, *told))
    return CLOSED | frozenset(re.findall(rf"[a-z]{{{least},}}", text.casefold()))
