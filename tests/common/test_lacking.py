"""A class that a site lacks leaves the site's loss: of every task that tells classes apart."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from tiny_runs import SIDE, tuning
from torch import Tensor
from torch.func import functional_call, grad, vmap

from confrere_common.errors import ConfigError
from confrere_common.model import build_model
from confrere_common.parts.lacking import present, restricted
from confrere_common.task import TASKS, FineTask

ALL, FEWER = ("a", "b", "c"), ("a", "b")
"""The run's classes, and those that the site has: c is what it lacks."""

PRIOR = torch.tensor([0.5, 0.5, 0.0]).log()

HEADS: Mapping[str, tuple[tuple[str, ...], int]] = {
    "classification": (("head.1.weight", "head.1.bias"), 0),
    "multilabel": (("head.1.weight", "head.1.bias"), 0),
    "ordinal": (("head.1.thresholds.weight", "head.1.thresholds.bias"), 0),
    "retrieval": (("head.places.weight",), 0),
    "segmentation": (("head.out.weight", "head.out.bias"), 1),
    "detection": (("head.out.weight", "head.out.bias"), 0),
}
"""Loss -> weights with an entry for each class, and how many entries come before the first."""

KNOBS: Mapping[str, Mapping[str, Any]] = {
    "multilabel": {"kind": "multilabel"},
    "ordinal": {"kind": "ordinal"},
    "segmentation": {"width": 4},
    "retrieval": {"out": 8},
    "detection": {"width": 8},
}


def task_of(name: str, classes: tuple[str, ...] = ALL, **changes: Any) -> FineTask:
    task = name if name in TASKS.names() else "classification"
    run = tuning(task, classes=list(classes), knobs=KNOBS.get(name, {}), **changes)
    model = build_model(run, seed=0)
    assert isinstance(model, FineTask)
    return model


def known_of(name: str) -> Tensor:
    """Return what is known of three images of a site that has a and b alone."""
    if name == "segmentation":
        masks_BYX = torch.zeros(3, SIDE, SIDE, dtype=torch.int64)
        masks_BYX[0, 2:9, 2:9], masks_BYX[1, 4:12, 4:12] = 1, 2
        return masks_BYX
    if name == "detection":
        corners, kinds = torch.tensor([2.0, 2, 12, 12]).expand(3, 1, 4), torch.tensor([0.0, 1, 0])
        return torch.cat([corners, kinds.view(3, 1, 1)], dim=2)
    if name == "multilabel":
        return torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 1, 0]])
    return torch.tensor([0, 1, 1])


