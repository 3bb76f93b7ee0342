"""A section is frozen, strict, and knows what was written under its fields."""

from dataclasses import MISSING, FrozenInstanceError
from typing import Annotated

import pytest
from pydantic import Field, ValidationError

from confrere_common.config import Run
from confrere_common.section import default_of, documentation, section, section_fields
from confrere_deploy.families import ALL_FAMILIES


@section
class Kettle:
    """Boils water."""

    litres: Annotated[float, Field(gt=0)]
    """How much
    water it holds."""

    colour: str = "red"
    silent: bool = False
    """Whether it whistles."""

    lids: tuple[str, ...] = Field(default_factory=lambda: ("steel",))


def sections_within(found: type) -> list[type]:
    inner = [f.type for f in section_fields(found) if hasattr(f.type, "__pydantic_fields__")]
    return [found, *(deep for one in inner for deep in sections_within(one))]  # type: ignore[arg-type]


KNOBS = [family.config(name) for family in ALL_FAMILIES.values() for name in family.names()]


def test_the_string_under_a_field_is_its_documentation() -> None:
    found = documentation(Kettle)

    assert found == {"litres": "How much\nwater it holds.", "silent": "Whether it whistles."}


def test_a_field_without_a_default_says_so() -> None:
    litres, colour, _, lids = section_fields(Kettle)

    assert default_of(litres) is MISSING
    assert default_of(colour) == "red"
    assert default_of(lids) == ("steel",)


def test_a_section_cannot_be_changed() -> None:
    kettle = Kettle(litres=1.0)

    with pytest.raises(FrozenInstanceError):
        kettle.litres = 2.0  # type: ignore[misc]


@pytest.mark.parametrize(
    "given",
    [{}, {"litres": 0}, {"litres": 1, "lid": 2}, {"litres": "much"}, {"litres": float("inf")}],
)
def test_a_section_refuses_what_does_not_fit(given: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Kettle(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize("found", [*sections_within(Run), *KNOBS], ids=lambda one: one.__qualname__)
def test_every_field_that_a_person_may_set_is_documented(found: type) -> None:
    texts = documentation(found)

    bare = [field.name for field in section_fields(found) if not texts.get(field.name)]

    assert not bare
    assert found.__doc__
