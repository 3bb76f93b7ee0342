"""Where fine-tuning starts from: a release that fits the run, known by its encoder's digest."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from confrere_common.config import Run
from confrere_common.encoder import Encoder, build_encoder
from confrere_common.errors import CheckpointError, ConfigError
from confrere_common.model import decoder_names, input_of, outline, task_of
from confrere_common.release import DECODER, load_decoder, load_release
from confrere_common.weights import differing

WITHOUT = "start_decoder: false starts from the encoder alone."


def with_start(run: Run, folder: Path) -> tuple[Run, dict[str, Tensor]]:
    """Return the run with its start's digest in the place of its path, and the shared weights.

    Both are as they were where the run starts from scratch. ConfigError when encoder or decoder is
    another than the run's; CheckpointError when a file is not what the run or its card says.
    """
    task = task_of(run)
    if task is None or task.start is None:
        return run, {}
    path = folder / Path(task.start).expanduser()
    encoder, _ = load_release(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if task.start_digest not in (None, digest):
        raise CheckpointError(
            f"{path.name} has the SHA-256 {digest[:16]}..., and finetune.start_digest is "
            f"{str(task.start_digest)[:16]}...: bring the file that the run was written for."
        )
    _must_be_alike(run, encoder, path.name)
    weights = {f"encoder.{name}": tensor.float() for name, tensor in encoder.state_dict().items()}
    up, its_digest = way_up(run, path)
    known = replace(task, start=None, start_digest=digest, start_decoder_digest=its_digest)
    return replace(run, finetune=known), weights | up


def way_up(run: Run, path: Path) -> tuple[dict[str, Tensor], str | None]:
    """Return what the run's head starts from, and the SHA-256 of the file that holds it.

    It lies beside the encoder at *path*. Nothing and None where the run asks for none; ConfigError
    where it cannot have what it asks for, CheckpointError where that is another than it names.
    """
    task = task_of(run)
    if task is None or not task.start_decoder:
        return {}, None
    model = outline(run)
    names = decoder_names(model)
    if not names or task.head == "local":
        fault = f"task '{task.task.name}' with head: {task.head} has none that travels"
        raise ConfigError([f"finetune.start_decoder: {fault}. {WITHOUT}"])
    given, digest = load_decoder(path)
    if digest is None:
        place = f"{path.parent.name}/{path.name}"
        raise ConfigError([f"finetune.start_decoder: {place} came with none. {WITHOUT}"])
    if task.start_decoder_digest not in (None, digest):
        raise CheckpointError(
            f"the decoder beside {path.name} has the SHA-256 {digest[:16]}..., and "
            f"finetune.start_decoder_digest is {str(task.start_decoder_digest)[:16]}...: bring the "
            "file that the run was written for."
        )
    own = model.state_dict()
    _must_be_as_wide(given, {name: own[place] for name, place in names.items()})
    return {names[name]: tensor.float() for name, tensor in given.items()}, digest


def _must_be_as_wide(given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    odd = differing(given, own)
    if odd:
        there, here = (
            tuple(one[odd[0]].shape) if odd[0] in one else "nothing" for one in (given, own)
        )
        raise ConfigError(
            [
                f"finetune.start_decoder: {DECODER} is of another width or kind than the run's: "
                f"'{odd[0]}' is {there} there, {here} here. Set finetune.task.width (of anomaly, "
                f"bottleneck) to that of its training. {WITHOUT}"
            ]
        )


def _must_be_alike(run: Run, given: Encoder, name: str) -> None:
    channels, size = input_of(run)
    due = build_encoder(run.encoder, channels=channels, size=size).state_dict()
    own = given.state_dict()
    odd = differing(due, own)
    if odd:
        raise ConfigError(
            [
                f"finetune.start: {name} is another encoder than the run's: they differ in "
                f"{len(odd)} weights, first '{odd[0]}'. Write its card's encoder under 'encoder', "
                f"and its channels (now {channels}) under data.channels."
            ]
        )
