"""What a catalog lets an evaluation tell, and what it refuses or warns of, without a name."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from evaluated import RUN, evaluated, paint, written

from confrere_client.data.images import open_images
from confrere_common.errors import ConfigError, ConfrereError, DataError
from confrere_deploy.evaluation.contestants import contestants
from confrere_deploy.evaluation.parts import entry, unseen_sites


def test_of_findings_each_that_is_known_is_told_with_its_confidence(tmp_path: Path) -> None:
    paint(tmp_path)
    plain = {**RUN, "finetune": {"task": {"name": "classification", "kind": "multilabel"}}}

    report = evaluated(written(tmp_path, plain), tmp_path / "out", pictures=False)

    (found,) = report["calibration"]
    bars = sum(bar["images"] for bar in found["bars_before"])
    assert bars == 2 * report["data"]["test_images"]
    figures = report["arms"]["scratch"]["figures"]
    assert {"f1", "optimistic_sensitivity_at_90_specificity"} <= figures.keys()
    assert "sensitivity_at_validation_threshold" in figures
    assert "Each known finding" in (tmp_path / "out/report.html").read_text()


def test_a_prepared_data_set_is_judged_by_the_sex_and_age_of_the_hospital_s_table(
    tmp_path: Path,
) -> None:
    from confrere_client.demography import KEPT
    from confrere_client.ingest.keeping.dataset import open_dataset
    from confrere_client.ingest.prepare import Order, prepare

    paint(tmp_path)
    table = tmp_path / "table.csv"
    head, *rows = table.read_text().splitlines()
    # named, for the order of exams and with it a draw is another each time: their keys are secret
    parts = ("train", "train", "val", "test")
    split = [f"{row},{parts[number // 4 % 4]}" for number, row in enumerate(rows)]
    table.write_text("\n".join([f"{head},split", *split]))
    prepare(Order(sources=(tmp_path,), dataset=tmp_path / "set", table=table))
    source = {"name": "prepared", "path": "set", "leave_out": []}
    run_file = written(tmp_path, {**RUN, "data": {**RUN["data"], "source": source}})

    report = evaluated(run_file, tmp_path / "out", smallest=2)

    factors = {one["factor"]: one for one in report["factors"]}
    assert set(factors) == {"site", "sex", "age"}
    assert set(factors["sex"]["figures"]) == {"female", "male"}
    assert set(factors["age"]["figures"]) <= {"18-39", "40-59", "60-79"}
    kept = list(open_dataset(tmp_path / "set", "set").rows(["sex", "age"]))
    assert {row["age"] for row in kept} <= KEPT["age"]


def test_what_cannot_be_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    run_file = paint(tmp_path)
    table = tmp_path / "table.csv"
    table.write_text(table.read_text().replace("site-1", "site-0"))
    private = {**RUN, "privacy": {"epsilon": 8, "delta": 1e-3}}
    private["finetune"] = {"task": "classification", "missing": "keep"}

    with pytest.raises(ConfigError, match="fewer than two sites"):
        evaluated(run_file, tmp_path / "out", leave_one_site_out=True)
    with pytest.raises(ConfigError, match="leave out privacy"):
        evaluated(written(tmp_path, private), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("labels", "said"), [("", "no image is marked"), ("a", "two make a choice")]
)
def test_without_two_classes_nothing_is_begun(tmp_path: Path, labels: str, said: str) -> None:
    run_file = paint(tmp_path, patients=12)
    table = tmp_path / "table.csv"
    table.write_text(re.sub(",[ab],", f",{labels},", table.read_text()))

    with pytest.raises(ConfrereError, match=said):
        evaluated(run_file, tmp_path / "out")

    assert not (tmp_path / "out").exists()


def test_what_a_test_of_one_class_cannot_tell_is_not_told(tmp_path: Path) -> None:
    run_file = paint(tmp_path, patients=18)
    lines = (tmp_path / "table.csv").read_text().splitlines()
    parted = [
        f"{line},{'train' if n % 2 else ('test', 'val', 'train')[n // 2 % 3]}"
        for n, line in enumerate(lines[1:])
    ]
    (tmp_path / "table.csv").write_text("\n".join([f"{lines[0]},split", *parted]))

    report = evaluated(run_file, tmp_path / "out", robustness=True, pictures=False)

    (found,) = report["robustness"]
    assert (found.get("error"), found.get("degradation")) == (None, None)
    assert set(found["curves"]["blur"]) == {None}
    said = " ".join(report["warnings"])
    assert "auc is not known on these test patients" in said
    assert "3 test patients: intervals over so few are too narrow" in said


def test_a_site_that_groups_do_not_speak_of_is_not_left_out_either(tmp_path: Path) -> None:
    run_file = paint(tmp_path, patients=80)
    one = contestants(yaml.safe_load(run_file.read_text()), [], str(run_file))[0]
    images = open_images(
        one.run.data.source, folder=tmp_path, image_px=16, cache_dir=tmp_path / "cache"
    )
    lecture = entry(one, images).lecture
    where, test = images.catalog.sites.astype("U8"), lecture.test
    where[test], where[test[:6]], where[test[6:11]] = "nine", "six", "five"
    where[lecture.learned[:3]] = ("nine", "six", "five")
    held = replace(lecture, images=replace(images, catalog=replace(images.catalog, sites=where)))

    told = {smallest: unseen_sites(held, smallest) for smallest in (2, 6, 20)}

    assert len(test) == 20
    assert told[2] == ["five", "nine", "six"]
    assert told[6] == ["nine"]  # beside six and nine, the total would give five away
    assert told[20] == []


def test_a_catalog_as_hospitals_have_them_is_evaluated_or_told_of(tmp_path: Path) -> None:
    run_file = paint(tmp_path)
    table = tmp_path / "table.csv"
    rows = table.read_text().splitlines()
    rows[1] = rows[1].replace(",a,", ",c,")  # a class of one patient
    rows[2] = rows[2].replace(",b,", ",,")  # no label
    rows[3] = "gone.png,p2,site-1,a,?,not known"  # no file; sex and age of nobody
    table.write_text("\n".join(rows))
    (tmp_path / "i5.png").write_bytes(b"torn")

    report = evaluated(run_file, tmp_path / "out", robustness=True, pictures=False)

    said = " ".join(report["warnings"])
    assert "Class 'c' has fewer than 3 patients" in said
    assert "2 images could not be read" in said
    assert report["skipped"]["count"] == 2
    assert "p2" not in json.dumps(report)
    assert "gone.png" not in (tmp_path / "out/report.html").read_text()


def test_patients_who_cross_splits_are_refused_without_a_name(tmp_path: Path) -> None:
    run_file = paint(tmp_path, patients=12)
    lines = (tmp_path / "table.csv").read_text().splitlines()
    crossing = [f"{line.replace(',p1,', ',p0,')},{'test' if n % 2 else 'train'}"
                for n, line in enumerate(lines[1:])]  # fmt: skip
    (tmp_path / "table.csv").write_text("\n".join([f"{lines[0]},split", *crossing]))

    with pytest.raises(DataError, match="in more than one split") as told:
        evaluated(run_file, tmp_path / "out")

    assert "p0" not in str(told.value)
