"""Simulated sites tell of their images, by the code of a hospital; a page says what follows."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console

from confrere_client.ingest.working.facts import digest_of
from confrere_common.errors import ConfigError
from confrere_common.loading import read_run
from confrere_common.marks import mark_of, salt_of
from confrere_deploy.check import checked
from confrere_deploy.description.simulated import carry_out
from confrere_deploy.explain import explained
from confrere_deploy.families import ALL_FAMILIES
from confrere_deploy.federation.submitting import must_be_federable, warm_weights
from confrere_deploy.study.options import Options

DESCRIBE = {
    "name": "census",
    "stage": "describe",
    "data": {"source": {"name": "npz", "path": "images.npz"}},
    "federation": {"rounds": 1},
}


@pytest.fixture
def census(tiny: Path) -> Path:
    tiny.write_text(yaml.safe_dump(DESCRIBE))
    return tiny


def carried(path: Path, *changes: str) -> dict[str, Any]:
    out = path.parent / "out"
    options = Options(folder=path.parent, out=out, resources={})
    carry_out(read_run(path, changes, ALL_FAMILIES), options, Console(quiet=True))
    found: dict[str, Any] = json.loads((out / "report.json").read_text())
    return found


def test_sites_tell_and_a_page_shows_it(census: Path) -> None:
    report = carried(census)

    told = report["sites"]
    page = (census.parent / "out" / "report.html").read_text()
    assert told.keys() == {"site-0", "site-1"}
    assert report["measures"]["label"]["names"] == ["0", "1", "2", "other"]
    assert all(sum(c[2] for c in one["counts"]["label"]["cells"]) for one in told.values())
    assert "http" not in page.split("</style>")[1].replace("http://www.w3.org", "")
    assert "What follows for a run" in page


def test_images_that_two_sites_share_are_counted_and_no_hash_is_in_any_file(census: Path) -> None:
    with np.load(census.parent / "images.npz") as plain:
        arrays = dict(plain)
    arrays["train_images"][10:20:2] = arrays["train_images"][11:21:2]  # even: site-0, odd: site-1
    np.savez(census.parent / "images.npz", **arrays)
    asked = ("data.split=natural", "data.test_share=0.05", "describe.min_cell=2")

    report = carried(census, *asked, "describe.duplicates=true")

    files = [p for p in (census.parent / "out").rglob("*") if p.is_file()]
    page = (census.parent / "out" / "report.html").read_text()
    pair = report["shared"][0]
    marks = [
        mark_of(digest_of(image[None]), salt_of(report["digest"]))
        for image in arrays["train_images"]
    ]
    assert (pair["one"], pair["two"]) == ("site-0", "site-1")
    assert 2 <= pair["images"] <= 5
    assert f"at least {pair['images']}" in page
    assert any(one["subject"] == "shared images" for one in report["advice"])
    written = b"".join(path.read_bytes() for path in files)
    assert not any(form in written for m in marks for form in (m, m.hex().encode()))


def test_a_small_number_of_shared_images_is_not_told(census: Path) -> None:
    report = carried(census, "describe.duplicates=true")

    assert report["shared"] == [
        {"one": "site-0", "two": "site-1", "least": 5, "images": 0, "one_in": 1}
    ]
    assert "fewer than 5" in (census.parent / "out" / "report.html").read_text()


def test_a_run_that_does_not_ask_has_no_table_of_shared_images(census: Path) -> None:
    assert carried(census)["shared"] == []
    assert "Equal images" not in (census.parent / "out" / "report.html").read_text()


def test_a_site_with_too_few_patients_tells_nothing_and_it_is_said(census: Path) -> None:
    uneven = "data.split={name: quantity, sites: 3, alpha: 0.5}"

    report = carried(census, uneven, "describe.min_cell=9", "federation.quorum=0.3")

    assert len(report["refused"]) > 0
    assert all("too few patients" in why for why in report["refused"].values())
    assert report["sites"].keys().isdisjoint(report["refused"])


def test_check_finds_it_sound_without_a_method(census: Path) -> None:
    assert checked(census).stage == "describe"


def test_check_names_what_it_cannot_be(census: Path) -> None:
    with pytest.raises(ConfigError, match="one round"):
        checked(census, ["federation.rounds=3"])


def test_it_may_be_submitted_without_channels_or_a_model(census: Path) -> None:
    run = read_run(census, ["data.source={name: site}"], ALL_FAMILIES)

    must_be_federable(run)

    with pytest.raises(ConfigError, match="leave out --warm-start"):
        warm_weights(run, census)


def test_a_path_of_ones_own_is_not_submitted(census: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.source"):
        must_be_federable(read_run(census, (), ALL_FAMILIES))


def test_its_fields_are_explained_without_a_method(census: Path) -> None:
    text = explained(checked(census))

    assert "method: absent" in text
    assert "min_cell: 5    # Patients below which" in text
