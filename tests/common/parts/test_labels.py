"""Classes: counted or named, they mean the same at every site."""

import pytest
import torch

from confrere_common.encoder import build_encoder
from confrere_common.errors import ConfigError
from confrere_common.family import Named
from confrere_common.method import METHODS, Method, build_method
from confrere_common.parts.labels import count_of, names_of, numbered

NAMED = tuple(name for name in METHODS.names() if METHODS.member(name).wants == ("label",))


def model_of(method: str, classes: object) -> Method:
    encoder = build_encoder(
        Named(name="resnet", knobs={"width": 8, "groups": 4}), channels=1, size=(16, 16)
    )
    return build_method(Named(name=method, knobs={"classes": classes}), encoder)


@pytest.mark.parametrize("method", NAMED)
def test_names_say_how_many_classes_there_are_as_a_number_does(method: str) -> None:
    named, counted = (model_of(method, classes) for classes in (["a", "b", "c"], 3))

    assert (named.kinds, named.class_names) == (3, ("a", "b", "c"))
    assert (counted.kinds, counted.class_names) == (3, ())
    shapes = [[tensor.shape for tensor in one.state_dict().values()] for one in (named, counted)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("method", NAMED)
@pytest.mark.parametrize(
    "classes", [1, True, 2.5, "benign", [], ["one"], ["a", "a"], ["a", ""], [0, 1], [True, False]]
)
def test_what_names_no_two_classes_is_refused_in_one_sentence(method: str, classes: object) -> None:
    with pytest.raises(ConfigError) as told:
        METHODS.configure(Named(name=method, knobs={"classes": classes}))

    (fault,) = told.value.faults
    assert fault.startswith(f"classes is {classes!r}: give how many classes there are")


def test_a_site_s_own_numbers_become_the_run_s_and_unknown_stays_unknown() -> None:
    labels_B = torch.tensor([1, -1, 0, 1])

    found_B = numbered(labels_B, ("c", "a"), ("a", "b", "c"))

    assert found_B.tolist() == [0, -1, 2, 0]


def test_counted_classes_have_no_names() -> None:
    assert (count_of(4), names_of(4)) == (4, ())
    assert (count_of(("x", "y")), names_of(("x", "y"))) == (2, ("x", "y"))
