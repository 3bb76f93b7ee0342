from collections.abc import Callable
from itertools import islice
from logging import WARNING
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pa_parquet
import pytest

from confrere_client.data.images import content_digest, open_images
from confrere_client.source import Source, UnreadableImage, open_source
from confrere_common.errors import DataError
from confrere_common.family import Named

Paint = Callable[..., Path]


def source_of(folder: Path, text: str | bytes, **knobs: Any) -> Source:
    path = folder / "table.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return open_source(Named(name="catalog", knobs={"path": "table.csv", **knobs}), folder)


def refusal(source: Source) -> str:
    with pytest.raises(DataError) as told:
        source.records()
    return str(told.value)


def test_takes_the_columns_that_are_there(tmp_path: Path) -> None:
    source = source_of(tmp_path, "path,site,split,note\nb/1.png, north ,Training,x\n2.png,,,y\n")

    first, second = source.records()

    assert (first.name, first.patient, first.site) == ("b/1.png", "b/1.png", "north")
    assert (first.split, first.label) == ("train", "")
    assert (second.site, second.split) == ("", "")


def test_takes_the_columns_that_it_is_told(tmp_path: Path) -> None:
    text = "file;lesion;class\n1.png;007;nv\n2.png;007;\n"

    source = source_of(
        tmp_path, text, path_column="file", patient_column="lesion", label_column="class"
    )

    assert [record.patient for record in source.records()] == ["007", "007"]
    assert [record.label for record in source.records()] == ["nv", ""]


def test_takes_parquet_as_it_takes_csv(tmp_path: Path) -> None:
    table = pa.table({"path": ["1.png", "2.png"], "patient": [7, None], "label": ["a", None]})
    pa_parquet.write_table(table, tmp_path / "table")

    source = open_source(Named(name="catalog", knobs={"path": "table"}), tmp_path)

    assert [record.patient for record in source.records()] == ["7", "2.png"]
    assert [record.label for record in source.records()] == ["a", ""]


def test_reads_paths_from_the_folder_of_the_table(tmp_path: Path, paint: Paint) -> None:
    paint(tmp_path / "there" / "1.png")
    (tmp_path / "there" / "table.csv").write_text("\ufeffpath\n1.png\n", encoding="utf-8")

    source = open_source(Named(name="catalog", knobs={"path": "there/table.csv"}), tmp_path)

    assert source.records()[0].decode().shape == (1, 9, 6)


def test_guesses_what_a_missing_column_was_meant_to_be(tmp_path: Path) -> None:
    text = "paths,patient\n1.png,a\n"

    assert "unknown column 'path': did you mean 'paths'?" in refusal(source_of(tmp_path, text))


def test_refuses_a_configured_column_that_is_not_there(tmp_path: Path) -> None:
    source = source_of(tmp_path, "path,lesion\n1.png,a\n", patient_column="lesions")

    assert "unknown column 'lesions': did you mean 'lesion'?" in refusal(source)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "cannot be read as CSV"),
        (b"path,label\n", "has a header but no row"),
        (b"path,label\n1.png,a\n2.png\n", "as many cells as the header"),
        ("path,label\n1.png,Übergang\n".encode("cp1252"), "not text in UTF-8"),
        ("path,größe\n1.png,1\n".encode("cp1252"), "not text in UTF-8"),
        (b"path,path\n1.png,2.png\n", "2 columns 'path'"),
        (b"PAR1 but no more", "cannot be read as CSV or Parquet"),
        (b"path,split\n1.png,fold3\n", "'fold3': it must be train, val or test"),
    ],
)
def test_says_what_is_wrong_with_the_table(tmp_path: Path, text: bytes, said: str) -> None:
    told = refusal(source_of(tmp_path, text))

    assert said in told
    assert str(tmp_path) not in told


def test_refuses_a_patient_at_two_sites_without_naming_the_patient(tmp_path: Path) -> None:
    text = "path,patient,site\n1.png,Erika,north\n2.png,Erika,south\n3.png,Max,south\n"

    told = refusal(source_of(tmp_path, text))

    assert "1 of 2 patients have images at more than one site" in told
    assert "'north', 'south'" in told
    assert "Erika" not in told


