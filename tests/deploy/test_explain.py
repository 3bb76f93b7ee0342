"""Every field of a run is explained, with its value and what it would be by default."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from confrere_client.source import SOURCES
from confrere_common.config import Data, Run
from confrere_common.loading import parse_run
from confrere_common.method import METHODS
from confrere_common.section import documentation, section_fields
from confrere_deploy.explain import explained
from confrere_deploy.families import ALL_FAMILIES
from confrere_deploy.split import SPLITS


def run(**changes: Any) -> Run:
    least = {"name": "least", "data": {"source": "phantom"}, "method": "byol"}
    return parse_run({**least, **changes}, ALL_FAMILIES)


def field_names(section: type) -> Iterator[str]:
    for field in section_fields(section):
        yield field.name
        if hasattr(field.type, "__pydantic_fields__"):
            yield from field_names(field.type)  # type: ignore[arg-type]


def test_every_field_stands_on_a_line_of_its_own_with_its_meaning() -> None:
    lines = explained(run()).splitlines()

    for name in field_names(Run):
        said = [line for line in lines if line.strip().startswith(f"{name}:")]
        assert said, name
        assert all(len(line.split("#", 1)[1].strip()) > 8 for line in said)


def test_a_choice_shows_its_caption_its_knobs_and_what_else_there_is() -> None:
    text = explained(run())

    assert "method: byol    # The self-supervised method" in text
    assert "  # BYOL: a student predicts what its own moving average sees." in text
    assert f"Known: {', '.join(METHODS.names())}" in text
    assert "    momentum: 0.996    # How much of itself the teacher keeps" not in text
    assert "\n  momentum: 0.996    # How much of itself the teacher keeps" in text
    assert "\n    images: 1700    # Images at all sites together." in text


def test_the_texts_of_sources_and_splits_name_all_there_are() -> None:
    told = documentation(Data)

    assert all(re.search(rf"\b{name}\b", told["source"]) for name in SOURCES.names())
    assert all(re.search(rf"\b{name}\b", told["split"]) for name in SPLITS.names())


def test_only_what_was_changed_shows_its_default() -> None:
    text = explained(run(train={"batch": 8}, method={"name": "byol", "momentum": 0.9}))

    shown = [line for line in text.splitlines() if "(default " in line]

    assert [line.split("#")[0].strip() for line in shown] == ["momentum: 0.9", "batch: 8"]
    assert shown[0].endswith("(default 0.996)")
    assert shown[1].endswith("(default 64)")


def test_what_has_no_default_says_so() -> None:
    lines = explained(run()).splitlines()

    assert [line for line in lines if line.startswith("name: least") and "must be given" in line]


def test_what_is_absent_is_not_called_none() -> None:
    text = explained(run())

    assert "steps_per_round: absent    #" in text
    assert "None" not in text


@pytest.mark.parametrize("method", ["byol", "mae", "simclr", "simmim", "simsiam", "vicreg"])
def test_every_method_can_be_explained(method: str) -> None:
    assert f"method: {method}" in explained(run(method=method))
