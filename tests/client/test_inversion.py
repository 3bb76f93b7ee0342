"""Can images be read from what a site sends? Where nothing is defended yes, so the attack is sound.

An MAE with *learned* positions gives away one gradient for each patch it saw; from these and the
gradient of the patch projection follow the patches themselves, by least squares, without a single
guess (after APRIL, https://arxiv.org/abs/2112.14087). Confrere's positions are fixed for that
reason among others. A failure of this attack is no proof of safety; its success is one of danger.

Shapes: B images, n seen patches, P voxels of a patch, D features.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import torch
from private_steps import private, private_run, step
from tiny_runs import SIDE, Noise
from torch import Tensor, nn

import confrere_client.privacy.private as module
from confrere_client.privacy.gradients import trained
from confrere_client.train import Place, Trainer
from confrere_common.augment.pipeline import normalise
from confrere_common.config import Run
from confrere_common.family import Named
from confrere_common.method import Method
from confrere_common.model import build_model, shared_weights
from confrere_common.parts.masking import patchify
from confrere_common.privacy.mechanism import Draw, noised
from confrere_common.weights import Weights, subtract

PATCH = (4, 4)
LEARNED = "encoder.positions_ND"


def picture(seed: int = 0) -> Tensor:
    """Return a smooth stored image of blobs, (1, 1, SIDE, SIDE)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 1, 4, 4, generator=generator)
    smooth = nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bicubic").clamp(0, 1)
    return (255 * smooth).to(torch.uint8)


def mae_run(**privacy: float | str) -> Run:
    knobs = {"dim": 24, "depth": 2, "heads": 2, "patch": PATCH[0]}
    return replace(private_run("mae", **privacy), encoder=Named(name="vit", knobs=knobs))


def with_learned_positions(model: Method) -> Method:
    positions_ND = model.encoder.positions_ND
    del model.encoder._buffers["positions_ND"]
    model.encoder.positions_ND = nn.Parameter(positions_ND.clone())  # type: ignore[assignment]
    return model


def unvaried(images_BCYX: Tensor, _: torch.Generator) -> Tensor:
    return normalise(images_BCYX)


def read_patches(gradient: Mapping[str, Tensor]) -> Tensor:
    """Return what least squares makes of a gradient: a guess of every patch, (N, P)."""
    by_place_ND = gradient[LEARNED].double()
    by_weight_DP = gradient["encoder.project.weight"].double().flatten(1)
    return torch.linalg.lstsq(by_place_ND.T, by_weight_DP, driver="gelsd").solution


def read_mean_patch(gradient: Mapping[str, Tensor]) -> Tensor:
    """Return the one patch that fixed positions leave to be read, by the bias, for every place."""
    by_bias_D = gradient["encoder.project.bias"].double()
    by_weight_DP = gradient["encoder.project.weight"].double().flatten(1)
    one_P = by_bias_D @ by_weight_DP / by_bias_D.square().sum().clamp(min=1e-30)
    return one_P.expand((SIDE // PATCH[0]) ** 2, -1)


def psnr(guess_NP: Tensor, truth_NP: Tensor, seen_N: Tensor) -> float:
    """Return the quality of the best-read half of the patches that were seen, in dB.

    The scale is that of normalised intensities, which span 4; a guess out of range is cut to it.
    """
    apart_n = (guess_NP.clamp(-2, 2) - truth_NP.double()).square().mean(1)[seen_N]
    best = apart_n.sort().values[: max(1, len(apart_n) // 2)]
    return float(10 * torch.log10(16 / best.mean().clamp(min=1e-12)))


@pytest.fixture
def truth_NP() -> Tensor:  # noqa: N802
    return patchify(normalise(picture()), PATCH)[0]


def plain_gradient(model: Method, images: Tensor) -> Mapping[str, Tensor]:
    own = trained(model)
    views = model.views(images, unvaried, torch.Generator().manual_seed(1))
    found = torch.autograd.grad(model.losses(*views).mean(), list(own.values()))
    return dict(zip(own, found, strict=True))


def seen_by(gradient: Mapping[str, Tensor]) -> Tensor:
    """Return which patches left a trace: the others' positions have no gradient at all."""
    return gradient[LEARNED].abs().amax(1) > 0


def floor(truth_NP: Tensor, seen_N: Tensor) -> float:
    """Return what is reached without the gradient: every patch is the mean of all images."""
    mean = torch.stack([normalise(picture(seed)).mean() for seed in range(100, 120)]).mean()
    return psnr(mean.expand_as(truth_NP).double(), truth_NP, seen_N)


def test_with_all_defences_off_an_image_is_read_from_its_gradient(truth_NP: Tensor) -> None:
    gradient = plain_gradient(with_learned_positions(build_model(mae_run(), seed=0)), picture())

    seen_N = seen_by(gradient)

    assert psnr(read_patches(gradient), truth_NP, seen_N) > 30
    assert psnr(read_patches(gradient), truth_NP, seen_N) > floor(truth_NP, seen_N) + 15


def silent(sums: Weights, deviation: float, draw: Draw) -> Weights:  # noqa: ARG001
    return sums


def private_gradient(
    monkeypatch: pytest.MonkeyPatch, noise: Callable[..., Weights]
) -> Mapping[str, Tensor]:
    """Return what the real private step gives of one patient, whose positions are learned."""
    monkeypatch.setattr(module, "noised", noise)
    made = private(mae_run(clip_norm=0.1, patients_per_step=1), [0], augment=unvaried)
    with_learned_positions(made.model)
    return step(made, Noise(picture()))


def test_clipping_alone_hides_nothing(monkeypatch: pytest.MonkeyPatch, truth_NP: Tensor) -> None:
    gradient = private_gradient(monkeypatch, silent)

    assert psnr(read_patches(gradient), truth_NP, seen_by(gradient)) > 30


def test_the_noise_of_the_private_step_hides_the_image(
    monkeypatch: pytest.MonkeyPatch, truth_NP: Tensor
) -> None:
    seen_N = seen_by(private_gradient(monkeypatch, silent))

    gradient = private_gradient(monkeypatch, noised)

    assert psnr(read_patches(gradient), truth_NP, seen_N) <= floor(truth_NP, seen_N) + 3


@pytest.mark.parametrize("seed", range(3))
def test_what_a_site_sends_by_default_gives_no_image_to_this_attack(seed: int) -> None:
    """The shipped defaults: fixed positions, many images a step, several steps of AdamW."""
    run = replace(mae_run(), privacy=None)
    run = replace(run, train=replace(run.train, batch=16, steps_per_round=5))
    images = torch.cat([picture(100 * seed + one) for one in range(16)])
    trainer = Trainer(run)
    trainer.augment = unvaried  # type: ignore[assignment]
    weights = shared_weights(build_model(run, seed=0))
    place = Place(site="north", round=1, seed=seed)

    sent = subtract(trainer.round(weights, {}, Noise(images), place=place).weights, weights)

    assert LEARNED not in sent
    every = torch.ones((SIDE // PATCH[0]) ** 2, dtype=torch.bool)
    truths = [patchify(normalise(image[None]), PATCH)[0] for image in images]
    read = [psnr(read_mean_patch(sent), truth_NP, every) for truth_NP in truths]
    due = [floor(truth_NP, every) for truth_NP in truths]
    assert sum(read) / len(read) <= sum(due) / len(due) + 3
