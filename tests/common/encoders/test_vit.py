"""The transformer encodes any subset of patches, each at its place."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from confrere_common.encoder import ENCODERS
from confrere_common.encoders.vit import Vit
from confrere_common.errors import ConfigError
from confrere_common.family import Named

SIZES = [(16, 24), (8, 16, 12)]


def tiny(size: tuple[int, ...]) -> Vit:
    torch.manual_seed(0)
    return Vit(Vit.Config(dim=24, depth=2, heads=2, patch=4), channels=2, size=size)


@pytest.fixture(params=SIZES, ids=["2-D", "3-D"], name="vit")
def make(request: pytest.FixtureRequest) -> Vit:
    return tiny(request.param)


@pytest.fixture(name="images_BCZYX")
def images(vit: Vit) -> Tensor:
    return torch.randn(2, 2, *vit.size)


def test_features_are_the_mean_of_the_encoded_tokens(vit: Vit, images_BCZYX: Tensor) -> None:
    tokens_BND = vit.encode(vit.embed(images_BCZYX))

    assert tokens_BND.shape == (2, torch.tensor(vit.grid).prod(), vit.dim)
    torch.testing.assert_close(vit(images_BCZYX), tokens_BND.mean(1))


def test_any_subset_in_any_order_is_encoded_alike(vit: Vit, images_BCZYX: Tensor) -> None:
    tokens_BND = vit.embed(images_BCZYX)
    chosen = torch.randperm(tokens_BND.shape[1])[:5]
    turned = chosen.flip(0)

    encoded_BnD = vit.encode(tokens_BND[:, chosen])

    torch.testing.assert_close(vit.encode(tokens_BND[:, turned]), encoded_BnD.flip(1))


def test_a_hidden_patch_is_not_seen(vit: Vit, images_BCZYX: Tensor) -> None:
    kept = torch.arange(1, vit.embed(images_BCZYX).shape[1])
    changed_BCZYX = images_BCZYX.clone()
    changed_BCZYX[(..., *(slice(4),) * len(vit.size))] += 7

    before = vit.encode(vit.embed(images_BCZYX)[:, kept])

    torch.testing.assert_close(vit.encode(vit.embed(changed_BCZYX)[:, kept]), before)


def test_tokens_and_maps_lie_where_their_patches_lie(vit: Vit, images_BCZYX: Tensor) -> None:
    place = (*(cells - 1 for cells in vit.grid[:-1]), 1)
    changed_BCZYX = images_BCZYX.clone()
    changed_BCZYX[(..., *(slice(4 * at, 4 * at + 4) for at in place))] += 1

    moved_BND = vit.embed(changed_BCZYX) - vit.embed(images_BCZYX)

    moved_BZYX = moved_BND.norm(dim=2).reshape(2, *vit.grid)
    assert (moved_BZYX[0] > 1e-4).nonzero().tolist() == [list(place)]


def test_the_coarsest_map_holds_the_encoded_tokens(vit: Vit, images_BCZYX: Tensor) -> None:
    coarsest_BDZYX = vit.maps(images_BCZYX)[-1]

    assert coarsest_BDZYX.shape == (2, vit.dim, *vit.grid)
    tokens_BND = vit.encode(vit.embed(images_BCZYX))
    torch.testing.assert_close(coarsest_BDZYX.flatten(2).transpose(1, 2), tokens_BND)


def test_the_order_of_patches_matters_through_their_positions(vit: Vit) -> None:
    alike_BCZYX = torch.zeros(1, 2, *vit.size)

    tokens_ND = vit.embed(alike_BCZYX)[0]

    assert torch.cdist(tokens_ND, tokens_ND).fill_diagonal_(1).min() > 1e-2


def test_a_block_is_pytorch_s_transformer_layer(vit: Vit, images_BCZYX: Tensor) -> None:
    block = vit.blocks[0]
    theirs = nn.TransformerEncoderLayer(
        24, 2, 96, dropout=0.0, activation="gelu", layer_norm_eps=1e-6, batch_first=True,
        norm_first=True,
    )  # fmt: skip
    pairs = {
        "self_attn.in_proj_": "query_key_value.", "self_attn.out_proj.": "attended.",
        "linear1.": "perceptron.0.", "linear2.": "perceptron.2.",
        "norm1.": "before_attention.", "norm2.": "before_perceptron.",
    }  # fmt: skip
    state = block.state_dict()
    theirs.load_state_dict(
        {a + end: state[b + end] for a, b in pairs.items() for end in ("weight", "bias")}
    )
    tokens_BND = vit.embed(images_BCZYX)

    torch.testing.assert_close(block(tokens_BND), theirs(tokens_BND), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "patch"),
    [((28, 28), 4), ((32, 32), 8), ((96, 96), 8), ((112, 96), 16), ((224, 224), 16),
     ((16, 16, 16), 4), ((64, 64, 64), 8), ((32, 96, 96), 16)],
)  # fmt: skip
def test_patches_grow_with_the_images_if_nothing_is_said(size: tuple[int, ...], patch: int) -> None:
    vit = Vit(Vit.Config(dim=24, depth=1), channels=1, size=size)

    assert vit.patch == patch
    assert vit.grid == tuple(side // patch for side in size)


@pytest.mark.parametrize(
    ("name", "count"), [("tiny", 5_486_400), ("small", 21_589_632), ("base", 85_646_592)]
)
def test_has_as_many_parameters_as_the_published_network(name: str, count: int) -> None:
    with torch.device("meta"):
        vit = Vit(Vit.Config(size=name), channels=3, size=(224, 224))

    assert sum(weight.numel() for weight in vit.parameters()) == count


@given(depth=st.integers(1, 7))
@settings(deadline=None, max_examples=5)
def test_maps_come_from_three_depths_whatever_the_depth(depth: int) -> None:
    vit = Vit(Vit.Config(dim=8, depth=depth, heads=1, patch=4), channels=1, size=(8, 8))

    fine, middle, coarse = vit.maps(torch.randn(1, 1, 8, 8))

    assert (fine.shape[2:], middle.shape[2:], coarse.shape[2:]) == ((8, 8), (4, 4), (2, 2))
    assert vit.map_strides == (1, 2, 4)


def test_says_how_to_mend_images_that_patches_do_not_fill() -> None:
    with pytest.raises(ConfigError, match="64 x 60 voxels") as fault:
        Vit(Vit.Config(), channels=1, size=(64, 60))

    assert "patches of 8" in str(fault.value)
    assert "64 x 64" in str(fault.value)
    assert "encoder.patch" in str(fault.value)


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"dim": 100, "heads": 3}, "heads is 3: 100 features cannot be shared evenly"),
        ({"dim": 200}, "set heads to a divisor of 200"),
        ({"patch": 7}, "patch is 7"),
        ({"size": "huge"}, "'tiny', 'small' or 'base'"),
        ({"size": "huge", "heads": 5}, "'tiny', 'small' or 'base'"),
    ],
)
def test_says_which_knob_is_wrong(knobs: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as fault:
        ENCODERS.configure(Named(name="vit", knobs=knobs))

    assert said in str(fault.value)
    assert len(fault.value.faults) == 1
