"""What can be told of a run before anything is done is told at once, whatever else ails it."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from confrere_common.errors import ConfigError
from confrere_deploy.check import checked
from confrere_deploy.engine import ENGINES, must_run
from confrere_deploy.simulate import Options, carry_out

VIT = {"name": "vit", "dim": 24, "depth": 2, "heads": 2, "patch": 8}


def changed(run_file: Path, **sections: Any) -> Path:
    """Return the run's file with some sections changed."""
    plain = yaml.safe_load(run_file.read_text())
    for name, section in sections.items():
        old = plain.get(name)
        merged = isinstance(section, Mapping) and isinstance(old, Mapping)
        plain[name] = {**old, **section} if merged and "name" not in section else section
    run_file.write_text(yaml.safe_dump(plain))
    return run_file


def faults_of(run_file: Path, **options: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        checked(run_file, **options)
    return caught.value.faults


def test_a_sound_run_is_returned(tiny: Path) -> None:
    assert checked(tiny, ["train.lr=0.5"]).train.lr == 0.5


def test_a_patch_that_does_not_divide_the_image_is_told(tiny: Path) -> None:
    changed(tiny, method="mae", encoder={**VIT, "patch": 12})

    (fault,) = faults_of(tiny)

    assert "16 x 16 voxels are no whole number of patches of 12" in fault


def test_the_axes_are_those_of_the_images(tiny: Path) -> None:
    changed(tiny, data={"dims": 3})

    (fault,) = faults_of(tiny)

    assert "data.dims is 3, but the images have 2 axes" in fault


def test_every_kind_of_fault_is_in_one_list(tiny: Path) -> None:
    changed(
        tiny,
        method="mae",
        data={"source": {"name": "npz", "path": "nowhere.npz"}},
        train={"lrr": 1, "device": "gpu"},
        federation={"rule": "meen"},
    )

    told = "\n".join(faults_of(tiny, engine="rya"))

    for due in (
        "'mae' cannot train encoder 'resnet'",
        "there is no file 'nowhere.npz'",
        "train: unknown key 'lrr'",
        "train.device is 'gpu'",
        "did you mean 'mean'",
        "did you mean 'ray'",
    ):
        assert due in told


def test_a_method_that_does_not_fit_is_told_beside_a_size_that_is_none(tiny: Path) -> None:
    changed(tiny, method="mae", data={"image_px": "wide"})

    told = "\n".join(faults_of(tiny))

    assert "data.image_px is 'wide'" in told
    assert "'mae' cannot train encoder 'resnet'" in told


def test_more_sites_than_patients_are_told(tiny: Path) -> None:
    changed(tiny, data={"split": {"name": "iid", "sites": 500}})

    (fault,) = faults_of(tiny)

    assert "data.split asks for 500 sites" in fault


def test_images_none_of_which_can_be_read_are_told(tiny: Path) -> None:
    for number in range(3):
        (tiny.parent / f"{number}.png").write_bytes(b"no image")
    changed(tiny, data={"source": {"name": "folder", "path": "."}, "split": "iid"})

    told = "\n".join(faults_of(tiny))

    assert "none of the first 3 of 3 images can be read" in told


@pytest.mark.parametrize("device", ["meta", "gpu", "cuda:99"])
def test_a_device_that_is_not_here_is_told(tiny: Path, device: str) -> None:
    (fault,) = faults_of(changed(tiny, train={"device": device}))

    assert f"train.device is '{device}'" in fault


def test_missing_ray_is_told_before_anything_is_done(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    run = checked(tiny)
    options = Options(folder=tmp_path, out=tmp_path / "out", engine="ray", resources={})

    (fault,) = faults_of(tiny, engine="ray")
    with pytest.raises(ConfigError, match="needs ray, which is not installed: pip install"):
        carry_out(run, options, console=None)  # type: ignore[arg-type]

    assert "pip install 'confrere[ray]'" in fault
    assert not (tmp_path / "out").exists()


def test_every_engine_says_what_it_needs() -> None:
    for name in ENGINES.names():
        must_run(name)
