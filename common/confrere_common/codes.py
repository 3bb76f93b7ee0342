"""The fixed table of what a site may say outside when it does not train: codes, never a text.

An exception's own words may hold a path or a patient's name; they stay in the site's log.
"""

import errno
import re
from collections.abc import Mapping

from confrere_common.errors import (
    ConfigError,
    DataError,
    ExchangeError,
    PrivacyError,
    TrainingError,
)

CODES: Mapping[str, str] = {
    "policy-stage": "The hospital's policy does not allow this stage.",
    "policy-method": "The hospital's policy does not allow this method.",
    "policy-encoder": "The hospital's policy does not allow this encoder.",
    "policy-rule": "The hospital's policy does not allow this rule of joining updates.",
    "policy-data": "The hospital's policy does not lend the data that the run asks for.",
    "policy-hours": "The hospital trains at other hours of the day; ask again later.",
    "policy-sites": "Fewer sites take part than the hospital's policy demands.",
    "policy-bytes": "A round would move more bytes than the hospital's policy allows.",
    "policy-time": "The run would take longer than the hospital's policy allows.",
    "policy-privacy": "The hospital's policy demands differential privacy, or a lower epsilon.",
    "policy-evaluation": "The hospital's policy lets nothing of a model's scores leave.",
    "privacy": "The run cannot keep its promise of differential privacy at the hospital.",
    "budget-spent": "The patients' privacy budget at the hospital has not enough left.",
    "ledger-broken": "The hospital's privacy ledger is not as it was; a person must look at it.",
    "policy-unreadable": "The hospital's policy file has faults and must be mended there.",
    "policy-secure-aggregation": "The hospital's policy demands secure aggregation.",
    "not-approved": "Nobody at the hospital has approved the plan yet.",
    "denied": "The hospital has denied the plan.",
    "too-often": "The round was asked for from other weights, more often than a crash explains.",
    "paused": "The hospital has paused its daemon.",
    "other-code": "The hospital has another version of confrere installed than the run asks for.",
    "other-plan": "Another plan came under this run's id before: submit it under a new id.",
    "other-roster": "The plan's list of sites and keys is not one that the hospital can sign in.",
    "masked-before": "Another run had this update under masks: submit it with another seed.",
    "out-of-turn": "A message of a masked round did not fit what the hospital had seen of it.",
    "too-many-plans": "The hospital keeps as many undecided plans as it can.",
    "no-such-data": "The hospital has no such data set, or several where the run names none.",
    "data-unreadable": "The hospital's images could not be read.",
    "other-preparation": "The hospital's images were not prepared as the run demands.",
    "no-labels": "The hospital has no image to train on: none that is marked for the task, or all "
    "are kept for scoring.",
    "other-classes": "The hospital's labels, or masks, have classes that the run does not name.",
    "nothing-to-score": "The hospital has no marked patient held out, no head of its own, or "
    "nothing of its own to compare with.",
    "not-enough-images": "The hospital has fewer images than its policy demands.",
    "too-few-patients": "The hospital knows too few patients by its images to tell counts of them.",
    "out-of-memory": "The hospital's machine has too little memory, even for one image a step.",
    "disk-full": "The hospital's disk is full.",
    "worker-died": "The process that trains ended by itself.",
    "worker-hung": "The process that trains no longer answered.",
    "round-too-long": "The round took longer than the hospital allows.",
    "loss-not-finite": "The training diverged: lower train.lr or set train.clip_norm.",
    "task-unreadable": "What came is no plan or task that the hospital's version understands.",
    "internal": "Something unforeseen happened; the hospital's own log tells it.",
}
"""Code -> the sentence that the coordinator sees."""

_CODE = re.compile(r"[a-z][a-z-]{0,39}")


def sentence_of(code: str) -> str:
    """Return what *code* means; of one that a newer site says, that it is not known here."""
    if code in CODES:
        return CODES[code]
    said = f"'{code}'" if is_code(code) else "that is none"
    return f"The hospital answered a code {said}, which this version does not know."


def is_code(text: str) -> bool:
    """Say whether *text* has the form of a code, of this version or another."""
    return _CODE.fullmatch(text) is not None


def code_of(fault: BaseException) -> str:
    """Return the code to say outside in place of *fault*; nothing of its text is used.

    A fault may bring its own as ``code``.
    """
    own = getattr(fault, "code", None)
    if isinstance(own, str) and own in CODES:
        return own
    if isinstance(fault, MemoryError) or type(fault).__name__ == "OutOfMemoryError":  # torch's
        return "out-of-memory"
    if isinstance(fault, OSError) and fault.errno in (errno.ENOSPC, errno.EDQUOT):
        return "disk-full"
    return next((code for kind, code in _KINDS.items() if isinstance(fault, kind)), "internal")


_KINDS: Mapping[type[Exception], str] = {
    TrainingError: "loss-not-finite",
    PrivacyError: "privacy",
    DataError: "data-unreadable",
    ExchangeError: "task-unreadable",
    ConfigError: "task-unreadable",
}
