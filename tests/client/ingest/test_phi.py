import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from broken_files import picture
from hypothesis import given, settings
from hypothesis import strategies as st

from confrere_client.ingest.judging.phi import Search, check_phi
from confrere_client.ingest.judging.scan import Scanner
from confrere_client.ingest.judging.terms import forms, is_short, terms_of
from confrere_client.ingest.keeping.dataset import open_dataset
from confrere_client.ingest.prepare import Order, prepare, private_folder
from confrere_common.errors import DataError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("phi")
    for number in range(3):
        picture(made / f"in/Musterfrau_Erika_{number}.png", number)
    rows = [f"Musterfrau_Erika_{n}.png,Muster^Erika^{n},19610412" for n in range(3)]
    (made / "in/t.csv").write_text("\n".join(["path,patient,born", *rows]))
    prepare(Order(sources=(made / "in",), dataset=made / "out", table=made / "in/t.csv"))
    return made


def searched(folder: Path) -> Search:
    out = folder / "out"
    return check_phi(out, private_folder(out) / "book.sqlite")


def test_nothing_of_the_source_s_names_is_in_any_produced_byte(folder: Path) -> None:
    search = searched(folder)

    assert not search.hits
    assert search.terms > 3
    assert search.nbytes == sum(
        p.stat().st_size for p in (folder / "out").rglob("*") if p.is_file()
    )
    assert "none found" in search.told()


PLANTED: Mapping[str, bytes] = {
    "report.json": b'{"who": "ERIKA Muster"}',
    "report.html": b"<p>of Muster^Erika^1</p>",
    "pixels/00001-0001-001.bin": b"muster^erika^2",
    "note.txt": "Muster^Erika^0".encode("utf-16-le"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_name_that_was_planted_is_found_wherever_it_is(folder: Path, name: str) -> None:
    path = folder / "out" / name
    before = path.read_bytes() if path.exists() else None
    path.write_bytes((before or b"") + PLANTED[name])

    try:
        search = searched(folder)
    finally:
        path.unlink() if before is None else path.write_bytes(before)

    assert {hit.file for hit in search.hits} == {name}
    assert "usterfrau" not in search.told()
    with search.listed.open() as file:
        assert name in {row[0] for row in csv.reader(file)}
    assert search.listed.stat().st_mode & 0o777 == 0o600


def test_a_name_in_a_compressed_column_is_found(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / "out/catalog.parquet"
    before = path.read_bytes()
    manifest = folder / "out/manifest.json"
    told = manifest.read_text()
    table = pq.read_table(path)
    place = table.schema.get_field_index("tag_body_part")
    planted = pa.array(["CHEST", "KNEE OF ERIKA", "Elbow"])
    pq.write_table(table.set_column(place, "tag_body_part", planted), path, compression="gzip")
    digest = open_digest(path)
    manifest.write_text(told.replace(open_dataset_digest(told), digest))

    try:
        search = searched(folder)
    finally:
        path.write_bytes(before)
        manifest.write_text(told)

    assert {(hit.file, hit.where, hit.term) for hit in search.hits} >= {
        ("catalog.parquet", "column tag_body_part", "erika")
    }


def open_digest(path: Path) -> str:
    from confrere_client.ingest.keeping.dataset import sha256_of

    return sha256_of(path)


def open_dataset_digest(manifest: str) -> str:
    import json

    return str(json.loads(manifest)["catalog_sha256"])


def test_without_its_book_nobody_can_say(tmp_path: Path, folder: Path) -> None:
    assert open_dataset(folder / "out", "out")

    with pytest.raises(DataError, match="which names"):
        check_phi(folder / "out", tmp_path / "none.sqlite")


def test_short_terms_numbers_and_our_own_words_are_no_terms() -> None:
    found = terms_of(["Li", "1024", "10.5", "true", "Patient^Modality"], ["/a/ABDOMEN/x.png"])

    assert found == {"patient^modality", "patient modality", "modality patient"}
    assert is_short("1961")
    assert not is_short("196104")


def test_a_date_is_searched_as_people_write_it() -> None:
    assert set(forms("19610412")) == {"19610412", "1961-04-12", "12.04.1961"}


def test_what_chance_puts_into_pixels_is_told_apart(folder: Path) -> None:
    """Noise of few levels around '1' holds every short number somewhere."""
    path = folder / "out/pixels/noise.bin"
    noise = np.random.default_rng(0).integers(ord("0"), ord("9") + 1, 3_000_000, np.uint8)
    path.write_bytes(noise.tobytes() + b"19610412")

    try:
        in_noise = searched(folder)
    finally:
        path.unlink()

    assert not in_noise.hits


@settings(deadline=None, max_examples=40)
@given(
    terms=st.sets(st.text("abcd", min_size=4, max_size=7), min_size=1, max_size=6),
    data=st.text("abcdABCD", max_size=300),
)
def test_the_scanner_finds_what_a_plain_search_finds(terms: set[str], data: str) -> None:
    plain = {
        (offset, term.encode())
        for term in terms
        for offset in range(len(data))
        if data.lower().startswith(term, offset)
    }

    assert set(Scanner(terms).find(data.encode())) == plain


def test_a_patient_called_like_a_sex_is_no_find_in_its_column_but_anywhere_else(
    tmp_path: Path,
) -> None:
    for number in range(2):
        picture(tmp_path / f"in/{number}.png", number)
    rows = ["path,patient,label,sex,age", "0.png,Female^Ada,nv,f,61", "1.png,Male^Bo,nv,m,90"]
    (tmp_path / "in/t.csv").write_text("\n".join(rows))
    order = Order(sources=(tmp_path / "in",), dataset=tmp_path / "out", table=tmp_path / "in/t.csv")
    prepare(order)
    clean = searched(tmp_path)

    (tmp_path / "in/t.csv").write_text("\n".join(rows).replace("nv", "Female"))
    prepare(order)
    planted = searched(tmp_path)

    assert not clean.hits
    assert clean.terms >= 2
    assert {hit.where for hit in planted.hits} >= {"column label"}
    assert "column sex" not in {hit.where for hit in planted.hits}
