"""A patient whom a run learned from is not scored in it later.

``held_out.as_noted``: "Guarantee: nobody is scored who was not held out when the note was made; nor
is anybody from the round on that meets another data set than was there then, or a note that cannot
be read."
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scored import asking, errand, lent, paint, site_with_scans, told

from confrere_client.daemon.lessons import NOTE
from confrere_client.finetune.lesson import site_lesson
from confrere_client.hospital.registry import add
from confrere_client.hospital.site import SiteFolder

FEW: dict[str, Any] = {"evaluation": {"min_cell": 5}}


@pytest.fixture
def site(tmp_path: Path) -> SiteFolder:
    return site_with_scans(tmp_path)


def seen(site: SiteFolder) -> tuple[set[bytes], set[bytes]]:
    """Return the pixels of what a round would learn from, and of what it would score."""
    found = lent(site, asking(**FEW))
    _, learned = site_lesson(asking(**FEW), found.images, found.held)
    one, two = found.images.batch(learned), found.exam.batch(found.asked)
    return {image.numpy().tobytes() for image in one}, {image.numpy().tobytes() for image in two}


def plain(site: SiteFolder) -> None:
    paint(site.folder / "scans.npz")


def more_patients(site: SiteFolder) -> None:
    paint(site.folder / "scans.npz", count=200)


def with_marks(site: SiteFolder) -> None:
    pixels = np.random.default_rng(3).integers(0, 255, (60, 16, 16), dtype=np.uint8)
    labels = np.array(["a", "b"])[np.arange(60) % 2]
    paint(site.folder / "scans.npz", test_images=pixels, test_labels=labels)


def learned_from_as_marked(site: SiteFolder) -> None:
    with np.load(site.folder / "scans.npz") as found:
        pixels, labels = found["train_images"], found["train_labels"]
    more = {"test_images": pixels[:60], "test_labels": labels[:60]}
    np.savez(site.folder / "scans.npz", train_images=pixels[60:], train_labels=labels[60:], **more)


def row_in_front(site: SiteFolder) -> None:
    with np.load(site.folder / "scans.npz") as found:
        pixels, labels = found["train_images"], found["train_labels"]
    new = np.random.default_rng(9).integers(0, 255, (1, 16, 16), dtype=np.uint8)
    rows, names = np.concatenate([new, pixels]), np.concatenate([["a"], labels])
    np.savez(site.folder / "scans.npz", train_images=rows, train_labels=names)


@pytest.mark.parametrize(
    "rounds",
    [
        (with_marks, plain),
        (with_marks, plain, with_marks),
        (plain, with_marks),
        (plain, learned_from_as_marked),
        (plain, row_in_front),
        (plain, row_in_front, plain),
    ],
)
def test_once_another_data_set_was_met_nobody_is_scored(
    site: SiteFolder, rounds: tuple[Callable[[SiteFolder], None], ...]
) -> None:
    learned: set[bytes] = set()
    scored = []
    for there in rounds:
        there(site)
        more, asked = seen(site)
        learned |= more
        scored.append(len(asked))
        assert not learned & asked

    assert scored[0] > 0
    assert set(scored[1:]) == {0}
    assert told(site, errand(site, asking(**FEW)))["refused"] == "nothing-to-score"


def several_of_each(folder: Path, more: Sequence[str] = ()) -> Path:
    """Return a table of 60 patients with three pictures each, and of *more*: 'path,patient'."""
    generator = np.random.default_rng(2)
    rows = [*(f"m{n % 3}-{n // 3:02}.png,p{n // 3}" for n in range(180)), *more]
    for row in rows:
        pixels = generator.integers(0, 255, (16, 16)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / row.split(",")[0])
    lines = [f"{row},{'ab'[int(row.split(',p')[1]) % 2]}" for row in rows]
    path = folder / "table.csv"
    path.write_text("\n".join(["path,patient,label", *lines]))
    return path


@pytest.mark.parametrize("caps", [(None, 120, None), (120, None, 90, None)])
def test_a_cap_that_moves_moves_nobody_from_learning_to_scoring(
    site: SiteFolder, caps: tuple[int | None, ...]
) -> None:
    add(site.folder, "ward", several_of_each(site.folder), replace=True)
    learned, scored = set[bytes](), set[bytes]()
    for cap in caps:
        site.policy.write_text(f"{{min_images: 4, min_cell: 5, max_images: {cap or 'null'}}}")
        more, asked = seen(site)
        learned, scored = learned | more, scored | asked
        assert not learned & scored

    assert asked  # the data set is the same: the cap alone costs no evaluation


def test_who_is_noted_stays_held_out_when_an_image_comes_that_stands_first(
    site: SiteFolder,
) -> None:
    add(site.folder, "ward", several_of_each(site.folder), replace=True)
    before = lent(site, asking(**FEW))
    names = set(before.exam.catalog.names[before.held])
    assert len(names) == 48  # a quarter of the 30 of each class, 8, with three pictures each

    new = [f"a-{n:02}.png,p{n}" for n in range(60)]
    add(site.folder, "ward", several_of_each(site.folder, new), replace=True)
    after = lent(site, asking(**FEW))

    held = after.images.catalog.names[after.held]
    assert {name for name in held if name.startswith("m")} == names
    assert len(held) == len(names) // 3 * 4
    assert len(after.asked) == 0


@pytest.mark.parametrize("change", [more_patients, with_marks])
def test_who_was_held_out_stays_so_when_patients_or_marks_come(
    site: SiteFolder, change: Callable[[SiteFolder], None]
) -> None:
    before = lent(site, asking())
    names = before.exam.catalog.names[before.held]

    change(site)
    after = lent(site, asking())

    assert sorted(after.images.catalog.names[after.held]) == sorted(names)
    assert len(after.asked) == 0


@pytest.mark.parametrize("change", [plain, with_marks])
@pytest.mark.parametrize("text", ["[", '["3f"]', "{}", '{"marked": true, "fingerprint": ""}'])
def test_with_a_note_that_cannot_be_read_nobody_is_scored(
    site: SiteFolder, text: str, change: Callable[[SiteFolder], None]
) -> None:
    change(site)
    lent(site, asking())
    (site.runs / "run-1" / NOTE).write_text(text)

    found = lent(site, asking())

    assert len(found.held) == len(found.asked) == 0
