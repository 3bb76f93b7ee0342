"""What a model is asked at a site: images of given labels and patients, with blank pixels."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tiny_runs import SIDE, tuning

from confrere_client.data.boxes import Boxes
from confrere_client.data.catalog import catalog_of
from confrere_client.data.images import Images
from confrere_client.finetune.judge import Exam
from confrere_client.source import Record
from confrere_common.config import Run


def exam(labels: list[str], patients: list[int], classes: list[str], kind: str) -> Exam:
    pixels = np.zeros((len(labels), 1, 8, 8), np.uint8)
    records = [
        Record(name=f"i{n}", decode=lambda: pixels[0], patient=f"p{p}", label=label)
        for n, (label, p) in enumerate(zip(labels, patients, strict=True))
    ]
    images = Images(pixels=pixels, catalog=catalog_of(records), skipped=(), digest="")
    run = tuning(classes=classes, knobs={"kind": kind})
    every = np.arange(len(labels))
    return Exam(run=run, images=images, learned=every[:0], asked=every, device=torch.device("cpu"))


def compared_exam(
    run: Run, learned: Sequence[tuple[str, int]], asked: Sequence[tuple[str, int]], seed: int = 0
) -> Exam:
    """Return images of noise, each of a label and a patient, learned from or asked about."""
    images = noisy([*learned, *asked], seed)
    rows, first = np.arange(len(images)), len(learned)
    return Exam(
        run=run, images=images, learned=rows[:first], asked=rows[first:],
        device=torch.device("cpu"),
    )  # fmt: skip


def noisy(known: Sequence[tuple[str, int]], seed: int = 0) -> Images:
    """Return images of noise, each of a label ('' for none) and a patient."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (len(known), 1, SIDE, SIDE), dtype=np.uint8)
    records = [
        Record(name=f"i{n}", decode=lambda: pixels[0], patient=f"p{patient}", label=label)
        for n, (label, patient) in enumerate(known)
    ]
    return Images(pixels=pixels, catalog=catalog_of(records), skipped=(), digest="")


def boxed_exam(drawn: list[list[str]], patients: list[int], classes: list[str]) -> Exam:
    """Return images in which boxes of the named classes are drawn."""
    pixels = np.zeros((len(drawn), 1, 8, 8), np.uint8)
    records = [
        Record(
            name=f"i{n}", decode=lambda: pixels[0], patient=f"p{p}",
            boxes=lambda names=names: [(name, (1, 1, 4, 4)) for name in names],
        )
        for n, (names, p) in enumerate(zip(drawn, patients, strict=True))
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as home:
        boxes = Boxes(records=records, home=Path(home), shape=(8, 8))
        images = Images(
            pixels=pixels, catalog=catalog_of(records), skipped=(), digest="", boxes=boxes
        )
        every = np.arange(len(drawn))
        images.known("boxes", every)
    return Exam(
        run=tuning("detection", classes=classes), images=images, learned=every[:0], asked=every,
        device=torch.device("cpu"),
    )  # fmt: skip
