"""A preparation reads what is new, goes on where it was stopped, and is done in one way."""

import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from broken_files import picture, png, zipped
from PIL import Image
from preparing import order, parent, pixels, prepared

from confrere_client.data.decode import decode_image
from confrere_client.ingest.keeping.dataset import open_dataset
from confrere_client.ingest.prepare import prepare
from confrere_client.ingest.preprocess_plan import Plan
from confrere_client.ingest.working import desk
from confrere_common.errors import DataError


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
    (parent(tmp_path / "in") / "a.txt").write_text("no image")

    with pytest.raises(DataError, match="1 x of no known kind"):
        prepared(tmp_path)


def test_metadata_of_a_picture_stays_behind(tmp_path: Path) -> None:
    whole = Image.open(picture(tmp_path / "p.png", 1))
    notes = Image.Exif()
    notes[0x010E] = "JANE DOE 1961"
    parent(tmp_path / "in")
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