def test_refuses_a_patient_in_two_splits(tmp_path: Path) -> None:
    text = "path,patient,split\n1.png,Erika,train\n2.png,Erika,test\n"

    told = refusal(source_of(tmp_path, text))

    assert "1 of 1 patients have images in more than one split" in told
    assert "Erika" not in told


def test_uses_a_repeated_row_once_and_warns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = source_of(tmp_path, "path,label\n1.png,a\n1.png,a\n2.png,a\n")

    with caplog.at_level(WARNING):
        records = source.records()

    assert [record.name for record in records] == ["1.png", "2.png"]
    assert "repeats 1 rows" in caplog.text


def test_refuses_an_image_that_is_told_of_in_two_ways(tmp_path: Path) -> None:
    source = source_of(tmp_path, "path,label\n1.png,a\n1.png,b\n")

    assert "1 images stand in the catalog more than once" in refusal(source)


def test_a_label_without_image_is_skipped_with_a_reason(tmp_path: Path, paint: Paint) -> None:
    paint(tmp_path / "1.png")
    source_of(tmp_path, "path,label\n1.png,a\ngone.png,b\n,c\n")

    images = open_images(
        Named(name="catalog", knobs={"path": "table.csv"}),
        folder=tmp_path,
        image_px=8,
        cache_dir=tmp_path / "cache",
    )

    assert images.skipped == (("gone.png", "file is missing"), ("", "row has no path"))
    assert images.catalog.classes == ("a",)


def test_a_single_image_will_do(tmp_path: Path, paint: Paint) -> None:
    paint(tmp_path / "1.png")
    source_of(tmp_path, "path\n1.png\n")

    images = open_images(
        Named(name="catalog", knobs={"path": "table.csv"}),
        folder=tmp_path,
        image_px=8,
        cache_dir=tmp_path / "cache",
    )

    assert (len(images), images.catalog.patient_count) == (1, 1)
    assert images.catalog.labels.tolist() == [-1]


def test_the_fingerprint_changes_with_pixels_and_with_labels(tmp_path: Path, paint: Paint) -> None:
    paint(tmp_path / "1.png")
    digests = [content_digest(source_of(tmp_path, "path,label\n1.png,a\n"), 8, None)]

    digests.append(content_digest(source_of(tmp_path, "path,label\n1.png,b\n"), 8, None))
    paint(tmp_path / "1.png", seed=1)
    digests.append(content_digest(source_of(tmp_path, "path,label\n1.png,b\n"), 8, None))
    (tmp_path / "1.png").unlink()
    digests.append(content_digest(source_of(tmp_path, "path,label\n1.png,b\n"), 8, None))

    assert len(set(digests)) == 4


def test_reads_real_dermatoscopy_with_its_sites(shared_data: Path) -> None:
    knobs = {"path": "manifest.csv", "path_column": "file", "patient_column": "lesion"}

    source = open_source(
        Named(name="catalog", knobs=knobs), shared_data / "derm_ham10000_3sites_128"
    )

    records = source.records()
    assert len(records) == 2163
    assert {record.site for record in records} == {"rosendahl", "vidir_modern", "vidir_molemax"}
    for record in islice(records, 0, None, 100):
        assert record.decode().shape == (3, 128, 128)


def test_reads_real_histology_by_group(shared_data: Path) -> None:
    knobs = {
        "path": "manifest.csv",
        "path_column": "file",
        "patient_column": "near_duplicate_group",
    }

    source = open_source(Named(name="catalog", knobs=knobs), shared_data / "histo_lc25000")

    records = source.records()
    assert len({record.patient for record in records}) == 430
    assert {record.label for record in records} == {"lung_aca", "lung_n", "lung_scc"}
    assert all(record.decode().shape == (3, 224, 224) for record in islice(records, 0, None, 100))


def test_a_row_without_path_cannot_be_decoded(tmp_path: Path) -> None:
    record = source_of(tmp_path, "path,label\n,a\n").records()[0]

    with pytest.raises(UnreadableImage, match="no path"):
        record.decode()


def test_decodes_what_the_file_holds(tmp_path: Path, paint: Paint) -> None:
    paint(tmp_path / "1.png", seed=3)
    source = source_of(tmp_path, "path\n1.png\n")

    noise = np.random.default_rng(3).integers(0, 256, (9, 6), np.uint8)

    assert np.array_equal(source.records()[0].decode()[0], noise)
