"""Images are asked about in batches; what no network can be asked about has its reason."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shelf import Shelf, noise

from confrere_client.predict.asked import Batch, Place, Tally, batches, open_place
from confrere_common.augment.pipeline import CROPPED, PREPROCESSING
from confrere_common.errors import DataError
from confrere_common.family import Named
from confrere_common.release import Card

GREY = Card(
    encoder=Named(name="resnet", knobs={}), channels=1, size=(16, 16),
    preprocessing=PREPROCESSING, training={},
)  # fmt: skip


def asked(source: Shelf, card: Card = GREY, *, whole: bool = False) -> tuple[list[Batch], Tally]:
    tally, place = Tally(), Place(named=Named(name="shelf", knobs={}), source=source)
    return list(batches(place, card, tally, whole=whole)), tally


def test_images_of_many_sizes_come_as_the_network_takes_them() -> None:
    source = Shelf([noise(1, 20 + number, 30) for number in range(70)])
    heard: list[tuple[int, int]] = []
    tally, place = Tally(), Place(named=Named(name="shelf", knobs={}), source=source)

    found = list(
        batches(place, GREY, tally, whole=False, progress=lambda *said: heard.append(said))
    )

    assert [len(batch) for batch in found] == [32, 32, 6]
    assert found[0].images.pixels.shape == (32, 1, 16, 16)
    assert found[0].sides[3] == (23, 30)
    assert found[2].names[-1] == "n69"
    assert heard == [(32, 70), (64, 70), (70, 70)]
    assert tally.answered == source.decoded == 70


def test_no_more_than_a_few_images_are_decoded_ahead() -> None:
    source = Shelf([noise(1, 8, 8)] * 500)
    tally, place = Tally(), Place(named=Named(name="shelf", knobs={}), source=source)

    next(batches(place, GREY, tally, whole=False))

    assert source.decoded <= 32 + 10


def test_whole_images_come_one_by_one_at_their_own_size() -> None:
    card = Card(**{**vars(GREY), "preprocessing": CROPPED})
    source = Shelf([noise(1, 20, 30), noise(1, 40, 8)])

    (first, second), _ = asked(source, card, whole=True)

    assert np.array_equal(first.images.whole(0)[0].numpy(), source.images[0])
    assert second.images.batch(np.array([0])).shape == (1, 1, 16, 16)  # its middle, black around


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (noise(2, 8, 8), "has 2 channels, and the network takes 1"),
        (noise(1, 8, 8, 8), "is 3-D, and the network takes 2-D images"),
        ("is truncated", "is truncated"),
    ],
)
def test_what_cannot_be_asked_about_is_left_out_with_its_reason(
    image: np.ndarray | str, reason: str
) -> None:
    (batch,), tally = asked(Shelf([image, noise(1, 8, 8)]))

    assert batch.names == ["n1"]
    assert tally.skipped == [("n0", reason)]


def test_colour_is_grey_to_a_network_of_grey_and_counted() -> None:
    (batch,), tally = asked(Shelf([noise(3, 16, 16), noise(1, 16, 16)]))

    assert batch.images.channels == 1
    assert tally.recoloured == 1


def test_windows_of_a_scan_are_no_colours() -> None:
    card = Card(**{**vars(GREY), "size": (8, 8, 8)})
    named = Named(name="prepared", knobs={"slices": "axial"})
    tally, place = Tally(), Place(named=named, source=Shelf([noise(3, 16, 16)]))

    _, volumes = asked(Shelf([noise(3, 8, 8, 8)]), card)
    found = list(batches(place, GREY, tally, whole=False))

    assert found == []
    assert tally.skipped == volumes.skipped == [("n0", "has 3 channels, and the network takes 1")]


def test_a_place_is_read_as_what_lies_there_and_knobs_go_before(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Image.fromarray(noise(1, 9, 9)[0]).save(tmp_path / "a/one.png")
    (tmp_path / "list.csv").write_text("file\na/one.png\n")

    folder = open_place(tmp_path, GREY, {})
    table = open_place(tmp_path / "list.csv", GREY, {"path_column": "file"})

    assert [record.name for record in folder.source.records()] == ["a/one.png"]
    assert [record.name for record in table.source.records()] == ["a/one.png"]
    with pytest.raises(DataError, match="unknown key 'path_colum'"):
        open_place(tmp_path / "list.csv", GREY, {"path_colum": "file"})
    with pytest.raises(DataError, match="there is nothing at"):
        open_place(tmp_path / "gone", GREY, {})
    with pytest.raises(DataError, match="One picture alone goes into a folder"):
        open_place(tmp_path / "a/one.png", GREY, {})


def test_images_that_nobody_prepared_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Image.fromarray(noise(1, 9, 9)[0]).save(tmp_path / "one.png")
    card = Card(**{**vars(GREY), "preprocessing": {**PREPROCESSING, "prepared": {"image_px": 9}}})

    open_place(tmp_path, card, {})

    assert "learned from prepared images" in caplog.text
