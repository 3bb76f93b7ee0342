"""A run -> the module that is trained, and the part of it that travels."""

import torch
from torch import Tensor

from confrere_common.config import Run
from confrere_common.encoder import build_encoder
from confrere_common.errors import ConfigError
from confrere_common.family import Named
from confrere_common.method import METHODS, Method, build_method
from confrere_common.weights import Weights


def input_of(run: Run) -> tuple[int, tuple[int, ...]]:
    """Return channels and voxels along [Z] Y X of an image; ConfigError while they are open."""
    if run.data.channels is None or run.data.dims is None:
        raise ConfigError(["data.channels and data.dims are open: they are settled by the images."])
    return run.data.channels, (run.data.image_px,) * run.data.dims


def build_model(run: Run, seed: int) -> Method:
    """Return a fresh method with its encoder on the CPU; equal seeds give equal weights."""
    channels, size = input_of(run)
    must_suit(run.method, run.encoder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_method(run.method, build_encoder(run.encoder, channels=channels, size=size))


def must_build(method: Named, encoder: Named, *, channels: int, size: tuple[int, ...]) -> None:
    """Raise ConfigError when these give no model; nothing is computed, no memory is taken."""
    must_suit(method, encoder)
    with torch.device("meta"):
        build_method(method, build_encoder(encoder, channels=channels, size=size))


def must_suit(method: Named, encoder: Named) -> None:
    """Raise ConfigError when the method cannot train the encoder."""
    kinds = METHODS.member(method.name).encoder_kinds
    if kinds is not None and encoder.name not in kinds:
        raise ConfigError(
            [
                f"method '{method.name}' cannot train encoder '{encoder.name}': "
                f"choose encoder {' or '.join(kinds)}, or another method."
            ]
        )


def shared_weights(model: Method) -> dict[str, Tensor]:
    """Return copies, on the CPU, of what travels."""
    return {
        name: tensor.detach().to("cpu", copy=True)
        for name, tensor in model.state_dict().items()
        if model.is_shared(name)
    }


def local_weights(model: Method) -> dict[str, Tensor]:
    """Return copies, on the CPU, of what stays at the site."""
    return {
        name: tensor.detach().to("cpu", copy=True)
        for name, tensor in model.state_dict().items()
        if not model.is_shared(name)
    }


@torch.no_grad()
def load_weights(model: Method, weights: Weights) -> None:
    """Copy named tensors into the model in place; names absent from *weights* keep their values."""
    own = model.state_dict()
    for name, tensor in weights.items():
        own[name].copy_(tensor)


def encoder_weights(weights: Weights) -> dict[str, Tensor]:
    """Return the encoder's part of shared weights, under the encoder's own names."""
    start = "encoder."
    return {name[len(start) :]: t for name, t in weights.items() if name.startswith(start)}
