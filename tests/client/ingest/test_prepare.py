import resource
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broken_files import fill, nested, picture, png, zipped
from PIL import Image

from confrere_client.data.decode import decode_image
from confrere_client.ingest.finding.archive import BOMB, Limits
from confrere_client.ingest.keeping.dataset import Dataset, open_dataset, place_of
from confrere_client.ingest.keeping.shards import FOLDER, Shards
from confrere_client.ingest.prepare import Done, Order, prepare, private_folder
from confrere_client.ingest.preprocess_plan import Plan
from confrere_client.ingest.working import desk
from confrere_common.errors import DataError

Prepared = tuple[Done, Dataset]


def order(folder: Path, **knobs: Any) -> Order:
    plan = knobs.pop("plan", Plan(image_px=None))
    return Order(**{"sources": (folder / "in",), "dataset": folder / "out", "plan": plan, **knobs})


def prepared(folder: Path, **knobs: Any) -> Prepared:
    done = prepare(order(folder, **knobs))
    return done, open_dataset(folder / "out", "out")


def pixels(dataset: Dataset) -> list[bytes]:
    shards = Shards(dataset.folder / FOLDER)
    return sorted(
        shards.image(place_of(row), tuple(row["shape"]), row["dtype"]).tobytes()
        for row in dataset.rows()
    )


def reasons(folder: Path) -> Counter[str]:
    lines = (private_folder(folder / "out") / "skipped.csv").read_text().splitlines()[2:]
    return Counter(line.split(",")[0] for line in lines)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("broken")
    (folder / "in").mkdir()
    fill(folder / "in")
    prepare(order(folder, jobs=2))
    return folder


def test_whatever_can_be_read_among_broken_files_is_read_whole(broken: Path) -> None:
    dataset = open_dataset(broken / "out", "out")
    pictures = [
        decode_image(path).tobytes()
        for path in [*(broken / "in/good").glob("?.png"), broken / "in/wrong_suffix.jpg"]
    ]

    kept = pixels(dataset)

    assert len(kept) == 15
    assert set(pictures) <= set(kept)


def test_every_broken_file_is_a_counted_skip_with_its_reason(broken: Path) -> None:
    assert reasons(broken) == {
        "path leads out of the archive": 3,
        "claims too many pixels": 1,
        "truncated or corrupt": 2,
        "archive is damaged": 2,
        "link that leads back": 2,
        "link to nothing": 1,
        "neither file nor folder": 1,
        "empty file": 1,
        "of no known kind": 1,
        "arrays that are no images": 1,
        "unpacks to far too much": 1,
        "link in an archive": 1,
        "archives too deep in one another": 1,
        "constant image": 1,
    }


def test_what_holds_names_is_its_owner_s_alone_and_nothing_unpacked_is_left(broken: Path) -> None:
    private = private_folder(broken / "out")

    modes = {path.name: path.stat().st_mode & 0o777 for path in private.iterdir()}

    assert private.stat().st_mode & 0o777 == 0o700
    assert {name: mode for name, mode in modes.items() if name != "lock"} == {
        "book.sqlite": 0o600,
        "patient.key": 0o600,
        "skipped.csv": 0o600,
    }


def test_nothing_is_read_again_when_nothing_has_changed(broken: Path) -> None:
    before = (broken / "out/catalog.parquet").read_bytes()

    done = prepare(order(broken, jobs=2))

    assert done.read == 0
    assert (broken / "out/catalog.parquet").read_bytes() == before


def test_only_what_is_new_or_changed_is_read_and_what_is_gone_leaves(tmp_path: Path) -> None:
    for number in range(5):
        picture(tmp_path / f"in/{number}.png", number)
    zipped(tmp_path / "in/a.zip", {"x.png": png(50), "y.png": png(51)})
    _, first = prepared(tmp_path)
    keys = {row["key"]: row["digest"] for row in first.rows()}

    picture(tmp_path / "in/new.png", 20)
    picture(tmp_path / "in/1.png", 21)
    (tmp_path / "in/2.png").unlink()
    done, second = prepared(tmp_path)
    now = {row["key"]: row["digest"] for row in second.rows()}

    assert (done.read, done.gone) == (2, 1)
    assert len(keys) == 7
    assert len(now) == 7
    assert len(keys.items() & now.items()) == 5
    assert len(pixels(second)) == 7


