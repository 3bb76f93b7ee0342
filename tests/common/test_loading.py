"""A run is loaded whole, or refused with every fault at once; never with a traceback."""

import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from least_run import LEAST

from confrere_common.errors import ConfigError
from confrere_common.loading import dump, override, parse_run, read_run
from confrere_deploy.families import ALL_FAMILIES

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(text: str) -> Path:
        path = tmp_path / "run.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return written


def faults_of(plain: Mapping[str, Any]) -> str:
    with pytest.raises(ConfigError) as fault:
        parse_run(plain, ALL_FAMILIES)
    return "\n".join(fault.value.faults)


def test_a_run_needs_a_name_data_and_a_method_alone() -> None:
    run = parse_run(LEAST, ALL_FAMILIES)

    assert run.federation.rule.name == "mean"
    assert run.train.steps_per_round is run.train.epochs_per_round is None


def test_all_faults_are_told_at_once() -> None:
    wrong = {
        "nam": "x",
        "name": "not a name",
        "seeds": [1, 1],
        "data": {"source": {"name": "phantom", "imagse": 3}, "image_px": "wide", "split": "idd"},
        "encoder": "resnt",
        "train": {"lrr": 1, "steps_per_round": 1, "epochs_per_round": 1, "batch": 0},
        "federation": {"quorum": 2, "rule": "meen", "step": {"name": "adam", "tua": 1}},
    }

    told = faults_of(wrong)

    for due in (
        "unknown key 'nam': did you mean 'name'?",
        "name is 'not a name'",
        "seeds is [1, 1]: one is repeated",
        "data.source: unknown key 'imagse': did you mean 'images'?",
        "data.image_px is 'wide'",
        "data.split: unknown split 'idd': did you mean 'iid'?",
        "encoder: unknown encoder 'resnt': did you mean 'resnet'?",
        "method is missing",
        "train: unknown key 'lrr': did you mean 'lr'?",
        "give steps_per_round or epochs_per_round, not both",
        "train.batch is 0",
        "federation.quorum is 2",
        "federation.rule: unknown rule 'meen': did you mean 'mean'?",
        "federation.step: unknown key 'tua': did you mean 'tau'?",
    ):
        assert due in told, due
    assert len(told.splitlines()) == 14


@pytest.mark.parametrize(
    ("change", "due"),
    [
        ({"method": "simcrl"}, "did you mean 'simclr'?"),
        ({"encoder": "vti"}, "did you mean 'vit'?"),
        ({"data": {"source": "phantm"}}, "did you mean 'phantom'?"),
        ({"data": {"source": "phantom", "split": "dirchlet"}}, "did you mean 'dirichlet'?"),
        ({"federation": {"rule": "medain"}}, "did you mean 'median'?"),
        ({"federation": {"step": "momentun"}}, "did you mean 'momentum'?"),
        ({"augment": {"modality": "histologie"}}, "did you mean 'histology'?"),
        ({"augment": {"changes": {"flip": 1}}}, "did you mean 'flips'?"),
        ({"data": {"source": "npz"}}, "data.source: path is missing: it has no default."),
        ({"data": {}}, "data.source is missing: it has no default."),
        ({"data": None}, "data is None"),
        ({"method": {"momentum": 0.9}}, "give a name, or a mapping with 'name'"),
        ({"method": 3}, "method is 3: give a name"),
        ({"train": 3}, "train is 3"),
        ({"data": {"source": "phantom", "crop_px": "wide"}}, "data.crop_px is 'wide'"),
        ({"data": {"source": "phantom", "crop_px": [8, 8, 4]}}, "data.crop_px.2 is 4"),
        ({"data": {"source": "phantom", "crop_px": [9] * 4}}, "or one for each of [Z] Y X"),
        ({"train": {"lr": float("inf")}}, "train.lr is inf"),
        ({"train": {"lr": 0}}, "train.lr is 0: Input should be greater than 0."),
        ({"train": {"epochs_per_round": float("inf")}}, "train.epochs_per_round is inf"),
        ({"seeds": []}, "seeds is []: name at least one."),
        ({"seeds": [-1]}, "seeds.0 is -1"),
        ({"seeds": [2**63]}, "seeds.0 is 9223372036854775808"),
        ({"data": {"source": "phantom", "seed": -1}}, "data.seed is -1"),
        ({1: 2}, "Keys should be strings"),
        ({"stage": "tune"}, "Input should be 'pretrain', 'finetune' or 'describe'"),
        ({"stage": "finetune"}, "finetune is missing"),
    ],
)
def test_each_fault_is_a_sentence_with_place_and_cure(change: dict[str, Any], due: str) -> None:
    told = faults_of({**LEAST, **change})

    assert due in told
    assert len(told.splitlines()) == 1


def test_the_message_counts_the_faults_and_names_the_file(write: Write) -> None:
    path = write("name: x\n")

    with pytest.raises(ConfigError) as fault:
        read_run(path, families=ALL_FAMILIES)

    assert str(fault.value).startswith(f"{path} has 2 faults:\n  - ")


