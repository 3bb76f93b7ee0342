"""``phi.check_phi``: "Guarantee: without a hit, no identifier of four characters (a number: six
digits) stands in any byte that was searched, but for what chance explains in pixels; and no shorter
one, down to two characters (a number: three digits), is a word of what a catalog or a report says
freely, nor is one that is also a word of ours ('image')."
"""

import ast
import json
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from broken_files import picture
from dicom_files import dataset, written
from hypothesis import given
from hypothesis import strategies as st
from preparing import prepared

import confrere_client.ingest
from confrere_client.ingest.judging.phi import Search, check_phi
from confrere_client.ingest.judging.words import Words, is_word, words_of
from confrere_client.ingest.judging.written import pieces, vocabulary, words_in
from confrere_client.ingest.keeping.dataset import Dataset, open_dataset
from confrere_client.ingest.prepare import private_folder

SHORT = {"Li^Bo": "4711", "Doe^Jo": "12345", "Image^Hu": "471"}
"""Patients as many are called, and numbers as many hospitals give."""


def hospital(folder: Path, cells: Iterable[tuple[str, str]]) -> Search:
    """Prepare a picture of each patient, with *cells* of site and label; search for names."""
    (folder / "in").mkdir(parents=True)
    rows = ["path,site,label,boxes"]
    for at, ((name, number), (site, label)) in enumerate(zip(SHORT.items(), cells, strict=True)):
        noise = np.random.default_rng(at).integers(0, 256, (32, 32), np.uint8)
        own = {"PatientName": name, "PatientID": number, "SeriesInstanceUID": f"1.2.3.{at}"}
        kind = {"Modality": "DX", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1"}
        written(dataset(noise, **own, **kind), folder / f"in/{at}.dcm")
        rows.append(f"{at}.dcm,{site},{label},")
    (folder / "in/told.csv").write_text("\n".join(rows))
    prepared(folder, table=folder / "in/told.csv")
    return check_phi(folder / "out", private_folder(folder / "out") / "book.sqlite")


@pytest.mark.parametrize(
    ("site", "label", "terms"),
    [
        ("north", "Li 4711", {"li", "4711"}),
        ("ward 12345", "ill", {"12345"}),
        ("ward12345", "nodule/JO", {"12345", "jo"}),
        ("471", "Hu_image", {"471", "hu", "image"}),
    ],
)
def test_a_short_name_or_number_of_another_is_found_in_catalog_and_reports(
    tmp_path: Path, site: str, label: str, terms: set[str]
) -> None:
    # each cell stands with a patient whom it does not name, so that only the search can find it
    cells = {"Li^Bo": ("a", "b"), "Doe^Jo": ("a", "b"), "Image^Hu": ("a", "b")}
    free = next(name for name in SHORT if not terms & {*words_of(name), SHORT[name]})
    cells[free] = (site, label)

    found = hospital(tmp_path, cells.values())

    assert {hit.term for hit in found.hits} == terms
    assert {hit.file for hit in found.hits} == {"catalog.parquet", "report.html", "report.json"}
    assert {hit.where for hit in found.hits} <= {"column site", "column label", "text"}
    assert not {*words_of(found.told())} & terms
    assert "FOUND" in found.told()


def test_a_table_s_cell_that_names_its_own_patient_is_left_out_and_said(tmp_path: Path) -> None:
    found = hospital(tmp_path, [("ward 4711", "ill"), ("b", "Doe"), ("Klinikum Nirgends", "c")])
    rows = {row["label"]: row for row in open_dataset(tmp_path / "out", "out").rows()}
    report = json.loads((tmp_path / "out/report.json").read_text())

    assert not found.hits
    assert {(row["site"], row["label"]) for row in rows.values()} == {
        ("", "ill"),
        ("b", ""),
        ("", "c"),
    }
    assert report["warnings"] == {"site held an identifier": 2, "label held an identifier": 1}
    assert rows["c"]["warnings"] == ["site held an identifier"]


def test_words_of_reports_figures_and_parts_of_words_are_no_find(tmp_path: Path) -> None:
    """'hu' is a unit, 471 may be a count, and 'Lichen' does not name Li."""
    found = hospital(tmp_path, [("a", "Lichen"), ("a", "joint"), ("a", "94711")])

    assert not found.hits
    assert found.words >= 7
    assert "short ones as words of texts" in found.told()


def test_a_tag_that_many_patients_share_is_the_device_s_and_a_rare_one_is_searched(
    tmp_path: Path,
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    hospital(tmp_path, [("a", "b")] * 3)
    path = tmp_path / "out/catalog.parquet"
    table = pq.read_table(path)
    many = pa.concat_tables([table] * 3)
    for name, values in {
        "patient": [f"{n:032x}" for n in range(9)],
        "tag_model": ["SOMATOM go.Li"] * 8 + ["Jo's own"],
        "tag_unit": ["hu"] * 2 + [""] * 7,
    }.items():
        many = many.set_column(many.schema.get_field_index(name), name, pa.array(values))
    pq.write_table(many, path)
    made = Dataset(folder=tmp_path / "out", manifest={})
    words = Words(["li", "jo", "hu"])

    found = {term for piece in pieces(made) for term in words_in(piece, words)}

    assert found == {"jo"}


def test_a_planted_short_name_is_found_anywhere_in_a_page_and_a_manifest(tmp_path: Path) -> None:
    assert not hospital(tmp_path, [("a", "b")] * 3).hits
    out = tmp_path / "out"
    (out / "report.html").write_text("<p>of Bo</p>" + (out / "report.html").read_text())
    told = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps({**told, "who": ["Jo"]}))

    found = check_phi(out, private_folder(out) / "book.sqlite")

    assert {(hit.file, hit.term) for hit in found.hits} == {
        ("report.html", "bo"), ("manifest.json", "jo"),
    }  # fmt: skip


def test_every_short_word_of_our_own_pages_is_known_as_ours(tmp_path: Path) -> None:
    hospital(tmp_path, [("a", "b")] * 3)
    ours = [one.text for one in pieces(open_dataset(tmp_path / "out", "out")) if not one.free]

    short = {word for text in ours for word in words_of(text) if re.fullmatch("[a-z]{2,3}", word)}

    assert short <= vocabulary()


def test_who_is_called_as_a_word_of_the_page_is_found_in_what_somebody_wrote_alone(
    tmp_path: Path,
) -> None:
    """The page speaks of a volume; that is no trace of a patient of that name."""
    picture(tmp_path / "in/a.png", 1)
    picture(tmp_path / "in/b.png", 2)
    rows = ["path,patient,label", "a.png,Volume^Page,ill", "b.png,Sound^Ada,{}"]

    def searched(label: str) -> set[str]:
        (tmp_path / "in/t.csv").write_text("\n".join(rows).format(label))
        prepared(tmp_path, table=tmp_path / "in/t.csv")
        found = check_phi(tmp_path / "out", private_folder(tmp_path / "out") / "book.sqlite")
        return {hit.term for hit in found.hits}

    assert searched("well") == set()
    assert searched("page 3") == {"page"}


def test_every_short_word_of_a_reader_s_phrases_is_known_as_ours() -> None:
    phrase = re.compile(r"[a-z][a-z0-9 ,.'%()-]+")
    short: set[str] = set()
    for path in Path(confrere_client.ingest.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text())
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        texts = [
            node.value for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
            and id(node) not in docs and " " in node.value
        ]  # fmt: skip
        said = [text for text in texts if len(text) <= 64 and phrase.fullmatch(text.strip())]
        short |= {
            word for text in said for word in words_of(text) if re.fullmatch("[a-z]{2,3}", word)
        }

    assert len(short) > 20
    assert short <= vocabulary()


@given(st.text("abc12 -_", max_size=12), st.text("abc12 -_", max_size=3))
def test_a_word_is_found_where_its_letters_and_digits_stand_alone(text: str, term: str) -> None:
    marks = re.findall(r"[abc12]+", term)
    plain = (
        re.search(rf"(?<![abc12]){r'[ _-]+'.join(marks)}(?![abc12])", text)
        if marks and is_word(term)
        else None
    )

    assert bool(Words([term]).found(text)) == bool(plain)


def test_a_long_number_is_found_within_a_word_a_short_one_is_not() -> None:
    assert Words(["4711", "471"]).found("PAT4711, PAT471") == {"4711"}
    assert not Words(["4711"]).found("PAT14711")
