"""A run that starts from a given encoder takes that encoder's architecture from its card."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from confrere_common.release import load_release

NO_START = {"start": None, "start_digest": None, "start_decoder_digest": None}
"""What section ``finetune`` says of a start where there is none."""


def started_from(plain: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return plain values of a run that starts from the encoder at *path*, whatever they named."""
    _, card = load_release(path)
    held: Any = plain.get("data")
    data = {**held, "channels": card.channels} if isinstance(held, Mapping) else held
    section: Any = plain.get("finetune")
    own = section if isinstance(section, Mapping) else {}
    started = {**own, **NO_START, "start": str(path.resolve())}
    return {**plain, "encoder": card.encoder.as_dict(), "data": data, "finetune": started}
