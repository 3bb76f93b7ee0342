import gc
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from confrere_client.data.images import content_digest
from confrere_client.source import Source, UnreadableImage, open_source
from confrere_client.sources.npz import Rows
from confrere_common.errors import DataError
from confrere_common.family import Named


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(len(shape)).integers(0, 256, shape, np.uint8)


def source_of(folder: Path, dims: int | None = None, **arrays: Any) -> Source:
    np.savez_compressed(folder / "all.npz", **arrays)
    return open_source(Named(name="npz", knobs={"path": "all.npz", "dims": dims}), folder)


def refusal(source: Source) -> str:
    with pytest.raises(DataError) as told:
        source.records()
    return str(told.value)


@pytest.mark.parametrize(
    ("shape", "dims", "decoded"),
    [
        ((2, 8, 6), None, (1, 8, 6)),
        ((2, 8, 6, 3), None, (3, 8, 6)),
        ((2, 8, 6, 4), None, (3, 8, 6)),
        ((2, 8, 6, 1), None, (1, 8, 6)),
        ((2, 8, 6, 7), None, (1, 8, 6, 7)),
        ((2, 8, 6, 3), 3, (1, 8, 6, 3)),
        ((2, 8, 6, 7, 3), None, (3, 8, 6, 7)),
    ],
)
def test_tells_volumes_from_colour(
    tmp_path: Path, shape: tuple[int, ...], dims: int | None, decoded: tuple[int, ...]
) -> None:
    source = source_of(tmp_path, dims, train_images=noise(*shape))

    assert [record.decode().shape for record in source.records()] == [decoded, decoded]


def test_takes_splits_labels_patients_and_sites(tmp_path: Path) -> None:
    source = source_of(
        tmp_path,
        train_images=noise(3, 4, 4),
        train_labels=np.array([[1], [0], [-1]]),
        train_patients=np.array(["a", "a", "b"]),
        train_sites=np.array(["north", "north", "south"]),
        test_images=noise(1, 4, 4),
        test_labels=np.array([np.nan]),
    )

    told = [(r.name, r.patient, r.site, r.split, r.label) for r in source.records()]

    assert told == [
        ("train/0", "a", "north", "train", "1"),
        ("train/1", "a", "north", "train", "0"),
        ("train/2", "b", "south", "train", ""),
        ("test/0", "test/0", "", "test", ""),
    ]


def test_an_archive_without_splits_will_do(tmp_path: Path) -> None:
    source = source_of(tmp_path, images=noise(2, 4, 4), labels=np.array(["ill", "well"]))

    assert [(r.split, r.label) for r in source.records()] == [("", "ill"), ("", "well")]


def test_leaves_out_several_labels_an_image_and_warns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = source_of(tmp_path, train_images=noise(2, 4, 4), train_labels=np.eye(2, 3))

    assert [record.label for record in source.records()] == ["", ""]
    assert "'train_labels' has several values an image" in caplog.text


def test_gives_8_bits_as_they_are(tmp_path: Path) -> None:
    images = noise(5, 4, 4)

    records = source_of(tmp_path, train_images=images).records()

    assert all(np.array_equal(records[i].decode()[0], images[i]) for i in (4, 0, 3, 1, 2))


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32, np.float16, ">u2", np.bool_])
def test_gives_other_numbers_as_grey_levels_over_the_full_range(tmp_path: Path, dtype: Any) -> None:
    ramp = (np.arange(400) % 200).reshape(1, 20, 20).astype(dtype)

    image = source_of(tmp_path, train_images=ramp).records()[0].decode()

    assert image.min() == 0
    assert image.max() == np.iinfo(image.dtype).max
    assert image.dtype == (np.uint8 if dtype is np.bool_ else np.uint16)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"train_images": np.array([{"a": 1}, None])}, "never unpickled"),
        ({"train_images": np.array(["a", "b"])}, "images must be numbers"),
        ({"train_images": np.zeros((2, 4, 4), np.complex64)}, "images must be numbers"),
        ({"train_images": np.zeros((2, 4), np.uint8)}, "has the shape (2, 4)"),
        ({"train_images": np.zeros((0, 4, 4), np.uint8)}, "hold no image"),
        ({"train_images": np.zeros((2, 0, 4), np.uint8)}, "has the shape (2, 0, 4)"),
        ({"train_images": np.asfortranarray(noise(2, 4, 4))}, "ascontiguousarray"),
        ({"picture": noise(2, 4, 4)}, "It holds: picture"),
        ({"train_images": noise(2, 4, 4), "train_labels": np.zeros(3)}, "has 3 rows for the 2"),
        ({"train_images": noise(2, 4, 4), "train_labels": np.array(1)}, "has 1 rows for the 2"),
        (
            {"train_images": noise(1, 4, 4), "train_labels": np.array([{}], object)},
            "never unpickled",
        ),
        (
            {
                "train_images": noise(1, 4, 4),
                "test_images": noise(1, 4, 4),
                "train_patients": np.array(["Erika"]),
                "test_patients": np.array(["Erika"]),
            },
            "1 of 1 patients have images in more than one split",
        ),
    ],
)
def test_says_what_is_wrong_with_the_arrays(
    tmp_path: Path, arrays: dict[str, NDArray[Any]], said: str
) -> None:
    told = refusal(source_of(tmp_path, **arrays))

    assert said in told
    assert "Erika" not in told


