"""A dumped run reads back as itself, and its digest changes with any value and nothing else."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from least_run import LEAST

from confrere_common.loading import as_dict, digest, dump, override, parse_run
from confrere_deploy.families import ALL_FAMILIES


def test_a_dumped_run_reads_back_as_itself() -> None:
    spelled = as_dict(parse_run(LEAST, ALL_FAMILIES), ALL_FAMILIES)
    run = parse_run(spelled, ALL_FAMILIES)

    text = dump(run, ALL_FAMILIES)
    again = parse_run(json.loads(text), ALL_FAMILIES)

    assert again == run
    assert dump(again, ALL_FAMILIES) == text
    assert spelled["method"]["momentum"] == 0.996


def test_the_digest_does_not_depend_on_how_a_run_is_written() -> None:
    short = parse_run({**LEAST, "method": "byol"}, ALL_FAMILIES)
    long = parse_run(
        {"train": {}, "method": {"momentum": 0.996, "name": "byol"}, **LEAST}, ALL_FAMILIES
    )

    assert digest(dump(short, ALL_FAMILIES)) == digest(dump(long, ALL_FAMILIES))


def leaves(plain: Any, place: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(plain, dict) or not plain:
        return [place]
    return [leaf for key, value in plain.items() for leaf in leaves(value, (*place, key))]


OTHER: Mapping[str, Any] = {
    "name": "other",
    "stage": "finetune",
    "finetune": {"classes": ["a", "b"]},
    "describe": {"min_cell": 7},
    "seeds": [1],
    "data.source.name": "folder",
    "data.source.modality": "radiograph",
    "data.source.images": 1000,
    "data.source.patients": 100,
    "data.source.sites": 5,
    "data.source.image_px": 32,
    "data.source.dims": 3,
    "data.source.shift": 0.5,
    "data.source.seed": 1,
    "data.image_px": 32,
    "data.channels": 3,
    "data.dims": 3,
    "data.split.name": "iid",
    "data.test_share": 0.5,
    "data.val_share": 0.5,
    "data.seed": 1,
    "encoder.name": "vit",
    "encoder.depth": 34,
    "encoder.width": 32,
    "encoder.groups": 4,
    "encoder.stem": "small",
    "encoder.tensor_train": {"rank": 8},
    "method.name": "simsiam",
    "method.hidden": 64,
    "method.momentum": 0.9,
    "method.out": 64,
    "augment.modality": "ct",
    "augment.changes": {"flips": [0, 0, 0]},
    "train.batch": 32,
    "train.steps_per_round": 3,
    "train.epochs_per_round": 3,
    "train.lr": 0.5,
    "train.weight_decay": 0.5,
    "train.betas": [0.5, 0.5],
    "train.warmup": 0.5,
    "train.clip_norm": None,
    "train.optimizer_state": "reset",
    "train.device": "cpu",
    "train.precision": "float32",
    "train.layerwise": {"stages": [["encoder.stem*"]]},
    "train.compile": True,
    "federation.rounds": 3,
    "federation.cohort": 0.3,
    "federation.quorum": 0.3,
    "federation.min_sites": 3,
    "federation.mixing": ["fedprox"],
    "federation.personal": ["projector.*"],
    "federation.deadline_s": 60.0,
    "federation.rule.name": "median",
    "federation.limits.weight_share": 0.5,
    "federation.limits.norm": 1.0,
    "federation.limits.norm_ratio": None,
    "federation.limits.clip_ratio": 2.0,
    "federation.limits.offences": 1,
    "federation.step.name": "momentum",
    "federation.step.lr": 0.5,
    "federation.keep_checkpoints": 1,
    "privacy": {"epsilon": 8, "delta": 1e-5, "clip_norm": 1.0},
    "secure_aggregation": {},
    "floors": "all",
}
"""Place of every value of a run -> one that it may have instead."""

NEEDED: Mapping[str, Mapping[str, Any]] = {
    "data.source.dims": {"data.source.modality": "ct"},
    "data.source.name": {"data.source": {"name": "folder", "path": "x"}},
    "encoder.name": {"encoder": "vit"},
    "stage": {"finetune": {"classes": ["a", "b"]}},
    "method.name": {"method": "simsiam"},
    "federation.step.name": {"federation.step": "momentum"},
}
"""What must change as well, or instead of a name whose knobs another choice does not have."""


def test_the_table_of_other_values_misses_none() -> None:
    places = {".".join(place) for place in leaves(SPELLED)}

    assert not places - OTHER.keys()


@pytest.mark.parametrize("place", OTHER)
def test_the_digest_changes_with_any_value(place: str) -> None:
    changes = {**NEEDED.get(place, {}), place: OTHER[place]}
    changed: Any = SPELLED
    for where, value in changes.items():
        changed = override(changed, f"{where}={json.dumps(value)}")

    before, after = (dump(parse_run(p, ALL_FAMILIES), ALL_FAMILIES) for p in (SPELLED, changed))

    assert digest(before) != digest(after)


SPELLED = as_dict(parse_run(LEAST, ALL_FAMILIES), ALL_FAMILIES)


def test_a_run_without_crops_is_dumped_as_before_there_were_any() -> None:
    """Its digest ties saved states, approvals and releases to it."""
    whole = parse_run(LEAST, ALL_FAMILIES)
    cut = parse_run({**LEAST, "data": {"source": "phantom", "crop_px": 96}}, ALL_FAMILIES)

    assert "crop_px" not in dump(whole, ALL_FAMILIES)
    assert as_dict(cut)["data"]["crop_px"] == [96]
    assert parse_run(json.loads(dump(cut, ALL_FAMILIES)), ALL_FAMILIES).data.crop_px == (96,)
    assert cut.data.sides(3) == (96, 96, 96)
    assert whole.data.sides(2) == (64, 64)


@pytest.mark.parametrize(
    ("method", "encoder", "place", "knob"),
    [
        ("simmim", "resnet", "method", {"decoder": "unet"}),
        ("resection", "resnet", "method", {"allowed": "mask"}),
        ("simclr", "swin", "encoder", {"tensor_train": {"rank": 2}}),
    ],
)
def test_knobs_that_came_later_stand_in_a_dump_only_where_they_are_used(
    method: str, encoder: str, place: str, knob: dict[str, Any]
) -> None:
    plain: dict[str, Any] = {
        "name": "later", "data": {"source": "phantom"},
        "method": {"name": method}, "encoder": {"name": encoder},
    }  # fmt: skip
    (name,) = knob
    without = json.loads(dump(parse_run(plain, ALL_FAMILIES)))
    plain[place] |= knob
    text = dump(parse_run(plain, ALL_FAMILIES))

    assert name not in without[place]
    assert name in json.loads(text)[place]
    assert dump(parse_run(json.loads(text), ALL_FAMILIES)) == text
