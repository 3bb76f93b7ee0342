"""Where fine-tuning starts from: a release that fits the run, known by its encoder's digest."""

import hashlib
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from confrere_common.config import Run
from confrere_common.encoder import Encoder, build_encoder
from confrere_common.errors import CheckpointError, ConfigError
from confrere_common.model import input_of, outline, task_of
from confrere_common.parts.decoder import Decoder
from confrere_common.release import DECODER, load_decoder, load_release


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
    weights |= way_up(run, path)
    return replace(run, finetune=replace(task, start=None, start_digest=digest)), weights


def way_up(run: Run, path: Path) -> dict[str, Tensor]:
    """Return what the run's decoder starts from, of the release whose encoder lies at *path*.

    Empty where the release has none, or the run has none that travels or wants none. ConfigError
    when they are of different widths.
    """
    task = task_of(run)
    if task is None or not task.start_decoder or task.head == "local":
        return {}
    parts = dict(outline(run).named_children())
    head = next((name for name, part in parts.items() if isinstance(part, Decoder)), None)
    if head is None:
        return {}
    given, due = load_decoder(path), parts[head].state_dict()
    for name, tensor in given.items():
        if name not in due or due[name].shape != tensor.shape:
            shape = tuple(due[name].shape) if name in due else "nothing"
            raise ConfigError(
                [
                    f"finetune.start: {DECODER} is of another width than the run's: '{name}' is "
                    f"{tuple(tensor.shape)} there, {shape} here. Set finetune.task.width to that "
                    "of its training, or start_decoder: false to start from the encoder alone."
                ]
            )
    return {f"{head}.{name}": tensor.float() for name, tensor in given.items()}


def _must_be_alike(run: Run, given: Encoder, name: str) -> None:
    channels, size = input_of(run)
    due = build_encoder(run.encoder, channels=channels, size=size).state_dict()
    own = given.state_dict()
    odd = sorted(
        key for key in due.keys() | own.keys()
        if key not in due or key not in own or due[key].shape != own[key].shape
    )  # fmt: skip
    if odd:
        raise ConfigError(
            [
                f"finetune.start: {name} is another encoder than the run's: they differ in "
                f"{len(odd)} weights, first '{odd[0]}'. Write its card's encoder under 'encoder', "
                f"and its channels (now {channels}) under data.channels."
            ]
        )
