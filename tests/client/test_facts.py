"""What a method wants to know of images: labels as the source has them, targets computed once."""

import errno
import os
import sys
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from confrere_client.facts import Facts
from confrere_common.codes import code_of
from confrere_common.errors import DataError


class Noted:
    """A method that counts how often it computes a target."""

    class_names: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.calls = 0

    def target(self, image_CZYX: Tensor) -> Tensor:
        self.calls += 1
        return image_CZYX.float().mean().reshape(1)


class Bare:
    """Images of which nothing is known; image i holds i."""

    def __len__(self) -> int:
        return 5

    def batch(self, positions: NDArray[np.int64]) -> Tensor:
        return torch.tensor(positions, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 1, 4, 4)


class Labelled(Bare):
    """Images with a class."""

    def known(self, kind: str, positions: NDArray[np.int64]) -> Tensor:
        assert kind == "label"
        return torch.tensor(positions) % 2


class Classes(Labelled):
    """Images whose labels number these names; image i is of class i % 2."""

    classes = ("benign", "malignant")


def test_a_target_is_computed_once_for_each_image_and_stays_with_it() -> None:
    facts, images, method = Facts(), Bare(), Noted()
    model: Any = method

    first = facts.of("target", images, np.array([3, 1]), model)
    again = facts.of("target", images, np.array([1, 3, 4]), model)

    assert (first.flatten().tolist(), again.flatten().tolist()) == ([3, 1], [1, 3, 4])
    assert method.calls == 3


def test_targets_of_other_images_are_kept_apart_and_go_with_them() -> None:
    facts, one, other = Facts(), Bare(), Bare()
    model: Any = Noted()

    facts.of("target", one, np.array([0]), model)
    facts.of("target", other, np.array([0]), model)
    del one

    assert model.calls == 2
    assert len(facts._kept) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="space is reserved on Linux only")
def test_a_full_disk_is_told_as_such_before_a_target_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A hole in a memory map that the disk cannot fill ends the process by SIGBUS."""
    asked: list[int] = []

    def full(descriptor: int, start: int, size: int) -> None:  # noqa: ARG001
        asked.append(size)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    model: Any = Noted()

    with pytest.raises(OSError, match="No space left") as caught:
        Facts().of("target", Bare(), np.array([0]), model)

    assert code_of(caught.value) == "disk-full"
    assert asked == [5 * 4]  # of all five images, a float each


def test_a_label_is_asked_of_the_images_and_its_absence_is_told() -> None:
    model: Any = Noted()

    assert Facts().of("label", Labelled(), np.array([2, 3]), model).tolist() == [0, 1]
    with pytest.raises(DataError, match="needs a label with every image, and these have none"):
        Facts().of("label", Bare(), np.array([0]), model)


@pytest.mark.parametrize(
    ("named", "due"),
    [
        ((), [0, 1]),
        (("benign", "malignant"), [0, 1]),
        (("atypical", "malignant", "scar", "benign"), [3, 1]),
    ],
)
def test_classes_are_numbered_as_the_run_names_them_whichever_a_site_has(
    named: tuple[str, ...], due: list[int]
) -> None:
    model: Any = Noted()
    model.class_names = named

    assert Facts().of("label", Classes(), np.array([2, 3]), model).tolist() == due


def test_a_class_that_the_run_does_not_name_is_told() -> None:
    model: Any = Noted()
    model.class_names = ("benign", "scar")

    with pytest.raises(DataError, match=r"the first 'malignant'\. The run names benign, ") as told:
        Facts().of("label", Classes(), np.array([0]), model)

    assert code_of(told.value) == "other-classes"
