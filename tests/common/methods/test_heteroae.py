"""What normal images do not foretell scores high, and the encoder cannot move its own targets.

Shapes: B images, C channels, [Z] Y X voxels (Z only in 3-D).
"""

import pytest
import torch
from torch import Tensor

from confrere_common.encoder import build_encoder
from confrere_common.family import Named
from confrere_common.methods.heteroae import Heteroae, unlike, unusual, usual_of

KNOBS = {
    "resnet": {"width": 8, "groups": 4, "stem": "small"},
    "swin": {"dim": 8, "depths": [1, 1, 1], "window": 4},
    "vit": {"dim": 24, "depth": 3, "heads": 2, "patch": 8},
}


def build(kind: str = "resnet", size: tuple[int, ...] = (32, 32), **knobs: object) -> Heteroae:
    torch.manual_seed(0)
    encoder = build_encoder(Named(name=kind, knobs=KNOBS[kind]), channels=1, size=size)
    return Heteroae(Heteroae.Config(**{"bottleneck": 8, **knobs}), encoder)  # type: ignore[arg-type]


HOLE = (..., slice(12, 17), slice(12, 17))


def balls(count: int, seed: int, odd: bool = False) -> Tensor:
    """Return images of bright discs of several sizes; odd ones have a hole."""
    generator = torch.Generator().manual_seed(seed)
    line = torch.linspace(-1, 1, 32)
    apart = torch.stack(torch.meshgrid(line, line, indexing="ij")).norm(dim=0)
    radius = 0.5 + 0.3 * torch.rand(count, 1, 1, 1, generator=generator)
    images = 1.5 * (apart < radius).float() - 0.7
    if odd:
        images[HOLE] = -0.7
    return images + 0.05 * torch.randn(images.shape, generator=generator)


@pytest.mark.parametrize("size", [(32, 32), (24, 40), (16, 16, 16)], ids=str)
@pytest.mark.parametrize("kind", KNOBS)
def test_gives_a_map_for_each_image(kind: str, size: tuple[int, ...]) -> None:
    method = build(kind, size)
    images = torch.randn(3, 1, *size)

    maps = method.anomaly_maps(images)

    assert maps.shape == (3, 1, *size)
    assert (maps >= -1e-5).all()


def test_exact_foresight_has_no_loss_and_no_anomaly() -> None:
    method = build()
    pairs = method.foretold(torch.randn(2, 1, 32, 32))
    method.foretold = lambda _: [(due, due) for _, due in pairs]  # type: ignore[method-assign]

    assert method.losses(torch.randn(2, 1, 32, 32)).tolist() == pytest.approx([0, 0], abs=1e-5)
    assert method.anomaly_maps(torch.randn(2, 1, 32, 32)).abs().max() < 1e-4


def test_loss_is_the_weighted_sum_of_both_terms_over_all_maps() -> None:
    method = build(cosine=0.25)
    images = torch.randn(2, 1, 32, 32)
    due = 0.0
    for guess, real in method.foretold(images):
        cosine = torch.cosine_similarity(guess[0], real[0], dim=0).mean()
        due += 0.25 * (1 - cosine) + 0.75 * (guess[0] - real[0]).square().mean()

    torch.testing.assert_close(method.losses(images)[0], torch.as_tensor(due))


def test_targets_take_no_gradient() -> None:
    method = build()

    pairs = method.foretold(torch.randn(2, 1, 32, 32))

    assert all(guess.requires_grad and not real.requires_grad for guess, real in pairs)


def test_the_coarsest_map_is_all_that_the_decoder_sees() -> None:
    method = build()
    maps = method.encoder.maps(torch.randn(2, 1, 32, 32))
    other = (*(torch.randn_like(one) for one in maps[:-1]), maps[-1])

    method.encoder.maps = lambda _: maps  # type: ignore[method-assign]
    before = method.foretold(maps[0])
    method.encoder.maps = lambda _: other  # type: ignore[method-assign]
    after = method.foretold(maps[0])

    for (one, _), (two, _) in zip(before, after, strict=True):
        assert torch.equal(one, two)


