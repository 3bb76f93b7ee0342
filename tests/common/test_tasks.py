"""What every task promises, with every encoder, mode and head, so that rounds need not know it."""

import itertools
import json
from collections.abc import Mapping
from typing import Any

import pytest
import tiny_runs
import torch
from tiny_runs import ENCODERS, SIDE
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from confrere_common.config import Run
from confrere_common.encoder import build_encoder
from confrere_common.errors import ConfigError
from confrere_common.loading import COMMON_FAMILIES, dump, parse_run
from confrere_common.method import imagined_views
from confrere_common.model import build_model, encoder_weights, shared_weights
from confrere_common.parts.lora import folded
from confrere_common.privacy.independence import coupling
from confrere_common.task import TASKS, FineTask, layers

KNOBS: Mapping[str, Mapping[str, Any]] = {
    "segmentation": {"width": 4},
    "retrieval": {"out": 8},
    "anomaly": {"normal": "a", "bottleneck": 8},
    "detection": {"width": 8},
}
MODES = ("frozen", "last", "full", "lora")


def tuning(task: str = "classification", kind: str = "resnet", **changes: Any) -> Run:
    return tiny_runs.tuning(task, kind, **{"knobs": KNOBS.get(task, {}), **changes})


def task_of(run: Run) -> FineTask:
    model = build_model(run, seed=0)
    assert isinstance(model, FineTask)
    return model


def plain_augment(images: Tensor, generator: torch.Generator) -> Tensor:
    return images.float() / 64 - 2 + 0.1 * torch.randn(images.shape, generator=generator)


def views_of(model: FineTask, count: int = 3) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    shape = (count, 1, SIDE, SIDE)
    stored = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return imagined_views(model, stored, plain_augment, generator)


@pytest.fixture(params=itertools.product(TASKS.names(), ENCODERS), ids="-".join)
def model(request: pytest.FixtureRequest) -> FineTask:
    return task_of(tuning(*request.param))


def test_a_task_gives_one_finite_loss_an_image_and_an_answer(model: FineTask) -> None:
    views = views_of(model)

    losses_B = model.losses(*views)

    assert losses_B.shape == (3,)
    assert losses_B.isfinite().all()
    answers = model.eval().predict(views[0])
    assert len(answers) == 3
    assert answers.dtype == torch.float32
    assert answers.isfinite().all()


def test_no_image_of_a_task_depends_on_another(model: FineTask) -> None:
    assert coupling(model) is None


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_a_task_s_gradients_can_be_mapped_over_images(model: FineTask) -> None:
    views = views_of(model, 2)
    moved = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}

    def loss(weights: dict[str, Tensor], *one: Tensor) -> Tensor:
        alone = tuple(view[None] for view in one)
        found: Tensor = functional_call(Losses(model), weights, alone)
        return found[0]

    prefixed = {f"model.{name}": value for name, value in moved.items()}
    with sdpa_kernel(SDPBackend.MATH):
        mapped = vmap(grad(loss), in_dims=(None, *(0 for _ in views)))(prefixed, *views)
    model.losses(*(view[:1] for view in views)).sum().backward()

    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.grad is not None:
            first = mapped[f"model.{name}"][0]
            torch.testing.assert_close(first, parameter.grad, rtol=1e-3, atol=1e-5)


class Losses(torch.nn.Module):
    """A task's losses as the forward pass of a module."""

    def __init__(self, model: FineTask) -> None:
        super().__init__()
        self.model = model

    def forward(self, *views: Tensor) -> Tensor:
        return self.model.losses(*views)


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_moves_what_it_says_and_the_head(mode: str) -> None:
    model = task_of(tuning(kind="vit", mode=mode))

    moved = {name for name, p in model.named_parameters() if p.requires_grad}

    mine = {name for name in moved if name.startswith("encoder.")}
    assert {name for name in moved - mine if name.startswith("head.")}
    depths = layers(model.encoder)
    deepest = {f"encoder.{name}" for name, depth in depths.items() if depth == 2}
    every = {f"encoder.{name}" for name in depths}
    due = {"frozen": set(), "last": deepest, "full": every}.get(mode)
    assert mine == due if due is not None else all("lora_" in name for name in mine)


def test_layers_run_from_the_image_to_the_features_and_the_deep_ones_are_faster() -> None:
    model = task_of(tuning(kind="vit", mode="full", decay=0.5))

    assert model.pace("encoder.project.weight") == 0.25
    assert model.pace("encoder.blocks.0.attended.weight") == 0.5
    assert model.pace("encoder.blocks.1.attended.weight") == 1.0
    assert model.pace("encoder.norm.weight") == 1.0
    assert model.pace("head.1.weight") == 1.0