def test_says_that_the_axes_are_not_as_configured(tmp_path: Path) -> None:
    assert "(2, 4, 4) with dims: 3" in refusal(source_of(tmp_path, 3, train_images=noise(2, 4, 4)))


@pytest.mark.parametrize("keep", [0, 40, 300])
def test_says_that_the_file_is_cut_short(tmp_path: Path, keep: int) -> None:
    source = source_of(tmp_path, train_images=noise(9, 9, 9))
    path = tmp_path / "all.npz"
    path.write_bytes(path.read_bytes()[:keep])

    assert "is no .npz archive, or is cut short" in refusal(source)


@pytest.mark.parametrize("rows", [10**9, 2**62])
def test_a_header_that_claims_a_thousand_million_images_lists_none(
    tmp_path: Path, rows: int
) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (rows, 4, 4)}
    )
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("images.npy", header.getvalue() + b"ab")
    source = open_source(Named(name="npz", knobs={"path": "a.npz"}), tmp_path)

    assert "claims" in refusal(source)


def test_a_zip_of_a_kind_to_come_is_said(tmp_path: Path) -> None:
    source = source_of(tmp_path, images=noise(3, 4, 4))
    data = bytearray((tmp_path / "all.npz").read_bytes())
    data[data.rindex(b"PK\x01\x02") + 6] = 99  # the version that is needed to unpack it
    (tmp_path / "all.npz").write_bytes(data)

    assert "a zip of a newer kind" in refusal(source)


def test_labels_that_are_no_array_are_said(tmp_path: Path) -> None:
    source = source_of(tmp_path, images=noise(3, 4, 4))
    with zipfile.ZipFile(next(tmp_path.glob("*.npz")), "a") as archive:
        archive.writestr("labels.npy", b"no array")

    assert "'labels' is damaged" in refusal(source)


def test_damage_makes_images_unreadable_but_is_not_fatal(tmp_path: Path) -> None:
    images = noise(9, 256, 256) // 64
    np.savez_compressed(tmp_path / "all.npz", val_images=images[:1], train_images=images)
    data = bytearray((tmp_path / "all.npz").read_bytes())
    middle = len(data) // 2
    data[middle : middle + 100] = bytes(100)
    (tmp_path / "all.npz").write_bytes(data)

    rows = Rows(tmp_path / "all.npz", "train_images")
    others = Rows(tmp_path / "all.npz", "val_images")

    for index in (8, 0):
        with pytest.raises(UnreadableImage, match="damaged"):
            rows.row(index)
    assert np.array_equal(others.row(0), images[0])


def test_reads_rows_in_any_order_with_a_few_blocks_in_memory(tmp_path: Path) -> None:
    images = noise(40, 4, 4)
    np.savez_compressed(tmp_path / "all.npz", images=images)
    rows = Rows(tmp_path / "all.npz", "images", block_bytes=32)

    order = np.random.default_rng(0).permutation(40).tolist()

    assert all(np.array_equal(rows.row(index), images[index]) for index in order)


def test_leaves_no_file_open(tmp_path: Path) -> None:
    records = source_of(tmp_path, train_images=noise(3, 4, 4)).records()
    records[0].decode()

    del records

    gc.collect()  # an open file would warn, and warnings are errors


def test_the_fingerprint_changes_with_content_and_with_meaning(tmp_path: Path) -> None:
    first = content_digest(source_of(tmp_path, train_images=noise(2, 4, 4, 3)), 8, None)
    as_volume = content_digest(source_of(tmp_path, 3, train_images=noise(2, 4, 4, 3)), 8, None)
    other = content_digest(source_of(tmp_path, train_images=noise(2, 4, 4, 3) // 2), 8, None)

    assert len({first, as_volume, other}) == 3


def test_reads_real_radiographs(shared_data: Path) -> None:
    knobs = {"path": "cxr_pneumoniamnist/pneumoniamnist_rebuilt.npz"}

    records = open_source(Named(name="npz", knobs=knobs), shared_data).records()

    counts = [sum(r.split == split for r in records) for split in ("train", "val", "test")]
    assert counts == [4708, 524, 624]
    assert {record.label for record in records} == {"0", "1"}
    assert all(record.decode().shape == (1, 28, 28) for record in records[::200])


def test_reads_real_volumes(shared_data: Path) -> None:
    knobs = {"path": "ct_adrenalmnist3d_64/adrenalmnist3d_64.npz"}

    records = open_source(Named(name="npz", knobs=knobs), shared_data).records()

    assert len(records) == 1584
    assert all(record.decode().shape == (1, 64, 64, 64) for record in records[:24])
