"""What a test set says of each structure that was outlined: counts, and how its cases lie."""

from confrere_common.section import section
from confrere_deploy.report.numbers import Measured, Natural


@section
class Middle:
    """Median and quartiles over cases."""

    median: Measured
    """Half of the cases lie below."""

    lower: Measured
    """A quarter lies below."""

    upper: Measured
    """A quarter lies above."""


@section
class Outlined:
    """One structure in the test images; cases are the mean over seeds."""

    cases: Natural
    """Test images."""

    without: Natural
    """Those among them that lack the structure."""

    dice: Middle
    """Dice; 1 where truth and answer are empty, 0 where one of them is."""

    hd95: Middle
    """The 95th percentile of the distance, as a share of the image's diagonal."""

    missed: tuple[Natural, ...]
    """Images that have it and where nothing was found, one a seed."""

    invented: tuple[Natural, ...]
    """Images without it where something was found, one a seed."""
