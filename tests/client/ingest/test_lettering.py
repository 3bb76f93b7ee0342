import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from confrere_client.ingest.reader import Exam, Skipped
from confrere_client.ingest.working.lettering import FOUND, MASKED, may_hold_text, without_text


@pytest.fixture
def exam() -> Exam:
    soft = np.random.default_rng(0).integers(20, 60, (12, 12), np.uint8)
    picture = Image.fromarray(soft).resize((320, 320), Image.Resampling.BICUBIC)
    font = ImageFont.load_default(18)
    ImageDraw.Draw(picture).text((20, 30), "MUSTERFRAU ERIKA 1961", fill=255, font=font)
    return Exam(pixels=np.asarray(picture)[None])


def test_text_in_ultrasound_is_painted_over_and_said(exam: Exam) -> None:
    made = without_text(exam, "us", "mask")

    assert exam.pixels[:, 30:55, 20:240].max() == 255
    assert made.pixels[:, 30:55, 20:240].max() < 128
    assert made.warnings == (MASKED,)


def test_a_loop_is_masked_in_every_frame(exam: Exam) -> None:
    loop = Exam(pixels=np.stack([exam.pixels] * 3, axis=1))

    made = without_text(loop, "us", "mask")

    assert made.pixels.shape == loop.pixels.shape
    assert made.pixels[:, :, 30:55, 20:240].max() < 128


def test_it_may_be_flagged_or_leave_the_picture_out(exam: Exam) -> None:
    assert without_text(exam, "cxr", "flag").warnings == (FOUND,)
    with pytest.raises(Skipped, match=FOUND):
        without_text(exam, "dx", "skip")


def test_what_no_device_writes_into_is_left_alone(exam: Exam) -> None:
    assert without_text(exam, "histology", "skip") is exam


@pytest.mark.parametrize(("modality", "found"), [("us", True), ("cxr", True), ("sm", False)])
def test_where_text_may_stand_pixels_are_not_made_fewer_before_it_is_looked_for(
    modality: str, found: bool
) -> None:
    assert may_hold_text(modality) == found
