"""What a run asks of differential privacy; what a site then does of it stands in ``terms``."""

from typing import Annotated, Literal

from pydantic import Field

from confrere_common.section import section

LEAST_NOISE = 0.3
"""A noise multiplier below it hides nobody, whatever the sum says."""


@section
class Privacy:
    """Patient-level differential privacy of what a site sends (DP-SGD, arXiv 1607.00133)."""

    epsilon: Annotated[float, Field(gt=0, le=100)]
    """What all rounds of this run may cost a site's patients: a few hide a patient, 10 hardly do.
    Where a hospital's own budget has less left, that counts."""

    delta: Annotated[float, Field(gt=0, lt=0.01)] = 1e-5
    """Chance that the promise does not hold; must stay under 1 / patients at every site."""

    unit: Literal["patient"] = "patient"
    """Who is hidden: a patient with all images, not one image."""

    clip_norm: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    """Largest norm of one patient's gradient in a step; the noise is a multiple of it."""

    noise_multiplier: Annotated[float, Field(ge=LEAST_NOISE, le=1e4)] | None = None
    """Noise over clip_norm; absent means auto: at each site the least that keeps to epsilon."""

    spare_rounds: Annotated[int, Field(ge=0)] = 1
    """Rounds that auto noise leaves room for, besides those of the run: one that a site has to
    train anew, after a crash, is paid anew."""

    patients_per_step: Annotated[int, Field(ge=1)] = 64
    """Patients in a step on average: each is drawn by itself, so a step may hold none at all.
    It takes the place of train.batch. The more, the less the noise weighs."""

    max_images_per_patient: Annotated[int, Field(ge=1, le=1024)] = 4
    """Images of a patient in a step at most, drawn anew each time; their losses are averaged."""

    micro_batch: Annotated[int, Field(ge=1)] = 16
    """Patients whose gradients are held in memory at once; it changes nothing else."""

    engine: Literal["auto", "vmap", "ghost"] = "auto"
    """How a patient's gradient is found: vmap is the reference, ghost is faster and leaner where a
    network allows it; auto takes ghost where it proves on noise that it equals the reference."""
