"""Broken files, bombs and archives in archives: counted skips, and all that can be read is read."""

from pathlib import Path

import pytest
from broken_files import fill, nested, picture, png, zipped
from preparing import order, parent, pixels, prepared, reasons

from confrere_client.data.decode import decode_image
from confrere_client.ingest.finding.archive import BOMB, Limits
from confrere_client.ingest.keeping.dataset import open_dataset
from confrere_client.ingest.prepare import prepare, private_folder
from confrere_client.ingest.working import desk


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
        "exams.csv": 0o600,
        "patient.key": 0o600,
        "skipped.csv": 0o600,
    }


def test_nothing_is_read_again_when_nothing_has_changed(broken: Path) -> None:
    before = (broken / "out/catalog.parquet").read_bytes()

    done = prepare(order(broken, jobs=2))

    assert done.read == 0
    assert (broken / "out/catalog.parquet").read_bytes() == before


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
    folder = parent(tmp_path / "in")
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
    zipped(parent(tmp_path / "in") / "bomb.zip", members)
    unpacked, seen = private_folder(tmp_path / "out") / "unpacked", [0]

    def watch(*_: object) -> None:
        seen.append(sum(p.stat().st_size for p in unpacked.rglob("*") if p.is_file()))

    limits = Limits(total_bytes=100_000)
    prepare(order(tmp_path, jobs=2, bounds=desk.Bounds(archives=limits)), watch)

    assert 80_000 < max(seen) <= 100_000


def test_members_of_an_archive_are_kept_apart_from_run_to_run(tmp_path: Path) -> None:
    zipped(parent(tmp_path / "in") / "a.zip", {"x.png": png(1)})
    _, first = prepared(tmp_path)
    before = {row["key"] for row in first.rows()}
    zipped(tmp_path / "in/b.zip", {"x.png": png(2)})

    done, second = prepared(tmp_path)

    assert done.read == 1
    assert before < {row["key"] for row in second.rows()}