def test_additions_start_as_nothing_and_fold_into_a_plain_encoder() -> None:
    run = tuning(kind="vit", mode="lora", rank=2)
    model = task_of(run).eval()
    images = views_of(model)[0]
    bare = build_encoder(run.encoder, channels=1, size=(SIDE, SIDE)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lora_up"):
                parameter.add_(0.1 * torch.randn(parameter.shape))

    bare.load_state_dict(encoder_weights(shared_weights(model)))

    torch.testing.assert_close(bare(images), model.encoder(images), rtol=1e-4, atol=1e-5)


def test_folding_leaves_plain_weights_as_they_are() -> None:
    weights = {"a.weight": torch.ones(2, 2)}

    assert folded(weights).keys() == weights.keys()


def test_low_rank_additions_need_attention() -> None:
    with pytest.raises(ConfigError, match="'lora' adds to attention, and this encoder has none"):
        build_model(tuning(kind="resnet", mode="lora"), 0)


def test_a_head_that_stays_does_not_travel() -> None:
    shared = shared_weights(build_model(tuning(head="local"), 0))

    assert shared
    assert all(name.startswith("encoder.") for name in shared)


def test_a_class_that_a_site_lacks_is_left_out_of_its_loss() -> None:
    model = task_of(tuning())
    images, labels = views_of(model)[0], torch.zeros(3, dtype=torch.int64)
    prior = torch.tensor([0.5, 0.5, 0.0]).log().expand(3, -1)
    with torch.no_grad():
        before = model.losses(images, labels, prior)
        model.head[1].bias[2] += 5

    after = model.losses(images, labels, prior)

    torch.testing.assert_close(before, after)
    model.losses(images, labels, prior).sum().backward()
    assert model.head[1].bias.grad[2].abs() < 1e-6


def test_adjusted_logits_ask_more_of_common_classes() -> None:
    model = task_of(tuning(knobs={"adjust": 1.0}))
    images, labels = views_of(model)[0], torch.zeros(3, dtype=torch.int64)

    def loss(*shares: float) -> Tensor:
        prior = torch.tensor(shares).log().expand(3, -1)
        return model.losses(images, labels, prior)

    assert (loss(0.1, 0.8, 0.1) > loss(0.8, 0.1, 0.1)).all()


def test_what_is_known_well_counts_less_under_focal_loss() -> None:
    plain, focal = (task_of(tuning(knobs={"focal": gamma})) for gamma in (0.0, 2.0))
    views = (views_of(plain)[0], torch.zeros(3, dtype=torch.int64), torch.zeros(3, 3))

    assert (focal.losses(*views) < plain.losses(*views)).all()


def test_an_unknown_label_or_finding_has_no_loss() -> None:
    single, several = task_of(tuning()), task_of(tuning(knobs={"kind": "multilabel"}))
    images, _, prior = views_of(single)

    none = single.losses(images, torch.full((3,), -1), prior)
    nothing = several.losses(images, torch.full((3, 3), torch.nan), prior)

    assert not none.any()
    assert not nothing.any()


def test_ordered_classes_are_probabilities() -> None:
    model = task_of(tuning(knobs={"kind": "ordinal"})).eval()

    found = model.predict(views_of(model)[0])

    assert found.shape == (3, 3)
    torch.testing.assert_close(found.sum(1), torch.ones(3))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels": "many"}, "give a share of the patients"),
        ({"labels": 0}, "a share of the patients is above 0"),
        ({"classes": ["a", "a"]}, "name each class once"),
        ({"knobs": {"kind": "ordinal", "adjust": 1}}, "logits are adjusted where kind is"),
    ],
)
def test_a_section_that_cannot_be_meant_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        tuning(**changes)


def test_a_run_that_fine_tunes_needs_the_section_and_no_method() -> None:
    plain = {"name": "x", "stage": "finetune", "data": {"source": "phantom"}}

    with pytest.raises(ConfigError, match="finetune is missing"):
        parse_run(plain, COMMON_FAMILIES)
    with pytest.raises(ConfigError, match="method is missing"):
        parse_run({**plain, "stage": "pretrain"}, COMMON_FAMILIES)


def test_a_fine_tuning_travels_as_text_and_comes_back_the_same() -> None:
    text = dump(tuning(labels="3 per class", mode="last"))

    assert dump(parse_run(json.loads(text), COMMON_FAMILIES)) == text


def test_privacy_refuses_what_lets_one_label_move_another() -> None:
    plain = json.loads(dump(tuning(sampling="balanced", labels=0.5)))

    with pytest.raises(ConfigError, match=r"sampling: plain, missing: keep, labels: 1\.0"):
        parse_run({**plain, "privacy": {"epsilon": 8}}, COMMON_FAMILIES)


@pytest.mark.parametrize(
    ("task", "knobs", "due"),
    [
        ("segmentation", {"width": 4}, "'segmentation' has mask and no class: write plain"),
        ("detection", {"width": 8}, "'detection' has boxes and no class: write plain"),
        ("classification", {"kind": "multilabel"}, "has several findings: write plain"),
    ],
)
def test_images_of_no_one_class_cannot_be_drawn_by_it(
    task: str, knobs: dict[str, Any], due: str
) -> None:
    build_model(tuning(task, knobs=knobs), 0)

    with pytest.raises(ConfigError, match=f"sampling is 'sqrt', .* {due}"):
        build_model(tuning(task, knobs=knobs, sampling="sqrt"), 0)


def test_open_classes_are_told_before_a_model_is_built() -> None:
    with pytest.raises(ConfigError, match=r"finetune\.classes is open"):
        build_model(tuning(classes=None), 0)