def test_a_turn_that_was_stopped_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(12):
        picture(tmp_path / f"in/{number}.png", number)
    monkeypatch.setattr(desk, "KEEP_EVERY_S", 0.0)

    class Stopped(Exception):  # noqa: N818
        pass

    def stop(step: str, done: int, total: int | None) -> None:  # noqa: ARG001
        if step == "read" and done >= 5:
            raise Stopped

    with pytest.raises(Stopped):
        prepare(order(tmp_path), stop)
    with pytest.raises(DataError, match="not finished"):
        open_dataset(tmp_path / "out", "out")
    done, dataset = prepared(tmp_path)

    assert done.read == 12 - 4  # the fifth was not kept yet
    assert pixels(dataset) == sorted(
        decode_image(path).tobytes() for path in (tmp_path / "in").iterdir()
    )


def test_a_full_disk_is_said_cleanly_and_the_same_command_goes_on(tmp_path: Path) -> None:
    for number in range(6):
        picture(tmp_path / f"in/{number}.png", number, (300, 300))
    script = (
        "import sys; from pathlib import Path; from confrere_client.ingest.prepare import *\n"
        "from confrere_client.ingest.preprocess_plan import Plan\n"
        "p = Path(sys.argv[1])\n"
        "prepare(Order(sources=(p / 'in',), dataset=p / 'out', plan=Plan(image_px=None)))"
    )

    def little() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    ran = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True, text=True, preexec_fn=little,
    )  # fmt: skip
    _, dataset = prepared(tmp_path)

    assert "DiskFault: the disk of the data set is full" in ran.stderr
    assert len(pixels(dataset)) == 6


def test_a_file_that_claims_more_than_the_bound_is_refused_unread(tmp_path: Path) -> None:
    picture(tmp_path / "in/small.png", 1, (40, 40))
    picture(tmp_path / "in/large.png", 2, (300, 300))

    _, dataset = prepared(tmp_path, bounds=desk.Bounds(exam_bytes=50_000))

    assert len(pixels(dataset)) == 1
    assert reasons(tmp_path) == {"claims too many pixels": 1}


