import zipfile
from pathlib import Path

import numpy as np
import pytest
from broken_files import claiming, picture, png
from PIL import Image

from confrere_client.ingest.reader import HEAD_BYTES, Exam, Reader, Skipped
from confrere_client.ingest.readers.npz import Npz
from confrere_client.ingest.readers.picture import Picture
from confrere_client.ingest.shaping.resample import resampled


def read(reader: Reader, path: Path) -> list[Exam]:
    assert reader.claims(path.read_bytes()[:HEAD_BYTES], path)
    return [exam for part in reader.index(path) for exam in reader.load([part], {})]


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.bmp", "a.dat"])
def test_a_picture_is_known_by_its_content(tmp_path: Path, name: str) -> None:
    path = picture(tmp_path / (name if name != "a.dat" else "a.png"), 1)
    path = path.rename(tmp_path / name)

    (exam,) = read(Picture(), path)

    assert exam.pixels.shape == (1, 40, 30)
    assert exam.pixels.dtype == np.uint8


def test_colour_of_16_bits_a_palette_and_alpha_come_out_plain(tmp_path: Path) -> None:
    rgba = np.random.default_rng(0).integers(0, 255, (9, 7, 4), np.uint8)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    Image.fromarray(rgba[..., :3]).quantize(16).save(tmp_path / "p.png")
    Image.fromarray(rgba[..., 0].astype(np.uint16) * 16).save(tmp_path / "d.png")

    shapes = {p.name: read(Picture(), p)[0].pixels for p in sorted(tmp_path.iterdir())}

    assert {name: (array.shape, array.dtype.name) for name, array in shapes.items()} == {
        "a.png": ((3, 9, 7), "uint8"),
        "p.png": ((3, 9, 7), "uint8"),
        "d.png": ((1, 9, 7), "uint16"),
    }


def test_the_header_tells_how_much_memory_is_wanted_before_any_is_taken(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(claiming(png(1), 900, 800))

    (part,) = Picture().index(tmp_path / "a.png")

    assert part.nbytes == 720_000


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (claiming(png(1), 100_000, 100_000), "claims too many pixels"),
        (claiming(png(1), 9_000, 8_000), "truncated or corrupt"),
        (png(1)[:60], "truncated or corrupt"),
        (png(1)[:12], "header is corrupt"),
    ],
)
def test_a_bad_picture_is_skipped_with_a_reason(tmp_path: Path, content: bytes, kind: str) -> None:
    (tmp_path / "a.png").write_bytes(content)

    with pytest.raises(Skipped) as caught:
        read(Picture(), tmp_path / "a.png")

    assert caught.value.kind == kind


def smooth(rows: int, columns: int) -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 255, (rows // 8, columns // 8, 3), np.uint8)
    return Image.fromarray(coarse).resize((columns, rows), Image.Resampling.BICUBIC)


def fitted(path: Path, px: int | None) -> Exam:
    (exam,) = Picture().load(Picture().index(path), {"picture_px": px})
    return exam


@pytest.mark.parametrize(("name", "most"), [("a.png", 0), ("a.jpg", 3)])
def test_a_picture_read_at_its_size_is_the_one_resampled_afterwards(
    tmp_path: Path, name: str, most: float
) -> None:
    smooth(320, 480).save(tmp_path / name, quality=95)
    whole = fitted(tmp_path / name, None)

    small = fitted(tmp_path / name, 100)

    wanted = resampled(whole.pixels, (67, 100)).astype(int)
    assert small.pixels.shape == (3, 67, 100)
    assert small.source_shape == whole.pixels.shape
    assert np.abs(small.pixels - wanted).mean() <= most


def test_a_turned_picture_is_read_upright_at_its_size(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    smooth(64, 160).save(tmp_path / "a.jpg", exif=exif)

    exam = fitted(tmp_path / "a.jpg", 80)

    assert exam.pixels.shape == (3, 80, 32)
    assert exam.source_shape == (3, 160, 64)


@pytest.mark.parametrize("kind", ["16 bits", "palette", "small"])
def test_what_cannot_be_read_smaller_is_read_whole(tmp_path: Path, kind: str) -> None:
    picture = smooth(64, 80)
    if kind == "16 bits":
        picture = Image.fromarray(np.asarray(picture)[..., 0].astype(np.uint16) * 200)
    if kind == "palette":
        picture = picture.quantize(8)
    picture.save(tmp_path / "a.png")

    exam = fitted(tmp_path / "a.png", 80 if kind == "small" else 40)

    assert exam.pixels.shape[1:] == (64, 80)
    assert exam.source_shape == ()


def test_arrays_are_exams_with_labels_splits_and_patients(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (3, 8, 8), np.uint8)
    np.savez(
        tmp_path / "a.npz", train_images=images, train_labels=[2, 0, -1], train_patients=[7, 7, 8]
    )

    exams = read(Npz(), tmp_path / "a.npz")

    assert [(e.suffix, e.label, e.split, e.patient) for e in exams] == [
        ("train/0", "2", "train", "7"),
        ("train/1", "0", "train", "7"),
        ("train/2", "", "train", "8"),
    ]


def test_pickles_and_damage_in_arrays_are_skips(tmp_path: Path) -> None:
    np.savez(tmp_path / "o.npz", train_images=np.array([{"a": 1}], object))
    np.savez_compressed(tmp_path / "d.npz", images=np.zeros((9, 99, 99), np.uint8))
    data = bytearray((tmp_path / "d.npz").read_bytes())
    data[150:170] = bytes(20)
    (tmp_path / "d.npz").write_bytes(data)

    for name in ("o.npz", "d.npz"):
        with pytest.raises(Skipped):
            read(Npz(), tmp_path / name)


def test_an_archive_of_other_files_is_no_npz(tmp_path: Path) -> None:
    from broken_files import zipped

    path = zipped(tmp_path / "a.npz", {"x.png": png(1)})

    assert not Npz().claims(path.read_bytes(), path)


def test_an_array_that_is_nowhere_in_its_archive_is_damage(tmp_path: Path) -> None:
    file = tmp_path / "a.npz"
    np.savez(file, train_images=np.zeros((2, 8, 8), np.uint8), other=np.arange(4))
    with zipfile.ZipFile(file) as archive:
        at = archive.getinfo("other.npy").header_offset
    data = bytearray(file.read_bytes())
    data[at : at + 4] = b"gone"
    file.write_bytes(data)

    with pytest.raises(Skipped, match="array is damaged"):
        Npz().index(file)


def test_a_zip_of_a_kind_to_come_is_not_claimed(tmp_path: Path) -> None:
    file = tmp_path / "a.npz"
    np.savez(file, train_images=np.zeros((2, 8, 8), np.uint8))
    data = bytearray(file.read_bytes())
    data[data.rindex(b"PK\x01\x02") + 6] = 99  # the version that is needed to unpack it
    file.write_bytes(data)

    assert not Npz().claims(bytes(data[:HEAD_BYTES]), file)
