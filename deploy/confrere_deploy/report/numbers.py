"""What the numbers of a report may be, and a measured one with its interval."""

import math
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from confrere_common.section import section


def _null_unless_finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float, Field(allow_inf_nan=False)]
Measured = Annotated[Number | None, BeforeValidator(_null_unless_finite)]
Natural = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@section
class Figure:
    """A measured number with its interval."""

    mean: Number
    """Mean over the repetitions."""

    low: Number
    """Lower end of the interval; equal to mean when there is none."""

    high: Number
    """Upper end of the interval."""

    n: Annotated[int, Field(ge=1)]
    """Repetitions (seeds) behind the mean."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low {self.low} lies above high {self.high}: swap them")
        return self