def test_an_archive_in_archives_is_unpacked_to_a_depth(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/three.zip").write_bytes(nested(3, png(1)))
    (tmp_path / "in/four.zip").write_bytes(nested(4, png(2)))

    _, dataset = prepared(tmp_path)

    assert len(pixels(dataset)) == 1
    assert reasons(tmp_path) == {"archives too deep in one another": 1}


@pytest.mark.parametrize("jobs", [1, 3])
def test_archives_within_one_share_what_it_may_become(tmp_path: Path, jobs: int) -> None:
    folder = _parent(tmp_path / "in")
    inner = zipped(tmp_path / "inner.zip", {"zeros": bytes(40_000)}).read_bytes()
    zipped(folder / "bomb.zip", {"x.png": png(1), **{f"{n}.zip": inner for n in range(9)}})
    zipped(folder / "fine.zip", {"a.zip": inner, "b.zip": inner})

    _, dataset = prepared(
        tmp_path, jobs=jobs, bounds=desk.Bounds(archives=Limits(total_bytes=100_000))
    )

    assert len(pixels(dataset)) == 1
    assert reasons(tmp_path) == {BOMB: 7, "of no known kind": 4}


def test_no_more_lies_unpacked_at_one_time_than_an_archive_may_become(tmp_path: Path) -> None:
    inner = zipped(tmp_path / "inner.zip", {"zeros": bytes(40_000)}).read_bytes()
    members = {"x.png": png(1), **{f"{n}.zip": inner for n in range(9)}}
    zipped(_parent(tmp_path / "in") / "bomb.zip", members)
    unpacked, seen = private_folder(tmp_path / "out") / "unpacked", [0]

    def watch(*_: object) -> None:
        seen.append(sum(p.stat().st_size for p in unpacked.rglob("*") if p.is_file()))

    limits = Limits(total_bytes=100_000)
    prepare(order(tmp_path, jobs=2, bounds=desk.Bounds(archives=limits)), watch)

    assert 80_000 < max(seen) <= 100_000


def test_members_of_an_archive_are_kept_apart_from_run_to_run(tmp_path: Path) -> None:
    zipped(_parent(tmp_path / "in") / "a.zip", {"x.png": png(1)})
    _, first = prepared(tmp_path)
    before = {row["key"] for row in first.rows()}
    zipped(tmp_path / "in/b.zip", {"x.png": png(2)})

    done, second = prepared(tmp_path)

    assert done.read == 1
    assert before < {row["key"] for row in second.rows()}


def _parent(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_an_empty_source_does_not_empty_the_data_set(tmp_path: Path) -> None:
    picture(tmp_path / "in/1.png", 1)
    prepared(tmp_path)
    shutil.rmtree(tmp_path / "in")
    (tmp_path / "in").mkdir()

    with pytest.raises(DataError, match="nothing was changed"):
        prepared(tmp_path)

    assert len(pixels(open_dataset(tmp_path / "out", "out"))) == 1


def test_one_data_set_is_prepared_in_one_way(tmp_path: Path) -> None:
    picture(tmp_path / "in/1.png", 1)
    prepared(tmp_path)

    with pytest.raises(DataError, match="prepared otherwise"):
        prepared(tmp_path, plan=Plan(image_px=64))


def test_nothing_readable_is_said_with_reasons(tmp_path: Path) -> None:
    (_parent(tmp_path / "in") / "a.txt").write_text("no image")

    with pytest.raises(DataError, match="1 x of no known kind"):
        prepared(tmp_path)


def test_a_table_tells_patient_site_split_label_and_its_masks_are_no_exams(tmp_path: Path) -> None:
    for number in range(3):
        picture(tmp_path / f"in/images/{number}.png", number)
        picture(tmp_path / f"in/masks/{number}.png", 10 + number)
    rows = [
        f'images/{n}.png,P-{n // 2},north,train,nv,masks/{n}.png,"[[1, 2, 3, 4, ""a""]]"'
        for n in range(3)
    ]
    table = tmp_path / "in/told.csv"
    table.write_text(
        "\n".join(["file,patient,site,split,label,mask,boxes", *rows, "no.png,x,,,,,"])
    )

    done, dataset = prepared(tmp_path, table=table, table_knobs={"path_column": "file"})
    found = list(dataset.rows())

    assert done.lost_rows == 1
    assert len(found) == 3
    assert len({row["patient"] for row in found}) == 2
    assert all(row["patient_known"] for row in found)
    assert {(row["site"], row["split"], row["label"]) for row in found} == {
        ("north", "train", "nv")
    }
    assert {row["boxes"] for row in found} == {'[["a", 1.0, 2.0, 3.0, 4.0]]'}


def test_a_mask_goes_the_way_of_its_image_and_a_misfit_is_said(tmp_path: Path) -> None:
    picture(tmp_path / "in/a.png", 1, (80, 60))
    picture(tmp_path / "in/b.png", 2, (80, 60))
    labels = np.zeros((80, 60), np.uint8)
    labels[:40, :30] = 7
    Image.fromarray(labels).save(tmp_path / "in/a_mask.png")
    Image.fromarray(labels[:50]).save(tmp_path / "in/b_mask.png")
    table = tmp_path / "in/t.csv"
    table.write_text("path,label,mask\na.png,good,a_mask.png\nb.png,bad,b_mask.png\n")

    _, dataset = prepared(tmp_path, plan=Plan(image_px=40), table=table)
    rows = {row["label"]: row for row in dataset.rows()}
    mask = mask_of(dataset, rows["good"])

    assert mask.shape == (40, 30)
    assert (mask[:20, :15] == 7).all()
    assert np.count_nonzero(mask) == 20 * 15
    assert rows["bad"]["mask"] is None
    assert rows["bad"]["warnings"] == ["mask does not fit its image"]


def mask_of(dataset: Dataset, row: dict[str, Any]) -> Any:
    shards = Shards(dataset.folder / FOLDER)
    return shards.image(place_of(row["mask"]), tuple(row["shape"][1:]), row["mask"]["dtype"])


def test_masks_in_an_archive_are_unpacked_again_with_their_images(tmp_path: Path) -> None:
    members = {"a.png": png(1), "m.png": png(2)}
    archive = zipped(_parent(tmp_path / "in") / "a.zip", members)
    prepared(tmp_path)
    table = tmp_path / "in/t.csv"
    table.write_text("path,mask\na.zip!/a.png,a.zip!/m.png\n")

    done, dataset = prepared(tmp_path, table=table)
    (row,) = dataset.rows()

    assert archive.is_file()
    assert done.read == 1
    assert mask_of(dataset, row).shape == (40, 30)


def test_patients_are_keys_under_the_site_s_secret(tmp_path: Path) -> None:
    picture(tmp_path / "in/1.png", 1)
    (tmp_path / "in/t.csv").write_text("path,patient\n1.png,Jane Doe\n")

    def patient(out: str, secret: Path) -> str:
        table = tmp_path / "in/t.csv"
        prepare(order(tmp_path, dataset=tmp_path / out, table=table, secret=secret))
        (row,) = open_dataset(tmp_path / out, out).rows()
        return str(row["patient"])

    one = patient("a", tmp_path / "site/keys/patient.key")
    same = patient("b", tmp_path / "site/keys/patient.key")
    other = patient("c", tmp_path / "elsewhere.key")

    assert one == same != other
    assert (tmp_path / "site/keys/patient.key").stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "a.private/patient.key").exists()


def test_arrays_keep_labels_and_splits_and_each_image_stands_for_itself(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (6, 28, 28), np.uint8)
    path = _parent(tmp_path / "in") / "a.npz"
    np.savez(path, train_images=noise[:4], train_labels=[0, 1, 1, 0], test_images=noise[4:])

    _, dataset = prepared(tmp_path)
    rows = list(dataset.rows())

    assert Counter((row["split"], row["label"]) for row in rows) == {
        ("train", "0"): 2,
        ("train", "1"): 2,
        ("test", ""): 2,
    }
    assert len({row["patient"] for row in rows}) == 6
    assert not any(row["patient_known"] for row in rows)


def test_metadata_of_a_picture_stays_behind(tmp_path: Path) -> None:
    whole = Image.open(picture(tmp_path / "p.png", 1))
    notes = Image.Exif()
    notes[0x010E] = "JANE DOE 1961"
    _parent(tmp_path / "in")
    whole.save(tmp_path / "in/1.jpg", exif=notes, comment=b"JANE DOE 1961")

    prepared(tmp_path)

    kept = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not any(b"JANE" in path.read_bytes() for path in kept)


def test_another_modality_is_left_out() -> None:
    plan = Plan(modality="mri")

    wanted = {name: plan.wants(name) for name in ("mr", "ct", "")}

    assert wanted == {"mr": True, "ct": False, "": True}
    assert plan.named("") == "mri"


@pytest.mark.parametrize("module", ["prepare", "working.hand"])
def test_who_prepares_does_not_load_what_trains(module: str) -> None:
    code = f"import confrere_client.ingest.{module}, sys; print('torch' in sys.modules)"

    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert said.stdout == "False\n"
