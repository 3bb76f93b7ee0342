import json
from pathlib import Path
from typing import Any

import dicom_files as made
import numpy as np
import pytest
import tifffile
from broken_files import picture
from numpy.typing import NDArray
from openslide import OpenSlide
from slide_files import dicom_slide, stained

from confrere_client.ingest.keeping.dataset import open_dataset
from confrere_client.ingest.prepare import Order, prepare
from confrere_client.ingest.reader import HEAD_BYTES, READERS, Exam, Skipped
from confrere_client.ingest.slide.tissue import evenly, tissue_cells, tissue_mask
from confrere_client.source import open_source
from confrere_common.family import Named

READER = READERS.member("slide")()
RNG = np.random.default_rng(11)


def glass(side: int = 2048, dark: bool = False) -> NDArray[np.uint8]:
    """Return empty glass with a square of tissue in its upper left quarter."""
    image = np.full((side, side, 3), 10 if dark else 243, np.uint8)
    tissue = RNG.integers(120, 200, (side // 2, side // 2, 3), np.uint8)
    image[: side // 2, : side // 2] = tissue if dark else tissue // [1, 2, 1]
    image[:16], image[:, :16] = image[-1, -1], image[-1, -1]
    return image


def pyramid(
    path: Path, image: NDArray[np.uint8], microns: float | None = 0.5, tiled: bool = True
) -> Path:
    size = {} if microns is None else {"resolution": (1e4 / microns,) * 2, "resolutionunit": 3}
    with tifffile.TiffWriter(path) as tiff:
        options: dict[str, Any] = {
            "tile": (256, 256),
            "photometric": "rgb",
            "compression": "deflate",
        }
        if not tiled:
            options |= {"tile": None, "rowsperstrip": 64}
        tiff.write(image, subifds=0, **options, **size)
        for step in (2, 4):
            tiff.write(np.ascontiguousarray(image[::step, ::step]), subfiletype=1, **options)
    return path


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pyramid(tmp_path_factory.mktemp("slide") / "a.tif", glass())


def exams_of(file: Path, **options: Any) -> list[Exam]:
    assert READER.claims(file.read_bytes()[:HEAD_BYTES], file)
    return [exam for part in READER.index(file) for exam in READER.load([part], options)]


def test_pale_tissue_beside_dark_stain_is_taken(tmp_path: Path) -> None:
    data = pytest.importorskip("skimage.data")
    image = glass(2048)
    image[:] = 242
    image[512:1536, 512:1536] = np.tile(data.immunohistochemistry(), (2, 2, 1))

    exams = exams_of(pyramid(tmp_path / "ihc.tif", image), microns_per_px=0.5, tile_px=256)

    assert len(exams) == 16


def test_tiles_are_taken_where_tissue_is(slide: Path) -> None:
    exams = exams_of(slide, microns_per_px=1.0, tile_px=128)

    assert 12 <= len(exams) <= 20  # a quarter of the 8 x 8 grid
    assert all(exam.pixels.shape == (3, 128, 128) for exam in exams)
    assert all(exam.suffix < "y00005" for exam in exams)
    assert exams[0].spacing_mm == (0.001, 0.001)
    assert exams[0].tags["modality"] == "sm"
    assert len({exam.suffix for exam in exams}) == len(exams)


def test_tiles_are_no_more_than_wanted_and_spread(slide: Path) -> None:
    exams = exams_of(slide, microns_per_px=0.5, tile_px=128, max_tiles=7)

    assert len(exams) == 7
    assert exams[0].suffix < "y00001"
    assert exams[-1].suffix > "y00006"


def test_a_slide_of_unknown_resolution_is_read_and_told(tmp_path: Path) -> None:
    file = pyramid(tmp_path / "a.tif", glass(), microns=None)

    exams = exams_of(file, max_tiles=1)

    assert exams[0].warnings == ("unknown resolution",)
    assert exams[0].spacing_mm == ()


def test_a_pyramid_that_openslide_cannot_open_gives_the_same_tiles(
    slide: Path, tmp_path: Path
) -> None:
    with tifffile.TiffFile(slide) as tiff:
        striped = pyramid(tmp_path / "a.tif", tiff.asarray(), tiled=False)

    wanted = {"microns_per_px": 1.0, "tile_px": 128}
    assert OpenSlide.detect_format(str(striped)) is None
    ours, theirs = exams_of(striped, **wanted), exams_of(slide, **wanted)

    assert [exam.suffix for exam in ours] == [exam.suffix for exam in theirs]
    assert ours[0].spacing_mm == theirs[0].spacing_mm
    for one, other in zip(ours, theirs, strict=True):
        assert np.abs(one.pixels.astype(int) - other.pixels).mean() < 2


def test_a_dicom_slide_gives_tiles_of_its_tissue_in_its_colours(tmp_path: Path) -> None:
    image = stained(2048)
    fine, coarse = dicom_slide(tmp_path, image, microns=0.5)

    parts = [READER.index(file)[0] for file in (coarse, fine)]
    exams = list(READER.load(parts, {"microns_per_px": 0.5, "tile_px": 256}))

    assert READER.claims(coarse.read_bytes()[:HEAD_BYTES], coarse)
    assert len({part.group for part in parts}) == 1
    assert parts[0].patient == made.IDENTITY
    assert {"Quarkbein", made.IDENTITY} <= set(parts[0].names)
    assert {exam.suffix for exam in exams} == {
        f"y{row:05}x{column:05}" for row in range(4) for column in range(4)
    }
    for exam in exams:
        row, column = int(exam.suffix[1:6]), int(exam.suffix[7:])
        drawn = image[256 * row : 256 * (row + 1), 256 * column : 256 * (column + 1)]
        assert np.abs(exam.pixels.transpose(1, 2, 0).astype(int) - drawn).mean() < 4
        assert exam.spacing_mm == (0.0005, 0.0005)
        assert exam.tags == {"modality": "sm", "vendor": "leica"}


def test_a_dicom_slide_at_half_its_resolution_is_prepared(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    dicom_slide(source, stained(2048), microns=0.25)

    prepare(Order(sources=(source,), dataset=tmp_path / "out", options={"tile_px": 128}))

    rows = list(open_dataset(tmp_path / "out", "out").rows())
    assert len(rows) == 16
    assert {(*row["shape"], row["tag_modality"]) for row in rows} == {(3, 128, 128, "sm")}
    assert len({row["patient"] for row in rows}) == 1
    stains = [json.loads(row["preprocessing"])["stain"] for row in rows]
    assert min(stain["eosin"] for stain in stains) > 0.1
    assert min(stain["haematoxylin"] for stain in stains) > 0.05


def test_a_slide_that_claims_enormous_tiles_is_refused(slide: Path, tmp_path: Path) -> None:
    file, data = tmp_path / "a.tif", bytearray(slide.read_bytes())
    with tifffile.TiffFile(slide) as tiff:
        tag = tiff.pages[0].tags["TileWidth"]  # type: ignore[union-attr]
    data[tag.valueoffset : tag.valueoffset + 4] = (16_711_936).to_bytes(4, "little")
    data[tag.offset + 2 : tag.offset + 4] = (4).to_bytes(2, "little")  # a number of 32 bits
    file.write_bytes(data)

    with pytest.raises(Skipped, match="enormous tiles"):
        exams_of(file)


def test_an_empty_slide_is_skipped(tmp_path: Path) -> None:
    file = pyramid(tmp_path / "a.tif", np.full((2048, 2048, 3), 240, np.uint8))

    with pytest.raises(Skipped, match="no tissue"):
        exams_of(file)


def test_a_plain_picture_is_no_slide(tmp_path: Path) -> None:
    file = tmp_path / "a.tif"
    tifffile.imwrite(file, np.zeros((300, 300, 3), np.uint8), photometric="rgb")

    assert not READER.claims(file.read_bytes()[:HEAD_BYTES], file)


@pytest.mark.parametrize("keep", [0.02, 0.5])
def test_a_truncated_slide_is_skipped_or_unclaimed(
    slide: Path, tmp_path: Path, keep: float
) -> None:
    file, data = tmp_path / "a.tif", slide.read_bytes()
    file.write_bytes(data[: int(keep * len(data))])

    if READER.claims(file.read_bytes()[:HEAD_BYTES], file):
        with pytest.raises(Skipped):
            exams_of(file)


def test_tissue_is_found_on_white_and_on_black() -> None:
    for dark in (False, True):
        mask = tissue_mask(glass(256, dark))

        assert mask[20:120, 20:120].mean() > 0.95
        assert mask[140:, 140:].mean() < 0.05


def test_a_cell_counts_its_tissue() -> None:
    mask = np.zeros((10, 10), bool)
    mask[:5, :4] = True

    assert tissue_cells(mask, 2, 2, 0.7) == [(0, 0)]
    assert tissue_cells(mask, 2, 2, 0.9) == []


def test_cells_are_thinned_evenly() -> None:
    cells = [(0, at) for at in range(100)]

    assert evenly(cells, 3) == [(0, 0), (0, 50), (0, 99)]
    assert evenly(cells, 200) == cells


def test_a_data_set_of_slides_tells_their_resolution_and_one_of_pictures_none(
    slide: Path, tmp_path: Path
) -> None:
    picture(tmp_path / "flat/a.png")
    told = []
    for name in ("flat", "deep"):
        out = tmp_path / f"{name}-set"
        source = slide if name == "deep" else tmp_path / name
        prepare(Order(sources=(source,), dataset=out, options={"tile_px": 128}))
        named = Named(name="prepared", knobs={"path": str(out)})
        told.append(open_source(named, tmp_path).preparation or {})

    assert told[1]["microns_per_px"] == 0.5
    assert told[1]["tile_px"] == 128
    assert "microns_per_px" not in told[0]
