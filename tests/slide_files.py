"""Whole slides in DICOM made for tests: stained tissue on glass, in levels of tiles.

Shapes: Y X pixels, 3 colours.
"""

import io
from pathlib import Path
from typing import Any

import dicom_files as made
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit
from scipy.ndimage import gaussian_filter

SOP = "1.2.840.10008.5.1.4.1.1.77.1.6"
TILE_PX = 256
STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
"""What haematoxylin and eosin take of red, green and blue. Ruifrok & Johnston 2001."""


def stained(side: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return glass whose upper left quarter is tissue: violet nuclei in pink."""
    rng = np.random.default_rng(seed)
    pink = 0.25 + 0.1 * gaussian_filter(rng.normal(size=(side, side)), 8) * 8
    nuclei = np.zeros((side, side))
    nuclei[tuple(rng.integers(0, side // 2, (2, side * side // 1200)))] = 1
    violet = np.clip(gaussian_filter(nuclei, 3) * 120, 0, 1.2)
    inside = np.zeros((side, side, 1))
    inside[32 : side // 2, 32 : side // 2] = 1
    density = (violet[..., None] * STAINS[0] + pink[..., None] * STAINS[1]) * inside
    return np.asarray(245 * 10**-density).clip(0, 255).astype(np.uint8)


def dicom_slide(folder: Path, image: NDArray[np.uint8], microns: float) -> list[Path]:
    """Write the slide, at *microns* a pixel and at four times as much, a file for each level."""
    files = []
    for number, step in enumerate((1, 4), 1):
        level = np.ascontiguousarray(image[::step, ::step])
        ds = _level(level, number, microns * step)
        files.append(made.written(ds, folder / f"level{number}.dcm"))
    return files


def _level(image: NDArray[np.uint8], number: int, microns: float) -> FileDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = JPEGBaseline8Bit, SOP
    meta.MediaStorageSOPInstanceUID = f"1.2.3.7.{number}"
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    values: dict[str, Any] = {
        "SOPClassUID": SOP, "SOPInstanceUID": f"1.2.3.7.{number}", "Modality": "SM",
        "StudyInstanceUID": "1.2.3.5", "SeriesInstanceUID": "1.2.3.6", "InstanceNumber": number,
        "FrameOfReferenceUID": "1.2.3.8", "PatientName": made.NAME, "PatientID": made.IDENTITY,
        "ImageType": ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"] if number == 1
        else ["DERIVED", "PRIMARY", "VOLUME", "RESAMPLED"],
        "Manufacturer": "Leica Biosystems", "Rows": TILE_PX, "Columns": TILE_PX,
        "TotalPixelMatrixRows": image.shape[0], "TotalPixelMatrixColumns": image.shape[1],
        "TotalPixelMatrixFocalPlanes": 1, "NumberOfOpticalPaths": 1, "SamplesPerPixel": 3,
        "PhotometricInterpretation": "YBR_FULL_422", "PlanarConfiguration": 0,
        "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0,
        "ImagedVolumeWidth": image.shape[1] * microns / 1000, "ImagedVolumeDepth": 1,
        "ImagedVolumeHeight": image.shape[0] * microns / 1000,
        "DimensionOrganizationType": "TILED_FULL", "LossyImageCompression": "01",
    }  # fmt: skip
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    measures, shared, path = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [microns / 1000] * 2, 0.001
    shared.PixelMeasuresSequence = [measures]
    path.OpticalPathIdentifier = "0"
    ds.SharedFunctionalGroupsSequence, ds.OpticalPathSequence = [shared], [path]
    tiles = _tiles(image)
    ds.NumberOfFrames, ds.PixelData = len(tiles), encapsulate(tiles)
    ds["PixelData"].VR = "OB"
    return ds


def _tiles(image: NDArray[np.uint8]) -> list[bytes]:
    """Return the tiles, row by row, as JPEG; the image is a whole number of them."""
    found = []
    for top in range(0, image.shape[0], TILE_PX):
        for left in range(0, image.shape[1], TILE_PX):
            stream = io.BytesIO()
            tile = Image.fromarray(image[top : top + TILE_PX, left : left + TILE_PX])
            tile.save(stream, "JPEG", quality=95, subsampling=1)
            found.append(stream.getvalue())
    return found
