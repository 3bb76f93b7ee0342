"""The modalities: what each can show, how often, and who draws it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from confrere_client.phantom import ct, histology, lesion, radiograph
from confrere_client.phantom.anatomy import Canvas, Drawing

ModalityName = Literal["radiograph", "ct", "histology", "lesion"]


@dataclass(frozen=True, kw_only=True)
class Modality:
    """One kind of image."""

    classes: Mapping[str, float]
    """Name of each class and how often it is seen; the first is what the healthy have."""

    channels: int

    dims: tuple[int, ...]
    """Numbers of axes that it can be drawn with."""

    draw: Callable[[np.random.Generator, Canvas, str], Drawing]


MODALITIES: Mapping[ModalityName, Modality] = {
    "radiograph": Modality(
        classes=radiograph.CLASSES, channels=radiograph.CHANNELS, dims=(2,), draw=radiograph.draw
    ),
    "ct": Modality(classes=ct.CLASSES, channels=ct.CHANNELS, dims=(2, 3), draw=ct.draw),
    "histology": Modality(
        classes=histology.CLASSES, channels=histology.CHANNELS, dims=(2,), draw=histology.draw
    ),
    "lesion": Modality(
        classes=lesion.CLASSES, channels=lesion.CHANNELS, dims=(2,), draw=lesion.draw
    ),
}
