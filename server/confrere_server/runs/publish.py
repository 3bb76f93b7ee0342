"""What a finished run leaves: the encoder, its card, its rounds, and a seal over all of them."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from confrere_common.code import code_digest
from confrere_common.config import Run
from confrere_common.errors import PrivacyError
from confrere_common.family import Named
from confrere_common.judged import evaluation_of
from confrere_common.model import (
    decoder_weights,
    input_of,
    objective_of,
    preprocessing_of,
    task_of,
    whole_encoder,
)
from confrere_common.network import save_network
from confrere_common.preparation import demanded
from confrere_common.privacy.terms import epsilon_of
from confrere_common.release import DECODER, Card, save_release
from confrere_common.storage import atomic_write
from confrere_server.description.collecting import FILE as DESCRIPTION
from confrere_server.description.collecting import (
    as_json,
    asked_of,
    kept_in,
    put_together,
)
from confrere_server.description.sharing import among, shared_in
from confrere_server.membership.seal import seal
from confrere_server.membership.workspace import Workspace
from confrere_server.runs.choosing import course_of
from confrere_server.runs.judging import FILE as EVALUATION
from confrere_server.runs.judging import summed
from confrere_server.runs.queue import Folder
from confrere_server.store import ServerState

ENCODER, CARD = "encoder.safetensors", "encoder.json"
NETWORK, TASK = "task.safetensors", "task.json"
ROUNDS, RELEASE = "rounds.json", "release.json"

TRAINED = (ENCODER, CARD, DECODER, NETWORK, TASK)
"""What a training leaves, of a federation or simulated: an encoder, its card, the decoder if there
is one, and of a fine-tuning the whole network and the run that made it."""

LEFT = (*TRAINED, EVALUATION, DESCRIPTION, ROUNDS)
"""Every file that a run of any stage may leave under its seal; which of them it left, that says.

Whoever copies goes by the seal, and whoever makes room for another run's files by this."""


def publish(
    workspace: Workspace, folder: Folder, state: ServerState, heads: Mapping[str, tuple[int, str]]
) -> None:
    """Write encoder and card, or what sites told, rounds, and the sealed ``release.json``.

    *state* is the last one, with the weights to publish: those of the best round, where one was
    chosen.
    """
    order = folder.order
    run = order.parsed()
    best = course_of(folder).chosen if run.stage == "finetune" else None
    training = {
        "study": workspace.config.study,
        "run": order.id,
        "digest": order.digest,
        "code": code_digest(),
        "rounds": state.round,
        **({"best_round": best} if best is not None else {}),
        "method": objective_of(run).name or run.stage,
        "warm_start": order.warm_start,
        # Asked of every site; what each one told of its terms stands with the site, and what its
        # patients were charged in its own ledger.
        "privacy": asdict(run.privacy) if run.privacy is not None else None,
        "secure_aggregation": run.secure_aggregation is not None,
        "void_rounds": sum(1 for record in state.records if record.void),
        "sites": _sites(state, folder.standing.sites if run.privacy is not None else {}),
    }
    files_of = _description if run.stage == "describe" else _encoder
    names = (*files_of(folder, run, state, training), ROUNDS)
    rounds = [{**record.as_dict(), "loss": record.loss} for record in state.records]
    atomic_write(folder.path / ROUNDS, json.dumps(rounds, indent=1).encode())
    files = {name: _sha256(folder.path / name) for name in names}
    length, head = workspace.chain().head()
    release = {
        **training,
        "files": files,
        "heads": {site: {"length": n, "head": h} for site, (n, h) in heads.items()},
        "server_head": {"length": length, "head": head},
    }
    sealed = seal("release", release, workspace.signing_key())
    atomic_write(folder.path / RELEASE, sealed)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:  # not read as a whole: it may be a model
        return hashlib.file_digest(file, "sha256").hexdigest()


def _encoder(
    folder: Folder, run: Run, state: ServerState, training: Mapping[str, Any]
) -> tuple[str, ...]:
    channels, size = input_of(run)
    network = save_network(folder.path, run, state.weights) if task_of(run) is not None else {}
    card = Card(
        encoder=Named(name=run.encoder.name, knobs=dict(run.encoder.knobs)),
        channels=channels,
        size=size,
        preprocessing=preprocessing_of(run, demanded(run.data.preparation)),
        training=training,
        network=network,
    )
    whole, way_up = whole_encoder(run, state.weights), decoder_weights(run, state.weights)
    names = save_release(folder.path / ENCODER, whole, card, way_up)
    return *names, *network, *_scores(folder, run)


def _scores(folder: Folder, run: Run) -> tuple[str, ...]:
    """Write how the sites scored a fine-tuning, where it asked for that."""
    if evaluation_of(run) is None:
        return ()
    found = json.dumps(summed(folder.path, run), indent=1, allow_nan=False)
    atomic_write(folder.path / EVALUATION, found.encode())
    return (EVALUATION,)


def _description(
    folder: Folder, run: Run, state: ServerState, _: Mapping[str, Any]
) -> tuple[str, ...]:
    told = put_together(run, state, kept_in(folder.path))
    sharing = among(shared_in(folder.path), [*told])
    atomic_write(folder.path / DESCRIPTION, as_json(told, asked_of(run), sharing))
    return (DESCRIPTION,)


def _sites(state: ServerState, told: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return each site's images, the rounds in which it had a part, and its terms of privacy."""
    sites: dict[str, dict[str, Any]] = {}
    for record in state.records:
        for site in record.sites:
            if not site.refused:
                known = sites.setdefault(site.site, {"site": site.site, "images": 0, "rounds": 0})
                known["images"] = site.images
                known["rounds"] += 1
    for name, known in sites.items():
        if privacy := told.get(name, {}).get("privacy"):
            known["privacy"] = dict(privacy)
            with suppress(PrivacyError):  # a site's word: what cannot be reckoned is left out
                known["privacy"]["epsilon"] = epsilon_of(privacy, known["rounds"])
    return [sites[name] for name in sorted(sites)]
