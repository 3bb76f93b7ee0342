"""A site's round is repeatable in bits, gives up loudly, and keeps what is its own."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shelf import Mapped
from shelf import noise as noise_of
from tiny_runs import SIDE, Noise, noise, tiny_run, tuning

from confrere_client import schedule
from confrere_client.data.images import Images, images_of
from confrere_client.data.subset import Subset
from confrere_client.facts import Facts
from confrere_client.finetune.lesson import site_lesson
from confrere_client.optimizer import make_optimizer, set_rate
from confrere_client.train import Place, Trained, Trainer
from confrere_common.augment.pipeline import augmentation
from confrere_common.config import Run
from confrere_common.errors import ConfigError, TrainingError
from confrere_common.family import Named
from confrere_common.method import METHODS, OWN_FIGURES
from confrere_common.model import build_model, load_weights, local_weights, shared_weights
from confrere_common.weights import Weights

IMAGES = noise(10)
METHOD_NAMES = METHODS.names()


def place(round: int = 1, site: str = "north", seed: int = 0) -> Place:
    return Place(site=site, round=round, seed=seed)


def start(run: Run) -> Weights:
    return shared_weights(build_model(run, seed=7))


def first_round(run: Run, images: Noise = IMAGES, trainer: Trainer | None = None) -> Trained:
    return (trainer or Trainer(run)).round(start(run), {}, images, place=place())


def same(one: Mapping[str, Any], two: Mapping[str, Any]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_a_round_done_again_gives_the_same_bits(method: str) -> None:
    run = tiny_run(method)
    trainer = Trainer(run)

    one = first_round(run, trainer=trainer)
    torch.manual_seed(99)  # nothing hangs on the global generator
    trainer.round(start(run), {}, noise(3, seed=5), place=place(site="south", seed=1))
    two = first_round(run, trainer=trainer)

    assert same(one.weights, two.weights)
    assert same(one.state, two.state)
    assert {**one.metrics, "seconds": 0} == {**two.metrics, "seconds": 0}
    assert not same(one.weights, start(run))


def test_another_site_seed_or_round_draws_otherwise() -> None:
    run = tiny_run()
    trainer = Trainer(run)
    places = [place(), place(site="south"), place(seed=1), place(round=2)]

    found = [trainer.round(start(run), {}, IMAGES, place=one).weights for one in places]

    assert all(not same(found[0], other) for other in found[1:])


def uninterrupted(run: Run, rounds: int) -> tuple[Weights, Weights]:
    """Train all rounds with one model and one optimizer that are never put away."""
    model = build_model(run, seed=0)
    load_weights(model, start(run))
    model.train()
    model.start_local()
    optimizer = make_optimizer(model, run.train)
    augment = augmentation(run.augment, channels=1, size=(SIDE, SIDE))
    for number in range(1, rounds + 1):
        order, generator = schedule.draws("north", seed=0, round=number)
        for step, positions in enumerate(schedule.batches(len(IMAGES), 4, 2, order)):
            progress = (number - 1 + (step + 0.5) / 2) / rounds
            set_rate(optimizer, schedule.rate(progress, peak=run.train.lr, warmup=0.1))
            known = [Facts().of(kind, IMAGES, positions, model) for kind in model.wants]
            views = model.informed_views(IMAGES.batch(positions), known, augment, generator)
            loss = model.losses(*views).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            model.after_step(progress)
    return shared_weights(model), local_weights(model)


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_rounds_with_state_put_away_equal_one_uninterrupted_training(method: str) -> None:
    run = tiny_run(method)
    trainer = Trainer(run)

    one = trainer.round(start(run), {}, IMAGES, place=place(1))
    trainer.round(start(run), {}, noise(5, seed=3), place=place(1, site="south"))
    two = trainer.round(one.weights, one.state, IMAGES, place=place(2))

    weights, local = uninterrupted(run, rounds=2)
    assert same(two.weights, weights)
    own = {n.removeprefix("local/"): t for n, t in two.state.items() if n.startswith("local/")}
    assert same(own, local)


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_what_stays_at_the_site_is_never_among_the_weights(method: str) -> None:
    trained = first_round(tiny_run(method))

    local = METHODS.member(method).local
    assert not [name for name in trained.weights if name.startswith(local)] or not local
    assert any(n.startswith("local/teacher.") for n in trained.state) == ("teacher" in local)


def test_an_optimizer_that_is_reset_goes_another_way_than_one_that_is_kept() -> None:
    runs = [tiny_run(train={"optimizer_state": kind}) for kind in ("keep", "reset")]

    firsts = [first_round(run) for run in runs]
    seconds = [
        Trainer(run).round(one.weights, one.state, IMAGES, place=place(2))
        for run, one in zip(runs, firsts, strict=True)
    ]

    assert same(firsts[0].weights, firsts[1].weights)
    assert not same(seconds[0].weights, seconds[1].weights)
    assert any(name.startswith("optimizer/") for name in firsts[0].state)
    assert firsts[1].state == {}


def test_a_teacher_is_kept_even_when_the_optimizer_is_reset() -> None:
    trained = first_round(tiny_run("byol", train={"optimizer_state": "reset"}))

    assert trained.state
    assert all(name.startswith("local/teacher.") for name in trained.state)


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_a_site_with_one_image_can_take_part(method: str) -> None:
    trained = first_round(tiny_run(method), noise(1))

    assert all(bool(torch.isfinite(tensor).all()) for tensor in trained.weights.values())
    assert trained.metrics["seen"] == 2


@pytest.mark.parametrize(
    ("measure", "images", "seen"),
    [
        ({"batch": 4, "steps_per_round": 3}, 10, 12),
        ({"batch": 4, "steps_per_round": None, "epochs_per_round": 2}, 10, 20),
        ({"batch": 4, "steps_per_round": None}, 10, 8),
        ({"batch": 64, "steps_per_round": 2}, 3, 6),
        ({"batch": 64, "steps_per_round": None, "epochs_per_round": 2}, 3, 6),
    ],
)
def test_steps_and_epochs_are_counted_as_the_run_says(
    measure: dict[str, Any], images: int, seen: int
) -> None:
    trained = first_round(tiny_run(train=measure), noise(images))

    assert trained.metrics["seen"] == seen


def test_whoever_watches_hears_of_every_step_on_a_cpu() -> None:
    run = tiny_run(train={"steps_per_round": 3})
    heard: list[tuple[int, int, float]] = []

    trained = Trainer(run).round(
        start(run), {}, IMAGES, place=place(), watch=lambda *told: heard.append(told)
    )

    assert [told[:2] for told in heard] == [(1, 3), (2, 3), (3, 3)]
    assert heard[-1][2] == pytest.approx(trained.metrics["loss"])


def test_a_round_tells_of_the_health_of_its_representation() -> None:
    metrics = first_round(tiny_run()).metrics

    assert {"rankme", "feature_std", "uniformity", "alignment"} < metrics.keys()


@pytest.mark.parametrize("method", METHODS.names())
def test_a_round_tells_the_figures_of_its_method_and_only_these(method: str) -> None:
    if METHODS.member(method).wants:
        assert not METHODS.member(method).figures  # facts are not at hand here
        return

    metrics = first_round(tiny_run(method)).metrics

    assert {name for name in metrics if name in OWN_FIGURES} == {*METHODS.member(method).figures}
    assert all(0 <= metrics[name] <= 1 for name in METHODS.member(method).figures)


def test_a_rate_far_too_high_ends_the_round_with_advice() -> None:
    run = tiny_run(train={"lr": 1e30, "clip_norm": None, "steps_per_round": 8})

    with pytest.raises(TrainingError, match=r"no longer .* of 8\. Lower train\.lr \(now 1e\+30\)"):
        first_round(run)


def test_weights_that_are_no_numbers_end_the_round_at_its_first_step() -> None:
    run = tiny_run()
    broken = {name: tensor * torch.nan for name, tensor in start(run).items()}

    with pytest.raises(TrainingError, match="the loss was no longer a number at step 1 of 2"):
        Trainer(run).round(broken, {}, IMAGES, place=place())


def test_a_last_step_that_breaks_the_weights_is_found_out_though_every_loss_was_sound() -> None:
    run = tiny_run(train={"lr": 1e39, "steps_per_round": 1})

    with pytest.raises(TrainingError, match="the weights were no longer numbers at step 1 of 1"):
        first_round(run)


def test_after_a_broken_round_the_next_one_is_as_ever() -> None:
    run = tiny_run()
    trainer = Trainer(run)
    broken = {name: tensor * torch.nan for name, tensor in start(run).items()}

    with pytest.raises(TrainingError):
        trainer.round(broken, {}, IMAGES, place=place())

    assert same(first_round(run, trainer=trainer).weights, first_round(run).weights)


def test_bfloat16_on_a_cpu_trains_when_it_is_asked_for() -> None:
    # With the tiny stem of the other runs maps shrink to 1x1, and PyTorch's strided 3x3 convolution
    # of those in bfloat16 reads memory that nobody wrote, on CPUs with AVX512-BF16 (torch 2.13).
    small = {"name": "resnet", "width": 8, "groups": 4, "stem": "small"}

    trained = first_round(tiny_run(train={"precision": "bfloat16"}, encoder=small))

    assert all(tensor.dtype == torch.float32 for tensor in trained.weights.values())


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cuda:x", ""])
def test_a_device_that_is_not_there_is_told_as_such(device: str) -> None:
    with pytest.raises(ConfigError, match=f"train.device is '{device}'"):
        Trainer(tiny_run(train={"device": device}))


@pytest.mark.parametrize("images", [1, 5])
def test_features_of_few_images_are_the_same_whether_encoded_at_once_or_apart(images: int) -> None:
    trainer = Trainer(tiny_run())
    trainer.model.eval()
    still_BCYX = torch.randn(images, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    pairs_BCYX = torch.cat([still_BCYX + 1, still_BCYX - 1])

    with torch.no_grad():
        found = trainer._encoded(still_BCYX, pairs_BCYX)
        apart = [trainer.model.encoder(one) for one in (still_BCYX, *pairs_BCYX.chunk(2))]

    for one, other in zip(found, apart, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def volumes(folder: Path, *, outlined: bool = False) -> Images:
    """Return seven volumes of unequal sizes, of which runs take crops of 8."""
    shapes = [(12, 14, 10), (9, 8, 11), (5, 16, 7)]
    arrays = [noise_of(1, *shapes[n % 3], seed=n) for n in range(7)]
    return images_of(
        Mapped(arrays, [(one[0] > 128).astype(np.uint8) for one in arrays] if outlined else None),
        image_px=64, crop_px=(8,), cache_dir=folder,
    )  # fmt: skip


TINY_3D = {"name": "resnet", "width": 8, "groups": 4, "stem": "small"}
DEEP = {"source": "phantom", "crop_px": 8, "channels": 1, "dims": 3}


@pytest.mark.parametrize("method", ["byol", "simmim", "maxtree", "weak"])
def test_crops_are_drawn_alike_by_a_round_that_is_done_again(method: str, tmp_path: Path) -> None:
    run, images = tiny_run(method, data=DEEP, encoder=TINY_3D), volumes(tmp_path)
    if method == "simmim":
        run = replace(run, method=Named(name="simmim", knobs={"head": 16, "block": 4}))
    trainer, seen = Trainer(run), Subset(images, np.arange(1, 7))

    one = trainer.round(start(run), {}, seen, place=place(1))
    trainer.round(start(run), {}, seen, place=place(1, site="south"))
    two = trainer.round(one.weights, one.state, seen, place=place(2))

    again = Trainer(run)  # after a crash: another process goes on from what was put away
    redone = again.round(one.weights, one.state, seen, place=place(2))
    assert same(again.round(start(run), {}, seen, place=place(1)).weights, one.weights)
    assert same(redone.weights, two.weights)
    assert same(redone.state, two.state)
    assert {**redone.metrics, "seconds": 0} == {**two.metrics, "seconds": 0}


def test_each_step_sees_other_crops_and_health_is_of_the_middle(tmp_path: Path) -> None:
    run, images = tiny_run("byol", data=DEEP, encoder=TINY_3D), volumes(tmp_path)
    trainer, rows, generator = Trainer(run), np.arange(4), torch.Generator().manual_seed(0)

    one, two = (trainer.seen(images, rows, generator)[0] for _ in range(2))

    assert one.shape == two.shape == (4, 1, 8, 8, 8)
    assert not torch.equal(one, two)
    assert torch.equal(trainer.fetch(images, rows), images.batch(rows))
    whole = trainer.seen(IMAGES, rows, generator.manual_seed(1))[0]
    assert torch.equal(whole, IMAGES.batch(rows))
    assert torch.equal(generator.get_state(), torch.Generator().manual_seed(1).get_state())


def test_a_target_is_computed_of_the_crop_that_a_step_sees(tmp_path: Path) -> None:
    run, images = tiny_run("maxtree", data=DEEP, encoder=TINY_3D), volumes(tmp_path)
    trainer, rows = Trainer(run), np.array([3, 0])

    for _ in range(2):
        seen, (targets,) = trainer.seen(images, rows, torch.Generator().manual_seed(5))
        assert torch.equal(targets, torch.stack([trainer.model.target(one) for one in seen]))
    (kept,) = trainer.known(images, rows)
    middles = torch.stack([trainer.model.target(one) for one in images.batch(rows)])
    assert torch.equal(kept, middles)


def test_a_segmentation_sees_each_mask_where_its_image_was_cut(tmp_path: Path) -> None:
    run = tuning("segmentation", classes=["a"], knobs={"width": 4})
    run = replace(run, data=tiny_run(data=DEEP).data, encoder=tiny_run(encoder=TINY_3D).encoder)
    lesson, _ = site_lesson(run, volumes(tmp_path, outlined=True))
    trainer, generator = Trainer(run), torch.Generator().manual_seed(0)

    for rows in (np.array([0, 1, 2]), np.array([2, 2, 6])):
        images, (masks, _) = trainer.seen(lesson, rows, generator)
        assert torch.equal(masks, (images[:, 0] > 128).long())
    assert trainer.round(start(run), {}, lesson, place=place()).metrics["loss"] > 0
