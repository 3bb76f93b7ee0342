"""A run -> the module that is trained, and the part of it that travels."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from confrere_common.among import among_others, must_mix
from confrere_common.augment.pipeline import CROPPED, PREPROCESSING
from confrere_common.config import Run
from confrere_common.encoder import Encoder, build_encoder
from confrere_common.errors import CheckpointError, ConfigError
from confrere_common.family import Named
from confrere_common.finetune import Finetune
from confrere_common.method import METHODS, Method, build_method
from confrere_common.parts.decoder import Decoder
from confrere_common.parts.lora import folded
from confrere_common.preparation import reproducible
from confrere_common.task import UNKNOWN_CLASSES, build_task
from confrere_common.weights import Weights


def input_of(run: Run) -> tuple[int, tuple[int, ...]]:
    """Return channels and voxels along [Z] Y X of an image; ConfigError while they are open."""
    if run.data.channels is None or run.data.dims is None:
        raise ConfigError(
            [
                "data.channels and data.dims are open: images settle them where there are some; "
                "write them into a run for others' images."
            ]
        )
    return run.data.channels, run.data.sides(run.data.dims)


def preprocessing_of(run: Run, prepared: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
    """Return what the card of the run's encoder says of its input.

    *prepared*: how the images came to be before, as a prepared data set, or the run that demands it
    of every site, has it.
    """
    own = PREPROCESSING if run.data.crop_px is None else CROPPED
    return {**own, **({"prepared": reproducible(prepared)} if prepared else {})}


def build_model(run: Run, seed: int) -> Method:
    """Return a fresh method, or a task where the run fine-tunes, with its encoder on the CPU.

    Equal seeds give equal weights.
    """
    channels, size = input_of(run)
    if run.stage == "pretrain":
        must_suit(run.method, run.encoder)
    must_mix(run)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = build_encoder(run.encoder, channels=channels, size=size)
        return among_others(_objective(run, encoder), run)


def _objective(run: Run, encoder: Encoder) -> Method:
    task = task_of(run)
    return build_method(run.method, encoder) if task is None else build_task(task, encoder)


def task_of(run: Run) -> Finetune | None:
    """Return what a run fine-tunes for; None where it pre-trains."""
    return run.finetune if run.stage == "finetune" else None


def objective_of(run: Run) -> Named:
    """Return what is trained: the method, or the task of a run that fine-tunes."""
    task = task_of(run)
    return run.method if task is None else task.task


def must_build_whole(run: Run) -> None:
    """Raise ConfigError when the run gives no model; nothing is computed, no memory is taken."""
    outline(run)


def outline(run: Run) -> Method:
    """Return the run's model without values: nothing is computed, no memory is taken."""
    if run.stage == "pretrain":
        must_suit(run.method, run.encoder)
    must_mix(run)
    channels, size = input_of(run)
    task = task_of(run)
    if task is not None and task.classes is None:  # how many there are, only the images tell
        run = replace(run, finetune=replace(task, classes=UNKNOWN_CLASSES))
    with torch.device("meta"):
        encoder = build_encoder(run.encoder, channels=channels, size=size)
        return among_others(_objective(run, encoder), run)


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


def first_weights(run: Run, seed: int, warm: Weights) -> dict[str, Tensor]:
    """Return the shared weights of a run before its first round: *warm* where that has them.

    What stays at the sites they begin with themselves. CheckpointError when *warm* names what the
    run's model has not: it would be dropped without a word.
    """
    model = build_model(run, seed)
    odd = sorted(warm.keys() - model.state_dict().keys())
    if odd:
        raise CheckpointError(
            f"the weights to start from are of another model: {len(odd)} of their "
            f"{len(warm)} names are not in it, first {odd[0]!a:.80}. Submit the run again with "
            "the release that it should start from."
        )
    fresh = shared_weights(model)
    return fresh | {name: tensor.float() for name, tensor in warm.items() if name in fresh}


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
    """Return the encoder's part of shared weights, under a plain encoder's own names."""
    start = "encoder."
    own = {name[len(start) :]: t for name, t in weights.items() if name.startswith(start)}
    return folded(own)


def decoder_names(model: Method) -> dict[str, str]:
    """Return what a model has for a release beside its encoder: name there -> name in the model.

    That is a U-Net's way up without its last layer, as what that tells apart are the run's own
    classes; or what the model says it is (``Method.beside``). Empty where there is neither.
    """
    for start, part in model.named_children():
        if isinstance(part, Decoder):
            names = (name for name in part.state_dict() if not name.startswith("out."))
            return {name: f"{start}.{name}" for name in names}
    return {
        f"{place.rpartition('.')[2]}.{name}": f"{place}.{name}"
        for place in model.beside
        for name in model.get_submodule(place).state_dict()
    }


def decoder_weights(run: Run, weights: Weights) -> dict[str, Tensor]:
    """Return what a release holds beside the encoder, under the names of ``decoder_names``.

    Empty where nothing of the kind is trained, or where any of it stays at the sites.
    """
    names = decoder_names(outline(run))
    if any(own not in weights for own in names.values()):
        return {}
    return {name: weights[own].float() for name, own in names.items()}


def whole_encoder(run: Run, weights: Weights) -> dict[str, Tensor]:
    """Return the encoder for a release: what the sites keep to themselves has its initial values.

    Those are of the run's first seed.
    """
    initial: Weights = {}
    if run.federation.personal or run.federation.mixing:
        initial = build_model(run, run.seeds[0]).state_dict()
    return encoder_weights({**initial, **weights})