@pytest.mark.parametrize(
    "text",
    [
        "name: [1",
        "a: b: c",
        "{{}}",
        "\tname: x",
        "name: \x00",
        "when: 2020-13-45",
        "!!python/object:os.system {}",
        "!!int ''",
        "!!bool maybe",
        "[" * 1000,
    ],
)
def test_what_is_not_yaml_is_said_to_be_so(write: Write, text: str) -> None:
    with pytest.raises(ConfigError, match="is not YAML"):
        read_run(write(text))


@pytest.mark.parametrize("text", ["", "[]", "3", "just words", "- name: x"])
def test_yaml_that_is_no_mapping_is_refused(write: Write, text: str) -> None:
    with pytest.raises(ConfigError, match="is not a mapping of sections"):
        read_run(write(text))


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(b"name: \xff\xfe\x00")

    with pytest.raises(ConfigError, match="is not YAML"):
        read_run(path)


def test_a_missing_file_and_a_folder_are_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml.*\n.*No such file"):
        read_run(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="Is a directory"):
        read_run(tmp_path)


def test_overrides_reach_nested_keys_and_knobs_of_a_bare_name(write: Write) -> None:
    path = write(json.dumps(LEAST))
    changes = ["train.lr=3e-4", "method.momentum=0.9", "seeds=[4, 5]", "data.source.images=600"]

    run = read_run(path, changes, ALL_FAMILIES)

    assert run.train.lr == 3e-4
    assert run.method.as_dict() == {"name": "byol", "momentum": 0.9}
    assert run.seeds == (4, 5)
    assert run.data.source.knobs == {"images": 600}


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ("encoder.width=8", "resnet"),
        ("data.split={}", "natural"),
        ("federation.rule={}", "mean"),
        ("federation.step.lr=0.5", "plain"),
    ],
)
def test_a_choice_of_knobs_alone_keeps_the_default_s_name(
    write: Write, change: str, name: str
) -> None:
    place = change.partition("=")[0].removesuffix(".width").removesuffix(".lr")

    run = read_run(write(json.dumps(LEAST)), [change], ALL_FAMILIES)

    found: Any = run
    for key in place.split("."):
        found = getattr(found, key)
    assert found.name == name


def test_knobs_that_the_default_has_not_are_told() -> None:
    told = faults_of({**LEAST, "encoder": {"patch": 8}})

    assert told.startswith("encoder: unknown key 'patch'")


def test_a_choice_without_a_default_still_needs_its_name() -> None:
    assert "give a name" in faults_of({**LEAST, "method": {"momentum": 0.9}})


def test_an_override_of_a_whole_choice_drops_its_knobs() -> None:
    changed = override({"method": {"name": "byol", "momentum": 0.9}}, "method=simclr")

    assert changed == {"method": "simclr"}


def test_an_override_leaves_what_it_was_given_as_it_was() -> None:
    plain = {"train": {"lr": 1}}

    override(plain, "train.lr=2")

    assert plain == {"train": {"lr": 1}}


@pytest.mark.parametrize(
    "text",
    ["", "train.lr", "=3", ".=3", "train.=3", "a..b=1", "seeds.0=3", "x.y=1", "data.source=[1"],
)
def test_an_override_that_cannot_be_meant_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        override({"seeds": [0], "x": 3}, text)


def test_an_override_into_nonsense_is_a_fault_of_the_run(write: Write) -> None:
    with pytest.raises(ConfigError, match="unknown key 'lrr': did you mean 'lr'"):
        read_run(write(json.dumps(LEAST)), ["train.lrr=3"], ALL_FAMILIES)


WORDS = (
    "name data source split method momentum encoder width train lr betas seeds augment changes "
    "flips modality federation rule step quorum"
)
KEYS = st.sampled_from(WORDS.split()) | st.text(max_size=4)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["byol", "phantom", "resnet", "mean"])
    | st.dates()
)
JUNK = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(KEYS | st.integers() | st.none(), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(plain=st.dictionaries(KEYS, JUNK, max_size=6), sound=st.booleans())
def test_junk_of_any_shape_raises_a_config_error_and_nothing_else(
    plain: dict[str, Any], sound: bool
) -> None:
    whole = {**LEAST, **plain} if sound else plain

    with contextlib.suppress(ConfigError):
        run = parse_run(whole, ALL_FAMILIES)
        json.loads(dump(run, ALL_FAMILIES))


@settings(deadline=None, max_examples=40)
@given(text=st.text(max_size=20))
def test_an_override_of_any_text_raises_a_config_error_and_nothing_else(text: str) -> None:
    for written in (text, f"method.{text}", f"train.lr={text}", f"seeds={text}"):
        with contextlib.suppress(ConfigError):
            parse_run(override(LEAST, written), ALL_FAMILIES)
