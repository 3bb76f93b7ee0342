"""Text that is burnt into pictures: masked, flagged, or reason to leave a picture out.

Looked for only where devices write into pictures (ultrasound, radiographs, captures of screens).
What the heuristic cannot see stands in `burnt_in`: this lowers the risk and proves nothing.
"""

from dataclasses import replace

from confrere_client.ingest.burnt_in import LEAST_SCORE, TEXT_MODALITIES, find_text, masked
from confrere_client.ingest.preprocess_plan import MODALITIES
from confrere_client.ingest.reader import Exam, Skipped

FOUND, MASKED = "burnt-in text", "some text masked"
"""Not all of it: the search misses some (`burnt_in`), and a warning that says more is believed."""


def may_hold_text(modality: str) -> bool:
    """Say whether devices write into such pictures."""
    return bool(MODALITIES.get(modality, frozenset({modality})) & frozenset(TEXT_MODALITIES))


def without_text(exam: Exam, modality: str, how: str) -> Exam:
    """Return *exam* with the text in it dealt with as *how* says: mask, flag or skip.

    A volume of pictures (a loop) is looked at in its middle one, and masked throughout.
    """
    if not may_hold_text(modality):
        return exam
    pixels = exam.pixels
    found = find_text(pixels[:, pixels.shape[1] // 2] if pixels.ndim == 4 else pixels)
    if found.score < LEAST_SCORE:
        return exam
    if how == "skip":
        raise Skipped(FOUND)
    if how == "flag":
        return replace(exam, warnings=(*exam.warnings, FOUND))
    planes = pixels.reshape(-1, *pixels.shape[-2:])
    clean = masked(planes, found.boxes).reshape(pixels.shape)
    return replace(exam, pixels=clean, warnings=(*exam.warnings, MASKED))
