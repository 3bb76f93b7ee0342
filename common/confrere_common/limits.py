"""What a run lets one site do to the joined update."""

from typing import Annotated

from pydantic import Field

from confrere_common.section import section


@section
class Limits:
    """An update is admitted, not believed; these are the coordinator's limits."""

    weight_share: Annotated[float, Field(gt=0, le=1)] = 0.4
    """Largest share of a mean that one site may have; where so few answer that some site must have
    more, all weigh the same."""

    norm: Annotated[float, Field(gt=0)] | None = None
    """Longest update that is let in, as its Euclidean norm; absent means no fixed limit."""

    norm_ratio: Annotated[float, Field(gt=1)] | None = 30.0
    """An update is left out when it is so many times longer than the median of the last rounds;
    the first round has no such limit. Absent means never."""

    clip_ratio: Annotated[float, Field(gt=0)] | None = None
    """Updates are shortened to so many times the median length of the last rounds (clipped mean);
    absent means never. 2 bounds what a site can do without touching most honest updates."""

    offences: Annotated[int, Field(ge=1)] = 3
    """A site whose updates were left out so often in the last ten rounds is suspended until the
    coordinator clears it."""