def views_of(model: FineTask, name: str, prior: Tensor) -> tuple[Tensor, ...]:
    """Return images as they are, and what is known of them; as a trainer would give it."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(3, 1, SIDE, SIDE, generator=generator)
    known = known_of(name)
    if name == "multilabel":
        known = known[:, : len(prior)]

    def as_they_are(images_BCYX: Tensor, _: torch.Generator) -> Tensor:
        return images_BCYX

    return model.informed_views(images, (known, prior.expand(3, -1)), as_they_are, generator)


def without_the_last(name: str) -> FineTask:
    """Return the same network for the classes that the site has, with the same weights."""
    whole, part = task_of(name), task_of(name, FEWER)
    weights, own = dict(whole.state_dict()), part.state_dict()
    names, before = HEADS[name]
    for one in names:
        kept = [row for row in range(len(weights[one])) if row != before + 2 or name == "ordinal"]
        weights[one] = weights[one][kept][: len(own[one])]
    part.load_state_dict(weights)
    return part


@pytest.mark.parametrize("name", HEADS)
def test_the_loss_is_that_of_a_network_without_the_class(name: str) -> None:
    model, fewer = task_of(name), without_the_last(name)

    found = model.losses(*views_of(model, name, PRIOR))
    due = fewer.losses(*views_of(fewer, name, PRIOR[:2]))
    kept = model.losses(*views_of(model, name, torch.zeros(3)))

    torch.testing.assert_close(found, due)
    assert not torch.equal(found, kept)


@pytest.mark.parametrize("name", HEADS)
def test_no_gradient_reaches_what_answers_for_the_class(name: str) -> None:
    model = task_of(name)
    names, before = HEADS[name]
    place = before + (1 if name == "ordinal" else 2)  # between b and c; of c
    weights = dict(model.named_parameters())

    def gradients(prior: Tensor) -> list[Tensor]:
        moved = [weights[one] for one in names if weights[one].requires_grad]
        return list(torch.autograd.grad(model.losses(*views_of(model, name, prior)).sum(), moved))

    assert all((one[place] == 0).all() for one in gradients(PRIOR))
    assert all((one[place] != 0).any() for one in gradients(torch.zeros(3)))
    assert all((one[before] != 0).any() for one in gradients(PRIOR))


def test_of_classes_in_an_order_one_between_others_stays() -> None:
    """Its site has a and c: both thresholds have images on either side."""
    model = task_of("ordinal")
    images, labels = views_of(model, "ordinal", PRIOR)[0], torch.tensor([0, 2, 2])

    def loss(prior: Tensor) -> Tensor:
        return model.losses(images, labels, prior.expand(3, -1))

    one_side = loss(torch.tensor([0.5, 0.5, 0.5]).log())
    assert (loss(torch.tensor([-torch.inf, 0, 0])) != one_side).all()
    torch.testing.assert_close(loss(torch.tensor([0.3, 0.3, 0.4]).log()), one_side)


@pytest.mark.parametrize("name", ["segmentation", "detection"])
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_gradients_can_be_mapped_over_images_of_a_site_that_lacks_a_class(name: str) -> None:
    model = task_of(name)
    views = views_of(model, name, PRIOR)
    moved = {key: p.detach() for key, p in model.named_parameters() if p.requires_grad}

    def loss(weights: dict[str, Tensor], *one: Tensor) -> Tensor:
        found: Tensor = functional_call(Losses(model), weights, tuple(view[None] for view in one))
        return found[0]

    prefixed = {f"model.{key}": value for key, value in moved.items()}
    mapped = vmap(grad(loss), in_dims=(None, *(0 for _ in views)))(prefixed, *views)
    (first,) = torch.autograd.grad(
        model.losses(*(view[:1] for view in views)).sum(), [model.get_parameter("head.out.weight")]
    )

    torch.testing.assert_close(mapped["model.head.out.weight"][0], first, rtol=1e-3, atol=1e-5)


class Losses(torch.nn.Module):
    """A task's losses as the forward pass of a module."""

    def __init__(self, model: FineTask) -> None:
        super().__init__()
        self.model = model

    def forward(self, *views: Tensor) -> Tensor:
        return self.model.losses(*views)


def test_a_logit_that_is_left_out_has_no_part_and_the_others_are_as_they_were() -> None:
    logits_BK = torch.tensor([[3.0, 50.0, -1.0]], requires_grad=True)

    shares_BK = restricted(logits_BK, present(torch.tensor([[0.0, -torch.inf, -1.0]]))).softmax(1)

    assert shares_BK[0, 1] == 0
    torch.testing.assert_close(shares_BK[:, [0, 2]], logits_BK[:, [0, 2]].softmax(1))


@pytest.mark.parametrize("name", ["classification", "segmentation", "detection", "retrieval"])
def test_every_task_that_tells_classes_apart_may_leave_some_out(name: str) -> None:
    for missing in ("mask", "keep", None):
        assert "prior" in task_of(name, missing=missing).wants


def test_leaving_classes_out_is_refused_where_none_are_told_apart() -> None:
    normal = {"normal": "a", "bottleneck": 8}

    for missing in ("keep", None):
        build_model(tuning("anomaly", knobs=normal, missing=missing), 0)
    with pytest.raises(ConfigError, match=r"finetune\.missing is 'mask'.*'anomaly' tells no"):
        build_model(tuning("anomaly", knobs=normal, missing="mask"), 0)
