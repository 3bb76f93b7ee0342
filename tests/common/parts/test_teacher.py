"""Teachers: copies that follow and are not trained."""

import pytest
import torch
from torch import nn

from confrere_common.parts.teacher import become, follow, momentum, teacher_of


def test_a_teacher_starts_as_a_copy_that_shares_no_memory() -> None:
    one, two = nn.Linear(3, 4), nn.Linear(4, 2)

    taught = teacher_of(one, two)

    for own, copied in zip(
        [*one.parameters(), *two.parameters()], taught.parameters(), strict=True
    ):
        assert torch.equal(own, copied)
        assert own.data_ptr() != copied.data_ptr()
        assert not copied.requires_grad
        assert own.requires_grad


@pytest.mark.parametrize(("progress", "kept"), [(0.0, 0.9), (0.5, 0.95), (1.0, 1.0)])
def test_momentum_rises_to_1_by_a_cosine(progress: float, kept: float) -> None:
    assert momentum(0.9, progress) == pytest.approx(kept)


def test_a_teacher_keeps_so_much_of_itself_and_may_become_the_student() -> None:
    student = nn.Linear(3, 2)
    taught = teacher_of(student)
    with torch.no_grad():
        student.weight += 1

    follow(taught, student, kept=0.75)
    torch.testing.assert_close(taught[0].weight, student.weight - 0.75)
    become(taught, student)

    assert torch.equal(taught[0].weight, student.weight)