def trained(steps: int) -> Heteroae:
    method = build()
    optimizer = torch.optim.AdamW(method.parameters(), lr=2e-3)
    for step in range(steps):
        optimizer.zero_grad()
        method.losses(balls(8, step)).mean().backward()
        optimizer.step()
    return method


def test_odd_images_score_higher_where_they_are_odd_and_features_do_not_collapse() -> None:
    before = build()
    method = trained(70)
    normal, odd = balls(16, 998), balls(16, 999, odd=True)

    plain, holed = (method.anomaly_maps(images)[HOLE].mean() for images in (normal, odd))
    worst, usual = (method.anomaly_maps(images).flatten(1).amax(1) for images in (odd, normal))

    assert holed > 2 * plain
    assert (worst[:, None] > usual).float().mean() > 0.9
    spreads = [one.encoder.maps(normal)[1].std(0).mean() for one in (before, method)]
    assert spreads[1] > 0.3 * spreads[0]


def maps_of(count: int, seed: int, level: float = 1.0) -> Tensor:
    """Return anomaly maps whose errors vary by a factor about *level*, more on the right."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.linspace(0.1, 0.5, 8)
    return level * (spread * torch.randn(count, 1, 8, 8, generator=generator)).exp()


def test_what_is_foretold_too_well_is_unusual_and_scores_no_higher_by_its_error() -> None:
    usual = usual_of(maps_of(200, 0))
    normal, smooth = maps_of(50, 1), maps_of(50, 2, level=0.5)

    plain = [maps.flatten(1).amax(1) for maps in (normal, smooth)]
    both = [unlike(maps, usual) for maps in (normal, smooth)]

    assert plain[1].mean() < plain[0].mean()
    assert both[1].mean() > 1.5 * both[0].mean()


@pytest.mark.parametrize(("level", "side"), [(2.0, "more"), (0.5, "less")])
def test_a_side_counts_what_lies_on_it(level: float, side: str) -> None:
    usual, odd = usual_of(maps_of(200, 0)), maps_of(50, 1, level)

    found = {one: float(unusual(odd, usual, one).mean()) for one in ("more", "less", "both")}  # type: ignore[arg-type]

    assert found[side] > 1
    assert found["both"] >= found[side]
    assert found["more"] == pytest.approx(-found["less"])


def test_deviations_of_normal_images_are_those_of_a_standard_normal() -> None:
    found = unusual(maps_of(400, 1), usual_of(maps_of(400, 0)), "more")

    assert float(found.mean()) == pytest.approx(0, abs=0.05)
    assert float(found.std()) == pytest.approx(0.9, abs=0.1)  # spreads are enlarged by a tenth


def test_a_site_s_own_scale_of_errors_does_not_matter() -> None:
    one, other = maps_of(50, 1), 3 * maps_of(50, 1)

    found = [
        unusual(maps, usual_of(maps_of(200, 0, level)))
        for maps, level in ((one, 1.0), (other, 3.0))
    ]

    torch.testing.assert_close(found[0], found[1], rtol=1e-2, atol=1e-2)


def test_places_that_never_vary_are_not_made_much_of() -> None:
    flat = torch.ones(50, 1, 8, 8) + 1e-4 * torch.rand(50, 1, 8, 8)
    flat[..., 4:] = maps_of(50, 0)[..., 4:]

    found = unusual(flat + 1e-3, usual_of(flat))

    assert float(found[..., :4].max()) < 0.1


def test_maps_that_are_all_exact_are_usual() -> None:
    exact = torch.zeros(4, 1, 8, 8)

    assert not unusual(exact, usual_of(exact)).any()
    assert not unlike(exact, usual_of(exact)).any()


def test_what_lies_on_the_other_side_is_no_merit() -> None:
    usual, rough = usual_of(maps_of(200, 0)), maps_of(50, 1, level=3.0)

    assert (unlike(rough, usual, "less") >= 0).all()
    assert unlike(rough, usual, "less").mean() < unlike(maps_of(50, 2), usual, "less").mean()
